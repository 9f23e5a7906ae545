"""Our clock against the server's."""

from __future__ import annotations

from datetime import timedelta

from .check import Check, doubtful, failed, passed
from .checks_network import Answered

__all__ = ["clock_check"]

WARN_SECONDS = 5.0
FAIL_SECONDS = 60.0
PRECISION = timedelta(seconds=1)
"""A `Date` header counts whole seconds (RFC 9110 section 5.6.7)."""

REMEDY = "Let NTP set the clock of this machine (chrony or systemd-timesyncd), then look again."


def clock_check(answer: Answered | None) -> Check:
    """Compare the moment of an answer by both clocks.

    How long the answer took does not count: the server may have written its date at any moment of
    it.

    Args:
        answer: An answer of the server, or None if there was none.
    """
    if answer is None:
        return doubtful("clock", "It was not compared.", "Make the server reachable first.")
    if answer.date is None:
        return doubtful(
            "clock", "The server did not tell its time, so it was not compared.", REMEDY
        )
    ahead = (answer.before - answer.date - PRECISION).total_seconds()
    behind = (answer.date - answer.after).total_seconds()
    seconds = max(ahead, behind, 0.0)
    if seconds < WARN_SECONDS:
        return passed("clock", f"It agrees with the server's to {seconds:.0f} s.")
    finding = (
        f"This machine's clock is {seconds:.0f} s {'ahead of' if ahead > 0 else 'behind'} the "
        "server's. Codes live 30 s, and certificates and tokens expire by the clock."
    )
    return (failed if seconds >= FAIL_SECONDS else doubtful)("clock", finding, REMEDY)
