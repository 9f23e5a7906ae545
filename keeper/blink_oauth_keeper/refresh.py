"""The refresh protocol, written once.

It does no I/O: it is a generator that yields steps and is sent what each step returns. In
production `flights` drives it and `executor` performs the steps; the tests drive it with a
scheduler that tries to break it. It reads no clock but those of its job, and holds no thread, lock
or connection while it waits.

The lines that make it safe are marked with a number in brackets. `tests/simulation` changes each in
turn and shows which invariant breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any
from uuid import uuid4

from attrs import evolve

from blink_oauth.errors import BlinkError, ForeignResponseError, Outcome
from blink_oauth.tokens import Token

from . import policy
from .clocks import Moment
from .errors import SealError, StoreError
from .events import EventName
from .notices import RECOVERED, due_notice
from .policy import Attempt, Refuse, Serve
from .steps import (
    AcquirePermit,
    AddNote,
    Claim,
    Emit,
    Erase,
    Job,
    Journal,
    Load,
    Permit,
    Publish,
    Release,
    Result,
    Revoke,
    Salvage,
    Send,
    Settle,
    Step,
    Steps,
    Wait,
    WriteBack,
)
from .store.moving import is_moved
from .store.protocol import (
    Note,
    Origin,
    Record,
    Settlement,
    State,
    is_revoked,
    notable_oddities,
    odd_detail,
    state_before,
)

__all__ = [
    "load",
    "look",
    "new_owner",
    "refresh",
    "refresh_claimed",
    "release_unspent",
    "report_foreign",
    "report_oddities",
    "retry_until_stored",
    "seconds_since",
]

STORE_RETRY_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the tries to store a result; the last pause is repeated."""


def new_owner() -> str:
    """Return a unique name for a claim."""
    return uuid4().hex


def seconds_since(job: Job, began: float) -> float | None:
    """Return the seconds since a call began, or None if the clock fails: that costs no pair."""
    try:
        return job.monotonic() - began
    except Exception:  # noqa: BLE001  nothing may be raised between spending and storing
        return None


def load(job: Job, *, overrides_lease: bool = False) -> Generator[Step, Any, Record | None]:
    """Read the record; if the store went backwards, write back the newest record known.

    While a lease runs, nothing is written back, since its owner may store a newer pair: the record
    that is returned is then the newest one known, under that lease.

    Args:
        job: What the flight is about.
        overrides_lease: Whether to write back although a lease runs: for a flight that replaces the
            record in any case.

    Raises:
        StoreError: The store cannot be used.
    """
    while True:
        stored: Record | None = yield Load()
        known = job.known()
        if known is None or not policy.is_behind(stored, known):
            return stored
        if stored is not None and stored.lease_left > 0 and not overrides_lease:
            return evolve(known, lease_left=stored.lease_left)
        written = yield from _write_back(job, known, stored)
        if written is not None:
            return written


def _write_back(
    job: Job, known: Record, seen: Record | None
) -> Generator[Step, Any, Record | None]:
    """Write a record back; return it as stored, or None if the store has changed meanwhile."""
    note = Note(
        event=EventName.STORE_BEHIND,
        correlation_id=known.correlation_id,
        detail=odd_detail(known.token),
        actor=job.actor,
    )
    stays_forgotten = seen is not None and policy.stays_forgotten(seen, known)
    if known.token is None and seen is not None:
        # The revocation was confirmed for the pair that was known then: it begins anew.
        forgetting = stays_forgotten or known.forgetting or known.state is State.FORGOTTEN
        known = evolve(known, state=State.REVOKING, token=seen.token, forgetting=forgetting)
    elif seen is not None and stays_forgotten:
        # What the store forgot is not used again: the newer pair is stored to be revoked.
        generation = max(known.generation, seen.generation) + 1
        known = evolve(known, generation=generation, state=State.REVOKING, forgetting=True)
    try:
        # What the process knows is stored again before anything older is presented.
        written: Record | None = yield WriteBack(known, seen, note)
    except StoreError as error:
        yield Emit(EventName.STORE_BEHIND, known, error)
        raise
    if written is not None:
        yield Emit(EventName.STORE_BEHIND, written, correlation_id=known.correlation_id)
    return written


