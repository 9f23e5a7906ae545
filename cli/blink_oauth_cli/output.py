"""Printing: results to standard output, everything else to standard error.

Whatever is printed goes through `visible`, so that no text of a bank, a proxy or a customer steers
the terminal, forges a line, or looks like another text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, TextIO
from unicodedata import category

from attrs import define

from blink_oauth.context import Grant

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Screen",
    "expiry_phrase",
    "format_duration",
    "grant_name",
    "parse_duration",
    "time_left",
    "visible",
]

BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that show nothing, although Unicode counts them among letters and marks."""

PIPED_WIDTH = 1_000
"""Columns without a terminal; wide enough that no line is wrapped."""
GAP = 2
"""Blanks between two columns of a table."""
TABLE_PAGE = 500
"""Rows of a table that are laid out and printed together."""


def visible(text: str) -> str:
    """Return a text with an escape such as `\\x1b` for each character that shows nothing.

    These are the control characters, line ends among them, those that change the direction of the
    text or have no width, and halves of a character.
    """
    if text.isprintable() and not BLANK.search(text):
        return text
    return "".join(
        char.encode("unicode_escape").decode() if _is_hidden(char) else char for char in text
    )


def _is_hidden(char: str) -> bool:
    # Spaces of other widths are not printable for Python, and are seen.
    return bool(BLANK.match(char)) or not (char.isprintable() or category(char) == "Zs")


def _json(content: object) -> str:
    """Return JSON in which what shows nothing is escaped; it still has the same value."""
    text = json.dumps(content, default=str, ensure_ascii=False)
    if visible(text) == text:
        return text
    return "".join(json.dumps(char)[1:-1] if _is_hidden(char) else char for char in text)


@define(eq=False)
class Screen:
    """The two streams of a command.

    Attributes:
        colour: Whether colours are allowed; they are printed on a terminal only.
    """

    colour: bool = True

    @property
    def is_terminal(self) -> bool:
        """Whether standard output is a terminal."""
        return sys.stdout.isatty()

    def line(self, *lines: str, label: str = "") -> None:
        """Print lines of the result, visibly.

        Args:
            lines: The lines; a line end inside one is escaped.
            label: What comes before them in its colour, such as a level.
        """
        text = "\n".join(map(visible, lines))
        _write(sys.stdout, f"{self._styled(label)}{text}\n")

    def json(self, content: object) -> None:
        """Print the result as one line of JSON."""
        _write(sys.stdout, f"{_json(content)}\n")

    def json_array(self, items: Iterable[object]) -> None:
        """Print the result as one line of JSON, an array that is printed item by item."""
        opening = "["
        for item in items:
            _write(sys.stdout, f"{opening}{_json(item)}")
            opening = ", "
        _write(sys.stdout, "[]\n" if opening == "[" else "]\n")

    def report(self, content: object, text: str) -> None:
        """Print the result as a line of text to a terminal, and as a line of JSON elsewhere."""
        if self.is_terminal:
            self.line(text)
        else:
            self.json(content)

    def note(self, *lines: str) -> None:
        """Print lines of a note to standard error, visibly; a line end inside one is escaped."""
        _write(sys.stderr, "".join(f"{visible(line)}\n" for line in lines))

    def _styled(self, word: str) -> str:
        if not word:
            return ""
        from rich.text import Text

        console = self.console(sys.stdout)
        with console.capture() as capture:
            console.print(Text(word, style=_STYLES.get(word.strip(), "")), end="")
        return capture.get()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table page by page.

        A cell that is too wide for the terminal is folded and not cut. The columns are as wide as
        the pages so far need them.
        """
        from rich.cells import cell_len

        console, remaining = self.console(sys.stdout), iter(rows)
        columns = list(map(visible, columns))
        widths, heading = [0] * len(columns), [columns]
        while page := [list(map(visible, row)) for row in islice(remaining, TABLE_PAGE)]:
            cells = zip(columns, *page, strict=True)
            widths = [
                max(width, *map(cell_len, column))
                for width, column in zip(widths, cells, strict=True)
            ]
            if console.is_terminal:
                text = _laid_out(console, columns, page, widths, with_heading=bool(heading))
            else:
                text = "\n".join(_padded(row, widths) for row in [*heading, *page])
            _write(sys.stdout, f"{text}\n")
            heading = []

    def console(self, stream: TextIO) -> Console:
        """Return a console that writes to a stream."""
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


def _write(stream: TextIO, text: str) -> None:
    # One write, so that lines of two threads are not run together.
    stream.write(text)
    stream.flush()


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    from rich.cells import set_cell_size

    # Much faster than rich, which lays out each cell: without a terminal, nothing is folded.
    cells = (set_cell_size(cell, width + GAP) for cell, width in zip(row, widths, strict=True))
    return "".join(cells).rstrip()


def _laid_out(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    *,
    with_heading: bool,
) -> str:
    from rich.table import Table
    from rich.text import Text

    # Without enough space rich has to choose the widths.
    fits = sum(widths) + GAP * (len(columns) - 1) <= console.width
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=with_heading)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, overflow="fold", min_width=width if fits else None)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


_STYLES = {
    "active": "green",
    "OK": "green",
    "refreshing": "cyan",
    "uncertain": "yellow",
    "WARN": "yellow",
    "active, customer needed": "yellow",
    "unreadable": "red",
    "uncertain, customer needed": "red",
    "needs consent": "red",
    "FAIL": "bold red",
    "revoking": "yellow",
    "revoked": "dim",
    "forgotten": "dim",
}


MAX_DURATION = 3_650 * 86_400
"""Seconds; the longest duration. A date that far ahead can still be represented."""
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def grant_name(grant: Grant) -> str:
    """Return the name of a grant on the command line: `TARGET/USERNAME`."""
    return f"{grant.target_id}/{grant.username}"


def format_duration(seconds: float) -> str:
    """Return a duration as text, such as `23 h 59 min` or `12 days`.

    Args:
        seconds: The duration in seconds, not negative.
    """
    minutes, hours, days = int(seconds // 60), int(seconds // 3_600), int(seconds // 86_400)
    if days >= 2:
        return f"{days} days"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def time_left(expires_at: datetime | None, now: datetime) -> str:
    """Return the cell of a table: the time left, `over` if there is none, or `-` without expiry."""
    if expires_at is None:
        return "-"
    seconds = (expires_at - now).total_seconds()
    return format_duration(seconds) if seconds > 0 else "over"


def expiry_phrase(expires_at: datetime | None, now: datetime) -> str:
    """Return the predicate of a sentence, such as `expires in 23 h 59 min` or `has expired`."""
    if expires_at is None:
        return "has no known expiry"
    return f"expires in {time_left(expires_at, now)}" if expires_at > now else "has expired"


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as `90s`, `15m`, `24h` or `10d`.

    Raises:
        ValueError: The text is no duration, or the duration is zero or longer than ten years.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("write a number and its unit: 90s, 15m, 24h or 10d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > MAX_DURATION:
        raise ValueError("ten years (3650d) are the longest")
    return timedelta(seconds=seconds)
