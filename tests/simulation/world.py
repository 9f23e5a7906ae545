"""The world of one schedule: its time, its store, its bank, and the facts that are written down."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, field

from blink_oauth.errors import BlinkError, RevocationError
from blink_oauth.tokens import Token
from blink_oauth_keeper import steps
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.store.memory import MemoryTokenStore
from blink_oauth_keeper.store.protocol import Note, Origin, Record, State
from blink_oauth_testing.sandbox.banks import Issued, Refusal

from .facts import Facts, Lease, Written
from .harness import CLIENT_ID, KEY, USERNAME, BankKind, Code, SimulatedBank, moment, new_bank
from .network import Fate

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["DEADLINE", "LEASE", "PATIENCE", "Director", "StoreFate", "World"]

LEASE, DEADLINE, PATIENCE = 25.0, 20.0, 30.0
"""Seconds, as in production."""
REDIRECT_URI = "https://app.example/callback"


class StoreFate(Enum):
    """What becomes of a call to the store."""

    DONE = "done"
    DOWN = "store down"
    REPLY_LOST = "done, reply lost"


class Director(Protocol):
    """Chooses whatever can go one way or the other."""

    def number(self) -> float:
        """Return a number from 0 to below 1."""

    def permit(self) -> steps.Permit:
        """Say whether the target may be called."""

    def send_fate(self, worker: Worker) -> Fate:
        """Choose what becomes of a refresh or an exchange."""

    def revoke_fate(self, worker: Worker) -> Fate:
        """Choose what becomes of a revocation."""

    def store_fate(self, worker: Worker) -> StoreFate:
        """Choose what becomes of a call to the store."""

    def holds(self, worker: Worker) -> bool:
        """Say whether the worker stands still before it is told a result."""

    def times_out(self, worker: Worker) -> bool:
        """Say whether a reply that comes after the deadline is not read any more."""


@define(eq=False)
class World:
    """Time, store and bank, shared by the workers.

    Attributes:
        kind: The bank's kind.
        code: The code under test.
        director: Chooses.
        trace: The steps in words, if they are wanted.
        time: Seconds since the beginning.
        stored: The stored record, as it was written last.
        changes: How often anything in the store has changed.
        effects: What has changed store or bank, in its order: two worlds with the same effects
            are the same.
        quiet_until: When the running lease or pause ends.
        orphans: Requests on the wire that nobody waits for any more.
        consent_of: The consent that a pair grew out of, by its access token.
        newest_consent: The consent that was stored last.
        rank: The store's number of a consent, once a pair of it was stored.
        authorizing: Who is just exchanging a code: a customer does one thing at a time.
    """

    kind: BankKind
    director: Director
    code: Code
    trace: list[str] | None = None
    time: float = 0.0
    bank: SimulatedBank = field(init=False)
    store: MemoryTokenStore = field(init=False)
    facts: Facts = field(init=False, factory=Facts)
    stored: Record | None = field(init=False, default=None)
    changes: int = 0
    effects: list[tuple[str, str, float]] = field(init=False, factory=list)
    quiet_until: float = 0.0
    down: bool = False
    orphans: list[str] = field(init=False, factory=list)
    spent: set[str] = field(init=False, factory=set)
    consent_of: dict[str, int] = field(init=False, factory=dict)
    consent_of_refresh: dict[str, int] = field(init=False, factory=dict)
    consents: int = 0
    newest_consent: int = 0
    rank: dict[int, int] = field(init=False, factory=dict)
    authorizing: Worker | None = None
    owners: int = 0

    def __attrs_post_init__(self) -> None:
        self.bank = new_bank(self.kind, lambda: self.time)
        self.store = self.code.store(clock=self.now)

    def now(self) -> datetime:
        """Tell the time of the store's clock."""
        return moment(self.time)

    def new_owner(self) -> str:
        """Name a claim."""
        self.owners += 1
        return f"owner-{self.owners}"

    def say(self, text: str) -> None:
        """Add a line to the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.time:8.2f}  {text}")

    def authorize_at_the_start(self, age: float) -> None:
        """Store a first pair, issued some seconds ago."""
        issued = self.exchange()
        assert isinstance(issued, Issued)
        issued_at = moment(self.time - age)
        token = Token(
            access_token=issued.access_token,
            refresh_token=issued.refresh_token,
            expires_at=moment(self.time - age + issued.expires_in),
        )
        note = Note(event="grant.authorized")
        self.store.put(KEY, token, issued_at=issued_at, idle_until=moment(1e7), note=note)
        self.wrote("Put", None)

    def exchange(self) -> Issued | Refusal:
        """Let the customer consent, and exchange the code."""
        code = self.bank.issue_code(CLIENT_ID, REDIRECT_URI, USERNAME)
        answer = self.bank.exchange_code(CLIENT_ID, code, REDIRECT_URI, USERNAME)
        if isinstance(answer, Issued):
            self.consents += 1
            self._issued(answer, self.consents)
        return answer

    def refresh(self, refresh_token: str) -> Issued | Refusal:
        """Let the bank execute a refresh."""
        self.effects.append(("refresh", refresh_token, self.time))
        answer = self.bank.refresh(CLIENT_ID, refresh_token, USERNAME)
        if isinstance(answer, Issued):
            if answer.refresh_token != refresh_token:
                self.spent.add(refresh_token)
            self._issued(answer, self.consent_of_refresh[refresh_token])
        return answer

    def _issued(self, answer: Issued, consent: int) -> None:
        self.consent_of[answer.access_token] = consent
        if answer.refresh_token is not None:
            self.consent_of_refresh[answer.refresh_token] = consent

    def revoke(self, token: Token, fate: Fate, seen: Record | None) -> BlinkError | None:
        """Let the bank execute a revocation, if it comes to it."""
        if fate is Fate.NOT_CONNECTED:
            return RevocationError("Nothing was revoked.")
        access = token.access_token.reveal()
        rank = self.rank.get(self.consent_of[access], 0)
        self.facts.revoked.append((access, rank, seen.consent if seen else 0))
        if token.refresh_token is not None:
            self.bank.revoke(CLIENT_ID, token.refresh_token.reveal(), USERNAME)
        self.bank.revoke(CLIENT_ID, access, USERNAME)
        return RevocationError("Nobody knows.") if fate is Fate.REPLY_LOST else None

    def withdraw(self) -> None:
        """Let the customer end all consents at the bank, where we are told nothing of it."""
        self.say("the customer withdraws all consents at the bank")
        self.facts.disturbances.add("withdrawn")
        self.bank.withdraw(CLIENT_ID, USERNAME)

    def is_live(self, token: Token | None) -> bool:
        """Say whether the bank would take the refresh token, for all we can know."""
        if token is None or token.refresh_token is None:
            return False
        text = token.refresh_token.reveal()
        return text not in self.spent and self.bank.accepts(text)

    def ask_store(self, worker: Worker, step: steps.Step) -> Any:
        """Do a step at the store.

        Raises:
            StoreError: The store is down, or its reply was lost.
        """
        fate = StoreFate.DOWN if self.down else self.director.store_fate(worker)
        if fate is not StoreFate.DONE:
            worker.flight.store_failed = True
            worker.remember(fate)
            self.facts.disturbances.add("store")
        if fate is StoreFate.DOWN:
            raise StoreError("The store cannot be reached.")
        way, writes = _WAYS[type(step)]
        result = way(self.store, step)
        if writes:
            self.wrote(type(step).__name__, worker, step, result)
        if fate is StoreFate.REPLY_LOST:
            raise StoreError("The reply of the store was lost.")
        return result

    def wrote(self, how: str, worker: Worker | None, step: Any = None, result: Any = None) -> None:
        """Compare the store with what it was, and write down what has changed."""
        before, after = self.stored, self.store.load(KEY)
        assert after is not None
        self.effects.append((how, worker.name if worker else "", self.time))
        if how in {"Settle", "Journal"}:
            entries = self.store.journal_entries(KEY)
            self.facts.kept.update(entry.token.access_token.reveal() for entry in entries)
        if worker is not None:
            worker.flight.wrote_at = after.generation
            worker.stored = after
            if (how == "Settle" or (how == "Release" and result)) and worker.presentation:
                worker.presentation.written_at = self.time
        if how in {"Claim", "Salvage"} and result is not None and worker is not None:
            self._leased(worker, result)
        if after is before:
            return
        self.stored = after
        self.changes += 1
        self.quiet_until = self.time + max(after.lease_left, after.pause_left)
        self._compare(how, before, after)

    def _leased(self, worker: Worker, claim: Record) -> None:
        worker.presentation = None
        assert claim.token is not None
        assert claim.token.refresh_token is not None
        token = claim.token.refresh_token.reveal()
        until = self.time + claim.lease_left
        worker.flight.leases.append(Lease(token, self.time, until))

    def _compare(self, how: str, before: Record | None, after: Record) -> None:
        same_pair = before is not None and before.token is after.token
        if same_pair and before is not None and before.state is after.state:
            return
        consent = 0
        if after.token is not None:
            access = after.token.access_token.reveal()
            self.facts.kept.add(access)
            consent = self.consent_of[access]
            if how == "Put":
                self.newest_consent = consent
                self.rank[consent] = after.consent
        written = Written(
            how,
            before,
            after,
            not same_pair and self.is_live(before.token if before else None),
            self.is_live(after.token),
            self._live_left(after),
            consent,
            self.newest_consent,
        )
        self.facts.written.append(written)

    def _live_left(self, record: Record, ahead: int = 0) -> bool:
        if record.state is not State.NEEDS_CONSENT:
            return False
        return any(
            entry.consent == record.consent
            and entry.origin in {Origin.SUPERSEDED, Origin.ERROR}
            and entry.generation >= record.generation + ahead
            and self.is_live(entry.token)
            for entry in self.store.journal_entries(KEY)
        )

    def conclude(self) -> None:
        """Write down how everything stands at the end."""
        record = self.stored
        assert record is not None
        self.facts.given_up = self._live_left(record, ahead=1)
        usable = record.state not in {State.REVOKED, State.NEEDS_CONSENT}
        self.facts.alive = usable and self.is_live(record.token)
        self.facts.left_alive = {
            self.rank[consent]
            for text, consent in self.consent_of_refresh.items()
            if self.bank.accepts(text) and text not in self.spent and consent in self.rank
        }


_Way = Callable[[MemoryTokenStore, Any], Any]
_WAYS: dict[type[steps.Step], tuple[_Way, bool]] = {
    steps.Load: (lambda store, _: store.load(KEY), False),
    steps.Claim: (lambda store, step: store.claim(step.seen, owner=step.owner, ttl=LEASE), True),
    steps.Settle: (
        lambda store, step: store.settle(
            step.claim,
            step.token,
            issued_at=step.issued_at,
            idle_until=step.idle_until,
            note=step.note,
            state=step.state,
        ),
        True,
    ),
    steps.Put: (
        lambda store, step: store.put(
            KEY,
            step.token,
            issued_at=step.issued_at,
            idle_until=step.idle_until,
            note=step.note,
        ),
        True,
    ),
    steps.Release: (
        lambda store, step: store.release(
            step.claim,
            state=step.state,
            attempts=step.attempts,
            pause=step.pause,
            error=step.error,
            note=step.note,
        ),
        True,
    ),
    steps.Journal: (
        lambda store, step: store.journal(step.claim, step.token, origin=step.origin),
        True,
    ),
    steps.JournalEntries: (lambda store, _: store.journal_entries(KEY), False),
    steps.Salvage: (lambda store, step: store.salvage(step.claim, note=step.note), True),
    steps.MarkRevoked: (lambda store, step: store.revoke(KEY, note=step.note), True),
    steps.Erase: (lambda store, step: store.erase(step.record), True),
}
