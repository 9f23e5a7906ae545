"""A terminal with a shell, and a transcript of what it shows."""

from __future__ import annotations

from collections.abc import Mapping

import pexpect
import pyte
from attrs import define, field

COLUMNS, LINES = 100, 40
PROMPT = "§ "
TIMEOUT = 60
"""Seconds; longer than any command takes, so that it ends only a run that hangs."""


@define(eq=False)
class Terminal:
    """A shell on a terminal of its own.

    Attributes:
        environ: The environment of the shell.
        transcript: The commands, each after the prompt `$`, and their output, as lines.
    """

    environ: Mapping[str, str]
    transcript: list[str] = field(init=False, factory=list)
    _shell: pexpect.spawn[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._shell = pexpect.spawn(
            "bash",
            ["--noprofile", "--norc"],
            env=dict(self.environ) | {"PS1": PROMPT, "TERM": "xterm-256color"},
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            timeout=TIMEOUT,
        )
        self._shell.expect_exact(PROMPT)
        # The transcript has the commands already, without the line breaks of the terminal.
        self._shell.sendline("bind 'set enable-bracketed-paste off'; stty -echo")
        self._shell.expect_exact(PROMPT)

    def run(self, command: str, *answers: tuple[str, str]) -> str:
        """Run a command to its end, and return the output.

        Args:
            command: The command line.
            answers: Questions to wait for, each with the text to type.
        """
        self.begin(command)
        output = ""
        for question, answer in answers:
            self._shell.expect_exact(question)
            output += f"{self._shell.before}{question}{answer}\r\n"
            self._shell.sendline(answer)
        return self.finish(output)

    def begin(self, command: str, until: str | None = None) -> str:
        """Start a command, and return the output up to a certain text.

        Args:
            command: The command line.
            until: The text to wait for, or None to return at once.
        """
        self.transcript.append(f"$ {command}")
        self._shell.sendline(command.replace("\\\n", " "))
        if until is None:
            return ""
        self._shell.expect_exact(until)
        return self._record(f"{self._shell.before}{until}")

    def finish(self, output: str = "") -> str:
        """Wait for the prompt, and return the output before it.

        Args:
            output: Earlier output of the same command.
        """
        self._shell.expect_exact(PROMPT)
        return self._record(f"{output}{self._shell.before}")

    def interrupt(self) -> str:
        """Press Ctrl-C, wait for the prompt, and return the output."""
        self._shell.sendintr()
        return self.finish()

    def exit_code(self) -> int:
        """Return the exit code of the last command; the transcript does not show it."""
        self._shell.sendline("echo $?")
        self._shell.expect_exact(PROMPT)
        return int(rendered(str(self._shell.before))[-1])

    def close(self) -> None:
        """End the shell and its child processes."""
        self._shell.close(force=True)

    def _record(self, text: str) -> str:
        lines = rendered(text)
        self.transcript += lines
        return "\n".join(lines)


def rendered(text: str) -> list[str]:
    """Return the lines that the terminal shows at the end, after overwritten text."""
    screen = pyte.Screen(COLUMNS, 500)
    pyte.Stream(screen).feed(text)
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return lines
