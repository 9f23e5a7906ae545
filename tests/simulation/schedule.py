"""What all schedules have in common: how time advances, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .harness import CLIENT_ID
from .simulation import Scheduler, Simulation
from .worker import Phase, Task, Worker

__all__ = ["StoppableScheduler", "advance_time", "finish"]

MAX_MOVES = 80
"""Moves that a worker may make for each task after the faults have stopped."""
MAX_LATE_CALLERS = 4


class StoppableScheduler(Scheduler, Protocol):
    """A scheduler that can stop injecting faults."""

    def stop_faults(self) -> None:
        """Inject no more faults."""


def advance_time(simulation: Simulation, workers: Sequence[Worker]) -> None:
    """Advance time until another worker can move.

    If all waiting workers only poll the store, time advances to the end of the lease or pause:
    until then they would find no change.
    """
    resting = {Phase.WAITING, Phase.IDLE}
    waiting = [
        worker for worker in workers if worker.phase in resting and worker.wake_at > simulation.time
    ]
    until = min(worker.wake_at for worker in waiting)
    only_polling = all(
        worker.phase is Phase.WAITING and not worker.has_unstored_result for worker in waiting
    )
    if only_polling and simulation.blocked_until > until:
        until = simulation.blocked_until
    simulation.time = until


def finish(
    simulation: Simulation, workers: Sequence[Worker], scheduler: StoppableScheduler
) -> None:
    """Stop the faults, let all flights finish, and let late callers ask for a token."""
    scheduler.stop_faults()
    simulation.store_unavailable = False
    simulation.add_to_trace("the faults stop")
    _finish_all(simulation, workers)
    if simulation.stored is None:
        _finish_all(simulation, [Worker("migration", simulation, [Task("adopt")])])
    for worker in workers:
        worker.lacks_key = False
        if simulation.went_backwards and not worker.has_crashed:
            # What a process knows is written back at its next flight without a lease in the way.
            worker.add_task(Task(at=max(simulation.time, simulation.blocked_until)))
            _finish_all(simulation, [worker])
    for number in range(MAX_LATE_CALLERS):
        at = max(simulation.time, simulation.blocked_until)
        caller = Worker(f"late{number}-", simulation, [Task(early=True, at=at)])
        _finish_all(simulation, [caller])
        if simulation.facts.finished[-1].error is None:
            break
    if simulation.store.revoking(CLIENT_ID, limit=1):
        _finish_all(simulation, [Worker("keeper", simulation, [Task("finish")])])
    simulation.record_end(workers)


def _finish_all(simulation: Simulation, workers: Sequence[Worker]) -> None:
    limits = {worker.name: worker.moves + MAX_MOVES * (1 + len(worker.tasks)) for worker in workers}
    while any(worker.phase is not Phase.DONE for worker in workers):
        ready = [worker for worker in workers if worker.is_ready()]
        for worker in ready:
            worker.move()
            if worker.moves > limits[worker.name]:
                simulation.facts.endless_workers.append(worker.name)
                return
        if not ready:
            advance_time(simulation, workers)
