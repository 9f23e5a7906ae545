"""Secrets are hidden in every text, and a token has its expiry."""

from __future__ import annotations

import copy
import json
import pickle
import pprint
from datetime import timedelta, timezone
from typing import Any

import attrs
import httpx
import pytest

from blink_oauth import BlinkOAuth, InvalidInputError, Secret, Token, TokenKind
from wrapper.harness import (
    ACCESS_TOKEN,
    NOW,
    REFRESH_TOKEN,
    SETTINGS,
    TOKEN_BODY,
    Connect,
    Platform,
    refresh,
    reply,
)

SECRET = Secret(ACCESS_TOKEN)
EXTRA = Token(access_token=SECRET, extra={"id": "fake-id"}).extra


def test_only_reveal_returns_the_text_of_a_secret() -> None:
    assert SECRET.reveal() == ACCESS_TOKEN
    assert repr(SECRET) == str(SECRET) == f"{SECRET}" == "Secret(***)"


@pytest.mark.parametrize("form", ["{:>40}", "{!s:>40}"])
def test_a_format_specification_does_not_show_a_secret(form: str) -> None:
    try:
        text = form.format(SECRET)
    except TypeError as exc:
        text = str(exc)
    assert ACCESS_TOKEN not in text


def test_a_secret_made_from_a_secret_is_equal_to_it() -> None:
    assert Secret(SECRET) == SECRET
    assert Secret(SECRET).reveal() == ACCESS_TOKEN


def test_secrets_with_the_same_text_are_equal_but_not_equal_to_the_text() -> None:
    assert Secret("fake-ä") == Secret("fake-ä")
    assert hash(Secret("fake-ä")) == hash(Secret("fake-ä"))
    assert Secret("fake-a") != Secret("fake-b")
    assert SECRET != ACCESS_TOKEN


@pytest.mark.parametrize("value", ["", None, 5, b"fake-secret", ["fake-secret"], "fake\ud800"])
def test_a_value_that_cannot_be_sent_is_no_secret_and_the_refusal_does_not_show_it(
    value: object,
) -> None:
    with pytest.raises(InvalidInputError, match="The key passphrase") as caught:
        Secret(value, what="key passphrase")  # type: ignore[arg-type]
    assert "fake" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [SECRET, EXTRA, Token(access_token=SECRET)], ids=["secret", "extra", "token"]
)
def test_a_secret_and_a_token_cannot_be_pickled(value: object, protocol: int) -> None:
    with pytest.raises(TypeError, match="never pickled") as caught:
        pickle.dumps(value, protocol)
    assert ACCESS_TOKEN not in str(caught.value)


def test_a_copy_of_a_token_has_the_secret_and_hides_it() -> None:
    token = Token(access_token=SECRET, refresh_token=REFRESH_TOKEN)
    for duplicate in (copy.copy(token), copy.deepcopy(token), attrs.evolve(token)):
        assert duplicate == token
        assert duplicate.access_token.reveal() == ACCESS_TOKEN
        assert ACCESS_TOKEN not in repr(duplicate)


@pytest.mark.parametrize("value", [SECRET, EXTRA], ids=["secret", "extra"])
def test_the_state_of_a_secret_value_is_refused(value: object) -> None:
    """jsonpickle swallows the refusals of the reducers, and writes null for that of the state."""
    for read in (value.__reduce__, lambda: value.__reduce_ex__(2), value.__getstate__):
        with pytest.raises(TypeError, match="never pickled"):
            read()
    assert "fake" not in repr(object.__getstate__(value))
    assert not hasattr(value, "__dict__")


def test_the_extra_members_are_a_mapping_that_hides_its_values() -> None:
    token = Token(access_token=SECRET, extra={"id": "fake-id", "list": ["fake-item"]})
    extra = token.extra
    assert extra == {"id": "fake-id", "list": ["fake-item"]}
    assert (extra["id"], len(extra), [*extra], extra.get("no")) == (
        "fake-id",
        2,
        ["id", "list"],
        None,
    )
    for text in (repr(extra), str(extra), f"{extra}", pprint.pformat(extra), repr(extra.values())):
        assert "fake" not in text
    duplicate = copy.deepcopy(extra)
    assert duplicate == extra
    assert duplicate["list"] is not extra["list"]
    assert "fake" not in repr(attrs.asdict(token)) + repr(attrs.astuple(token))
    with pytest.raises(TypeError):
        json.dumps(attrs.asdict(token)["extra"])