def settle(
    job: Job, claim: Record, token: Token, issued_at: datetime, seconds: float | None
) -> Generator[Step, Any, Result | None]:
    """Store a received pair; return its result, or None to read the store again."""
    step = _settling(job, claim, token, issued_at)
    token, correlation_id = step.token, step.note.correlation_id
    received = Result(_renewed(step), obtained=True)
    settlement: Settlement | None = yield from retry_until_stored(step, received)
    if settlement is None:
        return received
    record = settlement.record
    yield from report_oddities(token, record, correlation_id)
    # The grant may have been revoked since the claim.
    revoked = record is not None and is_revoked(record) and not is_moved(record)
    if settlement.stored and not revoked:
        yield Emit(EventName.REFRESHED, record, correlation_id=correlation_id, seconds=seconds)
        return Result(record, obtained=True)
    yield Emit(EventName.SUPERSEDED, record, correlation_id=correlation_id, seconds=seconds)
    if policy.is_behind(record, claim):
        # The store went backwards during the refresh; the claimed pair is spent.
        yield Publish(received, to_callers=False)
        try:
            written = yield from _write_back(job, _renewed(step), record)
        except StoreError:
            return received
        return None if written is None else Result(written, obtained=True)
    if revoked:
        # A revoked grant stays revoked: its late pair is revoked now, and not by a later run only.
        try:
            yield Revoke(token)
        except BlinkError as failure:
            error = yield from report_foreign(job, claim, failure)
            yield Emit(EventName.REVOCATION_FAILED, record, error)
        else:
            # A pair of the record itself is still to be revoked, by the flight that marked it.
            if record is not None and record.forgetting and record.token is None:
                note = Note(event=EventName.REVOKED, actor=job.actor)
                yield from retry_until_stored(Erase(record, [token], note))
    return None


def _settling(job: Job, claim: Record, token: Token, issued_at: datetime) -> Settle:
    state = State.ACTIVE
    if token.refresh_token is None:
        # The new refresh token could not be read: the old one stays, and may be spent.
        assert claim.token is not None
        token, state = evolve(token, refresh_token=claim.token.refresh_token), State.UNCERTAIN
    note = Note(
        event=EventName.REFRESHED,
        correlation_id=token.meta.correlation_id if token.meta else None,
        detail=odd_detail(token),
        actor=job.actor,
        notice=RECOVERED,
    )
    idle_until = policy.idle_until(token, issued_at, job.profile)
    step = Settle(claim, token, issued_at, idle_until, state, note)
    if state is State.ACTIVE:
        return step
    notice = due_notice(_renewed(step), job.profile, job.now())
    return evolve(step, note=evolve(note, notice=notice))


def _renewed(step: Settle) -> Record:
    """Return the record as it will be once the pair is stored."""
    return evolve(
        step.claim,
        generation=step.claim.generation + 1,
        state=step.state,
        token=step.token,
        expires_at=step.token.expires_at,
        issued_at=step.issued_at,
        idle_until=step.idle_until,
        attempts=0 if step.state is State.ACTIVE else step.claim.attempts,
        lease_left=0.0,
        error=None,
        refusals=0,
        refused_since=None,
        correlation_id=step.note.correlation_id,
    )


def report_oddities(
    token: Token, record: Record | None, correlation_id: str | None
) -> Generator[Step, Any, None]:
    """Report what departed from the contract in the response with a pair.

    Args:
        token: The pair, after it was stored.
        record: The record, or None.
        correlation_id: The correlation id of the call.
    """
    if oddities := notable_oddities(token):
        yield Emit(EventName.ODD_RESPONSE, record, correlation_id=correlation_id, oddities=oddities)


def report_foreign(job: Job, record: Record, error: BlinkError) -> Generator[Step, Any, BlinkError]:
    """Journal and report the foreign responses in an error.

    A pair in one may be another customer's: it is kept in the journal, but neither served nor
    presented, also not to revoke it.

    Args:
        job: What the flight is about.
        record: The record, or an empty one if the grant has none.
        error: The error of a call to the bank.

    Returns:
        The error without such a pair.
    """
    responses = policy.foreign_responses(error)
    for response in responses:
        if response.token is not None:
            yield from retry_until_stored(Journal(record, response.token, Origin.FOREIGN))
        yield Emit(EventName.FOREIGN_RESPONSE, record if record.consent else None, response)
        note = Note(
            event=EventName.FOREIGN_RESPONSE,
            correlation_id=response.correlation_id,
            outcome=response.outcome,
            detail=response.foreign_correlation_id,
            actor=job.actor,
        )
        yield from retry_until_stored(AddNote(note))
    return policy.without_foreign_pairs(error) if responses else error


