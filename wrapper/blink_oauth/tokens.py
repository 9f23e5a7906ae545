"""Tokens, and secrets that no repr, log or exception shows."""

from __future__ import annotations

import copy
import hmac
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import field, frozen

from ._checks import sendable
from .arguments import require_time, type_of
from .errors import InvalidInputError

if TYPE_CHECKING:
    from .headers import ResponseMeta

__all__ = ["Oddity", "Secret", "Token", "TokenKind"]


LONGEST_LIFETIME = 31 * 86_400.0
"""A longer lifetime of an access token, in seconds, is not believed.

It was probably meant in milliseconds, or as a time since 1970. The platform recommends 24 hours,
and promises only 30 days for an unused refresh token.
"""


SHOWN = "Secret(***)"
"""What a secret shows."""


def utc_now() -> datetime:
    """Return the current time, timezone-aware UTC."""
    return datetime.now(UTC)


def _nameless_slot(cls: Any) -> Any:
    """Return the slot of a class, which loses its name.

    What reads all attributes of a value, such as a serializer or an error reporter, does not find
    the slot's content.
    """
    (name,) = cls.__slots__
    slot = vars(cls)[name]
    delattr(cls, name)
    cls.__slots__ = ()
    return slot


class Secret:
    """A token, code or passphrase that is not shown by accident.

    Its `repr`, `str` and format hide the text, no attribute contains it, it cannot be pickled, and
    two are compared in constant time.

    Args:
        value: The secret text, or another Secret.
        what: The name of the secret, for the error message.

    Raises:
        InvalidInputError: The value is not a text, is empty, or cannot be encoded.
    """

    __slots__ = ("_text",)

    def __init__(self, value: str | Secret, *, what: str = "secret") -> None:
        text = value.reveal() if isinstance(value, Secret) else value
        problem = _unusable(text)
        if problem:
            # It may be a secret of the wrong type, which a traceback must not show.
            value = text = ""
            raise InvalidInputError(f"The {what} {problem}. Nothing was sent.")
        _TEXT.__set__(self, text)

    def reveal(self) -> str:
        """Return the secret text. A security review checks each call of this method."""
        text: str = _TEXT.__get__(self)
        return text

    def __repr__(self) -> str:
        return SHOWN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Secret is never pickled. Encrypt what reveal() returns and store that.")

    def __getstate__(self) -> NoReturn:
        self.__reduce__()


_TEXT = _nameless_slot(Secret)


class HiddenMembers(Mapping[str, object]):
    """Members of a response, which may be secrets: only reading one shows it.

    `repr`, `str` and format show their number, and they cannot be pickled.

    Args:
        members: The members by name.
    """

    __slots__ = ("_members",)

    def __init__(self, members: Mapping[str, object]) -> None:
        _MEMBERS.__set__(self, dict(members))

    def __getitem__(self, name: str) -> object:
        return _MEMBERS.__get__(self)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_MEMBERS.__get__(self))

    def __len__(self) -> int:
        return len(_MEMBERS.__get__(self))

    def __repr__(self) -> str:
        return f"<{len(self)} hidden members>"

    def __copy__(self) -> HiddenMembers:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> HiddenMembers:
        return HiddenMembers(copy.deepcopy(_MEMBERS.__get__(self), memo))

    def __reduce__(self) -> NoReturn:
        raise TypeError("The extra members of a response are never pickled: they may be secrets.")

    def __getstate__(self) -> NoReturn:
        self.__reduce__()


_MEMBERS = _nameless_slot(HiddenMembers)
NO_MEMBERS = HiddenMembers({})


def hidden_members(members: Mapping[str, object] | None) -> HiddenMembers:
    """Return members hidden; tokens without any share one value."""
    if isinstance(members, HiddenMembers):
        return members
    return HiddenMembers(members) if members else NO_MEMBERS


def hide(value: object, what: str) -> Secret | InvalidInputError:
    """Return a value as a Secret, or the error that says why it cannot be one.

    A function that takes a secret calls this first and deletes the plain argument, so that no
    later traceback shows it. `require_secret` raises the error.
    """
    try:
        return Secret(value, what=what)  # type: ignore[arg-type]
    except InvalidInputError as error:
        # The frames of this traceback contain the plain value.
        return error.with_traceback(None)


def require_secret(secret: Secret | InvalidInputError) -> Secret:
    """Return the secret that `hide` made.

    Raises:
        InvalidInputError: The value given to `hide` cannot be a secret.
    """
    if isinstance(secret, InvalidInputError):
        raise secret
    return secret


