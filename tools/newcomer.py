"""Work through the tutorial as a newcomer does, and compare what is printed with the page.

    python tools/newcomer.py WHEEL [--uv PROGRAM] [--pins FILE] [--page FILE] [--write]

The page is docs/tutorial.md. Its blocks are executed in order, in an empty folder: the lines
`$ …` of a console in a shell; Python code is saved in the file that its first line names. The
block that starts the sandbox keeps its terminal busy, so the blocks after it are for a second one,
until `^C`. A command must succeed, unless the page shows its exit status by `$ echo $?`. --write
writes what is printed into the page.

Exit status: 0 the page is right, 1 it is not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import NamedTuple

from transcripts import normalized

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
FILE = re.compile(r"# ([\w-]+\.py)\n")
SANDBOX = "blink-oauth sandbox"
READY = "# Stop it with Ctrl-C.\n"
STATUS = "echo $?"
END = "end-of-the-command"
SECONDS = 300.0
"""How long the whole page may take; it takes ten on an idle machine."""


class PageError(Exception):
    """The page is wrong; the text says where and how."""


class Block(NamedTuple):
    """A block of code.

    Attributes:
        line: The number of its first line in the page.
        language: Its language.
        text: Its lines.
    """

    line: int
    language: str
    text: str


def blocks_of(page: str) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    for found in BLOCK.finditer(page):
        yield Block(page.count("\n", 0, found.start(2)) + 1, found[1], found[2])


class Tools(NamedTuple):
    """What stands for the programs and the clone that the page names.

    Attributes:
        wheel: The wheel, which stands for the clone or for the name on the index.
        uv: The program uv, which is quicker than venv and pip, or None for these.
        pins: The versions that uv may install, or None.
    """

    wheel: Path
    uv: str | None = None
    pins: Path | None = None

    def real(self, command: str) -> str:
        """Return what is executed for a command of the page."""
        command = re.sub(r"(?:\.\./)?blink-oauth(?=\[)", str(self.wheel), command)
        if self.uv is None:
            return command
        # uv finds its settings and what it has downloaded in the home of this user.
        environment = {"HOME": os.environ.get("HOME", "")}
        if self.pins is not None:
            environment["UV_CONSTRAINT"] = str(self.pins)
        uv = shlex.join(["env", *(f"{k}={v}" for k, v in environment.items()), self.uv])
        python = shlex.quote(sys.executable)
        command = command.replace("python3 -m venv", f"{uv} venv --quiet --python {python}")
        return re.sub(r"\bpip install\b", f"{uv} pip install", command)


class Terminal:
    """A shell in a process group of its own, whose commands read no input."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.shell = subprocess.Popen(
            ["/bin/bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def begin(self, command: str) -> None:
        """Start a command."""
        assert self.shell.stdin is not None
        end = f"status=$?; printf '\\n{END} %s\\n' $status; (exit $status)"
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null; {end}\n")
        self.shell.stdin.flush()

    def read(self, until: str | None = None) -> tuple[str, int]:
        """Return the output to its end and the exit status, or the output up to a line and 0.

        Raises:
            PageError: The shell has ended.
        """
        assert self.shell.stdout is not None
        output = ""
        for line in self.shell.stdout:
            if line.startswith(f"{END} "):
                return output[:-1], int(line.split()[1])
            output += line
            if line == until:
                return output, 0
        raise PageError(f"The shell has ended, or did not in {SECONDS:.0f} s. Printed:\n{output}")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self.shell.pid, signal.SIGINT)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the shell and to what it runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.shell.pid, number)

    def close(self) -> None:
        """End the shell and what it runs, and wait for it."""
        self.terminate()
        try:
            self.shell.communicate(timeout=10.0)
        except subprocess.TimeoutExpired:
            self.terminate(signal.SIGKILL)
            self.shell.communicate()


