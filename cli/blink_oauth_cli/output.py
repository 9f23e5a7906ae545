"""What a command prints: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from attrs import define

from blink_oauth.context import Grant

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Screen", "ahead", "name_of", "parse_duration"]

PIPED_WIDTH = 1_000
"""Columns where no terminal is: lines are not to be broken for a program that reads them."""


@define(eq=False)
class Screen:
    """The two streams of a command.

    Attributes:
        colour: Whether colours are allowed; without a terminal there are none anyway.
    """

    colour: bool = True

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at the results as they come."""
        return sys.stdout.isatty()

    def line(self, text: str) -> None:
        """Print a line of the result as it is."""
        print(text, flush=True)  # noqa: T201 - this is the place

    def json(self, content: object) -> None:
        """Print one line of JSON, times in ISO 8601."""
        self.line(json.dumps(content, default=str, ensure_ascii=False))

    def note(self, text: str) -> None:
        """Tell something that is no result."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the place

    def styled(self, text: str, word: str) -> str:
        """Return a text in the colour of a word such as a level, where colours are seen."""
        from rich.text import Text

        console = self.console(sys.stdout)
        with console.capture() as capture:
            console.print(Text(text, style=_STYLES.get(word, "")), end="")
        return capture.get()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; cells that are too wide for the terminal are folded, never cut."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        console = self.console(sys.stdout)
        with console.capture() as capture:
            console.print(table)
        lines = capture.get().splitlines()
        self.line("\n".join(line.rstrip() for line in lines))

    def console(self, stream: TextIO) -> Console:
        """Return what draws on a stream."""
        from rich.console import Console

        width = None if stream.isatty() else PIPED_WIDTH
        return Console(
            file=stream,
            no_color=True if not self.colour else None,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=False,
            width=width,
        )


_STYLES = {
    "active": "green",
    "OK": "green",
    "refreshing": "cyan",
    "uncertain": "yellow",
    "WARN": "yellow",
    "active, customer needed": "yellow",
    "active, key missing": "red",
    "uncertain, customer needed": "red",
    "needs consent": "red",
    "FAIL": "bold red",
    "revoked": "dim",
}


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
