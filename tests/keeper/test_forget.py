"""A grant that is forgotten is revoked, and then nothing of the customer stays in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from attrs import evolve

from blink_oauth import BlinkError, Grant, InvalidInputError, RevocationError, Token
from blink_oauth_keeper import (
    ConsentNeededError,
    EventName,
    Report,
    StoreError,
    TokenManager,
    UnknownGrantError,
)
from blink_oauth_keeper.store.protocol import Note, Origin, State
from keeper.harness import (
    PSU,
    REDIRECT_URI,
    TARGET,
    TIMEOUT,
    UNKNOWN_GRANT,
    Gate,
    Harness,
    connection_refused,
    wait_until,
)

MARK = Note(event=EventName.REVOKING)
NAME = "u-4711"


def require_forgotten(harness: Harness, grant: Grant) -> None:
    """Require that the bank accepts nothing, and that the store does not name the customer."""
    record = harness.record(grant)
    assert (record.state, record.token) == (State.FORGOTTEN, None)
    stored = [(key, each.record, each.extras.journal) for key, each in harness.stored.items()]
    assert grant.username not in repr(stored)
    assert list(harness.manager.statuses()) == []
    assert harness.manager.history(grant) == []
    assert harness.manager.refresh_due() == Report()


def pair_of(harness: Harness, grant: Grant) -> Token:
    token = harness.record(grant).token
    assert token is not None
    return token


def is_valid(harness: Harness, grant: Grant, token: Token) -> bool:
    """Return whether the bank still accepts one of the two tokens."""
    bank = harness.banks.bank(grant.target_id)
    assert token.refresh_token is not None
    return any(bank.accepts(text.reveal()) for text in (token.access_token, token.refresh_token))


def get_error(manager: TokenManager, grant: Grant) -> BlinkError:
    with pytest.raises(BlinkError) as error:
        manager.get(grant)
    return error.value


def test_forget_revokes_every_pair_and_leaves_a_tombstone(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    token = pair_of(harness, grant)
    late = evolve(token, access_token="fake-late", refresh_token="fake-late-refresh")
    harness.memory.journal(harness.record(grant), late, origin=Origin.ERROR)
    foreign = evolve(token, access_token="fake-foreign", refresh_token="fake-foreign-refresh")
    harness.memory.journal(harness.record(grant), foreign, origin=Origin.FOREIGN)
    harness.manager.forget(grant)
    assert not is_valid(harness, grant, token)
    presented = harness.banks.presented("revoke")
    assert {"fake-late", "fake-late-refresh"} <= set(presented)
    assert not {"fake-foreign", "fake-foreign-refresh"} & set(presented)
    require_forgotten(harness, grant)
    assert harness.event_names()[-2:] == [EventName.REVOKING, EventName.FORGOTTEN]


def test_forget_is_logged_at_level_info(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "blink_oauth_keeper")
    harness.manager.forget(harness.authorize(NAME))
    (entry,) = [each for each in caplog.records if "grant.forgotten" in each.getMessage()]
    assert entry.levelno == logging.INFO
    assert NAME not in entry.getMessage()


def test_a_coroutine_can_forget(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    asyncio.run(harness.manager.aforget(grant))
    require_forgotten(harness, grant)
    with pytest.raises(UnknownGrantError):
        asyncio.run(harness.manager.aforget(UNKNOWN_GRANT))


def test_callers_of_a_forgotten_grant_are_told_to_authorize(harness: Harness) -> None:
    grant, other = harness.authorize(NAME), harness.make_manager()
    harness.manager.get(grant)
    other.get(grant)
    harness.manager.forget(grant)
    harness.advance(600)
    for manager in (harness.manager, other, harness.make_manager()):
        error = get_error(manager, grant)
        assert isinstance(error, ConsentNeededError)
        assert "The grant was forgotten. Authorize it anew." in str(error)
    status = harness.manager.status(grant)
    assert (status.state, status.usable, status.needs_consent) == (State.FORGOTTEN, False, True)
    require_forgotten(harness, grant)


def test_an_unknown_grant_cannot_be_forgotten_and_leaves_no_history(harness: Harness) -> None:
    harness.memory.add_note(harness.key(UNKNOWN_GRANT), note=MARK)
    with pytest.raises(UnknownGrantError):
        harness.manager.forget(UNKNOWN_GRANT)
    assert harness.manager.history(UNKNOWN_GRANT) == []
    assert harness.banks.presented("revoke") == []


def test_forgetting_and_revoking_a_forgotten_grant_does_nothing(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    harness.manager.forget(grant)
    events, presented = harness.event_names(), harness.banks.presented("revoke")
    harness.manager.forget(grant)
    harness.manager.revoke(grant)
    harness.make_manager().forget(grant)
    assert harness.event_names() == events
    assert harness.banks.presented("revoke") == presented
    require_forgotten(harness, grant)


@pytest.mark.parametrize("finish", ["forget", "revoke", "refresh_due"])
def test_a_revocation_that_failed_erases_nothing_and_is_finished_later(
    harness: Harness, finish: str
) -> None:
    grant = harness.authorize(NAME)
    token = pair_of(harness, grant)
    harness.banks.respond_next(connection_refused, connection_refused, kind="revoke")
    with pytest.raises(RevocationError):
        harness.manager.forget(grant)
    record = harness.record(grant)
    assert (record.state, record.forgetting, record.token) == (State.REVOKING, True, token)
    assert harness.manager.history(grant)
    assert isinstance(get_error(harness.manager, grant), ConsentNeededError)
    other = harness.make_manager()
    if finish == "refresh_due":
        assert other.refresh_due() == Report(revoked=1)
    else:
        getattr(other, finish)(grant)
    assert not is_valid(harness, grant, token)
    require_forgotten(harness, grant)
    assert harness.event_names()[-1] is EventName.FORGOTTEN


@pytest.mark.parametrize("after", ["mark", "bank"])
def test_refresh_due_finishes_a_forgetting_that_was_killed(harness: Harness, after: str) -> None:
    grant = harness.authorize(NAME)
    token = pair_of(harness, grant)
    harness.memory.mark_revoked(harness.key(grant), note=MARK, forget=True)
    if after == "bank":
        harness.blink.revoke(grant, token)
    assert harness.make_manager().refresh_due() == Report(revoked=1)
    assert not is_valid(harness, grant, token)
    require_forgotten(harness, grant)


def test_a_grant_that_was_revoked_before_can_be_forgotten(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    harness.manager.revoke(grant)
    before = harness.banks.presented("revoke")
    harness.manager.forget(grant)
    assert harness.banks.presented("revoke") == before
    require_forgotten(harness, grant)


def test_forget_does_not_return_before_everything_is_deleted(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    harness.faulty.fail("erase")
    with pytest.raises(StoreError):
        harness.manager.forget(grant)
    harness.faulty.recover()
    harness.advance(1)
    wait_until(lambda: harness.record(grant).state is State.FORGOTTEN)
    harness.wait_until_idle()
    require_forgotten(harness, grant)


def test_nothing_is_sent_if_the_store_cannot_mark_the_grant(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    harness.faulty.fail("mark_revoked")
    with pytest.raises(StoreError):
        harness.manager.forget(grant)
    assert harness.banks.presented("revoke") == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_pair_that_arrives_after_the_forgetting_is_revoked_and_forgotten(
    harness: Harness, killed: bool
) -> None:
    harness.banks.set_policy(on_reuse="refuse")
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: get_error(harness.manager, grant))
    gate.wait()
    harness.make_manager().forget(grant)
    assert harness.record(grant).state is State.FORGOTTEN
    if killed:
        harness.banks.respond_next(connection_refused, connection_refused, kind="revoke")
    before = len(harness.banks.presented("revoke"))
    gate.open()
    assert isinstance(caller.result(TIMEOUT), ConsentNeededError)
    harness.wait_until_idle()
    if killed:
        (entry,) = harness.memory.journal_entries(harness.key(grant))
        assert harness.record(grant).forgetting
        assert harness.make_manager().refresh_due() == Report(revoked=1)
        assert not is_valid(harness, grant, entry.token)
    assert len(harness.banks.presented("revoke")) >= before + 2
    assert len(harness.banks.presented()) == 1
    require_forgotten(harness, grant)


def test_a_pair_that_arrives_during_the_forgetting_is_revoked_and_forgotten(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    refreshing, revoking = Gate(), Gate()
    harness.banks.respond_next(refreshing)
    harness.banks.respond_next(revoking, kind="revoke")
    caller = harness.in_thread(lambda: get_error(harness.manager, grant))
    refreshing.wait()
    other = harness.make_manager()
    forgetting = harness.in_thread(lambda: other.forget(grant))
    revoking.wait()
    refreshing.open()
    assert isinstance(caller.result(TIMEOUT), ConsentNeededError)
    revoking.open()
    forgetting.result(TIMEOUT)
    harness.wait_until_idle()
    presented = set(harness.banks.presented("revoke"))
    assert len(presented) == 4
    require_forgotten(harness, grant)


def test_a_process_that_knows_the_grant_writes_nothing_back(harness: Harness) -> None:
    grant, other = harness.authorize(NAME), harness.make_manager()
    other.get(grant)
    harness.manager.forget(grant)
    for _ in range(3):
        harness.advance(400)
        assert isinstance(get_error(other, grant), ConsentNeededError)
        other.refresh_due()
    with pytest.raises(ConsentNeededError):
        other.refresh(grant)
    assert EventName.STORE_BEHIND not in harness.event_names()
    require_forgotten(harness, grant)


def test_a_pair_newer_than_the_store_knew_is_revoked_and_not_used(harness: Harness) -> None:
    # The store went backwards, and a process without the newer pair forgets the grant.
    grant = harness.authorize(NAME)
    restore = harness.back_up()
    harness.advance(60)
    newer = harness.manager.refresh(grant)
    harness.manager.refresh(grant)
    newest = harness.manager.get(grant)
    assert newest != newer
    restore()
    harness.banks.respond_always(connection_refused, kind="revoke")
    other = harness.make_manager()
    with pytest.raises(RevocationError):
        other.forget(grant)
    harness.memory.erase(harness.record(grant), journaled=[], note=MARK)
    assert harness.record(grant).state is State.FORGOTTEN
    harness.banks.respond_always(lambda execute: execute(), kind="revoke")
    harness.advance(600)
    assert isinstance(get_error(harness.manager, grant), ConsentNeededError)
    assert harness.record(grant).state is State.REVOKING
    assert harness.make_manager().refresh_due() == Report(revoked=1)
    assert not is_valid(harness, grant, newest)
    require_forgotten(harness, grant)


@pytest.mark.parametrize("knows", [True, False], ids=["a process knows", "no process knows"])
def test_after_a_restore_a_process_that_knows_forgets_again(harness: Harness, knows: bool) -> None:
    grant = harness.authorize(NAME)
    restore = harness.back_up()
    harness.manager.forget(grant)
    restore()
    harness.advance(600)
    if knows:
        assert isinstance(get_error(harness.manager, grant), ConsentNeededError)
        assert harness.record(grant).forgetting
        assert harness.manager.refresh_due() == Report(revoked=1)
    else:
        # The backup has the customer: the operator forgets the grant once more.
        harness.make_manager().forget(grant)
    require_forgotten(harness, grant)


def test_a_new_consent_replaces_the_tombstone_and_is_served_everywhere(harness: Harness) -> None:
    grant, other = harness.authorize(NAME), harness.make_manager()
    other.get(grant)
    harness.manager.forget(grant)
    assert isinstance(get_error(harness.manager, grant), ConsentNeededError)
    harness.authorize(NAME)
    record = harness.record(grant)
    assert (record.state, record.consent, record.generation) == (State.ACTIVE, 2, 3)
    harness.advance(600)
    for manager in (harness.manager, other):
        assert manager.get(grant).access_token == pair_of(harness, grant).access_token
    assert [status.grant for status in harness.manager.statuses()] == [grant]


def test_an_authorization_that_fails_names_nobody_in_the_history(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    harness.manager.forget(grant)
    with pytest.raises(BlinkError):
        harness.manager.authorize(grant, code="fake-unknown", redirect_uri=REDIRECT_URI, psu=PSU)
    require_forgotten(harness, grant)


def test_a_consent_that_was_given_before_the_end_is_not_forgotten(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    harness.banks.respond_next(connection_refused, connection_refused, kind="revoke")
    with pytest.raises(RevocationError):
        harness.manager.forget(grant)
    harness.authorize(NAME)
    assert harness.manager.refresh_due() == Report()
    record = harness.record(grant)
    assert (record.state, record.forgetting) == (State.ACTIVE, False)
    harness.manager.get(grant)


def test_a_pair_that_no_key_opens_keeps_the_grant_from_being_forgotten(harness: Harness) -> None:
    grant = harness.authorize(NAME)
    token = pair_of(harness, grant)
    late = evolve(token, access_token="fake-late", refresh_token="fake-late-refresh")
    harness.memory.journal(harness.record(grant), late, origin=Origin.ERROR)
    # As the SQL store does for a process that lacks a key.
    harness.faulty.replacements["journal_entries"] = lambda key: []
    with pytest.raises(StoreError, match=r"revoked, but not forgotten.*give it back"):
        harness.manager.forget(grant)
    record = harness.record(grant)
    assert (record.state, record.forgetting) == (State.REVOKED, True)
    del harness.faulty.replacements["journal_entries"]
    assert harness.manager.refresh_due() == Report(revoked=1)
    assert "fake-late" in harness.banks.presented("revoke")
    require_forgotten(harness, grant)


def test_a_pseudonym_gives_no_access_to_the_grant_of_a_forgotten_customer(
    harness: Harness,
) -> None:
    grant = harness.authorize(NAME)
    harness.manager.forget(grant)
    (key,) = harness.stored
    pseudonym = Grant(TARGET, key.grant.username)
    code = harness.banks.issue_code(pseudonym)
    calls: list[Callable[[], object]] = [
        lambda: harness.manager.get(pseudonym),
        lambda: harness.manager.status(pseudonym),
        lambda: harness.manager.adopt(pseudonym, refresh_token="fake-refresh"),
        lambda: harness.manager.authorize(pseudonym, code=code, redirect_uri=REDIRECT_URI, psu=PSU),
        lambda: harness.manager.forget(pseudonym),
    ]
    requests = len(harness.banks.requests)
    for call in calls:
        with pytest.raises(InvalidInputError, match="Nothing was sent"):
            call()
    assert len(harness.banks.requests) == requests
    require_forgotten(harness, grant)
    # A name that only begins like one is a name as any other.
    harness.manager.get(harness.authorize(f"forgotten:{NAME}"))


def test_other_grants_of_the_customer_are_not_forgotten(harness: Harness) -> None:
    grant, other = harness.authorize(NAME), harness.authorize(NAME, "IIDX00002")
    harness.manager.forget(grant)
    assert [status.grant for status in harness.manager.statuses()] == [other]
    assert Grant(TARGET, NAME) == grant
    harness.manager.get(other)
