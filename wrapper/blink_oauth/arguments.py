"""Checks of the types of arguments: the error names the argument, its type and an example.

An error repeats no value, which could be a secret in the wrong place.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import datetime
from typing import Final

from .errors import InvalidInputError

__all__ = [
    "CLOCK",
    "GRANT",
    "PSU",
    "require_clock",
    "require_count",
    "require_function",
    "require_seconds",
    "require_time",
    "require_type",
    "type_of",
    "wrong_argument",
]

GRANT: Final = 'Grant("IIDX99999", "u-4711")'
TIME: Final = "datetime.now(UTC)"
CLOCK: Final = f"lambda: {TIME}"
PSU: Final = "Psu(ip=ip, user_agent=agent) or Psu.AUTO"


def wrong_argument(name: str, value: object, accepted: str, example: str) -> InvalidInputError:
    """Return the error for an argument of another type.

    Args:
        name: The name of the argument.
        value: The argument; the error has only its type.
        accepted: What the argument must be, with its article.
        example: An example, as code.
    """
    return InvalidInputError(
        f"The argument {name} must be {accepted}, such as {example}, but it is {type_of(value)}. "
        "Nothing was sent."
    )


def type_of(value: object) -> str:
    """Return the type of an argument for an error, with its article, or `None`."""
    return "None" if value is None else _with_article(type(value).__name__)


def require_type(name: str, value: object, kind: type, example: str) -> None:
    """Require an argument of a type.

    Args:
        name: The name of the argument.
        value: The argument.
        kind: The type.
        example: An example, as code.

    Raises:
        InvalidInputError: The argument has another type.
    """
    if not isinstance(value, kind):
        raise wrong_argument(name, value, _with_article(kind.__name__), example)


def require_seconds(name: str, value: object, *, optional: bool = False) -> None:
    """Require a finite number of seconds.

    It may be below 0: the time left until a deadline that has passed.

    Args:
        name: The name of the argument.
        value: The argument.
        optional: Whether None is accepted, for no limit.

    Raises:
        InvalidInputError: It is no number, or not finite.
    """
    if optional and value is None:
        return
    accepted = "a number of seconds or None" if optional else "a number of seconds"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise wrong_argument(name, value, accepted, "30.0")
    if not math.isfinite(value):
        raise InvalidInputError(f"The argument {name} must be finite. Nothing was sent.")


def require_time(name: str, value: object) -> None:
    """Require a timezone-aware datetime.

    Args:
        name: The name of the argument.
        value: The argument.

    Raises:
        InvalidInputError: It is no datetime, or has no time zone.
    """
    if not isinstance(value, datetime):
        raise wrong_argument(name, value, "a timezone-aware datetime", TIME)
    if value.utcoffset() is None:
        raise InvalidInputError(
            f"The argument {name} must have a time zone, such as {TIME}. Nothing was sent."
        )


def require_count(name: str, value: object, *, least: int, example: str) -> None:
    """Require a whole number.

    Args:
        name: The name of the argument.
        value: The argument.
        least: The lowest number that is accepted.
        example: An example, as code.

    Raises:
        InvalidInputError: It is no whole number, or too low.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_argument(name, value, "a whole number", example)
    if value < least:
        raise InvalidInputError(
            f"The argument {name} must be a whole number, {least} or more. Nothing was sent."
        )


def require_clock(clock: Callable[[], object]) -> datetime:
    """Return the time of a clock, and require it to have a timezone.

    Args:
        clock: The argument `clock`.

    Raises:
        InvalidInputError: It cannot be called, or returns no time with a timezone.
    """
    if not callable(clock):
        raise wrong_argument("clock", clock, "a function", CLOCK)
    now = clock()
    if not isinstance(now, datetime) or now.utcoffset() is None:
        raise InvalidInputError(
            f"The argument clock must return a time with its timezone, such as {TIME}. Nothing was "
            "sent."
        )
    return now


def require_function(name: str, value: object, example: str, *, optional: bool = True) -> None:
    """Require a function.

    A coroutine function is refused: its coroutine would be thrown away.

    Args:
        name: The name of the argument.
        value: The argument.
        example: An example, as code.
        optional: Whether None is accepted.

    Raises:
        InvalidInputError: It cannot be called, or only with `await`.
    """
    if optional and value is None:
        return
    if not callable(value):
        accepted = "a function or None" if optional else "a function"
        raise wrong_argument(name, value, accepted, example)
    if inspect.iscoroutinefunction(value):
        raise InvalidInputError(
            f"The argument {name} must be a function without async, such as {example}: nothing "
            "awaits it. Nothing was sent."
        )


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
