"""What happened in a schedule, as far as the invariants ask for it. Values without judgement."""

from __future__ import annotations

from attrs import define, field

from blink_oauth.errors import BlinkError
from blink_oauth_keeper.store.protocol import Record

__all__ = ["Facts", "Finished", "Flight", "Lease", "Presentation", "Received", "Written"]


@define(eq=False)
class Lease:
    """A claim that the store has committed.

    Attributes:
        token: The refresh token that it allows to present.
        at: When it was committed.
        until: When it ends.
        used: Whether something was sent under it.
    """

    token: str
    at: float
    until: float
    used: bool = False


@define(eq=False)
class Flight:
    """One run of a protocol.

    Attributes:
        name: The worker's, with a number.
        kind: `refresh`, `authorize` or `revoke`.
        leases: The claims that it was told of, or that were committed behind its back.
        broken: What ended it without a result: `crashed` or `closed`.
        wrote_at: The stored generation when it wrote last.
        store_failed: Whether the store has failed it.
    """

    name: str
    kind: str
    leases: list[Lease] = field(factory=list)
    broken: str | None = None
    wrote_at: int = 0
    store_failed: bool = False


@define(eq=False)
class Presentation:
    """A refresh token on its way to the bank.

    Attributes:
        token: The refresh token.
        flight: Who presents it.
        lease: The claim that allows it, or None.
        time_left: Seconds between the call's deadline and the end of the lease when it began.
        told: What the presenter was told, `known` or `unknown`; None if nothing.
        certainly_unspent: Whether what the presenter was told proves that nothing was spent.
        written_at: When what the presenter was told stood in the store.
        outlasted: Whether it reached the bank, or its pair was brought home, after the lease.
    """

    token: str
    flight: Flight
    lease: Lease | None
    time_left: float
    told: str | None = None
    certainly_unspent: bool = False
    written_at: float | None = None
    outlasted: bool = False


@define(eq=False)
class Received:
    """A pair that reached a worker."""

    pair: str
    flight: Flight


@define(eq=False)
class Written:
    """A change of the stored pair or of the state.

    Attributes:
        how: The step that did it.
        before: The record as it was, or None.
        after: The record as it is.
        before_live: Whether the bank would have taken the refresh token, which was never used.
        after_live: Whether the bank would take the refresh token now.
        live_left: Whether the journal has a pair of this consent that the bank would take.
        consent: The consent that the stored pair grew out of.
        newest_consent: The consent that was stored last.
    """

    how: str
    before: Record | None
    after: Record
    before_live: bool
    after_live: bool
    live_left: bool
    consent: int
    newest_consent: int


@define(eq=False)
class Finished:
    """How a flight ended.

    Attributes:
        flight: Which.
        record: The record that it brought home, or None.
        error: The error, or None.
        stored: The stored record when the flight wrote last, or None.
    """

    flight: Flight
    record: Record | None
    error: BlinkError | None
    stored: Record | None


@define(eq=False)
class Facts:
    """All that the invariants judge.

    Attributes:
        presentations: In the order in which they left.
        received: The pairs that reached somebody.
        kept: The pairs that were ever in the record or in the journal.
        written: The changes of the record.
        finished: The flights that ended by themselves.
        failures: What ended a flight and is neither a result nor a crash.
        restless: Workers that went on and on after all disturbances had ended.
        revoked: Pairs that were revoked at the bank, with the consent they grew out of and the
            newest consent that the revoking flight had seen.
        revocations: The consents up to which a flight has revoked all pairs, and forgotten them.
        disturbances: What the schedule did to the workers, by name.
        plain: Whether all that was wanted is a token in the place of one that has expired.
        given_up: Whether at the end the customer is asked for, over a pair that could be stored.
        alive: Whether at the end the bank would take the stored refresh token.
        left_alive: The consents with pairs that at the end the bank would still take.
    """

    presentations: list[Presentation] = field(factory=list)
    received: list[Received] = field(factory=list)
    kept: set[str] = field(factory=set)
    written: list[Written] = field(factory=list)
    finished: list[Finished] = field(factory=list)
    failures: list[str] = field(factory=list)
    restless: list[str] = field(factory=list)
    revoked: list[tuple[str, int, int]] = field(factory=list)
    revocations: list[int] = field(factory=list)
    disturbances: set[str] = field(factory=set)
    plain: bool = False
    given_up: bool = False
    alive: bool = False
    left_alive: set[int] = field(factory=set)
