"""Processes that make random calls and are killed at random moments."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import count

from attrs import define, evolve, field, frozen

from blink_oauth import BlinkError
from blink_oauth_keeper import Event, EventName, TokenManager
from blink_oauth_keeper.store.protocol import GrantKey
from blink_oauth_testing.sandbox import BankPolicy, Exchange, Sandbox
from crash.evidence import Evidence, token_request
from crash.random_calls import Customer, Failed, Happened, Report, Served, accelerated, main
from storm.callers import wait_until
from storm.processes import Worker, running_process
from storm.shared_config import SharedConfig, authorize

__all__ = ["Harness", "Outcome", "running_sandbox"]

PROCESSES = 3
LONGEST_DELAY = 0.6
"""Seconds from the first report of a process until it is killed, at most."""
TOTAL, LEASE = 4.0, 5.0
"""Seconds."""
CUSTOMERS = 8
"""Customers of each bank."""
STRICT = BankPolicy(
    "IIDX00001", "Musterbank Streng", access_token_lifetime=60.0, response_delay=0.03
)
BANKS = (STRICT, evolve(STRICT, target_id="IIDX00002"))
"""They rotate, and reuse ends the consent. On the processes' clocks a minute lasts a second."""
LATE = 2 * 3_600.0
"""Seconds ahead at the end: each access token has expired, and no last attempt must wait."""
EXPECTED_ERRORS = frozenset(
    {
        "ConsentNeededError",
        "InvalidGrantError",
        "RefreshPausedError",
        "RefreshPendingError",
        "RefreshUncertainError",
    }
)
"""What a caller may get after a kill or a revocation."""


def running_sandbox() -> Sandbox:
    """Return a sandbox with two strict banks."""
    return Sandbox(banks=BANKS, validate=False)


@define(eq=False)
class Process:
    """A process that makes random calls, and its reports."""

    name: str
    worker: Worker
    reports: list[Report] = field(factory=list)

    def is_running(self) -> bool:
        """Return whether the process has not ended."""
        return self.worker.process.is_alive()

    def receive(self) -> None:
        """Receive the reports that have arrived."""
        try:
            while self.worker.pipe.poll():
                self.reports.append(self.worker.pipe.recv())
        except (EOFError, OSError):
            # The process was killed, perhaps within a report.
            return


@frozen
class Outcome:
    """What a run has shown.

    Attributes:
        violations: Every way in which the promise was broken, in words.
        figures: The figures of the run, by name.
    """

    violations: Sequence[str]
    figures: Mapping[str, int]


