"""The lines that make the protocol safe, what becomes of each in a mutant, and what that breaks."""

from __future__ import annotations

from attrs import evolve, frozen

from .chance import SCENARIOS, Scenario, play
from .invariants import ALWAYS
from .mutation import mutant
from .network import Fate

__all__ = ["INVARIANTS", "MUTANTS", "Mutant", "seeds_until_broken"]

MOST_SEEDS = 6_000
INVARIANTS = {invariant.__name__: invariant for invariant in ALWAYS}

REFRESH, CONSENT, POLICY = "refresh", "consent", "policy"
MEMORY, RULES = "store.memory", "store.rules"

MANY_PAUSES = evolve(SCENARIOS["pauses"], jump=0.15, hold=0.4)
LATE_PAIRS = evolve(
    SCENARIOS["pauses"], banks=("last lives", "refusing"), jump=0.15, hold=0.4, kinds=("refresh",)
)
BAD_STORE = evolve(SCENARIOS["outages"], store=0.25, outage=0.0)
LATE_AND_BAD_STORE = evolve(LATE_PAIRS, banks=("last lives",), store=0.3, tasks=4)
REVOKING = evolve(SCENARIOS["revocations"], banks=("refusing", "last lives"))
UNCERTAIN = evolve(
    SCENARIOS["mishaps"], banks=("strict", "windowed"), fates=(Fate.REQUEST_LOST,), mishap=0.9
)
STORED_ONCE = evolve(SCENARIOS["withdrawals"], store=0.3, jump=0.08)
QUIET = Scenario(banks=("strict",), tasks=1)
LATE_CONSENTS = evolve(SCENARIOS["consents"], store=0.2)


@frozen(kw_only=True)
class Mutant:
    """A line, and what becomes of it.

    Attributes:
        line: What the line is for; in the protocol it bears the number.
        module: Where it stands.
        old: What stands there, exactly once.
        new: What stands there in the mutant.
        breaks: The invariant that it breaks.
        scenario: The schedules that show it.
    """

    line: str
    module: str
    old: str
    new: str
    breaks: str
    scenario: Scenario


