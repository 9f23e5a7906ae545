"""Figures of the grants and notices in a store, for people and metrics; they name no grant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from attrs import field, frozen

from .keepalive import Report
from .status import GrantStatus
from .store.outbox import OutboxEntry
from .store.protocol import State

__all__ = ["GrantFigures", "NoticeFigures", "RunFigures", "grant_figures", "notice_figures"]

ENDED = frozenset({State.REVOKED, State.REVOKING})


@frozen(kw_only=True)
class GrantFigures:
    """Numbers of grants.

    Attributes:
        states: Grants by target and state.
        needing_consent: Grants by target that need a new consent, unless they are revoked.
        idle_ends: By target, the time at which the first refresh token expires unless it is used;
            of grants that need no consent.
    """

    states: Counter[tuple[str, State]] = field(factory=Counter)
    needing_consent: Counter[str] = field(factory=Counter)
    idle_ends: dict[str, datetime] = field(factory=dict)

    def in_state(self, state: State) -> int:
        """Return the number of grants in a state, at all targets."""
        return sum(count for (_, each), count in self.states.items() if each == state)


def grant_figures(statuses: Iterable[GrantStatus]) -> GrantFigures:
    """Count grants.

    Args:
        statuses: The statuses of all grants, such as `TokenManager.statuses` returns.
    """
    figures = GrantFigures()
    for each in statuses:
        target_id = each.grant.target_id
        figures.states[target_id, each.state] += 1
        if each.state in ENDED:
            continue
        figures.needing_consent[target_id] += each.needs_consent
        if each.idle_until is not None and not each.needs_consent:
            earliest = figures.idle_ends.get(target_id, each.idle_until)
            figures.idle_ends[target_id] = min(earliest, each.idle_until)
    return figures


@frozen(kw_only=True)
class NoticeFigures:
    """Numbers of notices that are not delivered.

    Attributes:
        pending: Notices that are still to be delivered.
        dead: Notices that are not tried again.
        oldest: When the oldest pending notice was written, aware UTC; None if none is pending.
    """

    pending: int = 0
    dead: int = 0
    oldest: datetime | None = None


def notice_figures(entries: Iterable[OutboxEntry]) -> NoticeFigures:
    """Count notices.

    Args:
        entries: The notices that are not delivered, such as `TokenManager.notices` returns.
    """
    listed = list(entries)
    pending = [entry.notice.at for entry in listed if not entry.is_dead]
    return NoticeFigures(
        pending=len(pending),
        dead=len(listed) - len(pending),
        oldest=min(pending, default=None),
    )


@frozen(kw_only=True)
class RunFigures:
    """The figures of a run that has ended.

    Attributes:
        ended_at: When the run ended, aware UTC.
        seconds: How long it took, in seconds.
        report: What it did; None if it failed.
        grants: The grants of the store after it; None if it failed.
    """

    ended_at: datetime
    seconds: float
    report: Report | None = None
    grants: GrantFigures | None = None