class Newcomer:
    """A reader of the page, with two terminals and a browser.

    Args:
        home: An empty folder.
        tools: What stands for the programs of the page.
    """

    def __init__(self, home: Path, tools: Tools) -> None:
        self.home, self.tools = home, tools
        self.ids: dict[str, str] = {}
        self.terminals: list[Terminal] = []
        self.executed = 0
        browser = home / "browser"
        program = shlex.join([sys.executable, str(Path(__file__).absolute()), "--browse"])
        # It must not keep the pipe of the shell open.
        browser.write_text(f'#!/bin/sh\nexec {program} "$1" >/dev/null 2>&1\n')
        browser.chmod(0o700)
        # A newcomer has no environment yet; nox has set these for its own.
        ours = ("BLINK_", "XDG_", "VIRTUAL_ENV", "PYTHON", "COVERAGE", "UV_PYTHON")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        own = Path(sys.executable).parent
        folders = inherited["PATH"].split(os.pathsep)
        inherited["PATH"] = os.pathsep.join(each for each in folders if Path(each) != own)
        # The ampersand makes Python's `webbrowser` go on while the browser runs.
        browsers = {"BROWSER": f"{browser} %s &", "HOME": str(home), "LANG": "C.UTF-8"}
        self.environment = inherited | browsers

    def open_terminal(self) -> Terminal:
        """Open a further terminal; the blocks to come are for it."""
        self.terminals.append(Terminal(self.home, self.environment))
        return self.terminals[-1]

    def execute(self, block: Block) -> str:
        """Execute a block, and return it with what was printed.

        Raises:
            PageError: A command failed, or the block is of an unknown kind.
        """
        self.executed += 1
        terminal = self.terminals[-1] if self.terminals else self.open_terminal()
        if block.language == "python":
            return self.save(block, terminal)
        if block.language != "console":
            raise PageError(f"Nothing executes {block.language}.")
        if block.text.startswith("^C"):
            self.terminals[0].interrupt()
            return f"^C{self.printed(self.terminals[0])}"
        seen = ""
        commands = COMMAND.findall(block.text)
        if not commands:
            raise PageError("The block has no command.")
        for command, following in zip(commands, [*commands[1:], ""], strict=True):
            terminal.begin(self.tools.real(command))
            seen += f"$ {command}\n"
            if command == SANDBOX:
                seen += self.printed(terminal, until=READY)
                self.open_terminal()
                break
            seen += self.printed(terminal, may_fail=following == STATUS)
        return seen

    def printed(
        self, terminal: Terminal, *, until: str | None = None, may_fail: bool = False
    ) -> str:
        """Return what a command prints, normalized.

        Raises:
            PageError: It failed, and the page does not say so.
        """
        output, status = terminal.read(until)
        if output and not output.endswith("\n"):
            output += "\n"
        if status and not may_fail:
            raise PageError(f"The exit status is {status}. Printed:\n{output}")
        return normalized(output, self.ids)

    def save(self, block: Block, terminal: Terminal) -> str:
        """Save the code of a block in the working folder of a terminal."""
        name = FILE.match(block.text)
        if name is None:
            raise PageError("The first line names no file, such as: # accounts.py")
        terminal.begin("pwd")
        folder, _ = terminal.read()
        Path(folder.strip(), name[1]).write_text(block.text, "utf-8")
        return block.text

    def terminate(self) -> None:
        """Make a command in progress end."""
        for terminal in self.terminals:
            terminal.terminate()

    def close(self) -> None:
        """End all that runs."""
        for terminal in self.terminals:
            terminal.close()


def work_through(page: str, tools: Tools, *, write: bool = False) -> tuple[str, int]:
    """Execute the blocks of a page in order.

    Args:
        page: The text of the page.
        tools: What stands for the programs of the page.
        write: Whether to go on after a difference.

    Returns:
        The page with what was printed, and the number of the blocks.

    Raises:
        PageError: The page is wrong.
    """
    with TemporaryDirectory(prefix="newcomer-") as home:
        newcomer = Newcomer(Path(home), tools)
        timer = Timer(SECONDS, newcomer.terminate)
        timer.start()
        try:
            for block in blocks_of(page):
                try:
                    seen = newcomer.execute(block)
                except PageError as error:
                    raise PageError(f"Line {block.line}:\n{block.text}{error}") from None
                if seen != block.text and not write:
                    raise PageError(f"Line {block.line}:\n{difference(block.text, seen)}")
                fence = f"```{block.language}\n"
                page = page.replace(f"{fence}{block.text}```", f"{fence}{seen}```", 1)
        finally:
            timer.cancel()
            newcomer.close()
    return page, newcomer.executed


def difference(documented: str, seen: str) -> str:
    """Return the lines that differ."""
    before, after = documented.splitlines(), seen.splitlines()
    return "\n".join(difflib.unified_diff(before, after, "documented", "printed", lineterm=""))


class Form(HTMLParser):
    """The first form of a page, filled in: a password in each empty field, each box ticked."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found = False
        self.fields: list[tuple[str, str]] = []
        self.button: tuple[str, str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a field, and the first button."""
        attributes = {name: value or "" for name, value in attrs}
        name, value = attributes.get("name", ""), attributes.get("value", "")
        self.found |= tag == "form"
        if tag == "input" and name:
            self.fields.append((name, value or "fake-password"))
        if tag == "button" and self.button is None:
            self.button = (name, value)

    def body(self) -> bytes:
        """Return the body of the request that the first button sends."""
        pressed = [self.button] if self.button and self.button[0] else []
        return urllib.parse.urlencode([*self.fields, *pressed]).encode()


def browse(url: str) -> None:
    """Open a page as a customer, and submit each form until there is none, at the redirect URI."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
    )
    response = opener.open(url, timeout=60.0)
    while (form := Form(response.read().decode())).found:
        response = opener.open(response.url, form.body(), timeout=60.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Work through the page, print the result and return the exit status."""
    parser = argparse.ArgumentParser("newcomer", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path, nargs="?", metavar="WHEEL")
    parser.add_argument("--uv", metavar="PROGRAM", help="the program uv, in place of venv and pip")
    parser.add_argument("--pins", type=Path, metavar="FILE", help="the versions that uv may use")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="write what is printed into the page")
    parser.add_argument("--browse", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.browse is not None:
        browse(options.browse)
        return 0
    if options.wheel is None or not options.wheel.is_file():
        parser.error(f"there is no wheel {options.wheel}")
    pins = options.pins and options.pins.absolute()
    tools = Tools(options.wheel.absolute(), options.uv, pins)
    page = options.page.read_text("utf-8")
    try:
        seen, executed = work_through(page, tools, write=options.write)
    except PageError as error:
        print(f"{options.page.name}: {error}")
        return 1
    if options.write:
        options.page.write_text(seen, "utf-8")
    print(f"{options.page.name}: {executed} blocks work with {options.wheel.name}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
