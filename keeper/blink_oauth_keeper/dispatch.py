"""Who gets a token at once, who joins a refresh, and who starts one."""

from __future__ import annotations

import copy
from asyncio import wait_for, wrap_future
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

from attrs import define, evolve, field

from blink_oauth.context import Grant, Psu
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret, Token

from . import consent
from .cache import Holding
from .errors import RefreshPendingError
from .executor import Errand, Performer
from .flights import Flight, Flights
from .policy import Need, still_good
from .profile import Profiles, TargetProfile
from .refresh import refresh, refresh_claimed, unspent
from .steps import Clearance, Conditions, Landing, Step, Steps, Turn
from .store.protocol import GrantKey, Record

__all__ = [
    "Dispatch",
    "answer",
    "await_token",
    "remaining",
    "require_no_error",
    "token_of",
    "wait_for_token",
]


def answer(landing: Landing, need: Need, profile: TargetProfile, now: datetime) -> Token | None:
    """Return the token that a landing has for somebody, or None if they had better ask again.

    A token that is still good is served whatever went wrong. One that the flight itself has
    brought is served however short it lives: another would not live longer. Who forced a refresh
    gets only what came while the flight was in the air.

    Raises:
        BlinkError: What went wrong, as an exception of this caller's own.
    """
    record = landing.record
    if record is not None:
        brought = landing.fresh and record.generation > need.beyond
        enough = landing.newer or not need.forced
        if brought or (enough and still_good(record, need, profile, now)):
            return record.token
    # Many callers share the error; each raises a copy, since raising changes it.
    require_no_error(landing)
    return None


def token_of(landing: Landing) -> Token:
    """Return the token that an authorization brought.

    Raises:
        BlinkError: It brought none.
    """
    require_no_error(landing)
    assert landing.record is not None
    assert landing.record.token is not None
    return landing.record.token


def require_no_error(landing: Landing) -> None:
    """Raise what went wrong, if anything did."""
    if landing.error is not None:
        raise copy.copy(landing.error)


def remaining(timeout: float | None, monotonic: Callable[[], float]) -> Callable[[], float | None]:
    """Start a caller's time, and return what tells how many seconds of it are left."""
    if timeout is None:
        return lambda: None
    end = monotonic() + timeout
    return lambda: max(0.0, end - monotonic())


def overdue() -> RefreshPendingError:
    """Build the error for a caller whose own time is over."""
    return RefreshPendingError(
        "The refresh took longer than you wanted to wait. It goes on, and its result will be "
        "stored: ask again."
    )


MARGIN = 5.0
"""Seconds between the end of a lease and the end of the patience with who holds it."""
SETTLING = 0.5
"""Seconds between two looks at a store that is about to be given a newer pair."""


