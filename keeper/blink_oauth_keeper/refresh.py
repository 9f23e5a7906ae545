"""The refresh protocol, written once.

It is a generator that yields what it wants done and is sent what came of it. In production the
steps are done by `flights` with a store and a client; the tests drive it with a scheduler that
tries to break it. It reads no clock but those it is given, and holds nothing while it waits.

The lines that make it safe are marked with a number in brackets. `tests/simulation` removes each
once and shows which promise breaks.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from attrs import evolve

from blink_oauth.errors import BlinkError, Outcome
from blink_oauth.tokens import Token

from . import pauses, policy
from .conditions import Conditions, Protocol
from .errors import StoreError
from .events import EventName
from .policy import Attempt, Refuse, Serve
from .settling import keep, settle, settle_failure, unspent
from .steps import Claim, Clearance, Landing, Load, Send, Step, Tell, Turn, Wait
from .store.records import Record

__all__ = ["refresh", "refresh_claimed"]

STORE_MEMORY = 0.5
"""Seconds for which a failure of the store is shared with others who ask."""
VERDICT_MEMORY = 1.0
"""Seconds for which the word that a customer is needed is shared with others who ask."""


def refresh(given: Conditions) -> Protocol:
    """Bring a usable token home: the stored one, somebody else's new one, or an own new one."""
    started = given.monotonic()
    looks, found = 0, None
    while True:
        try:
            record = yield Load()
        except StoreError as error:
            return Landing(None, error, memory=STORE_MEMORY)
        generation = record.generation if record else 0
        found = generation if found is None else found
        newer = generation > found
        if newer:
            # Whoever brought it: it is what a forced refresh is for.
            given = evolve(given, need=evolve(given.need, forced=False))
        verdict, pause = yield from _decide(given, record, looks)
        if isinstance(verdict, Serve):
            return Landing(record, newer=newer)
        if isinstance(verdict, Refuse):
            memory = verdict.error.retry_after or VERDICT_MEMORY
            return Landing(record, verdict.error, memory=memory)
        left = started + given.patience - given.monotonic()
        if isinstance(verdict, Attempt) and pause == 0 and left > 0:
            landing = yield from _claim_and_attempt(given, record)
            if landing is not None:
                return landing
            continue
        # [1] Whoever waits goes on waiting or gives up; it never refreshes without the lease.
        looks += 1
        if left <= 0 or not (yield Wait(min(pause, left))):
            return Landing(record, policy.pending(record))


def refresh_claimed(given: Conditions, claim: Record, claimed_at: float) -> Protocol:
    """Refresh a grant whose lease is taken already.

    Args:
        given: What the flight is given.
        claim: What the store returned for the claim.
        claimed_at: The monotonic time just before the store was asked for it.
    """
    landing = yield from _attempt(given, claim, claimed_at)
    return landing or Landing(claim)


def _decide(
    given: Conditions, record: Record | None, looks: int
) -> Generator[Step, Any, tuple[policy.Verdict, float]]:
    verdict = policy.judge(record, given.need, given.profile, given.now())
    if isinstance(verdict, policy.Wait):
        return verdict, pauses.poll(looks, given.random())
    if not isinstance(verdict, Attempt):
        return verdict, 0.0
    clearance: Clearance = yield Turn()
    verdict = policy.judge(
        record, given.need, given.profile, given.now(), hold_off=clearance.hold_off
    )
    return verdict, clearance.queue


def _claim_and_attempt(given: Conditions, record: Record) -> Generator[Step, Any, Landing | None]:
    owner = given.new_owner()
    claimed_at = given.monotonic()
    try:
        # [2] Nothing leaves before it stands in the store that it may.
        claim = yield Claim(record, owner)
    except StoreError as error:
        yield from _give_up_claim(given, evolve(record, owner=owner))
        return Landing(record, error, memory=STORE_MEMORY)
    # [3] Of many, the store lets one go on.
    if claim is None:
        return None
    return (yield from _attempt(given, claim, claimed_at))


def _give_up_claim(given: Conditions, claim: Record) -> Generator[Step, Any, None]:
    # The store may have written the claim all the same; nothing was sent under it.
    try:
        yield unspent(given, evolve(claim, attempts=claim.attempts + 1))
    except StoreError:
        return


def _attempt(
    given: Conditions, claim: Record, claimed_at: float
) -> Generator[Step, Any, Landing | None]:
    """Present the refresh token under a lease; None means: look at the store again."""
    while True:
        assert claim.token is not None
        assert claim.token.refresh_token is not None
        # [4] A call that could outlast the lease is not begun.
        if given.monotonic() - claimed_at + given.deadline > given.lease:
            yield from keep(unspent(given, claim))
            yield Tell(EventName.ABANDONED, claim)
            return None
        if claim.attempts > 1:
            yield Tell(EventName.REPLAYED, claim)
        issued_at, began = given.now(), given.monotonic()
        try:
            token = yield Send(claim.token.refresh_token)
        except BlinkError as error:
            seconds = given.monotonic() - began
            pair = _pair_that_replaces(error)
            if pair is not None:
                landing: Landing | None = yield from settle(given, claim, pair, issued_at, seconds)
                return landing
            lease_left = claimed_at + given.lease - given.monotonic()
            next_claim, landing = yield from settle_failure(
                given, claim, error, lease_left, seconds
            )
            if next_claim is None:
                return landing
            claim = next_claim
        else:
            # [5] The first thing done with a pair is to store it.
            seconds = given.monotonic() - began
            return (yield from settle(given, claim, token, issued_at, seconds))


def _pair_that_replaces(error: BlinkError) -> Token | None:
    """Return the pair in an error that takes the place of the one that may be spent."""
    whole = error.token is not None and error.token.refresh_token is not None
    return error.token if whole and error.outcome is Outcome.UNCERTAIN else None
