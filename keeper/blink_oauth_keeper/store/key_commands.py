"""Run a command that wraps or unwraps a key, such as that of Vault or of a cloud's key service.

The key goes to standard input and comes from standard output. Nothing that the command prints is
repeated in an error, since it may be a key.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from attrs import frozen

from blink_oauth.arguments import require_seconds, wrong_argument
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret

from .keys import normalized

__all__ = [
    "TIME_LIMIT",
    "Problem",
    "checked_command",
    "is_wrapped",
    "unwrapped_key",
    "wrapped_key",
]

TIME_LIMIT = 5.0
"""Seconds that a command may take: the time by which the lease of a refresh exceeds its call."""
MAX_LENGTH = 4096
"""The most characters of a wrapped key or an output: a pipe buffers as many without a reader."""
KILL_WAIT = 1.0
"""Seconds to wait for the end of a process that was killed."""
STANDARD = str.maketrans("-_", "+/")
EXAMPLE = '["vault", "write", "-field=plaintext", "transit/decrypt/blink", "ciphertext=-"]'


@frozen
class Problem:
    """Why a command gave no key; it contains nothing of what the command read or printed."""

    text: str


def checked_command(name: str, command: object, time_limit: object) -> tuple[str, ...]:
    """Return a command as the sequence of its arguments.

    Args:
        name: The name of the argument, for the error.
        command: The program and its arguments.
        time_limit: The seconds that it may take.

    Raises:
        InvalidInputError: It is no sequence of texts, or the time limit is no number above 0.
    """
    if not isinstance(command, Sequence) or isinstance(command, (str, bytes)):
        raise wrong_argument(name, command, "a list of arguments, since no shell is used", EXAMPLE)
    if not command or not all(isinstance(each, str) and "\0" not in each for each in command):
        raise InvalidInputError(
            f"The argument {name} must be a list of texts, such as {EXAMPLE}. Nothing was run."
        )
    require_seconds("time_limit", time_limit)
    if not isinstance(time_limit, (int, float)) or time_limit <= 0:
        raise InvalidInputError("The argument time_limit must be above 0 seconds.")
    return tuple(command)


def unwrapped_key(command: Sequence[str], wrapped: Secret, time_limit: float) -> Secret | Problem:
    """Return the key that a command unwraps, or why there is none.

    Args:
        command: The program and its arguments. It reads the wrapped key, without a line end, and
            prints 32 random bytes in base64, of either alphabet, or the base64 of that text.
        wrapped: The wrapped key.
        time_limit: The seconds after which the command is killed.
    """
    output = _output(command, wrapped, time_limit)
    if isinstance(output, Problem):
        return output
    return _key_in(output) or Problem("printed no key: 32 bytes in base64, or that in base64 again")


def wrapped_key(command: Sequence[str], key: Secret, time_limit: float) -> Secret | Problem:
    """Return the wrapped form of a key, one line of text, or why there is none.

    Args:
        command: The program and its arguments. It reads the key as 32 bytes in the standard
            alphabet of base64, without a line end, and prints the wrapped key.
        key: The key.
        time_limit: The seconds after which the command is killed.
    """
    written = normalized(key.reveal())
    if written is None:
        return Problem("was not run, since the key is none: 32 bytes in base64")
    given = Secret(written.translate(STANDARD))
    output = _output(command, given, time_limit)
    if isinstance(output, Problem):
        return output
    if not is_wrapped(output):
        return Problem("printed no wrapped key: one line of text, and not the key as it is")
    return output


def is_wrapped(line: Secret) -> bool:
    """Return whether a text may be a wrapped key: one printable word that is not itself a key."""
    text = line.reveal()
    is_word = text.isascii() and text.isprintable() and " " not in text
    return is_word and len(text) <= MAX_LENGTH and _key_in(line) is None


def _key_in(output: Secret) -> Secret | None:
    text = output.reveal()
    key = normalized(text)
    if key is None:
        try:
            again = base64.b64decode(text, validate=True).decode("ascii")
        except ValueError:
            return None
        key = normalized(again)
    return None if key is None else Secret(key)


def _output(command: Sequence[str], given: Secret, time_limit: float) -> Secret | Problem:
    """Return what a command prints, without white space at its ends, or why there is nothing."""
    end = time.monotonic() + time_limit
    try:
        process = subprocess.Popen(  # noqa: S603  the command is the operator's
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A message may repeat the key.
            stderr=subprocess.DEVNULL,
            # A group of its own, to kill it with its children, and no terminal to ask on.
            start_new_session=True,
        )
    except OSError as error:
        return Problem(f"cannot be run: {error.strerror}. Install it, or correct its path")
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        # It may end without reading, such as one that makes a new key itself.
        with suppress(BrokenPipeError, ConnectionError), process.stdin as stdin:
            stdin.write(given.reveal().encode())
        reader = _Reader(process.stdout)
        reader.join(max(0.0, end - time.monotonic()))
        if reader.is_alive():
            return Problem(f"did not end within {time_limit:g} s, and was killed")
        if len(reader.output) > MAX_LENGTH:
            return Problem(f"printed more than {MAX_LENGTH} bytes, and was killed")
        try:
            code = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return Problem(f"did not end within {time_limit:g} s, and was killed")
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            return Problem(
                f"failed with {how}. Its messages are not repeated here, since they may contain a "
                "key: run it by hand to see them"
            )
        text = reader.output.decode("ascii", "replace").strip()
        return Secret(text) if text else Problem("printed nothing")
    finally:
        _end(process)


class _Reader(threading.Thread):
    """Reads the output of a process until its end, or until it is too long.

    A thread, because not every system can wait for a pipe with a time limit. A child that has left
    the group, and so was not killed, keeps it waiting; therefore only the thread closes the pipe.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="blink-key-command", daemon=True)
        self._stream, self.output = stream, b""
        self.start()

    def run(self) -> None:
        with self._stream as stream:
            self.output = stream.read(MAX_LENGTH + 1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that has not ended, with its group, and collect its exit code."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_WAIT)
