"""Finds secrets in texts, errors and the local variables of tracebacks, where none may be."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import pprint
import re
import reprlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import attrs

import blink_oauth
import blink_oauth_api.client
import blink_oauth_cli
import blink_oauth_keeper
import blink_oauth_testing
from blink_oauth import BlinkError, RevocationError

PACKAGES = tuple(
    str(Path(module.__file__).parent)
    for module in (
        blink_oauth,
        blink_oauth_api.client,
        blink_oauth_cli,
        blink_oauth_keeper,
        blink_oauth_testing,
    )
    if module.__file__ is not None
)


def lower_case_escapes(secret: str) -> str:
    """Return a secret quoted as in a path, with the escapes in lower case."""
    return re.sub("%..", lambda escape: escape[0].lower(), quote(secret))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in a URL": lambda secret: quote(secret, safe=""),
    "in a path": quote,
    "in a form": quote_plus,
    "with escapes in lower case": lower_case_escapes,
}
"""The encodings in which a text may contain a secret."""


def found(secrets: Iterable[str], texts: Iterable[tuple[str, str]]) -> list[str]:
    """Return the places whose text contains a secret, without the secret."""
    spellings = {spell(secret) for secret in secrets for spell in SPELLINGS.values()}
    return [place for place, text in texts if any(spelling in text for spelling in spellings)]


def texts_of(value: object) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each representation of a value."""
    yield "repr", repr(value)
    yield "str", str(value)
    yield "format", f"{value}"
    yield "percent", "%s %r" % (value, value)  # noqa: UP031
    yield "pprint", pprint.pformat(value)
    yield "container", repr([{"value": value}])
    yield "copy", repr(copy.copy(value))
    yield "deepcopy", repr(copy.deepcopy(value))
    if hasattr(value, "__dict__"):
        yield "vars", repr(vars(value))
    try:
        yield "pickle", pickle.dumps(value).decode("latin-1")
    except TypeError as exc:
        yield "refused pickle", str(exc)


STATES: tuple[Callable[[Any], object], ...] = (
    lambda value: value.__getstate__(),
    object.__getstate__,
    lambda value: value.__reduce__(),
    *(lambda value, protocol=protocol: value.__reduce_ex__(protocol) for protocol in range(5)),
)
"""The ways to read the state of a value."""


def serializations_of(value: object) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each form that serializers and error reporters make."""
    yield "getmembers", repr(inspect.getmembers(value))
    yield "reprlib", reprlib.repr(value)
    yield "json of str", json.dumps(value, default=str)
    if attrs.has(type(value)):
        convertible: Any = value
        yield "asdict", json.dumps(attrs.asdict(convertible), default=str)
        yield "astuple", repr(attrs.astuple(convertible))
    for place, text in plain_values_in(value):
        yield f"attribute {place}", text


def plain_values_in(value: object, place: str = "", depth: int = 4) -> Iterator[tuple[str, str]]:
    """Yield the texts that a walk through attributes, slots, states and containers finds.

    jsonpickle and error reporters walk so. What refuses its state is left out, as by them.
    """
    if isinstance(value, (str, bytes)):
        yield place, str(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from plain_values_in(key, f"{place} key", depth)
            yield from plain_values_in(item, f"{place}[]", depth)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from plain_values_in(item, f"{place}[]", depth)
    elif depth and type(value).__module__.startswith("blink_oauth"):
        names = {name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())}
        for name in {*names, *getattr(value, "__dict__", {})}:
            yield from plain_values_in(getattr(value, name, None), f"{place}.{name}", depth - 1)
        for read in STATES:
            with suppress(TypeError):
                yield from plain_values_in(read(value), f"{place} state", depth - 1)


def texts_of_error(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield each text of an error, its attributes, its causes and its frames."""
    for link in chain(error):
        name = type(link).__name__
        yield f"str of {name}", str(link)
        yield f"repr of {name}", repr(link)
        yield f"args of {name}", repr(link.args)
        yield f"notes of {name}", repr(getattr(link, "__notes__", []))
        yield f"vars of {name}", repr(vars(link))
        yield f"traceback of {name}", "".join(traceback.format_exception(link))
        yield from locals_of(link)
        if isinstance(link, BlinkError):
            yield f"pickle of {name}", pickle.dumps(link).decode("latin-1")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error with all its causes, contexts and nested errors."""
    pending = [error]
    seen: list[BaseException] = []
    while pending:
        link = pending.pop()
        if link is None or link in seen:
            continue
        seen.append(link)
        yield link
        pending += [link.__cause__, link.__context__]
        if isinstance(link, RevocationError):
            pending += link.errors.values()


def locals_of(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield the local variables in the frames of our packages, as an error reporter shows them.

    The code that attrs generates for our classes belongs to our packages, too.
    """
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(PACKAGES) or (file.startswith("<attrs") and "blink_oauth" in file):
            for name, value in frame.f_locals.items():
                yield f"local {name} of {frame.f_code.co_name}, line {line}", safe_repr(value)


def safe_repr(value: object) -> str:
    """Return the repr of a value, or a note that it failed."""
    try:
        return repr(value)
    except Exception as exc:  # noqa: BLE001  # the repr of a partly initialized object may fail
        return f"<no repr: {type(exc).__name__}>"
