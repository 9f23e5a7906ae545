"""The invariants of every schedule. Each returns None, or a description of its violation.

A presentation is a refresh token that was sent to the bank. It does not count if its result proves
that the token is not spent: no connection was made, or the server rejected the request without
reading the token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise

from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Token
from blink_oauth_keeper.errors import ConsentNeededError, StoreError
from blink_oauth_keeper.policy import foreign_responses
from blink_oauth_keeper.profile import AfterUncertainty
from blink_oauth_keeper.store.outbox import TROUBLES, NoticeKind
from blink_oauth_keeper.store.protocol import State, is_revoked

from .facts import Facts, Presentation
from .harness import BankKind
from .network import OF_ANOTHER_GRANT, RequestFault

__all__ = ["INVARIANTS", "Invariant", "violations"]

Invariant = Callable[[Facts, BankKind], str | None]
EPSILON = 1e-6
RESTORES = frozenset({"restored", "forgotten"})
REVOCATIONS = frozenset({"revoke", "forget", "finish"})
LAST_ATTEMPT_WAIT = 3_600.0
CLOCK_DIFFERENCE = 61.0
"""Seconds by which a worker's clock and the store's may differ, and the store's rounding."""


def _by_token(facts: Facts) -> Iterable[list[Presentation]]:
    by_token: dict[str, list[Presentation]] = defaultdict(list)
    for presentation in facts.presentations:
        if not presentation.certainly_unspent:
            by_token[presentation.token].append(presentation)
    return by_token.values()


def a_third_presentation_is_the_last_and_costs_nothing(facts: Facts, kind: BankKind) -> str | None:
    """A refresh token is replayed once while it can still cost something.

    It is presented a third time only if the profile allows a last attempt, once the access token
    has expired and the bank responds to others or an hour has passed, and never a fourth time. A
    bank that does not rotate is excepted.
    """
    if len(facts.presentations) < 3 or not kind.policy.rotates or "forgotten" in facts.faults:
        return None
    hold = kind.profile.after_uncertainty is AfterUncertainty.HOLD
    for group in _by_token(facts):
        if len(group) < 3:
            continue
        if len(group) > 3 or hold or not kind.profile.last_attempt:
            return f"{group[0].token} was presented {len(group)} times"
        _, second, third = sorted(group, key=_claimed_at)
        if not third.expired:
            return f"{third.token} was presented three times before the access token expired"
        waited = _claimed_at(third) - _claimed_at(second)
        by_the_clock = not facts.others_responded and "clock stepped" not in facts.faults
        if waited < LAST_ATTEMPT_WAIT - CLOCK_DIFFERENCE and by_the_clock:
            return f"{third.token} was presented three times within {waited:.0f} s"
    return None


def _claimed_at(presentation: Presentation) -> float:
    return presentation.lease.taken_at if presentation.lease else 0.0


def a_second_presentation_needs_an_unknown_result(facts: Facts, kind: BankKind) -> str | None:
    """The first result is unknown, or its lease ended before the result was stored."""
    if len(facts.presentations) < 2 or not kind.policy.rotates or "forgotten" in facts.faults:
        return None
    for group in _by_token(facts):
        group.sort(key=_claimed_at)
        for first, second in pairwise(group):
            if first.lease is None or second.lease is None or first.certainty == "unknown":
                continue
            claimed_at = second.lease.taken_at
            if claimed_at < first.lease.ends_at - EPSILON:
                return f"{second.flight.name} presents {second.token} under a running lease"
            if (
                first.certainty == "known"
                and first.written_at is not None
                and first.written_at < claimed_at
            ):
                return f"{second.flight.name} presents {second.token}, whose result is stored"
    return None


def no_request_is_sent_without_a_lease(facts: Facts, kind: BankKind) -> str | None:
    """Each presentation has a claim of its own, stored before the request is sent."""
    for presentation in facts.presentations:
        if presentation.lease is None:
            name, token = presentation.flight.name, presentation.token
            return f"{name} presents {token} without a claim of its own"
    return None


