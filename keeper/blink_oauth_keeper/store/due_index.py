"""An index of the records in memory that can be due, in the order of `due_order`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from heapq import heappop, heappush, merge
from itertools import chain, count, takewhile

from attrs import define, field

from .protocol import DueQuery, GrantKey, Record
from .rules import CLAIMABLE, due_order, selects

__all__ = ["DueIndex"]

CHUNK = 512


@define(eq=False)
class SortedRecords:
    """Records of different grants in due order. A change moves the records of one chunk only."""

    _chunks: list[list[Record]] = field(init=False, factory=list)

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(self._chunks)

    def add(self, record: Record) -> None:
        """Add a record, or replace that of the same grant and order."""
        number, place, found = self._find(record)
        if not self._chunks:
            self._chunks.append([])
        chunk = self._chunks[number]
        chunk[place : place + found] = [record]
        if len(chunk) > 2 * CHUNK:
            self._chunks[number : number + 1] = [chunk[:CHUNK], chunk[CHUNK:]]

    def remove(self, record: Record) -> None:
        """Remove the record of the same grant and order, if there is one."""
        number, place, found = self._find(record)
        if found:
            del self._chunks[number][place]
            if not self._chunks[number]:
                del self._chunks[number]

    def _find(self, record: Record) -> tuple[int, int, bool]:
        """Return the chunk and place of a record, and whether it is there."""
        order = due_order(record)
        number = bisect_right(self._chunks, order, key=lambda chunk: due_order(chunk[0]))
        number = max(number - 1, 0)
        chunk = self._chunks[number] if self._chunks else []
        place = bisect_left(chunk, order, key=due_order)
        return number, place, place < len(chunk) and due_order(chunk[place]) == order


@define(eq=False)
class DueIndex:
    """The records that can be due now, apart from those with a lease or a pause.

    There is one sequence of records for each client, target and number of attempts, so that a query
    passes over no record that it does not select.

    Args:
        record_after: Returns the record of a grant if its lease or pause ends at the given time.
    """

    record_after: Callable[[GrantKey, float], Record | None]
    _ready: dict[tuple[str, str, int], SortedRecords] = field(init=False, factory=dict)
    _waiting: list[tuple[float, int, GrantKey]] = field(init=False, factory=list)
    _number: Iterator[int] = field(init=False, factory=count)

    def replace(self, old: Record | None, new: Record, *, until: float | None, now: float) -> None:
        """Replace the record of a grant.

        Args:
            old: The record before, None if the grant had none.
            new: The record now.
            until: When its lease or pause ends, in seconds of a monotonic clock, or None.
            now: The current time of that clock, in seconds.
        """
        self._end_waits(now)
        if old is not None and (records := self._ready.get(_place(old))):
            records.remove(old)
            if not records:
                del self._ready[_place(old)]
        if until is None:
            self._add(new)
        else:
            heappush(self._waiting, (until, next(self._number), new.key))

    def records(self, query: DueQuery, now: float) -> Iterator[Record]:
        """Yield the records that a query selects. The index must not be changed meanwhile."""
        self._end_waits(now)
        selected = [records for place, records in self._ready.items() if selects(query, *place)]
        in_order = merge(*selected, key=due_order)
        return takewhile(
            lambda r: r.idle_until is not None and r.idle_until <= query.before, in_order
        )

    def _end_waits(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            end, _, key = heappop(self._waiting)
            if record := self.record_after(key, end):
                self._add(record)

    def _add(self, record: Record) -> None:
        if record.idle_until is None or record.state not in CLAIMABLE:
            return
        self._ready.setdefault(_place(record), SortedRecords()).add(record)


def _place(record: Record) -> tuple[str, str, int]:
    return (record.key.client_id, record.key.grant.target_id, record.attempts)
