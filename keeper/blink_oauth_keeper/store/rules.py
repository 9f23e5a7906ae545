"""What a change makes of a record. Pure, and shared by all stores."""

from __future__ import annotations

import hmac
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar, cast

from attrs import evolve

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Token

from .protocol import Due, GrantKey, JournalEntry, Origin, Record, State

__all__ = [
    "CLAIMABLE",
    "bare",
    "claimed",
    "fingerprint",
    "is_due",
    "is_owned",
    "is_pair",
    "kept_once",
    "newest_to_salvage",
    "nothing_yet",
    "renewed",
    "revoked",
    "same_second",
    "urgency",
    "utc",
]

T = TypeVar("T", bound=Hashable)


def kept_once(value: T) -> T:
    """Return the first value that is equal to this one, as long as it is asked for."""
    return cast("T", _first(value))


def same_second(moment: datetime) -> datetime:
    """Return a moment to the second: thousands of grants have the same one."""
    return kept_once(moment.replace(microsecond=0))


@lru_cache(maxsize=8192, typed=True)
def _first(value: Hashable) -> Hashable:
    return value


SALVAGEABLE = frozenset({Origin.SUPERSEDED, Origin.ERROR})
CLAIMABLE = frozenset({State.ACTIVE, State.REFRESHING, State.UNCERTAIN})
NOTHING: dict[str, object] = {}
FINGERPRINT_LENGTH = 16


def nothing_yet(key: GrantKey, now: datetime) -> Record:
    """Return what the first consent builds on."""
    return Record(
        key=key,
        generation=0,
        consent=0,
        state=State.ACTIVE,
        token=None,
        issued_at=now,
        idle_until=None,
        updated_at=now,
    )


def claimed(record: Record, seen: Record, owner: str) -> Record | None:
    """Return the record with the refresh token at risk, or None if it cannot be claimed."""
    if (record.generation, record.attempts) != (seen.generation, seen.attempts):
        return None
    if not _is_free(record):
        return None
    return evolve(record, state=State.REFRESHING, attempts=record.attempts + 1, owner=owner)


def renewed(
    record: Record,
    token: Token,
    *,
    issued_at: datetime,
    idle_until: datetime | None,
    state: State = State.ACTIVE,
) -> Record:
    """Return the record with a new pair."""
    return evolve(
        record,
        generation=record.generation + 1,
        state=state,
        issued_at=utc(issued_at),
        idle_until=None if idle_until is None else utc(idle_until),
        attempts=record.attempts if state is State.UNCERTAIN else 0,
        owner=None,
        error=None,
        token=bare(token),
    )


def revoked(record: Record) -> Record:
    """Return the record of a grant that is over, with its pair."""
    generation = record.generation + 1
    return evolve(
        record, generation=generation, state=State.REVOKED, attempts=0, owner=None, error=None
    )


def is_owned(record: Record, claim: Record) -> bool:
    """Say whether nobody came after a claim."""
    return (record.generation, record.owner) == (claim.generation, claim.owner)


def is_pair(stored: Token | None, token: Token) -> bool:
    """Say whether both tokens of a pair are those of another."""
    if stored is None or stored.access_token != token.access_token:
        return False
    return stored.refresh_token == token.refresh_token


def newest_to_salvage(journal: Sequence[JournalEntry], record: Record) -> JournalEntry | None:
    """Return the pair that may still be good where the record's is not.

    Args:
        journal: What the journal holds of the grant, the oldest entry first.
        record: The record whose pair was refused.
    """
    # A bank that does not rotate gave all pairs the one refresh token that it refused.
    refused = [entry.token for entry in journal if entry.origin is Origin.REFUSED]
    useless = [None, *(token.refresh_token for token in [*refused, record.token] if token)]
    # Those that were refused one after the other came beside the same pair.
    generations = {e.generation for e in journal if e.origin is Origin.REFUSED}
    oldest = record.generation
    while oldest - 1 in generations:
        oldest -= 1
    for entry in reversed(journal):
        same = entry.origin in SALVAGEABLE and entry.consent == record.consent
        # An older one was stored in its time, and is spent.
        same = same and entry.generation >= oldest
        if same and entry.token.refresh_token not in useless:
            return entry
    return None


def is_due(record: Record, due: Due) -> bool:
    """Say whether a record is due, and could be claimed."""
    if record.idle_until is None or record.idle_until > due.before or not _is_free(record):
        return False
    if record.key.client_id != due.client_id or record.attempts > due.max_attempts:
        return False
    target = record.key.grant.target_id
    wanted = due.targets is None or target in due.targets
    return wanted and target not in due.except_targets


def urgency(record: Record) -> tuple[datetime, str, str]:
    """Return what sorts those first that are due first."""
    grant = record.key.grant
    return (record.idle_until or datetime.max.replace(tzinfo=UTC), grant.target_id, grant.username)


def utc(moment: datetime) -> datetime:
    """Return an aware moment in UTC.

    Raises:
        InvalidInputError: It is naive, so nobody knows when it is.
    """
    if moment.tzinfo is None:
        raise InvalidInputError("A moment must be aware: it needs a time zone. Nothing was stored.")
    return moment.astimezone(UTC)


def bare(token: Token) -> Token:
    """Return a pair without what is not stored."""
    # Each was read from a response of its own, and most are alike.
    kind = None if token.token_type is None else kept_once(token.token_type)
    scope = None if token.scope is None else kept_once(token.scope)
    return evolve(token, token_type=kind, scope=scope, meta=None, extra=NOTHING)


def fingerprint(key: bytes, text: str) -> str:
    """Return what stands for a text in logs."""
    return hmac.digest(key, text.encode(), "sha256").hex()[:FINGERPRINT_LENGTH]


def _is_free(record: Record) -> bool:
    at_rest = record.lease_left <= 0 and record.pause_left <= 0
    return at_rest and record.state in CLAIMABLE
