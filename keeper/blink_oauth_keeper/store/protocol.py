"""The protocol of a token store, and its values.

A store has one record per grant, a journal and a history. The methods below say all that it has to
guarantee: of several claims at once one succeeds, `settle` compares the generation only, `release`
compares generation and owner. `TokenStoreContract` tests a store against these promises.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from attrs import field, frozen

from blink_oauth.arguments import GRANT, require_type
from blink_oauth.context import Grant
from blink_oauth.tokens import Oddity, Token

from .outbox import NewNotice, Notice, NoticeKind, OutboxEntry

__all__ = [
    "LONGEST_LEASE",
    "LONGEST_PAUSE",
    "DueQuery",
    "GrantKey",
    "HistoryEntry",
    "JournalEntry",
    "Note",
    "Origin",
    "Record",
    "Settlement",
    "State",
    "TokenStore",
    "is_revoked",
    "notable_oddities",
    "odd_detail",
    "oddities_in",
    "state_before",
]

LONGEST_LEASE = 30.0
"""Seconds; banks that allow a replay are assumed to allow it for that long."""
LONGEST_PAUSE = 86_400.0
"""Seconds; no pause is longer."""


@frozen(weakref_slot=False)
class GrantKey:
    """The key of a record: the client and the grant.

    Args:
        client_id: The service user's id in bLink's directory, such as `CIDX0000000002`.
        grant: The grant.

    Raises:
        InvalidInputError: A value has another type.
    """

    client_id: str
    grant: Grant

    def __attrs_post_init__(self) -> None:
        require_type("client_id", self.client_id, str, '"CIDX0000000002"')
        require_type("grant", self.grant, Grant, GRANT)


class State(StrEnum):
    """The state of a grant."""

    ACTIVE = "active"
    """The stored pair is usable, as far as is known."""
    REFRESHING = "refreshing"
    """The lease was taken, and its owner may be presenting the refresh token now."""
    UNCERTAIN = "uncertain"
    """The refresh token was presented, and it is unknown whether it is spent."""
    NEEDS_CONSENT = "needs_consent"
    """The bank refused the refresh token: the customer has to give a new consent."""
    REVOKING = "revoking"
    """We revoked the grant, and a token of it may still be valid at the bank."""
    REVOKED = "revoked"
    """We revoked the grant, and the bank has confirmed it."""
    FORGOTTEN = "forgotten"
    """We forgot the grant: the store has a tombstone of it, which does not name the customer."""
    NEEDS_ATTENTION = "needs_attention"
    """The bank keeps refusing to refresh, for a reason other than the refresh token: a person must
    look. Only in a status: the stored state is active or uncertain."""
    UNREADABLE = "unreadable"
    """No known key opens the stored pair. Only a `GrantStatus` has it: it is never stored."""


@frozen(kw_only=True, weakref_slot=False)
class Record:
    """The stored state of one grant, as it was when it was read.

    Attributes:
        key: The client and the grant.
        generation: The number of the pair. Each new pair adds one, and so does a revocation;
            nothing else does.
        consent: The number of the customer's consent, from 1.
        state: The state of the grant.
        token: The stored pair: a `Token` without `meta`. None after `erase`, and in the records of
            a listing.
        issued_at: When the request that returned the token was started, aware UTC.
        expires_at: When the access token expires by its response, aware UTC; None if that is
            unknown, or if no pair is stored. By default the token's.
        idle_until: When the refresh token expires if it is not used, aware UTC; None without a
            refresh token.
        attempts: Number of attempts with this refresh token, including one in progress. An attempt
            that is known not to have spent it is subtracted.
        owner: The owner of the lease, or of the last one. None after a success.
        lease_left: Seconds until the lease ends by the store's clock, 0 without a lease; never
            more than the lease had.
        pause_left: Seconds until a claim is possible again by the store's clock, 0 without a pause;
            never more than the pause had.
        error: The class name of the last error, None after a success. `SealError` with no token
            means that the pair cannot be opened.
        refusals: Number of refreshes in a row that the bank refused for a reason other than the
            refresh token, as `policy.with_refusal` counts them.
        refused_since: When the first of them was made, aware UTC, or None.
        forgetting: Whether the grant is revoked and to be forgotten, as `erase` does.
        notice: The kind of the last notice about the grant, or None. None also once a pair was
            stored after one that the grant has recovered.
        correlation_id: The correlation id of the last call for this grant, or None.
        oddities: In the records of a listing, the oddities of the pair as far as they are known
            without opening it. Empty elsewhere: the token has them.
        updated_at: When the record was last written, by the store's clock, aware UTC.
    """

    key: GrantKey
    generation: int
    consent: int
    state: State
    token: Token | None
    issued_at: datetime
    expires_at: datetime | None = field()
    idle_until: datetime | None
    attempts: int = 0
    owner: str | None = None
    lease_left: float = 0.0
    pause_left: float = 0.0
    error: str | None = None
    refusals: int = 0
    refused_since: datetime | None = None
    forgetting: bool = False
    notice: NoticeKind | None = None
    correlation_id: str | None = None
    oddities: frozenset[Oddity] = frozenset()
    updated_at: datetime

    @expires_at.default
    def _of_the_token(self) -> datetime | None:
        return self.token.expires_at if self.token else None


def is_revoked(record: Record) -> bool:
    """Return whether a grant was revoked, whether or not the bank has confirmed it."""
    return record.state in {State.REVOKING, State.REVOKED, State.FORGOTTEN}


def state_before(claim: Record) -> State:
    """Return the state to restore if nothing was spent under a claim."""
    return State.UNCERTAIN if claim.attempts > 1 else State.ACTIVE


@frozen
class Settlement:
    """The result of `settle`.

    Attributes:
        stored: Whether the record's pair is the received one. If not, the received pair is in the
            journal.
        record: The record as it is now, or None if the grant has none.
    """

    stored: bool
    record: Record | None


class Origin(StrEnum):
    """Why a pair is in the journal."""

    SUPERSEDED = "superseded"
    """A refresh returned it after the record's generation had changed."""
    REPLACED = "replaced"
    """A new consent, or a newer pair that was written back, replaced it in the record."""
    REFUSED = "refused"
    """The bank refused it, and `salvage` replaced it in the record."""
    ERROR = "error"
    """A response that reported a failure contained it."""
    FOREIGN = "foreign"
    """The response to a call for this grant had the correlation id of another request: the pair may
    be another customer's. It is neither salvaged nor revoked, and makes no revocation unfinished.
    It does not count when the journal is searched for a pair, except for another foreign one."""