def no_request_begins_that_could_outlast_its_lease(facts: Facts, kind: BankKind) -> str | None:
    """When a request begins, its deadline is not after the end of the lease."""
    for presentation in facts.presentations:
        if presentation.time_left < -EPSILON:
            return f"{presentation.flight.name} begins {-presentation.time_left:.1f} s too late"
    return None


def a_valid_pair_is_never_replaced_by_an_invalid_one(facts: Facts, kind: BankKind) -> str | None:
    """A pair that the bank would accept is not replaced by one that it would reject."""
    for change in facts.written:
        if change.before_valid and not change.after_valid and change.after.token is not None:
            return f"{change.how} replaced a valid pair by an invalid one"
    return None


def every_received_pair_is_stored(facts: Facts, kind: BankKind) -> str | None:
    """It is or was in the record or the journal, unless its flight crashed or was closed."""
    for received in facts.received:
        # A pair of another grant is not kept for one that is forgotten.
        if received.pair.endswith(OF_ANOTHER_GRANT) and _was_forgotten(facts):
            continue
        if received.pair not in facts.ever_stored and received.flight.ended_by is None:
            return f"{received.pair} was received by {received.flight.name} and never stored"
    return None


def no_grant_holds_or_presents_a_pair_of_another(facts: Facts, kind: BankKind) -> str | None:
    """A pair from a response to another request is not stored, served, presented or revoked."""
    for change in facts.written:
        if _is_of_another_grant(change.after.token):
            return f"{change.how} stored a pair of another grant"
    for finished in facts.finished:
        record, error = finished.record, finished.error
        errors = [error, *foreign_responses(error)] if error else []
        given = [record.token if record else None, *(each.token for each in errors)]
        if any(map(_is_of_another_grant, given)):
            return f"{finished.flight.name} returned a pair of another grant"
    sent = [each.token for each in facts.presentations] + [pair for pair, _, _ in facts.revoked]
    return next((f"{each} was sent" for each in sent if each.endswith(OF_ANOTHER_GRANT)), None)


def _is_of_another_grant(token: Token | None) -> bool:
    return token is not None and token.access_token.reveal().endswith(OF_ANOTHER_GRANT)


def every_flight_ends_with_a_token_or_a_typed_error(facts: Facts, kind: BankKind) -> str | None:
    """Every worker finishes once the faults have stopped, and nothing else is raised."""
    if facts.failures or facts.endless_workers:
        return "; ".join(
            [*facts.failures, *(f"{name} does not end" for name in facts.endless_workers)]
        )
    for finished in facts.finished:
        if finished.error is None and finished.flight.kind not in REVOCATIONS:
            if finished.record is None or finished.record.token is None:
                return f"{finished.flight.name} ended without a token and without an error"
        elif finished.error is not None and not isinstance(finished.error, BlinkError):
            return f"{finished.flight.name} ended with {finished.error!r}"
    return None


def no_flight_fails_while_a_newer_token_is_stored(facts: Facts, kind: BankKind) -> str | None:
    """A flight that lost its lease reads the store before it reports its own failure."""
    if "forgotten" in facts.faults:
        return None
    for finished in facts.finished:
        stored, record = finished.stored, finished.record
        if finished.error is None or finished.flight.kind != "refresh" or record is None:
            continue
        if isinstance(finished.error, StoreError) or stored is None or finished.flight.store_failed:
            continue
        if stored.generation > record.generation and stored.state is State.ACTIVE:
            return f"{finished.flight.name} failed while generation {stored.generation} was stored"
    return None


def no_consent_is_required_while_a_valid_pair_is_stored(facts: Facts, kind: BankKind) -> str | None:
    """No new consent is required while the store has a pair that the bank would accept."""
    for change in facts.written:
        if change.after.state is State.NEEDS_CONSENT and (
            change.after_valid or change.valid_in_journal
        ):
            return "consent was required although a valid pair was stored"
    if facts.valid_pair_abandoned:
        return "consent is required at the end although the journal has a valid pair"
    return None


