"""What must hold in every schedule. Each invariant is a function of the facts: None, or what broke.

A presentation is a refresh token that has left for the bank. It does not count where the presenter
was told something that proves the token unspent: that no connection was made, or that the server
refused the call without a look at the token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise

from blink_oauth.errors import BlinkError
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.store.protocol import State

from .facts import Facts, Presentation
from .harness import BankKind
from .network import Fate

__all__ = ["ALWAYS", "Invariant", "broken"]

Invariant = Callable[[Facts, BankKind], str | None]
EPSILON = 1e-6


def _by_token(facts: Facts) -> Iterable[list[Presentation]]:
    by_token: dict[str, list[Presentation]] = defaultdict(list)
    for one in facts.presentations:
        if not one.certainly_unspent:
            by_token[one.token].append(one)
    return by_token.values()


def no_refresh_token_is_presented_more_than_twice(facts: Facts, kind: BankKind) -> str | None:
    """The policy's one replay is all there is, unless the bank does not rotate."""
    if len(facts.presentations) < 3 or not kind.policy.rotates:
        return None
    for group in _by_token(facts):
        if len(group) > 2:
            return f"{group[0].token} was presented {len(group)} times"
    return None


def a_second_presentation_needs_a_doubt(facts: Facts, kind: BankKind) -> str | None:
    """The first presenter does not know what came of it, or its lease was over."""
    if len(facts.presentations) < 2 or not kind.policy.rotates:
        return None
    for group in _by_token(facts):
        group.sort(key=lambda one: one.lease.at if one.lease else 0.0)
        for first, second in pairwise(group):
            if first.lease is None or second.lease is None or first.told == "unknown":
                continue
            begun = second.lease.at
            if begun < first.lease.until - EPSILON:
                return f"{second.flight.name} presents {second.token} under a running lease"
            if first.told == "known" and first.written_at is not None and first.written_at < begun:
                return f"{second.flight.name} presents {second.token}, of which all is known"
    return None


def nobody_sends_without_a_lease(facts: Facts, kind: BankKind) -> str | None:
    """Each presentation stands in the store, with its claim, before it leaves; one for each."""
    for one in facts.presentations:
        if one.lease is None:
            return f"{one.flight.name} presents {one.token} without a claim of its own"
    return None


def nobody_begins_what_could_outlast_the_lease(facts: Facts, kind: BankKind) -> str | None:
    """When a call begins, its deadline fits into the lease."""
    for one in facts.presentations:
        if one.time_left < -EPSILON:
            return f"{one.flight.name} begins {-one.time_left:.1f} s too late"
    return None


def a_live_pair_is_never_overwritten_by_a_dead_one(facts: Facts, kind: BankKind) -> str | None:
    """What the bank would still take is not replaced by what it would refuse."""
    for one in facts.written:
        if one.before_live and not one.after_live and one.after.token is not None:
            return f"{one.how} put a dead pair over a live one"
    return None


def every_received_pair_is_kept(facts: Facts, kind: BankKind) -> str | None:
    """It is or was stored, or is in the journal, unless its receiver died before settling."""
    for one in facts.received:
        if one.pair not in facts.kept and one.flight.broken is None:
            return f"{one.pair} was received by {one.flight.name} and is nowhere"
    return None


def everyone_ends_with_a_token_or_a_typed_error(facts: Facts, kind: BankKind) -> str | None:
    """Nobody goes on for ever once the disturbances are over, and nothing else is raised."""
    if facts.failures or facts.restless:
        return "; ".join([*facts.failures, *(f"{name} does not end" for name in facts.restless)])
    for finished in facts.finished:
        if finished.error is None and finished.flight.kind != "revoke":
            if finished.record is None or finished.record.token is None:
                return f"{finished.flight.name} ended without a token and without an error"
        elif finished.error is not None and not isinstance(finished.error, BlinkError):
            return f"{finished.flight.name} ended with {finished.error!r}"
    return None


def nobody_fails_where_another_has_brought_a_token(facts: Facts, kind: BankKind) -> str | None:
    """Whoever has lost its lease looks at the store before it reports its own failure."""
    for finished in facts.finished:
        stored, record = finished.stored, finished.record
        if finished.error is None or finished.flight.kind != "refresh" or record is None:
            continue
        if isinstance(finished.error, StoreError) or stored is None or finished.flight.store_failed:
            continue
        if stored.generation > record.generation and stored.state is State.ACTIVE:
            return f"{finished.flight.name} failed over generation {stored.generation}"
    return None


def no_live_pair_is_given_up(facts: Facts, kind: BankKind) -> str | None:
    """The customer is not asked for while the store has a pair that the bank would take."""
    for one in facts.written:
        if one.after.state is State.NEEDS_CONSENT and (one.after_live or one.live_left):
            return "the customer was asked for over a live pair"
    return "the customer is asked for over a live pair in the journal" if facts.given_up else None


