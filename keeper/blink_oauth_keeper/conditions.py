"""What a flight is given, and what a flight is."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any

from attrs import frozen

from .freshness import Need
from .profile import TargetProfile
from .steps import Landing, Step

__all__ = ["Conditions", "Protocol"]

Protocol = Generator[Step, Any, Landing]
"""A whole flight: yields steps, is sent their results, returns how it ended."""


@frozen(kw_only=True)
class Conditions:
    """What a flight is given.

    Attributes:
        need: What is wanted of the token.
        profile: What is known of the target.
        lease: Seconds that a lease lasts.
        deadline: Seconds that one call to the bank takes at most.
        patience: Seconds to wait for somebody else's refresh.
        failures: Failures of this grant in a row before this flight.
        actor: `psu` if a person waits for it, otherwise `auto`; for the history.
        now: Tells the time, aware UTC.
        monotonic: Tells the seconds, never backwards.
        random: Makes a number from 0 to below 1.
        new_owner: Makes a unique name for a claim.
    """

    need: Need
    profile: TargetProfile
    lease: float
    deadline: float
    patience: float
    failures: int = 0
    actor: str = "auto"
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    new_owner: Callable[[], str]
