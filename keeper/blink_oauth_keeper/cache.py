"""The token cache of a process: a fresh token costs one dictionary lookup."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import define, field

from blink_oauth.context import Grant
from blink_oauth.tokens import Token

from .errors import NoTokenError, StoreError
from .policy import Need, is_usable, windows
from .profile import TargetProfile
from .steps import Result
from .store.protocol import Record, State
from .store.rules import to_second

__all__ = ["Cache", "CachedToken"]

RECHECK = timedelta(minutes=5)
"""Longest time for which a token is fresh: another process may have changed the record."""
BACKGROUND_GAP = timedelta(seconds=5)
"""How long a stale token is served before another background refresh of it may start."""
TOO_NEW = timedelta(minutes=1)
"""A refused token that is younger than this is not replaced: a newer one would not help."""


@define(eq=False, weakref_slot=False)
class CachedToken:
    """A token, its record, and the time until which it is fresh.

    Attributes:
        token: The token.
        fresh_until: The time until which it is served without any other check, aware UTC.
        record: The record that the token is from.
    """

    token: Token
    fresh_until: datetime
    record: Record


@define(eq=False)
class _Failure:
    result: Result
    until: float


@define(eq=False)
class Cache:
    """The tokens, refused generations and recent failures of the grants, in one process.

    There is no lock: each dictionary operation is atomic. If two threads change the same entry, the
    older pair may stay in the cache until the store is read again; no pair is lost, because the
    store compares generations.

    Args:
        now: Returns the current time, aware UTC.
        monotonic: Returns seconds of a clock that never goes back.
        tokens: The cached token of each grant.
        refused: The newest generation of each grant that a bank's API refused or that was revoked.
        failures: Number of failed calls in a row, for each grant.
    """

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    tokens: dict[Grant, CachedToken] = field(factory=dict)
    refused: dict[Grant, int] = field(factory=dict)
    failures: dict[Grant, int] = field(factory=dict)
    _failed: dict[Grant, _Failure] = field(init=False, factory=dict)

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

    def failure(self, grant: Grant) -> Result | None:
        """Return the result of the last flight if it failed and is still shared, otherwise None."""
        failed = self._failed.get(grant)
        if failed is None or self.monotonic() >= failed.until:
            return None
        return failed.result

    def update(self, grant: Grant, result: Result, profile: TargetProfile) -> None:
        """Update the entries of a grant with the result of a flight."""
        if result.error is None:
            self._failed.pop(grant, None)
            if result.obtained:
                self.failures.pop(grant, None)
        else:
            # Only failed calls make the pauses grow, not flights that sent nothing.
            if not isinstance(result.error, NoTokenError | StoreError):
                self.failures[grant] = self.failures.get(grant, 0) + 1
            self._failed[grant] = _Failure(result, self.monotonic() + result.shared_for)
        if result.record is not None:
            self._put(grant, result.record, profile)

    def has_newer(self, record: Record) -> bool:
        """Return whether the cached pair is newer than that of a record."""
        cached = self.tokens.get(record.key.grant)
        return cached is not None and cached.record.generation > record.generation

    def invalidate(self, grant: Grant, token: Token) -> bool:
        """Drop the cached token if it is the one that a bank's API refused, unless it is too new.

        Returns:
            Whether a newer token may help: not if the refused one is less than a minute old.
        """
        cached = self.tokens.get(grant)
        if cached is None or cached.token.access_token != token.access_token:
            return True
        if self.now() - cached.record.issued_at < TOO_NEW:
            return False
        self._refuse(grant, cached.record.generation)
        return True

    def _put(self, grant: Grant, record: Record, profile: TargetProfile) -> None:
        token = record.token
        if record.state is State.REVOKED or token is None:
            self._refuse(grant, record.generation)
            return
        cached = self.tokens.get(grant)
        older = cached is not None and cached.record.generation > record.generation
        if older or record.generation <= self.refused.get(grant, 0):
            return
        times = windows(record, profile)
        now = self.now()
        fresh_until = min(
            max(times.advisory_at, now + BACKGROUND_GAP), times.mandatory_at, now + RECHECK
        )
        # The record's own grant as the key, so that memory holds one copy.
        self.tokens[record.key.grant] = CachedToken(token, to_second(fresh_until), record)

    def _refuse(self, grant: Grant, generation: int) -> None:
        self.refused[grant] = max(generation, self.refused.get(grant, 0))
        cached = self.tokens.get(grant)
        if cached is not None and cached.record.generation <= generation:
            self.tokens.pop(grant, None)
