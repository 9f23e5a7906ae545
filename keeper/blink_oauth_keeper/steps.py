"""The steps of the protocol, as values, and what a run of the protocol is given.

A step's result is sent into the protocol's generator, an error that it raises is thrown into it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any

from attrs import frozen

from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Secret, Token

from .events import EventName
from .policy import Need
from .profile import TargetProfile
from .store.protocol import Note, Origin, Record, State

__all__ = [
    "Claim",
    "Clearance",
    "Conditions",
    "Erase",
    "Exchange",
    "Journal",
    "JournalEntries",
    "Land",
    "Landing",
    "Load",
    "MarkRevoked",
    "Put",
    "Release",
    "Revoke",
    "Salvage",
    "Send",
    "Settle",
    "Step",
    "Steps",
    "Tell",
    "Turn",
    "Wait",
]


@frozen
class Landing:
    """How a flight ended for those who wait for it.

    Attributes:
        record: The record as it was known at the end, or None.
        error: What went wrong, or None.
        fresh: Whether the flight itself brought the record's token home.
        newer: Whether another stored the record's token after the flight's first look.
        memory: Seconds for which this answer is good enough for others who ask.
        again_in: Seconds after which another flight should be started, or None.
    """

    record: Record | None = None
    error: BlinkError | None = None
    fresh: bool = False
    newer: bool = False
    memory: float = 0.0
    again_in: float | None = None


@frozen
class Clearance:
    """Whether a target may be called.

    Attributes:
        hold_off: Seconds to leave it alone, because it fails; 0 if it does not.
        queue: Seconds until it is our turn, because its rate is limited; 0 for now.
    """

    hold_off: float = 0.0
    queue: float = 0.0


@frozen
class Load:
    """Read the record. Result: a Record or None."""


@frozen
class Turn:
    """Ask for a turn at the target. Result: a Clearance."""


@frozen
class Claim:
    """Take the lease. Result: a Record, or None if somebody else was first."""

    seen: Record
    owner: str


@frozen
class Send:
    """Present the refresh token, once. Result: a Token."""

    refresh_token: Secret


@frozen
class Exchange:
    """Exchange the authorization code, once. Result: a Token."""


@frozen
class Settle:
    """Store the pair that a claim brought home. Result: a Settlement."""

    claim: Record
    token: Token
    issued_at: datetime
    idle_until: datetime | None
    state: State
    note: Note


@frozen
class Put:
    """Store the pair of a new consent. Result: a Record."""

    token: Token
    issued_at: datetime
    idle_until: datetime | None
    note: Note


@frozen
class Release:
    """Give the lease back without a new pair. Result: whether it was still ours."""

    claim: Record
    state: State
    attempts: int
    pause: float
    error: str | None
    note: Note


@frozen
class Journal:
    """Keep a pair that does not become the record's."""

    claim: Record
    token: Token
    origin: Origin


@frozen
class JournalEntries:
    """Read the journal. Result: its entries."""


@frozen
class Salvage:
    """Put a superseded pair in the place of the refused one. Result: a Record or None."""

    claim: Record
    note: Note


@frozen
class MarkRevoked:
    """Mark the grant as revoked. Result: a Record or None."""

    note: Note


@frozen
class Revoke:
    """Revoke a pair at the bank."""

    token: Token


@frozen
class Erase:
    """Forget the pair of a revoked grant."""

    record: Record


@frozen
class Wait:
    """Let time pass. Result: False if there is no time left, because everything is closing.

    Attributes:
        seconds: How long.
        laden: Whether something was received that is not written yet: then closing waits too.
    """

    seconds: float
    laden: bool = False


@frozen
class Land:
    """Let those who wait go on. The protocol goes on as well.

    Attributes:
        landing: What they get.
        done: Whether they may go on already; if not, the landing is only remembered.
    """

    landing: Landing
    done: bool = True


@frozen
class Tell:
    """Say what happened."""

    name: EventName
    record: Record | None = None
    error: BlinkError | None = None
    correlation_id: str | None = None
    seconds: float | None = None


Step = (
    Load
    | Turn
    | Claim
    | Send
    | Exchange
    | Settle
    | Put
    | Release
    | Journal
    | JournalEntries
    | Salvage
    | MarkRevoked
    | Revoke
    | Erase
    | Wait
    | Land
    | Tell
)


Steps = Generator[Step, Any, Landing]
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