@frozen(kw_only=True)
class JournalEntry:
    """A pair that was received and is not the record's.

    Attributes:
        key: The client and the grant.
        generation: The generation that the pair had, or would have had in the record.
        consent: The consent that the pair belongs to.
        origin: Why the pair is in the journal.
        token: The pair.
        at: When the entry was written, by the store's clock, aware UTC.
    """

    key: GrantKey
    generation: int
    consent: int
    origin: Origin
    token: Token
    at: datetime


@frozen(kw_only=True)
class Note:
    """What to write to the history of a grant about a change. Never contains a secret.

    Attributes:
        event: What happened, a name from `blink_oauth_keeper.EventName`.
        correlation_id: The correlation id of the call, or None.
        outcome: `done`, or the outcome of the error.
        detail: The class name of the error, `odd: ` and the oddities of the pair that was stored,
            the keyed fingerprint of an adopted refresh token, or another keyword, or None.
        actor: `psu` if the customer triggered the change, otherwise `auto`.
        notice: The notice to write together with the change, or None. `consent.recovered` is
            written only if the record's `notice` is one of `TROUBLES`. The history does not have
            the notice.
    """

    event: str
    correlation_id: str | None = None
    outcome: str = "done"
    detail: str | None = None
    actor: str = "auto"
    notice: NewNotice | None = None


ODD = "odd: "


def odd_detail(token: Token | None) -> str | None:
    """Return the `detail` of a note about a stored pair: its oddities, or None without any."""
    oddities = frozenset() if token is None else notable_oddities(token)
    return f"{ODD}{', '.join(sorted(oddities))}" if oddities else None


def oddities_in(detail: str | None) -> frozenset[Oddity]:
    """Return the oddities that `odd_detail` wrote; those of a newer version are ignored."""
    names = detail.removeprefix(ODD).split(", ") if detail and detail.startswith(ODD) else ()
    return frozenset(oddity for oddity in Oddity if oddity in names)