@define(eq=False)
class Dispatch:
    """Starts flights and shares them.

    Args:
        performer: Does the steps.
        flights: What is in the air.
        holding: What is remembered.
        profiles: What is known of the targets.
        client_id: Whose grants.
        now: Tells the time, aware UTC.
        monotonic: Tells the seconds, never backwards.
        random: Makes a number from 0 to below 1.
    """

    performer: Performer
    flights: Flights
    holding: Holding
    profiles: Profiles
    client_id: str
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    new_owner: Callable[[], str] = field(default=lambda: uuid4().hex)

    def key(self, grant: Grant) -> GrantKey:
        """Return the identity of a grant in the store.

        Raises:
            InvalidInputError: It is no grant.
        """
        if not isinstance(grant, Grant):
            raise InvalidInputError(
                f"The grant must be a Grant, but it is a {type(grant).__name__}. Nothing was sent."
            )
        return GrantKey(self.client_id, grant)

    def ask(self, grant: Grant, wanted: Need, psu: Psu) -> Token | Future[Landing]:
        """Return a token that is at hand, or the flight that will bring one.

        Raises:
            BlinkError: A flight failed so short a time ago that another would fail as well.
        """
        key, need = self.key(grant), self.holding.need(grant, wanted)
        held = self.holding.servable(grant, need)
        failed = self.holding.failure(grant)
        if held is not None:
            if failed is None and self.now() >= held.fresh_until:
                self.refresh_in_background(grant)
            return held.token
        if failed is not None:
            return self.consider(grant, failed, wanted, psu)
        return self._share(key, need, psu)

    def consider(
        self, grant: Grant, landing: Landing, wanted: Need, psu: Psu
    ) -> Token | Future[Landing]:
        """Return what a landing has for somebody who waited, or another flight to wait for.

        Raises:
            BlinkError: What went wrong.
        """
        need = self.holding.need(grant, wanted)
        token = answer(landing, need, self.profiles.of(grant.target_id), self.now())
        return self._share(self.key(grant), need, psu) if token is None else token

    def refresh_in_background(self, grant: Grant) -> None:
        """Start an early refresh, unless one is in the air or everything is closing."""
        with suppress(InvalidInputError):
            self._share(self.key(grant), self.holding.need(grant, Need(eager=True)), Psu.AUTO)

    def exchange(self, grant: Grant, code: Secret, redirect_uri: str, psu: Psu) -> Future[Landing]:
        """Start the exchange of a code."""
        key = self.key(grant)
        errand = Errand(key, self.profiles.of(grant.target_id), psu, code, redirect_uri)
        flight = self._flight(errand, consent.authorize(self._given(errand, Need()), key))
        return self.flights.start(flight, joinable=False)

    def revocation(self, grant: Grant, psu: Psu) -> Future[Landing]:
        """Start a revocation."""
        errand = Errand(self.key(grant), self.profiles.of(grant.target_id), psu)
        flight = self._flight(errand, consent.revoke(self._given(errand, Need())))
        return self.flights.start(flight, joinable=False)

    def refresh_claimed(self, claim: Record, claimed_at: float) -> Future[Landing]:
        """Start the refresh of a record whose lease is taken."""
        if self.holding.knows_newer(claim):
            self.give_back(claim, pause=SETTLING)
            landed: Future[Landing] = Future()
            landed.set_result(Landing(claim))
            return landed
        errand = Errand(claim.key, self.profiles.of(claim.key.grant.target_id))
        given = self._given(errand, Need())
        flight = self._flight(errand, refresh_claimed(given, claim, claimed_at))
        return self.flights.start(flight, joinable=True)

    def give_back(self, claim: Record, *, pause: float = 0.0) -> None:
        """Give a lease back under which nothing was begun."""
        errand = Errand(claim.key, self.profiles.of(claim.key.grant.target_id))
        release = unspent(self._given(errand, Need()), claim)
        self.performer.do(errand, evolve(release, pause=pause))

    def _share(self, key: GrantKey, need: Need, psu: Psu) -> Future[Landing]:
        errand = Errand(key, self.profiles.of(key.grant.target_id), psu)
        return self.flights.share(
            key.grant, lambda: self._flight(errand, refresh(self._given(errand, need)))
        )

    def _flight(self, errand: Errand, steps: Steps) -> Flight:
        grant = errand.key.grant
        return Flight(grant, steps, partial(self._do, errand), partial(self._landed, grant))

    def _do(self, errand: Errand, step: Step) -> Any:
        if isinstance(step, Turn) and self.flights.unsettled(errand.key.grant):
            # What the store has is spent; this process has the living pair, and is writing it.
            return Clearance(queue=SETTLING)
        return self.performer.do(errand, step)

    def _given(self, errand: Errand, need: Need) -> Conditions:
        lease = self.performer.lease
        return Conditions(
            need=need,
            profile=errand.profile,
            lease=lease,
            deadline=self.performer.deadline,
            patience=lease + MARGIN,
            failures=self.holding.failures(errand.key.grant),
            actor="auto" if errand.psu == Psu.AUTO else "psu",
            now=self.now,
            monotonic=self.monotonic,
            random=self.random,
            new_owner=self.new_owner,
        )

    def _landed(self, grant: Grant, landing: Landing) -> None:
        self.holding.remember(grant, landing)
        if landing.again_in is not None:
            self.flights.later(landing.again_in, partial(self.refresh_in_background, grant))


def wait_for_token(
    dispatch: Dispatch, grant: Grant, wanted: Need, psu: Psu, timeout: float | None
) -> Token:
    """Return a token that does, or raise why there is none; the thread waits for it.

    Args:
        dispatch: Brings it.
        grant: Whose token.
        wanted: What it must be good for.
        psu: The person who waits for it, if one does.
        timeout: Seconds to wait at most.

    Raises:
        BlinkError: There is none, or not in time.
    """
    left = remaining(timeout, dispatch.monotonic)
    asked = dispatch.ask(grant, wanted, psu)
    while isinstance(asked, Future):
        try:
            landing = asked.result(left())
        except TimeoutError:
            raise overdue() from None
        asked = dispatch.consider(grant, landing, wanted, psu)
    return asked


async def await_token(
    dispatch: Dispatch, grant: Grant, wanted: Need, psu: Psu, timeout: float | None
) -> Token:
    """Return a token that does, or raise why there is none; the coroutine waits for it.

    Args:
        dispatch: Brings it.
        grant: Whose token.
        wanted: What it must be good for.
        psu: The person who waits for it, if one does.
        timeout: Seconds to wait at most.

    Raises:
        BlinkError: There is none, or not in time.
    """
    left = remaining(timeout, dispatch.monotonic)
    asked = dispatch.ask(grant, wanted, psu)
    while isinstance(asked, Future):
        try:
            landing = await wait_for(wrap_future(asked), left())
        except TimeoutError:
            raise overdue() from None
        asked = dispatch.consider(grant, landing, wanted, psu)
    return asked
