"""The token manager: one refresh for all callers, also across processes and machines."""

from __future__ import annotations

import random as random_numbers
import threading
import time
from asyncio import shield, to_thread, wrap_future
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from blink_oauth.arguments import (
    require_count,
    require_function,
    require_seconds,
    require_type,
    type_of,
    wrong_argument,
)
from blink_oauth.context import Grant, Psu
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import NO_ACCESS_TOKEN, Secret, Token, hide, require_secret

from .breaker import Breakers
from .cache import Cache
from .clocks import aware, utc_now
from .clocks import monotonic as monotonic_clock
from .consent import adopted_pair
from .delivery import (
    HANDLER_EXAMPLE,
    Delivery,
    NoticeHandler,
    NoticeReport,
    adeliver,
    deliver,
    require_handler,
)
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
from .status import GrantStatus, record_pages, status_of, statuses_of
from .store.outbox import OutboxEntry
from .store.protocol import LONGEST_LEASE, HistoryEntry, TokenStore
from .timers import ThreadTimers, Timers

if TYPE_CHECKING:
    import httpx

    from blink_oauth import BlinkOAuth

    from .api_clients import ApiClients
    from .auth import GrantAuth

__all__ = ["TokenManager"]


class TokenManager:
    """Store the tokens of grants, refresh them, and return them to callers.

    Create one for each application and store, and share it between threads and event loops. All
    callers in this process share one refresh, and of many processes only the one that takes the
    lease in the store refreshes. The store is written before a refresh token is sent, and again
    before callers get the new pair. If that second write fails, it is retried until it succeeds;
    callers get the pair from memory meanwhile.

    Each method that waits has a twin for coroutines, with an `a` before its name, and the same
    arguments. No twin blocks the event loop, and `async with` closes the manager with `aclose`.

    After `close` each method raises `InvalidInputError`, and nothing is sent. While flights in
    progress end, `get` still returns cached tokens.

    After a fork the child keeps the cached tokens and starts threads of its own.

    Args:
        blink: The client; the manager does not close it.
        store: The token store; `close` closes it.
        profiles: Profiles of single targets, by target id.
        profile: The profile of all other targets.
        lease: Seconds that the lease of a refresh lasts. It must be longer than the client's total
            timeout, and at most 30.
        threads: Number of calls to the store and to one target that may be in progress at once, at
            most half of the client's `max_connections`. All targets share twice as many, so that
            a bank that does not respond leaves threads and connections to the others.
        on_event: Receives every event, on any thread. It should return quickly.
        clock: Returns the current time, aware UTC.
        monotonic: Returns seconds of a clock that never goes back. The default counts the time
            that the machine sleeps, on Linux and macOS.
        random: Returns a number from 0 to below 1.
        sleep: Sleeps some seconds; `refresh_due` uses it where a target's rate is limited, and
            `deliver_notices` where the receiver asked for a pause.
        new_timers: Makes the timers of waiting flights; again in a forked child.
        new_thread_pool: Makes an executor with a number of threads, for the calls to store and
            bank; again in a forked child.

    Raises:
        InvalidInputError: The lease does not fit the client's timeouts, or an argument has another
            type.
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
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = monotonic_clock,
        random: Callable[[], float] = random_numbers.random,
        sleep: Callable[[float], None] = time.sleep,
        new_timers: Callable[[], Timers] = ThreadTimers,
        new_thread_pool: Callable[[int], Executor] = thread_pool,
    ) -> None:
        _check(blink, store, lease, threads)
        _check_profiles(profiles, profile)
        require_function("on_event", on_event, "print")
        self._blink, self._store = blink, store
        self._threads = max(1, min(threads, blink.settings.max_connections // 2))
        clock = aware(clock)
        self._now, self._sleep, self._monotonic = clock, sleep, monotonic
        self._random = random
        # A number costs a fresh token less than a datetime does.
        self._wall = time.time if clock is utc_now else lambda: clock().timestamp()
        self._clients = _api_clients(blink)
        self._breakers = Breakers(monotonic, random)
        self._cache = Cache(clock, monotonic)
        self._tokens = self._cache.tokens
        self._flights = Flights(self._threads, new_thread_pool, new_timers)
        executor = StepExecutor(
            blink=blink,
            store=store,
            breakers=self._breakers,
            has_unstored_result=self._flights.has_unstored_result,
            lease=lease,
            now=clock,
            listener=on_event,
        )
        blink.context_source.subscribe(executor.report_renewal)
        self._single_flight = SingleFlight(
            flights=self._flights,
            step_executor=executor,
            cache=self._cache,
            profiles=dict(profiles or {}),
            profile=profile or TargetProfile(),
            client_id=blink.settings.client_id,
            lease=lease,
            call_timeout=blink.settings.timeouts.total,
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def client_id(self) -> str:
        """The client id of the settings, such as `CIDX0000000002`."""
        return self._blink.settings.client_id

    def get(
        self,
        grant: Grant,
        *,
        min_validity: float = 0.0,
        psu: Psu = Psu.AUTO,
        timeout: float | None = None,
    ) -> Token:
        """Return a token that can be used now, refreshed if it must be.

        A fresh token is returned from the cache. Five minutes after the store was last read for
        the grant, it is read again before; if it cannot be read, the cached token is returned until
        its end. A stale token is returned too, and refreshed in the background.

        Args:
            grant: The grant.
            min_validity: Seconds for which the access token must still be valid; a value above half
                its lifetime is reduced to half.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: The most seconds to wait. After that the refresh continues without the caller.

        Raises:
            NoTokenError: There is no usable token; the subclass says why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.
        """
        cached = self._tokens.get(grant) if isinstance(grant, Grant) else None
        if cached is not None and min_validity == 0:
            until = cached.fresh_until
            if self._monotonic() < until.monotonic and self._wall() < until.wall:
                return cached.token
        return self._single_flight.get(grant, _need(min_validity, timeout), psu, timeout)

    async def aget(
        self,
        grant: Grant,
        *,
        min_validity: float = 0.0,
        psu: Psu = Psu.AUTO,
        timeout: float | None = None,
    ) -> Token:
        """Return a token that can be used now, refreshed if it must be.

        The same as `get`, for a coroutine of any asyncio event loop. It does not block the loop.

        Args:
            grant: The grant.
            min_validity: Seconds for which the access token must still be valid; a value above half
                its lifetime is reduced to half.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: The most seconds to wait. After that the refresh continues without the caller.

        Raises:
            NoTokenError: There is no usable token; the subclass says why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.
        """
        cached = self._tokens.get(grant) if isinstance(grant, Grant) else None
        if cached is not None and min_validity == 0:
            until = cached.fresh_until
            if self._monotonic() < until.monotonic and self._wall() < until.wall:
                return cached.token
        return await self._single_flight.aget(grant, _need(min_validity, timeout), psu, timeout)

    def refresh(self, grant: Grant, *, psu: Psu = Psu.AUTO, timeout: float | None = None) -> Token:
        """Refresh a token now, even if the stored one is fresh.

        If a refresh is already in progress, in this process or another, its pair is returned. If
        the refresh fails, this raises; `get` still serves the stored token until it expires.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: The most seconds to wait. After that the refresh continues without the caller.

        Raises:
            NoTokenError: The refresh is not possible now; the subclass says why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6749 section 6; bLink token management.
        """
        require_seconds("timeout", timeout, optional=True)
        return self._single_flight.get(grant, Need(forced=True), psu, timeout)

    async def arefresh(
        self, grant: Grant, *, psu: Psu = Psu.AUTO, timeout: float | None = None
    ) -> Token:
        """Refresh a token now, even if the stored one is fresh.

        The same as `refresh`, for a coroutine of any asyncio event loop. If it is cancelled, the
        refresh goes on.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: The most seconds to wait. After that the refresh continues without the caller.

        Raises:
            NoTokenError: The refresh is not possible now; the subclass says why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6749 section 6; bLink token management.
        """
        require_seconds("timeout", timeout, optional=True)
        return await self._single_flight.aget(grant, Need(forced=True), psu, timeout)

    def authorize(self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu) -> Token:
        """Exchange an authorization code and store the pair.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback. It is valid for 30 s and one exchange.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer's device, taken from the request to the redirect URI.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            StoreError: The store cannot be used; the code is not spent.
            BlinkError: The exchange failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 sections 4.1.2 (once) and 4.1.3; bLink token management (30 s).
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

        The same as `authorize`, for a coroutine. If it is cancelled, the exchange goes on, and the
        pair is stored.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback. It is valid for 30 s and one exchange.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer's device, taken from the request to the redirect URI.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            StoreError: The store cannot be used; the code is not spent.
            BlinkError: The exchange failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 sections 4.1.2 (once) and 4.1.3; bLink token management (30 s).
        """
        secret = hide(code, "authorization code")
        del code
        flight = self._single_flight.start_exchange(
            grant, require_secret(secret), redirect_uri, psu
        )
        return authorized_token(await wrap_future(flight))

    def adopt(
        self,
        grant: Grant,
        *,
        refresh_token: str | Secret,
        access_token: str | Secret | None = None,
        expires_at: datetime | None = None,
        psu: Psu = Psu.AUTO,
        timeout: float | None = None,
    ) -> Token:
        """Take over a consent whose tokens the application has kept so far.

        The refresh token is stored first, then presented as in any refresh, unless there is an
        access token that can still be served. From the call on only the manager may present it. If
        the refresh fails, the refresh token stays stored, and `get` goes on.

        It is safe to call again with the same refresh token, as a migration does that is repeated:
        as long as the history has its first adoption, this does what `get` does.

        Args:
            grant: The grant that the customer has consented to.
            refresh_token: The refresh token that the bank issued last.
            access_token: The access token of the same response, or None to refresh now.
            expires_at: When the access token expires, timezone-aware; only with one.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: The most seconds to wait. After that the adoption continues without the caller.

        Raises:
            InvalidInputError: An argument cannot be used.
            GrantExistsError: The store has another pair of the grant. Nothing was sent or stored.
            NoTokenError: There is no usable token; the subclass says why, such as
                `ConsentNeededError` for a grant that was revoked.
            StoreError: The store cannot be used; the refresh token was not presented.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6749 section 6.
        """
        refresh = hide(refresh_token, "refresh token")
        access = hide(NO_ACCESS_TOKEN if access_token is None else access_token, "access token")
        del refresh_token, access_token
        pair = adopted_pair(require_secret(refresh), require_secret(access), expires_at)
        require_seconds("timeout", timeout, optional=True)
        return self._single_flight.adopt(grant, pair, psu, timeout)

    async def aadopt(
        self,
        grant: Grant,
        *,
        refresh_token: str | Secret,
        access_token: str | Secret | None = None,
        expires_at: datetime | None = None,
        psu: Psu = Psu.AUTO,
        timeout: float | None = None,
    ) -> Token:
        """Take over a consent whose tokens the application has kept so far.

        The same as `adopt`, for a coroutine of any asyncio event loop. If it is cancelled, the
        adoption goes on.

        Args:
            grant: The grant that the customer has consented to.
            refresh_token: The refresh token that the bank issued last.
            access_token: The access token of the same response, or None to refresh now.
            expires_at: When the access token expires, timezone-aware; only with one.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: The most seconds to wait. After that the adoption continues without the caller.

        Raises:
            InvalidInputError: An argument cannot be used.
            GrantExistsError: The store has another pair of the grant. Nothing was sent or stored.
            NoTokenError: There is no usable token; the subclass says why, such as
                `ConsentNeededError` for a grant that was revoked.
            StoreError: The store cannot be used; the refresh token was not presented.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6749 section 6.
        """
        refresh = hide(refresh_token, "refresh token")
        access = hide(NO_ACCESS_TOKEN if access_token is None else access_token, "access token")
        del refresh_token, access_token
        pair = adopted_pair(require_secret(refresh), require_secret(access), expires_at)
        require_seconds("timeout", timeout, optional=True)
        return await self._single_flight.aadopt(grant, pair, psu, timeout)

    def revoke(self, grant: Grant, *, psu: Psu = Psu.AUTO) -> None:
        """Stop using a grant, and revoke every token of it at the bank.

        From now on this process returns no token of it, even if the bank cannot be reached. Another
        process may return a cached one for five minutes after it last read the store, and longer
        only while it cannot read it. The pair of a refresh in
        progress is revoked when the refresh ends. If this raises, call it again.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.

        Raises:
            UnknownGrantError: No token was ever stored for the grant.
            StoreError: The store cannot be used.
            RevocationError: A token may still be valid at the bank; the store keeps all of them.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        require_no_error(self._single_flight.start_revocation(grant, psu).result())

    async def arevoke(self, grant: Grant, *, psu: Psu = Psu.AUTO) -> None:
        """Stop using a grant, and revoke every token of it at the bank.

        The same as `revoke`, for a coroutine. If it is cancelled, the revocation goes on.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.

        Raises:
            UnknownGrantError: No token was ever stored for the grant.
            StoreError: The store cannot be used.
            RevocationError: A token may still be valid at the bank; the store keeps all of them.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        require_no_error(await wrap_future(self._single_flight.start_revocation(grant, psu)))

    def forget(self, grant: Grant, *, psu: Psu = Psu.AUTO) -> None:
        """Revoke every token of a grant at the bank, then delete all that names the customer.

        First the grant is revoked as by `revoke`. Then record, journal and history are deleted.
        What stays is a tombstone without the username, so that no process writes back what it
        knows. A new consent replaces it. A pair that arrives later is revoked, and the grant
        forgotten again, by `refresh_due` at the latest. If this raises, call it again, or let
        `refresh_due` finish it. To forget a grant twice does no harm.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.

        Raises:
            UnknownGrantError: No token was ever stored for the grant. Its history is deleted.
            GrantMovedError: Another store has the grant, or is about to have it: forget it there.
            StoreError: The store cannot be used, or lacks the key of a pair or of the tombstones.
            RevocationError: A token may still be valid at the bank; nothing was deleted.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        require_no_error(self._single_flight.start_revocation(grant, psu, forget=True).result())

    async def aforget(self, grant: Grant, *, psu: Psu = Psu.AUTO) -> None:
        """Revoke every token of a grant at the bank, then delete all that names the customer.

        The same as `forget`, for a coroutine. If it is cancelled, the forgetting goes on.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.

        Raises:
            UnknownGrantError: No token was ever stored for the grant. Its history is deleted.
            GrantMovedError: Another store has the grant, or is about to have it: forget it there.
            StoreError: The store cannot be used, or lacks the key of a pair or of the tombstones.
            RevocationError: A token may still be valid at the bank; nothing was deleted.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        flight = self._single_flight.start_revocation(grant, psu, forget=True)
        require_no_error(await wrap_future(flight))

    def invalidate(self, grant: Grant, token: Token, *, refresh: bool = True) -> bool:
        """Report that a bank's API refused an access token.

        If it is the cached token, the next `get` reads the store first, and waits if another
        process is refreshing it. Then `get` returns the newer token, if there is one. If there is
        none, a token that is at least a minute old is refreshed, and a younger one is returned
        again. `auth` does this by itself.

        Args:
            grant: The grant.
            token: The refused token.
            refresh: Whether the token may be refreshed. Pass False after a 403: then `get` only
                reads the store, at most once in five seconds.

        Returns:
            Whether the token will be refreshed unless the store has a newer one: not if it is less
            than a minute old. With `refresh=False`, whether the next `get` reads the store. True if
            the token is not the cached one.

        Raises:
            InvalidInputError: An argument has another type.

        Source: RFC 6750 section 3.1.
        """
        self._flights.require_open()
        self._single_flight.key(grant)
        require_type("token", token, Token, "manager.get(grant)")
        cached = self._tokens.get(grant)
        if not refresh and cached is not None:
            profile = self._single_flight.profile_of(grant.target_id)
            if self._cache.get(grant, Need(), profile) is None:
                return False
        return self._cache.invalidate(grant, token, refresh=refresh)

    def auth(self, grant: Grant, *, psu: Psu) -> GrantAuth:
        """Return an `httpx.Auth` that sets the bearer token and the platform's five headers.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.

        Raises:
            InvalidInputError: An argument cannot be used.
        """
        from .auth import GrantAuth

        self._flights.require_open()
        return GrantAuth(self, self._blink, grant, psu)

    def client(self) -> httpx.Client:
        """Return the `httpx.Client` of all requests to the banks' APIs.

        It has the client certificate, authorities, timeouts, `max_connections` and proxy of the
        settings, and no base URL. All calls return the same client, which threads may share: its
        connections are reused for all grants. Pass `auth=manager.auth(grant, psu=…)` with each
        request.

        It keeps no cookies, since one of a customer's session must not reach another customer's
        request, and it follows no redirects unless asked. The total timeout of the settings does
        not apply.

        Do not use it in a `with` block, which would close it. `close` closes it; requests in
        progress then fail. New connections use a renewed certificate. After a fork the child can
        use it, too: it opens new connections, and the parent keeps the existing ones.

        Raises:
            InvalidInputError: The manager is closed, or the settings have no certificate.
            CertificateError: The client certificate cannot be used.
        """
        return self._clients.client()

    def async_client(self) -> httpx.AsyncClient:
        """Return the `httpx.AsyncClient` of all requests to the banks' APIs.

        The same as `client`, for coroutines of any asyncio event loop. Each loop has connections of
        its own, at most `max_connections`. They close at the end of the loop if it ends as that of
        `asyncio.run` does. `close` closes them, too, as soon as their loop runs.

        Raises:
            InvalidInputError: The manager is closed, or the settings have no certificate.
            CertificateError: The client certificate cannot be used.
        """
        return self._clients.async_client()

    def headers(self, grant: Grant, *, psu: Psu) -> dict[str, str]:
        """Return the headers of one request to a bank's API, for an HTTP library other than httpx.

        They are `Authorization` with a token as `get` returns it, and the platform's five, with a
        new correlation id. Call it for each request, and send them over https only. The `repr` of
        the mapping and of its copies hides the token; the value itself is the plain text. After a
        401 call `invalidate(grant, get(grant))`, then this again.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.

        Raises:
            InvalidInputError: An argument cannot be used.
            NoTokenError: There is no usable token; the subclass says why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6750 section 2.1; bLink custom headers.
        """
        from .auth import require_addressed

        require_addressed(grant, psu)
        return self._headers(grant, psu, self.get(grant, psu=psu))

    async def aheaders(self, grant: Grant, *, psu: Psu) -> dict[str, str]:
        """Return the headers of one request to a bank's API, for an HTTP library other than httpx.

        The same as `headers`, for a coroutine of any asyncio event loop.

        Args:
            grant: The grant.
            psu: The customer's device, or `Psu.AUTO`.

        Raises:
            InvalidInputError: An argument cannot be used.
            NoTokenError: There is no usable token; the subclass says why and what to do.
            StoreError: The store cannot be used.
            BlinkError: The refresh failed; `outcome` says whether anything may be spent.

        Source: RFC 6750 section 2.1; bLink custom headers.
        """
        from .auth import require_addressed

        require_addressed(grant, psu)
        return self._headers(grant, psu, await self.aget(grant, psu=psu))

    def _headers(self, grant: Grant, psu: Psu, token: Token) -> dict[str, str]:
        from .auth import headers_with

        return headers_with(
            token.access_token,
            grant,
            psu,
            user_agent=self._blink.settings.user_agent,
            correlation_id=self._blink.correlation_id(),
        )

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

        Run it once a day, on one node or on all: each run claims small batches of its own. Unless
        it is stopped, it also finishes revocations that failed or were killed, and deletes the
        journal and history entries past their retention. It runs in the calling thread.

        Args:
            within: A refresh token is due if it would expire unused within this time.
            limit: Number of grants at most, and of revocations.
            concurrency: Number of refreshes at one target at once; `threads` is the upper limit.
                All targets share twice as many.
            dry_run: Only count the due grants.
            on_progress: Receives the report so far after each grant, in the thread of the run.
            stop: Returns whether to end the run early; called before each claim, in the thread of
                the run. Refreshes in progress finish and are counted.

        Raises:
            StoreError: The store cannot be used. Refreshes in progress finish by themselves.
            InvalidInputError: The manager is closed, or an argument has another type.

        Source: bLink token management (a refresh token is valid for 30 days or more, extended with
            every refresh).
        """
        self._flights.require_open()
        require_type("within", within, timedelta, "timedelta(days=10)")
        if within < timedelta(0):
            raise InvalidInputError("The argument within must not be below 0. Nothing was sent.")
        require_count("limit", limit, least=0, example="10_000")
        require_count("concurrency", concurrency, least=1, example="32")
        require_function("on_progress", on_progress, "print")
        require_function("stop", stop, "stopping.is_set")
        run = KeepAlive(
            store=self._store,
            breakers=self._breakers,
            single_flight=self._single_flight,
            now=self._now(),
            within=within,
            concurrency=min(concurrency, self._threads),
            stop=stop or (lambda: False),
            sleep=self._sleep,
        )
        if dry_run:
            return run.dry_run(limit)
        self._single_flight.step_executor.report_expiries()
        report = run.run(limit, on_progress)
        if not run.stopped:
            self._store.purge()
        return report

    async def arefresh_due(
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

        The same as `refresh_due`, for a coroutine. It runs in a thread of the event loop's default
        executor, where `on_progress` and `stop` are called too. If it is cancelled, the run starts
        no more refreshes; those in progress finish, and their pairs are stored.

        Args:
            within: A refresh token is due if it would expire unused within this time.
            limit: Number of grants at most, and of revocations.
            concurrency: Number of refreshes at one target at once; `threads` is the upper limit.
                All targets share twice as many.
            dry_run: Only count the due grants.
            on_progress: Receives the report so far after each grant, in the thread of the run.
            stop: Returns whether to end the run early; called before each claim, in the thread of
                the run. Refreshes in progress finish and are counted.

        Raises:
            StoreError: The store cannot be used. Refreshes in progress finish by themselves.
            InvalidInputError: The manager is closed, or an argument has another type.

        Source: bLink token management (a refresh token is valid for 30 days or more, extended with
            every refresh).
        """
        cancelled = threading.Event()
        try:
            return await to_thread(
                self.refresh_due,
                within=within,
                limit=limit,
                concurrency=concurrency,
                dry_run=dry_run,
                on_progress=on_progress,
                stop=lambda: cancelled.is_set() or (stop is not None and stop()),
            )
        finally:
            cancelled.set()

    def deliver_notices(
        self,
        handler: NoticeHandler,
        *,
        limit: int = 1_000,
        scan: bool = True,
        stop: Callable[[], bool] | None = None,
    ) -> NoticeReport:
        """Pass the notices of the client to a handler, those of each grant in their order.

        First notices are written that no change of a grant has written: of a grant or certificate
        that ends soon. Then each notice is delivered once or more, with the same id, until none is
        due. A run ends early if nothing was delivered in 30 seconds of tries, since the receiver is
        presumably down. It runs in the calling thread. Any number of runs may be in progress at
        once.

        If the handler is interrupted by an exception such as `KeyboardInterrupt`, the exception is
        raised, and the notice is delivered again after five minutes.

        Args:
            handler: Receives each notice. It should take less than a minute. If it raises, the
                notice is tried again after a pause that grows from 10 seconds to an hour, and no
                longer once it is 7 days old.
            limit: Number of notices to try at most.
            scan: Whether to look for due notices first, which reads the record of each grant and
                the certificate files.
            stop: Returns whether to end the run early; called before each notice.

        Raises:
            StoreError: The store cannot be used.
            InvalidInputError: The manager is closed, or an argument has another type.
        """
        require_function("handler", handler, HANDLER_EXAMPLE, optional=False)
        run = self._delivery(handler, limit, stop)
        if scan:
            run.write_due()
        return deliver(run, handler)

    async def adeliver_notices(
        self,
        handler: NoticeHandler,
        *,
        limit: int = 1_000,
        scan: bool = True,
        stop: Callable[[], bool] | None = None,
    ) -> NoticeReport:
        """Pass the notices of the client to a handler, those of each grant in their order.

        The same as `deliver_notices`, for a coroutine. The handler is a coroutine function, which
        is awaited, or a function, which runs in a thread of the event loop's default executor, as
        `stop` does. If it is cancelled, so is the coroutine, and its notice is delivered again
        after five minutes.

        Args:
            handler: Receives each notice. It should take less than a minute. If it raises, the
                notice is tried again after a pause that grows from 10 seconds to an hour, and no
                longer once it is 7 days old.
            limit: Number of notices to try at most.
            scan: Whether to look for due notices first, which reads the record of each grant and
                the certificate files.
            stop: Returns whether to end the run early; called before each notice.

        Raises:
            StoreError: The store cannot be used.
            InvalidInputError: The manager is closed, or an argument has another type.
        """
        run = self._delivery(handler, limit, stop)
        if scan:
            await to_thread(run.write_due)
        return await adeliver(run, handler)

    def _delivery(
        self, handler: NoticeHandler, limit: int, stop: Callable[[], bool] | None
    ) -> Delivery:
        self._flights.require_open()
        require_handler(handler)
        require_count("limit", limit, least=0, example="1_000")
        require_function("stop", stop, "stopping.is_set")
        return Delivery(
            store=self._store,
            client_id=self.client_id,
            expiries=lambda: self._blink.settings.certificate_expiries(now=self._now()),
            profile_of=self._single_flight.profile_of,
            step_executor=self._single_flight.step_executor,
            now=self._now,
            monotonic=self._monotonic,
            random=self._random,
            sleep=self._sleep,
            stop=stop or (lambda: False),
            limit=limit,
        )

    def notices(self, *, limit: int = 100) -> Sequence[OutboxEntry]:
        """Return the notices of the client that are not delivered, the oldest first.

        Args:
            limit: Number of notices at most.

        Raises:
            StoreError: The store cannot be used.
        """
        self._flights.require_open()
        require_count("limit", limit, least=0, example="100")
        return self._store.notices(self.client_id, limit=limit)

    async def anotices(self, *, limit: int = 100) -> Sequence[OutboxEntry]:
        """Return the notices of the client that are not delivered, the oldest first.

        The same as `notices`, for a coroutine; a thread of the event loop's default executor reads.

        Args:
            limit: Number of notices at most.

        Raises:
            StoreError: The store cannot be used.
        """
        return await to_thread(self.notices, limit=limit)

    def retry_notices(self) -> int:
        """Let the dead notices of the client be delivered again, and return their number.

        The next `deliver_notices` tries each of them. One that fails again is dead again.

        Raises:
            StoreError: The store cannot be used.
        """
        self._flights.require_open()
        return self._store.retry_notices(self.client_id)

    async def aretry_notices(self) -> int:
        """Let the dead notices of the client be delivered again, and return their number.

        The same as `retry_notices`, for a coroutine; a thread of the event loop's default executor
        writes.

        Raises:
            StoreError: The store cannot be used.
        """
        return await to_thread(self.retry_notices)

    def fingerprint(self, grant: Grant) -> str:
        """Return the keyed fingerprint that names a grant in logs, where no username belongs.

        It is that of the keeper's own log records and of `Event.fingerprint`. The call reads the
        store only if nothing has used it before: in a coroutine make it after `aget` or `astatus`.

        Args:
            grant: The grant.

        Raises:
            InvalidInputError: The argument has another type.
        """
        return self._single_flight.step_executor.fingerprint(self._single_flight.key(grant))

    def status(self, grant: Grant) -> GrantStatus:
        """Return the status of a grant, read from the store.

        Args:
            grant: The grant.

        Raises:
            UnknownGrantError: No token was ever stored for the grant.
            StoreError: The store cannot be used.
        """
        self._flights.require_open()
        record = self._store.load(self._single_flight.key(grant))
        if record is None:
            raise UnknownGrantError(
                "No token is stored for this grant. Authorize it first.", grant=grant
            )
        return status_of(record, self._single_flight.profile_of(grant.target_id), self._now())

    async def astatus(self, grant: Grant) -> GrantStatus:
        """Return the status of a grant, read from the store.

        The same as `status`, for a coroutine; a thread of the event loop's default executor reads.

        Args:
            grant: The grant.

        Raises:
            UnknownGrantError: No token was ever stored for the grant.
            StoreError: The store cannot be used.
        """
        return await to_thread(self.status, grant)

    def statuses(self) -> Iterator[GrantStatus]:
        """Return the status of every grant of the client, sorted by target and username.

        Raises:
            StoreError: The store cannot be used.
        """
        self._flights.require_open()
        return statuses_of(self._store, self.client_id, self._single_flight.profile_of, self._now)

    async def astatuses(self) -> AsyncIterator[GrantStatus]:
        """Return the status of every grant of the client, sorted by target and username.

        The same as `statuses`, for `async for`; a thread of the event loop's default executor reads
        the grants, some hundred at a time.

        Raises:
            StoreError: The store cannot be used.
        """
        self._flights.require_open()
        pages = record_pages(self._store, self.client_id)
        while page := await to_thread(next, pages, ()):
            for record in page:
                profile = self._single_flight.profile_of(record.key.grant.target_id)
                yield status_of(record, profile, self._now())

    def history(self, grant: Grant, *, limit: int = 100) -> Sequence[HistoryEntry]:
        """Return the history of a grant, the newest entry first.

        Args:
            grant: The grant.
            limit: Number of entries at most.

        Raises:
            StoreError: The store cannot be used.
        """
        self._flights.require_open()
        require_count("limit", limit, least=0, example="100")
        return self._store.history(self._single_flight.key(grant), limit=limit)

    async def ahistory(self, grant: Grant, *, limit: int = 100) -> Sequence[HistoryEntry]:
        """Return the history of a grant, the newest entry first.

        The same as `history`, for a coroutine; a thread of the event loop's default executor reads.

        Args:
            grant: The grant.
            limit: Number of entries at most.

        Raises:
            StoreError: The store cannot be used.
        """
        return await to_thread(self.history, grant, limit=limit)

    def close(self, timeout: float = CLOSING_SECONDS) -> None:
        """Let the flights in progress end, then close the store and the clients of `client`.

        Args:
            timeout: Seconds after which a flight stops trying to store a result.
        """
        require_seconds("timeout", timeout)
        self._flights.close(timeout)
        # Otherwise a cached token would be served; to look for that at each `get` costs more.
        self._cache.clear()
        try:
            self._store.close()
        finally:
            self._clients.close()

    async def aclose(self, timeout: float = CLOSING_SECONDS) -> None:
        """Let the flights in progress end, then close the store and the clients of `client`.

        The same as `close`, for a coroutine; a thread of the event loop's default executor waits.
        The connections of this event loop are closed when it returns. If it is cancelled, closing
        goes on.

        Args:
            timeout: Seconds after which a flight stops trying to store a result.
        """
        # Without the shield a call that still waits for a thread would be cancelled.
        await shield(to_thread(self.close, timeout))
        await self._clients.wait_closed()


def _api_clients(blink: BlinkOAuth) -> ApiClients:
    from .api_clients import ApiClients  # It loads the HTTP stack.

    return ApiClients(blink.settings, blink.context_source)


def _need(min_validity: float, timeout: float | None) -> Need:
    # Not for a fresh token from the cache, which should cost as little as possible.
    require_seconds("min_validity", min_validity)
    if min_validity < 0:
        raise InvalidInputError("The argument min_validity must not be below 0. Nothing was sent.")
    require_seconds("timeout", timeout, optional=True)
    return Need(min_validity)


def _check_profiles(profiles: object, profile: object) -> None:
    example = "TargetProfile(rotates=False)"
    if profile is not None:
        require_type("profile", profile, TargetProfile, example)
    if profiles is None:
        return
    if not isinstance(profiles, Mapping):
        example = f'{{"IIDX99999": {example}}}'
        raise wrong_argument("profiles", profiles, "a mapping", example)
    for target_id, each in profiles.items():
        require_type("profiles", target_id, str, f'{{"IIDX99999": {example}}}, by target id')
        require_type(f"profiles[{target_id!r}]", each, TargetProfile, example)


def _check(blink: BlinkOAuth, store: object, lease: float, threads: int) -> None:
    from blink_oauth import BlinkOAuth

    if not isinstance(blink, BlinkOAuth):
        raise InvalidInputError(
            f"The argument blink must be a BlinkOAuth, but it is {type_of(blink)}. The manager "
            "serves coroutines too: await manager.aget(…). Nothing was sent."
        )
    if isinstance(store, type) or not callable(getattr(store, "claim_due", None)):
        raise wrong_argument("store", store, "a TokenStore", "SqlTokenStore(url, keys=[key])")
    require_seconds("lease", lease)
    require_count("threads", threads, least=1, example="100")
    total = blink.settings.timeouts.total
    if not total < lease <= LONGEST_LEASE:
        raise InvalidInputError(
            f"The lease must be longer than the client's total timeout ({total:g} s) and at most "
            f"{LONGEST_LEASE:g} s: banks that allow a replay are assumed to allow it for that long."
        )