def one_expired_token_is_refreshed_once(facts: Facts, kind: BankKind) -> str | None:
    """Any number of workers present one refresh token if no fault is injected."""
    if not facts.expired_token_only or facts.faults or len(facts.presentations) == 1:
        return None
    return f"{len(facts.presentations)} refresh tokens were presented"


def no_token_of_a_revoked_grant_is_served(facts: Facts, kind: BankKind) -> str | None:
    """A caller that asks for a token after a revocation gets an error."""
    for finished in facts.finished:
        served = finished.record if finished.error is None else None
        if finished.flight.kind in REVOCATIONS or served is None:
            continue
        if is_revoked(served):
            return f"{finished.flight.name} served a revoked grant"
    return None


def a_revoked_grant_stays_revoked(facts: Facts, kind: BankKind) -> str | None:
    """Only a new consent makes a revoked grant active again."""
    consents = set()
    for change in facts.written:
        is_new = change.how in {"Put", "WriteBack"} and change.consent not in consents
        consents.add(change.consent)
        was_revoked = change.before is not None and is_revoked(change.before)
        if was_revoked and not is_revoked(change.after) and not is_new:
            return f"{change.how} made a revoked grant {change.after.state}"
    return None


def no_pair_of_an_older_consent_is_stored(facts: Facts, kind: BankKind) -> str | None:
    """After a new consent, no pair of an older consent is stored."""
    for change in facts.written:
        if change.consent and change.consent != change.newest_consent:
            return f"{change.how} stored a pair of consent {change.consent}"
    return None


def nothing_is_written_back_unless_the_store_went_backwards(
    facts: Facts, kind: BankKind
) -> str | None:
    """No change by another flight or process looks as if the store went backwards."""
    # A worker whose manager closed goes on in the simulation, and still knows its unstored result.
    if facts.faults & {"closing", *RESTORES}:
        return None
    if not any(change.how == "WriteBack" for change in facts.written):
        return None
    return "a record was written back"


def a_confirmed_revocation_leaves_no_valid_pair(facts: Facts, kind: BankKind) -> str | None:
    """After a confirmed revocation no pair is valid, even one that was received later."""
    if facts.faults:
        return None
    newest = max(change.after.consent for change in facts.written)
    for consent in facts.revocations:
        # After a new consent, a revoked consent and a replaced one look the same.
        if newest == consent and any(valid <= consent for valid in facts.valid_consents):
            return f"a pair of the revoked consent {consent} is still valid"
    return None


def a_revocation_revokes_no_newer_consent(facts: Facts, kind: BankKind) -> str | None:
    """A revocation revokes no pair of a consent newer than the one that it has read."""
    for pair, consent, seen in facts.revoked:
        if consent > seen:
            return f"{pair} of consent {consent} was revoked by a flight that saw consent {seen}"
    return None


def _is_revoked(facts: Facts) -> bool:
    return any(change.how == "MarkRevoked" for change in facts.written)


HARMLESS = frozenset(
    {
        RequestFault.NOT_CONNECTED.value,
        RequestFault.REJECTED.value,
        RequestFault.BUSY.value,
        RequestFault.NOT_FORWARDED.value,
        "store",
        "time passes",
        "restored",
        "clock stepped",
        "key missing",
    }
)


def without_a_harmful_fault_the_refresh_token_stays_valid(
    facts: Facts, kind: BankKind
) -> str | None:
    """Harmless faults leave the stored refresh token valid, unless it is revoked."""
    if facts.refresh_token_valid or facts.faults - HARMLESS or _is_revoked(facts):
        return None
    return "the stored refresh token is not valid"


def no_token_older_than_a_known_one_is_presented(facts: Facts, kind: BankKind) -> str | None:
    """A process presents no refresh token of an older record than the newest one it knows."""
    for presentation in facts.presentations:
        if presentation.is_older:
            name, token = presentation.flight.name, presentation.token
            return f"{name} presents {token}, and knows a newer record"
    return None


