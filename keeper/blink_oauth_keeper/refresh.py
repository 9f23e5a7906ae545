"""The refresh protocol, written once.

It decides and does nothing itself: it is a generator that yields a step and is sent what the step
returns. In production `flights` drives it and waits for it, and `executor` performs the steps; the
tests drive it with a scheduler that tries to break it. It reads no clock but those it is given, and
holds nothing while it waits.

The lines that make it safe are marked with a number in brackets. `tests/simulation` removes each
once and shows which promise breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from attrs import evolve

from blink_oauth.errors import BlinkError, Outcome
from blink_oauth.tokens import Token

from . import policy
from .errors import StoreError
from .events import EventName
from .policy import Attempt, Refuse, Serve
from .steps import (
    AcquirePermit,
    Claim,
    Emit,
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
)
from .store.protocol import Note, Origin, Record, Settlement, State, state_before

__all__ = ["new_owner", "refresh", "refresh_claimed", "release_unspent", "retry_until_stored"]

SETTLE_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the attempts to write a result; the last pause is repeated."""


def new_owner() -> str:
    """Make a unique name for a claim."""
    return uuid4().hex


def settle(
    job: Job, claim: Record, token: Token, issued_at: datetime, seconds: float
) -> Generator[Step, Any, Result | None]:
    correlation_id = token.meta.correlation_id if token.meta else None
    state = State.ACTIVE
    if token.refresh_token is None:
        # A new one came and could not be read: the old one is all there is, and may be spent.
        assert claim.token is not None
        token, state = evolve(token, refresh_token=claim.token.refresh_token), State.UNCERTAIN
    idle_until = issued_at + timedelta(seconds=job.profile.idle_lifetime)
    note = Note(event=EventName.REFRESHED, correlation_id=correlation_id, actor=job.actor)
    step = Settle(claim, token, issued_at, idle_until, state, note)
    known = _renewed(step)
    received = Result(known, obtained=True)
    settlement: Settlement | None = yield from retry_until_stored(step, received)
    if settlement is None:
        return received
    record = settlement.record
    # A result that is written late may find that the grant was revoked since.
    gone = record is None or record.state is State.REVOKED
    if settlement.stored and not gone:
        yield Emit(EventName.REFRESHED, record, correlation_id=correlation_id, seconds=seconds)
        return Result(record, obtained=True)
    yield Emit(EventName.SUPERSEDED, record, correlation_id=correlation_id, seconds=seconds)
    if gone:
        # [6] What was revoked stays revoked: the pair that came too late goes as well.
        try:
            yield Revoke(token)
        except BlinkError as error:
            yield Emit(EventName.REVOCATION_FAILED, record, error)
    return None


def _renewed(step: Settle) -> Record:
    """Return the record as it will be once the pair is stored."""
    return evolve(
        step.claim,
        generation=step.claim.generation + 1,
        state=step.state,
        token=step.token,
        issued_at=step.issued_at,
        idle_until=step.idle_until,
        attempts=0 if step.state is State.ACTIVE else step.claim.attempts,
        lease_left=0.0,
        error=None,
        correlation_id=step.note.correlation_id,
    )


