"""Random schedules. A seed determines a schedule, so that each can be run again.

A scenario is a family of schedules: its banks, its tasks, and the probabilities of its faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field, frozen

from blink_oauth_keeper.steps import Permit

from .harness import BANKS, REAL, BankKind, Code
from .network import RequestFault
from .schedule import advance_time, finish
from .simulation import Simulation, StoreFault
from .worker import Phase, Task, Worker

__all__ = ["SCENARIOS", "Scenario", "run"]

MAX_FAULTY_MOVES = 150
"""Moves after which the faults stop in any case."""
NEARLY_AN_HOUR = 3_599.0
CERTAIN_FAULTS = (RequestFault.NOT_CONNECTED, RequestFault.REJECTED, RequestFault.BUSY)
LOSSES = (RequestFault.RESPONSE_LOST, RequestFault.REQUEST_LOST)
HOUR = 3_600.0
SLEEPERS = "BD"
"""The workers whose machines sleep; the wall clocks of the others step."""
ALL_FAULTS = tuple(
    fault
    for fault in RequestFault
    if fault not in {RequestFault.NONE, RequestFault.NOT_FORWARDED, RequestFault.FOREIGN}
)


@frozen(kw_only=True)
class Scenario:
    """A family of schedules. A `float` is a probability from 0 to 1, except `skew`.

    Attributes:
        banks: The names of the banks.
        workers: The least and the greatest number of workers.
        tasks: The greatest number of tasks of a worker.
        kinds: The kinds of the tasks; a kind that is repeated is more probable. With `adopt` the
            application has the first pair, and the store has none.
        faults: The faults of requests.
        request_fault: That a request has one of `faults`.
        one_uncertain_fault: Whether only one request of a schedule has an uncertain result.
        store_fault: That a call to the store fails.
        outage: That the store becomes unavailable or available again, for each move.
        crash: That a worker crashes, for each move.
        jump: That time jumps by seconds or to the end of a lease, for each move.
        delay: That a worker pauses before it receives a result.
        close: That a worker's manager begins to close, for each move.
        withdraw: That the customer ends the consents at the bank, for each move.
        skew: Seconds that the workers' wall clocks may differ from the store's.
        failures: The greatest number of failed flights before a worker's first one.
        hold_off: That the circuit breaker or the rate limit delays a permit.
        others_respond: That the bank has just responded to a call for another grant.
        restore: That the store is restored from an earlier copy, for each move.
        clock_step: That a wall clock steps by an hour, or a machine sleeps, for each move.
        lacks_key: That a worker cannot open the pairs that others seal with a new key.
        learn_key: That a worker gets the new key, for each move.
    """

    banks: tuple[str, ...] = tuple(BANKS)
    workers: tuple[int, int] = (2, 5)
    tasks: int = 2
    kinds: tuple[str, ...] = ("refresh",)
    faults: tuple[RequestFault, ...] = CERTAIN_FAULTS
    request_fault: float = 0.0
    one_uncertain_fault: bool = False
    store_fault: float = 0.0
    outage: float = 0.0
    crash: float = 0.0
    jump: float = 0.0
    delay: float = 0.1
    close: float = 0.0
    withdraw: float = 0.0
    skew: float = 0.0
    failures: int = 0
    hold_off: float = 0.0
    others_respond: float = 0.0
    restore: float = 0.0
    clock_step: float = 0.0
    lacks_key: float = 0.0
    learn_key: float = 0.0


MOSTLY_REFRESH = ("refresh",) * 5
SCENARIOS: dict[str, Scenario] = {
    "baseline": Scenario(request_fault=0.2, store_fault=0.02),
    "lossy": Scenario(
        banks=(
            "strict",
            "replay window",
            "non-rotating",
            "hold after uncertainty",
            "newest pair only",
            "refusing",
        ),
        faults=LOSSES,
        request_fault=0.5,
        one_uncertain_fault=True,
        failures=6,
    ),
    "request-faults": Scenario(faults=ALL_FAULTS, request_fault=0.4, jump=0.02, skew=30.0),
    "last-attempts": Scenario(
        banks=("strict", "replay window", "hold after uncertainty", "short-lived", "refusing"),
        faults=LOSSES,
        request_fault=0.7,
        jump=0.02,
        tasks=3,
        others_respond=0.3,
    ),
    "crashes": Scenario(crash=0.03, jump=0.02, faults=LOSSES, request_fault=0.05),
    "delays": Scenario(jump=0.08, delay=0.3, tasks=3),
    "outages": Scenario(store_fault=0.1, outage=0.03, jump=0.02, delay=0.2, tasks=3),
    "consents": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "authorize"), store_fault=0.05, jump=0.03, delay=0.2
    ),
    "revocations": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "revoke", "revoke"), delay=0.3, tasks=3
    ),
    "withdrawals": Scenario(store_fault=0.2, withdraw=0.02, jump=0.05, delay=0.4, tasks=4),
    "restores": Scenario(
        banks=tuple(name for name in BANKS if name != "newest pair only"),
        workers=(1, 3),
        tasks=4,
        restore=0.05,
        jump=0.06,
        delay=0.2,
    ),
    "clock-steps": Scenario(
        clock_step=0.06, jump=0.04, delay=0.3, tasks=3, request_fault=0.1, crash=0.005
    ),
    "not-forwarded": Scenario(
        workers=(1, 3),
        tasks=6,
        faults=(RequestFault.NOT_FORWARDED,),
        request_fault=0.9,
        jump=0.15,
    ),
    "swapped-responses": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "revoke", "finish"),
        tasks=3,
        faults=(RequestFault.FOREIGN, RequestFault.RESPONSE_LOST),
        request_fault=0.3,
        store_fault=0.03,
        crash=0.005,
        jump=0.03,
        delay=0.2,
    ),
    "killed-revocations": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "revoke", "revoke", "finish"),
        crash=0.04,
        jump=0.02,
        delay=0.3,
        tasks=3,
        request_fault=0.1,
        store_fault=0.03,
    ),
    "forgotten-grants": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "forget", "forget", "revoke", "finish"),
        tasks=3,
        faults=(RequestFault.FOREIGN, *LOSSES),
        request_fault=0.1,
        store_fault=0.03,
        crash=0.02,
        jump=0.03,
        delay=0.3,
    ),
    "adoptions": Scenario(
        kinds=(*MOSTLY_REFRESH, "adopt", "adopt", "adopt", "forget"),
        tasks=4,
        faults=LOSSES,
        request_fault=0.2,
        store_fault=0.08,
        crash=0.01,
        jump=0.03,
        delay=0.3,
        withdraw=0.01,
    ),
    "missing-keys": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize"),
        lacks_key=0.5,
        learn_key=0.01,
        store_fault=0.15,
        jump=0.03,
        delay=0.2,
        tasks=3,
    ),
    "mixed": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "revoke"),
        tasks=3,
        faults=ALL_FAULTS,
        request_fault=0.2,
        store_fault=0.05,
        outage=0.01,
        crash=0.01,
        jump=0.03,
        delay=0.2,
        close=0.005,
        withdraw=0.003,
        skew=30.0,
        failures=3,
        hold_off=0.05,
    ),
}
"""The scenarios by name."""


@define(eq=False)
class _RandomScheduler:
    """A scheduler that chooses at random.

    Attributes:
        scenario: The probabilities.
        draw: Returns a number from 0 to below 1.
    """

    scenario: Scenario
    draw: Callable[[], float]
    simulation: Simulation = field(init=False)
    faults_stopped: bool = False
    uncertain_faults: int = 0

    def stop_faults(self) -> None:
        self.faults_stopped = True

    def random(self) -> float:
        return self.draw()

    def permit(self) -> Permit:
        if self.faults_stopped or self.draw() >= self.scenario.hold_off:
            return Permit()
        return Permit(hold_off=3.0) if self.draw() < 0.5 else Permit(wait=0.5)

    def others_respond(self) -> bool:
        probability = self.scenario.others_respond
        return probability > 0 and self.draw() < probability

    def send_fault(self, worker: Worker) -> RequestFault:
        scenario = self.scenario
        if self.faults_stopped or self.draw() >= scenario.request_fault:
            return RequestFault.NONE
        fault = scenario.faults[int(self.draw() * len(scenario.faults))]
        if scenario.one_uncertain_fault and fault not in CERTAIN_FAULTS:
            self.uncertain_faults += 1
            return fault if self.uncertain_faults == 1 else RequestFault.NONE
        return fault

    def revoke_fault(self, worker: Worker) -> RequestFault:
        if self.faults_stopped or self.draw() >= self.scenario.request_fault:
            return RequestFault.NONE
        if RequestFault.FOREIGN in self.scenario.faults and self.draw() < 0.7:
            return RequestFault.FOREIGN
        return RequestFault.NOT_CONNECTED if self.draw() < 0.5 else RequestFault.RESPONSE_LOST

    def store_fault(self, worker: Worker) -> StoreFault:
        if self.faults_stopped or self.draw() >= self.scenario.store_fault:
            return StoreFault.NONE
        return StoreFault.UNREACHABLE if self.draw() < 0.4 else StoreFault.RESULT_LOST

    def delays_result(self, worker: Worker) -> bool:
        return not self.faults_stopped and self.draw() < self.scenario.delay

    def times_out(self, worker: Worker) -> bool:
        return self.draw() < 0.5

    def run(self, workers: list[Worker]) -> None:
        """Move workers and inject faults, until all have finished or the moves are used up."""
        simulation, draw, scenario = self.simulation, self.draw, self.scenario
        any_fault = scenario.outage + scenario.crash + scenario.jump + scenario.close
        any_fault += scenario.withdraw + scenario.restore + scenario.clock_step + scenario.learn_key
        for _ in range(MAX_FAULTY_MOVES):
            if any_fault and draw() < any_fault:
                self._inject_fault(workers, draw() * any_fault)
                continue
            ready = [worker for worker in workers if worker.is_ready()]
            if ready:
                simulation.time += 0.02 * draw()
                ready[int(draw() * len(ready))].move()
            elif any(worker.phase is not Phase.DONE for worker in workers):
                advance_time(simulation, workers)
            else:
                break
        for token in simulation.abandoned_requests:
            if draw() < 0.5:
                simulation.add_to_trace("an abandoned request reaches the bank")
                simulation.refresh(token)

    def _inject_fault(self, workers: list[Worker], roll: float) -> None:
        simulation, scenario = self.simulation, self.scenario
        worker = workers[int(self.draw() * len(workers))]
        faults = (
            (scenario.outage, lambda _: self._change_availability()),
            (scenario.crash, _crash),
            (scenario.close, self._close),
            (scenario.withdraw, lambda _: simulation.withdraw_consents()),
            (scenario.restore, lambda _: simulation.restore(self.draw, workers)),
            (scenario.clock_step, self._step_clock),
            (scenario.learn_key, _learn_key),
        )
        for probability, inject in faults:
            if (roll := roll - probability) < 0:
                inject(worker)
                return
        if simulation.abandoned_requests and self.draw() < 0.5:
            simulation.add_to_trace("an abandoned request reaches the bank")
            simulation.refresh(simulation.abandoned_requests.pop())
        else:
            self._jump_in_time()

    def _change_availability(self) -> None:
        simulation = self.simulation
        simulation.store_unavailable = not simulation.store_unavailable
        simulation.add_to_trace(
            "the store is unavailable" if simulation.store_unavailable else "the store is available"
        )

    def _close(self, worker: Worker) -> None:
        worker.closing = True
        self.simulation.facts.faults.add("closing")
        self.simulation.add_to_trace(f"{worker.name} is closing")

    def _step_clock(self, worker: Worker) -> None:
        """Let the store's clock or a worker's step, or let a worker's machine sleep."""
        simulation = self.simulation
        simulation.facts.faults.add("clock stepped")
        step = HOUR if self.draw() < 0.5 else -HOUR
        if self.draw() < 0.4:
            simulation.clock_step += step
            simulation.add_to_trace(f"the store's wall clock steps by {step:.0f} s")
        elif worker.name in SLEEPERS:
            # If its wall clock stepped back too, no clock would show that time has gone.
            slept = 60 * self.draw()
            simulation.time += slept
            worker.slept += slept
            simulation.add_to_trace(f"{worker.name}'s machine sleeps for {slept:.1f} s")
        else:
            worker.skew += step
            simulation.add_to_trace(f"{worker.name}'s wall clock steps by {step:.0f} s")

    def _jump_in_time(self) -> None:
        simulation = self.simulation
        roll = self.draw()
        if roll < 0.3:
            simulation.time += 10 * self.draw()
        elif roll < 0.9 and simulation.blocked_until > simulation.time:
            simulation.time = simulation.blocked_until + 0.01
        else:
            simulation.time += 20 + 20 * self.draw()
        simulation.facts.faults.add("time passes")
        simulation.add_to_trace("time passes")


