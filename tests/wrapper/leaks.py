"""Finds secrets where none may be: in texts, errors and the locals of tracebacks."""

from __future__ import annotations

import copy
import pickle
import pprint
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

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


def small_escapes(secret: str) -> str:
    """Write a secret as in a path, the digits of the escapes in small letters."""
    return re.sub("%..", lambda escape: escape[0].lower(), quote(secret))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a URL": lambda secret: quote(secret, safe=""),
    "in a path": quote,
    "in a form": quote_plus,
    "in small letters": small_escapes,
}
"""How a secret may be written."""


def found(secrets: Iterable[str], texts: Iterable[tuple[str, str]]) -> list[str]:
    """Return where a secret stands, the secret itself left out."""
    words = {spell(secret) for secret in secrets for spell in SPELLINGS.values()}
    return [place for place, text in texts if any(word in text for word in words)]


def texts_of(value: object) -> Iterator[tuple[str, str]]:
    """Yield every text that a program makes of a value without asking for its secrets."""
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


def texts_of_error(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield every text of an error, of what it carries, of its causes and of its frames."""
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
    waiting = [error]
    seen: list[BaseException] = []
    while waiting:
        link = waiting.pop()
        if link is None or link in seen:
            continue
        seen.append(link)
        yield link
        waiting += [link.__cause__, link.__context__]
        if isinstance(link, RevocationError):
            waiting += link.errors.values()


def locals_of(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield the locals of the frames of our packages, as an error reporter shows them.

    What attrs generated for our classes belongs to our packages too.
    """
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(PACKAGES) or (file.startswith("<attrs") and "blink_oauth" in file):
            for name, value in frame.f_locals.items():
                yield f"local {name} of {frame.f_code.co_name}, line {line}", shown(value)


def shown(value: object) -> str:
    """Return what an error reporter would show of a value."""
    try:
        return repr(value)
    except Exception as exc:  # noqa: BLE001  # a half-made object has no repr
        return f"<no repr: {type(exc).__name__}>"
