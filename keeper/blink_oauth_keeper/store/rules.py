"""The rules of a record's changes, as pure functions.

The SQL store repeats `claimed`, `is_due` and `is_latest_claim` as conditions in SQL.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypeVar, cast

from attrs import evolve

from blink_oauth.arguments import require_type
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Token

from .protocol import DueQuery, GrantKey, JournalEntry, Origin, Record, State

__all__ = [
    "CLAIMABLE",
    "PSEUDONYM",
    "PSEUDONYM_LENGTH",
    "SALVAGEABLE",
    "claimed",
    "due_order",
    "empty_record",
    "erased",
    "fingerprint",
    "forgotten",
    "interned",
    "is_among",
    "is_due",
    "is_journaled",
    "is_latest_claim",
    "is_pseudonym",
    "is_same_pair",
    "is_unchanged",
    "late_origin",
    "newest_salvageable",
    "pseudonym",
    "renewed",
    "require_retentions",
    "revoked",
    "selects",
    "stored_extra",
    "to_second",
    "utc",
    "without_metadata",
    "written_back",
]

T = TypeVar("T", bound=Hashable)


def interned(value: T) -> T:
    """Return the cached value that equals this one, so that equal values share memory."""
    return cast("T", _cached(value))


def to_second(time: datetime) -> datetime:
    """Return a time without its fraction of a second, shared by all grants of that second."""
    return interned(time.replace(microsecond=0))


@lru_cache(maxsize=8192, typed=True)
def _cached(value: Hashable) -> Hashable:
    return value


SALVAGEABLE = frozenset({Origin.SUPERSEDED, Origin.ERROR})
CLAIMABLE = frozenset({State.ACTIVE, State.REFRESHING, State.UNCERTAIN})
NO_EXTRA: dict[str, object] = {}
EXTRA_LIMIT = 4_096
"""Characters of JSON that are stored of a pair's unknown members."""
EXTRA_BRACKETS = 100
"""Lists and objects in one member at most: a deeper one might not be read again."""
FINGERPRINT_LENGTH = 16


def empty_record(key: GrantKey, now: datetime) -> Record:
    """Return the record of a grant before its first consent, of generation 0."""
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
    """Return the claimed record, or None if it cannot be claimed.

    Args:
        record: The record as it is now.
        seen: The record as the caller read it.
        owner: The owner of the claim.
    """
    if (record.generation, record.attempts) != (seen.generation, seen.attempts):
        return None
    if not _is_claimable(record):
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
    """Return the record with a new pair, in the next generation."""
    return evolve(
        record,
        generation=record.generation + 1,
        state=state,
        issued_at=utc(issued_at),
        expires_at=token.expires_at,
        idle_until=None if idle_until is None else utc(idle_until),
        attempts=record.attempts if state is State.UNCERTAIN else 0,
        owner=None,
        error=None,
        refusals=0,
        refused_since=None,
        forgetting=False,
        token=without_metadata(token),
    )


def revoked(record: Record, *, forget: bool = False) -> Record:
    """Return the record as revoked, with its pair.

    Args:
        record: The record.
        forget: Whether the grant is to be forgotten.
    """
    generation = record.generation + 1
    return evolve(
        record,
        generation=generation,
        state=State.REVOKING,
        attempts=0,
        owner=None,
        error=None,
        refusals=0,
        refused_since=None,
        forgetting=forget,
    )


def erased(record: Record) -> Record:
    """Return the revoked record without its pair."""
    return evolve(record, state=State.REVOKED, token=None, expires_at=None)


def forgotten(record: Record) -> Record:
    """Return the record as the tombstone of its grant shows it: what is left, and no more."""
    return Record(
        key=record.key,
        generation=record.generation,
        consent=record.consent,
        state=State.FORGOTTEN,
        token=None,
        issued_at=record.issued_at,
        idle_until=None,
        updated_at=record.updated_at,
    )


def written_back(known: Record) -> Record:
    """Return a record that this process knows as it is to be stored again."""
    token = known.token and without_metadata(known.token)
    return evolve(known, token=token, owner=None, lease_left=0.0, pause_left=0.0)


def is_unchanged(record: Record | None, seen: Record | None) -> bool:
    """Return whether generation and attempts of a record are still those that a caller read."""
    if record is None or seen is None:
        return record is seen
    return (record.generation, record.attempts) == (seen.generation, seen.attempts)


def is_latest_claim(record: Record, claim: Record) -> bool:
    """Return whether generation and owner of a record are still those of a claim."""
    return (record.generation, record.owner) == (claim.generation, claim.owner)


def is_same_pair(stored: Token | None, token: Token) -> bool:
    """Return whether two pairs have the same access token and the same refresh token."""
    if stored is None or stored.access_token != token.access_token:
        return False
    return stored.refresh_token == token.refresh_token


def is_among(pair: Token, pairs: Collection[Token]) -> bool:
    """Return whether a pair is one of some pairs."""
    return any(is_same_pair(other, pair) for other in pairs)


def is_journaled(pair: Token, origin: Origin, journal: Iterable[JournalEntry]) -> bool:
    """Return whether a pair need not be added to the journal under an origin.

    A foreign entry does not stand for the same pair in a response to an own call: it is never
    salvaged.
    """
    is_foreign = origin is Origin.FOREIGN
    entries = [entry for entry in journal if (entry.origin is Origin.FOREIGN) is is_foreign]
    return is_among(pair, [entry.token for entry in entries])


