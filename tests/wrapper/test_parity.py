"""Both flavours offer the same: names, parameters, words."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth

CONTEXT_MANAGER = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def methods(cls: type) -> dict[str, Callable[..., object]]:
    """Return the public methods of a class, and what makes it a context manager."""
    return {
        name: member
        for name, member in vars(cls).items()
        if inspect.isfunction(member)
        and (not name.startswith("_") or name.endswith(("enter__", "exit__")))
    }


SYNC = methods(BlinkOAuth)
ASYNC = methods(AsyncBlinkOAuth)
WITHOUT_A_CALL = {"correlation_id"}
NAMES = [name for name in SYNC if not name.startswith("_")]


def test_the_methods_are_the_same() -> None:
    assert [CONTEXT_MANAGER.get(name, name) for name in SYNC] == list(ASYNC)
    assert set(NAMES) == {"exchange_code", "refresh", "revoke", "probe", "close", *WITHOUT_A_CALL}


@pytest.mark.parametrize("name", SYNC)
def test_a_method_takes_and_returns_the_same(name: str) -> None:
    twin = ASYNC[CONTEXT_MANAGER.get(name, name)]
    assert inspect.signature(SYNC[name]) == inspect.signature(twin)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_the_same(name: str) -> None:
    assert inspect.getdoc(SYNC[name]) == inspect.getdoc(ASYNC[name])
    assert inspect.getdoc(SYNC[name])


@pytest.mark.parametrize("name", SYNC)
def test_only_the_asynchronous_methods_are_coroutines(name: str) -> None:
    assert not inspect.iscoroutinefunction(SYNC[name])
    twin = ASYNC[CONTEXT_MANAGER.get(name, name)]
    assert inspect.iscoroutinefunction(twin) is (name not in WITHOUT_A_CALL)


def test_both_are_made_of_the_same_arguments_but_for_the_kind_of_transport() -> None:
    one, other = (
        dict(inspect.signature(cls.__init__).parameters) for cls in (BlinkOAuth, AsyncBlinkOAuth)
    )
    kinds = [str(arguments.pop("transport").annotation) for arguments in (one, other)]
    assert kinds == ["httpx.BaseTransport | None", "httpx.AsyncBaseTransport | None"]
    assert one == other


def test_the_classes_say_the_same_but_for_who_may_share_a_client() -> None:
    one, other = (inspect.getdoc(cls) or "" for cls in (BlinkOAuth, AsyncBlinkOAuth))
    assert "between threads" in one
    assert "one event loop" in other
    first, second = (text.split("\n\n") for text in (one, other))
    differences = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    assert differences == [(first[1], second[1])]
