"""The second half of the refresh protocol: what is written down once the bank has answered.

The lines that make it safe are marked with a number in brackets, as in `protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve

from blink_oauth.errors import BlinkError, Outcome
from blink_oauth.tokens import Token

from . import pauses
from .conditions import Conditions
from .errors import StoreError
from .events import EventName
from .steps import Journal, Land, Landing, Load, Release, Revoke, Salvage, Settle, Step, Tell, Wait
from .store.records import Note, Origin, Record, Settlement, State, state_before

__all__ = ["keep", "settle", "settle_failure", "unspent"]

SETTLE_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the attempts to write a result; the last pause is repeated."""


def settle(
    given: Conditions, claim: Record, token: Token, issued_at: datetime, seconds: float
) -> Generator[Step, Any, Landing | None]:
    correlation_id = token.meta.correlation_id if token.meta else None
    state = State.ACTIVE
    if token.refresh_token is None:
        # A new one came and could not be read: the old one is all there is, and may be spent.
        assert claim.token is not None
        token, state = evolve(token, refresh_token=claim.token.refresh_token), State.UNCERTAIN
    idle_until = issued_at + timedelta(seconds=given.profile.idle_lifetime)
    note = Note(event=EventName.REFRESHED, correlation_id=correlation_id, actor=given.actor)
    step = Settle(claim, token, issued_at, idle_until, state, note)
    known = _renewed(step)
    settlement: Settlement | None = yield from keep(step, Landing(known, fresh=True))
    if settlement is None:
        return Landing(known, fresh=True)
    record = settlement.record
    # A result that is written late may find that the grant was revoked since.
    gone = record is None or record.state is State.REVOKED
    if settlement.stored and not gone:
        yield Tell(EventName.REFRESHED, record, correlation_id=correlation_id, seconds=seconds)
        return Landing(record, fresh=True)
    yield Tell(EventName.SUPERSEDED, record, correlation_id=correlation_id, seconds=seconds)
    if gone:
        # [6] What was revoked stays revoked: the pair that came too late goes as well.
        try:
            yield Revoke(token)
        except BlinkError as error:
            yield Tell(EventName.REVOCATION_FAILED, record, error)
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
    given: Conditions, claim: Record, error: BlinkError, lease_left: float, seconds: float
) -> Generator[Step, Any, tuple[Record | None, Landing | None]]:
    """Write a failure down; return the claim on another pair to try, or a landing."""
    note = _note(given, error)
    if error.token is not None and error.token.refresh_token is not None:
        yield from keep(Journal(claim, error.token, Origin.ERROR))
    if error.needs_consent:
        # [7] A pair that came home too late may be the one that is alive.
        salvaged = yield from keep(Salvage(claim, evolve(note, event=EventName.SALVAGED)))
        if salvaged is not None:
            yield Tell(EventName.SALVAGED, salvaged, error, seconds=seconds)
            return salvaged, None
    # If the bank rotated, only a prompt replay helps, however often anything failed before.
    in_doubt = error.outcome is Outcome.UNCERTAIN
    failures = claim.attempts if in_doubt else given.failures + 1
    pause = pauses.pause_after(
        error, failures=failures, spread=given.random(), lease_left=max(0.0, lease_left)
    )
    release = _verdict(given, claim, error, pause)
    known = evolve(
        claim,
        state=release.state,
        attempts=release.attempts,
        lease_left=0.0,
        pause_left=release.pause,
        error=release.error,
        correlation_id=error.correlation_id,
    )
    again = pauses.replay_soon(error, given.profile) and (
        release.attempts < 2 or not given.profile.rotates
    )
    landing = Landing(known, error, memory=pause, again_in=pause if again else None)
    ours = yield from keep(release, landing)
    yield Tell(EventName(note.event), known, error, seconds=seconds)
    # [8] If the lease or the generation is not ours any more, somebody else knows better.
    return None, None if ours is False else landing


def _note(given: Conditions, error: BlinkError) -> Note:
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
        actor=given.actor,
    )


def _verdict(given: Conditions, claim: Record, error: BlinkError, pause: float) -> Release:
    note = _note(given, error)
    if error.needs_consent:
        state, attempts, pause = State.NEEDS_CONSENT, claim.attempts, 0.0
    elif error.outcome is Outcome.UNCERTAIN or error.token is not None:
        # [9] The attempt stays on record, so that it is never made more than once again.
        state, attempts = State.UNCERTAIN, claim.attempts
    else:
        state, attempts = state_before(claim), claim.attempts - 1
    return Release(claim, state, attempts, pause, type(error).__name__, note)


def unspent(given: Conditions, claim: Record) -> Release:
    """Build the step that gives a lease back under which nothing was sent."""
    note = Note(event=EventName.ABANDONED, outcome=Outcome.NOT_EXECUTED, actor=given.actor)
    return Release(claim, state_before(claim), claim.attempts - 1, 0.0, claim.error, note)


def keep(
    step: Step,
    landing: Landing | None = None,
    done: Callable[[Record | None], bool] | None = None,
) -> Generator[Step, Any, Any]:
    """Do a step at the store until it is done, however long the store is away.

    Args:
        step: The step; doing it twice must do no harm.
        landing: What those who wait get as soon as the store has failed once; its error if None.
        done: Says of the stored record whether a try that seemed to fail was done all the same;
            for a step that would do harm once others have gone on from there.

    Returns:
        The result of the step, or None if everything closed before it could be done.
    """
    tries = 0
    going_on = True
    while True:
        try:
            if tries and done is not None:
                record = yield Load()
                if done(record):
                    yield Tell(EventName.SETTLED_LATE)
                    return record
            result = yield step
        except StoreError as error:
            if not tries:
                yield Tell(EventName.UNSETTLED, error=error)
                yield Land(landing or Landing(None, error))
            if not going_on:
                yield Tell(EventName.LOST, error=error)
                return None
            # [10] What was received is written sooner or later.
            pause = SETTLE_PAUSES[min(tries, len(SETTLE_PAUSES) - 1)]
            going_on = yield Wait(pause, laden=True)
            tries += 1
        else:
            if tries:
                yield Tell(EventName.SETTLED_LATE)
            return result
