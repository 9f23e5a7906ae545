"""The journey of a token, from the customer's consent to its revocation.

Runs against the local platform that ships with the library: real sockets on loopback, mutual TLS,
the contract enforced on every request. Nothing inside the client is mocked.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from blink_oauth import BlinkError, BlinkOAuth, Grant, Psu, Token
from blink_oauth.context import request_headers
from blink_oauth.tls import check_certificate, ssl_context
from blink_oauth_testing.sandbox import Sandbox
from blink_oauth_testing.sandbox.faults import BAD_GATEWAY_HTML, GATEWAY_TIMEOUT_AFTER

STRICT, LENIENT = "IIDX00001", "IIDX00002"
CUSTOMER = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (demo)")


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}")


def say(text: str) -> None:
    print(textwrap.fill(text, width=100, initial_indent="   ", subsequent_indent="   "))


def show_headers(sandbox: Sandbox) -> None:
    """Show the headers of the last exchange, as the platform recorded them."""
    exchange = sandbox.exchanges[-1]
    for arrow, headers in (("->", exchange.request_headers), ("<-", exchange.response_headers)):
        for name, value in headers:
            print(f"      {arrow} {name}: {value}")


def consent(sandbox: Sandbox, grant: Grant) -> str:
    """Be the customer's browser: open the bank's page and come back with a code."""
    state = f"demo-state-{grant.target_id}"
    page = sandbox.authorize_url(grant, sandbox.redirect_uri, state)
    callback = httpx.get(page, trust_env=False).next_request
    assert callback is not None
    assert callback.url.params["state"] == state
    return callback.url.params["code"]


def log_in(blink: BlinkOAuth, sandbox: Sandbox, grant: Grant) -> Token:
    """Exchange the code of a fresh consent for tokens."""
    return blink.exchange_code(
        grant,
        code=consent(sandbox, grant),
        redirect_uri=sandbox.redirect_uri,
        psu=CUSTOMER,
    )


def accounts(sandbox: Sandbox, http: httpx.Client, grant: Grant, token: Token) -> httpx.Response:
    """Use the token: list the customer's accounts."""
    headers = request_headers(
        grant, CUSTOMER, user_agent="acme-books/3.2", correlation_id="demo-accounts"
    )
    headers["Authorization"] = f"Bearer {token.access_token.reveal()}"
    return http.get(sandbox.accounts_url, headers=headers)


def expect_error(what: str, call: Callable[[], object]) -> None:
    """Show the error that a call is meant to end with."""
    try:
        call()
    except BlinkError as error:
        author = f"source {error.source}" if error.source else "no response"
        say(f"{what}: {type(error).__name__}, {author}, outcome {error.outcome.upper()}.")
        say(f"  {error}")
    else:
        sys.exit(f"{what}: this call should have failed.")


def tour(sandbox: Sandbox, blink: BlinkOAuth, http: httpx.Client) -> None:
    """Walk the whole way once."""
    strict, lenient = sandbox.grant(STRICT), sandbox.grant(LENIENT)

    heading(2, "The customer consents at two banks; each code is exchanged for tokens.")
    first = log_in(blink, sandbox, strict)
    show_headers(sandbox)
    other = log_in(blink, sandbox, lenient)
    for grant, token in ((strict, first), (lenient, other)):
        policy = sandbox.banks[grant.target_id].policy
        say(f"{policy.name}: expires {token.expires_at:%Y-%m-%d %H:%M} UTC, {token.access_token}.")

    heading(3, "The access token opens the account list.")
    answer = accounts(sandbox, http, strict, first)
    say(f"{answer.status_code}: {', '.join(account_names(answer))}")

    heading(4, "A refresh at the strict bank replaces the refresh token. The old one is spent.")
    assert first.refresh_token is not None
    spent = first.refresh_token
    second = blink.refresh(strict, spent)
    say(f"New refresh token: {second.refresh_token != spent}. It goes into the store at once.")
    expect_error("The old one again", lambda: blink.refresh(strict, spent))
    assert second.refresh_token is not None
    stolen = second.refresh_token
    expect_error(
        "And now even the new one, for a second use looks like theft",
        lambda: blink.refresh(strict, stolen),
    )

    heading(5, "Errors are told apart: who made them, and what they may have spent.")
    unknown = Grant(target_id="IIDX99999", username=strict.username)
    assert other.refresh_token is not None
    lasting = other.refresh_token
    expect_error("A bank that is not connected", lambda: blink.refresh(unknown, lasting))
    expect_error(
        "A code nobody issued",
        lambda: blink.exchange_code(
            strict, code="fake-code", redirect_uri=sandbox.redirect_uri, psu=CUSTOMER
        ),
    )
    sandbox.fail(BAD_GATEWAY_HTML, target_id=LENIENT)
    expect_error("502 with a page of HTML", lambda: blink.refresh(lenient, lasting))
    sandbox.fail(GATEWAY_TIMEOUT_AFTER, target_id=LENIENT)
    expect_error("504 although the bank did its work", lambda: blink.refresh(lenient, lasting))
    say(f"The sandbox knows: executed was {sandbox.exchanges[-1].executed}.")
    third = blink.refresh(lenient, lasting)
    say(f"This bank does not rotate: same refresh token, {third.refresh_token == lasting}.")

    heading(6, "Revocation: first the refresh token, then the access token.")
    for kind, meta in blink.revoke(lenient, third).items():
        say(f"{kind.label}: {meta.status} from the {meta.source.lower()}")
    answer = accounts(sandbox, http, lenient, third)
    say(f"The account list now answers {answer.status_code}.")


def account_names(answer: httpx.Response) -> list[str]:
    return [f"{account['name']} in {account['currency']}" for account in answer.json()["accounts"]]


def main() -> None:
    """Start the local platform, check the certificate, walk the way."""
    print(__doc__)
    with Sandbox() as sandbox:
        settings = sandbox.settings()
        certificate = sandbox.client_certificate()
        heading(1, "The client certificate is checked offline, before anything is sent.")
        say(str(check_certificate(certificate, now=datetime.now(UTC))))
        context = ssl_context(certificate, now=datetime.now(UTC))
        with BlinkOAuth(settings) as blink, httpx.Client(verify=context, trust_env=False) as http:
            tour(sandbox, blink, http)
        exchanges, violations = len(sandbox.exchanges), len(sandbox.violations)
        print(f"\nDone: {exchanges} exchanges, {violations} violations of the contract.")


if __name__ == "__main__":
    main()
