"""What many grants have in common, kept once: there may be 100,000 of them."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from functools import lru_cache
from typing import TypeVar, cast

__all__ = ["kept_once", "same_second"]

T = TypeVar("T", bound=Hashable)


def kept_once(value: T) -> T:
    """Return the first value that is equal to this one, as long as it is asked for."""
    return cast("T", _first(value))


def same_second(moment: datetime) -> datetime:
    """Return a moment to the second: thousands of grants have the same one."""
    return kept_once(moment.replace(microsecond=0))


@lru_cache(maxsize=8192, typed=True)
def _first(value: Hashable) -> Hashable:
    return value
