"""A fault to inject, and the check that must report it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from blink_oauth_cli.check import Level
from cli.doctor.harness import Harness
from cli.doctor.injection import Changes

OK, WARN, FAIL = Level
FAIL_WITHOUT_SERVER = frozenset({"clock", "call", "without_certificate"})
"""The checks that cannot pass without a server."""
FAIL_WITHOUT_CERTIFICATE = frozenset({"reachable", "clock", "call"})
"""The checks that cannot pass without a certificate that the server accepts."""


@frozen
class Fault:
    """A fault and the check that must report it.

    Attributes:
        inject: Injects the fault, and returns the changed arguments of `run_checks`.
        name: The check that must report it.
        level: The level of that check.
        remedy: A phrase of its remedy.
        also_failing: All other checks that cannot pass because of it.
    """

    inject: Callable[[Harness], Changes]
    name: str
    level: Level
    remedy: str
    also_failing: frozenset[str] = frozenset()
