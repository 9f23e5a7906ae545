"""What a handler answers to each public error, as the table in docs/operations.md says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import blink_oauth
import blink_oauth_keeper
from blink_oauth import (
    BlinkError,
    NotConnectedError,
    Outcome,
    TimedOutError,
    answer_to,
    errors,
)
from blink_oauth_keeper import (
    AfterUncertainty,
    GrantExistsError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    StoreError,
    TargetProfile,
    TokenManager,
    UnknownGrantError,
)
from keeper.harness import (
    DAY,
    PSU,
    REDIRECT_URI,
    UNKNOWN_GRANT,
    Harness,
    Responder,
    connection_refused,
    response_lost,
    status_response,
    with_members,
)

PAGE = Path(__file__).parents[2] / "docs/operations.md"
ERRORS: dict[str, type[BlinkError]] = {
    name: getattr(package, name)
    for package in (blink_oauth, blink_oauth_keeper)
    for name in package.__all__
    if isinstance(getattr(package, name), type) and issubclass(getattr(package, name), BlinkError)
}
FACTS: dict[str, tuple[str, Any]] = {
    "needs_consent": ("needs_consent", True),
    "retryable": ("retryable", True),
    "retry_after": ("retry_after", 4.2),
    **{outcome.name: ("outcome", outcome) for outcome in Outcome},
}


def rows() -> list[tuple[str, dict[str, Any], int, int]]:
    """Return the name, facts, status and exit code of each error in each row of the table."""
    section = (
        PAGE.read_text(encoding="utf-8").split("## What a handler answers\n")[1].split("\n## ")[0]
    )
    lines = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return [
        (name, dict(FACTS[fact] for fact in re.findall(r"`(\w+)`", facts)), int(status), int(code))
        for names, facts, status, code, _ in lines
        for name in re.findall(r"`(\w+)`", names)
    ]


def test_every_public_error_is_in_the_table() -> None:
    assert {name for name, *_ in rows()} == ERRORS.keys()


@pytest.mark.parametrize(("name", "facts", "status", "code"), rows())
def test_the_answer_is_that_of_the_table(
    name: str, facts: dict[str, Any], status: int, code: int
) -> None:
    answer = answer_to(ERRORS[name]("It failed.", **facts))
    assert (answer.status, answer.exit_code) == (status, code)


@pytest.mark.parametrize("name", ERRORS)
def test_a_time_is_answered_with_503_only_and_rounded_up(name: str) -> None:
    outcomes, flags = list(Outcome), (False, True)
    for outcome, consent, retryable, wait in product(outcomes, flags, flags, (None, 0.0, 4.2)):
        facts = {"outcome": outcome, "needs_consent": consent, "retryable": retryable}
        answer = answer_to(ERRORS[name]("It failed.", retry_after=wait, **facts))
        assert answer.status in {403, 500, 502, 503, 504}
        assert answer.exit_code in {1, 2, 3, 4}
        seconds = {None: {}, 0.0: {"Retry-After": "0"}, 4.2: {"Retry-After": "5"}}[wait]
        assert answer.headers == (seconds if answer.status == 503 else {})
        assert (answer.exit_code == 3) == (answer.status == 403)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_has_retry_after(name: str) -> None:
    assert ERRORS[name]("It failed.").retry_after is None


def failed(harness: Harness) -> BlinkError:
    """Return the error of a refresh of the grant that has expired."""
    grant = blink_oauth.Grant("IIDX00001", "u-4711")
    with pytest.raises(BlinkError) as caught:
        harness.manager.refresh(grant)
    return caught.value


def test_an_uncertain_refresh_says_when_the_manager_presents_the_token_again(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    error = failed(harness)
    assert isinstance(error, TimedOutError | blink_oauth.ConnectionLostError)
    wait = harness.record(grant).pause_left
    assert error.retry_after == wait > 0
    assert f"The manager presents it once more after {wait:.0f} s." in str(error)
    assert "Present it at most once" not in str(error)
    assert answer_to(error).status == 503
    harness.advance(wait + 0.1)
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


UNCERTAIN: dict[str, Responder] = {
    "no response": response_lost,
    "500": status_response(500),
    "502 of a gateway": status_response(502, b"<html></html>", source="PLATFORM"),
    "503 of the bank": status_response(503, Retry_After="7"),
    "504": status_response(504),
    "406": status_response(406),
    "OAuth error": status_response(500, {"error": "server_error"}),
    "problem": status_response(500, {"type": "/problems/INTERNAL", "title": "Internal"}),
    "success without a token": status_response(200, {"token_type": "Bearer"}),
    "foreign response": status_response(400, X_Correlation_ID=str(UUID(int=7))),
    "failure with an access token": with_members(500, refresh_token=None),
    "429 with a code about the response": status_response(
        429, {"type": "/problems/RESOURCE_TOO_LARGE", "title": "Too large"}
    ),
}


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_every_uncertain_error_has_the_plan_of_the_manager_and_no_advice_to_present_the_token(
    harness: Harness, kind: str
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(UNCERTAIN[kind])
    harness.allowed_replays = 1
    error = failed(harness)
    assert error.outcome is Outcome.UNCERTAIN
    assert not error.retryable
    wait = harness.record(grant).pause_left
    assert f"The manager presents it once more after {wait:.0f} s." in str(error)
    for advice in (errors.ADVICE_ON_REPLAY, "Present it at most once", "same call may be sent"):
        assert advice not in str(error)
    assert error.retry_after == wait


def test_after_two_uncertain_outcomes_it_names_the_time_of_the_last_attempt(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost, response_lost)
    first = failed(harness)
    assert first.retry_after is not None
    harness.advance(first.retry_after + 0.1)
    harness.allowed_replays = 2
    assert harness.record(grant).attempts == 2
    error = failed(harness)
    assert error.retry_after is not None
    assert 3_500 < error.retry_after <= 3_600


def test_without_another_attempt_no_time_is_named(harness: Harness) -> None:
    harness.make_manager(profile=TargetProfile(last_attempt=False))
    harness.expired_grant()
    harness.banks.respond_next(response_lost)
    first = failed(harness)
    assert first.retry_after is not None
    harness.banks.respond_next(response_lost)
    harness.allowed_replays = 1
    harness.advance(first.retry_after + 0.1)
    error = failed(harness)
    assert error.retry_after is None
    assert answer_to(error).status in {403, 502, 504}


def test_a_token_that_is_held_back_names_the_time_until_the_access_token_expires(
    harness: Harness,
) -> None:
    harness.make_manager(profile=TargetProfile(after_uncertainty=AfterUncertainty.HOLD))
    harness.authorize()
    harness.advance(100)
    harness.banks.respond_next(response_lost)
    error = failed(harness)
    assert error.retry_after == pytest.approx(DAY - 60 - 100, abs=1)
    harness.advance(60.1)
    later = failed(harness)
    assert isinstance(later, RefreshUncertainError)
    assert later.retry_after == pytest.approx(DAY - 60 - 160, abs=1)
    assert answer_to(later).headers["Retry-After"]


def test_a_failure_that_spent_nothing_names_the_end_of_the_pause(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(connection_refused)
    error = failed(harness)
    assert isinstance(error, NotConnectedError)
    assert error.retry_after == harness.record(grant).pause_left > 0
    assert "The same call may be sent again" in str(error)


def test_a_refusal_that_needs_consent_names_no_time(harness: Harness) -> None:
    harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    error = failed(harness)
    assert (error.needs_consent, error.retry_after) == (True, None)


def test_the_retry_after_of_a_response_is_that_of_the_error() -> None:
    assert RefreshPausedError("It failed.", retry_after=3.0).retry_after == 3.0
    error = StoreError("It failed.").replaced("It failed again.", retry_after=2.0)
    error.add_note("A note.")
    again = error.replaced("Once more.")
    assert (str(again), again.retry_after, again.__notes__) == ("Once more.", 2.0, ["A note."])


def no_store(harness: Harness) -> None:
    harness.faulty.fail()


def no_network(harness: Harness) -> None:
    harness.banks.respond_next(connection_refused)


def other_owner(harness: Harness) -> None:
    record = harness.record(EXPIRED)
    assert harness.memory.claim(record, owner="another owner", ttl=25)


def refused_grant(harness: Harness) -> None:
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))


EXPIRED = blink_oauth.Grant("IIDX00001", "u-4711-personal")
RAISES: dict[
    str, tuple[type[BlinkError], Callable[[TokenManager], object], Callable[[Harness], None] | None]
] = {
    "unavailable store": (StoreError, lambda m: m.get(EXPIRED), no_store),
    "unavailable bank": (NotConnectedError, lambda m: m.get(EXPIRED), no_network),
    "refused refresh token": (
        blink_oauth.InvalidGrantError,
        lambda m: m.get(EXPIRED),
        refused_grant,
    ),
    "timeout": (RefreshPendingError, lambda m: m.get(EXPIRED, timeout=0.01), other_owner),
    "timeout of a coroutine": (
        RefreshPendingError,
        lambda m: asyncio.run(m.aget(EXPIRED, timeout=0.01)),
        other_owner,
    ),
    "authorize": (
        blink_oauth.OAuthError,
        lambda m: m.authorize(EXPIRED, code="fake-code", redirect_uri=REDIRECT_URI, psu=PSU),
        None,
    ),
    "adopt": (
        GrantExistsError,
        lambda m: m.adopt(EXPIRED, refresh_token="fake-refresh-token"),
        None,
    ),
}
OF_UNKNOWN: dict[str, Callable[[TokenManager], object]] = {
    "get": lambda m: m.get(UNKNOWN_GRANT),
    "revoke": lambda m: m.revoke(UNKNOWN_GRANT),
    "forget": lambda m: m.forget(UNKNOWN_GRANT),
    "status": lambda m: m.status(UNKNOWN_GRANT),
}


@pytest.mark.parametrize("case", RAISES)
def test_an_error_of_the_manager_has_its_grant_but_no_text_shows_it(
    harness: Harness, case: str
) -> None:
    kind, call, prepare = RAISES[case]
    harness.expired_grant(EXPIRED.username)
    if prepare is not None:
        prepare(harness)
    with pytest.raises(kind) as caught:
        call(harness.manager)
    assert caught.value.grant == EXPIRED
    assert EXPIRED.username not in f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("case", OF_UNKNOWN)
def test_the_error_of_an_unknown_grant_has_it(harness: Harness, case: str) -> None:
    with pytest.raises(UnknownGrantError) as caught:
        OF_UNKNOWN[case](harness.manager)
    assert caught.value.grant == UNKNOWN_GRANT


def test_the_error_of_a_client_has_no_grant(harness: Harness) -> None:
    harness.banks.respond_next(connection_refused)
    with pytest.raises(NotConnectedError) as caught:
        harness.blink.refresh(EXPIRED, "fake-refresh-token")
    assert caught.value.grant is None