def _unusable(value: object) -> str | None:
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"must be a str or Secret, but it is {type_of(value)}"
    if not value:
        return "must not be empty"
    if value == SHOWN:
        return f"must be the text of the Secret, and not what str() shows, {SHOWN}: keep reveal()"
    return None if value.isascii() or sendable(value) else "is no valid Unicode text"


NO_ACCESS_TOKEN = Secret("(no access token)")
"""The access token of a pair of which only the refresh token is known.

It is never sent: `revoke` skips it, and no header can carry it, because it has blanks (RFC 6750
section 2.1).
"""


class TokenKind(StrEnum):
    """The two kinds of token; the values are RFC 7009's token type hints."""

    ACCESS_TOKEN = "access_token"
    REFRESH_TOKEN = "refresh_token"

    @property
    def label(self) -> str:
        """The kind as words, such as `access token`."""
        return self.value.replace("_", " ")


class Oddity(StrEnum):
    """A departure from the contract or RFC 6749 in a response that contains a token."""

    STATUS_UNDOCUMENTED = "status_undocumented"
    HEAD_MALFORMED = "head_malformed"
    BODY_BROKEN = "body_broken"
    FORM_ENCODED = "form_encoded"
    CONTENT_TYPE = "content_type"
    TOKEN_CHARACTERS = "token_characters"
    TOKEN_TYPE_MISSING = "token_type_missing"
    TOKEN_TYPE_NOT_BEARER = "token_type_not_bearer"
    EXPIRES_IN_MISSING = "expires_in_missing"
    EXPIRES_IN_NOT_AN_INTEGER = "expires_in_not_an_integer"
    EXPIRES_IN_UNUSABLE = "expires_in_unusable"
    EXPIRES_IN_IMPLAUSIBLE = "expires_in_implausible"
    REFRESH_TOKEN_MISSING = "refresh_token_missing"
    REFRESH_TOKEN_UNUSABLE = "refresh_token_unusable"
    SCOPE_UNUSABLE = "scope_unusable"
    FOREIGN_CORRELATION_ID = "foreign_correlation_id"
    CACHEABLE = "cacheable"
    """`Cache-Control` without `no-store`, or `Pragma` without `no-cache` (RFC 6749 section 5.1)."""


@frozen(kw_only=True, init=False, weakref_slot=False)
class Token:
    """The pair of one response with its other members (RFC 6749 section 5.1).

    A pair is an access token and, unless the response has none, a refresh token.

    Attributes:
        access_token: The access token. Opaque: neither the service user nor bLink interprets it.
        refresh_token: The refresh token to use next. If the response to a refresh contained none,
            it is the one that was presented (RFC 6749 section 6), and `oddities` contains
            `Oddity.REFRESH_TOKEN_MISSING`. None if there is none.
        token_type: The type as received, usually `bearer`; None if the response contained none.
        expires_at: The time when the access token expires, timezone-aware UTC, counted from the
            start of the request so that it is never too late. None if the response had no usable
            lifetime, or one of less than a second or more than 31 days.
        scope: The scope values, or None if the response had no usable scope.
        oddities: The departures from the contract in the response. Usually empty.
        extra: The unknown members of the response. They may contain secrets: no `repr` shows them.
        meta: The values of the response headers; None on a token that you make yourself.

    Raises:
        InvalidInputError: A token is not a text, is empty, or cannot be encoded, or `expires_at` is
            no timezone-aware datetime.
    """

    access_token: Secret
    refresh_token: Secret | None = None
    token_type: str | None = None
    expires_at: datetime | None = None
    scope: frozenset[str] | None = None
    oddities: frozenset[Oddity] = frozenset()
    extra: Mapping[str, object] = field(converter=hidden_members, repr=False, hash=False)
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
        if expires_at is not None:
            require_time("expires_at", expires_at)
            expires_at = expires_at.astimezone(UTC)
        self.__attrs_init__(
            access_token=require_secret(access),
            refresh_token=None if refresh is None else require_secret(refresh),
            token_type=token_type,
            expires_at=expires_at,
            scope=scope,
            oddities=oddities,
            extra=extra,
            meta=meta,
        )

    def seconds_left(self, now: datetime) -> float | None:
        """Return how long the access token is still valid.

        Args:
            now: The current time, timezone-aware.

        Returns:
            Seconds, negative once it has expired; None if the expiry is not known.
        """
        return None if self.expires_at is None else (self.expires_at - now).total_seconds()
