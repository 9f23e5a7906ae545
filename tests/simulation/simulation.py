"""The simulation of one schedule: its time, store and bank, and the facts that it records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, evolve, field

from blink_oauth.errors import BlinkError, RevocationError
from blink_oauth.tokens import Token, TokenKind
from blink_oauth_keeper import steps
from blink_oauth_keeper.errors import SealError, StoreError
from blink_oauth_keeper.events import EventName
from blink_oauth_keeper.store.memory import (
    MemoryTokenStore,
    NoticeName,
    StoredGrant,
    StoredNotice,
)
from blink_oauth_keeper.store.protocol import (
    GrantKey,
    Note,
    Origin,
    Record,
    Settlement,
    State,
    is_revoked,
)
from blink_oauth_testing.sandbox.banks import IssuedTokens, Refusal

from .facts import Facts, Lease, Written
from .harness import (
    CLIENT_ID,
    KEY,
    USERNAME,
    BankKind,
    Code,
    SimulatedBank,
    moment,
    new_bank,
    secret,
)
from .network import RequestFault, foreign_response

if TYPE_CHECKING:
    from .worker import Worker

Backup = tuple[dict[GrantKey, StoredGrant], dict[NoticeName, StoredNotice]]
"""A copy of what the store has: its grants and its outbox."""
ERASED = frozenset({State.REVOKED, State.FORGOTTEN})

__all__ = ["CALL_TIMEOUT", "LEASE", "MAX_WAIT", "Scheduler", "Simulation", "StoreFault"]

LEASE, CALL_TIMEOUT, MAX_WAIT = 25.0, 20.0, 30.0
"""Seconds, as in production."""
REDIRECT_URI = "https://app.example/callback"
PSEUDONYM_KEY = b"fake-pseudonym-key"


class StoreFault(Enum):
    """A fault of a call to the store, or none."""

    NONE = "no fault"
    UNREACHABLE = "store unreachable"
    RESULT_LOST = "done, result lost"


class Scheduler(Protocol):
    """Makes every choice of a schedule."""

    def random(self) -> float:
        """Return a number from 0 to below 1."""

    def permit(self) -> steps.Permit:
        """Return the permit to call the bank."""

    def others_respond(self) -> bool:
        """Return whether the bank has just responded to a call for another grant."""

    def send_fault(self, worker: Worker) -> RequestFault:
        """Choose the fault of a refresh or of a code exchange."""

    def revoke_fault(self, worker: Worker) -> RequestFault:
        """Choose the fault of a revocation."""

    def store_fault(self, worker: Worker) -> StoreFault:
        """Choose the fault of a call to the store."""

    def delays_result(self, worker: Worker) -> bool:
        """Return whether the worker pauses before it receives a result."""

    def times_out(self, worker: Worker) -> bool:
        """Return whether a response that comes after the deadline is ignored."""


@define(eq=False)
class Simulation:
    """Time, store and bank, shared by the workers.

    Attributes:
        kind: The bank's kind.
        scheduler: Makes the choices.
        code: The code under test.
        trace: Receives a text for each step, or None.
        time: Seconds since the beginning.
        stored: The stored record after the last write.
        kept: The pair that the application has kept itself, to be adopted.
        changes: Number of changes of the record.
        effects: The changes of store and bank in order: two simulations with equal effects are
            equal.
        blocked_until: End of the running lease or pause, in seconds.
        store_unavailable: Whether every call to the store fails.
        clock_step: Seconds by which the store's wall clock has been set forward.
        backups: What the store had after each write, the oldest first, if it may go backwards.
        sealed_anew: Access tokens of pairs that are sealed with a key that a worker may lack.
        access_of: The access token of each pair, by refresh token.
        stored_refresh: Refresh tokens that were ever in the record or in the journal.
        abandoned_requests: Refresh tokens of requests in transit whose sender does not wait.
        spent: Refresh tokens that the bank has accepted and replaced.
        consent_of: Number of the consent that a pair comes from, by access token.
        consent_of_refresh: The same by refresh token.
        consents: Number of consents that the customer has given.
        newest_consent: Number of the consent that was stored last.
        store_consents: The store's numbers of the consents of which a pair was stored.
        swapped: Number of revocations whose response was swapped.
        authorizing: The last worker that began an exchange: a customer does one thing at a time.
    """

    kind: BankKind
    scheduler: Scheduler
    code: Code
    trace: list[str] | None = None
    time: float = 0.0
    bank: SimulatedBank = field(init=False)
    store: MemoryTokenStore = field(init=False)
    grants: dict[GrantKey, StoredGrant] = field(init=False)
    outbox: dict[NoticeName, StoredNotice] = field(init=False)
    facts: Facts = field(init=False, factory=Facts)
    stored: Record | None = field(init=False, default=None)
    kept: Token | None = field(init=False, default=None)
    changes: int = 0
    effects: list[tuple[str, str, float]] = field(init=False, factory=list)
    blocked_until: float = 0.0
    store_unavailable: bool = False
    clock_step: float = 0.0
    backups: list[Backup] | None = None
    sealed_anew: set[str] = field(init=False, factory=set)
    access_of: dict[str, str] = field(init=False, factory=dict)
    stored_refresh: set[str] = field(init=False, factory=set)
    abandoned_requests: list[str] = field(init=False, factory=list)
    spent: set[str] = field(init=False, factory=set)
    consent_of: dict[str, int] = field(init=False, factory=dict)
    consent_of_refresh: dict[str, int] = field(init=False, factory=dict)
    consents: int = 0
    newest_consent: int = 0
    store_consents: dict[int, int] = field(init=False, factory=dict)
    authorizing: Worker | None = None
    owners: int = 0
    swapped: int = 0

    def __attrs_post_init__(self) -> None:
        self.bank = new_bank(self.kind, lambda: self.time)
        self._open_store({}, {})

    def _open_store(
        self, grants: dict[GrantKey, StoredGrant], outbox: dict[NoticeName, StoredNotice]
    ) -> None:
        self.grants, self.outbox = grants, outbox
        self.store = self.code.store(
            clock=self.now,
            monotonic=lambda: self.time,
            grants=grants,
            outbox=outbox,
            pseudonym_key=PSEUDONYM_KEY,
        )

    def now(self) -> datetime:
        """Return the time of the store's wall clock."""
        return moment(self.time + self.clock_step)

    def new_owner(self) -> str:
        """Return a new name for the owner of a claim."""
        self.owners += 1
        return f"owner-{self.owners}"

    def add_to_trace(self, text: str) -> None:
        """Add a text to the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.time:8.2f}  {text}")

    def store_first_pair(self, age: float) -> None:
        """Store a first pair.

        Args:
            age: Seconds since the pair was issued.
        """
        token, issued_at = self._first_pair(age), moment(self.time - age)
        note = Note(event="grant.authorized")
        self.store.put(KEY, token, issued_at=issued_at, idle_until=moment(1e7), note=note)
        self.record_write("Put", None)

    def keep_first_pair(self, age: float) -> None:
        """Leave a first pair with the application, to be adopted.

        Args:
            age: Seconds since the pair was issued.
        """
        self.kept = self._first_pair(age)

    def _first_pair(self, age: float) -> Token:
        issued = self.exchange()
        assert isinstance(issued, IssuedTokens)
        return Token(
            access_token=issued.access_token,
            refresh_token=issued.refresh_token,
            expires_at=moment(self.time - age + issued.expires_in),
        )

    def exchange(self) -> IssuedTokens | Refusal:
        """Let the customer consent, and exchange the code."""
        code = self.bank.issue_code(CLIENT_ID, REDIRECT_URI, USERNAME)
        issued = self.bank.exchange_code(CLIENT_ID, code, REDIRECT_URI, USERNAME)
        if isinstance(issued, IssuedTokens):
            self.consents += 1
            self._record_issued(issued, self.consents)
        return issued

    def refresh(self, refresh_token: str) -> IssuedTokens | Refusal:
        """Execute a refresh at the bank."""
        self.effects.append(("refresh", refresh_token, self.time))
        issued = self.bank.refresh(CLIENT_ID, refresh_token, USERNAME)
        if isinstance(issued, IssuedTokens):
            if issued.refresh_token != refresh_token:
                self.spent.add(refresh_token)
            self._record_issued(issued, self.consent_of_refresh[refresh_token])
        return issued

    def _record_issued(self, issued: IssuedTokens, consent: int) -> None:
        self.consent_of[issued.access_token] = consent
        if issued.refresh_token is not None:
            self.consent_of_refresh[issued.refresh_token] = consent
            self.access_of[issued.refresh_token] = issued.access_token

    def revoke(self, token: Token, fault: RequestFault, seen: Record | None) -> BlinkError | None:
        """Execute a revocation at the bank, unless there is no connection."""
        if fault is RequestFault.NOT_CONNECTED:
            return RevocationError("Nothing was revoked.")
        access = token.access_token.reveal()
        consent = self.store_consents.get(self.consent_of.get(access, 0), 0)
        self.facts.revoked.append((access, consent, seen.consent if seen else 0))
        if token.refresh_token is not None:
            self.bank.revoke(CLIENT_ID, token.refresh_token.reveal(), USERNAME)
        self.bank.revoke(CLIENT_ID, access, USERNAME)
        if fault is RequestFault.RESPONSE_LOST:
            return RevocationError("It is unknown whether anything was revoked.")
        if fault is RequestFault.FOREIGN:
            self.swapped += 1
            name = secret(f"access-token-{self.swapped}-swapped")
            error = foreign_response(IssuedTokens(name, None, 3_600))
            return RevocationError("Swapped.", errors={TokenKind.ACCESS_TOKEN: error})
        return None

    def withdraw_consents(self) -> None:
        """End all consents at the bank without notice to the client."""
        self.add_to_trace("the customer withdraws all consents at the bank")
        self.facts.faults.add("withdrawn")
        self.bank.withdraw(CLIENT_ID, USERNAME)

    def is_valid(self, token: Token | None) -> bool:
        """Return whether the bank would accept the refresh token and has never replaced it."""
        if token is None or token.refresh_token is None:
            return False
        text = token.refresh_token.reveal()
        return text not in self.spent and self.bank.accepts(text)

    def call_store(self, worker: Worker, step: steps.Step) -> Any:
        """Execute a step at the store.

        Raises:
            StoreError: The store is unavailable, or its result was lost.
        """
        fault = (
            StoreFault.UNREACHABLE if self.store_unavailable else self.scheduler.store_fault(worker)
        )
        if fault is not StoreFault.NONE:
            worker.flight.store_failed = True
            worker.remember(fault)
            self.facts.faults.add("store")
        if fault is StoreFault.UNREACHABLE:
            raise StoreError("The store cannot be reached.")
        if worker.lacks_key:
            self._check_keys(worker, step)
        call, writes = _STORE_CALLS[type(step)]
        result = call(self.store, step)
        if writes:
            note: Note | None = getattr(step, "note", None)
            is_adoption = note is not None and note.event == EventName.ADOPTED
            how = "Adopt" if is_adoption else type(step).__name__
            self.record_write(how, worker, step, result)
        if worker.seals_anew and isinstance(step, steps.Settle | steps.Put | steps.Journal):
            self.sealed_anew.add(step.token.access_token.reveal())
        if worker.lacks_key:
            result = self._opened(result)
        if fault is StoreFault.RESULT_LOST:
            raise StoreError("The result of the store was lost.")
        return result

    def _journaled(self) -> set[str]:
        """Return the access tokens of the pairs in the journal."""
        return {entry.token.access_token.reveal() for entry in self.store.journal_entries(KEY)}

    def _is_sealed_anew(self, token: Token | None) -> bool:
        return token is not None and token.access_token.reveal() in self.sealed_anew

    def _check_keys(self, worker: Worker, step: steps.Step) -> None:
        """Fail as the SQL store does for a worker that lacks the key of a pair.

        Raises:
            SealError: The step needs a pair that this worker cannot open.
        """
        if isinstance(step, steps.Salvage):
            found = [entry.token for entry in self.store.journal_entries(KEY)]
        elif isinstance(step, steps.Load | steps.MarkRevoked):
            found = [self.stored.token] if self.stored and self.stored.token else []
        else:
            return
        if any(map(self._is_sealed_anew, found)):
            self.facts.faults.add("key missing")
            error = SealError("The key of the pair is missing.")
            record = self.store.load(KEY)
            error.record = record and _unopened(record)
            if isinstance(step, steps.Salvage):
                # The flight waits for the key: without it, only a consent could help.
                worker.lacks_key = False
            raise error

    def _opened(self, result: Any) -> Any:
        """Return a result of the store as a worker gets it that lacks the key of some pairs."""
        if isinstance(result, Settlement) and result.record is not None:
            if self._is_sealed_anew(result.record.token):
                self.facts.faults.add("key missing")
                return evolve(result, record=_unopened(result.record))
        elif isinstance(result, list | tuple):
            return [entry for entry in result if not self._is_sealed_anew(entry.token)]
        return result

    def restore(self, draw: Callable[[], float], workers: Sequence[Worker]) -> None:
        """Restore the store from an earlier copy of it.

        Whether that is harmless depends on the workers: if none is refreshing and all know the
        newest record, nothing is forgotten.
        """
        if not self.backups or len(self.backups) < 2:
            return
        lost = self.stored
        assert lost is not None
        at_rest = lost.state is State.ACTIVE and not lost.attempts and not lost.lease_left
        known = all(worker.knows(lost) for worker in workers if not worker.has_crashed)
        self.facts.faults.add("restored" if at_rest and known else "forgotten")
        back = 1 + int(draw() * min(3, len(self.backups) - 1))
        del self.backups[-back:]
        self._open_store(*_copy(*self.backups[-1]))
        self.stored = self.store.load(KEY)
        assert self.stored is not None
        self.blocked_until = self.time + max(self.stored.lease_left, self.stored.pause_left)
        assert self.stored.token is not None
        self.newest_consent = self.consent_of[self.stored.token.access_token.reveal()]
        self.changes += 1
        self.effects.append(("restore", "", self.time))
        self.add_to_trace(f"the store goes back to generation {self.stored.generation}")

    @property
    def went_backwards(self) -> bool:
        """Whether the store was restored from an earlier copy."""
        return bool(self.facts.faults & {"restored", "forgotten"})

    def record_write(
        self, how: str, worker: Worker | None, step: Any = None, result: Any = None
    ) -> None:
        """Record what a call has changed in the store."""
        before, after = self.stored, self.store.load(KEY)
        if after is None:
            assert before is None
            return
        self.effects.append((how, worker.name if worker else "", self.time))
        if how in {"Settle", "Journal"}:
            entries = self.store.journal_entries(KEY)
            self.facts.ever_stored.update(entry.token.access_token.reveal() for entry in entries)
            for entry in entries:
                self._add_stored_refresh(entry.token)
        if self.backups is not None:
            self.backups.append(_copy(self.grants, self.outbox))
        if worker is not None:
            worker.stored = after
            if how == "Release" and result and worker.presentation:
                is_refused = step.state is State.NEEDS_CONSENT
                worker.presentation.is_counted = is_refused or step.attempts >= step.claim.attempts
            if (how == "Settle" or (how == "Release" and result)) and worker.presentation:
                worker.presentation.written_at = self.time
        if how in {"Claim", "Salvage"} and result is not None and worker is not None:
            self._record_lease(worker, result)
        if after is before:
            return
        self.stored = after
        self.changes += 1
        self.blocked_until = self.time + max(after.lease_left, after.pause_left)
        self._record_change(how, before, after)

    def _record_lease(self, worker: Worker, claim: Record) -> None:
        worker.presentation = None
        assert claim.token is not None
        assert claim.token.refresh_token is not None
        token = claim.token.refresh_token.reveal()
        until = self.time + claim.lease_left
        worker.flight.leases.append(Lease(token, self.time, until))

    def _record_change(self, how: str, before: Record | None, after: Record) -> None:
        same_pair = before is not None and before.token is after.token
        if same_pair and before is not None and before.state is after.state:
            return
        consent = 0
        if after.token is not None:
            access = after.token.access_token.reveal()
            self.facts.ever_stored.add(access)
            self._add_stored_refresh(after.token)
            consent = self.consent_of.get(access, 0)
            is_newer = how == "WriteBack" and consent > self.newest_consent
            if how in {"Put", "Adopt"} or is_newer:
                self.newest_consent = consent
                self.store_consents[consent] = after.consent
        written = Written(
            how,
            before,
            after,
            not same_pair and self.is_valid(before.token if before else None),
            self.is_valid(after.token),
            self._has_valid_entry(after),
            self._unrevoked(after) - self._journaled() if after.state in ERASED else set(),
            consent,
            self.newest_consent,
            next((name[1] for name in reversed(self.outbox)), None),
        )
        self.facts.written.append(written)

    def _names_the_customer(self) -> bool:
        stored = [(key, grant.record, grant.extras.journal) for key, grant in self.grants.items()]
        return USERNAME in repr(stored) or len(self.store.history(KEY)) > 0 or len(self.outbox) > 0

    def _has_valid_entry(self, record: Record, ahead: int = 0) -> bool:
        if record.state is not State.NEEDS_CONSENT:
            return False
        return any(
            entry.consent == record.consent
            and entry.origin in {Origin.SUPERSEDED, Origin.ERROR}
            and entry.generation >= record.generation + ahead
            and self.is_valid(entry.token)
            for entry in self.store.journal_entries(KEY)
        )

    def _add_stored_refresh(self, token: Token) -> None:
        if token.refresh_token is not None:
            self.stored_refresh.add(token.refresh_token.reveal())

    def _unrevoked(self, record: Record) -> set[str]:
        """Return the access tokens of stored pairs up to a consent that the bank would accept."""
        return {
            self.access_of[text]
            for text, consent in self.consent_of_refresh.items()
            if self.store_consents.get(consent, record.consent + 1) <= record.consent
            and text in self.stored_refresh - self.spent
            and self.bank.accepts(text)
        }

    def record_end(self, workers: Sequence[Worker]) -> None:
        """Record the state at the end of the schedule."""
        record = self.stored
        assert record is not None
        self.facts.forgotten = [
            worker.name
            for worker in workers
            if not worker.has_crashed and worker.knows_newer_than(record)
        ]
        if is_revoked(record):
            self.facts.unrevoked = self._unrevoked(record)
        self.facts.remembered = record.forgetting or (
            record.state is State.FORGOTTEN and self._names_the_customer()
        )
        self.facts.notices = [(kind, generation) for _, kind, generation in self.outbox]
        self.facts.valid_pair_abandoned = self._has_valid_entry(record, ahead=1)
        usable = not is_revoked(record) and record.state is not State.NEEDS_CONSENT
        self.facts.refresh_token_valid = usable and self.is_valid(record.token)
        self.facts.valid_consents = {
            self.store_consents[consent]
            for text, consent in self.consent_of_refresh.items()
            if self.bank.accepts(text) and text not in self.spent and consent in self.store_consents
        }


def _copy(grants: dict[GrantKey, StoredGrant], outbox: dict[NoticeName, StoredNotice]) -> Backup:
    return {key: evolve(grant) for key, grant in grants.items()}, dict(outbox)


def _unopened(record: Record) -> Record:
    return evolve(record, token=None, error=SealError.__name__)


_StoreCall = Callable[[MemoryTokenStore, Any], Any]
_STORE_CALLS: dict[type[steps.Step], tuple[_StoreCall, bool]] = {
    steps.Load: (lambda store, _: store.load(KEY), False),
    # It changes no record.
    steps.AddNote: (lambda store, step: store.add_note(KEY, note=step.note), False),
    steps.Fingerprint: (
        lambda store, step: store.fingerprint(step.refresh_token.reveal()),
        False,
    ),
    steps.History: (lambda store, _: store.history(KEY), False),
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
    steps.MarkRevoked: (
        lambda store, step: store.mark_revoked(KEY, note=step.note, forget=step.forget),
        True,
    ),
    steps.WriteBack: (
        lambda store, step: store.write_back(step.known, seen=step.seen, note=step.note),
        True,
    ),
    steps.Erase: (
        lambda store, step: store.erase(step.record, journaled=step.journaled, note=step.note),
        True,
    ),
}
