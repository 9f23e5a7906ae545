"""What all schedules have in common: how time passes, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .worker import Phase, Task, Worker
from .world import Director, World

__all__ = ["Peacemaker", "finish", "let_time_pass"]

MOST_MOVES = 80
"""Moves that a worker may make on its own once the disturbances are over."""
LATE_CALLERS = 4


class Peacemaker(Director, Protocol):
    """A director that can be told to disturb nobody any more."""

    def make_peace(self) -> None:
        """From now on, let everything go right."""


def let_time_pass(world: World, workers: Sequence[Worker]) -> None:
    """Let time pass until somebody can move who could not.

    Whoever sleeps without a result to write may oversleep until a lease or a pause ends: in the
    meantime it would find nothing new.
    """
    resting = {Phase.ASLEEP, Phase.IDLE}
    sleepers = [one for one in workers if one.phase in resting and one.wake > world.time]
    until = min(one.wake for one in sleepers)
    only_looking = all(one.phase is Phase.ASLEEP and not one.has_unsaved_result for one in sleepers)
    if only_looking and world.quiet_until > until:
        until = world.quiet_until
    world.time = until


def finish(world: World, workers: Sequence[Worker], director: Peacemaker) -> None:
    """End the disturbances, let everybody land, and let late callers ask for a token."""
    director.make_peace()
    world.down = False
    world.say("peace")
    _run(world, workers)
    for number in range(LATE_CALLERS):
        at = max(world.time, world.quiet_until)
        caller = Worker(f"late{number}-", world, [Task(early=True, at=at)])
        _run(world, [caller])
        if world.facts.finished[-1].error is None:
            break
    world.conclude()


def _run(world: World, workers: Sequence[Worker]) -> None:
    limits = {one.name: one.moves + MOST_MOVES * (1 + len(one.tasks)) for one in workers}
    while any(one.phase is not Phase.OVER for one in workers):
        ready = [one for one in workers if one.is_ready()]
        for one in ready:
            one.move()
            if one.moves > limits[one.name]:
                world.facts.restless.append(one.name)
                return
        if not ready:
            let_time_pass(world, workers)
