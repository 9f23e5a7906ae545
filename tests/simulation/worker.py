"""One simulated process: it runs its flights one after the other, one move at a time."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

from attrs import define, field, frozen

from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Token
from blink_oauth_keeper import steps
from blink_oauth_keeper.cache import Cache
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.policy import Need, foreign_responses, is_newer
from blink_oauth_keeper.steps import Job, Steps
from blink_oauth_keeper.store.protocol import Record

from .facts import Finished, Flight, Lease, Presentation, Received
from .harness import KEY, moment
from .network import (
    UNREACHED,
    RequestFault,
    certainly_unspent,
    certainty,
    received_result,
    timed_out_error,
    unreached_error,
)
from .simulation import CALL_TIMEOUT, LEASE, MAX_WAIT, Simulation
from .trace import describe

__all__ = ["Phase", "Task", "Worker"]


@frozen
class Task:
    """A flight that a worker is to run.

    Attributes:
        kind: `refresh`, `authorize`, `revoke`, `forget`, `finish` for the rest of a revocation, or
            `adopt`, after which a refresh follows.
        newer: Whether the token must be newer than the one that the worker has seen.
        early: Whether to refresh before the token is stale, if it is due.
        at: Earliest start, in seconds.
    """

    kind: str = "refresh"
    newer: bool = False
    early: bool = False
    at: float = 0.0


class Phase(Enum):
    """What a worker does at its next move."""

    IDLE = "begin the next task"
    STEP = "execute the step"
    IN_TRANSIT = "the request reaches the bank"
    RESULT = "receive the result"
    WAITING = "end the wait"
    DONE = "nothing"


NO_FLIGHT = Flight("", "")


def _number(record: Record) -> tuple[int, int]:
    return record.consent, record.generation


@define(eq=False)
class Worker:
    """A simulated process.

    Attributes:
        name: The worker's name.
        simulation: The simulation that it shares with the other workers.
        tasks: The flights that it has not begun, in order.
        skew: Seconds that its wall clock is ahead of the simulation's.
        slept: Seconds for which its monotonic clock has stood still.
        lacks_key: Whether it cannot open pairs that are sealed with the new key.
        seals_anew: Whether it seals with the new key.
        failures: Number of its flights that have failed in a row.
        phase: What it does at its next move.
        wake_at: End of its wait, in seconds.
        has_unstored_result: Whether it waits with a result that is not stored.
        waiting_since: The simulation's count of changes at the start of the wait.
        closing: Whether its manager is closing.
        has_crashed: Whether the process has crashed.
        moves: Number of its moves.
        flights: Number of its flights.
        seen: The newest record that it has seen.
        cache: The cache of the process.
        has_published_result: Whether the flight has published a result that is not stored.
        stored: The stored record after its last write in this flight.
        record: The last record that the store has returned in this flight.
        lost: Whether the flight has emitted `store.lost`.
        erased: The consent whose revoked pairs the flight has erased, or None.
        log: Each move and fault with the number of effects so far and the time. The log determines
            the worker's state.
    """

    name: str
    simulation: Simulation
    tasks: list[Task]
    skew: float = 0.0
    slept: float = 0.0
    lacks_key: bool = False
    seals_anew: bool = False
    failures: int = 0
    phase: Phase = Phase.IDLE
    wake_at: float = 0.0
    has_unstored_result: bool = False
    waiting_since: int = 0
    closing: bool = False
    has_crashed: bool = False
    moves: int = 0
    flights: int = 0
    seen: Record | None = None
    cache: Cache = field(init=False)
    has_published_result: bool = False
    flight: Flight = NO_FLIGHT
    stored: Record | None = None
    record: Record | None = None
    protocol: Steps | None = None
    step: Any = None
    result: Any = None
    fault: RequestFault = RequestFault.NONE
    sent_at: float = 0.0
    presentation: Presentation | None = None
    lost: bool = False
    erased: int | None = None
    log: list[tuple[Enum, int, float]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        simulation = self.simulation
        self.cache = Cache(
            lambda: moment(simulation.time + self.skew), lambda: simulation.time - self.slept
        )
        self._await_next_task()

    def is_ready(self) -> bool:
        """Return whether the worker can move before time advances."""
        phase = self.phase
        if phase is Phase.IDLE and self.tasks[0].kind == "authorize":
            other = self.simulation.authorizing
            if other is not None and other.is_authorizing():
                return False
        if phase is Phase.WAITING or phase is Phase.IDLE:
            return self.wake_at <= self.simulation.time
        return phase is not Phase.DONE

    def knows(self, record: Record) -> bool:
        """Return whether the process knows this record or a newer one."""
        known = self.cache.known(KEY.grant)
        return known is not None and _number(known) >= _number(record)

    def knows_newer_than(self, record: Record) -> bool:
        """Return whether the process knows a newer record than this one."""
        known = self._known()
        if known is None or record.issued_at > known.issued_at:
            return False
        return _number(known) > _number(record)

    def is_authorizing(self) -> bool:
        """Return whether a code exchange is in progress."""
        return self.protocol is not None and self.flight.kind == "authorize"

    def move(self) -> None:
        """Make the next move."""
        self.moves += 1
        phase = self.phase
        self.remember(phase)
        if phase is Phase.STEP:
            self._execute_step()
        elif phase is Phase.RESULT:
            self._resume(self.result)
        elif phase is Phase.IN_TRANSIT:
            self._reach_bank()
        elif phase is Phase.WAITING:
            self._resume(not self.closing)
        elif phase is Phase.IDLE:
            self._begin()

    def remember(self, what: Enum) -> None:
        """Add a move or a fault to the log."""
        self.log.append((what, len(self.simulation.effects), self.simulation.time))

    def crash(self) -> None:
        """End at once. A request in transit may still reach the bank."""
        self.simulation.add_to_trace(f"{self.name} crashes before: {self.phase.value}")
        self.simulation.facts.faults.add("crash")
        self.flight.ended_by = "crashed"
        self.has_crashed = True
        if self.phase is Phase.IN_TRANSIT and isinstance(self.step, steps.Send):
            self.simulation.abandoned_requests.append(self.step.refresh_token.reveal())
        if self.protocol is not None:
            self.protocol.close()
        self.protocol, self.tasks, self.phase = None, [], Phase.DONE

    def add_task(self, task: Task) -> None:
        """Add a task, after all others."""
        self.tasks = [*self.tasks, task]
        if self.phase is Phase.DONE:
            self._await_next_task()

    def _await_next_task(self) -> None:
        self.phase = Phase.IDLE if self.tasks else Phase.DONE
        self.wake_at = self.tasks[0].at if self.tasks else 0.0

    def _begin(self) -> None:
        task, self.tasks = self.tasks[0], self.tasks[1:]
        simulation = self.simulation
        self.flights += 1
        self.flight = Flight(f"{self.name}{self.flights}", task.kind)
        self.stored = self.record = self.presentation = None
        self.lost = self.has_published_result = False
        self.erased = None
        job = self._job(task)
        code = simulation.code
        if task.kind == "refresh":
            self.protocol = code.refresh(job)
        elif task.kind == "authorize":
            self.protocol = code.authorize(job)
            simulation.authorizing = self
        elif task.kind == "adopt":
            self.protocol = code.adopt(job)
            self.tasks = [Task(), *self.tasks]
        elif task.kind in {"revoke", "forget"}:
            self.protocol = code.revoke(job, forget=task.kind == "forget")
        else:
            self.protocol = code.finish_revocation(job)
        simulation.add_to_trace(f"{self.flight.name} begins to {task.kind}")
        self._resume(None)

    def _job(self, task: Task) -> Job:
        simulation = self.simulation
        return Job(
            key=KEY,
            need=Need(newer_than=self.seen if task.newer else None, early=task.early),
            profile=simulation.kind.profile,
            adopted=simulation.kept,
            lease=LEASE,
            call_timeout=CALL_TIMEOUT,
            max_wait=MAX_WAIT,
            failures=self.failures,
            now=lambda: moment(simulation.time + self.skew),
            monotonic=lambda: simulation.time - self.slept,
            random=simulation.scheduler.random,
            new_owner=simulation.new_owner,
            responded_ago=self._responded_ago,
            known=self._known,
        )

    def _responded_ago(self) -> float:
        if not self.simulation.scheduler.others_respond():
            return math.inf
        self.simulation.facts.others_responded = True
        return 0.0

    def _known(self) -> Record | None:
        return None if self.has_published_result else self.cache.known(KEY.grant)

    def _resume(self, result: Any) -> None:
        if self.phase is Phase.RESULT and isinstance(self.step, steps.Send | steps.ExchangeCode):
            result = self._receive(result)
        protocol = self.protocol
        assert protocol is not None
        try:
            if isinstance(result, BlinkError):
                step = protocol.throw(result)
            else:
                step = protocol.send(result)
            while (local := self._local_result(step)) is not None:
                step = protocol.send(local[0])
        except StopIteration as stop:
            self._finish(stop.value)
        except Exception as error:  # noqa: BLE001 - every unexpected exception is a violation
            self.simulation.facts.failures.append(f"{self.flight.name} raised {error!r}")
            self._await_next_task()
        else:
            self._set_step(step)

    def _local_result(self, step: steps.Step) -> tuple[Any] | None:
        """Return the result of a step that touches nothing shared, as a tuple, or None."""
        kind = type(step)
        if kind is steps.Emit:
            assert isinstance(step, steps.Emit)
            self.lost = self.lost or step.name == "store.lost"
            self.simulation.add_to_trace(f"{self.flight.name} emits {step.name}")
            return (None,)
        if kind is steps.AcquirePermit:
            return (self.simulation.scheduler.permit(),)
        if kind is steps.Publish:
            assert isinstance(step, steps.Publish)
            self.has_published_result = self.has_published_result or step.to_callers
            self._update_cache(step.result)
            return (None,)
        return None

    def _update_cache(self, result: steps.Result) -> None:
        self.cache.update(KEY.grant, result, self.simulation.kind.profile)

    def _set_step(self, step: steps.Step) -> None:
        self.step = step
        if isinstance(step, steps.Wait):
            self.phase, self.wake_at, self.has_unstored_result = (
                Phase.WAITING,
                self.simulation.time + step.seconds,
                step.has_unstored_result,
            )
            self.waiting_since = self.simulation.changes
            return
        self.phase = Phase.STEP
        if isinstance(step, steps.Send):
            self._prepare_presentation(step)

    def _prepare_presentation(self, step: steps.Send) -> None:
        token = step.refresh_token.reveal()
        lease: Lease | None = None
        for claimed in self.flight.leases:
            if claimed.token == token and not claimed.used:
                lease = claimed
        if lease is not None:
            lease.used = True
        time_left = (lease.ends_at if lease else 0.0) - self.simulation.time - CALL_TIMEOUT
        self.presentation = Presentation(token, self.flight, lease, time_left)
        claimed_token = self.record.token if self.record else None
        if claimed_token is not None and claimed_token.expires_at is not None:
            now = moment(self.simulation.time + self.skew)
            self.presentation.expired = now >= claimed_token.expires_at
        if self.record is not None:
            self.presentation.is_older = self.knows_newer_than(self.record)

    def _execute_step(self) -> None:
        step, simulation = self.step, self.simulation
        kind = type(step)
        if kind is steps.Send or kind is steps.ExchangeCode:
            self._send()
            return
        try:
            if kind is steps.Revoke:
                fault = simulation.scheduler.revoke_fault(self)
                result = simulation.revoke(step.token, fault, self.record or self.stored)
                if fault is not RequestFault.NONE:
                    simulation.facts.faults.add("revocation failed")
                for response in [] if result is None else foreign_responses(result):
                    self._record_received(response.token)
            else:
                result = simulation.call_store(self, step)
        except StoreError as error:
            result = error
        if simulation.trace is not None:
            simulation.add_to_trace(f"{self.flight.name} {describe(step)} -> {describe(result)}")
        self._remember_result(step, result)
        self.result, self.phase = result, Phase.RESULT
        if not simulation.scheduler.delays_result(self):
            self._resume(result)

    def _remember_result(self, step: steps.Step, result: Any) -> None:
        """Remember a record that the store has returned, and whether a pair outlasted its lease."""
        if isinstance(result, Record):
            self.record = result
            self.seen = result if is_newer(result, self.seen) else self.seen
        if isinstance(step, steps.Settle):
            self._check_lease()
        if isinstance(step, steps.Erase) and result is True:
            self.erased = step.record.consent

    def _check_lease(self) -> None:
        presentation = self.presentation
        if (
            presentation is not None
            and presentation.lease is not None
            and self.simulation.time > presentation.lease.ends_at
        ):
            presentation.outlasted = True
            self.simulation.facts.faults.add("outlasted")

    def _send(self) -> None:
        simulation = self.simulation
        fault = simulation.scheduler.send_fault(self)
        if fault is RequestFault.UNREADABLE and isinstance(self.step, steps.ExchangeCode):
            fault = RequestFault.NONE
        self.fault = fault
        self.remember(fault)
        self.sent_at = simulation.time
        if self.presentation is not None and isinstance(self.step, steps.Send):
            simulation.facts.presentations.append(self.presentation)
        if fault is not RequestFault.NONE:
            simulation.facts.faults.add(fault.value)
        if fault is RequestFault.LATE:
            simulation.time += CALL_TIMEOUT
            if isinstance(self.step, steps.Send):
                simulation.abandoned_requests.append(self.step.refresh_token.reveal())
            self.result, self.phase = timed_out_error(), Phase.RESULT
        elif fault in UNREACHED:
            self.result, self.phase = unreached_error(fault), Phase.RESULT
        else:
            self.phase = Phase.IN_TRANSIT
        if simulation.trace is not None:
            simulation.add_to_trace(f"{self.flight.name} {describe(self.step)} ({fault.value})")

    def _reach_bank(self) -> None:
        simulation, step = self.simulation, self.step
        if isinstance(step, steps.Send):
            self._check_lease()
            response = simulation.refresh(step.refresh_token.reveal())
        else:
            response = simulation.exchange()
        self.result = received_result(self.fault, response, self.sent_at + self.skew)
        self.phase = Phase.RESULT
        if simulation.trace is not None:
            simulation.add_to_trace(
                f"the bank responds to {self.flight.name}: {type(response).__name__}"
            )

    def _receive(self, result: Token | BlinkError) -> Token | BlinkError:
        simulation = self.simulation
        if simulation.time - self.sent_at > CALL_TIMEOUT and simulation.scheduler.times_out(self):
            result = timed_out_error()
            self.remember(RequestFault.LATE)
            simulation.facts.faults.add("timed out")
        self._record_received(result if isinstance(result, Token) else result.token)
        presentation = self.presentation
        if presentation is not None and isinstance(self.step, steps.Send):
            presentation.certainty = certainty(result)
            presentation.certainly_unspent = certainly_unspent(result)
        if simulation.trace is not None:
            simulation.add_to_trace(f"{self.flight.name} receives {describe(result)}")
        return result

    def _record_received(self, pair: Token | None) -> None:
        if pair is not None:
            received = Received(pair.access_token.reveal(), self.flight)
            self.simulation.facts.received.append(received)

    def _finish(self, result: steps.Result) -> None:
        simulation = self.simulation
        simulation.facts.finished.append(
            Finished(self.flight, result.record, result.error, self.stored)
        )
        if simulation.trace is not None:
            simulation.add_to_trace(
                f"{self.flight.name} ends with {describe(result.error or result.record)}"
            )
        if self.lost:
            self.flight.ended_by = "closed"
        if self.erased is not None:
            simulation.facts.revocations.append(self.erased)
        if result.error is not None:
            self.failures += 1
        elif result.obtained:
            self.failures = 0
        if result.refresh_in is not None:
            at = simulation.time + result.refresh_in
            self.tasks = [Task(early=True, at=at), *self.tasks]
        self._update_cache(result)
        self.protocol = None
        self._await_next_task()
