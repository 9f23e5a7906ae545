"""The keeper over mutual TLS, with a platform that responds as the examples of the contract do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from blink_oauth import BlinkOAuth, Psu
from blink_oauth_keeper import GrantKey, SqlTokenStore, TokenManager
from blink_oauth_testing.sandbox import Sandbox

NON_ROTATING = "IIDX00002"
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
