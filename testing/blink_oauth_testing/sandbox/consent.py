"""The authorize endpoint of a bank: a code at once, or after a page that asks a person.

It follows RFC 6749 sections 4.1.1 and 4.1.2. A redirect URI that is not registered is never
redirected to; on loopback any port will do (RFC 8252 section 7.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from . import consent_pages as pages
from .banks import Bank
from .conversation import Conversations
from .messages import Reply
from .page import PAGE_HEADERS


def authorize(
    bank: Bank,
    query: Sequence[tuple[str, str]],
    *,
    clients: Collection[str],
    redirect_uris: Collection[str],
    conversations: Conversations,
    form: Sequence[tuple[str, str]] | None = None,
) -> Reply:
    """Answer a request to the authorize endpoint.

    Args:
        bank: The bank that is asked.
        query: The parameters of the request.
        clients: The ids of the clients it knows.
        redirect_uris: The redirect URIs that are registered.
        conversations: The people who are being asked.
        form: What somebody filled in, or None for a first look.
    """
    parameters = dict(query)
    distrust = _why_no_redirect(query, clients, redirect_uris)
    if distrust is not None:
        return pages.refused(distrust)
    redirect_uri, state = parameters["redirect_uri"], parameters.get("state")
    error = _error(query)
    if error is not None:
        return _redirect(redirect_uri, error=error, state=state)
    client_id, username = parameters["client_id"], parameters["username"]
    accounts = None
    if bank.policy.consent_page:
        said = conversations.hear(bank.policy, tuple(query), form)
        if isinstance(said, Reply):
            return said
        if said is None:
            return _redirect(redirect_uri, error="access_denied", state=state)
        accounts = said
    code = bank.issue_code(client_id, redirect_uri, username, accounts)
    return _redirect(redirect_uri, code=code, state=state)


def _why_no_redirect(
    query: Sequence[tuple[str, str]], clients: Collection[str], redirect_uris: Collection[str]
) -> str | None:
    """Tell why the browser must not be sent back, not even with an error, or None."""
    parameters = dict(query)
    if _repeated(query) & {"client_id", "redirect_uri"}:
        return "A parameter is there more than once."
    if parameters.get("client_id") not in clients:
        return "The client is not known."
    if not is_registered(parameters.get("redirect_uri", ""), redirect_uris):
        return "The redirect URI is not registered."
    return None


def _error(query: Sequence[tuple[str, str]]) -> str | None:
    """Tell the error of RFC 6749 section 4.1.2.1 that the browser takes back, or None."""
    parameters = dict(query)
    valid = 0 < len(parameters.get("username", "")) <= 64 and "response_type" in parameters
    if _repeated(query) or not valid:
        return "invalid_request"
    return None if parameters["response_type"] == "code" else "unsupported_response_type"


def _repeated(query: Sequence[tuple[str, str]]) -> set[str]:
    return {name for name, count in Counter(name for name, _ in query).items() if count > 1}


def authorize_query(client_id: str, redirect_uri: str, username: str, state: str) -> str:
    """Return the query of an authorization request."""
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "username": username,
        "state": state,
    }
    return urlencode(parameters)


def is_registered(redirect_uri: str, registered: Collection[str]) -> bool:
    """Tell whether a redirect URI is registered: exactly, or on loopback with any port."""
    if redirect_uri in registered:
        return True
    loopback = _loopback_without_port(redirect_uri)
    return loopback is not None and loopback in map(_loopback_without_port, registered)


def _loopback_without_port(uri: str) -> str | None:
    """Return a loopback URI without its port, or None for any other URI."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    address = f"[{host}]" if ":" in host else host
    known = address in {"127.0.0.1", "[::1]"} and parts.scheme == "http"
    # Nothing but address and port: no user, no other spelling.
    if not known or parts.netloc not in {address, f"{address}:{port}"}:
        return None
    return urlunsplit(parts._replace(netloc=address))


def _redirect(redirect_uri: str, **parameters: str | None) -> Reply:
    parts = urlsplit(redirect_uri)
    added = [(name, value) for name, value in parameters.items() if value is not None]
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *added])
    location = urlunsplit(parts._replace(query=query))
    reply = Reply(302).with_header("Location", location)
    for name in ("Cache-Control", "Referrer-Policy"):
        reply = reply.with_header(name, PAGE_HEADERS[name])
    return reply
