"""A mutant for each line that makes the protocol safe, and the invariant that it violates."""

from __future__ import annotations

from attrs import evolve, frozen

from .invariants import INVARIANTS
from .mutation import mutant
from .network import RequestFault
from .random_schedules import SCENARIOS, Scenario, run

__all__ = ["MUTANTS", "Mutant", "seeds_until_violation"]

MAX_SEEDS = 6_000
BY_NAME = {invariant.__name__: invariant for invariant in INVARIANTS}

REFRESH, CONSENT, POLICY = "refresh", "consent", "policy"
MEMORY, RULES = "store.memory", "store.rules"

MANY_DELAYS = evolve(SCENARIOS["delays"], jump=0.15, delay=0.4)
LATE_PAIRS = evolve(
    SCENARIOS["delays"],
    banks=("newest pair only", "refusing"),
    jump=0.15,
    delay=0.4,
    kinds=("refresh",),
)
STORE_FAULTS = evolve(SCENARIOS["outages"], store_fault=0.25, outage=0.0)
LATE_PAIRS_AND_STORE_FAULTS = evolve(
    LATE_PAIRS, banks=("newest pair only",), store_fault=0.3, tasks=4
)
REVOCATIONS = evolve(SCENARIOS["revocations"], banks=("refusing", "newest pair only"))
UNCERTAIN = evolve(
    SCENARIOS["request-faults"],
    banks=("strict", "replay window"),
    faults=(RequestFault.REQUEST_LOST,),
    request_fault=0.9,
)
LAST_ATTEMPTS = evolve(
    SCENARIOS["last-attempts"],
    banks=("strict", "short-lived"),
    faults=(RequestFault.REQUEST_LOST,),
    request_fault=0.9,
    tasks=5,
)
MANY_WITHDRAWALS = evolve(SCENARIOS["withdrawals"], store_fault=0.3, jump=0.08)
NO_FAULTS = Scenario(banks=("strict",), tasks=1)
LATE_CONSENTS = evolve(SCENARIOS["consents"], store_fault=0.2)

NOT_FORWARDED = SCENARIOS["not-forwarded"]
SWAPPED = SCENARIOS["swapped-responses"]
CLOCK_STEPS = SCENARIOS["clock-steps"]
KILLED_REVOCATIONS = SCENARIOS["killed-revocations"]
FORGOTTEN = SCENARIOS["forgotten-grants"]
ADOPTIONS = SCENARIOS["adoptions"]
MISSING_KEYS = SCENARIOS["missing-keys"]
RESTORES = SCENARIOS["restores"]
FEW_LEARN_KEYS = evolve(
    MISSING_KEYS, store_fault=0.3, learn_key=0.0, kinds=("refresh", "refresh", "authorize")
)


@frozen(kw_only=True)
class Mutant:
    """A change of a line of the protocol.

    Attributes:
        name: The effect of the change. A number in brackets marks the line in the source.
        module: The module of the line.
        old: The text that is replaced; the module contains it exactly once.
        new: The text of the mutant.
        breaks: Name of the invariant that the mutant violates.
        scenario: The schedules that show the violation.
    """

    name: str
    module: str
    old: str
    new: str
    breaks: str
    scenario: Scenario


