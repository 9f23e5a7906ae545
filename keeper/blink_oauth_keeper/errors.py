"""What can go wrong beyond a single call, as one tree below `BlinkError`.

* BlinkError
  x NoTokenError                 there is no usable token for a grant
    + UnknownGrantError          there never was one: ask for consent
    + ConsentNeededError         the grant is over: ask for consent
    + RefreshUncertainError      the refresh token may be spent
    + RefreshPausedError         a refresh failed a moment ago, and it is too early for another
    + RefreshPendingError        another caller or process is refreshing, and it took too long
  x StoreError                   the token store cannot be used
    + SealError                  a stored token cannot be unsealed with the keys at hand
    + SchemaError                the tables are not those that this version knows
"""

from __future__ import annotations

from blink_oauth.errors import BlinkError, Outcome

__all__ = [
    "ConsentNeededError",
    "NoTokenError",
    "RefreshPausedError",
    "RefreshPendingError",
    "RefreshUncertainError",
    "SchemaError",
    "SealError",
    "StoreError",
    "UnknownGrantError",
]


class NoTokenError(BlinkError):
    """There is no usable token for a grant.

    Attributes:
        retry_after: Seconds after which another try makes sense, or None.
    """

    retry_after: float | None = None


class UnknownGrantError(NoTokenError):
    """No token was ever stored for the grant."""

    needs_consent = True


class ConsentNeededError(NoTokenError):
    """The grant is over: refused by the bank, revoked, or expired without a refresh token."""

    needs_consent = True


class RefreshUncertainError(NoTokenError):
    """The refresh token was presented, may be spent, and is not presented again.

    `needs_consent` tells whether that is final; `outcome` is UNCERTAIN.
    """

    outcome = Outcome.UNCERTAIN


class RefreshPausedError(NoTokenError):
    """A refresh failed a moment ago, and it is too early for another. Nothing was sent."""

    retryable = True


class RefreshPendingError(NoTokenError):
    """Somebody else is refreshing this grant, and it took too long. Nothing was sent by us."""

    retryable = True


class StoreError(BlinkError):
    """The token store cannot be used. Nothing was sent: the store comes first."""

    retryable = True


class SealError(StoreError):
    """A stored token cannot be unsealed: its key is missing, or it was not sealed for this row."""

    retryable = False


class SchemaError(StoreError):
    """The tables are missing, or not those that this version knows."""

    retryable = False
