"""The operations of the client over mutual TLS: code exchange, refresh and revocation."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from blink_oauth import (
    Grant,
    InvalidGrantError,
    Oddity,
    Outcome,
    Psu,
    Settings,
    Source,
    Token,
    TokenKind,
)
from blink_oauth.context import request_headers
from blink_oauth_testing.sandbox import Exchange, Sandbox
from flavours import Caller
from wire.harness import CUSTOMER, NON_ROTATING, STRICT, Connect, exchange, refresh_token

ReadAccounts = Callable[[Grant, Token], httpx.Response]


@pytest.fixture
def read_accounts(blink_sandbox: Sandbox, settings: Settings) -> Iterator[ReadAccounts]:
    """Return a function that reads the accounts with an access token, as an application does."""
    assert isinstance(settings.certificate, ssl.SSLContext)
    with httpx.Client(verify=settings.certificate, trust_env=False) as http:

        def read(grant: Grant, token: Token) -> httpx.Response:
            headers = request_headers(
                grant, CUSTOMER, user_agent=settings.user_agent, correlation_id="accounts-1"
            )
            bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
            return http.get(blink_sandbox.accounts_url, headers=headers | bearer)

        yield read


def last_exchange(sandbox: Sandbox) -> Exchange:
    """Return the last exchange that the sandbox recorded."""
    return sandbox.exchanges[-1]


def test_a_code_is_exchanged_for_a_token_that_the_bank_accepts(
    caller: Caller, blink_sandbox: Sandbox, read_accounts: ReadAccounts
) -> None:
    grant = blink_sandbox.grant()
    before = datetime.now(UTC)
    token = exchange(caller, blink_sandbox, grant)
    after = datetime.now(UTC)

    assert token.token_type == "bearer"
    assert token.scope == frozenset({"accounts"})
    assert token.oddities == frozenset()
    assert token.expires_at is not None
    assert before <= token.expires_at - timedelta(days=1) <= after
    assert token.meta is not None
    assert token.meta.echoed is True
    assert token.meta.source is Source.PROVIDER
    assert token.meta.caching_forbidden

    response = read_accounts(grant, token)
    assert response.status_code == 200
    assert len(json.loads(response.content)["accounts"]) == 2


def test_an_exchange_sends_the_five_headers_and_the_form(
    caller: Caller, blink_sandbox: Sandbox
) -> None:
    grant = blink_sandbox.grant(NON_ROTATING, "Zoë & Söhne+1")
    code = blink_sandbox.issue_code(grant)
    token = caller.exchange_code(
        grant, code=code, redirect_uri=blink_sandbox.redirect_uri, psu=CUSTOMER
    )
    seen = last_exchange(blink_sandbox)
    assert token.meta is not None
    sent = {name.lower(): value for name, value in seen.request_headers}
    UUID(sent["x-correlation-id"])
    assert sent["x-correlation-id"] == token.meta.correlation_id
    assert sent["user-agent"] == "acme-books/3.2"
    assert sent["x-corapi-target-id"] == NON_ROTATING
    assert sent["x-psu-ip-address"] == CUSTOMER.ip
    assert sent["x-psu-user-agent"] == CUSTOMER.user_agent
    assert sent["accept"] == "application/json, application/problem+json"
    assert sent["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in sent
    assert "cookie" not in sent
    assert len(sent) == len(seen.request_headers)
    assert dict(seen.form) == {
        "grant_type": "authorization_code",
        "client_id": "CIDX0000000002",
        "username": "Zoë & Söhne+1",
        "code": blink_sandbox.fingerprint(code),
        "redirect_uri": blink_sandbox.redirect_uri,
    }


def test_a_refresh_without_a_psu_sends_auto(caller: Caller, blink_sandbox: Sandbox) -> None:
    grant = blink_sandbox.grant()
    old = refresh_token(exchange(caller, blink_sandbox, grant))
    caller.refresh(grant, old)
    seen = last_exchange(blink_sandbox)
    sent = {name.lower(): value for name, value in seen.request_headers}
    assert sent["x-psu-ip-address"] == sent["x-psu-user-agent"] == Psu.AUTOMATIC
    assert dict(seen.form) == {
        "grant_type": "refresh_token",
        "client_id": "CIDX0000000002",
        "username": grant.username,
        "refresh_token": blink_sandbox.fingerprint(old),
    }


def test_every_request_has_its_own_correlation_id(caller: Caller, blink_sandbox: Sandbox) -> None:
    grant = blink_sandbox.grant(NON_ROTATING)
    token = exchange(caller, blink_sandbox, grant)
    for _ in range(2):
        caller.refresh(grant, refresh_token(token))
    caller.revoke(grant, token)
    ids = [seen.correlation_id for seen in blink_sandbox.exchanges]
    assert len(ids) == 5
    assert len(set(ids)) == 5


def test_a_rotated_refresh_token_replaces_the_old_one(
    caller: Caller, blink_sandbox: Sandbox, read_accounts: ReadAccounts
) -> None:
    grant = blink_sandbox.grant(STRICT)
    first = exchange(caller, blink_sandbox, grant)
    second = caller.refresh(grant, refresh_token(first), psu=CUSTOMER)
    third = caller.refresh(grant, refresh_token(second))
    tokens = {refresh_token(token) for token in (first, second, third)}
    assert len(tokens) == 3
    assert len({token.access_token for token in (first, second, third)}) == 3
    assert read_accounts(grant, third).status_code == 200


def test_reuse_of_a_refresh_token_revokes_its_successor_too(
    caller: Caller, blink_sandbox: Sandbox, read_accounts: ReadAccounts
) -> None:
    grant = blink_sandbox.grant(STRICT)
    first = exchange(caller, blink_sandbox, grant)
    second = caller.refresh(grant, refresh_token(first))
    for revoked in (first, second):
        with pytest.raises(InvalidGrantError) as caught:
            caller.refresh(grant, refresh_token(revoked))
        error = caught.value
        assert error.outcome is Outcome.REJECTED
        assert error.needs_consent
        assert not error.retryable
        assert error.status == 400
        assert error.source is Source.PROVIDER
        assert error.correlation_id == last_exchange(blink_sandbox).correlation_id
        assert refresh_token(revoked) not in str(error)
    assert read_accounts(grant, second).status_code == 401


def test_a_bank_that_does_not_rotate_leaves_the_refresh_token_valid(
    caller: Caller, blink_sandbox: Sandbox, read_accounts: ReadAccounts
) -> None:
    grant = blink_sandbox.grant(NON_ROTATING)
    token = first = exchange(caller, blink_sandbox, grant)
    for _ in range(3):
        token = caller.refresh(grant, refresh_token(token))
        assert Oddity.REFRESH_TOKEN_MISSING in token.oddities
        assert token.refresh_token == first.refresh_token
        assert read_accounts(grant, token).status_code == 200


def test_revoking_a_pair_revokes_the_refresh_token_first(
    caller: Caller, blink_sandbox: Sandbox, read_accounts: ReadAccounts
) -> None:
    grant = blink_sandbox.grant()
    token = exchange(caller, blink_sandbox, grant)
    metas = caller.revoke(grant, token)

    assert list(metas) == [TokenKind.REFRESH_TOKEN, TokenKind.ACCESS_TOKEN]
    assert all(meta.status == 200 and meta.echoed for meta in metas.values())
    forms = [dict(seen.form) for seen in blink_sandbox.exchanges[-2:]]
    assert [form["token_type_hint"] for form in forms] == ["refresh_token", "access_token"]
    assert [form["token"] for form in forms] == [
        blink_sandbox.fingerprint(refresh_token(token)),
        blink_sandbox.fingerprint(token.access_token.reveal()),
    ]
    assert read_accounts(grant, token).status_code == 401
    with pytest.raises(InvalidGrantError):
        caller.refresh(grant, refresh_token(token))


def test_revoking_twice_succeeds(caller: Caller, blink_sandbox: Sandbox) -> None:
    grant = blink_sandbox.grant()
    token = exchange(caller, blink_sandbox, grant)
    assert caller.revoke(grant, token).keys() == caller.revoke(grant, token).keys()


def test_without_a_refresh_token_only_the_access_token_is_revoked(
    caller: Caller, blink_sandbox: Sandbox
) -> None:
    grant = blink_sandbox.grant()
    token = exchange(caller, blink_sandbox, grant)
    assert list(caller.revoke(grant, Token(access_token=token.access_token))) == [
        TokenKind.ACCESS_TOKEN
    ]
    assert not blink_sandbox.banks[STRICT].accepts(token.access_token.reveal())
    assert blink_sandbox.banks[STRICT].accepts(refresh_token(token))


def test_an_expired_code_needs_a_new_consent(caller: Caller, blink_sandbox: Sandbox) -> None:
    grant = blink_sandbox.grant()
    code = blink_sandbox.issue_code(grant)
    blink_sandbox.clock.advance(seconds=31)
    with pytest.raises(InvalidGrantError) as caught:
        caller.exchange_code(
            grant, code=code, redirect_uri=blink_sandbox.redirect_uri, psu=CUSTOMER
        )
    assert caught.value.needs_consent
    assert code not in str(caught.value)


def test_a_client_with_settings_from_the_environment_works(
    connect: Connect, blink_sandbox: Sandbox
) -> None:
    environment = blink_sandbox.environment()
    assert Path(environment["BLINK_KEY_PASSPHRASE_FILE"]).is_file()
    caller = connect(Settings.from_env(environment))
    token = exchange(caller, blink_sandbox, blink_sandbox.grant())
    assert token.oddities == frozenset()