@define(eq=False)
class Harness:
    """Starts and kills the processes, and collects the evidence.

    Args:
        sandbox: The running sandbox.
        database: The URL of the database.
        seed: The seed of the random choices.
    """

    sandbox: Sandbox
    database: str
    seed: int
    chance: random.Random = field(init=False)
    config: SharedConfig = field(init=False)
    customers: list[Customer] = field(init=False)
    numbers: Iterator[int] = field(init=False, factory=count)
    started: float = field(init=False, factory=time.time)
    finished: list[Process] = field(init=False, factory=list)
    killed: dict[str, float] = field(init=False, factory=dict)
    exchanges: dict[object, Exchange] = field(init=False, factory=dict)
    own_reports: list[Report] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.config = SharedConfig.for_sandbox(
            self.sandbox, self.database, total=TOTAL, lease=LEASE
        )
        self.customers = [
            self._customer(bank.target_id, number) for bank in BANKS for number in range(CUSTOMERS)
        ]

    def _customer(self, target_id: str, number: int) -> Customer:
        grant = self.sandbox.grant(target_id, f"u-{number}")
        redirect_uri = self.sandbox.redirect_uri
        url = self.sandbox.authorize_url(grant, redirect_uri, "state")
        return Customer(grant, url, redirect_uri)

    def run(self, kills: int) -> Outcome:
        """Kill random processes while they make calls, and return what that has shown."""
        with self.manager() as manager:
            for customer in self.customers:
                authorize(manager, self.sandbox, customer.grant)
        with ExitStack() as stack:
            places = [stack.enter_context(ExitStack()) for _ in range(PROCESSES)]
            running = [self.start(place) for place in places]
            for _ in range(kills):
                number = self.chance.randrange(PROCESSES)
                self.kill(running[number], running)
                places[number].close()
                running[number] = self.start(places[number])
            self.stop(running)
        with self.manager(LATE) as manager, ThreadPoolExecutor(len(self.customers)) as pool:
            ways = list(pool.map(lambda each: self.recover(manager, each), self.customers))
        self.collect()
        return self.outcome(Counter(ways))

    @contextmanager
    def manager(self, skew: float = 0.0) -> Iterator[TokenManager]:
        """Yield a manager in the process of the test, which is never killed."""

        def listen(event: Event) -> None:
            self.own_reports.append(Happened(event.name, event.correlation_id))

        clock = accelerated(self.started, skew)
        with self.config.manager(clock, on_event=listen) as manager:
            yield manager

    def start(self, place: ExitStack) -> Process:
        """Start a process, which the stack ends; its `User-Agent` names it."""
        name = f"kills/{next(self.numbers)}"
        environment = self.config.environment | {"BLINK_USER_AGENT": name}
        config = evolve(self.config, environment=environment)
        worker = place.enter_context(
            running_process(main, config, self.customers, self.started, f"{self.seed} {name}")
        )
        return Process(name, worker)

    def receive(self, running: Sequence[Process], until: Callable[[], object]) -> None:
        """Receive the reports of all processes until a condition is true."""

        def is_met() -> object:
            for process in running:
                process.receive()
            return until()

        wait_until(is_met, pause=0.005)

    def kill(self, process: Process, running: Sequence[Process]) -> None:
        """Kill a process at a random moment; the store can be read afterwards."""
        # A process that has made no call yet would leave nothing behind.
        self.receive(running, until=lambda: process.reports)
        moment = time.monotonic() + self.chance.uniform(0.0, LONGEST_DELAY)
        self.receive(running, until=lambda: time.monotonic() > moment)
        assert process.is_running(), "the process has ended by an error"
        process.worker.kill()
        self.killed[process.name] = time.time()
        self.end(process)
        with closing(self.config.store()) as store:
            assert all(store.load(self.key(customer)) for customer in self.customers)

    def stop(self, running: Sequence[Process]) -> None:
        """Let all processes finish their calls."""
        for process in running:
            process.worker.send("stop")
        self.receive(running, until=lambda: not any(map(Process.is_running, running)))
        for process in running:
            assert process.worker.join() == 0
            self.end(process)

    def end(self, process: Process) -> None:
        """Receive the last reports of a process, and collect the exchanges until now."""
        process.receive()
        self.finished.append(process)
        self.collect()

    def collect(self) -> None:
        """Collect new exchanges; the sandbox keeps the newest only."""
        self.exchanges |= {
            (each.correlation_id, each.form): each for each in self.sandbox.exchanges
        }

    def recover(self, manager: TokenManager, customer: Customer) -> str:
        """Ask until a call returns a token; return `token`, `consent`, or what is wrong."""
        way = "token"
        bank = self.sandbox.banks[customer.grant.target_id]

        def recovered() -> str | None:
            nonlocal way
            try:
                token = manager.refresh(customer.grant)
            except BlinkError as error:
                if error.needs_consent:
                    way = "consent"
                    authorize(manager, self.sandbox, customer.grant)
                return None
            self.own_reports.append(Served(customer.grant, token.access_token.reveal()))
            pair = (token.access_token, token.refresh_token)
            accepted = all(secret and bank.accepts(secret.reveal()) for secret in pair)
            return way if accepted else f"the bank refuses the pair of {customer.grant}"

        try:
            return wait_until(recovered, pause=0.1)
        except AssertionError as error:
            return f"no token for {customer.grant}: {error}"

    def key(self, customer: Customer) -> GrantKey:
        """Return the key of a grant's record."""
        return GrantKey(self.config.client_id, customer.grant)

    @property
    def reports(self) -> list[Report]:
        """The reports of all processes, and of the test's own."""
        return [each for process in self.finished for each in process.reports] + self.own_reports

    def outcome(self, ways: Counter[str]) -> Outcome:
        """Return what the run has shown."""
        evidence, reports = self.evidence(), self.reports
        reuses = sum(bank.reuses for bank in self.sandbox.banks.values())
        errors = Counter(each.error for each in reports if isinstance(each, Failed))
        violations = [*evidence.violations, *self.crossings(reports)]
        violations += [f"raised: {error}" for error in errors if error not in EXPECTED_ERRORS]
        violations += [way for way in ways if way not in {"token", "consent"}]
        if reuses != evidence.reuses:
            violations.append(f"the banks count {reuses} reuses, the requests {evidence.reuses}")
        names = Counter(each.name for each in reports if isinstance(each, Happened))
        interrupted = evidence.interrupted
        figures = {
            "kills": len(self.killed),
            "kills between request and store": len({each.process for each in interrupted}),
            "requests without a stored outcome": len(interrupted),
            "refreshes": sum(bank.refreshes for bank in self.sandbox.banks.values()),
            "replays": names[EventName.REPLAYED],
            "reuses": reuses,
            "reuses that a kill explains": evidence.explained_reuses,
            "authorizations": names[EventName.AUTHORIZED],
            "revocations": names[EventName.REVOKED],
            "tokens served": sum(isinstance(each, Served) for each in reports),
            "consents needed at the end": ways["consent"],
            **errors,
            "violations": len(violations),
        }
        return Outcome(violations, figures)

    def evidence(self) -> Evidence:
        """Return what is known about all token requests."""
        histories, reported = defaultdict(set), defaultdict(set)
        with closing(self.config.store()) as store:
            for customer in self.customers:
                for entry in store.history(self.key(customer), limit=100_000):
                    if entry.note.correlation_id:
                        histories[entry.note.correlation_id].add(EventName(entry.note.event))
        for each in self.reports:
            if isinstance(each, Happened) and each.correlation_id:
                reported[each.correlation_id].add(each.name)
        requests = [each for each in self.exchanges.values() if each.operation == "request_token"]
        revocations = [each for each in self.exchanges.values() if each.operation == "revoke_token"]
        return Evidence(
            requests=[token_request(each) for each in requests],
            revoked=frozenset(dict(each.form)["token"] for each in revocations),
            histories={key: frozenset(names) for key, names in histories.items()},
            reported={key: frozenset(names) for key, names in reported.items()},
            killed=self.killed,
            lease=LEASE,
        )

    def crossings(self, reports: Sequence[Report]) -> Iterator[str]:
        """Yield each access token that was served for another customer than its own."""
        for served in {each for each in reports if isinstance(each, Served)}:
            bank = self.sandbox.banks[served.grant.target_id]
            for customer in self.customers:
                # A bank refuses to revoke a token under another username than its customer's.
                if customer.grant.username != served.grant.username and not bank.revoke(
                    self.config.client_id, served.access_token, customer.grant.username
                ):
                    yield f"served for another customer: {served}"
