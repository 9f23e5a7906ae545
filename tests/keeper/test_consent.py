"""Authorization and revocation, on their own and during a refresh."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import evolve

from blink_oauth import (
    BlinkError,
    Grant,
    InvalidGrantError,
    InvalidInputError,
    Outcome,
    RevocationError,
    Token,
)
from blink_oauth_keeper import (
    ConsentNeededError,
    EventName,
    GrantKey,
    MemoryTokenStore,
    SealError,
    UnknownGrantError,
)
from blink_oauth_keeper.store.protocol import Origin, Record, State
from blink_oauth_keeper.store.rules import without_metadata
from keeper.harness import (
    DAY,
    PSU,
    REDIRECT_URI,
    TIMEOUT,
    Gate,
    Harness,
    Responder,
    bank_response,
    connection_refused,
    request_lost,
    response_lost,
    status_response,
    wait_until,
    with_members,
)

GRANT = Grant("IIDX00001", "u-4711")


def authorize(harness: Harness, code: str | None = None) -> Token:
    """Exchange a given code, or a new one."""
    return harness.manager.authorize(
        GRANT, code=code or harness.banks.issue_code(GRANT), redirect_uri=REDIRECT_URI, psu=PSU
    )


def get_error(harness: Harness) -> BlinkError:
    """Return the error that `get` raises."""
    with pytest.raises(BlinkError) as caught:
        harness.manager.get(GRANT)
    return caught.value


# Authorization


def test_a_code_is_exchanged_and_the_pair_stored(harness: Harness) -> None:
    token = authorize(harness)
    record = harness.record(GRANT)
    assert (record.generation, record.consent, record.state) == (1, 1, State.ACTIVE)
    assert harness.manager.get(GRANT).access_token == token.access_token
    assert harness.banks.accepts(GRANT, token)
    assert harness.banks.requests[0].psu_ip == PSU.ip
    assert harness.event_names() == [EventName.AUTHORIZED]


@pytest.mark.anyio
async def test_a_coroutine_exchanges_a_code(harness: Harness) -> None:
    code = harness.banks.issue_code(GRANT)
    token = await harness.manager.aauthorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert (await harness.manager.aget(GRANT)).access_token == token.access_token


@pytest.mark.anyio
async def test_the_pair_is_stored_although_the_coroutine_is_cancelled(harness: Harness) -> None:
    gate = Gate()
    harness.banks.respond_next(gate, kind="authorization_code")
    code = harness.banks.issue_code(GRANT)
    task = asyncio.create_task(
        harness.manager.aauthorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    )
    await gate.async_wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    harness.wait_until_idle()
    assert harness.record(GRANT).generation == 1


def test_after_a_refused_code_nothing_is_stored(harness: Harness) -> None:
    with pytest.raises(InvalidGrantError) as caught:
        authorize(harness, "fake-unknown-code")
    assert caught.value.needs_consent
    assert harness.memory.load(harness.key(GRANT)) is None
    assert harness.event_names() == [EventName.AUTHORIZATION_FAILED]
    assert isinstance(get_error(harness), UnknownGrantError)


def test_a_failed_code_exchange_leaves_the_previous_consent_unchanged(harness: Harness) -> None:
    token = authorize(harness)
    harness.banks.respond_next(request_lost, kind="authorization_code")
    with pytest.raises(BlinkError) as caught:
        authorize(harness)
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert harness.manager.get(GRANT).access_token == token.access_token
    assert harness.record(GRANT).consent == 1


def test_a_code_is_never_sent_twice(harness: Harness) -> None:
    harness.banks.respond_next(response_lost, kind="authorization_code")
    with pytest.raises(BlinkError):
        authorize(harness)
    harness.advance(120)
    assert len(harness.banks.presented("authorization_code")) == 1


def test_a_pair_in_an_error_response_is_stored(harness: Harness) -> None:
    harness.banks.respond_next(with_members(status=500), kind="authorization_code")
    token = authorize(harness)
    assert harness.banks.accepts(GRANT, token)
    assert harness.record(GRANT).generation == 1


def test_without_a_refresh_token_a_grant_ends_with_its_access_token(harness: Harness) -> None:
    harness.banks.respond_next(with_members(refresh_token=None), kind="authorization_code")
    token = authorize(harness)
    assert harness.record(GRANT).idle_until is None
    harness.advance(DAY - 30)
    assert harness.manager.get(GRANT).access_token == token.access_token
    harness.advance(31)
    assert isinstance(get_error(harness), ConsentNeededError)
    assert harness.banks.presented() == []


@pytest.mark.parametrize("code", ["", None, 4711])
def test_an_invalid_code_is_refused_before_anything_is_sent(harness: Harness, code: Any) -> None:
    with pytest.raises(InvalidInputError, match="authorization code"):
        harness.manager.authorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert harness.banks.requests == []


def test_an_invalid_redirect_uri_does_not_spend_the_code(harness: Harness) -> None:
    code = harness.banks.issue_code(GRANT)
    for _ in range(3):
        with pytest.raises(InvalidInputError, match="redirect_uri"):
            harness.manager.authorize(GRANT, code=code, redirect_uri="no url", psu=PSU)
    assert harness.banks.requests == []
    authorize(harness, code)
    # The attempts do not count as failures of the target either.
    harness.advance(DAY + 1)
    assert harness.manager.get(GRANT)


def test_a_new_consent_replaces_the_previous_one(harness: Harness) -> None:
    first = authorize(harness)
    harness.advance(3600)
    second = authorize(harness)
    record = harness.record(GRANT)
    assert (record.generation, record.consent) == (2, 2)
    assert harness.manager.get(GRANT).access_token == second.access_token
    (entry,) = harness.memory.journal_entries(harness.key(GRANT))
    assert entry.origin is Origin.REPLACED
    assert entry.token.access_token == first.access_token


def test_a_consent_during_a_refresh_wins_and_the_late_pair_is_journaled(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    token = authorize(harness)
    gate.open()
    assert caller.result(TIMEOUT).access_token == token.access_token
    harness.wait_until_idle()
    record = harness.record(grant)
    assert (record.generation, record.consent, record.state) == (2, 2, State.ACTIVE)
    assert harness.manager.get(grant).access_token == token.access_token
    origins = {entry.origin for entry in harness.memory.journal_entries(harness.key(grant))}
    assert origins == {Origin.REPLACED, Origin.SUPERSEDED}
    assert EventName.SUPERSEDED in harness.event_names()


def test_a_refresh_that_fails_during_a_new_consent_does_not_change_it(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate(status_response(400, {"error": "invalid_grant"}))
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    token = authorize(harness)
    gate.open()
    assert caller.result(TIMEOUT).access_token == token.access_token
    assert harness.record(grant).state is State.ACTIVE


def test_a_pair_of_an_older_consent_is_never_salvaged_for_a_newer_one(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    authorize(harness)
    gate.open()
    caller.result(TIMEOUT)
    harness.advance(DAY + 1)
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    assert get_error(harness).needs_consent
    assert len(harness.banks.presented()) == 2


# Revocation


def test_a_revocation_revokes_both_tokens_and_erases_the_pair(harness: Harness) -> None:
    token = authorize(harness)
    assert token.refresh_token is not None
    harness.manager.revoke(GRANT)
    revoked = harness.banks.presented("revoke")
    assert revoked == [token.refresh_token.reveal(), token.access_token.reveal()]
    assert not harness.banks.bank().accepts(token.access_token.reveal())
    record = harness.record(GRANT)
    assert (record.state, record.token) == (State.REVOKED, None)
    assert isinstance(get_error(harness), ConsentNeededError)
    assert harness.event_names()[-1] is EventName.REVOKED


@pytest.mark.anyio
async def test_a_coroutine_revokes(harness: Harness) -> None:
    code = harness.banks.issue_code(GRANT)
    await harness.manager.aauthorize(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    await harness.manager.arevoke(GRANT, psu=PSU)
    with pytest.raises(ConsentNeededError):
        await harness.manager.aget(GRANT)
    assert {request.psu_ip for request in harness.banks.requests} == {PSU.ip}


def test_an_unknown_grant_cannot_be_revoked(harness: Harness) -> None:
    with pytest.raises(UnknownGrantError):
        harness.manager.revoke(GRANT)


def test_every_pair_of_the_grant_is_revoked(harness: Harness) -> None:
    first = authorize(harness)
    harness.advance(3600)
    second = authorize(harness)
    harness.manager.revoke(GRANT)
    revoked = set(harness.banks.presented("revoke"))
    for token in (first, second):
        assert token.refresh_token is not None
        assert {token.access_token.reveal(), token.refresh_token.reveal()} <= revoked
    assert harness.memory.journal_entries(harness.key(GRANT)) == ()


def test_no_caller_gets_the_token_while_the_bank_revokes_it(harness: Harness) -> None:
    authorize(harness)
    gate = Gate(holds_request=True)
    harness.banks.respond_next(gate, kind="revoke")
    revoking = harness.in_thread(lambda: harness.manager.revoke(GRANT))
    gate.wait()
    assert isinstance(get_error(harness), ConsentNeededError)
    assert not revoking.done()
    gate.open()
    revoking.result(TIMEOUT)


@pytest.mark.parametrize(
    ("responder", "state"),
    [
        (connection_refused, "was not revoked"),
        (response_lost, "may be revoked or not"),
        (status_response(503), "may be revoked or not"),
    ],
)
def test_a_revocation_that_fails_at_the_bank_raises_and_can_be_repeated(
    harness: Harness, responder: Responder, state: str
) -> None:
    token = authorize(harness)
    harness.banks.respond_always(responder, kind="revoke")
    with pytest.raises(RevocationError, match=f"refresh token {state}"):
        harness.manager.revoke(GRANT)
    assert harness.event_names()[-1] is EventName.REVOCATION_FAILED
    assert harness.record(GRANT).state is State.REVOKING
    assert harness.record(GRANT).token is not None
    assert isinstance(get_error(harness), ConsentNeededError)
    harness.banks.respond_always(bank_response, kind="revoke")
    harness.manager.revoke(GRANT)
    assert (harness.record(GRANT).state, harness.record(GRANT).token) == (State.REVOKED, None)
    assert not harness.banks.bank().accepts(token.access_token.reveal())


def test_if_one_pair_cannot_be_revoked_the_others_are_revoked_all_the_same(
    harness: Harness,
) -> None:
    first = authorize(harness)
    harness.advance(3600)
    authorize(harness)
    harness.banks.respond_next(connection_refused, connection_refused, kind="revoke")
    with pytest.raises(RevocationError):
        harness.manager.revoke(GRANT)
    assert first.access_token.reveal() in harness.banks.presented("revoke")
    assert not harness.banks.bank().accepts(first.access_token.reveal())
    assert len(harness.memory.journal_entries(harness.key(GRANT))) == 1


def test_a_second_revocation_sends_nothing(harness: Harness) -> None:
    authorize(harness)
    harness.manager.revoke(GRANT)
    harness.manager.revoke(GRANT)
    assert len(harness.banks.presented("revoke")) == 2
    assert harness.record(GRANT).generation == 2


def test_after_a_revocation_a_new_consent_makes_the_grant_usable_again(harness: Harness) -> None:
    authorize(harness)
    harness.manager.revoke(GRANT)
    token = authorize(harness)
    assert harness.manager.get(GRANT).access_token == token.access_token
    assert (harness.record(GRANT).state, harness.record(GRANT).consent) == (State.ACTIVE, 2)


def test_a_pair_that_is_received_after_the_revocation_is_revoked_too(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: get_error(harness))
    gate.wait()
    harness.manager.revoke(grant)
    before = len(harness.banks.presented("revoke"))
    gate.open()
    assert isinstance(caller.result(TIMEOUT), ConsentNeededError)
    harness.wait_until_idle()
    assert len(harness.banks.presented("revoke")) == before + 2
    assert harness.record(grant).state is State.REVOKED


@pytest.mark.parametrize("closed", [False, True])
def test_a_late_pair_that_cannot_be_revoked_is_reported_and_journaled(
    harness: Harness, closed: bool
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: get_error(harness))
    gate.wait()
    harness.manager.revoke(grant)
    harness.banks.respond_always(connection_refused, kind="revoke")
    if closed:
        harness.blink.close()
    gate.open()
    assert isinstance(caller.result(TIMEOUT), ConsentNeededError)
    assert harness.event_names()[-2:] == [EventName.SUPERSEDED, EventName.REVOCATION_FAILED]
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert entry.origin is Origin.SUPERSEDED


def test_a_pair_that_is_received_after_the_store_lost_the_grant_is_stored(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    harness.faulty.inner = MemoryTokenStore(clock=harness.clock.now)
    gate.open()
    token = caller.result(TIMEOUT)
    assert harness.banks.accepts(grant, token)
    record = harness.store.load(harness.key(grant))
    assert record is not None
    assert (record.generation, record.token) == (2, without_metadata(token))
    assert harness.banks.presented("revoke") == []


def test_a_revocation_sends_nothing_if_the_journal_cannot_be_read(harness: Harness) -> None:
    authorize(harness)
    harness.faulty.fail("journal_entries")
    with pytest.raises(BlinkError):
        harness.manager.revoke(GRANT)
    assert isinstance(get_error(harness), ConsentNeededError)
    harness.faulty.recover()
    harness.manager.revoke(GRANT)
    assert len(harness.banks.presented("revoke")) == 2


def test_a_revocation_returns_before_an_unavailable_store_has_erased_the_pair(
    harness: Harness,
) -> None:
    authorize(harness)
    harness.faulty.fail("erase")
    harness.manager.revoke(GRANT)
    assert harness.record(GRANT).token is not None
    harness.faulty.recover()
    harness.advance(1)
    wait_until(lambda: harness.record(GRANT).token is None)
    assert harness.event_names()[-3:] == [
        EventName.UNSETTLED,
        EventName.SETTLED_LATE,
        EventName.REVOKED,
    ]


def test_a_record_that_was_altered_does_not_stop_a_new_consent(harness: Harness) -> None:
    grant = harness.authorize()
    error = SealError("Fake: the pair was altered.")
    error.altered = True
    error.record = evolve(harness.record(grant), token=None, error="SealError")

    def load(_: GrantKey) -> Record | None:
        raise error

    harness.faulty.replacements["load"] = load
    harness.authorize(grant.username)
    record = harness.record(grant)
    assert (record.generation, record.consent, record.state) == (2, 2, State.ACTIVE)
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert entry.origin is Origin.REPLACED


def test_a_code_is_not_sent_while_the_key_of_the_record_is_missing(harness: Harness) -> None:
    grant = harness.authorize()
    error = SealError("Fake: the key is missing.")
    error.record = evolve(harness.record(grant), token=None, error="SealError")

    def load(_: GrantKey) -> Record | None:
        raise error

    harness.faulty.replacements["load"] = load
    with pytest.raises(SealError, match="not spent"):
        harness.authorize(grant.username)
    assert len(harness.banks.presented("authorization_code")) == 1
    assert harness.record(grant).consent == 1