def settle_failure(
    job: Job, claim: Record, error: BlinkError, lease_left: float, seconds: float
) -> Generator[Step, Any, tuple[Record | None, Result | None]]:
    """Write a failure down; return the claim on another pair to try, or a result."""
    note = _note(job, error)
    if error.token is not None and error.token.refresh_token is not None:
        yield from retry_until_stored(Journal(claim, error.token, Origin.ERROR))
    if error.needs_consent:
        # [7] A pair that came too late may be the one that is alive.
        salvaged = yield from retry_until_stored(
            Salvage(claim, evolve(note, event=EventName.SALVAGED))
        )
        if salvaged is not None:
            yield Emit(EventName.SALVAGED, salvaged, error, seconds=seconds)
            return salvaged, None
    # If the bank rotated, only a prompt replay helps, however often anything failed before.
    in_doubt = error.outcome is Outcome.UNCERTAIN
    failures = claim.attempts if in_doubt else job.failures + 1
    pause = policy.pause_after(
        error, failures=failures, spread=job.random(), lease_left=max(0.0, lease_left)
    )
    release = _release_after(job, claim, error, pause)
    known = evolve(
        claim,
        state=release.state,
        attempts=release.attempts,
        lease_left=0.0,
        pause_left=release.pause,
        error=release.error,
        correlation_id=error.correlation_id,
    )
    again = policy.should_replay(error, job.profile) and (
        release.attempts < 2 or not job.profile.rotates
    )
    result = Result(known, error, shared_for=pause, refresh_in=pause if again else None)
    ours = yield from retry_until_stored(release, result)
    yield Emit(EventName(note.event), known, error, seconds=seconds)
    # [8] If the lease or the generation is not ours any more, somebody else knows better.
    return None, None if ours is False else result


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
        # [9] The attempt stays on record, so that it is never made more than once again.
        state, attempts = State.UNCERTAIN, claim.attempts
    else:
        state, attempts = state_before(claim), claim.attempts - 1
    return Release(claim, state, attempts, pause, type(error).__name__, note)


def release_unspent(job: Job, claim: Record) -> Release:
    """Build the step that gives a lease back under which nothing was sent."""
    note = Note(event=EventName.ABANDONED, outcome=Outcome.NOT_EXECUTED, actor=job.actor)
    return Release(claim, state_before(claim), claim.attempts - 1, 0.0, claim.error, note)


def retry_until_stored(
    step: Step,
    interim: Result | None = None,
    done: Callable[[Record | None], bool] | None = None,
) -> Generator[Step, Any, Any]:
    """Do a step at the store until it is done, however long the store is away.

    Args:
        step: The step; doing it twice must do no harm.
        interim: What those who wait get as soon as the store has failed once; its error if None.
        done: Says of the stored record whether a try that seemed to fail was done all the same;
            for a step that would do harm once others have gone on from there.

    Returns:
        What the step returns, or None if everything closed before it could be done.
    """
    tries = 0
    going_on = True
    while True:
        try:
            if tries and done is not None:
                record = yield Load()
                if done(record):
                    yield Emit(EventName.SETTLED_LATE)
                    return record
            returned = yield step
        except StoreError as error:
            if not tries:
                yield Emit(EventName.UNSETTLED, error=error)
                yield Publish(interim or Result(None, error))
            if not going_on:
                yield Emit(EventName.LOST, error=error)
                return None
            # [10] What was received is stored sooner or later.
            pause = SETTLE_PAUSES[min(tries, len(SETTLE_PAUSES) - 1)]
            going_on = yield Wait(pause, has_unsaved_result=True)
            tries += 1
        else:
            if tries:
                yield Emit(EventName.SETTLED_LATE)
            return returned


STORE_FAILURE_SHARED_FOR = 0.5
"""Seconds for which a failure of the store is shared with others who ask."""
REFUSAL_SHARED_FOR = 1.0
"""Seconds for which the word that a customer is needed is shared with others who ask."""


def refresh(job: Job) -> Steps:
    """Get a usable token: the stored one, one that another has refreshed, or a new one."""
    started = job.monotonic()
    looks, found = 0, None
    while True:
        try:
            record = yield Load()
        except StoreError as error:
            return Result(None, error, shared_for=STORE_FAILURE_SHARED_FOR)
        generation = record.generation if record else 0
        found = generation if found is None else found
        newer = generation > found
        if newer:
            # Whoever brought it: it is what a forced refresh is for.
            job = evolve(job, need=evolve(job.need, forced=False))
        decision, pause = yield from _decide(job, record, looks)
        if isinstance(decision, Serve):
            return Result(record, newer=newer)
        if isinstance(decision, Refuse):
            memory = decision.error.retry_after or REFUSAL_SHARED_FOR
            return Result(record, decision.error, shared_for=memory)
        left = started + job.max_wait - job.monotonic()
        if isinstance(decision, Attempt) and pause == 0 and left > 0:
            result = yield from _claim_and_attempt(job, record)
            if result is not None:
                return result
            continue
        # [1] Whoever waits goes on waiting or gives up; it never refreshes without the lease.
        looks += 1
        if left <= 0 or not (yield Wait(min(pause, left))):
            return Result(record, policy.pending_error(record))