def late_origin(state: State) -> Origin:
    """Return the origin of a pair that arrived too late, from the state it would have had.

    A pair whose new refresh token was unreadable has the one that was presented: it is not tried
    again.
    """
    return Origin.REPLACED if state is State.UNCERTAIN else Origin.SUPERSEDED


def newest_salvageable(journal: Sequence[JournalEntry], record: Record) -> JournalEntry | None:
    """Return the newest journal entry whose pair may replace the refused one, or None.

    Args:
        journal: The journal entries of the grant, the oldest first.
        record: The record whose pair was refused.
    """
    # A bank that does not rotate returns the refused refresh token in every pair.
    refused = [entry.token for entry in journal if entry.origin is Origin.REFUSED]
    useless = [None, *(token.refresh_token for token in [*refused, record.token] if token)]
    # Each salvage adds a generation. Pairs of directly preceding refused generations are eligible.
    generations = {e.generation for e in journal if e.origin is Origin.REFUSED}
    oldest = record.generation
    while oldest - 1 in generations:
        oldest -= 1
    for entry in reversed(journal):
        fits = entry.origin in SALVAGEABLE and entry.consent == record.consent
        # A pair of an older generation may have been the record's before, and be spent.
        fits = fits and entry.generation >= oldest
        if fits and entry.token.refresh_token not in useless:
            return entry
    return None


def is_due(record: Record, query: DueQuery) -> bool:
    """Return whether a record is due and can be claimed."""
    if record.idle_until is None or record.idle_until > query.before or not _is_claimable(record):
        return False
    if query.issued_before is not None and record.issued_at >= query.issued_before:
        return False
    return selects(query, record.key.client_id, record.key.grant.target_id, record.attempts)


def selects(query: DueQuery, client_id: str, target_id: str, attempts: int) -> bool:
    """Return whether a query selects the records of a client and target with these attempts."""
    if client_id != query.client_id or attempts > query.max_attempts:
        return False
    wanted = query.targets is None or target_id in query.targets
    return wanted and target_id not in query.except_targets


def due_order(record: Record) -> tuple[datetime, str, str]:
    """Return the sort key of due records: `idle_until`, then target and username."""
    grant = record.key.grant
    return (record.idle_until or datetime.max.replace(tzinfo=UTC), grant.target_id, grant.username)


def utc(time: datetime) -> datetime:
    """Return a time in UTC.

    Raises:
        InvalidInputError: The time has no time zone.
    """
    if time.tzinfo is None:
        raise InvalidInputError("A datetime must have a time zone. Nothing was stored.")
    return time.astimezone(UTC)


def without_metadata(token: Token) -> Token:
    """Return a pair without `meta`, and with the part of `extra` that is stored."""
    # Each response has its own copy of values that most responses share.
    kind = None if token.token_type is None else interned(token.token_type)
    scope = None if token.scope is None else interned(token.scope)
    return evolve(token, token_type=kind, scope=scope, meta=None, extra=stored_extra(token.extra))


def stored_extra(extra: Mapping[str, object]) -> Mapping[str, object]:
    """Return the members that are stored: JSON values that are neither long nor deeply nested."""
    kept: dict[str, object] = {}
    left = EXTRA_LIMIT
    for name, value in extra.items():
        try:
            text = json.dumps({name: value}, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            continue
        if len(text) <= left and text.count("[") + text.count("{") <= EXTRA_BRACKETS:
            left -= len(text)
            kept |= json.loads(text)
    return kept or NO_EXTRA


PSEUDONYM = "forgotten:"
"""Before the pseudonym, for people who read the tables."""
PSEUDONYM_LENGTH = 53
"""Characters of a pseudonym."""


def pseudonym(secret: bytes, key: GrantKey) -> str:
    """Return the username of a tombstone: a keyed hash of client, target and username.

    Args:
        secret: A random key that is used for nothing else.
        key: The client and the grant.
    """
    text = json.dumps([key.client_id, key.grant.target_id, key.grant.username])
    # Not in hex: processes of the version before refuse usernames of more than 64 characters.
    digest = base64.urlsafe_b64encode(hmac.digest(secret, text.encode(), "sha256"))
    return PSEUDONYM + digest.decode().rstrip("=")


def is_pseudonym(username: str) -> bool:
    """Return whether a username has the form of the pseudonyms."""
    return len(username) == PSEUDONYM_LENGTH and username.startswith(PSEUDONYM)


def fingerprint(key: bytes, text: str) -> str:
    """Return the keyed fingerprint of a text for logs."""
    return hmac.digest(key, text.encode(), "sha256").hex()[:FINGERPRINT_LENGTH]


def _is_claimable(record: Record) -> bool:
    is_free = record.lease_left <= 0 and record.pause_left <= 0
    return is_free and record.state in CLAIMABLE


def require_retentions(journal: timedelta, history: timedelta) -> None:
    """Require that the retentions of a store are of the right type.

    Raises:
        InvalidInputError: One is no timedelta.
    """
    require_type("journal_retention", journal, timedelta, "timedelta(days=7)")
    require_type("history_retention", history, timedelta, "timedelta(days=400)")
