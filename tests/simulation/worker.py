"""One process: it runs one flight after the other, moment by moment, as it is told to."""

from __future__ import annotations

from enum import Enum
from typing import Any

from attrs import define, field, frozen

from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Token
from blink_oauth_keeper import steps
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.policy import Need
from blink_oauth_keeper.steps import Job, Steps
from blink_oauth_keeper.store.protocol import Record

from .facts import Finished, Flight, Lease, Presentation, Received
from .harness import KEY, moment
from .network import UNREACHED, Fate, certainly_unspent, reply, timed_out, told, unreached
from .words import words
from .world import DEADLINE, LEASE, PATIENCE, World

__all__ = ["Phase", "Task", "Worker"]


@frozen
class Task:
    """What a worker wants.

    Attributes:
        kind: `refresh`, `authorize` or `revoke`.
        newer: Only a newer token than the one it has seen will do.
        early: Refresh early if it is time.
        at: Not before this time.
    """

    kind: str = "refresh"
    newer: bool = False
    early: bool = False
    at: float = 0.0


class Phase(Enum):
    """What a worker does at its next move."""

    IDLE = "begin the next task"
    STEP = "do the step"
    WIRE = "the request comes to the bank"
    RESULT = "be told the result"
    ASLEEP = "wake up"
    OVER = "nothing"


FLIGHT_NOTHING = Flight("", "")


