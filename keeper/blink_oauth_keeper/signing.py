"""The headers that a request to a bank's API bears: whose token, and on whose behalf.

Setting six headers one by one, and reading them afterwards, costs httpx more than all else that a
fresh token needs. What is here does the same in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, KeysView
from typing import Any

import httpx
from attrs import frozen

from blink_oauth.context import Grant, Psu, is_visible_ascii
from blink_oauth.headers import CORRELATION_ID, REQUEST_HEADERS, request_headers
from blink_oauth.tokens import Secret

from .errors import NoTokenError

__all__ = ["AUTHORIZATION", "Signer", "bearer"]

AUTHORIZATION = "Authorization"
Item = tuple[bytes, bytes, bytes]
"""A header as httpx keeps it: the name, the name in small letters, the value."""

ID = (CORRELATION_ID.encode(), CORRELATION_ID.lower().encode())
ID_TEXT = CORRELATION_ID.lower()
BEARER = (AUTHORIZATION.encode(), AUTHORIZATION.lower().encode())
BEARER_TEXT = AUTHORIZATION.lower()
OURS = frozenset(name.lower().encode() for name in {AUTHORIZATION, *REQUEST_HEADERS})


class _Headers(httpx.Headers):
    """Headers whose texts are known already.

    After each response httpx looks every header of the request up, for its cookies, and each time
    looks through all of them. Whatever changes the headers makes this an ordinary one again.
    """

    _texts: dict[str, str] | None = None

    @classmethod
    def of(cls, items: list[Item], texts: dict[str, str] | None, encoding: str) -> _Headers:
        headers = cls(encoding=encoding)
        # The constructor of httpx would normalize once more what is normalized.
        headers._list = items
        headers._texts = texts
        return headers

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key) if self._texts is None else self._texts[key.lower()]

    def keys(self) -> KeysView[str]:
        return super().keys() if self._texts is None else self._texts.keys()

    def __setitem__(self, key: str, value: str) -> None:
        self._texts = None
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._texts = None
        super().__delitem__(key)

    def update(self, headers: Any = None) -> None:  # type: ignore[override]
        self._texts = None
        super().update(headers)


@frozen(eq=False, repr=False, init=False)
class Signer:
    """Puts a bearer token and the platform's five headers on requests.

    Args:
        grant: The grant that the requests concern.
        psu: The person behind them, or `Psu.AUTO`.
        user_agent: Name and version of our software.
        new_correlation_id: Makes a fresh id for each attempt.

    Source: RFC 6750 section 2.1; bLink custom headers.
    """

    _new_correlation_id: Callable[[], str]
    _items: tuple[Item, ...]
    _texts: dict[str, str]

    def __init__(
        self, grant: Grant, psu: Psu, *, user_agent: str, new_correlation_id: Callable[[], str]
    ) -> None:
        lasting = request_headers(grant, psu, user_agent=user_agent, correlation_id="")
        del lasting[CORRELATION_ID]
        self.__attrs_init__(
            new_correlation_id,
            tuple((n.encode(), n.lower().encode(), value.encode()) for n, value in lasting.items()),
            {name.lower(): value for name, value in lasting.items()},
        )

    def sign(self, request: httpx.Request, access_token: Secret) -> None:
        """Replace what a request has of these headers by ours."""
        before = request.headers
        items = [item for item in before._list if item[1] not in OURS]  # noqa: SLF001
        encoding = before.encoding
        texts = {name.decode(encoding): value.decode(encoding) for _, name, value in items}
        alone = len(texts) == len(items)
        items += self._items
        texts.update(self._texts)
        texts[ID_TEXT] = correlation_id = self._new_correlation_id()
        texts[BEARER_TEXT] = credentials = bearer(access_token)
        items.append((*ID, correlation_id.encode()))
        items.append((*BEARER, credentials.encode()))
        # Of a header that stands there twice, httpx joins the values.
        request.headers = _Headers.of(items, texts if alone else None, encoding)


def bearer(access_token: Secret) -> str:
    """Return the value of the header that carries a token.

    Raises:
        NoTokenError: No header can carry it.
    """
    if not is_visible_ascii(access_token.reveal()):
        # Those below would repeat it in their own error.
        raise NoTokenError(
            "The bank issued an access token that no header can carry: it must be visible ASCII "
            "(RFC 6750 section 2.1). Nothing was sent. A refresh may bring another: invalidate it."
        )
    return "Bearer " + access_token.reveal()
