"""Every schedule of a small simulation: each run follows one path through the tree of all choices.

A generator cannot be copied, so each path runs from the beginning. A step that touches nothing
shared runs together with the step before it, since its order makes no difference. For the same
reason a crash is tried only before a step, and a waiting worker moves only after the store has
changed or time has advanced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from attrs import define, field, frozen

from blink_oauth_keeper.steps import Permit

from .harness import REAL, BankKind, Code
from .network import RequestFault
from .schedule import advance_time, finish
from .simulation import Simulation, StoreFault
from .worker import Phase, Task, Worker

__all__ = ["FAMILIES", "AllowedFaults", "Choices", "paths", "run"]

T = TypeVar("T")


@define(eq=False)
class Choices:
    """A path through the tree of choices.

    Attributes:
        prefix: The first choices; each later choice is the first option.
        seen: Hashes of the states of earlier paths.
        options: The number of options of each choice so far.
        taken: The choices so far.
    """

    prefix: tuple[int, ...] = ()
    seen: set[int] = field(factory=set)
    options: list[int] = field(init=False, factory=list)
    taken: list[int] = field(init=False, factory=list)

    def choose(self, count: int) -> int:
        """Choose one of `count` options and return its index."""
        at = len(self.taken)
        choice = self.prefix[at] if at < len(self.prefix) else 0
        self.options.append(count)
        self.taken.append(choice)
        return choice

    def add_state(self, state: object) -> bool:
        """Add the path's state, and return whether an earlier path has been in it."""
        if len(self.taken) < len(self.prefix):
            return False
        mark = hash(state)
        known = mark in self.seen
        self.seen.add(mark)
        return known

    def next_path(self) -> tuple[int, ...] | None:
        """Return the prefix of the next path, or None after the last."""
        for at in range(len(self.taken) - 1, -1, -1):
            if self.taken[at] + 1 < self.options[at]:
                return (*self.taken[:at], self.taken[at] + 1)
        return None


@frozen(kw_only=True)
class AllowedFaults:
    """The faults that a family of schedules may inject.

    Attributes:
        crash: Whether a worker may crash before any of its steps.
        lease_end: Whether time may advance to the end of the lease between any two moves.
        requests: The faults of a request.
        store: The faults of a call to the store.
        limit: The greatest number of faults in a schedule.
    """

    crash: bool = False
    lease_end: bool = False
    requests: tuple[RequestFault, ...] = ()
    store: tuple[StoreFault, ...] = ()
    limit: int = 1


_ALL_FAULTS = tuple(fault for fault in RequestFault if fault is not RequestFault.NONE)
_STORE = (StoreFault.UNREACHABLE, StoreFault.RESULT_LOST)
FAMILIES = {
    "no fault": AllowedFaults(limit=0),
    "crash": AllowedFaults(crash=True),
    "lost response": AllowedFaults(requests=(RequestFault.RESPONSE_LOST,)),
    "lease ends": AllowedFaults(lease_end=True),
    "store failure": AllowedFaults(store=_STORE),
    "request fault": AllowedFaults(requests=_ALL_FAULTS),
    "lost response and crash": AllowedFaults(
        crash=True, requests=(RequestFault.RESPONSE_LOST,), limit=2
    ),
    "two store failures": AllowedFaults(store=_STORE, limit=2),
}
"""Families of schedules, by name."""