@define(eq=False)
class Worker:
    """A process.

    Attributes:
        name: Its name.
        world: Its world.
        tasks: What it wants, in this order.
        skew: Seconds that its wall clock is ahead of the world's.
        failures: How many of its flights have failed in a row.
        wake: When it wants to wake up.
        has_unsaved_result: Whether it sleeps with a result that is not stored.
        asleep_since: The world's count of changes when it fell asleep.
        closing: Whether its manager is closing.
        moves: How many moves it has made.
        log: Its moves, what chance made of them, and of how many effects it could know: all that it
            does follows from these.
        stored: The stored record when it wrote last.
    """

    name: str
    world: World
    tasks: list[Task]
    skew: float = 0.0
    failures: int = 0
    phase: Phase = Phase.IDLE
    wake: float = 0.0
    has_unsaved_result: bool = False
    asleep_since: int = 0
    closing: bool = False
    moves: int = 0
    flights: int = 0
    seen: int = 0
    flight: Flight = FLIGHT_NOTHING
    stored: Record | None = None
    record: Record | None = None
    protocol: Steps | None = None
    step: Any = None
    result: Any = None
    fate: Fate = Fate.ANSWERED
    sent_at: float = 0.0
    presentation: Presentation | None = None
    lost: bool = False
    erased: bool = False
    log: list[tuple[Enum, int, float]] = field(factory=list)
    again: bool = True

    def __attrs_post_init__(self) -> None:
        self._rest()

    def is_ready(self) -> bool:
        """Say whether it can move without time passing."""
        phase = self.phase
        if phase is Phase.IDLE and self.tasks[0].kind == "authorize":
            other = self.world.authorizing
            if other is not None and other.is_authorizing():
                return False
        if phase is Phase.ASLEEP or phase is Phase.IDLE:
            return self.wake <= self.world.time
        return phase is not Phase.OVER

    def is_authorizing(self) -> bool:
        """Say whether it is in the middle of an exchange."""
        return self.protocol is not None and self.flight.kind == "authorize"

    def move(self) -> None:
        """Do what comes next."""
        self.moves += 1
        phase = self.phase
        self.remember(phase)
        if phase is Phase.STEP:
            self._do()
        elif phase is Phase.RESULT:
            self._resume(self.result)
        elif phase is Phase.WIRE:
            self._arrive()
        elif phase is Phase.ASLEEP:
            self._resume(not self.closing)
        elif phase is Phase.IDLE:
            self._begin()

    def remember(self, what: Enum) -> None:
        """Add a line to the log."""
        self.log.append((what, len(self.world.effects), self.world.time))

    def crash(self) -> None:
        """End in the middle of whatever it does; a request on the wire goes on alone."""
        self.world.say(f"{self.name} crashes before: {self.phase.value}")
        self.world.facts.disturbances.add("crash")
        self.flight.broken = "crashed"
        if self.phase is Phase.WIRE and isinstance(self.step, steps.Send):
            self.world.orphans.append(self.step.refresh_token.reveal())
        if self.protocol is not None:
            self.protocol.close()
        self.protocol, self.tasks, self.phase = None, [], Phase.OVER

    def _rest(self) -> None:
        self.phase = Phase.IDLE if self.tasks else Phase.OVER
        self.wake = self.tasks[0].at if self.tasks else 0.0

    def _begin(self) -> None:
        task, self.tasks = self.tasks[0], self.tasks[1:]
        world = self.world
        self.flights += 1
        self.flight = Flight(f"{self.name}{self.flights}", task.kind)
        self.stored = self.record = self.presentation = None
        self.lost = self.erased = False
        job = self._job(task)
        code = world.code
        if task.kind == "refresh":
            self.protocol = code.refresh(job)
        elif task.kind == "authorize":
            self.protocol = code.authorize(job)
            world.authorizing = self
        else:
            self.protocol = code.revoke(job)
        world.say(f"{self.flight.name} begins to {task.kind}")
        self._resume(None)

    def _job(self, task: Task) -> Job:
        world = self.world
        return Job(
            key=KEY,
            need=Need(newer_than=self.seen if task.newer else 0, early=task.early),
            profile=world.kind.profile,
            lease=LEASE,
            deadline=DEADLINE,
            max_wait=PATIENCE,
            failures=self.failures,
            now=lambda: moment(world.time + self.skew),
            monotonic=lambda: world.time,
            random=world.director.number,
            new_owner=world.new_owner,
        )

    def _resume(self, result: Any) -> None:
        if self.phase is Phase.RESULT and isinstance(self.step, steps.Send | steps.ExchangeCode):
            result = self._received(result)
        protocol = self.protocol
        assert protocol is not None
        try:
            if isinstance(result, BlinkError):
                step = protocol.throw(result)
            else:
                step = protocol.send(result)
            while (local := self._local(step)) is not None:
                step = protocol.send(local[0])
        except StopIteration as stop:
            self._finish(stop.value)
        except Exception as error:  # noqa: BLE001 - whatever breaks a flight is a finding
            self.world.facts.failures.append(f"{self.flight.name} broke with {error!r}")
            self._rest()
        else:
            self._take(step)

    def _local(self, step: steps.Step) -> tuple[Any] | None:
        """Return the result of a step that touches nothing shared, or None."""
        kind = type(step)
        if kind is steps.Emit:
            assert isinstance(step, steps.Emit)
            self.lost = self.lost or step.name == "store.lost"
            self.world.say(f"{self.flight.name} tells {step.name}")
            return (None,)
        if kind is steps.AcquirePermit:
            return (self.world.director.permit(),)
        return (None,) if kind is steps.Publish else None

    def _take(self, step: steps.Step) -> None:
        self.step = step
        if isinstance(step, steps.Wait):
            self.phase, self.wake, self.has_unsaved_result = (
                Phase.ASLEEP,
                self.world.time + step.seconds,
                step.has_unsaved_result,
            )
            self.asleep_since = self.world.changes
            return
        self.phase = Phase.STEP
        if isinstance(step, steps.Send):
            self._announce(step)

    def _announce(self, step: steps.Send) -> None:
        token = step.refresh_token.reveal()
        lease: Lease | None = None
        for one in self.flight.leases:
            if one.token == token and not one.used:
                lease = one
        if lease is not None:
            lease.used = True
        time_left = (lease.until if lease else 0.0) - self.world.time - DEADLINE
        self.presentation = Presentation(token, self.flight, lease, time_left)

    def _do(self) -> None:
        step, world = self.step, self.world
        kind = type(step)
        if kind is steps.Send or kind is steps.ExchangeCode:
            self._send()
            return
        try:
            if kind is steps.Revoke:
                fate = world.director.revoke_fate(self)
                result = world.revoke(step.token, fate, self.record or self.stored)
                if fate is not Fate.ANSWERED:
                    world.facts.disturbances.add("revocation failed")
            else:
                result = world.ask_store(self, step)
        except StoreError as error:
            result = error
        if world.trace is not None:
            world.say(f"{self.flight.name} {words(step)} -> {words(result)}")
        self._note(step, result)
        self.result, self.phase = result, Phase.RESULT
        if not world.director.holds(self):
            self._resume(result)

    def _note(self, step: steps.Step, result: Any) -> None:
        """Remember what it knows of the record, and whether a pair came home too late."""
        if isinstance(result, Record):
            self.record = result
            self.seen = max(self.seen, result.generation)
        if isinstance(step, steps.Settle):
            self._outlast()
        self.erased = self.erased or (isinstance(step, steps.Erase) and result is True)

    def _outlast(self) -> None:
        one = self.presentation
        if one is not None and one.lease is not None and self.world.time > one.lease.until:
            one.outlasted = True
            self.world.facts.disturbances.add("outlasted")

    def _send(self) -> None:
        world = self.world
        fate = world.director.send_fate(self)
        if fate is Fate.UNREADABLE and isinstance(self.step, steps.ExchangeCode):
            fate = Fate.ANSWERED
        self.fate = fate
        self.remember(fate)
        self.sent_at = world.time
        if self.presentation is not None and isinstance(self.step, steps.Send):
            world.facts.presentations.append(self.presentation)
        if fate is not Fate.ANSWERED:
            world.facts.disturbances.add(fate.value)
        if fate is Fate.LATE:
            world.time += DEADLINE
            if isinstance(self.step, steps.Send):
                world.orphans.append(self.step.refresh_token.reveal())
            self.result, self.phase = timed_out(), Phase.RESULT
        elif fate in UNREACHED:
            self.result, self.phase = unreached(fate), Phase.RESULT
        else:
            self.phase = Phase.WIRE
        if world.trace is not None:
            world.say(f"{self.flight.name} {words(self.step)} ({fate.value})")

    def _arrive(self) -> None:
        world, step = self.world, self.step
        if isinstance(step, steps.Send):
            self._outlast()
            answer = world.refresh(step.refresh_token.reveal())
        else:
            answer = world.exchange()
        self.result = reply(self.fate, answer, self.sent_at + self.skew)
        self.phase = Phase.RESULT
        if world.trace is not None:
            world.say(f"the bank answers {self.flight.name}: {type(answer).__name__}")

    def _received(self, result: Token | BlinkError) -> Token | BlinkError:
        world = self.world
        if world.time - self.sent_at > DEADLINE and world.director.times_out(self):
            result = timed_out()
            self.remember(Fate.LATE)
            world.facts.disturbances.add("timed out")
        pair = result if isinstance(result, Token) else result.token
        if pair is not None:
            world.facts.received.append(Received(pair.access_token.reveal(), self.flight))
        one = self.presentation
        if one is not None and isinstance(self.step, steps.Send):
            one.told = told(result)
            one.certainly_unspent = certainly_unspent(result)
        if world.trace is not None:
            world.say(f"{self.flight.name} is told {words(result)}")
        return result

    def _finish(self, result: steps.Result) -> None:
        world = self.world
        world.facts.finished.append(Finished(self.flight, result.record, result.error, self.stored))
        if world.trace is not None:
            world.say(f"{self.flight.name} ends with {words(result.error or result.record)}")
        if self.lost:
            self.flight.broken = "closed"
        if self.erased and self.record is not None:
            world.facts.revocations.append(self.record.consent)
        if result.error is not None:
            self.failures += 1
        elif result.obtained:
            self.failures = 0
        if result.refresh_in is not None and self.again:
            at = world.time + result.refresh_in
            self.tasks = [Task(early=True, at=at), *self.tasks]
        self.protocol = None
        self._rest()
