"""What a store knows of a grant: values without behaviour of their own."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

from attrs import field, frozen

from blink_oauth.context import Grant
from blink_oauth.tokens import Token

__all__ = [
    "Due",
    "GrantKey",
    "HistoryEntry",
    "JournalEntry",
    "Note",
    "Origin",
    "Record",
    "Settlement",
    "State",
    "state_before",
]


@frozen(weakref_slot=False)
class GrantKey:
    """Whose token it is: the identity that a store keeps a token under.

    Args:
        client_id: The service user's id in bLink's directory, such as `CIDX0000000002`.
        grant: The grant.
    """

    client_id: str
    grant: Grant


class State(StrEnum):
    """Where a grant stands."""

    ACTIVE = "active"
    """The stored pair is good as far as is known."""
    REFRESHING = "refreshing"
    """Somebody holds the lease and may be presenting the refresh token right now."""
    UNCERTAIN = "uncertain"
    """The refresh token was presented and nobody knows whether it is spent."""
    NEEDS_CONSENT = "needs_consent"
    """The bank refused the refresh token: only the customer can help."""
    REVOKED = "revoked"
    """We revoked the grant."""


@frozen(kw_only=True, weakref_slot=False)
class Record:
    """What a store knows of one grant at the moment it was read.

    Attributes:
        key: Whose token it is.
        generation: Counts what was stored: each new pair adds one, and so does a revocation.
            Nothing else does.
        consent: Counts the customer's consents, from 1.
        state: Where the grant stands.
        token: The stored pair, without `meta` and `extra`. None once a revocation is confirmed.
        issued_at: When the request that brought the token was started, aware UTC.
        idle_until: Until when the refresh token lives if nobody uses it, aware UTC; None without
            a refresh token.
        attempts: How often the refresh token of this generation was presented, or is about to be,
            without an answer that says it is unspent.
        owner: Who holds the lease, or held it last. None after a success.
        lease_left: Seconds that the lease still runs by the store's clock, 0 if there is none.
        pause_left: Seconds to wait before another attempt by the store's clock, 0 for none.
        error: The class of the last error, None after a success.
        correlation_id: The id of the last call for this grant, or None.
        updated_at: When the record was last written, by the store's clock, aware UTC.
    """

    key: GrantKey
    generation: int
    consent: int
    state: State
    token: Token | None
    issued_at: datetime
    idle_until: datetime | None
    attempts: int = 0
    owner: str | None = None
    lease_left: float = 0.0
    pause_left: float = 0.0
    error: str | None = None
    correlation_id: str | None = None
    updated_at: datetime


def state_before(claim: Record) -> State:
    """Return the state that a grant had before a claim under which nothing was spent."""
    return State.UNCERTAIN if claim.attempts > 1 else State.ACTIVE


@frozen
class Settlement:
    """What became of a pair that was brought home.

    Attributes:
        stored: Whether the stored pair is the one that was brought. If not, it is in the journal.
        record: The record as it is now, or None if the grant is not in the store any more.
    """

    stored: bool
    record: Record | None


class Origin(StrEnum):
    """Why a pair is in the journal and not in the record."""

    SUPERSEDED = "superseded"
    """It came from a refresh while another pair had been stored meanwhile."""
    REPLACED = "replaced"
    """A new consent put another pair in its place."""
    REFUSED = "refused"
    """The bank refused it, and a superseded pair was tried in its place."""
    ERROR = "error"
    """It came in a response that said the call had failed."""


@frozen(kw_only=True)
class JournalEntry:
    """A pair that was received and is not the stored one.

    Attributes:
        key: Whose token it is.
        generation: The generation that it would have become, or was.
        consent: The consent it grew out of.
        origin: Why it is here.
        token: The pair.
        at: When it was written, by the store's clock, aware UTC.
    """

    key: GrantKey
    generation: int
    consent: int
    origin: Origin
    token: Token
    at: datetime


@frozen(kw_only=True)
class Note:
    """What the audit history is to say of a change. Never holds a secret.

    Attributes:
        event: What happened, a name from `blink_oauth_keeper.EventName`.
        correlation_id: The call it belongs to, or None.
        outcome: `done`, or the outcome of the error.
        detail: The class of the error or another word on it, or None.
        actor: `psu` where a person triggered it, otherwise `auto`.
    """

    event: str
    correlation_id: str | None = None
    outcome: str = "done"
    detail: str | None = None
    actor: str = "auto"


@frozen(kw_only=True)
class HistoryEntry:
    """One line of the audit history of a grant.

    Attributes:
        at: When, by the store's clock, aware UTC.
        generation: The generation after the change.
        note: What happened.
    """

    at: datetime
    generation: int
    note: Note


@frozen(kw_only=True)
class Due:
    """Which records are due to be kept alive.

    Attributes:
        client_id: Whose records.
        before: Those whose `idle_until` is not later than this, aware.
        max_attempts: Those whose refresh token was doubtfully presented at most so often.
        targets: Only those of these targets; None for all.
        except_targets: None of these targets.
    """

    client_id: str
    before: datetime
    max_attempts: int = 0
    targets: Collection[str] | None = None
    except_targets: Collection[str] = field(default=())
