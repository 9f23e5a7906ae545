"""The protocol of a token store, and the values in it.

A store is a table with one row per grant, a journal and a history. What it has to guarantee is
little, and all of it is in the methods below: `claim` is won by one, `settle` goes by generation
alone, `release` by generation and owner. `TokenStoreContract` proves a store right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

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
    "TokenStore",
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
    """What became of a pair that was received.

    Attributes:
        stored: Whether the stored pair is the one that was received. If not, it is in the journal.
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


class TokenStore(Protocol):
    """Where tokens are kept. Methods may be called from any thread, and from many processes.

    Every method is one transaction: when it returns, its effect is durable and visible to
    everybody; when it raises `StoreError`, it had no effect, or nobody knows. For that second case
    `settle`, `put` and `release` do no harm when they are called again with the same arguments.
    Leases and pauses run by the store's own clock, which all processes share. A store keeps no
    lock, no transaction and no connection between two calls.

    All methods raise `StoreError` where the store cannot be reached, and its subclasses where
    another try cannot help: a wrong key, a schema that is not known.
    """

    def load(self, key: GrantKey) -> Record | None:
        """Return what is known of a grant, or None."""

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        """Take the lease on a grant, and write down that its refresh token may be spent.

        It is won only if generation and attempts are still those of `seen`, no lease and no pause
        is running, and the state is active, refreshing or uncertain. Then the state is
        `refreshing`, the attempts are one more, the owner is `owner` and the lease ends in `ttl`
        seconds. Of many that try at once, one wins.

        Args:
            seen: The record as it was read.
            owner: A new unique name for this claim.
            ttl: Seconds until the lease ends by itself.

        Returns:
            The record as it is now, lease included, or None if somebody else was first.
        """

    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        """Take the leases on due records as `claim` does, those first that are due first.

        Records that another transaction is just claiming are skipped, not waited for.

        Args:
            due: Which records. Records that could not be claimed do not count.
            owner: A new unique name for these claims.
            ttl: Seconds until the leases end by themselves.
            limit: How many at most.
        """

    def settle(
        self,
        claim: Record,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
        state: State = State.ACTIVE,
    ) -> Settlement:
        """Store the pair that was received under a claim.

        It goes by generation alone: if that is still the claim's, the pair becomes the record's,
        with the next generation, no attempts, no lease, no pause and no error, whoever holds the
        lease by now. If the generation has moved on, nothing is thrown away: the pair goes to the
        journal as `superseded`, unless it is the very pair that is stored already.

        Args:
            claim: What `claim`, `claim_due` or `salvage` returned.
            token: The pair. `meta` and `extra` are not stored.
            issued_at: When the request was started, aware UTC.
            idle_until: Until when the refresh token lives unused, aware UTC; None without one.
            note: For the history.
            state: `active`, or `uncertain` where the pair's refresh token is the one that was
                presented, and may be spent; then the record keeps its attempts.
        """

    def release(
        self,
        claim: Record,
        *,
        state: State,
        attempts: int,
        pause: float,
        error: str | None,
        note: Note,
    ) -> bool:
        """Give a lease back without a new pair.

        It goes by generation and owner: whoever lost the lease changes nothing.

        Args:
            claim: What `claim`, `claim_due` or `salvage` returned.
            state: `active`, `uncertain` or `needs_consent`.
            attempts: The number of attempts that the record is to have.
            pause: Seconds before the next claim may be won.
            error: The class of the error, or None.
            note: For the history.

        Returns:
            Whether the lease was still the claim's.
        """

    def put(
        self,
        key: GrantKey,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
    ) -> Record:
        """Store the pair of a new consent, whatever was there before.

        The generation and the consent go up by one, so that a refresh in flight loses. The pair
        that was there goes to the journal as `replaced`. If the very same pair is stored already,
        nothing changes.

        Args:
            key: Whose pair it is.
            token: The pair. `meta` and `extra` are not stored.
            issued_at: When the request was started, aware UTC.
            idle_until: Until when the refresh token lives unused, aware UTC; None without one.
            note: For the history.
        """

    def revoke(self, key: GrantKey, *, note: Note) -> Record | None:
        """Mark a grant as revoked, and keep its pair until `erase`.

        The generation goes up by one, so that a refresh in flight loses; lease, pause, attempts
        and error are cleared. A grant that is revoked already is left as it is.

        Returns:
            The record as it is now, or None if there is none.
        """

    def erase(self, record: Record) -> bool:
        """Forget the pair of a revoked grant, and everything the journal has of its consents.

        It goes by generation and by the state `revoked`. The record itself and its history stay.

        Returns:
            Whether it was still that record.
        """

    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        """Keep a pair that does not become the record's, under the record's next generation."""

    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        """Return what the journal holds of a grant, the newest first."""

    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        """Put the newest superseded pair of the same consent in the place of one that was refused.

        Pairs of an older generation do not count, but for those that came beside pairs which were
        refused one after the other: they were stored in their time.

        It goes by generation and owner. The pair leaves the journal and becomes the record's with
        the next generation and one attempt, under the same lease; the refused one goes to the
        journal as `refused`. Pairs of origin `error` count as superseded here.

        Returns:
            The claim on the new pair, or None if there is no such pair or the lease is lost.
        """

    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        """Return due records that could be claimed now, those first that are due first."""

    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Return the records of a client, sorted by target and username.

        Args:
            client_id: Whose records.
            after: Only those that come after this one, for the next page.
            limit: How many at most.
        """

    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        """Return the audit history of a grant, the newest first."""

    def purge(self) -> int:
        """Delete journal and history entries that are older than the store keeps them.

        Returns:
            How many were deleted.
        """

    def fingerprint(self, text: str) -> str:
        """Return what stands for a text in logs: short, keyed, the same for the same text."""

    def close(self) -> None:
        """Give back what the store itself has opened."""
