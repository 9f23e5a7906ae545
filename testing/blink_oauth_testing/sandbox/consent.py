"""The authorize endpoint of a bank: a code immediately, or after consent pages.

It follows RFC 6749 sections 4.1.1 and 4.1.2. It never redirects to a URI that is not registered;
a loopback URI is registered for any port (RFC 8252 section 7.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from attrs import define, field

from .banks import ACCOUNTS, Bank, BankPolicy
from .messages import Response
from .page import PAGE_HEADERS, page

__all__ = ["ConsentSessions"]

_NOTE = '<p class="note">This is a sandbox: there is no bank, and there is no money.</p>'

_SIGN_IN = """{error}<form method="post">
<input type="hidden" name="session" value="{session}">
<label for="username">User name</label>
<input type="text" id="username" value="{username}" readonly autocomplete="off">
<label for="password">Password</label>
<input type="password" id="password" name="password" autocomplete="off" autofocus{described}>
<p class="note" id="hint">Any password will do.</p>
<div class="buttons"><button type="submit">Sign in</button></div>
</form>
{note}"""

_CONSENT = """<p><strong>{client}</strong> asks to read accounts of <strong>{username}</strong>.</p>
{error}<form method="post">
<input type="hidden" name="session" value="{session}">
<fieldset{described}>
<legend>Accounts that it may read</legend>
{accounts}
</fieldset>
<div class="buttons">
<button type="submit" name="decision" value="approve">Approve</button>
<button type="submit" name="decision" value="refuse" class="second">Refuse</button>
</div>
</form>
{note}"""

_ACCOUNT = """<div class="choice">
<input type="checkbox" id="account-{id}" name="account" value="{id}">
<label for="account-{id}">{name}<small>{iban}, {currency}</small></label>
</div>"""

_ERROR = '<p class="error" role="alert" id="error">{}</p>'


def sign_in_page(
    bank: BankPolicy, query: Sequence[tuple[str, str]], session: str, *, with_error: bool = False
) -> Response:
    """Return the first page, on which the customer signs in.

    Args:
        bank: The bank.
        query: The parameters of the authorization request.
        session: The id of the consent session.
        with_error: Whether the password was missing.
    """
    content = _SIGN_IN.format(
        error=_ERROR.format("Enter a password.") if with_error else "",
        described=_described("hint", with_error),
        session=escape(session),
        username=escape(dict(query)["username"]),
        note=_NOTE,
    )
    return _page_response(200, f"Sign in to {bank.name}", content)


def consent_page(
    bank: BankPolicy, query: Sequence[tuple[str, str]], session: str, *, with_error: bool = False
) -> Response:
    """Return the second page, on which the customer chooses accounts and decides.

    Args:
        bank: The bank.
        query: The parameters of the authorization request.
        session: The id of the consent session.
        with_error: Whether no account was chosen.
    """
    parameters = dict(query)
    error = "Choose at least one account, or refuse."
    content = _CONSENT.format(
        error=_ERROR.format(error) if with_error else "",
        described=_described("", with_error),
        session=escape(session),
        client=escape(parameters["client_id"]),
        username=escape(parameters["username"]),
        accounts="\n".join(_ACCOUNT.format(**account) for account in ACCOUNTS),
        note=_NOTE,
    )
    return _page_response(200, f"Consent at {bank.name}", content)


def expired_page() -> Response:
    """Return the page for a form of a session that has expired or has ended."""
    content = (
        "<p>It was open for too long, or it was used already. This attempt approved nothing.</p>"
        "<p>Go back to the application that opened this page, and start again.</p>"
    )
    return _page_response(400, "This page has expired", content)


def refusal_page(reason: str) -> Response:
    """Return the page for a request after which the browser must not be redirected."""
    content = (
        f"<p>{escape(reason)}</p>"
        "<p>The application that opened this page made a mistake: tell its developers.</p>"
    )
    return _page_response(400, "Refused", content)


def _described(hint: str, with_error: bool) -> str:
    names = " ".join(filter(None, [hint, "error" if with_error else ""]))
    invalid = ' aria-invalid="true"' if with_error else ""
    return f'{invalid} aria-describedby="{names}"' if names else ""


def _page_response(status: int, title: str, content: str) -> Response:
    headers = dict(PAGE_HEADERS)
    content_type = headers.pop("Content-Type")
    body = page(title, content, is_error=status >= 400)
    response = Response(status).with_body(content_type, body)
    for name, value in headers.items():
        response = response.with_header(name, value)
    return response


SESSION_SECONDS = 600.0
"""Seconds until a consent session expires."""

Query = tuple[tuple[str, str], ...]


@define(eq=False)
class _ConsentSession:
    target_id: str
    query: Query
    expires_at: float
    is_signed_in: bool = False


@define(eq=False)
class ConsentSessions:
    """The open consent sessions, by a secret id that only the pages of the session contain.

    Args:
        now: Returns the time in seconds.
        new_secret: Returns a new secret of a kind.
    """

    now: Callable[[], float]
    new_secret: Callable[[str], str]
    _open: dict[str, _ConsentSession] = field(init=False, factory=dict, repr=False)

    def clear(self) -> None:
        """Delete all sessions."""
        self._open.clear()

    def submit(
        self, bank: BankPolicy, query: Query, form: Sequence[tuple[str, str]] | None
    ) -> Response | frozenset[str] | None:
        """Open a session, or continue one with the form of a page.

        Args:
            bank: The bank.
            query: The parameters of the authorization request.
            form: The form that was submitted, or None to open a session.

        Returns:
            The next page; or the ids of the chosen accounts for a consent; or None for a refusal.
        """
        if form is None:
            session_id = self.new_secret("consent-session")
            expires_at = self.now() + SESSION_SECONDS
            self._open[session_id] = _ConsentSession(bank.target_id, query, expires_at)
            return sign_in_page(bank, query, session_id)
        fields = dict(form)
        session_id = fields.get("session", "")
        session = self._open.get(session_id)
        if session is None or not self._is_continued(session, bank, query, fields):
            self._open.pop(session_id, None)
            return expired_page()
        if not session.is_signed_in:
            session.is_signed_in = bool(fields.get("password", "").strip())
            next_page = consent_page if session.is_signed_in else sign_in_page
            return next_page(bank, query, session_id, with_error=not session.is_signed_in)
        chosen = frozenset(value for key, value in form if key == "account")
        chosen &= {account["id"] for account in ACCOUNTS}
        is_approved = fields.get("decision") == "approve"
        if is_approved and not chosen:
            return consent_page(bank, query, session_id, with_error=True)
        del self._open[session_id]
        return chosen if is_approved else None

    def _is_continued(
        self,
        session: _ConsentSession,
        bank: BankPolicy,
        query: Query,
        fields: Mapping[str, str],
    ) -> bool:
        """Return whether a form belongs to this session and the session is still open."""
        same_request = (session.target_id, session.query) == (bank.target_id, query)
        # A second submission of the sign-in page has no decision; it must not count as a refusal.
        right_page = "decision" in fields or not session.is_signed_in
        return same_request and right_page and self.now() < session.expires_at


def authorize(
    bank: Bank,
    query: Sequence[tuple[str, str]],
    *,
    clients: Collection[str],
    redirect_uris: Collection[str],
    sessions: ConsentSessions,
    form: Sequence[tuple[str, str]] | None = None,
) -> Response:
    """Return the response of the authorize endpoint.

    Args:
        bank: The bank of the endpoint.
        query: The parameters of the request.
        clients: The ids of the registered clients.
        redirect_uris: The registered redirect URIs.
        sessions: The open consent sessions.
        form: The form of a page that was submitted, or None for the first request.
    """
    parameters = dict(query)
    reason = _why_no_redirect(query, clients, redirect_uris)
    if reason is not None:
        return refusal_page(reason)
    redirect_uri, state = parameters["redirect_uri"], parameters.get("state")
    error = _authorization_error(query)
    if error is not None:
        return _redirect(redirect_uri, error=error, state=state)
    client_id, username = parameters["client_id"], parameters["username"]
    accounts = None
    if bank.policy.consent_page:
        submitted = sessions.submit(bank.policy, tuple(query), form)
        if isinstance(submitted, Response):
            return submitted
        if submitted is None:
            return _redirect(redirect_uri, error="access_denied", state=state)
        accounts = submitted
    code = bank.issue_code(client_id, redirect_uri, username, accounts)
    return _redirect(redirect_uri, code=code, state=state)


def _why_no_redirect(
    query: Sequence[tuple[str, str]], clients: Collection[str], redirect_uris: Collection[str]
) -> str | None:
    """Return why the browser must not be redirected, not even with an error, or None."""
    parameters = dict(query)
    if _repeated_parameters(query) & {"client_id", "redirect_uri"}:
        return "The client or the redirect URI is given more than once."
    if parameters.get("client_id") not in clients:
        return "The client is not registered."
    if not is_registered(parameters.get("redirect_uri", ""), redirect_uris):
        return "The redirect URI is not registered."
    return None


def _authorization_error(query: Sequence[tuple[str, str]]) -> str | None:
    """Return the error code of RFC 6749 section 4.1.2.1 for the redirect, or None."""
    parameters = dict(query)
    valid = 0 < len(parameters.get("username", "")) <= 64 and "response_type" in parameters
    if _repeated_parameters(query) or not valid:
        return "invalid_request"
    return None if parameters["response_type"] == "code" else "unsupported_response_type"


def _repeated_parameters(query: Sequence[tuple[str, str]]) -> set[str]:
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
    """Return whether a redirect URI is registered, exactly or, on loopback, for any port."""
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
    is_loopback = address in {"127.0.0.1", "[::1]"} and parts.scheme == "http"
    # Rejects a user in the URI, and any other spelling of address or port.
    if not is_loopback or parts.netloc not in {address, f"{address}:{port}"}:
        return None
    return urlunsplit(parts._replace(netloc=address))


def _redirect(redirect_uri: str, **parameters: str | None) -> Response:
    parts = urlsplit(redirect_uri)
    added = [(name, value) for name, value in parameters.items() if value is not None]
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *added])
    location = urlunsplit(parts._replace(query=query))
    response = Response(302).with_header("Location", location)
    for name in ("Cache-Control", "Referrer-Policy"):
        response = response.with_header(name, PAGE_HEADERS[name])
    return response
