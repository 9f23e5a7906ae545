"""A user's first commands in two terminals and a browser; docs/cli.md has the transcript."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from browser.chromium import launched
from terminal.terminal import Terminal
from transcripts import normalized

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
CURL = """blink-oauth token --header | curl --silent --header @- --user-agent "$BLINK_USER_AGENT" \\
    --header "X-CorAPI-Target-ID: $BLINK_TARGET" \\
    --header "X-Correlation-ID: $(cat /proc/sys/kernel/random/uuid)" \\
    --header "X-PSU-IP-Address: AUTO" --header "X-PSU-User-Agent: AUTO" \\
    --config <(sed 's/^/pass = /' "$BLINK_KEY_PASSPHRASE_FILE") \\
    --cert "$BLINK_CERTIFICATE" --key "$BLINK_KEY" --cacert "$BLINK_CA" "$BLINK_ACCOUNTS_URL\""""


@pytest.fixture
def environ(fresh: Path, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user after the installation of the command."""
    opener = tmp_path / "opener"
    # The command starts this program as the browser, with the URL as its argument.
    opener.write_text(
        f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/url.new\nmv {tmp_path}/url.new {tmp_path}/url\n'
    )
    opener.chmod(0o700)
    return {
        "PATH": os.pathsep.join([str(fresh), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "BROWSER": str(opener),
        "LANG": "C.UTF-8",
    }


@pytest.fixture
def terminals(environ: dict[str, str]) -> Iterator[tuple[Terminal, Terminal]]:
    """Yield two terminals."""
    pair = Terminal(environ), Terminal(environ)
    yield pair
    for each in pair:
        each.close()


def consent(url: str) -> tuple[str, str]:
    """Sign in at the bank, choose accounts and approve; return title and text of the last page."""
    with sync_playwright() as playwright, launched(playwright) as browser:
        page = browser.new_page()
        page.goto(url)
        page.get_by_label("Password").fill("fake-password")
        page.keyboard.press("Enter")
        page.get_by_role("checkbox").first.check()
        page.get_by_role("button", name="Approve").click()
        page.wait_for_url("http://127.0.0.1:*/**")
        return page.title(), page.get_by_role("main").inner_text()


def test_the_first_commands_print_the_documented_transcript(
    terminals: tuple[Terminal, Terminal], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    platform, shell = terminals
    platform.begin("blink-oauth sandbox", until="Stop it with Ctrl-C.\r\n")
    shell.run('eval "$(blink-oauth sandbox --env)"')
    assert " FAIL" not in shell.run("blink-oauth doctor")
    assert shell.exit_code() == 0

    shell.begin("blink-oauth login")
    title, text = consent(opened_url(tmp_path / "url"))
    assert "stored" in title + text
    assert "logged in and stored" in shell.finish()
    assert "active" in shell.run("blink-oauth status")
    assert "CH0000000000000000001" in shell.run(CURL)
    assert "1 refreshed" in shell.run("blink-oauth keep-alive --within 30d")
    assert shell.exit_code() == 0
    assert "refresh.succeeded" in shell.run("blink-oauth history")
    assert "second consent" in shell.run("blink-oauth login", ("[y/N]: ", "n"))
    assert shell.exit_code() == 2
    assert "revoked" in shell.run("blink-oauth revoke", ("[y/N]: ", "y"))
    assert "revoked" in shell.run("blink-oauth status")
    assert "Error:" in shell.run("blink-oauth token")
    assert shell.exit_code() == 3
    assert "deleted" in platform.interrupt()

    for name, terminal in (("platform", platform), ("shell", shell)):
        seen = normalized("\n".join(terminal.transcript))
        assert not re.search(r"fake-(access|refresh)|Bearer ", seen)
        require_documented(name, seen, write=pytestconfig.getoption("--write"))


def opened_url(file: Path) -> str:
    """Wait until the command has opened a page, and return its URL."""
    for _ in range(600):
        if file.exists():
            return file.read_text("utf-8")
        pause()
    raise AssertionError("no page was opened")


def pause() -> None:
    """Wait a tenth of a second for the other process."""
    import time

    time.sleep(0.1)


def require_documented(name: str, seen: str, *, write: bool) -> None:
    """Compare a transcript with the documentation, or write it there."""
    document = DOCUMENT.read_text("utf-8")
    begin, end = f"<!-- {name} -->\n```console\n", "\n```\n"
    before, _, rest = document.partition(begin)
    documented, _, after = rest.partition(end)
    if write:
        DOCUMENT.write_text(f"{before}{begin}{seen}{end}{after}", "utf-8")
    else:
        assert documented == seen, "docs/cli.md is outdated: nox -s terminal -- --write"


def test_the_tools_of_the_transcript_are_installed() -> None:
    assert all(map(shutil.which, ("curl", "sed")))