MUTANTS = (
    Mutant(
        line="[1] whoever waited long enough refreshes without the lease",
        module=REFRESH,
        old="            return Result(record, policy.pending_error(record))\n"
        "\n\ndef refresh_claimed",
        new="            return (\n"
        "                yield from _attempt(job, record, job.monotonic())\n"
        "            ) or Result(record)\n\n\n"
        "def refresh_claimed",
        breaks="nobody_sends_without_a_lease",
        scenario=MANY_PAUSES,
    ),
    Mutant(
        line="[2] it goes on although the claim failed",
        module=REFRESH,
        old="        yield from _give_up_claim(job, evolve(record, owner=owner))\n"
        "        return Result(record, error, shared_for=STORE_FAILURE_SHARED_FOR)\n",
        new="        claim = evolve(record, owner=owner, attempts=record.attempts + 1)\n",
        breaks="nobody_sends_without_a_lease",
        scenario=BAD_STORE,
    ),
    Mutant(
        line="[3] it goes on although another was first",
        module=REFRESH,
        old="    if claim is None:\n        return None\n",
        new="    if claim is None:\n        claim = evolve(record, owner=owner)\n",
        breaks="nobody_sends_without_a_lease",
        scenario=SCENARIOS["calm"],
    ),
    Mutant(
        line="[3] the same, and a strict bank revokes the grant",
        module=REFRESH,
        old="    if claim is None:\n        return None\n",
        new="    if claim is None:\n        claim = evolve(record, owner=owner)\n",
        breaks="without_disturbance_the_grant_lives",
        scenario=QUIET,
    ),
    Mutant(
        line="[4] a call that could outlast the lease is begun",
        module=REFRESH,
        old="        if job.monotonic() - claimed_at + job.deadline > job.lease:\n",
        new="        if False:\n",
        breaks="nobody_begins_what_could_outlast_the_lease",
        scenario=SCENARIOS["pauses"],
    ),
    Mutant(
        line="[5] a pair is judged before it is stored",
        module=REFRESH,
        old="            return (yield from settle(job, claim, token, issued_at, seconds))\n",
        new="            if job.monotonic() - claimed_at > job.lease:\n"
        "                return None\n"
        "            return (yield from settle(job, claim, token, issued_at, seconds))\n",
        breaks="every_received_pair_is_kept",
        scenario=SCENARIOS["pauses"],
    ),
    Mutant(
        line="[6] a pair that comes home after the revocation stays alive",
        module=REFRESH,
        old="    if revoked:\n",
        new="    if False:\n",
        breaks="a_confirmed_revocation_leaves_nothing_alive",
        scenario=REVOKING,
    ),
    Mutant(
        line="[7] nobody tries the pair in the journal",
        module=REFRESH,
        old="    if error.needs_consent:\n        # [7]",
        new="    if False:\n        # [7]",
        breaks="no_live_pair_is_given_up",
        scenario=LATE_PAIRS,
    ),
    Mutant(
        line="[8] whoever lost its lease reports its failure",
        module=REFRESH,
        old="    return None, None if held_lease is False else result\n",
        new="    return None, result\n",
        breaks="nobody_fails_where_another_has_brought_a_token",
        scenario=LATE_PAIRS,
    ),
    Mutant(
        line="[9] an uncertain attempt is not kept on record",
        module=REFRESH,
        old="        state, attempts = State.UNCERTAIN, claim.attempts\n",
        new="        state, attempts = State.UNCERTAIN, claim.attempts - 1\n",
        breaks="no_refresh_token_is_presented_more_than_twice",
        scenario=UNCERTAIN,
    ),
    Mutant(
        line="[10] a result that cannot be written is dropped",
        module=REFRESH,
        old="            time_left = yield Wait(pause, has_unsaved_result=True)\n",
        new="            return None\n",
        breaks="every_received_pair_is_kept",
        scenario=BAD_STORE,
    ),
    Mutant(
        line="retry_until_stored: the second try of a new consent's pair does not look first",
        module=CONSENT,
        old="yield from retry_until_stored(put, result, is_done)",
        new="yield from retry_until_stored(put, result)",
        breaks="a_live_pair_is_never_overwritten_by_a_dead_one",
        scenario=LATE_CONSENTS,
    ),
    Mutant(
        line="revoke: pairs of a newer consent are revoked with the old ones",
        module=CONSENT,
        old=" if entry.consent <= record.consent]",
        new="]",
        breaks="a_new_consent_survives_the_revocation_of_the_old",
        scenario=evolve(SCENARIOS["revocations"], jump=0.08, tasks=5, hold=0.5),
    ),
    Mutant(
        line="settle: a result that is written late serves a revoked grant",
        module=REFRESH,
        old="    if settlement.stored and not revoked:\n",
        new="    if settlement.stored:\n",
        breaks="nobody_is_served_from_a_revoked_grant",
        scenario=evolve(SCENARIOS["revocations"], store=0.2),
    ),
    Mutant(
        line="pause: other failures delay the replay out of the bank's window",
        module=REFRESH,
        old="claim.attempts if uncertain else job.failures + 1",
        new="job.failures + 1",
        breaks="a_lost_reply_is_healed_by_a_bank_that_forgives",
        scenario=SCENARIOS["lossy"],
    ),
    Mutant(
        line="pair in a refusal: the attempt is not kept on record",
        module=REFRESH,
        old="    elif error.outcome is Outcome.UNCERTAIN or error.token is not None:\n",
        new="    elif error.outcome is Outcome.UNCERTAIN:\n",
        breaks="no_refresh_token_is_presented_more_than_twice",
        scenario=evolve(UNCERTAIN, fates=(Fate.REJECTED_WITH_PAIR,)),
    ),
    Mutant(
        line="decide: a third presentation is allowed",
        module=POLICY,
        old="    if uncertain > 1:\n",
        new="    if False:\n",
        breaks="no_refresh_token_is_presented_more_than_twice",
        scenario=UNCERTAIN,
    ),
    Mutant(
        line="decide: a running lease is not waited for",
        module=POLICY,
        old="    if record.state is State.REFRESHING and record.lease_left > 0:\n",
        new="    if False:\n",
        breaks="everyone_ends_with_a_token_or_a_typed_error",
        scenario=SCENARIOS["crashes"],
    ),
    Mutant(
        line="decide: a revoked grant is not refused",
        module=POLICY,
        old="    if record.state is State.REVOKED or record.token is None:\n",
        new="    if record.token is None:\n",
        breaks="everyone_ends_with_a_token_or_a_typed_error",
        scenario=evolve(SCENARIOS["revocations"], mishap=0.5),
    ),
    Mutant(
        line="claim: goes by attempts alone",
        module=RULES,
        old="    if (record.generation, record.attempts) != (seen.generation, seen.attempts):\n",
        new="    if record.attempts != seen.attempts:\n",
        breaks="one_expired_token_is_refreshed_once",
        scenario=QUIET,
    ),
    Mutant(
        line="claim: goes by generation alone",
        module=RULES,
        old="    if (record.generation, record.attempts) != (seen.generation, seen.attempts):\n",
        new="    if record.generation != seen.generation:\n",
        breaks="no_refresh_token_is_presented_more_than_twice",
        scenario=evolve(MANY_PAUSES, fates=(Fate.REQUEST_LOST,), mishap=0.5),
    ),
    Mutant(
        line="claim: a running lease can be taken",
        module=RULES,
        old="    is_free = record.lease_left <= 0 and record.pause_left <= 0\n",
        new="    is_free = record.pause_left <= 0\n",
        breaks="a_second_presentation_needs_a_doubt",
        scenario=MANY_PAUSES,
    ),
    Mutant(
        line="settle: goes by generation and owner",
        module=MEMORY,
        old="            if record and record.generation == claim.generation:\n",
        new="            if record and is_latest_claim(record, claim):\n",
        breaks="no_live_pair_is_given_up",
        scenario=LATE_PAIRS,
    ),
    Mutant(
        line="settle: goes by nothing",
        module=MEMORY,
        old="            if record and record.generation == claim.generation:\n",
        new="            if record:\n",
        breaks="an_old_consent_never_comes_back",
        scenario=SCENARIOS["consents"],
    ),
    Mutant(
        line="settle: a pair that comes too late is not kept",
        module=MEMORY,
        old="                grant.add_to_journal(claim, token, Origin.SUPERSEDED, now, ahead=1)\n",
        new="                pass\n",
        breaks="every_received_pair_is_kept",
        scenario=SCENARIOS["consents"],
    ),
    Mutant(
        line="release: goes by generation alone",
        module=RULES,
        old="    return (record.generation, record.owner) == (claim.generation, claim.owner)\n",
        new="    return record.generation == claim.generation\n",
        breaks="a_second_presentation_needs_a_doubt",
        scenario=MANY_PAUSES,
    ),
    Mutant(
        line="release: goes by owner alone",
        module=RULES,
        old="    return (record.generation, record.owner) == (claim.generation, claim.owner)\n",
        new="    return record.owner == claim.owner\n",
        breaks="no_live_pair_is_given_up",
        scenario=LATE_AND_BAD_STORE,
    ),
    Mutant(
        line="put: leaves the generation as it is",
        module=MEMORY,
        old="evolve(pair, consent=record.consent + 1)",
        new="evolve(pair, generation=record.generation, consent=record.consent + 1)",
        breaks="an_old_consent_never_comes_back",
        scenario=SCENARIOS["consents"],
    ),
    Mutant(
        line="revoke: leaves the generation as it is",
        module=RULES,
        old="    generation = record.generation + 1\n    return evolve(\n",
        new="    generation = record.generation\n    return evolve(\n",
        breaks="what_was_revoked_stays_revoked",
        scenario=SCENARIOS["revocations"],
    ),
    Mutant(
        line="salvage: takes a pair of another consent",
        module=RULES,
        old=" and entry.consent == record.consent",
        new="",
        breaks="an_old_consent_never_comes_back",
        scenario=evolve(
            SCENARIOS["consents"], banks=("last lives", "refusing"), jump=0.1, hold=0.4, tasks=4
        ),
    ),
    Mutant(
        line="salvage: takes a pair that was stored in its time",
        module=RULES,
        old="        fits = fits and entry.generation >= oldest\n",
        new="",
        breaks="a_second_presentation_needs_a_doubt",
        scenario=STORED_ONCE,
    ),
    Mutant(
        line="settle: a refresh token that may be spent is as good as new",
        module=RULES,
        old="attempts=record.attempts if state is State.UNCERTAIN else 0",
        new="attempts=int(state is State.UNCERTAIN)",
        breaks="no_refresh_token_is_presented_more_than_twice",
        scenario=evolve(UNCERTAIN, fates=(Fate.UNREADABLE,)),
    ),
)
"""All of them, in the order of the protocol. A line that is not here is not needed for safety."""


def seeds_until_broken(one: Mutant) -> int | None:
    """Return how many seeds it takes to break the promise.

    None if the mutant keeps it, or if the real code breaks it with the same seed.
    """
    code = mutant({one.module: [(one.old, one.new)]})
    keeps = INVARIANTS[one.breaks]
    for seed in range(MOST_SEEDS):
        world, kind = play(one.scenario, seed, code=code)
        if keeps(world.facts, kind) is not None:
            world, kind = play(one.scenario, seed)
            return seed + 1 if keeps(world.facts, kind) is None else None
    return None
