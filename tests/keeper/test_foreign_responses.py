"""A response to another request: its pair goes to the journal, and nothing of it is believed."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from attrs import evolve

from blink_oauth import (
    BlinkError,
    ForeignResponseError,
    Grant,
    Outcome,
    RevocationError,
    Token,
    TokenKind,
)
from blink_oauth_keeper import (
    EventName,
    RefreshUncertainError,
    TargetProfile,
)
from blink_oauth_keeper.store.protocol import JournalEntry, Origin, State
from keeper.harness import (
    HEADERS,
    TARGET,
    Execute,
    Gate,
    Harness,
    Responder,
    bank_response,
    status_response,
)
from wrapper.harness import reply

OTHER_ID = "5f0c2f6e-7a01-4f3b-9f6e-0d1a2b3c4d5e"
OTHERS = {
    "access_token": "fake-access-of-another",
    "refresh_token": "fake-refresh-of-another",
    "token_type": "bearer",
    "expires_in": 3600,
}


def swapped(status: int = 200, body: object = OTHERS, **headers: str) -> Responder:
    """Let the bank execute the request, and respond as to another request."""

    def respond(execute: Execute) -> httpx.Response:
        execute()
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return reply(status, body, HEADERS | {"X-Correlation-ID": OTHER_ID} | fields)

    return respond


def unsent(status: int, body: object = b"", **headers: str) -> Responder:
    """Respond as to another request, without letting the bank execute this one."""
    return status_response(status, body, X_Correlation_ID=OTHER_ID, **headers)


def error_of(call: Callable[[], object]) -> BlinkError:
    """Return the error of a call."""
    with pytest.raises(BlinkError) as caught:
        call()
    return caught.value


def journal(harness: Harness, grant: Grant) -> list[JournalEntry]:
    """Return the journal of a grant."""
    return list(harness.memory.journal_entries(harness.key(grant)))


def require_kept_apart(harness: Harness, grant: Grant) -> None:
    """Require that the other grant's pair is in the journal, and nowhere else."""
    foreign = [entry for entry in journal(harness, grant) if entry.origin is Origin.FOREIGN]
    assert [entry.token.access_token.reveal() for entry in foreign] == [OTHERS["access_token"]]
    assert not {request.secret for request in harness.banks.requests} & set(
        map(str, OTHERS.values())
    )
    record = harness.memory.load(harness.key(grant))
    if record is not None and record.token is not None:
        assert record.token.access_token.reveal() not in OTHERS.values()


def reported(harness: Harness, grant: Grant) -> list[str | None]:
    """Return the details of the history entries about a foreign response."""
    notes = [entry.note for entry in harness.manager.history(grant)]
    return [note.detail for note in notes if note.event == EventName.FOREIGN_RESPONSE]


def test_a_refresh_stores_a_foreign_pair_in_the_journal_only(harness: Harness) -> None:
    harness.allowed_replays = 1
    grant = harness.expired_grant()
    stored = harness.record(grant).token
    harness.banks.respond_next(swapped())
    error = error_of(lambda: harness.manager.get(grant))
    assert isinstance(error, ForeignResponseError)
    assert (error.outcome, error.needs_consent, error.token) == (Outcome.UNCERTAIN, False, None)
    record = harness.record(grant)
    assert (record.state, record.attempts, record.token) == (State.UNCERTAIN, 1, stored)
    assert record.error == "ForeignResponseError"
    require_kept_apart(harness, grant)
    assert reported(harness, grant) == [OTHER_ID]
    names = harness.event_names()
    assert names[-2:] == [EventName.FOREIGN_RESPONSE, EventName.UNCERTAIN]
    event = harness.events[-2]
    assert event.foreign_correlation_id == OTHER_ID
    assert event.correlation_id == error.correlation_id
    assert harness.manager.status(grant).state is State.UNCERTAIN


@pytest.mark.parametrize(
    "responder",
    [
        unsent(400, {"error": "invalid_grant"}),
        unsent(401, {"error": "invalid_token"}),
        unsent(401, source="PLATFORM"),
        unsent(429, source="PLATFORM", Retry_After="3600"),
        unsent(503, source="PLATFORM", Retry_After="3600"),
        unsent(500, OTHERS),
        unsent(200, b""),
    ],
    ids=["invalid_grant", "invalid_token", "401", "429", "503", "500 with a pair", "no token"],
)
def test_nothing_that_a_foreign_response_says_is_believed(
    harness: Harness, responder: Responder
) -> None:
    """The refresh token is presented again once the lease has ended, as without a response."""
    harness.allowed_replays = 1
    grant = harness.expired_grant()
    harness.banks.respond_next(responder)
    assert error_of(lambda: harness.manager.get(grant)).outcome is Outcome.UNCERTAIN
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 1)
    assert 20 < record.pause_left < 30
    assert len(harness.banks.presented()) == 1
    harness.advance(record.pause_left + 0.1)
    assert len(harness.banks.presented()) == 2
    assert harness.record(grant).state is State.ACTIVE
    assert harness.manager.get(grant)


def test_a_refused_replay_salvages_no_foreign_pair(harness: Harness) -> None:
    harness.allowed_replays = 1
    grant = harness.expired_grant()
    harness.banks.respond_next(swapped())
    error_of(lambda: harness.manager.get(grant))
    harness.advance(30)
    # The bank has rotated: it refuses the replay.
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert EventName.SALVAGED not in harness.event_names()
    require_kept_apart(harness, grant)


