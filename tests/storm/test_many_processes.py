"""One grant that many processes share through a database: one refresh for all of them."""

from __future__ import annotations

from contextlib import ExitStack

from blink_oauth_testing.sandbox import Sandbox
from storm.places import DAYS, Place, ShiftedClock, authorize
from storm.processes import CONTEXT, working
from storm.worker import main

PROCESSES, THREADS = 8, 8
ROUNDS = 100


def test_a_generation_is_refreshed_once_whichever_process_asks(
    database: str, blink_sandbox: Sandbox
) -> None:
    grant = blink_sandbox.grant()
    place = Place(blink_sandbox.environment(), database)
    with place.managing(ShiftedClock()) as manager:
        authorize(manager, blink_sandbox, grant)
    bank = blink_sandbox.banks[grant.target_id]
    together = CONTEXT.Barrier(PROCESSES)
    tokens: set[str] = set()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(working(main, place, grant, THREADS, together))
            for _ in range(PROCESSES)
        ]
        assert {worker.hear() for worker in workers} == {"ready"}
        for round_ in range(1, ROUNDS + 1):
            for worker in workers:
                worker.tell(round_ * DAYS)
            answers = [answer for worker in workers for answer in worker.hear()]
            assert len(answers) == PROCESSES * THREADS
            assert len(set(answers)) == 1
            assert (bank.refreshes, bank.reuses) == (round_, 0)
            tokens |= set(answers)
        for worker in workers:
            worker.tell(None)
        tries = sum(worker.hear() for worker in workers)
        assert [worker.end() for worker in workers] == [0] * PROCESSES
    assert len(tokens) == ROUNDS, "each generation is a new token"
    assert tries > 2 * ROUNDS, "nobody competed for the leases"