def store_failure(
    job: Job, claim: Record, error: BlinkError, lease_left: float, seconds: float | None
) -> Generator[Step, Any, tuple[Record | None, Result | None]]:
    """Store a failure; return the claim on a salvaged pair, or a result, or neither.

    With neither the store is read again.
    """
    error = yield from report_foreign(job, claim, error)
    note = _note(job, error)
    if error.token is not None and error.token.refresh_token is not None:
        yield from retry_until_stored(Journal(claim, error.token, Origin.ERROR))
    if error.needs_consent:
        # [6] A superseded pair in the journal may be the valid one.
        salvaged = yield from retry_until_stored(
            Salvage(claim, evolve(note, event=EventName.SALVAGED))
        )
        if salvaged is not None:
            yield Emit(EventName.SALVAGED, salvaged, error, seconds=seconds)
            return salvaged, None
    # If the bank rotated, only a prompt replay helps: other failures must not delay it.
    uncertain = error.outcome is Outcome.UNCERTAIN
    failures = claim.attempts if uncertain else job.failures + 1
    needed_attention = policy.needs_attention(claim)
    counted = policy.with_refusal(claim, error, job.now())
    pause = policy.pause_after(
        error,
        failures=failures,
        spread=job.random(),
        lease_left=max(0.0, lease_left),
        refusals=0 if counted is claim else counted.refusals,
    )
    claim = counted
    release = _release_after(job, claim, error, pause)
    released = _released(release)
    replay = policy.should_replay(error, job.profile) and (
        release.attempts < 2 or not job.profile.rotates
    )
    shared_for = min(pause, policy.LONGEST_SHARED)
    told = policy.error_for_callers(error, released, job.profile, job.now())
    result = Result(released, told, shared_for=shared_for, refresh_in=pause if replay else None)
    # Until it is stored, this state is not certain: another owner may have taken the lease over.
    held_lease = yield from retry_until_stored(release, evolve(result, record=claim))
    yield Emit(EventName(note.event), released, error, seconds=seconds)
    if held_lease and policy.needs_attention(released) and not needed_attention:
        yield Emit(EventName.ATTENTION_NEEDED, released, error)
    if held_lease is False and release.state is State.UNCERTAIN:
        # If the store went backwards, the attempt must stay counted.
        yield Publish(Result(released), to_callers=False)
    # [7] Without the lease this failure is out of date: the store has a newer state.
    return None, None if held_lease is False else result


def _note(job: Job, error: BlinkError) -> Note:
    if error.needs_consent:
        event = EventName.CONSENT_NEEDED
    elif error.outcome is Outcome.UNCERTAIN:
        event = EventName.UNCERTAIN
    else:
        event = EventName.FAILED
    return Note(
        event=event,
        correlation_id=error.correlation_id,
        outcome=error.outcome,
        detail=type(error).__name__,
        actor=job.actor,
    )


def _release_after(job: Job, claim: Record, error: BlinkError, pause: float) -> Release:
    note = _note(job, error)
    if error.needs_consent:
        state, attempts, pause = State.NEEDS_CONSENT, claim.attempts, 0.0
    elif error.outcome is Outcome.UNCERTAIN or error.token is not None:
        # [8] The attempt stays counted, so that the limit on replays holds.
        state, attempts = State.UNCERTAIN, claim.attempts
    else:
        state, attempts = state_before(claim), claim.attempts - 1
    release = Release(claim, state, attempts, pause, type(error).__name__, note)
    return _with_notice(job, release)


def release_unspent(job: Job, claim: Record) -> Release:
    """Return the step that releases a lease under which nothing was sent."""
    note = Note(event=EventName.ABANDONED, outcome=Outcome.NOT_EXECUTED, actor=job.actor)
    attempts = claim.attempts - 1
    return _with_notice(job, Release(claim, state_before(claim), attempts, 0.0, claim.error, note))


def _with_notice(job: Job, release: Release) -> Release:
    notice = due_notice(_released(release), job.profile, job.now())
    return evolve(release, note=evolve(release.note, notice=notice))


