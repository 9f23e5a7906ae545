"""The authorize endpoint of a bank: a code at once, or after pages that ask a person.

It follows RFC 6749 sections 4.1.1 and 4.1.2. A redirect URI that is not registered is never
redirected to; on loopback any port will do (RFC 8252 section 7.3).
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

__all__ = ["Conversations"]

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

_CHOOSE = """<p><strong>{client}</strong> asks to read accounts of <strong>{username}</strong>.</p>
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


def sign_in(
    bank: BankPolicy, query: Sequence[tuple[str, str]], session: str, *, is_wrong: bool = False
) -> Response:
    """Return the first page.

    Args:
        bank: The bank.
        query: The parameters of the authorization request.
        session: The name of the conversation.
        is_wrong: Whether the password was left out.
    """
    content = _SIGN_IN.format(
        error=_ERROR.format("Enter a password.") if is_wrong else "",
        described=_described("hint", is_wrong),
        session=escape(session),
        username=escape(dict(query)["username"]),
        note=_NOTE,
    )
    return _reply(200, f"Sign in to {bank.name}", content)


def choose(
    bank: BankPolicy, query: Sequence[tuple[str, str]], session: str, *, is_wrong: bool = False
) -> Response:
    """Return the page that asks for consent.

    Args:
        bank: The bank.
        query: The parameters of the authorization request.
        session: The name of the conversation.
        is_wrong: Whether no account was chosen.
    """
    parameters = dict(query)
    error = "Choose at least one account, or refuse."
    content = _CHOOSE.format(
        error=_ERROR.format(error) if is_wrong else "",
        described=_described("", is_wrong),
        session=escape(session),
        client=escape(parameters["client_id"]),
        username=escape(parameters["username"]),
        accounts="\n".join(_ACCOUNT.format(**account) for account in ACCOUNTS),
        note=_NOTE,
    )
    return _reply(200, f"Consent at {bank.name}", content)


def expired() -> Response:
    """Return the page for somebody who came too late, or twice."""
    content = (
        "<p>It was open for too long, or it was used already. Nothing was approved by it now.</p>"
        "<p>Go back to the application that brought you here, and start again there.</p>"
    )
    return _reply(400, "This page has expired", content)


def refused(why: str) -> Response:
    """Return the page for a request that no bank would send anybody back from."""
    content = (
        f"<p>{escape(why)}</p>"
        "<p>The application that brought you here made a mistake: tell its makers.</p>"
    )
    return _reply(400, "Refused", content)


def _described(by: str, is_wrong: bool) -> str:
    names = " ".join(filter(None, [by, "error" if is_wrong else ""]))
    invalid = ' aria-invalid="true"' if is_wrong else ""
    return f'{invalid} aria-describedby="{names}"' if names else ""


def _reply(status: int, title: str, content: str) -> Response:
    headers = dict(PAGE_HEADERS)
    kind = headers.pop("Content-Type")
    reply = Response(status).with_body(kind, page(title, content, is_error=status >= 400))
    for name, value in headers.items():
        reply = reply.with_header(name, value)
    return reply


PATIENCE = 600.0
"""Seconds that a person has."""

Query = tuple[tuple[str, str], ...]


@define(eq=False)
class _Conversation:
    target_id: str
    query: Query
    until: float
    is_signed_in: bool = False


@define(eq=False)
class Conversations:
    """The people who are being asked. Each has a name of its own that only its pages know.

    Args:
        now: Returns the time in seconds.
        new_secret: Makes a value from the kind of secret.
    """

    now: Callable[[], float]
    new_secret: Callable[[str], str]
    _open: dict[str, _Conversation] = field(init=False, factory=dict, repr=False)

    def clear(self) -> None:
        """Forget everybody."""
        self._open.clear()

    def hear(
        self, bank: BankPolicy, query: Query, form: Sequence[tuple[str, str]] | None
    ) -> Response | frozenset[str] | None:
        """Take in what a person filled in.

        Args:
            bank: The bank that asks.
            query: The parameters of the authorization request.
            form: What came from a page, or None for a first look.

        Returns:
            The next page; or the ids of the accounts for a consent; or None for a refusal.
        """
        if form is None:
            name = self.new_secret("consent-session")
            self._open[name] = _Conversation(bank.target_id, query, self.now() + PATIENCE)
            return sign_in(bank, query, name)
        said = dict(form)
        name = said.get("session", "")
        conversation = self._open.get(name)
        if conversation is None or not self._is_good(conversation, bank, query, said):
            # Somebody waited for too long, sent a page twice, or sent none of ours.
            self._open.pop(name, None)
            return expired()
        if not conversation.is_signed_in:
            conversation.is_signed_in = bool(said.get("password", "").strip())
            next_page = choose if conversation.is_signed_in else sign_in
            return next_page(bank, query, name, is_wrong=not conversation.is_signed_in)
        chosen = frozenset(value for key, value in form if key == "account")
        chosen &= {account["id"] for account in ACCOUNTS}
        is_approved = said.get("decision") == "approve"
        if is_approved and not chosen:
            return choose(bank, query, name, is_wrong=True)
        del self._open[name]
        return chosen if is_approved else None

    def _is_good(
        self,
        conversation: _Conversation,
        bank: BankPolicy,
        query: Query,
        said: Mapping[str, str],
    ) -> bool:
        same = (conversation.target_id, conversation.query) == (bank.target_id, query)
        # Without a decision it is the first page sent twice, and nobody has refused anything.
        fits = "decision" in said or not conversation.is_signed_in
        return same and fits and self.now() < conversation.until


def authorize(
    bank: Bank,
    query: Sequence[tuple[str, str]],
    *,
    clients: Collection[str],
    redirect_uris: Collection[str],
    conversations: Conversations,
    form: Sequence[tuple[str, str]] | None = None,
) -> Response:
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
        return refused(distrust)
    redirect_uri, state = parameters["redirect_uri"], parameters.get("state")
    error = _error(query)
    if error is not None:
        return _redirect(redirect_uri, error=error, state=state)
    client_id, username = parameters["client_id"], parameters["username"]
    accounts = None
    if bank.policy.consent_page:
        said = conversations.hear(bank.policy, tuple(query), form)
        if isinstance(said, Response):
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


def _redirect(redirect_uri: str, **parameters: str | None) -> Response:
    parts = urlsplit(redirect_uri)
    added = [(name, value) for name, value in parameters.items() if value is not None]
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *added])
    location = urlunsplit(parts._replace(query=query))
    reply = Response(302).with_header("Location", location)
    for name in ("Cache-Control", "Referrer-Policy"):
        reply = reply.with_header(name, PAGE_HEADERS[name])
    return reply
