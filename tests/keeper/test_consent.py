"""How a grant begins and ends: authorization, revocation, and both in the middle of a refresh."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blink_oauth import (
    BlinkError,
    Grant,
    InvalidGrantError,
    InvalidInputError,
    Outcome,
    RevocationError,
    Token,
)
from blink_oauth_keeper import ConsentNeededError, EventName, MemoryTokenStore, UnknownGrantError
from blink_oauth_keeper.store.protocol import Origin, State
from keeper.stage import (
    DAY,
    PATIENCE,
    PSU,
    REDIRECT_URI,
    Answer,
    Gate,
    Stage,
    eventually,
    honest,
    lost,
    never_arrived,
    says,
    unreachable,
    with_members,
)

GRANT = Grant("IIDX00001", "u-4711")


def authorize(stage: Stage, code: str | None = None) -> Token:
    """Exchange a new code, or this one."""
    return stage.manager.authorize(
        GRANT, code=code or stage.banks.issue_code(GRANT), redirect_uri=REDIRECT_URI, psu=PSU
    )


def refused(stage: Stage) -> BlinkError:
    """Return the error that a caller gets."""
    with pytest.raises(BlinkError) as caught:
        stage.manager.get(GRANT)
    return caught.value


# Authorization


def test_a_code_is_exchanged_and_the_pair_stored(stage: Stage) -> None:
    token = authorize(stage)
    record = stage.record(GRANT)
    assert (record.generation, record.consent, record.state) == (1, 1, State.ACTIVE)
    assert stage.manager.get(GRANT).access_token == token.access_token
    assert stage.banks.is_alive(GRANT, token)
    assert stage.banks.posts[0].psu_ip == PSU.ip
    assert stage.names() == [EventName.AUTHORIZED]


@pytest.mark.anyio
async def test_a_coroutine_exchanges_a_code(stage: Stage) -> None:
    code = stage.banks.issue_code(GRANT)
    token = await stage.manager.aauthorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert (await stage.manager.aget(GRANT)).access_token == token.access_token


@pytest.mark.anyio
async def test_the_pair_is_stored_although_the_coroutine_is_cancelled(stage: Stage) -> None:
    gate = Gate()
    stage.banks.answer(gate, kind="authorization_code")
    code = stage.banks.issue_code(GRANT)
    task = asyncio.create_task(
        stage.manager.aauthorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    )
    await gate.held_up()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    stage.calm()
    assert stage.record(GRANT).generation == 1


def test_a_code_that_the_bank_refuses_stores_nothing(stage: Stage) -> None:
    with pytest.raises(InvalidGrantError) as caught:
        authorize(stage, "fake-code-that-nobody-issued")
    assert caught.value.needs_consent
    assert stage.memory.load(stage.key(GRANT)) is None
    assert stage.names() == [EventName.AUTHORIZATION_FAILED]
    assert isinstance(refused(stage), UnknownGrantError)


def test_a_failed_consent_leaves_the_one_before_as_it_is(stage: Stage) -> None:
    token = authorize(stage)
    stage.banks.answer(never_arrived, kind="authorization_code")
    with pytest.raises(BlinkError) as caught:
        authorize(stage)
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert stage.manager.get(GRANT).access_token == token.access_token
    assert stage.record(GRANT).consent == 1


def test_a_code_is_never_sent_twice(stage: Stage) -> None:
    stage.banks.answer(lost, kind="authorization_code")
    with pytest.raises(BlinkError):
        authorize(stage)
    stage.advance(120)
    assert len(stage.banks.presented("authorization_code")) == 1


def test_a_pair_in_an_answer_that_says_it_failed_is_a_pair(stage: Stage) -> None:
    stage.banks.answer(with_members(status=500), kind="authorization_code")
    token = authorize(stage)
    assert stage.banks.is_alive(GRANT, token)
    assert stage.record(GRANT).generation == 1


def test_a_pair_without_a_refresh_token_lives_as_long_as_its_access_token(stage: Stage) -> None:
    stage.banks.answer(with_members(refresh_token=None), kind="authorization_code")
    token = authorize(stage)
    assert stage.record(GRANT).idle_until is None
    stage.advance(DAY - 30)
    assert stage.manager.get(GRANT).access_token == token.access_token
    stage.advance(31)
    assert isinstance(refused(stage), ConsentNeededError)
    assert stage.banks.presented() == []


@pytest.mark.parametrize("code", ["", None, 4711])
def test_what_is_no_code_is_refused_before_anything_is_sent(stage: Stage, code: Any) -> None:
    with pytest.raises(InvalidInputError, match="authorization code"):
        stage.manager.authorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert stage.banks.posts == []


def test_a_callback_that_cannot_be_sent_does_not_spend_the_code(stage: Stage) -> None:
    code = stage.banks.issue_code(GRANT)
    for _ in range(3):
        with pytest.raises(InvalidInputError, match="redirect_uri"):
            stage.manager.authorize(GRANT, code=code, redirect_uri="no url", psu=PSU)
    assert stage.banks.posts == []
    authorize(stage, code)
    # Nor is the bank held to be out of order for it.
    stage.advance(DAY + 1)
    assert stage.manager.get(GRANT)


def test_a_new_consent_takes_the_place_of_the_one_before(stage: Stage) -> None:
    first = authorize(stage)
    stage.advance(3600)
    second = authorize(stage)
    record = stage.record(GRANT)
    assert (record.generation, record.consent) == (2, 2)
    assert stage.manager.get(GRANT).access_token == second.access_token
    (entry,) = stage.memory.journal_entries(stage.key(GRANT))
    assert entry.origin is Origin.REPLACED
    assert entry.token.access_token == first.access_token


def test_a_consent_during_a_refresh_wins_and_the_late_pair_is_kept(stage: Stage) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    token = authorize(stage)
    gate.open()
    assert caller.result(PATIENCE).access_token == token.access_token
    stage.calm()
    record = stage.record(grant)
    assert (record.generation, record.consent, record.state) == (2, 2, State.ACTIVE)
    assert stage.manager.get(grant).access_token == token.access_token
    origins = {entry.origin for entry in stage.memory.journal_entries(stage.key(grant))}
    assert origins == {Origin.REPLACED, Origin.SUPERSEDED}
    assert EventName.SUPERSEDED in stage.names()


def test_a_refresh_that_fails_during_a_new_consent_does_not_harm_it(stage: Stage) -> None:
    grant = stage.expired()
    gate = Gate(says(400, {"error": "invalid_grant"}))
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    token = authorize(stage)
    gate.open()
    assert caller.result(PATIENCE).access_token == token.access_token
    assert stage.record(grant).state is State.ACTIVE


def test_a_pair_of_an_older_consent_is_never_tried_for_a_newer_one(stage: Stage) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    authorize(stage)
    gate.open()
    caller.result(PATIENCE)
    stage.advance(DAY + 1)
    stage.banks.answer(says(400, {"error": "invalid_grant"}))
    assert refused(stage).needs_consent
    assert len(stage.banks.presented()) == 2


# Revocation


def test_a_revocation_ends_both_tokens_at_the_bank_and_here(stage: Stage) -> None:
    token = authorize(stage)
    assert token.refresh_token is not None
    stage.manager.revoke(GRANT)
    revoked = stage.banks.presented("revoke")
    assert revoked == [token.refresh_token.reveal(), token.access_token.reveal()]
    assert not stage.banks.of().is_alive(token.access_token.reveal())
    record = stage.record(GRANT)
    assert (record.state, record.token) == (State.REVOKED, None)
    assert isinstance(refused(stage), ConsentNeededError)
    assert stage.names()[-1] is EventName.REVOKED


@pytest.mark.anyio
async def test_a_coroutine_revokes(stage: Stage) -> None:
    code = stage.banks.issue_code(GRANT)
    await stage.manager.aauthorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    await stage.manager.arevoke(GRANT, psu=PSU)
    with pytest.raises(ConsentNeededError):
        await stage.manager.aget(GRANT)
    assert {post.psu_ip for post in stage.banks.posts} == {PSU.ip}


def test_what_is_not_known_cannot_be_revoked(stage: Stage) -> None:
    with pytest.raises(UnknownGrantError):
        stage.manager.revoke(GRANT)


def test_every_pair_of_the_grant_is_revoked(stage: Stage) -> None:
    first = authorize(stage)
    stage.advance(3600)
    second = authorize(stage)
    stage.manager.revoke(GRANT)
    revoked = set(stage.banks.presented("revoke"))
    for token in (first, second):
        assert token.refresh_token is not None
        assert {token.access_token.reveal(), token.refresh_token.reveal()} <= revoked
    assert stage.memory.journal_entries(stage.key(GRANT)) == ()


def test_nobody_gets_the_token_while_the_bank_is_being_told(stage: Stage) -> None:
    authorize(stage)
    gate = Gate(first=True)
    stage.banks.answer(gate, kind="revoke")
    revoking = stage.aside(lambda: stage.manager.revoke(GRANT))
    gate.wait()
    assert isinstance(refused(stage), ConsentNeededError)
    assert not revoking.done()
    gate.open()
    revoking.result(PATIENCE)


@pytest.mark.parametrize("answer", [unreachable, lost, says(503)])
def test_a_revocation_that_fails_at_the_bank_is_told_and_can_be_repeated(
    stage: Stage, answer: Answer
) -> None:
    token = authorize(stage)
    stage.banks.always(answer, kind="revoke")
    with pytest.raises(RevocationError, match="alive"):
        stage.manager.revoke(GRANT)
    assert stage.names()[-1] is EventName.REVOCATION_FAILED
    assert stage.record(GRANT).state is State.REVOKED
    assert stage.record(GRANT).token is not None
    assert isinstance(refused(stage), ConsentNeededError)
    stage.banks.always(honest, kind="revoke")
    stage.manager.revoke(GRANT)
    assert stage.record(GRANT).token is None
    assert not stage.banks.of().is_alive(token.access_token.reveal())


def test_one_pair_that_cannot_be_revoked_does_not_keep_the_others_alive(stage: Stage) -> None:
    first = authorize(stage)
    stage.advance(3600)
    authorize(stage)
    stage.banks.answer(unreachable, unreachable, kind="revoke")
    with pytest.raises(RevocationError):
        stage.manager.revoke(GRANT)
    assert first.access_token.reveal() in stage.banks.presented("revoke")
    assert not stage.banks.of().is_alive(first.access_token.reveal())
    assert len(stage.memory.journal_entries(stage.key(GRANT))) == 1


def test_a_second_revocation_does_no_harm(stage: Stage) -> None:
    authorize(stage)
    stage.manager.revoke(GRANT)
    stage.manager.revoke(GRANT)
    assert len(stage.banks.presented("revoke")) == 2
    assert stage.record(GRANT).generation == 2


def test_after_a_revocation_a_new_consent_begins_anew(stage: Stage) -> None:
    authorize(stage)
    stage.manager.revoke(GRANT)
    token = authorize(stage)
    assert stage.manager.get(GRANT).access_token == token.access_token
    assert (stage.record(GRANT).state, stage.record(GRANT).consent) == (State.ACTIVE, 2)


def test_a_pair_that_comes_home_after_the_revocation_is_revoked_too(stage: Stage) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: refused(stage))
    gate.wait()
    stage.manager.revoke(grant)
    before = len(stage.banks.presented("revoke"))
    gate.open()
    assert isinstance(caller.result(PATIENCE), ConsentNeededError)
    stage.calm()
    assert len(stage.banks.presented("revoke")) == before + 2
    assert stage.record(grant).state is State.REVOKED


@pytest.mark.parametrize("closed", [False, True])
def test_a_late_pair_that_cannot_be_revoked_is_told_and_kept(stage: Stage, closed: bool) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: refused(stage))
    gate.wait()
    stage.manager.revoke(grant)
    stage.banks.always(unreachable, kind="revoke")
    if closed:
        stage.blink.close()
    gate.open()
    assert isinstance(caller.result(PATIENCE), ConsentNeededError)
    assert stage.names()[-2:] == [EventName.SUPERSEDED, EventName.REVOCATION_FAILED]
    (entry,) = stage.memory.journal_entries(stage.key(grant))
    assert entry.origin is Origin.SUPERSEDED


def test_a_grant_that_vanished_from_the_store_leaves_nothing_alive(stage: Stage) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: refused(stage))
    gate.wait()
    stage.shaky.inner = MemoryTokenStore(clock=stage.time.now)
    gate.open()
    assert isinstance(caller.result(PATIENCE), UnknownGrantError)
    assert len(stage.banks.presented("revoke")) == 2
    assert stage.store.load(stage.key(grant)) is None


def test_a_journal_that_cannot_be_read_stops_a_revocation(stage: Stage) -> None:
    authorize(stage)
    stage.shaky.go_down("journal_entries")
    with pytest.raises(BlinkError):
        stage.manager.revoke(GRANT)
    assert isinstance(refused(stage), ConsentNeededError)
    stage.shaky.come_back()
    stage.manager.revoke(GRANT)
    assert len(stage.banks.presented("revoke")) == 2


def test_a_revocation_that_the_bank_confirmed_does_not_wait_for_the_store(stage: Stage) -> None:
    authorize(stage)
    stage.shaky.go_down("erase")
    stage.manager.revoke(GRANT)
    assert stage.record(GRANT).token is not None
    stage.shaky.come_back()
    stage.advance(1)
    eventually(lambda: stage.record(GRANT).token is None)
    assert stage.names()[-3:] == [
        EventName.UNSETTLED,
        EventName.SETTLED_LATE,
        EventName.REVOKED,
    ]