def _crash(worker: Worker) -> None:
    if worker.phase is not Phase.DONE:
        worker.crash()


def _learn_key(worker: Worker) -> None:
    worker.lacks_key = False


def _tasks(scenario: Scenario, draw: Callable[[], float]) -> list[Task]:
    count = 1 + int(draw() * scenario.tasks)
    kinds = [scenario.kinds[int(draw() * len(scenario.kinds))] for _ in range(count)]
    return [Task(kind, newer=draw() < 0.3, early=draw() < 0.3) for kind in kinds]


def run(
    scenario: Scenario, seed: int, *, trace: list[str] | None = None, code: Code = REAL
) -> tuple[Simulation, BankKind]:
    """Run the schedule of a seed."""
    draw = random.Random(seed).random
    kind = BANKS[scenario.banks[int(draw() * len(scenario.banks))]]
    scheduler = _RandomScheduler(scenario, draw)
    simulation = Simulation(kind, scheduler, code, trace)
    simulation.backups = [] if scenario.restore else None
    scheduler.simulation = simulation
    age = kind.policy.access_token_lifetime * (2.0 if draw() < 0.8 else 0.6)
    adopts = "adopt" in scenario.kinds
    (simulation.keep_first_pair if adopts else simulation.store_first_pair)(age)
    least, most = scenario.workers
    workers = [
        Worker(
            name,
            simulation,
            _tasks(scenario, draw),
            skew=(2 * draw() - 1) * scenario.skew,
            failures=int(draw() * (1 + scenario.failures)),
        )
        for name in "ABCDE"[: least + int(draw() * (most - least + 1))]
    ]
    if scenario.lacks_key:
        for worker in workers:
            worker.lacks_key = draw() < scenario.lacks_key
            worker.seals_anew = not worker.lacks_key
    simulation.facts.expired_token_only = (
        not adopts
        and kind.policy.access_token_lifetime > NEARLY_AN_HOUR < age
        and all(task == Task() for worker in workers for task in worker.tasks)
    )
    simulation.add_to_trace(f"bank {kind.name}, {len(workers)} workers")
    scheduler.run(workers)
    finish(simulation, workers, scheduler)
    return simulation, kind
