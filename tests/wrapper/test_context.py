"""A Grant and a Psu accept only values that can be sent in headers and forms."""

from __future__ import annotations

import copy
import pickle
import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


HEADER_TEXT = re.compile("[!-~]([ -~]*[!-~])?")
"""The pattern of `X-PSU-User-Agent` in the contract."""


@BAD_VALUES
def test_a_user_agent_that_is_invalid_in_a_header_is_changed_so_that_it_can_be_sent(
    value: str,
) -> None:
    psu = Psu(ip="203.0.113.7", user_agent=value)
    assert HEADER_TEXT.fullmatch(psu.user_agent)
    assert psu.user_agent_changed


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        ("Zürich", "Z%C3%BCrich"),
        ("銀行/1.0 (X)", "%E9%8A%80%E8%A1%8C/1.0 (X)"),
        ("a\r\nX-Evil: 1", "a  X-Evil: 1"),
        ("a\tb\0c\x7fd\x85e", "a b c d e"),
        ("  Mozilla/5.0 \n", "Mozilla/5.0"),
        ("a\ud800b", "a%3Fb"),
        ("", "unknown"),
        (" \t\r\n ", "unknown"),
        (None, "unknown"),
        ("x" * 1_025, "x" * 1_024),
        ("x" * 1_023 + "ü", "x" * 1_023),
        ("x" * 1_023 + " y", "x" * 1_023),
        ("50%25 100%", "50%25 100%"),
    ],
)
def test_a_user_agent_is_changed_as_documented(received: str | None, sent: str) -> None:
    psu = Psu("203.0.113.7", received)
    assert psu.user_agent == sent
    assert psu.user_agent_changed is (sent != received)


ODD_CHARACTERS = "\t\r\n \x00\x7f\x85\xa0\u2028é😀\ud800%"


@given(st.text() | st.text(ODD_CHARACTERS) | st.text("aé ", min_size=900, max_size=1_100))
def test_every_text_is_a_user_agent_that_a_header_can_carry(received: str) -> None:
    psu = Psu("203.0.113.7", received)
    assert HEADER_TEXT.fullmatch(psu.user_agent)
    assert len(psu.user_agent) <= 1_024
    assert psu.user_agent != Psu.AUTOMATIC or received.strip() == Psu.AUTOMATIC
    assert psu.user_agent_changed is (psu.user_agent != received)
    again = Psu("203.0.113.7", psu.user_agent)
    assert (again, again.user_agent_changed) == (psu, False)


@given(st.from_regex(HEADER_TEXT, fullmatch=True).filter(lambda text: len(text) <= 1_024))
def test_a_user_agent_that_a_header_can_carry_is_sent_unchanged(received: str) -> None:
    psu = Psu("203.0.113.7", received)
    assert (psu.user_agent, psu.user_agent_changed) == (received, False)


@pytest.mark.parametrize("value", [7, b"Mozilla/5.0", ["Mozilla/5.0"]])
def test_a_user_agent_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"Psu\.user_agent.*{type(value).__name__}"):
        Psu("203.0.113.7", value)  # type: ignore[arg-type]


def test_a_changed_user_agent_does_not_make_another_customer() -> None:
    assert Psu("203.0.113.7", "Z\u00fcrich") == Psu("203.0.113.7", "Z%C3%BCrich")
    assert copy.copy(Psu("203.0.113.7", " a")).user_agent_changed
    assert pickle.loads(pickle.dumps(Psu("203.0.113.7", " a"))).user_agent_changed


@pytest.mark.parametrize(("value", "kind"), [(None, "None"), (7, "an int"), (b"IIDX1", "a bytes")])
def test_the_refusal_of_another_type_names_the_type(value: object, kind: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"str.* it is {kind}\."):
        Grant(target_id=value, username="u")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "u" * 65, "u\ud800", "u\0", None, 4711])
def test_a_username_that_cannot_be_sent_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match=r"Grant\.username"):
        Grant(target_id="IIDX1", username=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["u", "u" * 64, "Ä" * 64, "名前", "a b", " ", "a\nb", "=&+%"])
def test_any_other_username_is_accepted_unchanged(value: str) -> None:
    assert Grant(target_id="IIDX1", username=value).username == value


@pytest.mark.parametrize("value", [None, 7, b"203.0.113.7"])
def test_a_psu_address_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(
        InvalidInputError, match=r"Psu\.ip must be a str.*but it is (None|an? \w+)\."
    ):
        Psu(ip=value, user_agent="Mozilla/5.0")  # type: ignore[arg-type]


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
