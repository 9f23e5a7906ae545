"""The keeper over mutual TLS, with a platform that responds as the examples of the contract do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from blink_oauth import BlinkOAuth, Grant, Outcome, Psu, RevocationError, Token
from blink_oauth.settings import REVOCATION_FIELDS, RevocationField
from blink_oauth_keeper import (
    EventName,
    GrantKey,
    Note,
    Report,
    SqlTokenStore,
    State,
    TokenManager,
)
from blink_oauth_testing.sandbox import Sandbox

STRICT, NON_ROTATING = "IIDX00001", "IIDX00002"
CUSTOMER = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")

Open = Callable[..., TokenManager]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlTokenStore]:
    """Yield a store in a file."""
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    with closing(SqlTokenStore(url, keys=[SqlTokenStore.new_key()])) as store:
        yield store


@pytest.fixture
def open_manager(blink_sandbox: Sandbox, store: SqlTokenStore) -> Iterator[Open]:
    """Return a function that makes a manager of the store with changed settings."""
    with ExitStack() as stack:

        def make(**changes: Any) -> TokenManager:
            blink = stack.enter_context(BlinkOAuth(blink_sandbox.settings(**changes)))
            return stack.enter_context(TokenManager(blink, store))

        yield make


def test_the_scope_of_a_response_is_stored_and_kept_by_a_refresh(
    blink_sandbox: Sandbox, store: SqlTokenStore, open_manager: Open
) -> None:
    grant, manager = blink_sandbox.grant(NON_ROTATING), open_manager()
    code = blink_sandbox.issue_code(grant)
    authorized = manager.authorize(
        grant, code=code, redirect_uri=blink_sandbox.redirect_uri, psu=CUSTOMER
    )
    refreshed = manager.refresh(grant)
    record = store.load(GrantKey(blink_sandbox.settings().client_id, grant))
    assert record is not None
    assert record.token is not None
    assert authorized.scope == refreshed.scope == record.token.scope == frozenset({"accounts"})


CLOSED: list[tuple[frozenset[RevocationField], tuple[RevocationField, ...]]] = [
    (frozenset({"username"}), ("token_type_hint", "client_id")),
    (frozenset({"token_type_hint"}), ("client_id", "username")),
    (frozenset({"client_id", "username"}), ("token_type_hint",)),
    (frozenset(REVOCATION_FIELDS), ()),
]


def authorized(sandbox: Sandbox, manager: TokenManager) -> tuple[Grant, Token]:
    """Authorize a grant at the bank that rotates."""
    grant = sandbox.grant()
    code = sandbox.issue_code(grant)
    return grant, manager.authorize(
        grant, code=code, redirect_uri=sandbox.redirect_uri, psu=CUSTOMER
    )


def close_form(sandbox: Sandbox, refused: frozenset[RevocationField]) -> None:
    """Make each bank refuse these fields of a revocation."""
    for bank in sandbox.banks.values():
        bank.policy = evolve(bank.policy, refused_revocation_fields=refused)


def accepted(sandbox: Sandbox, token: Token) -> list[bool]:
    """Return whether the bank accepts each token of a pair."""
    assert token.refresh_token is not None
    texts = (token.access_token.reveal(), token.refresh_token.reveal())
    return [sandbox.banks[STRICT].accepts(text) for text in texts]


@pytest.mark.parametrize(("refused", "fields"), CLOSED)
def test_a_revocation_at_a_closed_form_succeeds_with_the_setting(
    blink_sandbox: Sandbox,
    open_manager: Open,
    refused: frozenset[RevocationField],
    fields: tuple[RevocationField, ...],
) -> None:
    close_form(blink_sandbox, refused)
    manager = open_manager(revocation_fields=fields)
    grant, token = authorized(blink_sandbox, manager)
    assert accepted(blink_sandbox, token) == [True, True]
    manager.revoke(grant)
    assert accepted(blink_sandbox, token) == [False, False]
    assert manager.status(grant).state is State.REVOKED
    forms = [dict(each.form).keys() for each in blink_sandbox.exchanges[-2:]]
    assert forms == [{"token", *fields}] * 2


@pytest.mark.parametrize(("refused", "fields"), CLOSED)
def test_a_refused_revocation_stays_and_is_finished_by_a_manager_with_the_setting(
    blink_sandbox: Sandbox,
    open_manager: Open,
    refused: frozenset[RevocationField],
    fields: tuple[RevocationField, ...],
) -> None:
    close_form(blink_sandbox, refused)
    manager = open_manager()
    grant, token = authorized(blink_sandbox, manager)
    with pytest.raises(RevocationError, match="BLINK_REVOCATION_FIELDS") as caught:
        manager.revoke(grant)
    assert len(caught.value.not_revoked) == 2
    assert caught.value.outcome is Outcome.REJECTED
    assert manager.refresh_due() == Report(failed=1)
    assert manager.status(grant).state is State.REVOKING
    assert accepted(blink_sandbox, token) == [True, True]

    assert open_manager(revocation_fields=fields).refresh_due() == Report(revoked=1)
    assert accepted(blink_sandbox, token) == [False, False]


def test_a_revocation_that_was_killed_after_its_mark_is_finished_at_a_closed_form(
    blink_sandbox: Sandbox, store: SqlTokenStore, open_manager: Open
) -> None:
    grant, token = authorized(blink_sandbox, open_manager())
    key = GrantKey(blink_sandbox.settings().client_id, grant)
    store.mark_revoked(key, note=Note(event=EventName.REVOKING))
    close_form(blink_sandbox, frozenset({"username"}))
    assert open_manager().refresh_due() == Report(failed=1)
    fields = ("token_type_hint", "client_id")
    assert open_manager(revocation_fields=fields).refresh_due() == Report(revoked=1)
    assert accepted(blink_sandbox, token) == [False, False]