def _released(release: Release) -> Record:
    """Return the record as it will be once the lease is released."""
    return evolve(
        release.claim,
        state=release.state,
        attempts=release.attempts,
        lease_left=0.0,
        pause_left=release.pause,
        error=release.error,
        correlation_id=release.note.correlation_id or release.claim.correlation_id,
    )


def retry_until_stored(
    step: Step,
    interim: Result | None = None,
    was_executed: Callable[[Record | None], bool] | None = None,
) -> Generator[Step, Any, Any]:
    """Repeat a step at the store until it succeeds, however long the store is unavailable.

    Args:
        step: The step; it must be safe to repeat, unless `was_executed` is given.
        interim: The result that callers get once the store has failed; by default its error.
        was_executed: Returns whether the stored record shows that a failed try was executed after
            all; for a step that must not be repeated once the record has changed.

    Returns:
        What the step returns, or None if the manager closed first. If `was_executed` found the step
        executed, the record.
    """
    tries = 0
    time_left = True
    while True:
        try:
            if tries and was_executed is not None:
                record = yield from _load_record()
                if was_executed(record):
                    yield Emit(EventName.SETTLED_LATE)
                    return record
            returned = yield step
        except StoreError as error:
            if not tries:
                yield Emit(EventName.UNSETTLED, error=error)
                yield Publish(interim or Result(None, error))
            if not time_left:
                yield Emit(EventName.LOST, error=error)
                return None
            # [9] A result that cannot be stored is tried again until it is.
            pause = STORE_RETRY_PAUSES[min(tries, len(STORE_RETRY_PAUSES) - 1)]
            time_left = yield Wait(pause, has_unstored_result=True)
            tries += 1
        else:
            if tries:
                yield Emit(EventName.SETTLED_LATE)
            return returned


def _load_record() -> Generator[Step, Any, Record | None]:
    """Load the record, without its pair if that cannot be opened."""
    try:
        record: Record | None = yield Load()
    except SealError as error:
        if error.record is None:
            raise
        return error.record
    return record


STORE_FAILURE_SHARED_FOR = 0.5
"""Seconds for which later callers get a failure of the store without a new flight."""
REFUSAL_SHARED_FOR = 1.0
"""Seconds for which later callers get the same refusal without a new flight, if it has no
`retry_after`."""

MIN_TRIES = 2
"""Number of tries to claim a grant that a flight may make although it has waited long enough."""


def refresh(job: Job) -> Steps:
    """Get a usable pair: the stored one, one that another flight stores, or a refreshed one."""
    started = job.monotonic()
    polls, tries, first_read = 0, 0, True
    first: Record | None = None
    while True:
        try:
            record = yield from load(job)
        except StoreError as error:
            return Result(None, error, shared_for=STORE_FAILURE_SHARED_FOR)
        if first_read:
            first, first_read = record, False
        stored_meanwhile = (
            record is not first and record is not None and policy.is_newer(record, first)
        )
        if stored_meanwhile:
            # A forced refresh wants a newer pair; it does not matter which flight stored it.
            job = evolve(job, need=evolve(job.need, forced=False))
        decision, pause = yield from _decide(job, record, polls)
        if isinstance(decision, Serve):
            return Result(record, stored_meanwhile=stored_meanwhile)
        if isinstance(decision, Refuse):
            shared_for = decision.error.retry_after or REFUSAL_SHARED_FOR
            shared_for = min(shared_for, policy.LONGEST_SHARED)
            return Result(record, decision.error, shared_for=shared_for)
        assert record is not None, "without a record the decision is to refuse"
        left = started + job.max_wait - job.monotonic()
        # A machine that slept is late, but need not wait any longer.
        if isinstance(decision, Attempt) and pause == 0 and (left > 0 or tries < MIN_TRIES):
            tries += 1
            result = yield from _claim_and_attempt(job, record)
            if result is not None:
                return result
            continue
        # [1] A flight that waits looks again or gives up; it never refreshes without the lease.
        polls += 1
        if left <= 0 or not (yield Wait(min(pause, left))):
            return Result(record, policy.pending_error(record))


def refresh_claimed(job: Job, claim: Record, claimed_at: Moment) -> Steps:
    """Refresh a grant that `claim_due` has claimed for this flight.

    Args:
        job: What the flight is about.
        claim: The record that the store returned for the claim.
        claimed_at: The moment just before the store was asked for it.
    """
    known = job.known()
    is_behind = known is not None and policy.is_behind(claim, known)
    if not is_behind:
        result = yield from _attempt(job, claim, claimed_at)
        if result is not None:
            return result
    try:
        # If the claimed record is behind, the lease is this flight's own.
        return Result((yield from load(job, overrides_lease=is_behind)))
    except StoreError as error:
        return Result(None, error)