def what_a_running_process_knows_is_stored_at_the_end(facts: Facts, kind: BankKind) -> str | None:
    """After a store went backwards, it has the newest record that a running process knows."""
    # A worker whose manager closed goes on in the simulation, and still knows its unstored result.
    if facts.forgotten and "closing" not in facts.faults:
        return f"{facts.forgotten[0]} knows a newer record than the store"
    return None


def an_attempt_that_certainly_failed_is_not_counted(facts: Facts, kind: BankKind) -> str | None:
    """A result that proves the refresh token unspent costs no attempt and no consent."""
    for presentation in facts.presentations:
        if presentation.certainly_unspent and presentation.is_counted:
            return f"the attempt of {presentation.flight.name} with {presentation.token} counts"
    return None


def a_revocation_is_finished_in_the_end(facts: Facts, kind: BankKind) -> str | None:
    """At the end the bank accepts no stored pair of a revoked grant."""
    if facts.unrevoked:
        return f"{min(facts.unrevoked)} of the revoked grant is still valid"
    return None


def _was_forgotten(facts: Facts) -> bool:
    return any(change.after.state is State.FORGOTTEN for change in facts.written)


def a_forgotten_grant_is_kept_only_to_be_revoked(facts: Facts, kind: BankKind) -> str | None:
    """After a forgetting, only a new consent stores the grant again as it was before."""
    for change in facts.written:
        before, after = change.before, change.after
        if before is None or before.state is not State.FORGOTTEN or "forgotten" in facts.faults:
            continue
        is_kept = after.state is State.FORGOTTEN or (is_revoked(after) and after.forgetting)
        if after.consent == before.consent and not is_kept:
            return f"{change.how} made a forgotten grant {after.state}"
    return None


def a_forgotten_grant_is_named_nowhere_at_the_end(facts: Facts, kind: BankKind) -> str | None:
    """At the end neither record nor journal nor history names the customer, unless they consent."""
    return "the store names the customer at the end" if facts.remembered else None


def a_pair_is_adopted_once(facts: Facts, kind: BankKind) -> str | None:
    """However often it is repeated, an adoption stores the pair of the application once."""
    adopted = sum(change.how == "Adopt" for change in facts.written)
    return None if adopted < 2 else f"the pair was adopted {adopted} times"


def an_adoption_replaces_no_pair_in_use(facts: Facts, kind: BankKind) -> str | None:
    """An adopted pair is the first of its grant, or replaces one that the bank has refused."""
    for change in facts.written:
        before = change.before
        if change.how == "Adopt" and before and before.state is not State.NEEDS_CONSENT:
            return f"an adopted pair replaced one in the state {before.state}"
    return None


def a_grant_is_revoking_until_the_bank_has_revoked_it(facts: Facts, kind: BankKind) -> str | None:
    """The state becomes `revoked` once the bank accepts no stored pair any more."""
    for change in facts.written:
        if change.unrevoked:
            return f"{change.how} wrote revoked while {min(change.unrevoked)} was valid"
    return None


def without_a_harmful_fault_no_consent_is_demanded(facts: Facts, kind: BankKind) -> str | None:
    """Harmless faults demand no consent, unless the grant is revoked or consented to again."""
    if facts.faults - HARMLESS or _is_revoked(facts):
        return None
    if any(finished.flight.kind == "authorize" for finished in facts.finished):
        return None
    for change in facts.written:
        if change.after.state is State.NEEDS_CONSENT:
            return f"{change.how} demanded a consent"
    for finished in facts.finished:
        if isinstance(finished.error, ConsentNeededError):
            return f"{finished.flight.name} ended with ConsentNeededError"
    error = facts.finished[-1].error if facts.finished else None
    return "consent is demanded at the end" if error and error.needs_consent else None


def a_lost_or_uncertain_consent_has_its_notice(facts: Facts, kind: BankKind) -> str | None:
    """The transaction that makes a grant lost or uncertain writes the notice of it."""
    kinds = {State.NEEDS_CONSENT: {NoticeKind.LOST}, State.UNCERTAIN: TROUBLES}
    for change in facts.written:
        expected = kinds.get(change.after.state)
        # The notice of a record that is written back was written when it was first stored.
        if expected and change.how != "WriteBack" and change.last_notice not in expected:
            return f"{change.how} wrote {change.after.state} without a notice"
    return None


