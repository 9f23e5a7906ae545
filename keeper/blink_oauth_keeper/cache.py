"""The token cache of a process: a fresh token costs one dictionary lookup."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from attrs import define, evolve, field, frozen

from blink_oauth.context import Grant
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Token

from .errors import NoTokenError, StoreError
from .policy import Need, is_behind, is_newer, is_usable, windows
from .processes import reset_after_fork
from .profile import TargetProfile
from .steps import Result
from .store.protocol import Record, is_revoked
from .store.rules import interned

__all__ = ["Cache", "CachedToken", "Deadline"]

RECHECK = timedelta(minutes=5)
"""Longest time for which a token is fresh: another process may have changed the record."""
BACKGROUND_GAP = timedelta(seconds=5)
"""How long a stale token is served before the store is read again."""
TOO_NEW = timedelta(minutes=1)
"""A refused token that is younger than this is not refreshed: a newer one would not help."""
LOOK_GAP = 5.0
"""Seconds between two reads of the store because a bank's API forbids what a token is used for."""


@frozen
class Deadline:
    """A time by two clocks: it has passed if one of them says so.

    The wall clock may be set back, and the monotonic clock may stand still while a machine sleeps.

    Attributes:
        wall: Seconds since 1970.
        monotonic: Seconds of a clock that never goes back.
    """

    wall: float
    monotonic: float


PAST = Deadline(-math.inf, -math.inf)


@define(eq=False, weakref_slot=False)
class CachedToken:
    """A token, its record, and the time until which it is fresh.

    Attributes:
        token: The token.
        fresh_until: The time until which it is served without any other check.
        record: The record that the token is from.
        since: The monotonic time from which the token is in the cache, rounded up.
    """

    token: Token
    fresh_until: Deadline
    record: Record
    since: int


@frozen
class _Doubt:
    record: Record
    number: int
    at: float


@define(eq=False)
class _Failure:
    result: Result
    until: float