@define(eq=False)
class _ExhaustiveScheduler:
    """A scheduler that follows a path.

    Attributes:
        choices: The path.
        allowed: The faults that may be injected.
        left: The number of faults that may still be injected.
        abandoned: Whether the path has reached a state of an earlier one.
    """

    choices: Choices
    allowed: AllowedFaults
    left: int = field(init=False)
    abandoned: bool = False
    simulation: Simulation = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.left = self.allowed.limit

    def stop_faults(self) -> None:
        self.left = 0

    def random(self) -> float:
        return 0.5

    def permit(self) -> Permit:
        return Permit()

    def others_respond(self) -> bool:
        return False

    def send_fault(self, worker: Worker) -> RequestFault:
        return self._one_of(RequestFault.NONE, self.allowed.requests)

    def revoke_fault(self, worker: Worker) -> RequestFault:
        return RequestFault.NONE

    def store_fault(self, worker: Worker) -> StoreFault:
        return self._one_of(StoreFault.NONE, self.allowed.store)

    def delays_result(self, worker: Worker) -> bool:
        if not self._lease_can_end() or not self.choices.choose(2):
            return False
        self._end_lease()
        return True

    def times_out(self, worker: Worker) -> bool:
        return bool(self.choices.choose(2))

    def next(self, workers: list[Worker]) -> bool:
        """Make one move or inject one fault; return False if neither is possible."""
        simulation = self.simulation
        movable = [worker for worker in workers if self._can_move(worker)]
        crashable = movable if self.left and self.allowed.crash else []
        lease_can_end = self._lease_can_end()
        abandoned_requests = len(simulation.abandoned_requests)
        count = len(movable) + len(crashable) + abandoned_requests + lease_can_end
        if not movable and not abandoned_requests:
            if all(worker.phase is Phase.DONE for worker in workers):
                return False
            advance_time(simulation, workers)
            return True
        if self.choices.add_state(self._state(workers)):
            self.abandoned = True
            return False
        choice = self.choices.choose(count) if count > 1 else 0
        if choice < len(movable):
            self._move(movable[choice])
        elif (choice := choice - len(movable)) < len(crashable):
            self.left -= 1
            crashable[choice].crash()
        elif (choice := choice - len(crashable)) < abandoned_requests:
            simulation.add_to_trace("an abandoned request reaches the bank")
            simulation.refresh(simulation.abandoned_requests.pop(choice))
        else:
            self._end_lease()
        return True

    def _state(self, workers: list[Worker]) -> object:
        simulation = self.simulation
        doing = tuple((worker.phase, tuple(worker.log)) for worker in workers)
        return (
            simulation.time,
            self.left,
            doing,
            tuple(simulation.effects),
            tuple(simulation.abandoned_requests),
        )

    def _one_of(self, none: T, faults: tuple[T, ...]) -> T:
        if not self.left or not faults:
            return none
        choice = self.choices.choose(1 + len(faults))
        if choice == 0:
            return none
        self.left -= 1
        return faults[choice - 1]

    def _can_move(self, worker: Worker) -> bool:
        if worker.phase is Phase.WAITING:
            return worker.waiting_since != self.simulation.changes or worker.is_ready()
        return worker.is_ready()

    def _move(self, worker: Worker) -> None:
        self.simulation.time = max(self.simulation.time, worker.wake_at)
        worker.move()

    def _lease_can_end(self) -> bool:
        """Return whether the end of the lease may be injected as a fault now."""
        if not (self.left and self.allowed.lease_end):
            return False
        stored = self.simulation.stored
        leased = stored is not None and stored.lease_left > 0
        return leased and self.simulation.blocked_until > self.simulation.time

    def _end_lease(self) -> None:
        self.left -= 1
        self.simulation.time = self.simulation.blocked_until + 0.001
        self.simulation.add_to_trace("time passes: the lease has ended")
        self.simulation.facts.faults.add("lease ended")


def run(
    kind: BankKind,
    allowed: AllowedFaults,
    choices: Choices,
    *,
    workers: int = 2,
    trace: list[str] | None = None,
    code: Code = REAL,
) -> Simulation | None:
    """Run one path: workers find one expired token, and faults are injected.

    Returns:
        The simulation at the end, or None if the path reaches a state of an earlier path.
    """
    scheduler = _ExhaustiveScheduler(choices, allowed)
    simulation = Simulation(kind, scheduler, code, trace)
    scheduler.simulation = simulation
    simulation.store_first_pair(age=2 * kind.policy.access_token_lifetime)
    simulation.facts.expired_token_only = True
    all_workers = [Worker(name, simulation, [Task()]) for name in "ABC"[:workers]]
    for worker in all_workers:
        worker.move()
    while scheduler.next(all_workers):
        pass
    if scheduler.abandoned:
        return None
    finish(simulation, all_workers, scheduler)
    return simulation


def paths(
    kind: BankKind, allowed: AllowedFaults, *, workers: int = 2, code: Code = REAL
) -> Iterator[tuple[Simulation, tuple[int, ...]]]:
    """Run all paths."""
    path: tuple[int, ...] | None = ()
    seen: set[int] = set()
    while path is not None:
        choices = Choices(path, seen)
        simulation = run(kind, allowed, choices, workers=workers, code=code)
        if simulation is not None:
            yield simulation, tuple(choices.taken)
        path = choices.next_path()