def refresh_claimed(job: Job, claim: Record, claimed_at: float) -> Steps:
    """Refresh a grant whose lease is taken already.

    Args:
        job: What the flight is about, and what it is given.
        claim: What the store returned for the claim.
        claimed_at: The monotonic time just before the store was asked for it.
    """
    result = yield from _attempt(job, claim, claimed_at)
    return result or Result(claim)


def _decide(
    job: Job, record: Record | None, looks: int
) -> Generator[Step, Any, tuple[policy.Decision, float]]:
    decision = policy.decide(record, job.need, job.profile, job.now())
    if isinstance(decision, policy.AwaitLease):
        return decision, policy.poll_delay(looks, job.random())
    if not isinstance(decision, Attempt):
        return decision, 0.0
    permit: Permit = yield AcquirePermit()
    hold_off = permit.hold_off
    if hold_off > 0:
        decision = policy.decide(record, job.need, job.profile, job.now(), hold_off=hold_off)
    return decision, permit.queue


def _claim_and_attempt(job: Job, record: Record) -> Generator[Step, Any, Result | None]:
    owner = job.new_owner()
    claimed_at = job.monotonic()
    try:
        # [2] Nothing leaves before it stands in the store that it may.
        claim = yield Claim(record, owner)
    except StoreError as error:
        yield from _give_up_claim(job, evolve(record, owner=owner))
        return Result(record, error, shared_for=STORE_FAILURE_SHARED_FOR)
    # [3] Of many, the store lets one go on.
    if claim is None:
        return None
    return (yield from _attempt(job, claim, claimed_at))


def _give_up_claim(job: Job, claim: Record) -> Generator[Step, Any, None]:
    # The store may have written the claim all the same; nothing was sent under it.
    try:
        yield release_unspent(job, evolve(claim, attempts=claim.attempts + 1))
    except StoreError:
        return


def _attempt(job: Job, claim: Record, claimed_at: float) -> Generator[Step, Any, Result | None]:
    """Present the refresh token under a lease; None means: look at the store again."""
    while True:
        assert claim.token is not None
        assert claim.token.refresh_token is not None
        # [4] A call that could outlast the lease is not begun.
        if job.monotonic() - claimed_at + job.deadline > job.lease:
            yield from retry_until_stored(release_unspent(job, claim))
            yield Emit(EventName.ABANDONED, claim)
            return None
        if claim.attempts > 1:
            yield Emit(EventName.REPLAYED, claim)
        issued_at, began = job.now(), job.monotonic()
        try:
            token = yield Send(claim.token.refresh_token)
        except BlinkError as error:
            seconds = job.monotonic() - began
            pair = _pair_that_replaces(error)
            if pair is not None:
                result: Result | None = yield from settle(job, claim, pair, issued_at, seconds)
                return result
            lease_left = claimed_at + job.lease - job.monotonic()
            next_claim, result = yield from settle_failure(job, claim, error, lease_left, seconds)
            if next_claim is None:
                return result
            claim = next_claim
        else:
            # [5] The first thing done with a pair is to store it.
            seconds = job.monotonic() - began
            return (yield from settle(job, claim, token, issued_at, seconds))


def _pair_that_replaces(error: BlinkError) -> Token | None:
    """Return the pair in an error that takes the place of the one that may be spent."""
    whole = error.token is not None and error.token.refresh_token is not None
    return error.token if whole and error.outcome is Outcome.UNCERTAIN else None