def test_two_foreign_responses_leave_one_last_attempt(harness: Harness) -> None:
    harness.allowed_replays = 2
    grant = harness.expired_grant()
    harness.banks.respond_next(unsent(200, OTHERS), unsent(200, OTHERS))
    error_of(lambda: harness.manager.get(grant))
    harness.advance(120)
    error = error_of(lambda: harness.manager.get(grant))
    assert isinstance(error, RefreshUncertainError)
    assert not error.needs_consent
    assert harness.record(grant).attempts == 2
    require_kept_apart(harness, grant)
    harness.advance(3_600)
    assert harness.manager.get(grant)


def test_a_bank_on_hold_gets_no_replay_after_a_foreign_response(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(after_uncertainty="hold")})
    grant = harness.authorize()
    harness.banks.respond_next(swapped())
    error_of(lambda: harness.manager.refresh(grant))
    harness.advance(60)
    assert len(harness.banks.presented()) == 1
    assert harness.manager.get(grant)
    require_kept_apart(harness, grant)


def test_an_old_response_of_the_same_grant_is_not_stored_again(harness: Harness) -> None:
    """As a cache between client and platform returns it."""
    harness.allowed_replays = 1
    grant = harness.authorize()
    kept: list[bytes] = []

    def keep(execute: Execute) -> httpx.Response:
        response = execute()
        kept.append(response.read())
        return reply(200, kept[0], HEADERS)

    harness.banks.respond_next(keep)
    first = harness.manager.refresh(grant)
    harness.banks.respond_next(swapped(200, kept[0]))
    error_of(lambda: harness.manager.refresh(grant))
    record = harness.record(grant)
    assert (record.state, record.generation, record.token) == (
        State.UNCERTAIN,
        2,
        first_stored(first),
    )
    assert [entry.origin for entry in journal(harness, grant)] == [Origin.FOREIGN]


def first_stored(token: Token) -> Token:
    """Return a token as a store keeps it."""
    return evolve(token, meta=None)


@pytest.mark.parametrize("known", [True, False], ids=["again", "for the first time"])
def test_an_authorization_stores_no_foreign_pair(harness: Harness, known: bool) -> None:
    grant = harness.authorize() if known else Grant(TARGET, "u-4711")
    before = harness.memory.load(harness.key(grant))
    error = error_of(lambda: harness.authorize(responder=swapped()))
    assert isinstance(error, ForeignResponseError)
    assert error.token is None
    assert harness.memory.load(harness.key(grant)) == before
    require_kept_apart(harness, grant)
    assert reported(harness, grant) == [OTHER_ID]
    names = harness.event_names()
    assert names[-2:] == [EventName.FOREIGN_RESPONSE, EventName.AUTHORIZATION_FAILED]
    # A new code gives the customer a pair.
    harness.authorize()
    assert harness.manager.get(grant)


def test_a_foreign_response_confirms_no_revocation(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(unsent(200, OTHERS), unsent(200), kind="revoke")
    error = error_of(lambda: harness.manager.revoke(grant))
    assert isinstance(error, RevocationError)
    assert error.unknown == set(TokenKind)
    assert all(each.token is None for each in error.errors.values())
    assert harness.record(grant).state is State.REVOKING
    require_kept_apart(harness, grant)
    assert harness.event_names()[-3:] == [
        EventName.FOREIGN_RESPONSE,
        EventName.FOREIGN_RESPONSE,
        EventName.REVOCATION_FAILED,
    ]
    assert harness.manager.refresh_due().revoked == 1
    assert harness.record(grant).state is State.REVOKED
    # The foreign pair stays until the journal is purged, and keeps nothing unfinished.
    require_kept_apart(harness, grant)
    count = len(harness.banks.requests)
    assert harness.manager.refresh_due().revoked == 0
    assert len(harness.banks.requests) == count


def test_a_revocation_presents_no_foreign_pair(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(swapped())
    error_of(lambda: harness.manager.refresh(grant))
    harness.manager.revoke(grant)
    assert len(harness.banks.presented("revoke")) == 2
    assert harness.record(grant).state is State.REVOKED
    require_kept_apart(harness, grant)
    harness.advance(8 * 86_400)
    harness.memory.purge()
    assert journal(harness, grant) == []


def test_a_foreign_pair_that_arrives_after_a_revocation_is_not_revoked(harness: Harness) -> None:
    grant = harness.authorize()
    gate = Gate(swapped())
    harness.banks.respond_next(gate)
    refresh = harness.in_thread(lambda: harness.manager.refresh(grant))
    gate.wait()
    harness.manager.revoke(grant)
    gate.open()
    with pytest.raises(BlinkError):
        refresh.result(10)
    harness.wait_until_idle()
    assert len(harness.banks.presented("revoke")) == 2
    require_kept_apart(harness, grant)
    assert harness.manager.refresh_due().revoked == 0


def test_a_late_own_pair_is_revoked_although_the_response_is_foreign(harness: Harness) -> None:
    """The revocation of a late pair gets a foreign response: the next run revokes it again."""
    grant = harness.authorize()
    gate = Gate(bank_response)
    harness.banks.respond_next(gate)
    refresh = harness.in_thread(lambda: harness.manager.refresh(grant))
    gate.wait()
    harness.manager.revoke(grant)
    harness.banks.respond_next(unsent(200, OTHERS), kind="revoke")
    gate.open()
    with pytest.raises(BlinkError):
        refresh.result(10)
    harness.wait_until_idle()
    require_kept_apart(harness, grant)
    assert harness.manager.refresh_due().revoked == 1
    assert [entry.origin for entry in journal(harness, grant)] == [Origin.FOREIGN]


def test_a_foreign_pair_is_stored_once_the_store_is_available_again(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(swapped())
    harness.faulty.fail("journal", "add_note")
    error_of(lambda: harness.manager.refresh(grant))
    assert journal(harness, grant) == []
    harness.faulty.recover()
    harness.advance(2)
    require_kept_apart(harness, grant)
    assert harness.record(grant).state is State.UNCERTAIN