def test_the_extra_members_are_no_part_of_what_made_them() -> None:
    made: dict[str, object] = {"id": "fake-id"}
    token = Token(access_token=SECRET, extra=made)
    made.clear()
    assert token.extra == {"id": "fake-id"}
    assert attrs.evolve(token).extra is token.extra


def test_a_secret_accepts_no_further_attributes() -> None:
    with pytest.raises(AttributeError):
        SECRET.note = "x"  # type: ignore[attr-defined]


def test_a_token_accepts_plain_texts_and_hides_them() -> None:
    token = Token(access_token=ACCESS_TOKEN, refresh_token=REFRESH_TOKEN, extra={"id": "fake-id"})
    assert token.access_token == Secret(ACCESS_TOKEN)
    assert token.refresh_token == Secret(REFRESH_TOKEN)
    assert "fake" not in repr(token)


def test_a_token_needs_only_an_access_token() -> None:
    token = Token(access_token=ACCESS_TOKEN)
    assert (token.refresh_token, token.expires_at, token.scope, token.meta) == (None,) * 4
    assert token.oddities == frozenset()
    assert token.seconds_left(NOW) is None


def test_the_refusal_of_an_empty_token_names_its_kind() -> None:
    with pytest.raises(InvalidInputError, match="access token must not be empty"):
        Token(access_token="")
    with pytest.raises(InvalidInputError, match="refresh token must not be empty"):
        Token(access_token=ACCESS_TOKEN, refresh_token="")


@pytest.mark.parametrize("seconds", [3600.0, 0.0, -1.5])
def test_the_seconds_left_are_counted_to_the_expiry(seconds: float) -> None:
    token = Token(access_token=ACCESS_TOKEN, expires_at=NOW + timedelta(seconds=seconds))
    assert token.seconds_left(NOW) == seconds


def test_the_expiry_is_in_utc_in_whatever_time_zone_it_is_given() -> None:
    given = NOW.astimezone(timezone(timedelta(hours=2)))
    expires_at = Token(access_token=ACCESS_TOKEN, expires_at=given).expires_at
    assert expires_at == NOW
    assert expires_at.utcoffset() == timedelta(0)


def test_a_token_is_immutable_and_hashable_even_with_extra_members() -> None:
    token = Token(access_token=ACCESS_TOKEN, extra={"list": [1]})
    assert hash(token) == hash(Token(access_token=ACCESS_TOKEN))
    assert token != Token(access_token=ACCESS_TOKEN)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        token.extra = {}  # type: ignore[misc]


def test_the_kinds_of_token_are_the_token_type_hints_of_rfc_7009() -> None:
    assert [kind.value for kind in TokenKind] == ["access_token", "refresh_token"]
    assert TokenKind.REFRESH_TOKEN.label == "refresh token"


def test_the_expiry_is_counted_from_the_start_of_the_request() -> None:
    clock = [NOW]

    def respond_slowly(request: httpx.Request) -> httpx.Response:
        clock.append(NOW + timedelta(seconds=15))
        return Platform()(request)

    transport = httpx.MockTransport(respond_slowly)
    with BlinkOAuth(SETTINGS, clock=lambda: clock[-1], transport=transport) as blink:
        token = refresh(blink)
    assert token.expires_at == NOW + timedelta(seconds=3600)
    assert token.expires_at.utcoffset() == timedelta(0)
    assert token.seconds_left(clock[-1]) == 3585


def test_a_token_has_all_members_of_the_response(connect: Connect) -> None:
    token = refresh(connect(Platform(reply(body=TOKEN_BODY | {"id_token": "fake-id", "n": 1}))))
    expected: dict[str, Any] = {
        "token_type": "bearer",
        "scope": frozenset({"accounts", "payments"}),
        "extra": {"id_token": "fake-id", "n": 1},
    }
    assert {name: getattr(token, name) for name in expected} == expected
    assert attrs.fields(Token).extra.repr is False
