"""What the tests of the contract are made of: a clock, fake pairs, and many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from attrs import evolve

from blink_oauth.context import Grant
from blink_oauth.tokens import Token
from blink_oauth_keeper.store.records import Due, GrantKey, JournalEntry, Note, Record

__all__ = [
    "CLIENT",
    "ISSUED",
    "KEY",
    "TARGET",
    "Clock",
    "at_once",
    "at_rest",
    "days",
    "due",
    "grant_key",
    "is_utc",
    "note",
    "origins",
    "pair",
    "texts",
]

T = TypeVar("T")

CLIENT = "CIDX0000000002"
TARGET = "IIDX99999"
BEARER = "bearer"
ISSUED = datetime(2030, 5, 17, 9, 30, 0, 123456, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is told to move on.

    Args:
        start: What it shows at first, aware.
    """

    def __init__(self, start: datetime = ISSUED) -> None:
        self._now = start

    def __call__(self) -> datetime:
        """Return the present moment."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds."""
        self._now += timedelta(seconds=seconds)


def grant_key(username: str = "customer", target: str = TARGET, client: str = CLIENT) -> GrantKey:
    """Return whose token it is."""
    return GrantKey(client, Grant(target, username))


KEY = grant_key()


def pair(name: str) -> Token:
    """Return a pair of fake tokens that can be told from others by its name."""
    return Token(
        access_token=f"fake-access-token-{name}",
        refresh_token=f"fake-refresh-token-{name}",
        token_type=BEARER,
        expires_at=ISSUED + days(1),
        scope=frozenset({"accounts", "payments"}),
    )


def note(event: str = "changed", correlation_id: str | None = None) -> Note:
    """Return what the history is to say."""
    return Note(event=event, correlation_id=correlation_id)


def is_utc(moment: datetime) -> bool:
    """Say whether a moment is aware, and in UTC."""
    return moment.utcoffset() == timedelta(0)


def days(count: float) -> timedelta:
    """Return so many days."""
    return timedelta(days=count)


def due(
    within: float = 10,
    *,
    client: str = CLIENT,
    attempts: int = 0,
    targets: Collection[str] | None = None,
    except_targets: Collection[str] = (),
) -> Due:
    """Return what is due within so many days."""
    return Due(
        client_id=client,
        before=ISSUED + days(within),
        max_attempts=attempts,
        targets=targets,
        except_targets=except_targets,
    )


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """Do something in many threads, all of which start at the same moment."""
    start = threading.Barrier(count, timeout=60)

    def one(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def at_rest(record: Record | None) -> Record:
    """Return a record without what changes from one reading to the next."""
    assert record is not None
    return evolve(record, lease_left=0.0, pause_left=0.0)


def texts(tokens: list[Token]) -> list[str]:
    """Return the access tokens, to compare pairs by."""
    return [token.access_token.reveal() for token in tokens]


def origins(entries: list[JournalEntry]) -> list[tuple[str, Token, int, int]]:
    """Return what the journal says of each pair: why, which, and its generation and consent."""
    return [(entry.origin, entry.token, entry.generation, entry.consent) for entry in entries]
