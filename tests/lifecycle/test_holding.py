"""What one process remembers of its grants."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from blink_oauth import Grant, NotConnectedError, Token
from blink_oauth_keeper import TargetProfile
from blink_oauth_keeper.cache import BREATH, RECHECK, YOUTH, Held, Holding
from blink_oauth_keeper.policy import Need
from blink_oauth_keeper.steps import Landing
from blink_oauth_keeper.store.protocol import GrantKey, Record, State
from lifecycle.stage import CLIENT_ID, DAY, START, TARGET, Time

GRANT = Grant(TARGET, "u-4711")
DOWN = NotConnectedError("Down.")


def pair(number: int = 1, lifetime: float = DAY) -> Token:
    return Token(
        access_token=f"fake-access-token-{number}",
        refresh_token=f"fake-refresh-token-{number}",
        expires_at=START + timedelta(seconds=lifetime),
    )


def record(generation: int = 1, **facts: Any) -> Record:
    values: dict[str, Any] = {
        "key": GrantKey(CLIENT_ID, GRANT),
        "generation": generation,
        "consent": 1,
        "state": State.ACTIVE,
        "token": pair(generation),
        "issued_at": START,
        "idle_until": None,
        "updated_at": START,
    }
    return Record(**(values | facts))


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def holding(time: Time) -> Holding:
    profile = TargetProfile()
    return Holding(lambda target_id: profile, time.now, time.monotonic)


def held(holding: Holding) -> Held:
    return holding.tokens[GRANT]


def test_a_landing_puts_the_token_at_hand(holding: Holding) -> None:
    assert holding.servable(GRANT, Need()) is None
    holding.remember(GRANT, Landing(record(), fresh=True))
    found = holding.servable(GRANT, Need())
    assert found is not None
    assert found.token == pair()


def test_a_token_is_served_without_a_look_at_the_store_for_some_minutes_only(
    holding: Holding,
) -> None:
    holding.remember(GRANT, Landing(record()))
    assert held(holding).fresh_until == START + RECHECK


def test_in_the_advisory_window_nothing_new_is_begun_for_a_breath(
    holding: Holding, time: Time
) -> None:
    time.pass_by(DAY - 1800)
    holding.remember(GRANT, Landing(record()))
    assert held(holding).fresh_until == time.now() + BREATH


def test_a_token_is_never_fresh_beyond_its_mandatory_window(holding: Holding, time: Time) -> None:
    time.pass_by(DAY - 62)
    holding.remember(GRANT, Landing(record()))
    assert held(holding).fresh_until == START + timedelta(seconds=DAY - 60)
    assert holding.servable(GRANT, Need()) is not None
    time.pass_by(2)
    assert holding.servable(GRANT, Need()) is None


def test_more_validity_than_is_left_cannot_be_served(holding: Holding, time: Time) -> None:
    holding.remember(GRANT, Landing(record()))
    time.pass_by(DAY - 3600)
    assert holding.servable(GRANT, holding.need(GRANT, Need(3599))) is not None
    assert holding.servable(GRANT, holding.need(GRANT, Need(3600))) is None


def test_an_older_generation_never_takes_the_place_of_a_newer_one(holding: Holding) -> None:
    holding.remember(GRANT, Landing(record(2)))
    holding.remember(GRANT, Landing(record(1)))
    assert held(holding).token == pair(2)


def test_the_same_generation_may_bring_news(holding: Holding) -> None:
    holding.remember(GRANT, Landing(record()))
    holding.remember(GRANT, Landing(record(state=State.UNCERTAIN)))
    assert held(holding).record.state is State.UNCERTAIN


@pytest.mark.parametrize("facts", [{"state": State.REVOKED}, {"token": None}])
def test_what_is_revoked_is_let_go_and_does_not_come_back(
    holding: Holding, facts: dict[str, Any]
) -> None:
    holding.remember(GRANT, Landing(record(1)))
    holding.remember(GRANT, Landing(record(2, **facts)))
    assert holding.tokens == {}
    holding.remember(GRANT, Landing(record(1)))
    assert holding.tokens == {}
    holding.remember(GRANT, Landing(record(3)))
    assert held(holding).token == pair(3)


def test_a_revocation_that_is_told_late_does_not_touch_a_new_consent(holding: Holding) -> None:
    holding.remember(GRANT, Landing(record(3)))
    holding.remember(GRANT, Landing(record(2, state=State.REVOKED)))
    assert held(holding).token == pair(3)


def test_a_failure_is_remembered_for_as_long_as_it_says(holding: Holding, time: Time) -> None:
    landing = Landing(None, DOWN, memory=2.0)
    assert holding.failure(GRANT) is None
    holding.remember(GRANT, landing)
    time.pass_by(1.9)
    assert holding.failure(GRANT) is landing
    time.pass_by(0.1)
    assert holding.failure(GRANT) is None


def test_a_jump_of_the_wall_clock_does_not_change_the_memory_of_a_failure(
    holding: Holding, time: Time
) -> None:
    holding.remember(GRANT, Landing(None, DOWN, memory=2.0))
    time.jump(3600)
    assert holding.failure(GRANT) is not None
    time.jump(-7200)
    time.pass_by(2)
    assert holding.failure(GRANT) is None


def test_failures_are_counted_until_a_refresh_succeeds(holding: Holding) -> None:
    for _ in range(3):
        holding.remember(GRANT, Landing(record(), DOWN, memory=5.0))
    assert holding.failures(GRANT) == 3
    holding.remember(GRANT, Landing(record()))
    assert (holding.failures(GRANT), holding.failure(GRANT)) == (3, None)
    holding.remember(GRANT, Landing(record(2), fresh=True))
    assert holding.failures(GRANT) == 0


def test_a_failure_can_bring_a_record_all_the_same(holding: Holding) -> None:
    holding.remember(GRANT, Landing(record(), DOWN, memory=5.0))
    assert held(holding).token == pair()


def test_a_refused_token_is_let_go_and_only_a_newer_one_will_do(
    holding: Holding, time: Time
) -> None:
    holding.remember(GRANT, Landing(record(4)))
    time.pass_by(3600)
    assert holding.refuse(GRANT, pair(4))
    assert holding.tokens == {}
    assert holding.need(GRANT, Need()).beyond == 4
    holding.remember(GRANT, Landing(record(4)))
    assert holding.tokens == {}


def test_refusing_a_token_that_has_been_replaced_changes_nothing(
    holding: Holding, time: Time
) -> None:
    holding.remember(GRANT, Landing(record(4)))
    time.pass_by(3600)
    assert holding.refuse(GRANT, pair(3))
    assert held(holding).token == pair(4)
    assert holding.need(GRANT, Need()).beyond == 0


def test_refusing_is_by_value(holding: Holding, time: Time) -> None:
    holding.remember(GRANT, Landing(record(4)))
    time.pass_by(3600)
    assert holding.refuse(GRANT, evolve(pair(4), expires_at=None))
    assert holding.tokens == {}


def test_refusing_what_is_not_at_hand_changes_nothing(holding: Holding) -> None:
    assert holding.refuse(GRANT, pair())
    assert holding.need(GRANT, Need()).beyond == 0


def test_another_token_does_not_help_where_a_very_young_one_is_refused(
    holding: Holding, time: Time
) -> None:
    holding.remember(GRANT, Landing(record()))
    time.pass_by(YOUTH.total_seconds() - 1)
    assert not holding.refuse(GRANT, pair())
    assert held(holding).token == pair()
    time.pass_by(1)
    assert holding.refuse(GRANT, pair())


def test_the_last_refused_generation_counts(holding: Holding, time: Time) -> None:
    holding.remember(GRANT, Landing(record(7)))
    time.pass_by(3600)
    holding.refuse(GRANT, pair(7))
    holding.remember(GRANT, Landing(record(2, state=State.REVOKED)))
    assert holding.need(GRANT, Need()).beyond == 7
