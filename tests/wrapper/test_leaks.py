"""The functions of `leaks` find a secret in every place where a test puts one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blink_oauth import Grant, InvalidInputError, RevocationError, StatusError, TokenKind
from wrapper.harness import CODE, REFRESH_TOKEN
from wrapper.leaks import SPELLINGS, found, locals_of, serializations_of, texts_of, texts_of_error


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_secret_is_found_in_any_encoding(spell: Callable[[str], str]) -> None:
    texts = [("here", f"x{spell(CODE)}y"), ("there", "x")]
    assert found([CODE], texts) == ["here"]
    assert found([REFRESH_TOKEN], texts) == []


class Leaky:
    """A value whose repr hides a secret that its attributes show."""

    def __init__(self) -> None:
        self.hidden = CODE

    def __repr__(self) -> str:
        return "Leaky(***)"


def test_a_secret_is_found_in_a_value() -> None:
    assert found([CODE], texts_of(Leaky())) == ["vars", "pickle"]
    assert "repr" in found([CODE], texts_of([CODE]))


class LeakySlot:
    """A value whose slot, state and members show a secret."""

    __slots__ = ("hidden",)
    __module__ = "blink_oauth.fake"

    def __init__(self) -> None:
        self.hidden = {"id": [CODE]}

    def __repr__(self) -> str:
        return "LeakySlot(***)"


def test_a_secret_is_found_in_what_serializers_make_of_a_value() -> None:
    places = found([CODE], serializations_of(LeakySlot()))
    assert {*places} >= {"getmembers", "attribute .hidden[][]"}
    assert any("state" in place for place in places)
    assert set(found([CODE], serializations_of([CODE]))) == {
        "reprlib",
        "json of str",
        "attribute []",
    }
    assert found([REFRESH_TOKEN], serializations_of(LeakySlot())) == []


def leaking_error(place: str) -> BaseException:
    """Return an error that contains a secret in one place."""
    error = RevocationError(CODE) if place == "message" else RevocationError("clean")
    if place == "note":
        error.add_note(CODE)
    elif place == "cause":
        error.__cause__ = ValueError(CODE)
    elif place == "context":
        error.__context__ = KeyError("clean")
        error.__context__.__context__ = ValueError(CODE)
    elif place == "nested":
        error.errors = {TokenKind.ACCESS_TOKEN: StatusError(CODE)}
    elif place == "attribute":
        error.correlation_id = CODE
    return error


@pytest.mark.parametrize("place", ["message", "note", "cause", "context", "nested", "attribute"])
def test_a_secret_is_found_in_an_error(place: str) -> None:
    assert found([CODE], texts_of_error(leaking_error(place)))


def test_a_secret_is_found_in_a_local_variable_of_our_packages() -> None:
    with pytest.raises(InvalidInputError) as caught:
        Grant(target_id=f"{CODE}\n", username="u")
    places = found([CODE], locals_of(caught.value))
    assert {place.partition(",")[0] for place in places} >= {
        "local target_id of __init__",
        "local value of _target_id",
        "local value of require_header_value",
    }
    assert found([REFRESH_TOKEN], locals_of(caught.value)) == []
