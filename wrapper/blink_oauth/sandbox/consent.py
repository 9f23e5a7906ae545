"""The authorize endpoint of a bank: a code at once, or after a page that asks a person.

It follows RFC 6749 sections 4.1.1 and 4.1.2. A redirect URI that is not registered is never
redirected to; on loopback any port will do (RFC 8252 section 7.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from html import escape
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .banks import Bank
from .reply import HTML, Reply

Decision = Literal["approve", "refuse"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""

_QUESTION = """<p>{client} asks to read the accounts of <strong>{username}</strong>.</p>
<p>This is a sandbox: there is no bank, and there is no money.</p>
<form method="post">
<button type="submit" name="decision" value="approve">Approve</button>
<button type="submit" name="decision" value="refuse">Refuse</button>
</form>"""


def authorize(
    bank: Bank,
    query: Sequence[tuple[str, str]],
    *,
    clients: Collection[str],
    redirect_uris: Collection[str],
    decision: Decision | None = None,
) -> Reply:
    """Answer a request to the authorize endpoint.

    Args:
        bank: The bank that is asked.
        query: The parameters of the request.
        clients: The ids of the clients it knows.
        redirect_uris: The redirect URIs that are registered.
        decision: What the person decided on the page, or None where nobody was asked yet.
    """
    parameters = dict(query)
    distrust = _why_no_redirect(query, clients, redirect_uris)
    if distrust is not None:
        return _page(400, "Refused", f"<p>{distrust}</p>")
    redirect_uri, state = parameters["redirect_uri"], parameters.get("state")
    error = _error(query)
    if error is not None:
        return _redirect(redirect_uri, error=error, state=state)
    client_id, username = parameters["client_id"], parameters["username"]
    if bank.policy.consent_page and decision is None:
        question = _QUESTION.format(client=escape(client_id), username=escape(username))
        return _page(200, f"Consent at {bank.policy.name}", question)
    if decision == "refuse":
        return _redirect(redirect_uri, error="access_denied", state=state)
    code = bank.issue_code(client_id, redirect_uri, username)
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
    return _private(Reply(302).with_header("Location", location))


def _page(status: int, title: str, content: str) -> Reply:
    page = _PAGE.format(title=escape(title), content=content)
    reply = _private(Reply(status).with_body(HTML, page.encode()))
    return reply.with_header(
        "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
    )


def _private(reply: Reply) -> Reply:
    return reply.with_header("Cache-Control", "no-store").with_header(
        "Referrer-Policy", "no-referrer"
    )