def look(job: Job) -> Steps:
    """Read the record, and refresh nothing. Wait while a doubted token may be replaced."""
    started, polls = job.monotonic(), 0
    while True:
        try:
            record = yield from load(job)
        except StoreError as error:
            return Result(None, error)
        left = started + job.max_wait - job.monotonic()
        if left <= 0 or not policy.may_be_replaced(record, job.need):
            return Result(record)
        if not (yield Wait(min(policy.poll_delay(polls, job.random()), left))):
            return Result(record)
        polls += 1


def _decide(
    job: Job, record: Record | None, polls: int
) -> Generator[Step, Any, tuple[policy.Decision, float]]:
    ago = job.responded_ago()
    decision = policy.decide(record, job.need, job.profile, job.now(), responded_ago=ago)
    if isinstance(decision, policy.AwaitLease):
        return decision, policy.poll_delay(polls, job.random())
    if not isinstance(decision, Attempt):
        return decision, 0.0
    permit: Permit = yield AcquirePermit()
    hold_off = permit.hold_off
    if hold_off > 0:
        decision = policy.decide(
            record, job.need, job.profile, job.now(), hold_off=hold_off, responded_ago=ago
        )
    return decision, permit.wait


def _claim_and_attempt(job: Job, record: Record) -> Generator[Step, Any, Result | None]:
    owner = job.new_owner()
    claimed_at = job.moment()
    try:
        # [2] Nothing is sent before the store has committed the claim.
        claim = yield Claim(record, owner)
    except StoreError as error:
        # Callers of a stale token get no error, so the event alone tells why it stays.
        yield Emit(EventName.FAILED, record, error)
        yield from _give_up_claim(job, evolve(record, owner=owner))
        return Result(record, error, shared_for=STORE_FAILURE_SHARED_FOR)
    # [3] Of several claims at the same time one succeeds.
    if claim is None:
        return None
    return (yield from _attempt(job, claim, claimed_at))


def _give_up_claim(job: Job, claim: Record) -> Generator[Step, Any, None]:
    # The store may have committed the claim before it failed; nothing was sent under it.
    try:
        yield release_unspent(job, evolve(claim, attempts=claim.attempts + 1))
    except StoreError:
        return


def _attempt(job: Job, claim: Record, claimed_at: Moment) -> Generator[Step, Any, Result | None]:
    """Present the refresh token under a lease; return None to read the store again."""
    while True:
        assert claim.token is not None
        assert claim.token.refresh_token is not None
        # [4] A call that could outlast the lease is not begun.
        if job.elapsed(claimed_at) + job.call_timeout > job.lease:
            yield from retry_until_stored(release_unspent(job, claim))
            yield Emit(EventName.ABANDONED, claim)
            return None
        if claim.attempts > 1:
            yield Emit(EventName.REPLAYED, claim)
        issued_at, began = job.now(), job.monotonic()
        # A step of the wall clock must not end the wait for a request that may still arrive.
        lease_left = claimed_at.monotonic + job.lease - began
        try:
            token = yield Send(claim.token.refresh_token)
        except BlinkError as error:
            seconds = seconds_since(job, began)
            pair = _pair_in_uncertain_response(error)
            if pair is not None:
                result: Result | None = yield from settle(job, claim, pair, issued_at, seconds)
                return result
            next_claim, result = yield from store_failure(
                job, claim, error, lease_left - (seconds or 0.0), seconds
            )
            if next_claim is None:
                return result
            claim = next_claim
        else:
            # [5] A pair is stored before anything else is done with it.
            seconds = seconds_since(job, began)
            return (yield from settle(job, claim, token, issued_at, seconds))


def _pair_in_uncertain_response(error: BlinkError) -> Token | None:
    """Return the complete pair in an error whose outcome is UNCERTAIN, or None.

    It replaces the pair that was presented, unless the response is foreign.
    """
    # [10] The pair of a foreign response may be another customer's.
    if isinstance(error, ForeignResponseError):
        return None
    complete = error.token is not None and error.token.refresh_token is not None
    return error.token if complete and error.outcome is Outcome.UNCERTAIN else None
