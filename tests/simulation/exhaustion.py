"""Every schedule of a small world: each run follows one path through the tree of all choices.

A generator cannot be copied, so each path is played from the beginning. Steps that touch nothing
shared happen together with the step before them: in another order they would come to the same. For
the same reason a crash is only tried just before a step, and whoever waits only wakes up when
something has changed or time has passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from attrs import define, field, frozen

from blink_oauth_keeper.steps import Permit

from .harness import REAL, BankKind, Code
from .network import Fate
from .schedule import finish, let_time_pass
from .worker import Phase, Task, Worker
from .world import StoreFate, World

__all__ = ["FAMILIES", "Choices", "Disturbances", "paths", "play"]

T = TypeVar("T")


@define(eq=False)
class Choices:
    """A path through the tree: takes the given turns, then the first one at every fork."""

    given: tuple[int, ...] = ()
    seen: set[int] = field(factory=set)
    forks: list[int] = field(init=False, factory=list)
    taken: list[int] = field(init=False, factory=list)

    def choose(self, count: int) -> int:
        """Choose one of so many."""
        at = len(self.taken)
        turn = self.given[at] if at < len(self.given) else 0
        self.forks.append(count)
        self.taken.append(turn)
        return turn

    def leads_nowhere_new(self, state: object) -> bool:
        """Say whether a path that was played before has been in this state."""
        if len(self.taken) < len(self.given):
            return False
        mark = hash(state)
        known = mark in self.seen
        self.seen.add(mark)
        return known

    def next_path(self) -> tuple[int, ...] | None:
        """Return the path that comes after this one, or None after the last."""
        for at in range(len(self.taken) - 1, -1, -1):
            if self.taken[at] + 1 < self.forks[at]:
                return (*self.taken[:at], self.taken[at] + 1)
        return None


@frozen(kw_only=True)
class Disturbances:
    """What may happen in a family of schedules, in all so many times.

    Attributes:
        crash: A worker ends before any of its steps.
        late: Time passes to the end of the running lease, between any two moments.
        fates: What may become of a request.
        store: What may become of a call to the store.
        most: How often anything of this happens in a schedule.
    """

    crash: bool = False
    late: bool = False
    fates: tuple[Fate, ...] = ()
    store: tuple[StoreFate, ...] = ()
    most: int = 1


_MISHAPS = tuple(fate for fate in Fate if fate is not Fate.ANSWERED)
_STORE = (StoreFate.DOWN, StoreFate.REPLY_LOST)
FAMILIES = {
    "no fault": Disturbances(most=0),
    "crash": Disturbances(crash=True),
    "lost reply": Disturbances(fates=(Fate.REPLY_LOST,)),
    "late": Disturbances(late=True),
    "bad store": Disturbances(store=_STORE),
    "mishap": Disturbances(fates=_MISHAPS),
    "lost reply and crash": Disturbances(crash=True, fates=(Fate.REPLY_LOST,), most=2),
    "bad store twice": Disturbances(store=_STORE, most=2),
}
"""Families of schedules, by name."""


@define(eq=False)
class _EveryWay:
    """A director that follows a path."""

    choices: Choices
    allowed: Disturbances
    left: int = field(init=False)
    abandoned: bool = False
    world: World = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.left = self.allowed.most

    def make_peace(self) -> None:
        self.left = 0

    def number(self) -> float:
        return 0.5

    def permit(self) -> Permit:
        return Permit()

    def send_fate(self, worker: Worker) -> Fate:
        return self._one_of(Fate.ANSWERED, self.allowed.fates)

    def revoke_fate(self, worker: Worker) -> Fate:
        return Fate.ANSWERED

    def store_fate(self, worker: Worker) -> StoreFate:
        return self._one_of(StoreFate.DONE, self.allowed.store)

    def holds(self, worker: Worker) -> bool:
        if not (self.allowed.late and self._lease_runs()) or not self.choices.choose(2):
            return False
        self._let_the_lease_end()
        return True

    def times_out(self, worker: Worker) -> bool:
        return bool(self.choices.choose(2))

    def next(self, workers: list[Worker]) -> bool:
        """Let something happen; False if nothing is left to happen."""
        world = self.world
        movable = [one for one in workers if self._can_move(one)]
        crashable = movable if self.left and self.allowed.crash else []
        late = self.left > 0 and self.allowed.late and self._lease_runs()
        orphans = len(world.orphans)
        count = len(movable) + len(crashable) + orphans + late
        if not movable and not orphans:
            if all(one.phase is Phase.OVER for one in workers):
                return False
            let_time_pass(world, workers)
            return True
        if self.choices.leads_nowhere_new(self._state(workers)):
            self.abandoned = True
            return False
        turn = self.choices.choose(count) if count > 1 else 0
        if turn < len(movable):
            self._move(movable[turn])
        elif (turn := turn - len(movable)) < len(crashable):
            self.left -= 1
            crashable[turn].crash()
        elif (turn := turn - len(crashable)) < orphans:
            world.say("a request comes to the bank that nobody waits for")
            world.refresh(world.orphans.pop(turn))
        else:
            self._let_the_lease_end()
        return True

    def _state(self, workers: list[Worker]) -> object:
        world = self.world
        doing = tuple((one.phase, tuple(one.log)) for one in workers)
        return (world.time, self.left, doing, tuple(world.effects), tuple(world.orphans))

    def _one_of(self, usual: T, others: tuple[T, ...]) -> T:
        if not self.left or not others:
            return usual
        turn = self.choices.choose(1 + len(others))
        if turn == 0:
            return usual
        self.left -= 1
        return others[turn - 1]

    def _can_move(self, worker: Worker) -> bool:
        if worker.phase is Phase.ASLEEP:
            return worker.asleep_since != self.world.changes or worker.is_ready()
        return worker.is_ready()

    def _move(self, worker: Worker) -> None:
        self.world.time = max(self.world.time, worker.wake)
        worker.move()

    def _lease_runs(self) -> bool:
        stored = self.world.stored
        leased = stored is not None and stored.lease_left > 0
        return self.left > 0 and leased and self.world.quiet_until > self.world.time

    def _let_the_lease_end(self) -> None:
        self.left -= 1
        self.world.time = self.world.quiet_until + 0.001
        self.world.say("time passes: the lease is over")
        self.world.facts.disturbances.add("late")


def play(
    kind: BankKind,
    allowed: Disturbances,
    choices: Choices,
    *,
    workers: int = 2,
    trace: list[str] | None = None,
    code: Code = REAL,
) -> World | None:
    """Play one path: workers find one expired token, and something may go wrong.

    Returns:
        The world at the end, or None if the path joins one that was played before.
    """
    director = _EveryWay(choices, allowed)
    world = World(kind, director, code, trace)
    director.world = world
    world.authorize_at_the_start(age=2 * kind.policy.access_token_lifetime)
    world.facts.plain = True
    everybody = [Worker(name, world, [Task()]) for name in "ABC"[:workers]]
    for one in everybody:
        one.move()
    while director.next(everybody):
        pass
    if director.abandoned:
        return None
    finish(world, everybody, director)
    return world


def paths(
    kind: BankKind, allowed: Disturbances, *, workers: int = 2, code: Code = REAL
) -> Iterator[tuple[World, tuple[int, ...]]]:
    """Play all paths."""
    path: tuple[int, ...] | None = ()
    seen: set[int] = set()
    while path is not None:
        choices = Choices(path, seen)
        world = play(kind, allowed, choices, workers=workers, code=code)
        if world is not None:
            yield world, tuple(choices.taken)
        path = choices.next_path()
