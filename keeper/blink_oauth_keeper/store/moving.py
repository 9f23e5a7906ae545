"""Move grants from one store to another without presenting a token.

Each grant is moved in three committed steps, so that at no time two stores may refresh it:

1. The source gives the record a state that no process claims, unless a refresh is in progress.
2. The target stores the record, the journal entries, the history and the undelivered notices.
3. The source deletes the pair, the journal entries and the undelivered notices.

A move that stops after any step is finished by the next one. Between the first and the last step no
process refreshes the grant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from attrs import field, frozen

from blink_oauth_keeper.errors import SealError

from .outbox import Notice
from .protocol import GrantKey, HistoryEntry, JournalEntry, Record, State

__all__ = [
    "MARK",
    "CopyReport",
    "MovableStore",
    "MovingGrant",
    "copy_grants",
    "is_moved",
    "moved_from",
    "moved_owner",
    "replaces",
]

MARK = "moved:"
"""Before the state in the owner of a record that is moved. It stands in the owner, since processes
of the version before know no other state."""
PAGE = 100
POLL = 1.0
"""Seconds between two tries to move a grant whose refresh is in progress."""


@frozen
class MovingGrant:
    """What the source has of a grant that is being moved.

    Attributes:
        record: The record as the target is to store it.
        state: Its stored state.
        journal: Its journal entries, the oldest first.
        journal_ids: The row ids of the journal entries in the source.
        history: Its history, the oldest entry first.
        notices: Its notices that are not delivered, the oldest first.
    """

    record: Record
    state: str
    journal: Sequence[JournalEntry] = field(repr=False)
    journal_ids: Sequence[int]
    history: Sequence[HistoryEntry] = field(repr=False)
    notices: Sequence[Notice] = field(repr=False)


@frozen(kw_only=True)
class CopyReport:
    """The number of grants of the source, by what happened to them.

    Attributes:
        moved: They are in the target now, and no longer refreshed in the source.
        moved_before: An earlier run has moved them.
        kept: The target has the same generation or a newer pair. Nothing was changed.
        in_progress: A refresh was in progress in the source, or the grant changed meanwhile.
        unreadable: Their pair, or a journal entry, cannot be opened in the source or in the target.
    """

    moved: int = 0
    moved_before: int = 0
    kept: int = 0
    in_progress: int = 0
    unreadable: int = 0


class MovableStore(Protocol):
    """The methods of a store that moving needs; `SqlTokenStore` has them."""

    def client_ids(self) -> Sequence[str]:
        """Return the clients that have records."""

    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Return the records of a client without their pairs."""

    def load(self, key: GrantKey) -> Record | None:
        """Return the record of a grant, or None."""

    def count_unknown_seals(self) -> int:
        """Return the number of pairs that are sealed with an unknown key."""

    def begin_move(self, key: GrantKey) -> MovingGrant | None:
        """Keep every process from refreshing a grant, and return all that is stored of it."""

    def receive(self, moving: MovingGrant) -> None:
        """Store a grant of another store, unless the stored pair is as new."""

    def finish_move(self, moving: MovingGrant) -> bool:
        """Delete the pair and the journal entries of a grant that another store has received."""


def moved_owner(state: str) -> str:
    """Return the owner that marks a record as moved.

    Args:
        state: The stored state of the record before.
    """
    return f"{MARK}{state}"


def moved_from(owner: str | None) -> str | None:
    """Return the state that a moved record had before, or None if the owner marks no move."""
    return owner.removeprefix(MARK) if owner and owner.startswith(MARK) else None


def is_moved(record: Record) -> bool:
    """Return whether a record is being moved to another store, or was moved."""
    return moved_from(record.owner) is not None


def replaces(record: Record, stored: Record | None) -> bool:
    """Return whether a record of another store is to replace the stored one.

    Args:
        record: The record of the other store.
        stored: The stored record, or None.
    """
    if stored is None:
        return True
    numbers, others = (record.consent, record.generation), (stored.consent, stored.generation)
    if stored.state is State.FORGOTTEN:
        return record.consent > stored.consent
    if is_moved(stored) and stored.token is None:
        # It was moved away, and comes back.
        return numbers >= others
    # Two logins may have counted separately in the two stores: then the later pair is the newer.
    return numbers > others and record.issued_at >= stored.issued_at


def copy_grants(
    source: MovableStore,
    target: MovableStore,
    *,
    wait: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
    dry_run: bool = False,
) -> CopyReport:
    """Move all grants, and return their number by what happened to them.

    It can be called again, also after it was killed, and while processes use both stores.

    Args:
        source: The store that has the grants.
        target: The store that gets them.
        wait: Seconds to wait for refreshes in progress, after all other grants.
        monotonic: Returns seconds of a clock that never goes back.
        sleep: Sleeps some seconds.
        dry_run: Whether to count only, as if no refresh ended meanwhile.

    Raises:
        SealError: The target has pairs that are sealed with a key that was not given.
        StoreError: A store cannot be used. What is moved stays moved.
    """
    if unknown := target.count_unknown_seals():
        raise SealError(
            f"{unknown} stored pairs of the target are sealed with keys that were not given: its "
            "processes may be unable to open what is sealed now. Nothing was moved. Give the keys "
            "of those processes."
        )

    def move(key: GrantKey) -> str:
        try:
            return _plan(source, target, key) if dry_run else _move(source, target, key)
        except SealError:
            return "unreadable"

    counts: Counter[str] = Counter()
    waiting: list[GrantKey] = []
    for key in _keys(source):
        done = move(key)
        if done == "in_progress":
            waiting.append(key)
        else:
            counts[done] += 1
    end = monotonic() + wait
    while waiting and not dry_run and monotonic() < end:
        sleep(POLL)
        results = [(key, move(key)) for key in waiting]
        waiting = [key for key, done in results if done == "in_progress"]
        counts.update(done for _, done in results if done != "in_progress")
    return CopyReport(**counts, in_progress=len(waiting))


def _keys(source: MovableStore) -> Iterator[GrantKey]:
    for client_id in source.client_ids():
        after = None
        while page := source.records(client_id, after=after, limit=PAGE):
            yield from (record.key for record in page)
            after = page[-1].key


def _plan(source: MovableStore, target: MovableStore, key: GrantKey) -> str:
    """Return the name of the count to which a grant would be added."""
    record = source.load(key)
    if record is None:
        return "kept"
    if is_moved(record) and record.token is not None:
        return "moved"
    if is_moved(record) and moved_from(record.owner) != State.REVOKED:
        return "moved_before"
    # A revoked grant may have had no pair before it was moved.
    if not replaces(record, target.load(key)):
        return "moved_before" if is_moved(record) else "kept"
    return "in_progress" if record.lease_left > 0 else "moved"


def _move(source: MovableStore, target: MovableStore, key: GrantKey) -> str:
    plan = _plan(source, target, key)
    if plan != "moved":
        return plan
    moving = source.begin_move(key)
    if moving is None:
        return "in_progress"
    target.receive(moving)
    return "moved" if source.finish_move(moving) else "in_progress"
