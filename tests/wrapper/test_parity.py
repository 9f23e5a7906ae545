"""The methods of both flavours have the same names, parameters and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth

CONTEXT_MANAGER = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def methods(cls: type) -> dict[str, Callable[..., object]]:
    """Return the public methods of a class, and those of the context manager."""
    return {
        name: member
        for name, member in vars(cls).items()
        if inspect.isfunction(member)
        and (not name.startswith("_") or name.endswith(("enter__", "exit__")))
    }


SYNC = methods(BlinkOAuth)
ASYNC = methods(AsyncBlinkOAuth)
WITHOUT_IO = {"correlation_id"}
NAMES = [name for name in SYNC if not name.startswith("_")]


def test_the_methods_have_the_same_names() -> None:
    assert [CONTEXT_MANAGER.get(name, name) for name in SYNC] == list(ASYNC)
    assert set(NAMES) == {"exchange_code", "refresh", "revoke", "probe", "close", *WITHOUT_IO}


@pytest.mark.parametrize("name", SYNC)
def test_a_method_has_the_same_signature(name: str) -> None:
    counterpart = ASYNC[CONTEXT_MANAGER.get(name, name)]
    assert inspect.signature(SYNC[name]) == inspect.signature(counterpart)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_has_the_same_docstring(name: str) -> None:
    assert inspect.getdoc(SYNC[name]) == inspect.getdoc(ASYNC[name])
    assert inspect.getdoc(SYNC[name])


@pytest.mark.parametrize("name", SYNC)
def test_only_the_asynchronous_methods_are_coroutines(name: str) -> None:
    assert not inspect.iscoroutinefunction(SYNC[name])
    counterpart = ASYNC[CONTEXT_MANAGER.get(name, name)]
    assert inspect.iscoroutinefunction(counterpart) is (name not in WITHOUT_IO)


def test_the_arguments_of_the_classes_differ_in_the_type_of_the_transport_only() -> None:
    sync_arguments, async_arguments = (
        dict(inspect.signature(cls.__init__).parameters) for cls in (BlinkOAuth, AsyncBlinkOAuth)
    )
    types = [
        str(arguments.pop("transport").annotation)
        for arguments in (sync_arguments, async_arguments)
    ]
    assert types == ["httpx.BaseTransport | None", "httpx.AsyncBaseTransport | None"]
    assert sync_arguments == async_arguments


def test_the_docstrings_of_the_classes_differ_in_the_paragraph_on_sharing_only() -> None:
    sync_text, async_text = (inspect.getdoc(cls) or "" for cls in (BlinkOAuth, AsyncBlinkOAuth))
    assert "between threads" in sync_text
    assert "one event loop" in async_text
    first, second = (text.split("\n\n") for text in (sync_text, async_text))
    differences = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    assert differences == [(first[1], second[1])]
