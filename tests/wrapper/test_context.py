"""A Grant and a Psu accept only values that can be sent in headers and forms."""

from __future__ import annotations

import attrs
import pytest

from blink_oauth import Grant, InvalidInputError, Outcome, Psu

INVALID_IN_A_HEADER = {
    "empty": "",
    "line feed": "IIDX1\nX-Evil: 1",
    "carriage return": "IIDX1\rX-Evil: 1",
    "both": "IIDX1\r\n\r\nbody",
    "null": "IIDX1\0",
    "tab": "II\tDX",
    "delete": "IIDX\x7f",
    "umlaut": "Zürich",
    "Chinese": "銀行",
    "surrogate": "II\ud800",
    "leading blank": " IIDX1",
    "trailing blank": "IIDX1 ",
}
BAD_VALUES = pytest.mark.parametrize(
    "value", INVALID_IN_A_HEADER.values(), ids=INVALID_IN_A_HEADER.keys()
)


@BAD_VALUES
def test_a_target_that_is_invalid_in_a_header_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match=r"Grant\.target_id"):
        Grant(target_id=value, username="u")


@BAD_VALUES
def test_a_user_agent_that_is_invalid_in_a_header_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match=r"Psu\.user_agent"):
        Psu(ip="203.0.113.7", user_agent=value)


@pytest.mark.parametrize("value", [None, 7, b"IIDX1"])
def test_the_refusal_of_another_type_names_the_type(value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"str.*{type(value).__name__}"):
        Grant(target_id=value, username="u")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "u" * 65, "u\ud800", "u\0", None, 4711])
def test_a_username_that_cannot_be_sent_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match=r"Grant\.username"):
        Grant(target_id="IIDX1", username=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["u", "u" * 64, "Ä" * 64, "名前", "a b", " ", "a\nb", "=&+%"])
def test_any_other_username_is_accepted_unchanged(value: str) -> None:
    assert Grant(target_id="IIDX1", username=value).username == value


@pytest.mark.parametrize("value", ["203.0.113.7", "2001:db8::7", "::ffff:203.0.113.7", "AUTO"])
def test_an_ip_address_or_auto_is_a_psu_address(value: str) -> None:
    assert Psu(ip=value, user_agent="Mozilla/5.0").ip == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "auto",
        "localhost",
        "203.0.113",
        "203.0.113.256",
        "203.0.113.7:80",
        "fe80::1%eth0",
        "[2001:db8::7]",
        "203.0.113.0/24",
        "203.0.113.7\n",
    ],
)
def test_any_other_psu_address_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match=r"Psu\.ip"):
        Psu(ip=value, user_agent="Mozilla/5.0")


def test_psu_auto_has_auto_as_address_and_user_agent() -> None:
    assert Psu(ip="AUTO", user_agent="AUTO") == Psu.AUTO


def test_a_grant_is_immutable_and_can_be_a_dictionary_key() -> None:
    grant = Grant("IIDX1", "u")
    assert {grant: 1}[Grant("IIDX1", "u")] == 1
    assert grant != Grant("IIDX2", "u")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        grant.username = "v"  # type: ignore[misc]


def test_a_refusal_is_a_value_error_with_the_outcome_not_executed() -> None:
    with pytest.raises(ValueError, match="must not be empty") as caught:
        Grant("", "u")
    assert isinstance(caught.value, InvalidInputError)
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert not caught.value.retryable
    assert caught.value.correlation_id is None
