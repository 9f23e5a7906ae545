"""Many processes share a grant through a database: one refresh serves all of them."""

from __future__ import annotations

from contextlib import ExitStack

from blink_oauth_testing.sandbox import Sandbox
from storm.calling_process import main
from storm.processes import CONTEXT, running_process
from storm.shared_config import TWO_DAYS, SharedConfig, ShiftedClock, authorize

PROCESSES, THREADS = 8, 8
ROUNDS = 100


def test_each_generation_is_refreshed_once_by_many_processes(
    database: str, blink_sandbox: Sandbox
) -> None:
    grant = blink_sandbox.grant()
    config = SharedConfig(blink_sandbox.environment(), database)
    with config.manager(ShiftedClock()) as manager:
        authorize(manager, blink_sandbox, grant)
    bank = blink_sandbox.banks[grant.target_id]
    barrier = CONTEXT.Barrier(PROCESSES)
    tokens: set[str] = set()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(running_process(main, config, grant, THREADS, barrier))
            for _ in range(PROCESSES)
        ]
        assert {worker.receive() for worker in workers} == {"ready"}
        for round_ in range(1, ROUNDS + 1):
            for worker in workers:
                worker.send(round_ * TWO_DAYS)
            results = [result for worker in workers for result in worker.receive()]
            assert len(results) == PROCESSES * THREADS
            assert len(set(results)) == 1
            assert (bank.refreshes, bank.reuses) == (round_, 0)
            tokens |= set(results)
        for worker in workers:
            worker.send(None)
        claims = sum(worker.receive() for worker in workers)
        assert [worker.join() for worker in workers] == [0] * PROCESSES
    assert len(tokens) == ROUNDS, "each generation has a new token"
    assert claims > 2 * ROUNDS, "no two processes competed for a lease"