def one_expired_token_is_refreshed_once(facts: Facts, kind: BankKind) -> str | None:
    """However many find it, if nothing goes wrong."""
    if not facts.plain or facts.disturbances or len(facts.presentations) == 1:
        return None
    return f"{len(facts.presentations)} refresh tokens were presented"


def nobody_is_served_from_a_revoked_grant(facts: Facts, kind: BankKind) -> str | None:
    """Who asks for a token after a revocation is told so."""
    for finished in facts.finished:
        served = finished.record if finished.error is None else None
        if finished.flight.kind == "revoke" or served is None:
            continue
        if served.state is State.REVOKED:
            return f"{finished.flight.name} was served"
    return None


def what_was_revoked_stays_revoked(facts: Facts, kind: BankKind) -> str | None:
    """A revoked grant becomes active by a new consent only."""
    consents = set()
    for one in facts.written:
        fresh = one.how == "Put" and one.consent not in consents
        consents.add(one.consent)
        was_revoked = one.before is not None and one.before.state is State.REVOKED
        if was_revoked and one.after.state is not State.REVOKED and not fresh:
            return f"{one.how} made a revoked grant {one.after.state}"
    return None


def an_old_consent_never_comes_back(facts: Facts, kind: BankKind) -> str | None:
    """After a new consent, no pair of an older one is stored."""
    for one in facts.written:
        if one.consent and one.consent != one.newest_consent:
            return f"{one.how} stored a pair of consent {one.consent}"
    return None


def a_confirmed_revocation_leaves_nothing_alive(facts: Facts, kind: BankKind) -> str | None:
    """Whoever was told that a grant is revoked can rely on it, however late a pair came home."""
    if facts.disturbances:
        return None
    newest = max(one.after.consent for one in facts.written)
    for consent in facts.revocations:
        # After a new consent, nobody can tell a revoked consent from one that was replaced.
        if newest == consent and any(one <= consent for one in facts.left_alive):
            return f"a pair of the revoked consent {consent} is still alive"
    return None


def a_new_consent_survives_the_revocation_of_the_old(facts: Facts, kind: BankKind) -> str | None:
    """Whoever revokes a grant revokes nothing that the customer has consented to since."""
    for pair, consent, seen in facts.revoked:
        if consent > seen:
            return f"{pair} of consent {consent} was revoked by who saw consent {seen}"
    return None


def _is_revoked(facts: Facts) -> bool:
    return any(one.how == "MarkRevoked" for one in facts.written)


SAFE = frozenset(
    {Fate.NOT_CONNECTED.value, Fate.REJECTED.value, Fate.BUSY.value, "store", "time passes"}
)


def without_disturbance_the_grant_lives(facts: Facts, kind: BankKind) -> str | None:
    """A strict bank, and nobody crashed, lost a reply or outlasted its lease: nothing is lost."""
    if facts.alive or facts.disturbances - SAFE or _is_revoked(facts):
        return None
    return "the stored refresh token is dead"


LOSSES = frozenset({Fate.REPLY_LOST.value, Fate.REQUEST_LOST.value})


def a_lost_reply_is_healed_by_a_bank_that_forgives(facts: Facts, kind: BankKind) -> str | None:
    """Where a replay is allowed and one reply was lost, and nothing else happened, it lives."""
    lost = sum(one.told == "unknown" for one in facts.presentations)
    if facts.alive or not kind.forgives or lost != 1:
        return None
    if facts.disturbances - LOSSES or _is_revoked(facts):
        return None
    return "the stored refresh token is dead"


ALWAYS: tuple[Invariant, ...] = (
    no_refresh_token_is_presented_more_than_twice,
    a_second_presentation_needs_a_doubt,
    nobody_sends_without_a_lease,
    nobody_begins_what_could_outlast_the_lease,
    a_live_pair_is_never_overwritten_by_a_dead_one,
    every_received_pair_is_kept,
    everyone_ends_with_a_token_or_a_typed_error,
    nobody_fails_where_another_has_brought_a_token,
    no_live_pair_is_given_up,
    one_expired_token_is_refreshed_once,
    nobody_is_served_from_a_revoked_grant,
    what_was_revoked_stays_revoked,
    an_old_consent_never_comes_back,
    a_confirmed_revocation_leaves_nothing_alive,
    a_new_consent_survives_the_revocation_of_the_old,
    without_disturbance_the_grant_lives,
    a_lost_reply_is_healed_by_a_bank_that_forgives,
)
"""All of them. Those about what lives at the end ask themselves whether the schedule allows it."""


def broken(facts: Facts, kind: BankKind) -> list[tuple[str, str]]:
    """Return the names of the invariants that a schedule breaks, and what was seen."""
    found = []
    for invariant in ALWAYS:
        seen = invariant(facts, kind)
        if seen is not None:
            found.append((invariant.__name__, seen))
    return found