def a_new_pair_ends_the_trouble(facts: Facts, kind: BankKind) -> str | None:
    """Together with a new pair, a notice says that a grant in trouble has recovered."""
    for change in facts.written:
        is_new = change.how in {"Settle", "Put", "Adopt"} and change.after.state is State.ACTIVE
        if is_new and change.last_notice in TROUBLES:
            return f"{change.how} stored a pair, and the last notice is {change.last_notice}"
    return None


def a_recovery_has_a_notice_after_trouble_only(facts: Facts, kind: BankKind) -> str | None:
    """A notice that the grant has recovered follows one that it was lost or at risk."""
    kinds = [None, *(kind for kind, _ in facts.notices)]
    for before, after in pairwise(kinds):
        if after is NoticeKind.RECOVERED and before not in TROUBLES:
            return f"the notice of a recovery was written without trouble: {facts.notices}"
    return None


LOSSES = frozenset({RequestFault.RESPONSE_LOST.value, RequestFault.REQUEST_LOST.value})


def one_lost_response_is_recovered_by_an_allowed_replay(facts: Facts, kind: BankKind) -> str | None:
    """If one response or request is lost and a replay is allowed, the token stays valid."""
    lost = sum(presentation.certainty == "unknown" for presentation in facts.presentations)
    if facts.refresh_token_valid or not kind.allows_replay or lost != 1:
        return None
    if facts.faults - LOSSES or _is_revoked(facts):
        return None
    return "the stored refresh token is not valid"


INVARIANTS: tuple[Invariant, ...] = (
    a_third_presentation_is_the_last_and_costs_nothing,
    a_second_presentation_needs_an_unknown_result,
    no_request_is_sent_without_a_lease,
    no_request_begins_that_could_outlast_its_lease,
    a_valid_pair_is_never_replaced_by_an_invalid_one,
    every_received_pair_is_stored,
    no_grant_holds_or_presents_a_pair_of_another,
    every_flight_ends_with_a_token_or_a_typed_error,
    no_flight_fails_while_a_newer_token_is_stored,
    no_consent_is_required_while_a_valid_pair_is_stored,
    one_expired_token_is_refreshed_once,
    no_token_of_a_revoked_grant_is_served,
    a_revoked_grant_stays_revoked,
    no_pair_of_an_older_consent_is_stored,
    nothing_is_written_back_unless_the_store_went_backwards,
    a_confirmed_revocation_leaves_no_valid_pair,
    a_revocation_revokes_no_newer_consent,
    without_a_harmful_fault_the_refresh_token_stays_valid,
    no_token_older_than_a_known_one_is_presented,
    what_a_running_process_knows_is_stored_at_the_end,
    an_attempt_that_certainly_failed_is_not_counted,
    a_revocation_is_finished_in_the_end,
    a_forgotten_grant_is_kept_only_to_be_revoked,
    a_forgotten_grant_is_named_nowhere_at_the_end,
    a_pair_is_adopted_once,
    an_adoption_replaces_no_pair_in_use,
    a_grant_is_revoking_until_the_bank_has_revoked_it,
    without_a_harmful_fault_no_consent_is_demanded,
    a_lost_or_uncertain_consent_has_its_notice,
    a_new_pair_ends_the_trouble,
    a_recovery_has_a_notice_after_trouble_only,
    one_lost_response_is_recovered_by_an_allowed_replay,
)
"""All invariants. Each one checks itself whether it applies to the schedule."""


def violations(facts: Facts, kind: BankKind) -> list[tuple[str, str]]:
    """Return the name and the description of each invariant that a schedule violates."""
    found = []
    for invariant in INVARIANTS:
        violation = invariant(facts, kind)
        if violation is not None:
            found.append((invariant.__name__, violation))
    return found
