"""What happened in a schedule, as far as an invariant needs it. Values without decisions."""

from __future__ import annotations

from attrs import define, field

from blink_oauth.errors import BlinkError
from blink_oauth_keeper.store.outbox import NoticeKind
from blink_oauth_keeper.store.protocol import Record

__all__ = ["Facts", "Finished", "Flight", "Lease", "Presentation", "Received", "Written"]


@define(eq=False)
class Lease:
    """A claim that the store has committed.

    Attributes:
        token: The refresh token that may be presented under it.
        taken_at: Time of the commit, in seconds.
        ends_at: End of the lease, in seconds.
        used: Whether a request was sent under it.
    """

    token: str
    taken_at: float
    ends_at: float
    used: bool = False


@define(eq=False)
class Flight:
    """One run of the protocol.

    Attributes:
        name: The worker's name with a number.
        kind: `refresh`, `authorize`, `adopt`, `revoke`, `forget` or `finish`.
        leases: The committed claims, including those whose result was lost.
        ended_by: What ended the flight without a result: `crashed` or `closed`.
        store_failed: Whether a call to the store has failed.
    """

    name: str
    kind: str
    leases: list[Lease] = field(factory=list)
    ended_by: str | None = None
    store_failed: bool = False


@define(eq=False)
class Presentation:
    """A refresh token sent to the bank.

    Attributes:
        token: The refresh token.
        flight: The flight that presents it.
        lease: The claim that allows it, or None.
        time_left: Seconds between the request's deadline and the end of the lease at the start.
        certainty: Whether the flight's result determines the token's state: `known` or `unknown`;
            None before there is a result.
        certainly_unspent: Whether the flight's result proves that the token is not spent.
        written_at: Time at which the result was stored, in seconds.
        outlasted: Whether the request reached the bank, or its pair was settled, after the lease.
        expired: Whether the access token had expired, by the worker's clock, at the start.
        is_older: Whether the worker knew a newer record, or one with this attempt, at the start.
        is_counted: Whether the attempt stays counted, or consent is required because of it.
    """

    token: str
    flight: Flight
    lease: Lease | None
    time_left: float
    certainty: str | None = None
    certainly_unspent: bool = False
    written_at: float | None = None
    outlasted: bool = False
    expired: bool = False
    is_older: bool = False
    is_counted: bool = False


@define(eq=False)
class Received:
    """A pair that a worker received."""

    pair: str
    flight: Flight


@define(eq=False)
class Written:
    """A change of the stored pair or of the state.

    Attributes:
        how: Name of the step that made the change.
        before: The record before the change, or None.
        after: The record after the change.
        before_valid: Whether the bank would have accepted the replaced, unspent refresh token.
        after_valid: Whether the bank would accept the refresh token of `after`.
        valid_in_journal: Whether consent is required although the journal has a pair of this
            consent that the bank would accept.
        unrevoked: Access tokens of stored pairs that the bank would accept, although the record
            is revoked and no longer `revoking`.
        consent: Number of the consent that the stored pair comes from.
        newest_consent: Number of the consent that was stored last.
        last_notice: The kind of the newest notice of the grant in the outbox, or None.
    """

    how: str
    before: Record | None
    after: Record
    before_valid: bool
    after_valid: bool
    valid_in_journal: bool
    unrevoked: set[str]
    consent: int
    newest_consent: int
    last_notice: NoticeKind | None


@define(eq=False)
class Finished:
    """The end of a flight.

    Attributes:
        flight: The flight.
        record: The record that it returned, or None.
        error: The error, or None.
        stored: The stored record after the flight's last write, or None.
    """

    flight: Flight
    record: Record | None
    error: BlinkError | None
    stored: Record | None


@define(eq=False)
class Facts:
    """The input of the invariants.

    Attributes:
        presentations: The presentations, in the order in which they were sent.
        received: The pairs that workers received.
        ever_stored: Access tokens of the pairs that were ever in the record or in the journal.
        written: The changes of the record.
        finished: The flights that ended with a result.
        failures: Unexpected exceptions that ended a flight.
        endless_workers: Names of workers that did not finish after the faults had stopped.
        revoked: The pairs that were revoked at the bank, with the consent they come from and the
            newest consent that the revoking flight had seen.
        revocations: The consents up to which a flight has revoked and erased all pairs.
        faults: Names of the faults that were injected.
        others_responded: Whether the bank has responded to calls for other grants.
        expired_token_only: Whether all tasks are to replace one expired token.
        valid_pair_abandoned: Whether at the end consent is required although the journal has a
            pair that could be stored.
        refresh_token_valid: Whether at the end the bank would accept the stored refresh token.
        valid_consents: The consents of which the bank would still accept a pair at the end.
        forgotten: Names of running workers that know at the end a newer record than the store.
        unrevoked: Access tokens of stored pairs of a revoked grant that the bank would accept at
            the end.
        remembered: Whether at the end the store names the customer of a grant that was forgotten.
        notices: The notices at the end, the oldest first, by kind and generation.
    """

    presentations: list[Presentation] = field(factory=list)
    received: list[Received] = field(factory=list)
    ever_stored: set[str] = field(factory=set)
    written: list[Written] = field(factory=list)
    finished: list[Finished] = field(factory=list)
    failures: list[str] = field(factory=list)
    endless_workers: list[str] = field(factory=list)
    revoked: list[tuple[str, int, int]] = field(factory=list)
    revocations: list[int] = field(factory=list)
    faults: set[str] = field(factory=set)
    others_responded: bool = False
    expired_token_only: bool = False
    valid_pair_abandoned: bool = False
    refresh_token_valid: bool = False
    valid_consents: set[int] = field(factory=set)
    forgotten: list[str] = field(factory=list)
    unrevoked: set[str] = field(factory=set)
    remembered: bool = False
    notices: list[tuple[NoticeKind, int]] = field(factory=list)
