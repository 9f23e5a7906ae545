"""Random schedules: a seed says everything, so that each can be played again.

A scenario is a family of schedules: which banks, which tasks, and how often what goes wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field, frozen

from blink_oauth_keeper.steps import Permit

from .harness import BANKS, REAL, BankKind, Code
from .network import Fate
from .schedule import finish, let_time_pass
from .worker import Phase, Task, Worker
from .world import StoreFate, World

__all__ = ["SCENARIOS", "Scenario", "play"]

DISTURBED_MOVES = 150
"""Moves after which there is peace in any case."""
AN_HOUR_NEARLY = 3_599.0
DOUBTLESS = (Fate.NOT_CONNECTED, Fate.REJECTED, Fate.BUSY)
LOSSES = (Fate.REPLY_LOST, Fate.REQUEST_LOST)
MISHAPS = tuple(fate for fate in Fate if fate is not Fate.ANSWERED)


@frozen(kw_only=True)
class Scenario:
    """A family of schedules. The numbers are probabilities, from 0 to 1.

    Attributes:
        banks: The names of the banks.
        workers: The least and the most workers.
        tasks: The most tasks of a worker.
        kinds: What the tasks are.
        fates: What may become of a request, other than an answer.
        mishap: That a request meets one of these fates.
        once: Whether a mishap that leaves a doubt happens to one request of a schedule only.
        store: That a call to the store fails.
        outage: That the store goes down or comes back, for each move.
        crash: That a worker ends, for each move.
        jump: That time jumps by seconds or by a lease, for each move.
        hold: That a worker stands still before it is told a result.
        close: That a worker's manager begins to close, for each move.
        withdraw: That the customer ends the consent at the bank, for each move.
        skew: Seconds that the workers' wall clocks may differ from the store's.
        failures: How many flights may have failed before.
        held_off: That a target is to be left alone, or its rate is limited.
    """

    banks: tuple[str, ...] = tuple(BANKS)
    workers: tuple[int, int] = (2, 5)
    tasks: int = 2
    kinds: tuple[str, ...] = ("refresh",)
    fates: tuple[Fate, ...] = DOUBTLESS
    mishap: float = 0.0
    once: bool = False
    store: float = 0.0
    outage: float = 0.0
    crash: float = 0.0
    jump: float = 0.0
    hold: float = 0.1
    close: float = 0.0
    withdraw: float = 0.0
    skew: float = 0.0
    failures: int = 0
    held_off: float = 0.0


MOSTLY_REFRESH = ("refresh",) * 5
SCENARIOS: dict[str, Scenario] = {
    "calm": Scenario(mishap=0.2, store=0.02),
    "lossy": Scenario(
        banks=("strict", "windowed", "non-rotating", "held", "last lives", "refusing"),
        fates=LOSSES,
        mishap=0.5,
        once=True,
        failures=6,
    ),
    "mishaps": Scenario(fates=MISHAPS, mishap=0.4, jump=0.02, skew=30.0),
    "crashes": Scenario(crash=0.03, jump=0.02, fates=LOSSES, mishap=0.05),
    "pauses": Scenario(jump=0.08, hold=0.3, tasks=3),
    "outages": Scenario(store=0.1, outage=0.03, jump=0.02, hold=0.2, tasks=3),
    "consents": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "authorize"), store=0.05, jump=0.03, hold=0.2
    ),
    "revocations": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "revoke", "revoke"), hold=0.3, tasks=3
    ),
    "withdrawals": Scenario(store=0.2, withdraw=0.02, jump=0.05, hold=0.4, tasks=4),
    "wild": Scenario(
        kinds=(*MOSTLY_REFRESH, "authorize", "revoke"),
        tasks=3,
        fates=MISHAPS,
        mishap=0.2,
        store=0.05,
        outage=0.01,
        crash=0.01,
        jump=0.03,
        hold=0.2,
        close=0.005,
        withdraw=0.003,
        skew=30.0,
        failures=3,
        held_off=0.05,
    ),
}
"""The scenarios by name."""


@define(eq=False)
class _ByChance:
    """A director that throws dice."""

    scenario: Scenario
    dice: Callable[[], float]
    world: World = field(init=False)
    peace: bool = False
    doubts: int = 0

    def make_peace(self) -> None:
        self.peace = True

    def number(self) -> float:
        return self.dice()

    def permit(self) -> Permit:
        if self.peace or self.dice() >= self.scenario.held_off:
            return Permit()
        return Permit(hold_off=3.0) if self.dice() < 0.5 else Permit(queue=0.5)

    def send_fate(self, worker: Worker) -> Fate:
        scenario = self.scenario
        if self.peace or self.dice() >= scenario.mishap:
            return Fate.ANSWERED
        fate = scenario.fates[int(self.dice() * len(scenario.fates))]
        if scenario.once and fate not in DOUBTLESS:
            self.doubts += 1
            return fate if self.doubts == 1 else Fate.ANSWERED
        return fate

    def revoke_fate(self, worker: Worker) -> Fate:
        if self.peace or self.dice() >= self.scenario.mishap:
            return Fate.ANSWERED
        return Fate.NOT_CONNECTED if self.dice() < 0.5 else Fate.REPLY_LOST

    def store_fate(self, worker: Worker) -> StoreFate:
        if self.peace or self.dice() >= self.scenario.store:
            return StoreFate.DONE
        return StoreFate.DOWN if self.dice() < 0.4 else StoreFate.REPLY_LOST

    def holds(self, worker: Worker) -> bool:
        return not self.peace and self.dice() < self.scenario.hold

    def times_out(self, worker: Worker) -> bool:
        return self.dice() < 0.5

    def run(self, workers: list[Worker]) -> None:
        """Move workers and disturb them, until all have finished or it has been enough."""
        world, dice, scenario = self.world, self.dice, self.scenario
        restless = scenario.outage + scenario.crash + scenario.jump + scenario.close
        restless += scenario.withdraw
        for _ in range(DISTURBED_MOVES):
            if restless and dice() < restless:
                self._disturb(workers, dice() * restless)
                continue
            ready = [one for one in workers if one.is_ready()]
            if ready:
                world.time += 0.02 * dice()
                ready[int(dice() * len(ready))].move()
            elif any(one.phase is not Phase.OVER for one in workers):
                let_time_pass(world, workers)
            else:
                break
        for token in world.orphans:
            if dice() < 0.5:
                world.say("a request comes to the bank that nobody waits for")
                world.refresh(token)

    def _disturb(self, workers: list[Worker], roll: float) -> None:
        world, scenario = self.world, self.scenario
        worker = workers[int(self.dice() * len(workers))]
        if (roll := roll - scenario.outage) < 0:
            world.down = not world.down
            world.say("the store goes down" if world.down else "the store is back")
        elif (roll := roll - scenario.crash) < 0:
            if worker.phase is not Phase.OVER:
                worker.crash()
        elif (roll := roll - scenario.close) < 0:
            worker.closing = True
            world.facts.disturbances.add("closing")
            world.say(f"{worker.name} is closing")
        elif (roll := roll - scenario.withdraw) < 0:
            world.withdraw()
        elif world.orphans and self.dice() < 0.5:
            world.say("a request comes to the bank that nobody waits for")
            world.refresh(world.orphans.pop())
        else:
            self._jump()

    def _jump(self) -> None:
        world = self.world
        roll = self.dice()
        if roll < 0.3:
            world.time += 10 * self.dice()
        elif roll < 0.9 and world.quiet_until > world.time:
            world.time = world.quiet_until + 0.01
        else:
            world.time += 20 + 20 * self.dice()
        world.facts.disturbances.add("time passes")
        world.say("time passes")


def _tasks(scenario: Scenario, dice: Callable[[], float]) -> list[Task]:
    count = 1 + int(dice() * scenario.tasks)
    kinds = [scenario.kinds[int(dice() * len(scenario.kinds))] for _ in range(count)]
    return [Task(kind, newer=dice() < 0.3, early=dice() < 0.3) for kind in kinds]


def play(
    scenario: Scenario, seed: int, *, trace: list[str] | None = None, code: Code = REAL
) -> tuple[World, BankKind]:
    """Play the schedule of a seed."""
    dice = random.Random(seed).random
    kind = BANKS[scenario.banks[int(dice() * len(scenario.banks))]]
    director = _ByChance(scenario, dice)
    world = World(kind, director, code, trace)
    director.world = world
    age = kind.policy.access_token_lifetime * (2.0 if dice() < 0.8 else 0.6)
    world.authorize_at_the_start(age)
    least, most = scenario.workers
    workers = [
        Worker(
            name,
            world,
            _tasks(scenario, dice),
            skew=(2 * dice() - 1) * scenario.skew,
            failures=int(dice() * (1 + scenario.failures)),
        )
        for name in "ABCDE"[: least + int(dice() * (most - least + 1))]
    ]
    world.facts.plain = kind.policy.access_token_lifetime > AN_HOUR_NEARLY < age and all(
        one == Task() for worker in workers for one in worker.tasks
    )
    world.say(f"bank {kind.name}, {len(workers)} workers")
    director.run(workers)
    finish(world, workers, director)
    return world, kind
