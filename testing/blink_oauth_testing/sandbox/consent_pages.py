"""The pages of a bank: sign in, choose accounts, and why it cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .messages import Reply
from .page import PAGE_HEADERS, Tone, page
from .policy import ACCOUNTS, BankPolicy

__all__ = ["choose", "expired", "refused", "sign_in"]

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
) -> Reply:
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
) -> Reply:
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


def expired() -> Reply:
    """Return the page for somebody who came too late, or twice."""
    content = (
        "<p>It was open for too long, or it was used already. Nothing was approved by it now.</p>"
        "<p>Go back to the application that brought you here, and start again there.</p>"
    )
    return _reply(400, "This page has expired", content, "bad")


def refused(why: str) -> Reply:
    """Return the page for a request that no bank would send anybody back from."""
    content = (
        f"<p>{escape(why)}</p>"
        "<p>The application that brought you here made a mistake: tell its makers.</p>"
    )
    return _reply(400, "Refused", content, "bad")


def _described(by: str, is_wrong: bool) -> str:
    names = " ".join(filter(None, [by, "error" if is_wrong else ""]))
    invalid = ' aria-invalid="true"' if is_wrong else ""
    return f'{invalid} aria-describedby="{names}"' if names else ""


def _reply(status: int, title: str, content: str, tone: Tone = "plain") -> Reply:
    headers = dict(PAGE_HEADERS)
    kind = headers.pop("Content-Type")
    reply = Reply(status).with_body(kind, page(title, content, tone=tone))
    for name, value in headers.items():
        reply = reply.with_header(name, value)
    return reply
