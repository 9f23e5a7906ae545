"""The authorization request, and the callback that answers it (RFC 6749 section 4.1).

`AuthorizationRequest` makes the URL of the bank's consent page and reads the callback. It sends
nothing. The code that it finds goes to `BlinkOAuth.exchange_code` or `TokenManager.authorize`.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from attrs import Attribute, field, frozen

from .arguments import GRANT, require_type, wrong_argument
from .context import Grant, require_redirect_uri
from .errors import InvalidInputError
from .headers import is_visible_ascii
from .tokens import Secret, hide, require_secret

__all__ = [
    "AuthorizationCode",
    "AuthorizationRequest",
    "FailedCallback",
    "FailureReason",
    "printable",
]

OWN_PARAMETERS: Final = ("response_type", "client_id", "redirect_uri", "username", "state")
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
MAX_PARAMETERS: Final = 50
MAX_ERROR: Final = 60
MAX_DESCRIPTION: Final = 200

_NONCE_BYTES: Final = 16
_STATE = re.compile(r"[A-Za-z0-9_-]{64}")
_CODE = re.compile(r"[\x20-\x7e]+")


class FailureReason(StrEnum):
    """The reason why a callback contains no usable code."""

    UNREADABLE = "unreadable"
    WHOLE_URL = "whole_url"
    """What `read_callback` got is a URL, or begins with a question mark: pass the query alone."""
    NO_STATE = "no_state"
    REPEATED_STATE = "repeated_state"
    WRONG_STATE = "wrong_state"
    OTHER_LOGIN = "other_login"
    REPEATED_PARAMETER = "repeated_parameter"
    ACCESS_DENIED = "access_denied"
    BANK_ERROR = "bank_error"
    NO_CODE = "no_code"


_WITHOUT_VALID_STATE = {
    FailureReason.UNREADABLE,
    FailureReason.WHOLE_URL,
    FailureReason.NO_STATE,
    FailureReason.REPEATED_STATE,
    FailureReason.WRONG_STATE,
    FailureReason.OTHER_LOGIN,
}


@frozen
class AuthorizationCode:
    """The authorization code of a callback, valid for 30 seconds: exchange it at once, and once.

    Attributes:
        code: The code.
        issuer: The `iss` parameter, printable, or None. Compare it with the bank's issuer if you
            know that (RFC 9207 section 2.4).
    """

    code: Secret
    issuer: str | None = None


@frozen
class FailedCallback:
    """A callback without a usable code. No code was sent, and nothing is spent.

    Attributes:
        reason: The kind of failure.
        error: The `error` parameter, printable and cut, or None.
        description: The `error_description` parameter, printable and cut, or None. It is left out
            if it contains the state or a code.
        issuer: The `iss` parameter, printable, or None.
    """

    reason: FailureReason
    error: str | None = None
    description: str | None = None
    issuer: str | None = None

    @property
    def answers_request(self) -> bool:
        """Whether the callback has the state of the request, so that no other is to be expected.

        Only a party that saw the request knows its state. Any page in the browser can send a
        callback without it, which must not end the login (RFC 9700 section 4.7).
        """
        return self.reason not in _WITHOUT_VALID_STATE


def _state(instance: object, attribute: Attribute[Secret], value: Secret) -> None:
    require_type("state", value, Secret, "that of AuthorizationRequest.new(…)")


@frozen
class AuthorizationRequest:
    """A request for a customer's consent, made by `new`; `restore` makes the same one again.

    Keep the text of `state` until the callback in the customer's session, or on your server with
    the customer who is signed in, and nowhere else: the callback then answers a request of the same
    browser, or of the same customer.

    Attributes:
        client_id: The client's id in bLink's directory.
        grant: The grant that the customer is asked to consent to.
        redirect_uri: The URI to which the bank redirects the browser.
        state: The value that the callback must return.
    """

    client_id: str
    grant: Grant
    redirect_uri: str
    state: Secret = field(validator=_state)

    @classmethod
    def new(
        cls,
        client_id: str,
        grant: Grant,
        redirect_uri: str,
        *,
        key: str | Secret,
        random: Callable[[int], bytes] = os.urandom,
    ) -> AuthorizationRequest:
        """Return a request whose state is bound to all its other fields.

        Args:
            client_id: The client's id in bLink's directory.
            grant: The grant that the customer is asked to consent to.
            redirect_uri: The URI to which the bank redirects the browser, as registered.
            key: The secret key of the binding, such as your application's session key.
            random: Returns the given number of random bytes.

        Raises:
            InvalidInputError: An argument has another type, or the key is empty.

        Source: RFC 6749 section 10.12; RFC 9700 sections 2.1 and 4.7.
        """
        hidden = hide(key, "key of the state")
        del key
        _require_values(client_id, grant, redirect_uri)
        values = (client_id, grant, redirect_uri)
        return cls(*values, _bound_state(random(_NONCE_BYTES), require_secret(hidden), *values))

    @classmethod
    def restore(
        cls,
        client_id: str,
        grant: Grant,
        redirect_uri: str,
        *,
        state: str | Secret,
        key: str | Secret,
    ) -> AuthorizationRequest:
        """Return the request that `new` made, from the state in the customer's session.

        Args:
            client_id: The client's id, as given to `new`.
            grant: The grant, as given to `new`.
            redirect_uri: The redirect URI, as given to `new`.
            state: The state that was kept, and never one that only the callback has.
            key: The key that `new` was given.

        Raises:
            InvalidInputError: An argument has another type, or the state is missing, or was made
                for other values or with another key.
        """
        hidden, hidden_key = hide(state, "state"), hide(key, "key of the state")
        del state, key
        _require_values(client_id, grant, redirect_uri)
        values, given = (client_id, grant, redirect_uri), require_secret(hidden)
        if not _is_bound(given, require_secret(hidden_key), *values):
            raise InvalidInputError(
                "The state was not made for this client, grant and redirect URI with this key. "
                "Start the login again. Nothing was sent."
            )
        return cls(*values, given)

    def url(self, template: str, extra: Mapping[str, str] | None = None) -> str:
        """Return the URL of the bank's consent page. It contains the state: do not log it.

        Args:
            template: The bank's authorize URL; `{target_id}` and `{client_id}` are filled in. It
                may have a query.
            extra: Further parameters that the bank requires.

        Raises:
            InvalidInputError: The template or a further parameter cannot be used.

        Source: RFC 6749 sections 3.1 and 4.1.1. The parameter `username` is inferred: code of a
        third party sends it.
        """
        require_type("template", template, str, '"https://bank.example/authorize"')
        extra = {} if extra is None else extra
        _require_extra(extra)
        url = template.replace("{target_id}", quote(self.grant.target_id, safe=""))
        url = url.replace("{client_id}", quote(self.client_id, safe=""))
        problem = _url_problem(url)
        if problem is not None:
            raise InvalidInputError(f"The authorize URL {problem}. Nothing was sent.")
        parts = urlsplit(url)
        _require_distinct(
            [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)], extra
        )
        values = ("code", self.client_id, self.redirect_uri, self.grant.username)
        parameters = dict(zip(OWN_PARAMETERS, (*values, self.state.reveal()), strict=True))
        query = urlencode({**parameters, **extra}, quote_via=quote)
        return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))

    def read_callback(self, query: str) -> AuthorizationCode | FailedCallback:
        """Return the code of a callback, or why it contains none for this request.

        Args:
            query: The query of the request to the redirect URI, as it was received: what follows
                the question mark.

        Raises:
            InvalidInputError: The query is no text.

        Source: RFC 6749 sections 3.1, 4.1.2 and 4.1.2.1; RFC 9207; RFC 9700 section 4.7.
        """
        require_type("query", query, str, '"code=…&state=…"')
        if "?" in query.partition("=")[0]:
            return FailedCallback(FailureReason.WHOLE_URL)
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            return FailedCallback(FailureReason.UNREADABLE)
        problem = self._problem_of_state([value for name, value in pairs if name == "state"])
        if problem is not None:
            return FailedCallback(problem)
        parameters = dict(pairs)
        if len(parameters) < len(pairs):
            return FailedCallback(FailureReason.REPEATED_PARAMETER)
        return _result_of(parameters)

    def _problem_of_state(self, states: Sequence[str]) -> FailureReason | None:
        if not states:
            return FailureReason.NO_STATE
        if len(states) > 1:
            return FailureReason.REPEATED_STATE
        own = self.state.reveal().encode()
        if hmac.compare_digest(states[0].encode("utf-8", "replace"), own):
            return None
        is_a_state = _STATE.fullmatch(states[0])
        return FailureReason.OTHER_LOGIN if is_a_state else FailureReason.WRONG_STATE


def _require_values(client_id: str, grant: Grant, redirect_uri: str) -> None:
    require_type("client_id", client_id, str, '"CIDX0000000002"')
    require_type("grant", grant, Grant, GRANT)
    require_redirect_uri(redirect_uri)


def _bound_state(
    nonce: bytes, key: Secret, client_id: str, grant: Grant, redirect_uri: str
) -> Secret:
    texts = ("blink-oauth state", client_id, grant.target_id, grant.username, redirect_uri)
    parts = (nonce, *(text.encode() for text in texts))
    # The length before each part keeps a part from being read as the end of the previous one.
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    digest = hmac.digest(key.reveal().encode(), message, "sha256")
    return Secret(base64.urlsafe_b64encode(nonce + digest).decode(), what="state")


def _is_bound(state: Secret, key: Secret, client_id: str, grant: Grant, redirect_uri: str) -> bool:
    if not _STATE.fullmatch(state.reveal()):
        return False
    nonce = base64.urlsafe_b64decode(state.reveal())[:_NONCE_BYTES]
    return state == _bound_state(nonce, key, client_id, grant, redirect_uri)


def _result_of(parameters: Mapping[str, str]) -> AuthorizationCode | FailedCallback:
    """Return the code or the failure of a callback that has the state of the request."""
    issuer = printable(parameters["iss"], MAX_DESCRIPTION) if "iss" in parameters else None
    if "error" in parameters:
        error, text = parameters["error"], parameters.get("error_description", "").strip()
        if any(parameters.get(name, "") and parameters[name] in text for name in ("state", "code")):
            text = ""
        is_refusal = error == "access_denied"
        return FailedCallback(
            FailureReason.ACCESS_DENIED if is_refusal else FailureReason.BANK_ERROR,
            error=printable(error, MAX_ERROR),
            description=printable(text, MAX_DESCRIPTION) or None,
            issuer=issuer,
        )
    if not _CODE.fullmatch(parameters.get("code", "")):
        return FailedCallback(FailureReason.NO_CODE, issuer=issuer)
    return AuthorizationCode(Secret(parameters["code"], what="authorization code"), issuer)


def _require_extra(extra: object) -> None:
    """Require further parameters as a mapping of texts.

    Raises:
        InvalidInputError: They are none.
    """
    example = '{"scope": "ais"}'
    if not isinstance(extra, Mapping):
        raise wrong_argument("extra", extra, "a mapping", example)
    for name, text in extra.items():
        require_type(f"extra[{printable(str(name), 40)!r}]", text, str, example)


def _require_distinct(given: Sequence[str], extra: Mapping[str, str]) -> None:
    """Require that no parameter of the authorization request is there twice.

    Raises:
        InvalidInputError: A parameter is there twice, or is one of the request itself.
    """
    for name in (*given, *extra):
        if name in OWN_PARAMETERS or (name in given and name in extra) or given.count(name) > 1:
            raise InvalidInputError(
                f"The parameter {printable(name, 40)} is there already, and each may be there only "
                f"once. Those of the login itself are {', '.join(OWN_PARAMETERS)}. Nothing was "
                "sent."
            )


def _url_problem(url: str) -> str | None:
    """Return why a browser must not open a URL, or None."""
    if not is_visible_ascii(url):
        return "must be visible ASCII, without blanks"
    if "{" in url or "}" in url:
        return "may hold {target_id} and {client_id}, and no other braces"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no URL"
    if "#" in url or "@" in url.partition("?")[0] or not host:
        return "must name a host, and neither a user nor a fragment"
    if parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK):
        return None
    return "must begin with https:// (http:// only on this machine)"


def printable(text: str, limit: int) -> str:
    """Return a text cut to `limit` characters (then `…`), with blanks for unprintable ones."""
    shown = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return f"{shown[:limit]}…" if len(text) > limit else shown
