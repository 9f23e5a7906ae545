"""The cache of a process: a fresh token costs a look into a dictionary."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import define, field

from blink_oauth.context import Grant
from blink_oauth.tokens import Token

from .policy import Need, is_usable, windows
from .profile import TargetProfile
from .steps import Result
from .store.protocol import Record, State
from .store.rules import same_second

__all__ = ["Cache", "CachedToken"]

RECHECK = timedelta(minutes=5)
"""How long a token is served without a look at what other processes have stored."""
BACKGROUND_GAP = timedelta(seconds=5)
"""How long nothing new is begun in the background for a token that can still be served."""
TOO_NEW = timedelta(minutes=1)
"""A token that is refused at this age is not helped by yet another one."""


@define(eq=False, weakref_slot=False)
class CachedToken:
    """A token at hand.

    Attributes:
        token: The token.
        fresh_until: Until when it is served without any further thought.
        record: The record that it is from.
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
    """What a process remembers of its grants: tokens, refused generations, recent failures.

    Each method changes one entry at a time; a dictionary is safe for that without a lock. Two that
    overtake each other can cost another look at the store, never a token: generations decide.

    Args:
        now: Tells the time, aware UTC.
        monotonic: Tells the seconds, never backwards.
        tokens: What is at hand.
        refused: The newest generation of a grant that was refused at a bank's API or revoked.
        failures: How many flights of a grant failed in a row.
    """

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    tokens: dict[Grant, CachedToken] = field(factory=dict)
    refused: dict[Grant, int] = field(factory=dict)
    failures: dict[Grant, int] = field(factory=dict)
    _failed: dict[Grant, _Failure] = field(init=False, factory=dict)

    def get(self, grant: Grant, need: Need, profile: TargetProfile) -> CachedToken | None:
        """Return what is at hand if it can be served without waiting."""
        held = self.tokens.get(grant)
        if held is None or need.forced:
            return None
        now = self.now()
        if not is_usable(held.record, need, profile, now):
            return None
        over = now >= windows(held.record, held.token, profile).mandatory_at
        return None if over else held

    def failure(self, grant: Grant) -> Result | None:
        """Return how the last flight failed, as long as another would fail as well."""
        failed = self._failed.get(grant)
        if failed is None or self.monotonic() >= failed.until:
            return None
        return failed.result

    def update(self, grant: Grant, result: Result, profile: TargetProfile) -> None:
        """Take in how a flight ended."""
        if result.error is None:
            self._failed.pop(grant, None)
            if result.obtained:
                self.failures.pop(grant, None)
        else:
            self.failures[grant] = self.failures.get(grant, 0) + 1
            self._failed[grant] = _Failure(result, self.monotonic() + result.shared_for)
        if result.record is not None:
            self._hold(grant, result.record, profile)

    def has_newer(self, record: Record) -> bool:
        """Say whether a newer pair is at hand than a record has."""
        held = self.tokens.get(record.key.grant)
        return held is not None and held.record.generation > record.generation

    def invalidate(self, grant: Grant, token: Token) -> bool:
        """Take in that a token was refused at a bank's API.

        Returns:
            Whether another one may help: not if the refused one is very young.
        """
        held = self.tokens.get(grant)
        if held is None or held.token.access_token != token.access_token:
            return True
        if self.now() - held.record.issued_at < TOO_NEW:
            return False
        self._drop(grant, held.record.generation)
        return True

    def _hold(self, grant: Grant, record: Record, profile: TargetProfile) -> None:
        token = record.token
        if record.state is State.REVOKED or token is None:
            self._drop(grant, record.generation)
            return
        held = self.tokens.get(grant)
        older = held is not None and held.record.generation > record.generation
        if older or record.generation <= self.refused.get(grant, 0):
            return
        span = windows(record, token, profile)
        now = self.now()
        fresh_until = min(
            max(span.advisory_at, now + BACKGROUND_GAP), span.mandatory_at, now + RECHECK
        )
        # The record's own grant, so that memory has it once.
        self.tokens[record.key.grant] = CachedToken(token, same_second(fresh_until), record)

    def _drop(self, grant: Grant, generation: int) -> None:
        self.refused[grant] = max(generation, self.refused.get(grant, 0))
        held = self.tokens.get(grant)
        if held is not None and held.record.generation <= generation:
            self.tokens.pop(grant, None)
