"""A process that adopts or forgets is killed at each step: the next one finishes its work."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import create_engine, make_url, select

from blink_oauth import BlinkOAuth, Settings, Token
from blink_oauth_keeper import Report, State
from blink_oauth_keeper.store.sql_tables import metadata
from blink_oauth_testing.sandbox import Sandbox
from crash.forgetting_process import ADOPTING, Step, main
from storm.processes import running_process
from storm.shared_config import CUSTOMER, SharedConfig, ShiftedClock

NAME = "fake-customer"


def text(secret: Token | None) -> tuple[str, str]:
    """Return the texts of both tokens of a pair."""
    assert secret is not None
    assert secret.refresh_token is not None
    return secret.access_token.reveal(), secret.refresh_token.reveal()


def all_values(database: str) -> str:
    """Return all values of all tables."""
    engine = create_engine(database)
    with engine.connect() as connection:
        tables = [connection.execute(select(table)).all() for table in metadata.sorted_tables]
    engine.dispose()
    return repr(tables)


def test_what_a_killed_process_has_begun_to_adopt_or_to_forget_is_finished(
    database: str, blink_sandbox: Sandbox
) -> None:
    config = SharedConfig(blink_sandbox.environment(), database)
    refreshes = 0
    with ExitStack() as stack:
        blink = stack.enter_context(BlinkOAuth(Settings.from_env(config.environment)))
        # The second one knows of each grant what the store has.
        before, manager = (stack.enter_context(config.manager(ShiftedClock())) for _ in range(2))
        for number, step in enumerate(Step):
            grant = blink_sandbox.grant(username=f"{NAME}-{number}")
            bank = blink_sandbox.banks[grant.target_id]
            first = blink.exchange_code(
                grant,
                code=blink_sandbox.issue_code(grant),
                redirect_uri=blink_sandbox.redirect_uri,
                psu=CUSTOMER,
            )
            access, refresh = text(first)
            tokens = {access, refresh}
            if step not in ADOPTING:
                tokens.update(text(before.adopt(grant, refresh_token=refresh)))
                refreshes += 1
            worker = stack.enter_context(running_process(main, config, grant, step, refresh))
            assert worker.join() == -signal.SIGKILL

            if step in ADOPTING:
                tokens.update(text(manager.adopt(grant, refresh_token=refresh)))
                refreshes += 1
            is_marked = step in {Step.MARKED, Step.REVOKED, Step.ERASE}
            assert manager.refresh_due() == Report(revoked=is_marked)
            if not is_marked:
                manager.forget(grant)
            assert manager.status(grant).state is State.FORGOTTEN
            assert not any(map(bank.accepts, tokens))
            assert (bank.refreshes, bank.reuses) == (refreshes, 0)
            assert NAME not in all_values(database)
    url = make_url(database)
    if url.get_backend_name() == "sqlite":
        # The last connection has closed: nothing is left in free pages or beside the file.
        assert NAME.encode() not in Path(url.database or "").read_bytes()
