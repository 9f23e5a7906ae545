"""The steps of the protocols, as values, with the input and the result of a run.

The return value of a step is sent into the protocol's generator; an error of the step is thrown
into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any

from attrs import field, frozen

from blink_oauth.context import Psu
from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Oddity, Secret, Token

from .clocks import Moment, time_gone
from .events import EventName
from .policy import Need
from .profile import TargetProfile
from .store.protocol import GrantKey, Note, Origin, Record, State

__all__ = [
    "AcquirePermit",
    "AddNote",
    "Claim",
    "Emit",
    "Erase",
    "ExchangeCode",
    "Fingerprint",
    "History",
    "Job",
    "Journal",
    "JournalEntries",
    "Load",
    "MarkRevoked",
    "Permit",
    "Publish",
    "Put",
    "Release",
    "Result",
    "Revoke",
    "Salvage",
    "Send",
    "Settle",
    "Step",
    "Steps",
    "Wait",
    "WriteBack",
]


@frozen
class Result:
    """The result of a flight, for all its callers.

    Attributes:
        record: The record as last known, or None.
        error: The error that ended the flight, or None.
        obtained: Whether this flight got the record's pair from the bank.
        stored_meanwhile: Whether the pair was stored after this flight first read the record.
        shared_for: Seconds for which later callers get the same error without a new flight.
        refresh_in: Seconds after which the manager starts another refresh by itself, or None.
    """

    record: Record | None = None
    error: BlinkError | None = None
    obtained: bool = False
    stored_meanwhile: bool = False
    shared_for: float = 0.0
    refresh_in: float | None = None


@frozen
class Permit:
    """Whether a target may be called: now, if both numbers are 0.

    Attributes:
        hold_off: Seconds during which the target must not be called, because it fails or sent
            `Retry-After`.
        wait: Seconds until the next permit may be acquired, because the target's rate is limited
            or this process has an unstored result of the grant.
    """

    hold_off: float = 0.0
    wait: float = 0.0


@frozen
class Load:
    """Read the record. Returns a Record or None."""


@frozen
class AcquirePermit:
    """Ask for permission to call the target. Returns a Permit."""


@frozen
class Claim:
    """Take the lease. Returns the claimed record, or None if the claim failed."""

    seen: Record
    owner: str


@frozen
class Send:
    """Present the refresh token, once. Returns a Token."""

    refresh_token: Secret


@frozen
class AddNote:
    """Add an entry to the history, which proves that the store takes changes."""

    note: Note


@frozen
class ExchangeCode:
    """Exchange the authorization code, once. Returns a Token."""


@frozen
class Fingerprint:
    """Return a keyed fingerprint of a refresh token for the history."""

    refresh_token: Secret


@frozen
class History:
    """Read the history. Returns its entries, the newest first."""


@frozen
class Settle:
    """Store the pair that was received under a claim. Returns a Settlement."""

    claim: Record
    token: Token
    issued_at: datetime
    idle_until: datetime | None
    state: State
    note: Note


@frozen
class Put:
    """Store the pair of a new consent. Returns a Record."""

    token: Token
    issued_at: datetime
    idle_until: datetime | None
    note: Note


@frozen
class Release:
    """Release the lease without a new pair. Returns whether it was still this owner's."""

    claim: Record
    state: State
    attempts: int
    pause: float
    error: str | None
    note: Note


@frozen
class Journal:
    """Store in the journal a pair that does not become the record's."""

    claim: Record
    token: Token
    origin: Origin


@frozen
class JournalEntries:
    """Read the journal. Returns its entries."""


@frozen
class Salvage:
    """Replace the refused pair by a superseded one. Returns the claim on it, a Record, or None."""

    claim: Record
    note: Note


@frozen
class MarkRevoked:
    """Mark the grant as revoked, perhaps as to be forgotten. Returns a Record or None."""

    note: Note
    forget: bool = False


@frozen
class Revoke:
    """Revoke a pair at the bank."""

    token: Token


@frozen
class Erase:
    """Delete the pairs of a revoked grant: that of its record, and some of its journal.

    A grant that is to be forgotten becomes a tombstone. Returns whether the record had not changed.
    """

    record: Record
    journaled: Sequence[Token]
    note: Note


@frozen
class WriteBack:
    """Replace a record by a newer one, if it is still as it was read. Returns it, or None."""

    known: Record
    seen: Record | None
    note: Note


@frozen
class Wait:
    """Let time pass. Returns True, or False if the flight must end since the manager is closing.

    Attributes:
        seconds: Seconds to wait.
        has_unstored_result: Whether a result is unstored; closing leaves time to store it.
    """

    seconds: float
    has_unstored_result: bool = False


@frozen
class Publish:
    """Publish a result before the protocol ends.

    Attributes:
        result: The result.
        to_callers: Whether the callers get it now; if not, it only updates the cache.
    """

    result: Result
    to_callers: bool = True


@frozen
class Emit:
    """Emit an event. With `oddities`, the executor chooses between the two events about them."""

    name: EventName
    record: Record | None = None
    error: BlinkError | None = None
    correlation_id: str | None = None
    seconds: float | None = None
    oddities: frozenset[Oddity] = frozenset()


Step = (
    Load
    | AcquirePermit
    | Claim
    | Send
    | AddNote
    | ExchangeCode
    | Fingerprint
    | History
    | Settle
    | Put
    | Release
    | Journal
    | JournalEntries
    | Salvage
    | MarkRevoked
    | Revoke
    | Erase
    | WriteBack
    | Wait
    | Publish
    | Emit
)


Steps = Generator[Step, Any, Result]
"""A run of a protocol: yields steps, is sent what each returns, and returns a Result."""


@frozen(kw_only=True)
class Job:
    """What a flight is about, and the input of its protocol.

    Attributes:
        key: The identity of the grant.
        profile: The profile of its target.
        need: What the token must fulfil.
        psu: The customer's device, or `Psu.AUTO`.
        actor: `psu` if the customer is present, otherwise `auto`; for the history.
        code: The authorization code, where one is to be exchanged.
        redirect_uri: The redirect URI of the code.
        adopted: The pair to adopt, where one is to be adopted.
        lease: Seconds that a lease lasts.
        call_timeout: Seconds that one call to the bank takes at most.
        max_wait: Seconds to wait at most for a lease or a permit.
        failures: Failed calls for this grant in a row before this one.
        now: Returns the current time, aware UTC.
        monotonic: Returns seconds of a clock that never goes back.
        random: Returns a number from 0 to below 1.
        new_owner: Returns a unique name for a claim.
        responded_ago: Returns the seconds since the bank last responded to this process, infinite
            if it is not known to respond.
        known: Returns the newest record of the grant that the process knows, or None.
    """

    key: GrantKey
    profile: TargetProfile
    need: Need = field(factory=Need)
    psu: Psu = Psu.AUTO
    actor: str = "auto"
    code: Secret | None = None
    redirect_uri: str = ""
    adopted: Token | None = None
    lease: float
    call_timeout: float
    max_wait: float
    failures: int = 0
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    new_owner: Callable[[], str]
    responded_ago: Callable[[], float] = lambda: math.inf
    known: Callable[[], Record | None] = lambda: None

    def moment(self) -> Moment:
        """Return the current moment by both clocks."""
        return Moment(self.now(), self.monotonic())

    def elapsed(self, since: Moment) -> float:
        """Return the most seconds that may have gone since a moment."""
        return time_gone(since, self.moment())
