"""Authorization, adoption and revocation of a grant, as protocols like the refresh."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any

from attrs import evolve

from blink_oauth.errors import BlinkError, InvalidInputError
from blink_oauth.tokens import NO_ACCESS_TOKEN, Secret, Token

from . import policy
from .errors import ConsentNeededError, SealError, StoreError, UnknownGrantError
from .events import EventName
from .notices import RECOVERED
from .policy import NEVER_VALID, moved_error
from .refresh import (
    load,
    report_foreign,
    report_oddities,
    retry_until_stored,
    seconds_since,
)
from .steps import (
    AddNote,
    Emit,
    Erase,
    ExchangeCode,
    Fingerprint,
    History,
    Job,
    Journal,
    JournalEntries,
    Load,
    MarkRevoked,
    Publish,
    Put,
    Result,
    Revoke,
    Step,
    Steps,
    WriteBack,
)
from .store.moving import is_moved
from .store.protocol import HistoryEntry, Note, Origin, Record, State, is_revoked, odd_detail
from .store.rules import empty_record, renewed

__all__ = ["adopt", "adopted_pair", "authorize", "finish_revocation", "revoke"]

ADOPTION_TRIES = 5
"""Number of tries to adopt a pair while other processes change the record."""


def authorize(job: Job) -> Steps:
    """Exchange a code and store the pair.

    The store is read and changed first: if it is unavailable or read-only, the single-use code is
    not spent. So it is if the record's key is missing, which another process has. A record that was
    altered does not stop the customer: the new pair replaces it.
    """
    try:
        try:
            before = yield from load(job, overrides_lease=True)
        except SealError as error:
            if not error.altered:
                raise
            before = error.record
        yield AddNote(Note(event=EventName.AUTHORIZING, actor=job.actor))
    except StoreError as error:
        return Result(None, _with_unspent_code(error))
    issued_at, began = job.now(), job.monotonic()
    try:
        token = yield ExchangeCode()
    except BlinkError as failure:
        known = before or empty_record(job.key, issued_at)
        reported = yield from report_foreign(job, known, failure)
        if reported.token is None:
            seconds = seconds_since(job, began)
            yield Emit(EventName.AUTHORIZATION_FAILED, before, reported, seconds=seconds)
            return Result(before, reported)
        token = reported.token
    seconds = seconds_since(job, began)
    correlation_id = token.meta.correlation_id if token.meta else None
    idle_until = policy.idle_until(token, issued_at, job.profile)
    note = Note(
        event=EventName.AUTHORIZED,
        correlation_id=correlation_id,
        detail=odd_detail(token),
        actor=job.actor,
        notice=RECOVERED,
    )
    expected = Record(
        key=job.key,
        generation=before.generation + 1 if before else 1,
        consent=before.consent + 1 if before else 1,
        state=State.ACTIVE,
        token=token,
        issued_at=issued_at,
        idle_until=idle_until,
        correlation_id=correlation_id,
        updated_at=issued_at,
    )
    result = Result(expected, obtained=True)
    record = yield from _store(expected, Put(token, issued_at, idle_until, note), result)
    if record is None:
        return result
    yield from report_oddities(token, record, correlation_id)
    yield Emit(EventName.AUTHORIZED, record, correlation_id=correlation_id, seconds=seconds)
    if is_revoked(record):
        return Result(record, ConsentNeededError("The grant was revoked. Authorize it anew."))
    return Result(record, obtained=True)


def _with_unspent_code(error: StoreError) -> StoreError:
    return type(error)(
        f"{error} The code was not sent and is not spent.", retryable=error.retryable
    )


def _store(expected: Record, put: Put, result: Result) -> Generator[Step, Any, Record | None]:
    """Store the pair of a new consent, once.

    If a failed try was executed after all, a refresh may have spent the pair before the next try.
    So the record is read before each repetition.
    """

    def was_executed(record: Record | None) -> bool:
        return record is not None and record.consent >= expected.consent

    record: Record | None = yield from retry_until_stored(put, result, was_executed)
    if record is None:
        return None
    if record.token is None or record.token.access_token != put.token.access_token:
        before = evolve(expected, generation=expected.generation - 1)
        yield from retry_until_stored(Journal(before, put.token, Origin.REPLACED), result)
    if record.token is None and record.state not in {State.REVOKED, State.FORGOTTEN}:
        # It is stored, but sealed anew meanwhile with a key that this process does not have.
        return expected
    return record


def adopted_pair(refresh: Secret, access: Secret, expires_at: datetime | None) -> Token:
    """Return the pair to adopt; without an access token, one that was never valid."""
    if (access == NO_ACCESS_TOKEN) is not (expires_at is None):
        raise InvalidInputError(
            "access_token and expires_at belong together: give both, or neither to refresh the "
            "grant at once. Nothing was sent."
        )
    return Token(
        access_token=access,
        refresh_token=refresh,
        expires_at=NEVER_VALID if expires_at is None else expires_at,
    )


def adopt(job: Job) -> Steps:
    """Store a refresh token of an existing consent. Nothing is presented: a refresh follows.

    The history shows whether the same refresh token was adopted before. Then it may be spent, and
    the stored pair stays.
    """
    try:
        return (yield from _adopt(job))
    except StoreError as error:
        return Result(
            None,
            type(error)(
                f"{error} The refresh token was not presented. Adopt it again.",
                retryable=error.retryable,
            ),
        )


def _adopt(job: Job) -> Steps:
    pair = job.adopted
    assert pair is not None
    assert pair.refresh_token is not None
    fingerprint: str = yield Fingerprint(pair.refresh_token)
    detail = f"refresh token {fingerprint}"
    for _ in range(ADOPTION_TRIES):
        record = yield from load(job)
        if record is not None:
            if not is_revoked(record) and (yield from _was_adopted(record, pair, detail)):
                return Result(record)
            error = policy.adoption_error(record)
            if error is not None:
                return Result(record, error)
        now = job.now()
        before = record or empty_record(job.key, now)
        # It is unknown how long the refresh token was not used: `refresh_due` finds it due.
        adopted = renewed(before, pair, issued_at=now, idle_until=now)
        note = Note(event=EventName.ADOPTED, detail=detail, actor=job.actor, notice=RECOVERED)
        # Not `put`, which would also replace a pair that was stored since the record was read.
        stored: Record | None = yield WriteBack(
            evolve(adopted, consent=before.consent + 1), record, note
        )
        if stored is not None:
            yield Emit(EventName.ADOPTED, stored)
            return Result(stored)
    raise StoreError("The record changed with each try to store the pair.")


def _was_adopted(record: Record, pair: Token, detail: str) -> Generator[Step, Any, bool]:
    if record.token is not None and record.token.refresh_token == pair.refresh_token:
        return True
    entries: Sequence[HistoryEntry] = yield History()
    notes = [entry.note for entry in entries]
    return any(n.event == EventName.ADOPTED and n.detail == detail for n in notes)


def revoke(job: Job, *, forget: bool = False) -> Steps:
    """Mark a grant as revoked, revoke every pair of it at the bank, then erase the pairs.

    Args:
        job: What the flight is about.
        forget: Whether to erase everything that names the customer, too.
    """
    try:
        # If the store went backwards, the newer pair is written back, to be revoked too.
        yield from load(job, overrides_lease=True)
        note = Note(event=EventName.REVOKING, actor=job.actor)
        record: Record | None = yield MarkRevoked(note, forget)
        if record is None:
            return Result(None, UnknownGrantError("No token is stored for this grant."))
        if is_moved(record):
            return Result(record, moved_error(record))
        if record.state is State.FORGOTTEN:
            return Result(record)
        # The cache must stop serving the grant before the bank is asked.
        yield Publish(Result(record), to_callers=False)
        yield Emit(EventName.REVOKING, record)
        return (yield from _revoke_at_bank(job, record))
    except StoreError as error:
        return Result(None, error)


def finish_revocation(job: Job) -> Steps:
    """Finish a revocation, unless the customer has consented again."""
    try:
        record = yield from load(job, overrides_lease=True)
        if record is None or not is_revoked(record) or is_moved(record):
            return Result(record)
        if record.state is State.FORGOTTEN:
            return Result(record)
        return (yield from _revoke_at_bank(job, record))
    except StoreError as error:
        return Result(None, error)


MOST_ROUNDS = 4
"""Number of times that a grant to be forgotten is revoked and erased; pairs may still arrive."""


def _revoke_at_bank(job: Job, record: Record) -> Steps:
    for _ in range(MOST_ROUNDS):
        result = yield from _revoke_and_erase(job, record)
        if result.error is not None:
            return result
        if not record.forgetting:
            yield Emit(EventName.REVOKED, result.record)
            return result
        after: Record | None = yield Load()
        if after is None or not after.forgetting:
            if after is not None and after.state is State.FORGOTTEN:
                yield Emit(EventName.FORGOTTEN, after)
            # Otherwise the customer has consented again.
            return Result(after)
        record = after
    return Result(
        record,
        StoreError(
            "The grant is revoked, but not forgotten: the journal still has a pair of it that "
            "cannot be opened or has just arrived. If a key of the store is missing, give it back. "
            "Then call forget again, or let refresh_due do it."
        ),
    )


def _revoke_and_erase(job: Job, record: Record) -> Steps:
    entries = yield JournalEntries()
    # To revoke a foreign pair would present it: it may be another customer's.
    own = [entry for entry in entries if entry.origin is not Origin.FOREIGN]
    # Pairs of a newer consent stay: the customer may have consented again in the meantime.
    journaled = [entry.token for entry in own if entry.consent <= record.consent]
    pairs = journaled if record.token is None else [record.token, *journaled]
    failure: BlinkError | None = None
    for pair in pairs:
        try:
            yield Revoke(pair)
        except BlinkError as error:
            reported = yield from report_foreign(job, record, error)
            failure = failure or reported
    if failure is not None:
        yield Emit(EventName.REVOCATION_FAILED, record, failure)
        return Result(record, failure)
    erased = evolve(record, state=State.REVOKED, token=None)
    note = Note(event=EventName.REVOKED, actor=job.actor)
    result = Result(erased)
    # Only what was revoked is erased: a refresh in progress may have journaled a pair since.
    # Callers of `forget` get no result before everything is deleted.
    interim = None if record.forgetting else result
    yield from retry_until_stored(Erase(record, journaled, note), interim)
    return result
