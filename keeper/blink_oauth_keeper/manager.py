"""Tokens kept alive: one refresh, whoever asks, on however many machines."""

from __future__ import annotations

import random as random_numbers
import time
from asyncio import wrap_future
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from blink_oauth.context import Grant, Psu
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret, Token, hide, require_secret

from .breaker import Breakers
from .cache import Cache
from .errors import UnknownGrantError
from .events import Listener
from .executor import StepExecutor
from .flights import (
    CLOSING_SECONDS,
    Flights,
    SingleFlight,
    authorized_token,
    require_no_error,
    thread_pool,
)
from .keepalive import KeepAlive, Progress, Report
from .policy import Need
from .profile import TargetProfile
from .status import GrantStatus, status_of, statuses_of
from .store.protocol import HistoryEntry, TokenStore
from .timers import ThreadTimers, Timers

if TYPE_CHECKING:
    from blink_oauth import BlinkOAuth

    from .auth import GrantAuth

__all__ = ["TokenManager"]

LONGEST_LEASE = 30.0
"""Seconds; banks that allow a replay at all mostly allow it for that long."""

_utc_now = partial(datetime.now, UTC)


class TokenManager:
    """Keep tokens alive, and hand them out.

    Make one for each application and store, and share it between threads and event loops. A
    refresh is made once, whoever asks: in this process by a thread of the manager, among many
    processes by the one that takes the lease in the store. The store is written before a refresh
    token leaves, and again before anybody gets the new one.

    After a fork the child goes on with the tokens at hand, and with threads of its own.

    Args:
        blink: The client; it stays yours to close.
        store: Where the tokens are kept; `close` closes it.
        profiles: What is known of single targets, by their ids.
        profile: What is assumed of all others.
        lease: Seconds that a refresh has at most. It must be longer than the client's total
            timeout, and at most 30.
        threads: How many calls to store and bank may be in progress at once.
        on_event: Is told every event, from any thread. It should be quick.
        clock: Tells the present moment, aware UTC.
        monotonic: Tells seconds that never run backwards.
        random: Makes a number from 0 to below 1.
        sleep: Waits some seconds; `refresh_due` does so where a target's rate is limited.
        timers: Makes what calls back after some seconds; a forked child makes another one.
        executor: Makes what runs the calls to store and bank, given `threads`; a forked child
            makes another one.

    Raises:
        InvalidInputError: The lease does not fit the client's timeouts, or the client is not a
            `BlinkOAuth`.
    """

    def __init__(
        self,
        blink: BlinkOAuth,
        store: TokenStore,
        *,
        profiles: Mapping[str, TargetProfile] | None = None,
        profile: TargetProfile | None = None,
        lease: float = 25.0,
        threads: int = 100,
        on_event: Listener | None = None,
        clock: Callable[[], datetime] = _utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_numbers.random,
        sleep: Callable[[float], None] = time.sleep,
        timers: Callable[[], Timers] = ThreadTimers,
        executor: Callable[[int], Executor] = thread_pool,
    ) -> None:
        _check(blink, lease)
        self._blink, self._store = blink, store
        self._threads = threads
        self._now, self._sleep = clock, sleep
        self._breakers = Breakers(monotonic, random)
        self._cache = Cache(clock, monotonic)
        self._tokens = self._cache.tokens
        self._flights = Flights(threads, executor, timers)
        self._single_flight = SingleFlight(
            flights=self._flights,
            executor=StepExecutor(
                blink, store, self._breakers, self._flights.unsettled, lease, clock, on_event
            ),
            cache=self._cache,
            profiles=dict(profiles or {}),
            profile=profile or TargetProfile(),
            client_id=blink.settings.client_id,
            lease=lease,
            deadline=blink.settings.timeouts.total,
            now=clock,
            monotonic=monotonic,
            random=random,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._blink!r}, {self._store!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get(
        self,
        grant: Grant,
        *,
        min_validity: float = 0.0,
        psu: Psu = Psu.AUTO,
        timeout: float | None = None,
    ) -> Token:
        """Return a token that can be used now, refreshed if it must be.

        A token that is fresh in memory is returned at once. One that expires soon is returned too,
        and refreshed in the background.

        Args:
            grant: Whose token.
            min_validity: Seconds that the access token must still live. It counts as at most half
                of the token's lifetime.
            psu: The person who waits for it, if one does.
            timeout: Seconds to wait at most. The refresh goes on without you.

        Raises:
            NoTokenError: There is no usable token; its subclasses say why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.
        """
        held = self._tokens.get(grant)
        if held is not None and not min_validity and self._now() < held.fresh_until:
            return held.token
        return self._single_flight.get(grant, Need(min_validity), psu, timeout)

    async def aget(
        self,
        grant: Grant,
        *,
        min_validity: float = 0.0,
        psu: Psu = Psu.AUTO,
        timeout: float | None = None,
    ) -> Token:
        """Return a token that can be used now, refreshed if it must be.

        The same as `get`, for a coroutine of any asyncio event loop. Nothing here blocks the loop.

        Args:
            grant: Whose token.
            min_validity: Seconds that the access token must still live. It counts as at most half
                of the token's lifetime.
            psu: The person who waits for it, if one does.
            timeout: Seconds to wait at most. The refresh goes on without you.

        Raises:
            NoTokenError: There is no usable token; its subclasses say why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.
        """
        held = self._tokens.get(grant)
        if held is not None and not min_validity and self._now() < held.fresh_until:
            return held.token
        return await self._single_flight.aget(grant, Need(min_validity), psu, timeout)

    def refresh(self, grant: Grant, *, psu: Psu = Psu.AUTO, timeout: float | None = None) -> Token:
        """Refresh a token now, however good the stored one is.

        A refresh that is in progress already, here or elsewhere, will do. If none comes of it, this
        raises; `get` goes on serving the stored token until it expires.

        Args:
            grant: Whose token.
            psu: The person who waits for it, if one does.
            timeout: Seconds to wait at most. The refresh goes on without you.

        Raises:
            NoTokenError: The refresh is not possible now; its subclasses say why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6749 section 6; bLink token management.
        """
        return self._single_flight.get(grant, Need(forced=True), psu, timeout)

    async def arefresh(
        self, grant: Grant, *, psu: Psu = Psu.AUTO, timeout: float | None = None
    ) -> Token:
        """Refresh a token now, however good the stored one is.

        The same as `refresh`, for a coroutine of any asyncio event loop. If it is cancelled, the
        refresh goes on.

        Args:
            grant: Whose token.
            psu: The person who waits for it, if one does.
            timeout: Seconds to wait at most. The refresh goes on without you.

        Raises:
            NoTokenError: The refresh is not possible now; its subclasses say why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6749 section 6; bLink token management.
        """
        return await self._single_flight.aget(grant, Need(forced=True), psu, timeout)

    def authorize(self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu) -> Token:
        """Exchange an authorization code and store the pair.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback. It lives 30 s and is good for one call.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer whose browser brought the code.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            StoreError: The store cannot be used; the code is not spent.
            BlinkError: The exchange failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 section 4.1.3; bLink token management.
        """
        secret = hide(code, "authorization code")
        del code
        flight = self._single_flight.start_exchange(
            grant, require_secret(secret), redirect_uri, psu
        )
        return authorized_token(flight.result())

    async def aauthorize(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token:
        """Exchange an authorization code and store the pair.

        The same as `authorize`, for a coroutine. If it is cancelled, the pair is stored all the
        same.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback. It lives 30 s and is good for one call.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer whose browser brought the code.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            StoreError: The store cannot be used; the code is not spent.
            BlinkError: The exchange failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 section 4.1.3; bLink token management.
        """
        secret = hide(code, "authorization code")
        del code
        flight = self._single_flight.start_exchange(
            grant, require_secret(secret), redirect_uri, psu
        )
        return authorized_token(await wrap_future(flight))

    def revoke(self, grant: Grant, *, psu: Psu = Psu.AUTO) -> None:
        """Stop using a grant, and revoke every token of it at the bank.

        From now on nobody gets a token of it, even if the bank cannot be reached. A refresh that
        is in progress is revoked when it is over. If this raises, call it again.

        Args:
            grant: The grant.
            psu: The person who asked for it, if one did.

        Raises:
            UnknownGrantError: No token was ever stored for the grant.
            StoreError: The store cannot be used.
            RevocationError: A token may still be alive at the bank; all are kept for another try.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        require_no_error(self._single_flight.start_revocation(grant, psu).result())

    async def arevoke(self, grant: Grant, *, psu: Psu = Psu.AUTO) -> None:
        """Stop using a grant, and revoke every token of it at the bank.

        The same as `revoke`, for a coroutine. If it is cancelled, the revocation goes on.

        Args:
            grant: The grant.
            psu: The person who asked for it, if one did.

        Raises:
            UnknownGrantError: No token was ever stored for the grant.
            StoreError: The store cannot be used.
            RevocationError: A token may still be alive at the bank; all are kept for another try.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        require_no_error(await wrap_future(self._single_flight.start_revocation(grant, psu)))

    def invalidate(self, grant: Grant, token: Token) -> bool:
        """Say that a bank's API refused an access token.

        Nothing happens if another token has taken its place already. Otherwise the next `get`
        brings a newer one. `auth` does all this by itself.

        Args:
            grant: Whose token.
            token: The token that was refused.

        Returns:
            Whether a newer token may help: not if the refused one is less than a minute old.

        Source: RFC 6750 section 3.1.
        """
        return self._cache.invalidate(grant, token)

    def auth(self, grant: Grant, *, psu: Psu) -> GrantAuth:
        """Return what puts the bearer token and the five headers on each request of httpx.

        Args:
            grant: Whose token.
            psu: The person behind the requests, or `Psu.AUTO`.

        Raises:
            InvalidInputError: An argument cannot be used.
        """
        from .auth import GrantAuth

        return GrantAuth(self, self._blink, grant, psu)

    def refresh_due(
        self,
        *,
        within: timedelta = timedelta(days=10),
        limit: int = 10_000,
        concurrency: int = 32,
        dry_run: bool = False,
        on_progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Report:
        """Refresh idle grants before their refresh tokens expire.

        Run it once a day, on every node if you like: each claims small batches of its own. It
        also deletes what journal and history have kept for long enough.

        Args:
            within: How long before the end of its idle time a refresh token is due.
            limit: How many grants at most.
            concurrency: How many refreshes at once, at most as many as there are `threads`.
            dry_run: Only count what is due.
            on_progress: Is told the report so far after each grant, in your thread.
            stop: Says whether to end the run early; asked before each claim, in your thread. What
                is in progress finishes and is counted.

        Raises:
            StoreError: The store cannot be used. What was begun by then finishes by itself.
            InvalidInputError: The manager is closed.

        Source: bLink token management (a refresh token lives 30 days, extended with every
            refresh).
        """
        run = KeepAlive(
            store=self._store,
            breakers=self._breakers,
            flights=self._single_flight,
            now=self._now(),
            within=within,
            concurrency=min(concurrency, self._threads),
            stop=stop or (lambda: False),
            sleep=self._sleep,
        )
        if dry_run:
            return run.dry_run(limit)
        report = run.run(limit, on_progress)
        if not run.stopped:
            self._store.purge()
        return report

    def status(self, grant: Grant) -> GrantStatus:
        """Tell how a grant is doing, as the store knows it.

        Args:
            grant: The grant.

        Raises:
            UnknownGrantError: No token was ever stored for it.
            StoreError: The store cannot be used.
        """
        record = self._store.load(self._single_flight.key(grant))
        if record is None:
            raise UnknownGrantError("No token is stored for this grant. Authorize it first.")
        return status_of(record, self._single_flight.profile_of(grant.target_id), self._now())

    def statuses(self) -> Iterator[GrantStatus]:
        """Tell how all grants of the client are doing, sorted by target and username.

        Raises:
            StoreError: The store cannot be used.
        """
        client_id = self._blink.settings.client_id
        return statuses_of(self._store, client_id, self._single_flight.profile_of, self._now)

    def history(self, grant: Grant, *, limit: int = 100) -> Sequence[HistoryEntry]:
        """Tell what happened to a grant, the newest first.

        Args:
            grant: The grant.
            limit: How many entries at most.

        Raises:
            StoreError: The store cannot be used.
        """
        return self._store.history(self._single_flight.key(grant), limit=limit)

    def close(self, timeout: float = CLOSING_SECONDS) -> None:
        """Let the calls in progress finish, then close the store.

        Args:
            timeout: Seconds to wait for a store that does not take a result.
        """
        self._flights.close(timeout)
        self._store.close()


def _check(blink: BlinkOAuth, lease: float) -> None:
    from blink_oauth import BlinkOAuth

    if not isinstance(blink, BlinkOAuth):
        raise InvalidInputError(
            "TokenManager takes a BlinkOAuth. It serves coroutines too: await manager.aget(…)."
        )
    total = blink.settings.timeouts.total
    if not total < lease <= LONGEST_LEASE:
        raise InvalidInputError(
            f"The lease must be longer than the client's total timeout ({total:g} s) and at most "
            f"{LONGEST_LEASE:g} s: within that time banks that allow a replay at all mostly do."
        )
