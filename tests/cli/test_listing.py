"""`status` prints page by page: its memory does not grow, and its output is as of one page."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
import tracemalloc
from contextlib import closing

import pytest

from blink_oauth_cli.main import run
from blink_oauth_cli.output import Screen
from cli.cli_harness import Harness

COLUMNS = ("Target", "Username")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def fill(harness: Harness, count: int) -> None:
    """Store copies of the stored grant for other customers."""
    with closing(sqlite3.connect(harness.file)) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM blink_oauth_grants LIMIT 1").fetchone())
        names = ", ".join(f":{name}" for name in row)
        rows = [row | {"username": f"v-{number:06}"} for number in range(count)]
        connection.executemany(f"INSERT OR IGNORE INTO blink_oauth_grants VALUES ({names})", rows)
        # Copies do not have the MAC of their own grant, which tables of version 2 demand.
        connection.execute("UPDATE blink_oauth_schema SET version = 1")
        connection.commit()


class Discarding(io.StringIO):
    """Standard output that counts lines and keeps nothing."""

    lines = 0

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        return len(text)


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["table", "json"])
def test_the_memory_of_status_does_not_grow_with_the_grants(
    stored: Harness, flags: list[str]
) -> None:
    peaks = []
    for count in (1_000, 1_000, 3_000):
        fill(stored, count)
        with pytest.MonkeyPatch.context() as patch:
            output = Discarding()
            patch.setattr(sys, "stdout", output)
            tracemalloc.start()
            code = run(["status", *flags])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert (code, output.lines) == (0, 1 if flags else count + 2)
    _, few, many = peaks
    assert many <= few * 1.5


def test_status_lists_every_grant_once(stored: Harness) -> None:
    fill(stored, 1_201)
    names = [f"v-{number:06}" for number in range(1_201)]
    listed = stored.run("status", "--json").json
    assert [grant["username"] for grant in listed] == [stored.sandbox.grant().username, *names]
    heading, _, *lines = stored.run("status").out.splitlines()
    assert heading.startswith("Target ")
    assert [line.split()[1] for line in lines] == names


def test_status_opens_no_pair(stored: Harness) -> None:
    expected = stored.run("status", "--json").json
    with closing(sqlite3.connect(stored.file)) as connection:
        connection.execute("UPDATE blink_oauth_grants SET sealed = 'nonsense'")
        connection.commit()
    assert stored.run("status", "--json").json == expected


@pytest.mark.parametrize("widest", [0, 700, 1_100], ids=["first-page", "second-page", "third-page"])
def test_the_columns_of_a_long_table_are_as_wide_as_its_cells_so_far(
    widest: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"target {number}", f"user {number}") for number in range(1_200)]
    rows[widest] = ("a target with a very long name", "user")
    Screen().table(COLUMNS, iter(rows))
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == list(COLUMNS)
    assert [line.split("user")[0].strip() for line in lines] == [target for target, _ in rows]
    starts = [line.index("user") for line in lines]
    assert starts == sorted(starts)
    assert starts[-1] == len("a target with a very long name") + 2


def test_a_long_table_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("t" * 30, f"{number:030}") for number in range(600)]
    Screen(colour=False).table(COLUMNS, iter(rows))
    lines = ANSI.sub("", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) == 40
    assert "".join(line[-19:].strip() for line in lines[-2:]) == f"{599:030}"


@pytest.mark.parametrize("items", [[], [{"a": 1}], [{"a": "ü"}, {"b": None}, {}]], ids=len)
def test_a_json_array_that_is_printed_item_by_item_equals_one_that_is_printed_at_once(
    items: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    Screen().json_array(iter(items))
    assert capsys.readouterr().out == json.dumps(items, ensure_ascii=False) + "\n"
