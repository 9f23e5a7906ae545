"""The lease on a refresh against the time that a call may take."""

from __future__ import annotations

from blink_oauth.settings import Timeouts
from blink_oauth_keeper.manager import LONGEST_LEASE

from .check import Check, doubtful, failed, passed

__all__ = ["lease_check"]


def lease_check(lease: float, timeouts: Timeouts) -> Check:
    """Compare the lease with the timeouts.

    Args:
        lease: Seconds that a refresh has at most.
        timeouts: How long a call may take.
    """
    total = timeouts.total
    if not lease > total:
        return failed(
            "lease",
            f"The lease of {lease:g} s ends before a call must ({total:g} s in all): two processes "
            "could present the same refresh token.",
            f"Set a lease above the total timeout and at most {LONGEST_LEASE:g} s, or shorten the "
            "total timeout.",
        )
    if lease > LONGEST_LEASE:
        return failed(
            "lease",
            f"The lease of {lease:g} s is longer than {LONGEST_LEASE:g} s: within that time banks "
            "that allow a replay at all mostly do.",
            f"Set a lease of at most {LONGEST_LEASE:g} s, and a total timeout below it.",
        )
    longer = [name for name in ("connect", "read", "write") if getattr(timeouts, name) > total]
    if longer:
        return doubtful(
            "lease",
            f"The timeout for {' and '.join(longer)} is longer than the total timeout of "
            f"{total:g} s, which ends the call before.",
            "Shorten it, or give the call more time in total and the lease with it.",
        )
    return passed("lease", f"The lease of {lease:g} s is above the total timeout of {total:g} s.")
