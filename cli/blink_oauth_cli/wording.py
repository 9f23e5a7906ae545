"""How times and grants are written for people. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from blink_oauth.context import Grant

__all__ = ["ahead", "duration", "name_of", "parse_duration"]

LONGEST = 3_650 * 86_400
"""Seconds; no deadline is further away, and a date that far still exists."""
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def name_of(grant: Grant) -> str:
    """Return a grant as the command line takes it."""
    return f"{grant.target_id}/{grant.username}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units, such as `23 h 59 min`.

    Args:
        seconds: The length, not negative.
    """
    minutes, hours, days = int(seconds // 60), int(seconds // 3_600), int(seconds // 86_400)
    if days >= 2:
        return f"{days} days"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def ahead(moment: datetime | None, now: datetime) -> str:
    """Say how far ahead a moment is: `in …`, `over`, or a dash for none."""
    if moment is None:
        return "-"
    seconds = (moment - now).total_seconds()
    return duration(seconds) if seconds > 0 else "over"


def parse_duration(text: str) -> timedelta:
    """Read a length of time such as `90s`, `15m`, `24h` or `10d`.

    Raises:
        ValueError: It is none, not above zero, or longer than ten years.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("write a number and its unit: 90s, 15m, 24h or 10d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST:
        raise ValueError("ten years (3650d) are the longest")
    return timedelta(seconds=seconds)