def notable_oddities(token: Token) -> frozenset[Oddity]:
    """Return the oddities of a pair that people should know of.

    A bank need not return a new refresh token (RFC 6749 section 6): the pair has the presented one.
    """
    allowed = {Oddity.REFRESH_TOKEN_MISSING} if token.refresh_token is not None else set()
    return token.oddities - allowed


@frozen(kw_only=True)
class HistoryEntry:
    """An entry in the history of a grant.

    Attributes:
        at: When the change was made, by the store's clock, aware UTC.
        generation: The generation after the change.
        note: What happened.
    """

    at: datetime
    generation: int
    note: Note


@frozen(kw_only=True)
class DueQuery:
    """Which records are due for a refresh before their refresh tokens expire.

    Attributes:
        client_id: The client of the records.
        before: The latest `idle_until` of a due record, aware.
        issued_before: A due record was issued before this time, aware; None for any time.
        max_attempts: The most `attempts` of a due record.
        targets: The targets to include; None for all.
        except_targets: The targets to leave out.
    """

    client_id: str
    before: datetime
    issued_before: datetime | None = None
    max_attempts: int = 0
    targets: Collection[str] | None = None
    except_targets: Collection[str] = field(default=())


class TokenStore(Protocol):
    """Stores pairs, journal and history. Any thread of any process may call the methods.

    Every method acts as one transaction, with three exceptions: in `claim_due` each claim is one,
    in `purge` each batch, and `settle` may use another one to add a pair to the journal. When a
    method returns, its effect is durable and visible to all processes. When it raises `StoreError`,
    it had no effect, or its effect is unknown; therefore `settle`, `release`, `journal`, `salvage`,
    `erase` and `write_back` must be safe to call again with the same arguments. Before `put` is
    repeated, the record must be read.

    A grant that was forgotten is a tombstone: client, target, generation, consent and two times,
    under a keyed pseudonym of the username, from which the name cannot be found without the key. No
    method writes the name again, except for a new consent, or for a pair that arrives late and must
    be revoked: then the grant is revoked and to be forgotten, until `erase` forgets it again.

    Leases and pauses run by the store's own clock, which all processes share. If that clock is set
    back, a lease lasts at most once more as long. Between two calls a store holds no lock and no
    transaction, and occupies no connection.

    All methods raise `StoreError` if the store is unavailable, and a subclass of it if a retry
    cannot help: for a missing key, or an unknown schema.
    """

    def load(self, key: GrantKey) -> Record | None:
        """Return the record of a grant, or None.

        The record of a tombstone has the given key, generation and consent, and the state
        `forgotten`.
        """

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        """Take the lease on a grant, and record that its refresh token may be spent.

        The claim succeeds only if generation and attempts are still those of `seen`, no lease and
        no pause is running, and the state is active, refreshing or uncertain. The state becomes
        `refreshing`, the attempts go up by one, the owner becomes `owner`, and the lease ends in
        `ttl` seconds. Of several callers that try at the same time, one succeeds.

        Args:
            seen: The record as it was read.
            owner: A new unique name for this claim.
            ttl: Seconds until the lease ends, at most `LONGEST_LEASE`.

        Returns:
            The record with the lease, or None if the claim failed.
        """

    def claim_due(self, query: DueQuery, *, owner: str, ttl: float, limit: int) -> list[Record]:
        """Take the leases on due records as `claim` does, the earliest `idle_until` first.

        Records that another transaction is claiming are skipped without a wait.

        Args:
            query: Which records.
            owner: A new unique name for these claims.
            ttl: Seconds until the leases end, at most `LONGEST_LEASE`.
            limit: The most claims to make. Records that cannot be claimed do not count.
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

        Only the generation is compared, not the owner. If it is still the claim's, the record gets
        the pair, the next generation, no attempts, no lease, no pause, no error and no refusals,
        even if another claim has the lease by now. If the generation has changed, the pair goes to
        the journal as `superseded`, or as `replaced` with the state `uncertain`, unless the record
        or the journal has it already. A tombstone becomes a revoked record that is to be forgotten.

        Args:
            claim: What `claim`, `claim_due` or `salvage` returned.
            token: The pair. `meta` is not stored, nor long or non-JSON members of `extra`.
            issued_at: When the request was started, aware UTC.
            idle_until: When the refresh token expires unused, aware UTC; None without one.
            note: For the history.
            state: `active`, or `uncertain` if the pair has the refresh token that was presented,
                which may be spent; the record then keeps its attempts.
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
        """Release a lease without a new pair.

        Generation and owner are compared: if either is no longer the claim's, nothing changes.

        Args:
            claim: What `claim`, `claim_due` or `salvage` returned, with the `refusals` and
                `refused_since` to store.
            state: `active`, `uncertain` or `needs_consent`.
            attempts: The number of attempts to store.
            pause: Seconds during which every claim fails, at most `LONGEST_PAUSE`.
            error: The class name of the error, or None.
            note: For the history.

        Returns:
            Whether generation and owner were still the claim's.
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
        """Store the pair of a new consent, in whatever state the record is.

        Generation and consent go up by one, so that a refresh in progress cannot replace the pair.
        The previous pair goes to the journal as `replaced`. If the same pair is stored already,
        nothing changes.

        Args:
            key: The client and the grant.
            token: The pair. `meta` is not stored, nor long or non-JSON members of `extra`.
            issued_at: When the request was started, aware UTC.
            idle_until: When the refresh token expires unused, aware UTC; None without one.
            note: For the history.
        """

    def write_back(self, known: Record, *, seen: Record | None, note: Note) -> Record | None:
        """Replace a record by a newer one: after the store went backwards, or by an adopted pair.

        It succeeds only if generation and attempts are still those of `seen`, or, without `seen`,
        if the grant has no record. The record gets generation, consent, state, attempts, pair and
        error of `known`, without lease and pause. The replaced pair goes to the journal as
        `replaced`, unless it is the same pair.

        Args:
            known: The newest record of the grant that the process knows, or has made.
            seen: The record as it was read, or None if there was none.
            note: For the history.

        Returns:
            The record as it is now, or None if it has changed since it was read.
        """

    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        """Mark a grant as revoked: its state becomes `revoking`. Its pair stays until `erase`.

        The generation goes up by one, so that a refresh in progress cannot change the record;
        lease, pause, attempts, error and refusals are cleared. If the grant is revoked already,
        nothing changes.

        With `forget` the grant is also marked as to be forgotten, even if it is revoked already. Of
        a grant without a record, or with a tombstone, the history and foreign pairs are deleted.

        Args:
            key: The client and the grant.
            note: For the history.
            forget: Whether `erase` is to forget the grant.

        Returns:
            The record as it is now, or None if the grant has none.
        """

    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        """Delete the pair of a revoked grant, and those of its journal that were revoked too.

        Nothing is deleted unless the generation is still the record's and the state is `revoking`
        or `revoked`. The state becomes `revoked`; the record itself and its history stay. A pair
        that came to the journal meanwhile stays, so that `revoking` returns the record.

        If the grant is to be forgotten, and no own pair stays, the same transaction deletes the
        history and the foreign pairs, and replaces the record by a tombstone.

        Args:
            record: What `mark_revoked` or `revoking` returned.
            journaled: The pairs of the journal to delete.
            note: For the history, unless the pair was erased before.

        Returns:
            Whether generation and state matched.
        """

    def revoking(self, client_id: str, *, limit: int) -> Sequence[Record]:
        """Return revoked records that still have a pair, or that are to be forgotten.

        The pair may be in the record or in the journal. Pairs of origin `foreign` do not count. The
        records are sorted by target and username.

        Args:
            client_id: The client of the records.
            limit: The most records to return.
        """

    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        """Add a pair to the journal under the record's next generation, unless it is there.

        A tombstone becomes a revoked record that is to be forgotten; but a foreign pair of a
        forgotten grant is not stored.
        """

    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        """Return the journal entries of a grant, the newest first."""

    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        """Replace the refused pair of a record by the newest superseded pair of the same consent.

        Generation and owner are compared. The pair leaves the journal and becomes the record's with
        the next generation and one attempt, under the same lease; the refused pair goes to the
        journal as `refused`. Pairs of origin `error` count as superseded here.

        Pairs without a refresh token, or with a refused one, are skipped. Pairs of an earlier
        generation are skipped too: they may be spent. If the generations directly before the
        record's were refused without a gap, pairs of those generations are not skipped.

        Returns:
            The claim on the new pair, or None if there is no such pair, or if generation or owner
            is no longer the claim's.
        """

    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        """Return due records that can be claimed now, the earliest `idle_until` first."""

    def unreadable(self, query: DueQuery) -> int:
        """Return the number of due records whose pair cannot be opened, claimable now or not.

        `due` and `claim_due` skip them. A record whose key is known counts once `claim_due` has
        failed to open it.
        """

    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Return the records of a client without their pairs, sorted by target and username.

        There are no tombstones among them. A pair that certainly cannot be opened gives its record
        the error `SealError`. `oddities` of a record are the `notable_oddities` of its pair. A
        store that would have to open the pair takes them from the history with `oddities_in`: a
        note of this generation has them,
        unless the pair was salvaged.

        Args:
            client_id: The client of the records.
            after: The key after which to start, for the next page.
            limit: The most records to return.
        """

    def add_note(self, key: GrantKey, *, note: Note) -> None:
        """Add an entry to the history of a grant, known or not, and change nothing else.

        A lease is not needed, and none is in the way. A tombstone gets no history: another change
        of it takes the place of the entry. Success proves that the store can keep the
        pair of a new consent, as far as a store can know.
        """

    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        """Return the history of a grant, the newest entry first."""

    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        """Write a notice about a grant whose record does not change otherwise.

        Nothing is written unless generation and `notice` of the record are still those of `seen`,
        or if the grant has a notice of this kind and generation. The record's `notice` becomes the
        kind. No lease is needed, and a lease of another owner does not prevent it.

        Args:
            seen: The record as it was read.
            notice: The notice.

        Returns:
            Whether the notice was written.
        """

    def add_certificate_notice(
        self, client_id: str, certificate: str, stage: int, notice: NewNotice
    ) -> bool:
        """Write a notice about a certificate, once for each stage of it.

        Args:
            client_id: The client.
            certificate: The SHA-256 hash of the certificate.
            stage: The number of the stage: a later one is greater.
            notice: The notice.

        Returns:
            Whether the notice was written.
        """

    def claim_notices(self, client_id: str, *, limit: int, ttl: float) -> Sequence[Notice]:
        """Claim notices to deliver now, and return them, the oldest first.

        Of each grant and of each certificate only the oldest notice that is neither delivered nor
        dead is returned. Each one counts a try. Unless `notice_delivered` or `notice_failed` is
        called, it can be claimed again after `ttl` seconds. Of several callers that try at the same
        time, one gets a notice.

        Args:
            client_id: The client.
            limit: The most notices to return.
            ttl: Seconds, at most `LONGEST_NOTICE_PAUSE`.
        """

    def notice_delivered(self, notice: Notice) -> None:
        """Note that a notice was delivered: it is not returned again."""

    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        """Note that the delivery of a notice failed.

        Nothing changes if the notice was delivered meanwhile, or was claimed again.

        Args:
            notice: What `claim_notices` returned.
            pause: Seconds until it is tried again, at most `LONGEST_NOTICE_PAUSE`; None if it is
                not: then it is dead, and does not hold up later ones.
            counts: Whether the claim stays counted as a try. False if the delivery was not begun.
        """

    def retry_notices(self, client_id: str) -> int:
        """Let all dead notices of a client be tried again now, and return their number."""

    def notices(self, client_id: str, *, limit: int = 100) -> Sequence[OutboxEntry]:
        """Return the notices of a client that are not delivered, the oldest first."""

    def purge(self) -> int:
        """Delete journal and history entries that are older than the store's retention.

        Notices, delivered or not, are kept as long as history entries.

        Small batches are deleted, so that other calls wait for one of them at most.

        Returns:
            The number of entries that were deleted.
        """

    def fingerprint(self, text: str) -> str:
        """Return a keyed fingerprint of a text for logs: short, and the same for the same text.

        It is the same in all processes that use the store, and stays the same when its keys change.
        """

    def close(self) -> None:
        """Close what the store itself has opened."""
