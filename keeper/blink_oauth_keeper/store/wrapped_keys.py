"""Keys in a file, each wrapped by a key that stays in a key service; a command unwraps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret
from blink_oauth_keeper.processes import fork_gate, reset_after_fork

from .key_commands import TIME_LIMIT, Problem, checked_command, is_wrapped, unwrapped_key
from .keys import Key, KeyFile, KeyProvider, text_of

__all__ = ["RETRY_INTERVAL", "WrappedKeyFile"]

RETRY_INTERVAL = 10.0
"""Seconds after which the command is run again for a wrapped key that it could not unwrap."""


@frozen
class _Failure:
    at: float
    problem: Problem


class WrappedKeyFile(KeyProvider):
    """Wrapped keys in a file, one per line, which a command unwraps: the first seals, all open.

    The key that wraps them never leaves the key service. A running store follows the file as with
    `KeyFile`. The command runs once for each new line, whichever thread asks first, and again 10 s
    after it has failed.

    Args:
        path: The file.
        unwrap: The command: a program and its arguments; no shell is used. It reads one wrapped key
            from standard input, without a line end, and prints the key: 32 bytes in base64, of
            either alphabet, or the base64 of that text. Its messages are discarded. The methods
            raise `InvalidInputError` if it fails, or if the file cannot be read or has no key.
        time_limit: The seconds after which the command is killed, with its children.
        monotonic: Returns seconds of a clock that never goes back.

    Raises:
        InvalidInputError: An argument has another type.
    """

    def __init__(
        self,
        path: Path | str,
        unwrap: Sequence[str],
        *,
        time_limit: float = TIME_LIMIT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._file = path, KeyFile(path)
        self._command = checked_command("unwrap", unwrap, time_limit)
        self._time_limit, self._monotonic = time_limit, monotonic
        # It stays small, and a store keeps the keys too, so nothing is removed.
        self._results: dict[Secret, Secret | _Failure] = {}
        self._reset()
        reset_after_fork(self, WrappedKeyFile._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        # An argument of the command may be a secret.
        return f"{type(self).__name__}({str(self._path)!r}, [{self._command[0]!r}, …])"

    def current(self) -> Key:
        """Return the first key; run the command only if its line is new."""
        return self._key(1, self._file.current())

    def keys(self) -> Sequence[Key]:
        """Read the file and return its keys; run the command for each new line."""
        return [self._key(number, line) for number, line in enumerate(self._file.keys(), 1)]

    def _key(self, number: int, line: Key) -> Secret:
        wrapped = Secret(text_of(line))
        key = self._known(wrapped)
        if key is None:
            # No process is forked while the command runs: it would inherit the lock and the pipe.
            with fork_gate.operation(), self._lock:
                # Another thread may have run the command meanwhile.
                key = self._known(wrapped) or self._unwrap(wrapped)
        if isinstance(key, Problem):
            raise InvalidInputError(
                f"The key in line {number} of {self._path} cannot be used: {key.text}."
            )
        return key

    def _known(self, wrapped: Secret) -> Secret | Problem | None:
        """Return what the command gave, or None if it is to be run."""
        result = self._results.get(wrapped)
        if isinstance(result, _Failure):
            is_recent = self._monotonic() - result.at < RETRY_INTERVAL
            return result.problem if is_recent else None
        return result

    def _unwrap(self, wrapped: Secret) -> Secret | Problem:
        if not is_wrapped(wrapped):
            return Problem("it is not wrapped. Wrap it first; KeyFile reads keys as they are")
        before = self._results.get(wrapped)
        if isinstance(before, _Failure):
            # While this thread tries again, other threads go on with the keys that they have.
            self._results[wrapped] = _Failure(self._monotonic(), before.problem)
        key = unwrapped_key(self._command, wrapped, self._time_limit)
        if isinstance(key, Problem):
            key = Problem(f"the command {self._command[0]} {key.text}")
            self._results[wrapped] = _Failure(self._monotonic(), key)
        else:
            self._results[wrapped] = key
        return key
