"""Grants move to another store while processes of both stores refresh them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest
from attrs import evolve

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import (
    GrantKey,
    GrantMovedError,
    Origin,
    SqlTokenStore,
    State,
    TokenManager,
    UnknownGrantError,
)
from blink_oauth_keeper.store.moving import CopyReport, copy_grants
from blink_oauth_testing.sandbox import Sandbox
from storm.callers import wait_until
from storm.databases import empty_database
from storm.shared_config import TWO_DAYS, SharedConfig, ShiftedClock, authorize

GRANTS = 12


@pytest.fixture(params=["sqlite", "postgresql"])
def configs(
    request: pytest.FixtureRequest, tmp_path: Path, blink_sandbox: Sandbox
) -> Iterator[tuple[SharedConfig, SharedConfig]]:
    """Yield the configuration of an SQLite file, and that of the store that its grants move to."""
    (tmp_path / "target").mkdir()
    with empty_database(request.param, tmp_path / "target") as url:
        source = SharedConfig(blink_sandbox.environment(), f"sqlite:///{tmp_path / 'source.db'}")
        yield source, SharedConfig(blink_sandbox.environment(), url)


def copy(source: SqlTokenStore, target: SqlTokenStore) -> CopyReport:
    """Move all grants, and wait for refreshes in progress."""
    return copy_grants(source, target, wait=60, monotonic=time.monotonic, sleep=time.sleep)


def test_a_moved_grant_is_refreshed_from_the_target_only(
    configs: tuple[SharedConfig, SharedConfig], blink_sandbox: Sandbox
) -> None:
    config, other = configs
    grant, clock = blink_sandbox.grant(), ShiftedClock()
    bank = blink_sandbox.banks[grant.target_id]
    with ExitStack() as stack:
        store = stack.enter_context(closing(config.store()))
        target = stack.enter_context(closing(other.store()))
        before = stack.enter_context(config.manager(clock, store=store))
        authorize(before, blink_sandbox, grant)
        clock.ahead = TWO_DAYS
        before.get(grant)
        assert copy(store, target) == CopyReport(moved=1)
        after = stack.enter_context(other.manager(clock, store=target))
        served = after.get(grant)
        assert bank.refreshes == 1, "the copied token is served, not refreshed"
        clock.ahead = 2 * TWO_DAYS
        refreshed = after.get(grant)
        assert refreshed.access_token != served.access_token
        for call in (before.get, before.refresh):
            with pytest.raises(GrantMovedError) as error:
                call(grant)
            assert not error.value.needs_consent
        assert (bank.refreshes, bank.reuses) == (2, 0)


def test_a_grant_that_was_moved_is_revoked_in_the_target_only(
    configs: tuple[SharedConfig, SharedConfig], blink_sandbox: Sandbox
) -> None:
    config, other = configs
    grant, clock = blink_sandbox.grant(), ShiftedClock()
    bank = blink_sandbox.banks[grant.target_id]
    with ExitStack() as stack:
        store = stack.enter_context(closing(config.store()))
        target = stack.enter_context(closing(other.store()))
        before = stack.enter_context(config.manager(clock, store=store))
        authorize(before, blink_sandbox, grant)
        copy(store, target)
        with pytest.raises(GrantMovedError):
            before.revoke(grant)
        after = stack.enter_context(other.manager(clock, store=target))
        token = after.get(grant)
        assert bank.accepts(token.access_token.reveal())
        after.revoke(grant)
        assert not bank.accepts(token.access_token.reveal())


def test_no_late_pair_of_a_moved_grant_is_revoked_from_the_source(
    configs: tuple[SharedConfig, SharedConfig], blink_sandbox: Sandbox
) -> None:
    config, other = configs
    grant, clock = blink_sandbox.grant(), ShiftedClock()
    bank, key = blink_sandbox.banks[grant.target_id], GrantKey(config.client_id, grant)
    with ExitStack() as stack:
        store = stack.enter_context(closing(config.store()))
        target = stack.enter_context(closing(other.store()))
        before = stack.enter_context(config.manager(clock, store=store))
        authorize(before, blink_sandbox, grant)
        seen = store.load(key)
        assert seen is not None
        assert seen.token is not None
        copy(store, target)
        store.journal(seen, seen.token, origin=Origin.ERROR)
        report = before.refresh_due(within=timedelta(days=60))
        assert (report.due, report.revoked) == (0, 0)
        assert store.revoking(config.client_id, limit=9) == []
        assert bank.accepts(seen.token.access_token.reveal())


def test_a_move_that_has_stopped_is_seen_in_the_status_and_needs_no_consent(
    configs: tuple[SharedConfig, SharedConfig], blink_sandbox: Sandbox
) -> None:
    config, _ = configs
    grant, clock = blink_sandbox.grant(), ShiftedClock()
    with closing(config.store()) as store, config.manager(clock, store=store) as manager:
        authorize(manager, blink_sandbox, grant)
        moving = store.begin_move(GrantKey(config.client_id, grant))
        assert moving is not None
        # The access token is served until its end.
        assert blink_sandbox.banks[grant.target_id].accepts(
            manager.get(grant).access_token.reveal()
        )
        status = manager.status(grant)
        assert (status.state, status.needs_consent) == (State.NEEDS_CONSENT, False)
        with pytest.raises(GrantMovedError):
            manager.refresh(grant)
        assert store.finish_move(moving)
        status = manager.status(grant)
        assert (status.state, status.needs_consent) == (State.REVOKED, False)


def test_grants_move_while_both_stores_refresh_them(
    configs: tuple[SharedConfig, SharedConfig], blink_sandbox: Sandbox
) -> None:
    config, other = configs
    grants = [blink_sandbox.grant(username=f"u-{number}") for number in range(GRANTS)]
    bank = blink_sandbox.banks[grants[0].target_id]
    # Each access token is refreshed after half of its lifetime of two seconds.
    bank.policy = evolve(bank.policy, access_token_lifetime=2.0, response_delay=0.05)
    stopped = threading.Event()
    errors: set[type[BlinkError]] = set()

    def use(manager: TokenManager, grant: Grant) -> None:
        while not stopped.wait(0.02):
            try:
                manager.get(grant)
            except BlinkError as error:
                errors.add(type(error))

    with closing(config.store()) as store, closing(other.store()) as target:
        with ExitStack() as stack:
            managers = [
                stack.enter_context(each.manager(ShiftedClock()))
                for each in (config, config, other)
            ]
            for grant in grants:
                authorize(managers[0], blink_sandbox, grant)
            pool = stack.enter_context(ThreadPoolExecutor(len(managers) * GRANTS))
            for manager in managers:
                for grant in grants:
                    pool.submit(use, manager, grant)
            try:
                wait_until(lambda: bank.refreshes >= GRANTS)
                report = copy(store, target)
                refreshes = bank.refreshes
                wait_until(lambda: bank.refreshes >= refreshes + 2 * GRANTS)
            finally:
                stopped.set()
                pool.shutdown()
        assert report == CopyReport(moved=GRANTS)
        assert errors <= {GrantMovedError, UnknownGrantError}
        # Only now the refreshes in the background have ended.
        records = [target.load(GrantKey(other.client_id, grant)) for grant in grants]
    tokens = [record.token.refresh_token for record in records if record and record.token]
    assert [bool(token and bank.accepts(token.reveal())) for token in tokens] == [True] * GRANTS
    generations = sum(record.generation - 1 for record in records if record)
    assert (generations, bank.reuses) == (bank.refreshes, 0)
