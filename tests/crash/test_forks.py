"""After a fork nothing is lost: what a child stores is seen by every process, and each can write.

The environment variable `BLINK_TEST_FORKS` sets the number of forks of each kind.
"""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from blink_oauth import Grant
from blink_oauth_keeper.store.protocol import GrantKey, State
from blink_oauth_testing.sandbox import BankPolicy, Sandbox
from crash.forking_process import Way, main, writer_key
from storm.processes import running_process
from storm.shared_config import SharedConfig, ShiftedClock, authorize

FORKS = int(os.environ.get("BLINK_TEST_FORKS", "4"))
STRICT = BankPolicy("IIDX00001", "Musterbank Streng")


@pytest.mark.parametrize("way", list(Way))
def test_each_child_can_refresh_and_nothing_is_lost(database: str, way: Way) -> None:
    with Sandbox(banks=[STRICT]) as sandbox:
        config = SharedConfig.for_sandbox(sandbox, database, total=10.0, lease=25.0)
        # The parent refreshes the first one itself.
        grants = [Grant(STRICT.target_id, f"u-{number}") for number in range(FORKS + 1)]
        store = config.store()
        with closing(store), config.manager(ShiftedClock(), store=store) as manager:
            for grant in grants:
                authorize(manager, sandbox, grant)
        with running_process(main, config, grants, way) as worker:
            children = [worker.receive() for _ in range(FORKS)]
            generations, counts = worker.receive()
            assert worker.join() == 0
        assert children == [("2", 2)] * FORKS
        assert generations == counts
        assert min(counts) > 0
        bank = sandbox.banks[STRICT.target_id]
        assert bank.reuses == 0
        for grant in grants:
            record = store.load(GrantKey(config.client_id, grant))
            assert record is not None
            assert (record.state, record.generation) == (State.ACTIVE, 2)
            assert record.token is not None
            assert record.token.refresh_token is not None
            assert bank.accepts(record.token.refresh_token.reveal())
            assert len(store.history(record.key)) == 3
        for number, count in enumerate(counts):
            written = store.load(writer_key(number))
            assert written is not None
            assert written.generation == count
        store.close()
