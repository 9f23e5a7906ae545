"""No operation runs during a fork, and none waits longer than it must."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from blink_oauth_keeper.processes import ForkGate
from keeper.harness import TIMEOUT, wait_until


def started(pool: ThreadPoolExecutor, gate: ForkGate) -> tuple[Future[None], threading.Event]:
    """Start an operation in another thread; return its future, and the event that ends it."""
    running, end = threading.Event(), threading.Event()

    def operate() -> None:
        with gate.operation():
            running.set()
            assert end.wait(TIMEOUT)

    future = pool.submit(operate)
    assert running.wait(TIMEOUT)
    return future, end


def test_a_fork_waits_for_the_operations_of_other_threads() -> None:
    gate = ForkGate()
    with ThreadPoolExecutor() as pool:
        _, end = started(pool, gate)
        fork = pool.submit(gate.close)
        with pytest.raises(TimeoutError):
            fork.result(0.05)
        end.set()
        fork.result(TIMEOUT)


def test_a_fork_waits_no_longer_than_its_timeout() -> None:
    gate = ForkGate(timeout=0.01)
    with ThreadPoolExecutor() as pool:
        operation, end = started(pool, gate)
        gate.close()
        assert not operation.done()
        end.set()


def test_an_operation_starts_after_all_forks_in_progress() -> None:
    gate = ForkGate()
    ran = threading.Event()

    def operate() -> None:
        with gate.operation():
            ran.set()

    gate.close()
    gate.close()
    with ThreadPoolExecutor() as pool:
        operation = pool.submit(operate)
        gate.open()
        assert not ran.wait(0.05)
        gate.open()
        operation.result(TIMEOUT)
    assert ran.is_set()


def test_a_fork_within_an_operation_waits_only_for_other_threads() -> None:
    gate = ForkGate()
    with gate.operation():
        gate.close()
        # An operation within the first one does not wait for the end of the fork.
        with gate.operation():
            pass
        gate.open()


def test_a_child_forgets_forks_and_operations_of_the_parents_other_threads() -> None:
    gate = ForkGate(timeout=1)
    with ThreadPoolExecutor() as pool, gate.operation():
        _, end = started(pool, gate)
        fork = pool.submit(gate.close)
        wait_until(fork.running)
        gate.reset()
        gate.close()
        gate.open()
        with ThreadPoolExecutor() as child:
            _, child_end = started(child, gate)
            child_end.set()
        end.set()
        gate.close()
