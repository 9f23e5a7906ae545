"""The errors of the keeper, as one tree below `BlinkError`.

* BlinkError
  x NoTokenError                 no token that meets the caller's need can be returned
    + UnknownGrantError          no token was ever stored: start an authorization
    + ConsentNeededError         the grant cannot be refreshed: start a new authorization
    + GrantMovedError            the grant was moved to another store: use that one
    + RefreshUncertainError      the refresh token may be spent and is not presented now
    + RefreshPausedError         a refresh failed, and the pause before the next is not over
    + RefreshPendingError        the refresh took longer than the caller or the flight waits
  x InvalidInputError            an argument is invalid, nothing was sent (of the client)
    + GrantExistsError           the store has another pair of the grant to adopt
  x StoreError                   the token store cannot be used
    + SealError                  a stored pair cannot be opened with the configured keys
    + SchemaError                the tables are missing or of another version
  x DeliveryError                a notice was not delivered
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blink_oauth.errors import BlinkError, InvalidInputError, Outcome

if TYPE_CHECKING:
    from .store.protocol import Record

__all__ = [
    "ConsentNeededError",
    "DeliveryError",
    "GrantExistsError",
    "GrantMovedError",
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
    """No token that meets the caller's need can be returned now."""


class UnknownGrantError(NoTokenError):
    """No token was ever stored for the grant."""

    needs_consent = True


class ConsentNeededError(NoTokenError):
    """The grant was revoked, the bank refused its refresh token, or it has no refresh token."""

    needs_consent = True


class GrantMovedError(NoTokenError):
    """The grant was moved to another store, or is being moved: use that store. Nothing was sent."""


class GrantExistsError(InvalidInputError):
    """The grant to adopt has a usable pair in the store. Nothing was sent, and nothing stored."""


class RefreshUncertainError(NoTokenError):
    """The refresh token was presented, may be spent, and is not presented again now.

    With `needs_consent` that is final; otherwise it is presented again later, at the latest after
    `retry_after`, if that is set. `outcome` is UNCERTAIN.
    """

    outcome = Outcome.UNCERTAIN


class RefreshPausedError(NoTokenError):
    """A refresh failed, and the pause before the next one is not over. Nothing was sent."""

    retryable = True


class RefreshPendingError(NoTokenError):
    """The caller or its flight stopped waiting. Try again: the refresh may still be in progress."""

    retryable = True


class StoreError(BlinkError):
    """The token store cannot be used. A change that failed may have been made all the same."""

    retryable = True


class SealError(StoreError):
    """A stored pair cannot be opened: its key is missing, or it was sealed for another record.

    Attributes:
        record: The stored record without its pair, if the pair is that of a record.
        altered: Whether the key is there, and the pair or its row was changed.
    """

    retryable = False
    record: Record | None = None
    altered: bool = False


class SchemaError(StoreError):
    """The tables are missing, or have a schema that this version does not know."""

    retryable = False


class DeliveryError(BlinkError):
    """A notice was not delivered. `TokenManager.deliver_notices` does not raise it.

    A handler may raise it to say by `retry_after` how long its receiver wants to get no notice.
    """

    retryable = True