@define(eq=False)
class Cache:
    """The tokens, refused records and recent failures of the grants, in one process.

    One thread at a time changes them. A lookup takes no lock, so that a fresh token costs no more
    than one: each dictionary operation is atomic.

    Args:
        now: Returns the current time, aware UTC.
        monotonic: Returns seconds of a clock that never goes back.
        tokens: The cached token of each grant.
        refused: The newest record of each grant, if a bank's API refused its access token or it was
            revoked.
        failures: Number of failed calls in a row, for each grant.
        doubts: The newest refusal of each grant whose token was too young to be refreshed.
        looked: The number of the newest doubt of each grant for which the store was read.
    """

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    tokens: dict[Grant, CachedToken] = field(factory=dict)
    refused: dict[Grant, Record] = field(factory=dict)
    failures: dict[Grant, int] = field(factory=dict)
    doubts: dict[Grant, _Doubt] = field(init=False, factory=dict)
    looked: dict[Grant, int] = field(init=False, factory=dict)
    _failed: dict[Grant, _Failure] = field(init=False, factory=dict)
    _numbers: Iterator[int] = field(init=False, factory=lambda: itertools.count(1))
    _changing: threading.Lock = field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        reset_after_fork(self, Cache.reset)

    def reset(self) -> None:
        """Replace the lock: in a forked child a thread of the parent may have held it."""
        self._changing = threading.Lock()

    def get(self, grant: Grant, need: Need, profile: TargetProfile) -> CachedToken | None:
        """Return the cached token if no caller has to wait for its refresh, otherwise None."""
        cached = self.tokens.get(grant)
        if cached is None or need.forced:
            return None
        now = self.now()
        if not is_usable(cached.record, need, profile, now):
            return None
        must_wait = now >= windows(cached.record, profile).mandatory_at
        return None if must_wait else cached

    def is_fresh(self, cached: CachedToken) -> bool:
        """Return whether a token is served without reading the store."""
        until = cached.fresh_until
        return self.monotonic() < until.monotonic and self.now().timestamp() < until.wall

    def doubt(self, grant: Grant) -> int:
        """Return the number of the newest refusal of a grant's token, or 0."""
        doubt = self.doubts.get(grant)
        return doubt.number if doubt else 0

    def doubted(self, grant: Grant, number: int) -> Record | None:
        """Return the record whose cached token is doubted up to a number, or None.

        It is doubted until the store has been read after the refusal, or a newer one is cached.
        """
        doubt, cached = self.doubts.get(grant), self.tokens.get(grant)
        if doubt is None or cached is None or is_newer(cached.record, doubt.record):
            return None
        return doubt.record if self.looked.get(grant, 0) < number else None

    def failure(self, grant: Grant) -> Result | None:
        """Return the result of the last flight if it failed and is still shared, otherwise None."""
        failed = self._failed.get(grant)
        if failed is None or self.monotonic() >= failed.until:
            return None
        return failed.result

    def update(self, grant: Grant, result: Result, profile: TargetProfile) -> None:
        """Update the entries of a grant with the result of a flight."""
        with self._changing:
            if result.error is None:
                self._failed.pop(grant, None)
                if result.obtained:
                    self.failures.pop(grant, None)
            else:
                # Only failed calls make the pauses grow, not flights that sent nothing.
                if not isinstance(result.error, NoTokenError | StoreError | InvalidInputError):
                    self.failures[grant] = self.failures.get(grant, 0) + 1
                self._failed[grant] = _Failure(result, self.monotonic() + result.shared_for)
            if result.record is not None:
                self._put(grant, result.record, profile)

    def clear(self) -> None:
        """Forget tokens and failures, after which every caller needs a flight."""
        with self._changing:
            self.tokens.clear()
            self._failed.clear()

    def known(self, grant: Grant) -> Record | None:
        """Return the newest record of a grant that this process knows, or None."""
        # Between two lookups without the lock, an entry could move from one to the other.
        with self._changing:
            return self._known(grant)

    def update_looked(
        self, grant: Grant, result: Result, profile: TargetProfile, doubt: int
    ) -> None:
        """Update the token of a grant with the result of a flight that only read the store.

        Args:
            grant: The grant.
            result: The result; if it has an error, the token is served for some seconds unread.
            profile: The profile of the target.
            doubt: The number of the newest refusal before the store was read.
        """
        with self._changing:
            if doubt:
                self.looked[grant] = doubt
            if result.record is not None:
                self._put(grant, result.record, profile)
                return
            cached = self.tokens.get(grant)
            if cached is not None:
                until = self._fresh_until(cached.record, profile, BACKGROUND_GAP)
                self._store(grant, evolve(cached, fresh_until=until))

    def invalidate(self, grant: Grant, token: Token, *, refresh: bool = True) -> bool:
        """Stop serving a token that a bank's API refused until the store has been read.

        Args:
            grant: The grant.
            token: The refused token.
            refresh: Whether it may be refreshed if the store has no newer one.

        Returns:
            Whether it will be refreshed unless the store has a newer one, or without `refresh`
            whether the store will be read; True if it is not the cached token.
        """
        with self._changing:
            cached = self.tokens.get(grant)
            if cached is None or cached.token.access_token != token.access_token:
                return True
            if not refresh:
                if self.doubted(grant, self.doubt(grant)):
                    return True
                return self._may_look(grant) and self._doubt(grant, cached.record)
            if self._age(cached) >= TOO_NEW:
                self._refuse(grant, cached.record)
                return True
            self._doubt(grant, cached.record)
            return False

    def _known(self, grant: Grant) -> Record | None:
        cached = self.tokens.get(grant)
        return self.refused.get(grant) if cached is None else cached.record

    def _age(self, cached: CachedToken) -> timedelta:
        here = timedelta(seconds=self.monotonic() - cached.since)
        return max(here, self.now() - cached.record.issued_at)

    def _may_look(self, grant: Grant) -> bool:
        last = self.doubts.get(grant)
        return last is None or self.monotonic() - last.at >= LOOK_GAP

    def _doubt(self, grant: Grant, record: Record) -> bool:
        self.doubts[grant] = _Doubt(record, next(self._numbers), self.monotonic())
        cached = self.tokens.get(grant)
        if cached is not None and not is_newer(cached.record, record):
            self.tokens[grant] = evolve(cached, fresh_until=PAST)
        return True

    def _put(self, grant: Grant, record: Record, profile: TargetProfile) -> None:
        token, known = record.token, self._known(grant)
        if known is not None and is_behind(record, known):
            return
        if is_revoked(record) or token is None or not is_newer(record, self.refused.get(grant)):
            self._refuse(grant, record)
            return
        self.refused.pop(grant, None)
        cached = self.tokens.get(grant)
        same = cached is not None and cached.record.generation == record.generation
        since = cached.since if cached is not None and same else math.ceil(self.monotonic())
        until = self._fresh_until(record, profile, RECHECK)
        self._store(grant, CachedToken(token, until, record, interned(since)))

    def _fresh_until(self, record: Record, profile: TargetProfile, longest: timedelta) -> Deadline:
        times, now = windows(record, profile), self.now()
        failed = self._failed.get(record.key.grant)
        # While a failure is shared, no refresh can start.
        pause = timedelta(seconds=failed.until - self.monotonic()) if failed else BACKGROUND_GAP
        gap = max(pause, BACKGROUND_GAP)
        left = min(max(times.advisory_at - now, gap), times.mandatory_at - now, longest)
        seconds = left.total_seconds()
        # Rounded, so that all grants of a second share it.
        return interned(
            Deadline(
                float(math.floor(now.timestamp() + seconds)),
                float(math.floor(self.monotonic() + seconds)),
            )
        )

    def _store(self, grant: Grant, cached: CachedToken) -> None:
        # The record's own grant as the key, so that memory holds one copy.
        self.tokens[cached.record.key.grant] = cached
        # A thread may have doubted the token while the store was read.
        if self.doubted(grant, self.doubt(grant)):
            self.tokens[grant] = evolve(cached, fresh_until=PAST)

    def _refuse(self, grant: Grant, record: Record) -> None:
        self.refused[grant] = record
        self.tokens.pop(grant, None)
        # Nothing reads them without a cached token, and they would keep a pair in memory.
        self.doubts.pop(grant, None)
        self.looked.pop(grant, None)
        if is_revoked(record):
            self.failures.pop(grant, None)
