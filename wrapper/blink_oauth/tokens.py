"""Tokens, and the secrets in them that never print."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import field, frozen

from ._checks import sendable
from .errors import InvalidInputError

if TYPE_CHECKING:
    from .headers import ResponseMeta

__all__ = ["Oddity", "Secret", "Token", "TokenKind"]


def utc_now() -> datetime:
    """Return the present moment, aware UTC."""
    return datetime.now(UTC)


class Secret:
    """Hold a token, code or passphrase so that it cannot be shown by accident.

    It has no telling `repr`, `str` or format, cannot be pickled, and compares in constant time.

    Args:
        value: The secret text, or another Secret.
        what: What the secret is, for the error message.

    Raises:
        InvalidInputError: The value is not a text, or is empty.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret, *, what: str = "secret") -> None:
        text = value.reveal() if isinstance(value, Secret) else value
        problem = _unusable(text)
        if problem:
            # It may be a secret in the wrong wrapping, so it must not stay in this frame.
            value = text = ""
            raise InvalidInputError(f"The {what} {problem}. Nothing was sent.")
        self._value: str = text

    def reveal(self) -> str:
        """Return the secret text. Every call of this is a place to look at in a review."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Secret is never pickled. Seal what reveal() returns and store that.")


def hide(value: object, what: str) -> Secret | InvalidInputError:
    """Wrap a secret, or return the error that says why it cannot be one.

    For the first line of a function that takes a secret: it replaces the plain argument, so that no
    later error is raised from a frame that still holds it. `require_secret` raises the error.
    """
    try:
        return Secret(value, what=what)  # type: ignore[arg-type]
    except InvalidInputError as error:
        # The traceback ends here, where the plain value still is.
        return error.with_traceback(None)


def require_secret(secret: Secret | InvalidInputError) -> Secret:
    """Return a hidden secret.

    Raises:
        InvalidInputError: The value that was hidden cannot be a secret.
    """
    if isinstance(secret, InvalidInputError):
        raise secret
    return secret


def _unusable(value: object) -> str | None:
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"must be a str or Secret, but it is a {type(value).__name__}"
    if not value:
        return "must not be empty"
    return None if value.isascii() or sendable(value) else "is no valid Unicode text"


class TokenKind(StrEnum):
    """The two kinds of token; the values are RFC 7009's token type hints."""

    ACCESS_TOKEN = "access_token"
    REFRESH_TOKEN = "refresh_token"

    @property
    def label(self) -> str:
        """The kind in words."""
        return self.value.replace("_", " ")


class Oddity(StrEnum):
    """What was odd about a response that nevertheless held a token."""

    STATUS_UNDOCUMENTED = "status_undocumented"
    BODY_BROKEN = "body_broken"
    CONTENT_TYPE = "content_type"
    TOKEN_CHARACTERS = "token_characters"
    TOKEN_TYPE_MISSING = "token_type_missing"
    TOKEN_TYPE_NOT_BEARER = "token_type_not_bearer"
    EXPIRES_IN_MISSING = "expires_in_missing"
    EXPIRES_IN_NOT_AN_INTEGER = "expires_in_not_an_integer"
    EXPIRES_IN_UNUSABLE = "expires_in_unusable"
    REFRESH_TOKEN_MISSING = "refresh_token_missing"
    REFRESH_TOKEN_UNUSABLE = "refresh_token_unusable"
    SCOPE_UNUSABLE = "scope_unusable"


@frozen(kw_only=True, init=False, weakref_slot=False)
class Token:
    """An access token, and what came with it (RFC 6749 section 5.1).

    Attributes:
        access_token: The access token. Opaque: neither the service user nor bLink interprets it.
        refresh_token: The refresh token to use next. After a refresh it is the one that was
            presented if the response held none (RFC 6749 section 6), which
            `Oddity.REFRESH_TOKEN_MISSING` tells. None if there is none.
        token_type: The type as it was received, usually `bearer`; None if the response named none.
        expires_at: When the access token expires, aware UTC, counted from the start of the
            request so that it is never too late. None if the response did not say it usably.
        scope: The scope values, or None if the response named none.
        oddities: What was odd about the response. Empty in the normal case.
        extra: Members of the response that are not known here. May hold secrets: never printed.
        meta: What the response headers said; None on a token you built yourself.

    Raises:
        InvalidInputError: A token is no text, or empty.
    """

    access_token: Secret
    refresh_token: Secret | None = None
    token_type: str | None = None
    expires_at: datetime | None = None
    scope: frozenset[str] | None = None
    oddities: frozenset[Oddity] = frozenset()
    extra: Mapping[str, object] = field(factory=dict, repr=False, hash=False)
    meta: ResponseMeta | None = None

    def __init__(
        self,
        *,
        access_token: str | Secret,
        refresh_token: str | Secret | None = None,
        token_type: str | None = None,
        expires_at: datetime | None = None,
        scope: frozenset[str] | None = None,
        oddities: frozenset[Oddity] = frozenset(),
        extra: Mapping[str, object] | None = None,
        meta: ResponseMeta | None = None,
    ) -> None:
        access = hide(access_token, "access token")
        refresh = None if refresh_token is None else hide(refresh_token, "refresh token")
        del access_token, refresh_token
        self.__attrs_init__(
            access_token=require_secret(access),
            refresh_token=None if refresh is None else require_secret(refresh),
            token_type=token_type,
            expires_at=expires_at,
            scope=scope,
            oddities=oddities,
            extra={} if extra is None else extra,
            meta=meta,
        )

    def seconds_left(self, now: datetime) -> float | None:
        """Say how long the access token still lives.

        Args:
            now: The present moment, aware.

        Returns:
            Seconds, negative once it has expired; None if the expiry is not known.
        """
        return None if self.expires_at is None else (self.expires_at - now).total_seconds()
