"""A fault to plant, and what the doctor must find."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from blink_oauth_cli.check import Level
from cli.doctor.harness import Harness
from cli.doctor.planting import Changes

OK, WARN, FAIL = Level
UNREACHED = frozenset({"clock", "call", "without_certificate"})
"""What cannot pass where there is no server."""
UNUSABLE = frozenset({"reachable", "clock", "call"})
"""What cannot pass without a certificate that the server takes."""


@frozen
class Fault:
    """A fault and what must be found.

    Attributes:
        plant: Breaks a healthy harness, and returns the arguments of `examine` to change.
        name: The check that must find it.
        level: How bad it is.
        remedy: A part of the remedy.
        besides: The other checks that cannot pass because of it, and no more.
    """

    plant: Callable[[Harness], Changes]
    name: str
    level: Level
    remedy: str
    besides: frozenset[str] = frozenset()