MUTANTS = (
    Mutant(
        name="[1] a flight that has waited long enough refreshes without the lease",
        module=REFRESH,
        old="            return Result(record, policy.pending_error(record))\n"
        "\n\ndef refresh_claimed",
        new="            return (\n"
        "                yield from _attempt(job, record, job.moment())\n"
        "            ) or Result(record)\n\n\n"
        "def refresh_claimed",
        breaks="no_request_is_sent_without_a_lease",
        scenario=MANY_DELAYS,
    ),
    Mutant(
        name="[2] a flight sends although its claim failed",
        module=REFRESH,
        old="        yield from _give_up_claim(job, evolve(record, owner=owner))\n"
        "        return Result(record, error, shared_for=STORE_FAILURE_SHARED_FOR)\n",
        new="        claim = evolve(record, owner=owner, attempts=record.attempts + 1)\n",
        breaks="no_request_is_sent_without_a_lease",
        scenario=STORE_FAULTS,
    ),
    Mutant(
        name="[3] a flight sends although another owner has the lease",
        module=REFRESH,
        old="    if claim is None:\n        return None\n",
        new="    if claim is None:\n        claim = evolve(record, owner=owner)\n",
        breaks="no_request_is_sent_without_a_lease",
        scenario=SCENARIOS["baseline"],
    ),
    Mutant(
        name="[3] the same change, after which a strict bank revokes the grant",
        module=REFRESH,
        old="    if claim is None:\n        return None\n",
        new="    if claim is None:\n        claim = evolve(record, owner=owner)\n",
        breaks="without_a_harmful_fault_the_refresh_token_stays_valid",
        scenario=NO_FAULTS,
    ),
    Mutant(
        name="[4] a request that could outlast the lease begins",
        module=REFRESH,
        old="        if job.elapsed(claimed_at) + job.call_timeout > job.lease:\n",
        new="        if False:\n",
        breaks="no_request_begins_that_could_outlast_its_lease",
        scenario=SCENARIOS["delays"],
    ),
    Mutant(
        name="[5] a pair received after the lease is not stored",
        module=REFRESH,
        old="            return (yield from settle(job, claim, token, issued_at, seconds))\n",
        new="            if job.elapsed(claimed_at) > job.lease:\n"
        "                return None\n"
        "            return (yield from settle(job, claim, token, issued_at, seconds))\n",
        breaks="every_received_pair_is_stored",
        scenario=SCENARIOS["delays"],
    ),
    Mutant(
        name="erase: a pair that was journaled during the revocation is erased unrevoked",
        module=MEMORY,
        old="            left = tuple(e for e in grant.extras.journal"
        " if not is_among(e.token, journaled))\n",
        new="            left = ()\n",
        breaks="a_revocation_is_finished_in_the_end",
        scenario=KILLED_REVOCATIONS,
    ),
    Mutant(
        name="[6] no pair is salvaged from the journal",
        module=REFRESH,
        old="    if error.needs_consent:\n        # [6]",
        new="    if False:\n        # [6]",
        breaks="no_consent_is_required_while_a_valid_pair_is_stored",
        scenario=LATE_PAIRS,
    ),
    Mutant(
        name="[7] a flight that lost its lease reports its own failure",
        module=REFRESH,
        old="    return None, None if held_lease is False else result\n",
        new="    return None, result\n",
        breaks="no_flight_fails_while_a_newer_token_is_stored",
        scenario=LATE_PAIRS,
    ),
    Mutant(
        name="[8] an uncertain attempt is not counted",
        module=REFRESH,
        old="        state, attempts = State.UNCERTAIN, claim.attempts\n",
        new="        state, attempts = State.UNCERTAIN, claim.attempts - 1\n",
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=UNCERTAIN,
    ),
    Mutant(
        name="[9] a result that cannot be stored is dropped",
        module=REFRESH,
        old="            time_left = yield Wait(pause, has_unstored_result=True)\n",
        new="            return None\n",
        breaks="every_received_pair_is_stored",
        scenario=STORE_FAULTS,
    ),
    Mutant(
        name="[10] the pair of a response to another request is stored",
        module=REFRESH,
        old="    if isinstance(error, ForeignResponseError):\n        return None\n",
        new="",
        breaks="no_grant_holds_or_presents_a_pair_of_another",
        scenario=SWAPPED,
    ),
    Mutant(
        name="authorize: the pair of a response to another request is stored",
        module=CONSENT,
        old="reported = yield from report_foreign(job, known, failure)",
        new="reported = failure",
        breaks="no_grant_holds_or_presents_a_pair_of_another",
        scenario=SWAPPED,
    ),
    Mutant(
        name="salvage: takes a pair of a response to another request",
        module=RULES,
        old="SALVAGEABLE = frozenset({Origin.SUPERSEDED, Origin.ERROR})",
        new="SALVAGEABLE = frozenset({Origin.SUPERSEDED, Origin.ERROR, Origin.FOREIGN})",
        breaks="no_grant_holds_or_presents_a_pair_of_another",
        scenario=SWAPPED,
    ),
    Mutant(
        name="revoke: presents the pair of a response to another request",
        module=CONSENT,
        old=" if entry.origin is not Origin.FOREIGN]",
        new="]",
        breaks="no_grant_holds_or_presents_a_pair_of_another",
        scenario=SWAPPED,
    ),
    Mutant(
        name="retry_until_stored: a new consent's pair is stored again without a check",
        module=CONSENT,
        old="yield from retry_until_stored(put, result, was_executed)",
        new="yield from retry_until_stored(put, result)",
        breaks="a_valid_pair_is_never_replaced_by_an_invalid_one",
        scenario=LATE_CONSENTS,
    ),
    Mutant(
        name="revoke: pairs of a newer consent are revoked too",
        module=CONSENT,
        old=" if entry.consent <= record.consent]",
        new="]",
        breaks="a_revocation_revokes_no_newer_consent",
        scenario=evolve(SCENARIOS["revocations"], jump=0.05, tasks=8, delay=0.6),
    ),
    Mutant(
        name="settle: a result that is stored late serves a revoked grant",
        module=REFRESH,
        old="    if settlement.stored and not revoked:\n",
        new="    if settlement.stored:\n",
        breaks="no_token_of_a_revoked_grant_is_served",
        scenario=evolve(SCENARIOS["revocations"], store_fault=0.2),
    ),
    Mutant(
        name="pause: other failures delay the replay beyond the bank's window",
        module=REFRESH,
        old="claim.attempts if uncertain else job.failures + 1",
        new="job.failures + 1",
        breaks="one_lost_response_is_recovered_by_an_allowed_replay",
        scenario=SCENARIOS["lossy"],
    ),
    Mutant(
        name="rejection with a pair: the attempt is not counted",
        module=REFRESH,
        old="    elif error.outcome is Outcome.UNCERTAIN or error.token is not None:\n",
        new="    elif error.outcome is Outcome.UNCERTAIN:\n",
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=evolve(UNCERTAIN, faults=(RequestFault.REJECTED_WITH_PAIR,)),
    ),
    Mutant(
        name="decide: a fourth presentation is allowed",
        module=POLICY,
        old='final = "", None, record.attempts >= attempt_limit(profile)\n',
        new='final = "", None, False\n',
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=LAST_ATTEMPTS,
    ),
    Mutant(
        name="decide: the last attempt is made at once",
        module=POLICY,
        old="    return max(0.0, valid, wait)\n",
        new="    return 0.0\n",
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=UNCERTAIN,
    ),
    Mutant(
        name="decide: the last attempt is made while the access token is valid",
        module=POLICY,
        old="    return max(0.0, valid, wait)\n",
        new="    return max(0.0, wait)\n",
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=LAST_ATTEMPTS,
    ),
    Mutant(
        name="decide: a bank that responded before the outcome counts as responding",
        module=POLICY,
        old="responded_ago < since_outcome",
        new="responded_ago >= 0",
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=UNCERTAIN,
    ),
    Mutant(
        name="decide: a caller does not wait for a running lease",
        module=POLICY,
        old="    if record.lease_left > 0:\n",
        new="    if False:\n",
        breaks="every_flight_ends_with_a_token_or_a_typed_error",
        scenario=SCENARIOS["crashes"],
    ),
    Mutant(
        name="decide: a revoked grant is not refused",
        module=POLICY,
        old="    if is_revoked(record) or record.token is None:\n",
        new="    if record.token is None:\n",
        breaks="every_flight_ends_with_a_token_or_a_typed_error",
        scenario=evolve(SCENARIOS["revocations"], request_fault=0.5),
    ),
    Mutant(
        name="is_behind: a released attempt looks like a step backwards",
        module=POLICY,
        old="    return known.state is State.UNCERTAIN and stored.attempts < known.attempts\n",
        new="    return stored.attempts < known.attempts\n",
        breaks="nothing_is_written_back_unless_the_store_went_backwards",
        scenario=evolve(SCENARIOS["request-faults"], request_fault=0.7),
    ),
    Mutant(
        name="claim: compares attempts only",
        module=RULES,
        old="    if (record.generation, record.attempts) != (seen.generation, seen.attempts):\n",
        new="    if record.attempts != seen.attempts:\n",
        breaks="one_expired_token_is_refreshed_once",
        scenario=NO_FAULTS,
    ),
    Mutant(
        name="claim: compares the generation only",
        module=RULES,
        old="    if (record.generation, record.attempts) != (seen.generation, seen.attempts):\n",
        new="    if record.generation != seen.generation:\n",
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=evolve(MANY_DELAYS, faults=(RequestFault.REQUEST_LOST,), request_fault=0.5),
    ),
    Mutant(
        name="claim: a running lease can be taken",
        module=RULES,
        old="    is_free = record.lease_left <= 0 and record.pause_left <= 0\n",
        new="    is_free = record.pause_left <= 0\n",
        breaks="a_second_presentation_needs_an_unknown_result",
        scenario=MANY_DELAYS,
    ),
    Mutant(
        name="settle: compares generation and owner",
        module=MEMORY,
        old="            if record and not tombstone and record.generation == claim.generation:\n",
        new="            if record and is_latest_claim(record, claim):\n",
        breaks="no_consent_is_required_while_a_valid_pair_is_stored",
        scenario=LATE_PAIRS,
    ),
    Mutant(
        name="settle: compares nothing",
        module=MEMORY,
        old="            if record and not tombstone and record.generation == claim.generation:\n",
        new="            if record:\n",
        breaks="no_pair_of_an_older_consent_is_stored",
        scenario=SCENARIOS["consents"],
    ),
    Mutant(
        name="settle: a superseded pair is not written to the journal",
        module=MEMORY,
        old="grant.add_to_journal(claim, token, late_origin(state), now, ahead=1)\n",
        new="pass\n",
        breaks="every_received_pair_is_stored",
        scenario=SCENARIOS["consents"],
    ),
    Mutant(
        name="release: compares the generation only",
        module=RULES,
        old="    return (record.generation, record.owner) == (claim.generation, claim.owner)\n",
        new="    return record.generation == claim.generation\n",
        breaks="a_second_presentation_needs_an_unknown_result",
        scenario=MANY_DELAYS,
    ),
    Mutant(
        name="release: compares the owner only",
        module=RULES,
        old="    return (record.generation, record.owner) == (claim.generation, claim.owner)\n",
        new="    return record.owner == claim.owner\n",
        breaks="no_consent_is_required_while_a_valid_pair_is_stored",
        scenario=LATE_PAIRS_AND_STORE_FAULTS,
    ),
    Mutant(
        name="put: does not count the generation up",
        module=MEMORY,
        old="evolve(pair, consent=record.consent + 1)",
        new="evolve(pair, generation=record.generation, consent=record.consent + 1)",
        breaks="no_pair_of_an_older_consent_is_stored",
        scenario=SCENARIOS["consents"],
    ),
    Mutant(
        name="revoke: does not count the generation up",
        module=RULES,
        old="    generation = record.generation + 1\n    return evolve(\n",
        new="    generation = record.generation\n    return evolve(\n",
        breaks="a_revoked_grant_stays_revoked",
        scenario=SCENARIOS["revocations"],
    ),
    Mutant(
        name="salvage: takes a pair of another consent",
        module=RULES,
        old=" and entry.consent == record.consent",
        new="",
        breaks="no_pair_of_an_older_consent_is_stored",
        scenario=evolve(
            SCENARIOS["consents"],
            banks=("newest pair only", "refusing"),
            jump=0.1,
            delay=0.4,
            tasks=4,
        ),
    ),
    Mutant(
        name="salvage: takes a pair that was once the record's",
        module=RULES,
        old="        fits = fits and entry.generation >= oldest\n",
        new="",
        breaks="a_second_presentation_needs_an_unknown_result",
        scenario=MANY_WITHDRAWALS,
    ),
    Mutant(
        name="settle: the attempts of an uncertain refresh token count from one again",
        module=RULES,
        old="attempts=record.attempts if state is State.UNCERTAIN else 0",
        new="attempts=int(state is State.UNCERTAIN)",
        breaks="a_third_presentation_is_the_last_and_costs_nothing",
        scenario=evolve(UNCERTAIN, faults=(RequestFault.UNREADABLE,)),
    ),
    Mutant(
        name="load: what the process knows of a store that went backwards is not written back",
        module=REFRESH,
        old="        if known is None or not policy.is_behind(stored, known):\n"
        "            return stored\n",
        new="        if True:\n            return stored\n",
        breaks="no_token_older_than_a_known_one_is_presented",
        scenario=RESTORES,
    ),
    Mutant(
        name="load: the same change, after which what was known is lost",
        module=REFRESH,
        old="        if known is None or not policy.is_behind(stored, known):\n"
        "            return stored\n",
        new="        if True:\n            return stored\n",
        breaks="what_a_running_process_knows_is_stored_at_the_end",
        scenario=RESTORES,
    ),
    Mutant(
        name="is_behind: a lower generation is not behind",
        module=POLICY,
        old="    if (stored.consent, stored.generation) != (known.consent, known.generation):\n"
        "        return True\n",
        new="    if stored.generation != known.generation:\n        return False\n",
        breaks="without_a_harmful_fault_the_refresh_token_stays_valid",
        scenario=RESTORES,
    ),
    Mutant(
        name="write_back: compares nothing",
        module=MEMORY,
        old="            if not is_unchanged(before, seen):\n",
        new="            if False:\n",
        breaks="a_valid_pair_is_never_replaced_by_an_invalid_one",
        scenario=evolve(RESTORES, workers=(3, 5), delay=0.4),
    ),
    Mutant(
        name="elapsed: only the monotonic clock counts",
        module=REFRESH,
        old="        if job.elapsed(claimed_at) + job.call_timeout > job.lease:\n",
        new="        elapsed = job.monotonic() - claimed_at.monotonic\n"
        "        if elapsed + job.call_timeout > job.lease:\n",
        breaks="no_request_begins_that_could_outlast_its_lease",
        scenario=CLOCK_STEPS,
    ),
    Mutant(
        name="elapsed: only the wall clock counts",
        module=REFRESH,
        old="        if job.elapsed(claimed_at) + job.call_timeout > job.lease:\n",
        new="        elapsed = (job.now() - claimed_at.now).total_seconds()\n"
        "        if elapsed + job.call_timeout > job.lease:\n",
        breaks="no_request_begins_that_could_outlast_its_lease",
        scenario=CLOCK_STEPS,
    ),
    Mutant(
        name="store: leases run by the wall clock",
        module=MEMORY,
        old="        return Moment(utc(self._clock()), self._monotonic())\n",
        new="        return Moment(utc(self._clock()), self._clock().timestamp())\n",
        breaks="a_second_presentation_needs_an_unknown_result",
        scenario=CLOCK_STEPS,
    ),
    Mutant(
        name="release: an attempt that reached no bank counts as uncertain",
        module=REFRESH,
        old="    elif error.outcome is Outcome.UNCERTAIN or error.token is not None:\n",
        new="    elif error.status == 503 or error.outcome is Outcome.UNCERTAIN or error.token:\n",
        breaks="an_attempt_that_certainly_failed_is_not_counted",
        scenario=NOT_FORWARDED,
    ),
    Mutant(
        name="release: the same change, after which a consent is demanded",
        module=REFRESH,
        old="    elif error.outcome is Outcome.UNCERTAIN or error.token is not None:\n",
        new="    elif error.status == 503 or error.outcome is Outcome.UNCERTAIN or error.token:\n",
        breaks="without_a_harmful_fault_no_consent_is_demanded",
        scenario=NOT_FORWARDED,
    ),
    Mutant(
        name="finish_revocation: does nothing",
        module=CONSENT,
        old="        if record is None or not is_revoked(record) or is_moved(record):\n",
        new="        if True:\n",
        breaks="a_revocation_is_finished_in_the_end",
        scenario=KILLED_REVOCATIONS,
    ),
    Mutant(
        name="revoke: marks a grant as revoked before the bank has revoked it",
        module=RULES,
        old="        state=State.REVOKING,\n",
        new="        state=State.REVOKED,\n",
        breaks="a_grant_is_revoking_until_the_bank_has_revoked_it",
        scenario=KILLED_REVOCATIONS,
    ),
    Mutant(
        name="revoke: the pairs of the journal are not revoked",
        module=CONSENT,
        old="    pairs = journaled if record.token is None else [record.token, *journaled]\n",
        new="    pairs = [] if record.token is None else [record.token]\n",
        breaks="a_confirmed_revocation_leaves_no_valid_pair",
        scenario=REVOCATIONS,
    ),
    Mutant(
        name="revoke: erases pairs that the bank has not revoked",
        module=CONSENT,
        old="    if failure is not None:\n",
        new="    if False:\n",
        breaks="a_grant_is_revoking_until_the_bank_has_revoked_it",
        scenario=KILLED_REVOCATIONS,
    ),
    Mutant(
        name="erase: forgets a grant although a pair has arrived meanwhile",
        module=MEMORY,
        old="            if stored.forgetting and not grant.has_own_pair_in_journal():\n",
        new="            if stored.forgetting:\n",
        breaks="a_grant_is_revoking_until_the_bank_has_revoked_it",
        scenario=FORGOTTEN,
    ),
    Mutant(
        name="revoking: leaves out a grant without a pair that is to be forgotten",
        module=MEMORY,
        old="grant.record.token or grant.record.forgetting or grant.has_own_pair_in_journal()",
        new="grant.record.token or grant.has_own_pair_in_journal()",
        breaks="a_forgotten_grant_is_named_nowhere_at_the_end",
        scenario=FORGOTTEN,
    ),
    Mutant(
        name="settle: a late pair of a forgotten grant is not forgotten again",
        module=MEMORY,
        old="            grant.record = evolve(tombstone, state=State.REVOKED, forgetting=True)\n",
        new="            grant.record = evolve(tombstone, state=State.REVOKED)\n",
        breaks="a_forgotten_grant_is_kept_only_to_be_revoked",
        scenario=FORGOTTEN,
    ),
    Mutant(
        name="settle: a late pair erases the pair of a grant that is being revoked",
        module=REFRESH,
        old="            if record is not None and record.forgetting and record.token is None:\n",
        new="            if record is not None and record.forgetting:\n",
        breaks="a_grant_is_revoking_until_the_bank_has_revoked_it",
        scenario=FORGOTTEN,
    ),
    Mutant(
        name="adopt: does not look for an earlier adoption",
        module=CONSENT,
        old="    return any(n.event == EventName.ADOPTED and n.detail == detail for n in notes)\n",
        new="    return False\n",
        breaks="a_pair_is_adopted_once",
        scenario=ADOPTIONS,
    ),
    Mutant(
        name="adopt: stores without a comparison with what was read",
        module=CONSENT,
        old="        stored: Record | None = yield WriteBack(\n"
        "            evolve(adopted, consent=before.consent + 1), record, note\n"
        "        )\n",
        new="        stored = yield Put(pair, now, now, note)\n",
        breaks="an_adoption_replaces_no_pair_in_use",
        scenario=ADOPTIONS,
    ),
    Mutant(
        name="retry_until_stored: a result is tried again until its record can be opened",
        module=REFRESH,
        old="            raise\n        return error.record\n",
        new="            pass\n        raise\n",
        breaks="every_flight_ends_with_a_token_or_a_typed_error",
        scenario=FEW_LEARN_KEYS,
    ),
    Mutant(
        name="load: a pair that cannot be opened counts as none",
        module=REFRESH,
        old="        stored: Record | None = yield Load()\n",
        new="        stored = yield from _load_record()\n",
        breaks="without_a_harmful_fault_no_consent_is_demanded",
        scenario=evolve(MISSING_KEYS, kinds=("refresh",), store_fault=0.02),
    ),
    Mutant(
        name="settle: a new pair has no notice that the grant has recovered",
        module=REFRESH,
        old="        notice=RECOVERED,\n",
        new="",
        breaks="a_new_pair_ends_the_trouble",
        scenario=UNCERTAIN,
    ),
    Mutant(
        name="authorize: a new pair has no notice that the grant has recovered",
        module=CONSENT,
        old="        notice=RECOVERED,\n",
        new="",
        breaks="a_new_pair_ends_the_trouble",
        scenario=LATE_CONSENTS,
    ),
    Mutant(
        name="release: a lost or uncertain consent has no notice",
        module=REFRESH,
        old="    notice = due_notice(_released(release), job.profile, job.now())\n",
        new="    notice = None\n",
        breaks="a_lost_or_uncertain_consent_has_its_notice",
        scenario=UNCERTAIN,
    ),
    Mutant(
        name="store: the notice of a recovery is written without trouble",
        module=MEMORY,
        old="        notice = next_notice(before.notice if before else None, new)\n",
        new="        notice = new.kind if new else (before.notice if before else None)\n",
        breaks="a_recovery_has_a_notice_after_trouble_only",
        scenario=NO_FAULTS,
    ),
)
"""All mutants, in the order of the protocol."""


def seeds_until_violation(one: Mutant) -> int | None:
    """Return the number of seeds until the mutant violates its invariant.

    None if no seed does, or if the real code violates the invariant with the same seed.
    """
    code = mutant({one.module: [(one.old, one.new)]})
    invariant = BY_NAME[one.breaks]
    for seed in range(MAX_SEEDS):
        simulation, kind = run(one.scenario, seed, code=code)
        if invariant(simulation.facts, kind) is not None:
            simulation, kind = run(one.scenario, seed)
            return seed + 1 if invariant(simulation.facts, kind) is None else None
    return None
