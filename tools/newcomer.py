"""Work through the tutorial as a newcomer does, and compare what is printed with the page.

    python tools/newcomer.py WHEEL --pins FILE [--uv PROGRAM] [--write]

The page is docs/tutorial.md. Its blocks are executed in order, in an empty folder: the lines
`$ …` of a console in a shell; Python code is saved in the file that its first line names. The
block that starts the sandbox keeps its terminal busy, so the blocks after it are for a second one,
until `^C`. A command must succeed, unless the page shows its exit status by `$ echo $?`. --uv takes
the place of venv and pip. --write writes what is printed into the page.

Exit status: 0 the page is right, 1 it is not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from transcripts import normalized

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
FILE = re.compile(r"# ([\w-]+\.py)\n")
STATUS = "echo $?"
END = "end-of-the-command"
ENDED = re.compile(rf"\n{END} (\d+)\n|(?<=# Stop it with Ctrl-C\.\n)".encode())
"""The end of a command, or the line by which the sandbox says that it runs."""
FIELD = re.compile(r'<(input|button)\b[^>]* name="(\w+)"(?: value="([^"]*)")?')
SECONDS = 300.0
"""How long the whole page may take; it takes twenty on an idle machine."""
GRACE = 10.0
"""Seconds that a process has to end after SIGTERM, before SIGKILL."""


class PageError(Exception):
    """The page is wrong; the text says where and how."""


def real(command: str, wheel: Path, pins: Path, uv: str | None = None) -> str:
    """Return what is executed for a command of the page.

    Args:
        command: The command.
        wheel: The wheel, which stands for the clone or for the name on the index.
        pins: The versions that may be installed; for pip without hashes.
        uv: The program uv, which is quicker than venv and pip, or None for these.
    """
    command = re.sub(r"(?:\.\./)?blink-oauth(?=\[)", str(wheel), command)
    if uv is None:
        pip = shlex.join(["env", f"PIP_CONSTRAINT={pins}", "pip"])
    else:
        # uv finds its settings and what it has downloaded in the home of this user.
        uv = shlex.join(["env", f"HOME={Path.home()}", f"UV_CONSTRAINT={pins}", uv])
        venv = f"{uv} venv --quiet --python {shlex.quote(sys.executable)}"
        command = command.replace("python3 -m venv", venv)
        pip = f"{uv} pip"
    return command.replace("pip install", f"{pip} install")


class Terminal:
    """A shell in a process group of its own, whose commands read no input.

    Args:
        folder: The working folder.
        environment: The environment.
        deadline: When the last command must have ended, by `time.monotonic`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], deadline: float) -> None:
        self.deadline, self.output = deadline, b""
        self.shell = subprocess.Popen(
            ["/bin/bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def begin(self, command: str) -> None:
        """Start a command."""
        assert self.shell.stdin is not None
        end = f"status=$?; printf '\\n{END} %s\\n' $status; (exit $status)"
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null; {end}\n".encode())
        self.shell.stdin.flush()

    def read(self) -> tuple[str, int | None]:
        """Return the output of a command, and its exit status or None while the sandbox runs.

        Raises:
            PageError: The shell has ended, or the command does not.
        """
        assert self.shell.stdout is not None
        pipe = self.shell.stdout.fileno()
        while (ended := ENDED.search(self.output)) is None:
            left = max(0.0, self.deadline - time.monotonic())
            in_time = select.select([pipe], [], [], left)[0]
            received = os.read(pipe, 65_536) if in_time else b""
            self.output += received
            if not received:
                what = "The shell has ended" if in_time else f"No end within {SECONDS} s"
                raise PageError(f"{what}. Printed:\n{self.output.decode()}")
        printed, self.output = self.output[: ended.start()], self.output[ended.end() :]
        return printed.decode(), None if ended[1] is None else int(ended[1])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the shell and to what it runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.shell.pid, number)

    def close(self) -> None:
        """End the shell and what it runs, and wait for it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.shell.communicate(timeout=GRACE)


class Newcomer:
    """A reader of the page, with two terminals and a browser.

    Args:
        home: An empty folder.
        real: Returns what is executed for a command of the page.
        write: Whether to go on after a difference.
    """

    def __init__(self, home: Path, real: Callable[[str], str], *, write: bool) -> None:
        self.home, self.real, self.write = home, real, write
        self.deadline = time.monotonic() + SECONDS
        self.ids: dict[str, str] = {}
        # A newcomer has no environment yet; nox has set these for its own.
        ours = ("BLINK_", "XDG_", "VIRTUAL_ENV", "PYTHON", "COVERAGE", "UV_PYTHON")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        own = Path(sys.executable).parent
        folders = inherited["PATH"].split(os.pathsep)
        inherited["PATH"] = os.pathsep.join(each for each in folders if Path(each) != own)
        # The ampersand makes Python's `webbrowser` go on while the browser runs.
        browser = shlex.join([sys.executable, str(Path(__file__).absolute()), "--browse"])
        browsers = {"BROWSER": f"{browser} %s &", "HOME": str(home), "LANG": "C.UTF-8"}
        self.environment = inherited | browsers
        self.terminals: list[Terminal] = []
        self.open_terminal()

    def open_terminal(self) -> None:
        """Open a further terminal; the blocks to come are for it."""
        self.terminals.append(Terminal(self.home, self.environment, self.deadline))

    def work_through(self, block: re.Match[str]) -> str:
        """Execute a block, and return it with what was printed.

        Raises:
            PageError: The page is wrong.
        """
        language, text = block.groups()
        line = block.string.count("\n", 0, block.start(2)) + 1
        try:
            seen = self.execute(language, text)
        except PageError as error:
            raise PageError(f"Line {line}:\n{text}{error}") from None
        if seen != text and not self.write:
            lines = text.splitlines(), seen.splitlines()
            difference = difflib.unified_diff(*lines, "documented", "printed", lineterm="")
            raise PageError("\n".join([f"Line {line}:", *difference]))
        return f"```{language}\n{seen}```"

    def execute(self, language: str, text: str) -> str:
        """Execute the text of a block, and return it with what was printed."""
        terminal = self.terminals[-1]
        if language == "python":
            return self.save(text, terminal)
        if language != "console":
            raise PageError(f"Nothing executes {language}.")
        if text.startswith("^C"):
            self.terminals[0].signal(signal.SIGINT)
            return f"^C{self.printed(self.terminals[0])}"
        seen = ""
        commands = COMMAND.findall(text)
        if not commands:
            raise PageError("The block has no command.")
        for command, following in zip(commands, [*commands[1:], ""], strict=True):
            terminal.begin(self.real(command))
            seen += f"$ {command}\n{self.printed(terminal, may_fail=following == STATUS)}"
            if terminal is not self.terminals[-1]:
                break
        return seen

    def printed(self, terminal: Terminal, *, may_fail: bool = False) -> str:
        """Return what a command prints, normalized; after the sandbox, open a further terminal."""
        output, status = terminal.read()
        if output and not output.endswith("\n"):
            output += "\n"
        if status is None:
            self.open_terminal()
        elif status and not may_fail:
            raise PageError(f"The exit status is {status}. Printed:\n{output}")
        return normalized(output, self.ids)

    def save(self, code: str, terminal: Terminal) -> str:
        """Save code in the working folder of a terminal."""
        name = FILE.match(code)
        if name is None:
            raise PageError("The first line names no file, such as: # accounts.py")
        terminal.begin("pwd")
        folder, _ = terminal.read()
        Path(folder.strip(), name[1]).write_text(code, "utf-8")
        return code

    def close(self) -> None:
        """End all that runs."""
        for terminal in self.terminals:
            terminal.close()


def work_through(page: str, real: Callable[[str], str], *, write: bool = False) -> tuple[str, int]:
    """Execute the blocks of a page in order.

    Args:
        page: The text of the page.
        real: Returns what is executed for a command of the page.
        write: Whether to go on after a difference.

    Returns:
        The page with what was printed, and the number of its blocks.

    Raises:
        PageError: The page is wrong.
    """
    with (
        TemporaryDirectory(prefix="newcomer-") as home,
        closing(Newcomer(Path(home), real, write=write)) as newcomer,
    ):
        return BLOCK.subn(newcomer.work_through, page)


def filled_in(page: str) -> bytes:
    """Return what the form of a page sends: a password, each box ticked, its first named button."""
    fields = FIELD.findall(page)
    inputs = [(name, value or "fake-password") for tag, name, value in fields if tag == "input"]
    buttons = [(name, value) for tag, name, value in fields if tag == "button"]
    return urllib.parse.urlencode([*inputs, *buttons[:1]]).encode()


def browse(url: str) -> None:
    """Open a page as a customer, and submit each form until there is none, at the redirect URI."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
    )
    response = opener.open(url, timeout=60.0)
    while "<form" in (page := response.read().decode()):
        response = opener.open(response.url, filled_in(page), timeout=60.0)


def main(arguments: Sequence[str]) -> int:
    """Work through the page, print the result and return the exit status."""
    if arguments[:1] == ["--browse"]:
        browse(arguments[1])
        return 0
    parser = argparse.ArgumentParser("newcomer", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path, metavar="WHEEL")
    parser.add_argument("--pins", type=Path, metavar="FILE", required=True, help="the versions")
    parser.add_argument("--uv", metavar="PROGRAM", help="the program uv, in place of venv and pip")
    parser.add_argument("--write", action="store_true", help="write what is printed into the page")
    options = parser.parse_args(arguments)
    wheel = options.wheel.absolute()
    if not wheel.is_file():
        parser.error(f"there is no wheel {wheel}")
    execute = partial(real, wheel=wheel, pins=options.pins.absolute(), uv=options.uv)
    try:
        seen, count = work_through(PAGE.read_text("utf-8"), execute, write=options.write)
    except PageError as error:
        print(f"{PAGE.name}: {error}")
        return 1
    if options.write:
        PAGE.write_text(seen, "utf-8")
    print(f"{PAGE.name}: {count} blocks work with {wheel.name}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
