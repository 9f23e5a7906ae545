"""A process that makes random calls for shared grants until it is killed."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import parse_qs, urlsplit

from attrs import define, field, frozen

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import Event, EventName, TokenManager
from storm.processes import Pipe
from storm.shared_config import CUSTOMER, SharedConfig, ShiftedClock

__all__ = ["Customer", "Failed", "Happened", "Report", "Served", "accelerated", "main"]

THREADS = 3
SPEED = 60.0
"""Seconds that the clocks of the processes advance in one second."""
SKEW = 10.0
"""Seconds by which these clocks differ at most."""
ACTIONS = ("get",) * 60 + ("refresh",) * 35 + ("authorize",) * 3 + ("revoke",) * 2
PAUSE = 0.02
"""Seconds between two calls of a thread."""


@frozen
class Customer:
    """A grant, and where its customer consents.

    Attributes:
        grant: The grant.
        consent_url: A URL that redirects with a new authorization code.
        redirect_uri: Where it redirects to.
    """

    grant: Grant
    consent_url: str
    redirect_uri: str


@frozen
class Served:
    """A call has returned an access token."""

    grant: Grant
    access_token: str = field(repr=False)


@frozen
class Failed:
    """A call has raised an error."""

    grant: Grant
    error: str


@frozen
class Happened:
    """The manager has emitted an event."""

    name: EventName
    correlation_id: str | None


Report = Served | Failed | Happened


def accelerated(started: float, skew: float = 0.0) -> ShiftedClock:
    """Return a clock that has advanced `SPEED` times as fast since a time.

    Args:
        started: The time, in seconds since the epoch.
        skew: Further seconds ahead.
    """
    return ShiftedClock(SPEED * (time.time() - started) + skew)


@define(eq=False)
class Calls:
    """Makes random calls, and reports each result.

    Args:
        customers: The customers whose grants are used.
        clock: The clock of the manager, which each call sets anew.
        started: When the test was started, in seconds since the epoch.
        report: Sends a report to the test.
    """

    customers: Sequence[Customer]
    clock: ShiftedClock
    started: float
    report: Callable[[Report], None]
    stopped: threading.Event = field(init=False, factory=threading.Event)

    def run(self, manager: TokenManager, seed: str) -> None:
        """Make random calls until the process is stopped."""
        chance = random.Random(seed)
        while not self.stopped.wait(PAUSE):
            self.clock.ahead = accelerated(self.started, chance.uniform(0, SKEW)).ahead
            customer, action = chance.choice(self.customers), chance.choice(ACTIONS)
            if self.needs_consent_after(manager, customer, action):
                self.needs_consent_after(manager, customer, "authorize")

    def needs_consent_after(self, manager: TokenManager, customer: Customer, action: str) -> bool:
        """Make one call, report its result, and return whether only a new consent helps."""
        try:
            self.call(manager, customer, action)
        except BlinkError as error:
            self.report(Failed(customer.grant, type(error).__name__))
            return error.needs_consent
        return False

    def call(self, manager: TokenManager, customer: Customer, action: str) -> None:
        """Make one call."""
        if action == "authorize":
            consent(manager, customer)
        elif action == "revoke":
            manager.revoke(customer.grant)
        else:
            ask = manager.get if action == "get" else manager.refresh
            token = ask(customer.grant)
            self.report(Served(customer.grant, token.access_token.reveal()))


def consent(manager: TokenManager, customer: Customer) -> None:
    """Let the customer consent, and exchange the code."""
    url = urlsplit(customer.consent_url)
    assert url.hostname
    connection = HTTPConnection(url.hostname, url.port, timeout=30)
    connection.request("GET", f"{url.path}?{url.query}")
    location = connection.getresponse().headers["Location"]
    connection.close()
    [code] = parse_qs(urlsplit(location).query)["code"]
    manager.authorize(customer.grant, code=code, redirect_uri=customer.redirect_uri, psu=CUSTOMER)


def main(
    pipe: Pipe, config: SharedConfig, customers: Sequence[Customer], started: float, seed: str
) -> None:
    """Make random calls until the test sends a message, and report each result.

    Args:
        pipe: The pipe to the test.
        config: The shared configuration.
        customers: The customers whose grants are used.
        started: When the test was started, in seconds since the epoch.
        seed: The seed of the random choices.
    """
    # The test gets the events as reports.
    logging.disable()
    lock = threading.Lock()

    def report(result: Report) -> None:
        with lock:
            pipe.send(result)

    def listen(event: Event) -> None:
        report(Happened(event.name, event.correlation_id))

    calls = Calls(customers, accelerated(started), started, report)
    with (
        config.manager(calls.clock, on_event=listen) as manager,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        futures = [pool.submit(calls.run, manager, f"{seed} {n}") for n in range(THREADS)]
        # A thread ends early only by an error of another kind, which ends the process.
        while not pipe.poll(0.1) and not any(future.done() for future in futures):
            pass
        calls.stopped.set()
        for future in futures:
            future.result()
