"""The steps of the protocols, as values, and what a run of a protocol is given.

What a step returns is sent into the protocol's generator, an error that it raises is thrown into
it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any

from attrs import field, frozen

from blink_oauth.context import Psu
from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Secret, Token

from .events import EventName
from .policy import Need
from .profile import TargetProfile
from .store.protocol import GrantKey, Note, Origin, Record, State

__all__ = [
    "AcquirePermit",
    "Claim",
    "Emit",
    "Erase",
    "ExchangeCode",
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
]


@frozen
class Result:
    """What a flight brought those who wait for it.

    Attributes:
        record: The record as it was known at the end, or None.
        error: What went wrong, or None.
        obtained: Whether the flight itself got the record's token from the bank.
        newer: Whether another stored the record's token after the flight's first look.
        shared_for: Seconds for which this answer is good enough for others who ask.
        refresh_in: Seconds after which another refresh should be started, or None.
    """

    record: Record | None = None
    error: BlinkError | None = None
    obtained: bool = False
    newer: bool = False
    shared_for: float = 0.0
    refresh_in: float | None = None


@frozen
class Permit:
    """Whether a target may be called.

    Attributes:
        hold_off: Seconds to leave it alone, because it fails; 0 if it does not.
        queue: Seconds until it is our turn, because its rate is limited; 0 for now.
    """

    hold_off: float = 0.0
    queue: float = 0.0


@frozen
class Load:
    """Read the record. Returns a Record or None."""


@frozen
class AcquirePermit:
    """Ask for a turn at the target. Returns a Permit."""


@frozen
class Claim:
    """Take the lease. Returns a Record, or None if somebody else was first."""

    seen: Record
    owner: str


@frozen
class Send:
    """Present the refresh token, once. Returns a Token."""

    refresh_token: Secret


@frozen
class ExchangeCode:
    """Exchange the authorization code, once. Returns a Token."""


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
    """Give the lease back without a new pair. Returns whether it was still ours."""

    claim: Record
    state: State
    attempts: int
    pause: float
    error: str | None
    note: Note


@frozen
class Journal:
    """Keep a pair that does not become the record's."""

    claim: Record
    token: Token
    origin: Origin


@frozen
class JournalEntries:
    """Read the journal. Returns its entries."""


@frozen
class Salvage:
    """Put a superseded pair in the place of the refused one. Returns a Record or None."""

    claim: Record
    note: Note


@frozen
class MarkRevoked:
    """Mark the grant as revoked. Returns a Record or None."""

    note: Note


@frozen
class Revoke:
    """Revoke a pair at the bank."""

    token: Token


@frozen
class Erase:
    """Forget the pair of a revoked grant."""

    record: Record


@frozen
class Wait:
    """Let time pass. Returns False if there is no time left, because everything is closing.

    Attributes:
        seconds: How long.
        has_unsaved_result: Whether something was received that is not stored yet: then closing
            waits too.
    """

    seconds: float
    has_unsaved_result: bool = False


@frozen
class Publish:
    """Give those who wait a result. The protocol goes on.

    Attributes:
        result: What they get.
        done: Whether they go on at once; if not, the result is only put into the cache.
    """

    result: Result
    done: bool = True


@frozen
class Emit:
    """Say what happened."""

    name: EventName
    record: Record | None = None
    error: BlinkError | None = None
    correlation_id: str | None = None
    seconds: float | None = None


Step = (
    Load
    | AcquirePermit
    | Claim
    | Send
    | ExchangeCode
    | Settle
    | Put
    | Release
    | Journal
    | JournalEntries
    | Salvage
    | MarkRevoked
    | Revoke
    | Erase
    | Wait
    | Publish
    | Emit
)


Steps = Generator[Step, Any, Result]
"""A run of a protocol: yields steps, is sent what they return, returns its result."""


@frozen(kw_only=True)
class Job:
    """What a flight is about, and what its protocol is given.

    Attributes:
        key: Whose token.
        profile: What is known of the target.
        need: What is wanted of the token.
        psu: The person behind it, or `Psu.AUTO`.
        actor: `psu` if a person waits for it, otherwise `auto`; for the history.
        code: The authorization code, where one is to be exchanged.
        redirect_uri: The redirect URI of the code.
        lease: Seconds that a lease lasts.
        deadline: Seconds that one call to the bank takes at most.
        max_wait: Seconds to wait for somebody else's refresh.
        failures: Failures of this grant in a row before this flight.
        now: Tells the time, aware UTC.
        monotonic: Tells the seconds, never backwards.
        random: Makes a number from 0 to below 1.
        new_owner: Makes a unique name for a claim.
    """

    key: GrantKey
    profile: TargetProfile
    need: Need = field(factory=Need)
    psu: Psu = Psu.AUTO
    actor: str = "auto"
    code: Secret | None = None
    redirect_uri: str = ""
    lease: float
    deadline: float
    max_wait: float
    failures: int = 0
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    new_owner: Callable[[], str]
