"""The files of keys and the folders that the command makes; only their owner may access them."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret

from .errors import CommandError, ExitCode

if TYPE_CHECKING:
    from blink_oauth_keeper import KeyProvider
    from blink_oauth_keeper.store.key_commands import Problem

__all__ = [
    "KeyCommands",
    "key_provider",
    "make_private_folder",
    "new_line",
    "opened_keys",
    "read_keys",
    "require_new_file",
    "wrapped_line",
    "write_keys",
    "write_new_file",
]

OWNER_ONLY_FILE, OWNER_ONLY_FOLDER = 0o600, 0o700
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""The codes of fsync where a file system or the system has none."""
WAIT_FOR_WRITER, WRITER_POLL = 2.0, 0.01
"""Seconds to wait for another command that writes the same new file, and between two looks."""


@frozen
class KeyCommands:
    """The commands that unwrap and wrap the keys of a file.

    Attributes:
        unwrap: The arguments of the one that unwraps; empty if the keys are not wrapped.
        wrap: Those of the one that wraps; empty if there is none.
    """

    unwrap: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()


def make_private_folder(folder: Path, *, remedy: str) -> None:
    """Create a folder, and those above it that are missing, each for its owner alone.

    Args:
        folder: The folder.
        remedy: What to do if it cannot be created.

    Raises:
        CommandError: The folder cannot be created.
    """
    try:
        for each in reversed((folder, *folder.parents)):
            if not each.is_dir():
                each.mkdir(mode=OWNER_ONLY_FOLDER, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"The folder {folder} cannot be made: {error.strerror}. Nothing was changed.",
            remedy,
            ExitCode.USAGE,
        ) from None


def key_provider(file: Path, commands: KeyCommands) -> KeyProvider:
    """Return the provider of the keys in a file."""
    from blink_oauth_keeper import KeyFile, WrappedKeyFile

    return WrappedKeyFile(file, commands.unwrap) if commands.unwrap else KeyFile(file)


def opened_keys(file: Path, commands: KeyCommands) -> list[Secret]:
    """Return the keys in a file, unwrapped, in the order of its lines.

    Raises:
        CommandError: The file cannot be read, or contains no key.
        InvalidInputError: A key cannot be unwrapped.
    """
    from blink_oauth_keeper.store.keys import text_of

    if not commands.unwrap:
        return read_keys(file)
    return list(map(Secret, map(text_of, key_provider(file, commands).keys())))


def new_line(commands: KeyCommands) -> tuple[Secret, Secret]:
    """Return the line of a new key for a file, and the key.

    Raises:
        CommandError: The keys of the file are wrapped, and the new one cannot be.
    """
    from blink_oauth_keeper.store.sealing import new_key

    key = new_key()
    return wrapped_line(key, commands) if commands.unwrap else (key, key)


def wrapped_line(key: Secret, commands: KeyCommands) -> tuple[Secret, Secret]:
    """Return the line of a key that is wrapped, and the key that it opens to.

    That is another one if the command makes a new key itself, such as `transit/datakey/wrapped`.

    Raises:
        CommandError: A command is missing or fails.
    """
    from blink_oauth_keeper.store.key_commands import (
        TIME_LIMIT,
        Problem,
        unwrapped_key,
        wrapped_key,
    )

    if not (commands.unwrap and commands.wrap):
        missing = "wrap" if commands.unwrap else "unwrap"
        raise CommandError(
            f"No command is known that {missing}s a key. Nothing was changed.",
            f"Name it in BLINK_STORE_KEYS_{missing.upper()} (store_keys_{missing}).",
            ExitCode.USAGE,
        )
    line = wrapped_key(commands.wrap, key, TIME_LIMIT)
    if isinstance(line, Problem):
        raise _command_error("wrap", commands.wrap, line)
    # A line that cannot be opened must not be written.
    opened = unwrapped_key(commands.unwrap, line, TIME_LIMIT)
    if isinstance(opened, Problem):
        raise _command_error("unwrap", commands.unwrap, opened)
    return line, opened


def _command_error(name: str, command: tuple[str, ...], problem: Problem) -> CommandError:
    return CommandError(
        f"The command that {name}s a key, {command[0]}, {problem.text}. Nothing was changed.",
        f"Correct BLINK_STORE_KEYS_{name.upper()}, or what it needs, then run this again.",
        ExitCode.USAGE,
    )


def read_keys(file: Path) -> list[Secret]:
    """Return the lines of a file of keys, one key per line, as they are written.

    Raises:
        CommandError: The file cannot be read, or contains no key.
    """
    from blink_oauth_keeper.store.keys import KeyFile, text_of

    try:
        keys = KeyFile(file).keys()
    except InvalidInputError:
        raise CommandError(
            f"No key can be read from {file}. Nothing was changed.",
            "Put the file back as it was: one key to a line, the first seals, all open.",
            ExitCode.USAGE,
        ) from None
    return [Secret(text_of(key)) for key in keys]


def require_new_file(file: Path, *, otherwise: str) -> None:
    """Require that a file does not exist.

    Args:
        file: The file.
        otherwise: What to do if it is to have one more line.

    Raises:
        CommandError: The file exists.
    """
    if file.exists():
        raise _exists_error(file, otherwise)


def write_new_file(file: Path, lines: Sequence[Secret], *, otherwise: str) -> None:
    """Write keys or secrets to a new file, which its owner alone can read.

    Args:
        file: The file.
        lines: The keys or secrets.
        otherwise: What to do if the file exists and is to have one more line.

    Raises:
        CommandError: The file exists or cannot be written.
    """
    require_new_file(file, otherwise=otherwise)
    if not write_keys(
        file,
        lines,
        replace=False,
        consequence="Nothing was written.",
        remedy="Name another file with --output.",
    ):
        raise _exists_error(file, otherwise)


def _exists_error(file: Path, otherwise: str) -> CommandError:
    return CommandError(
        f"{file} is there already, and is left as it is.",
        f"Name a new file. {otherwise}",
        ExitCode.USAGE,
    )


def write_keys(
    file: Path, lines: Sequence[Secret], *, replace: bool, consequence: str, remedy: str
) -> bool:
    """Write keys to a file, of which no reader ever sees a part.

    A new file can be read by its owner only; a file that is replaced keeps its owner and its mode.

    Args:
        file: The file.
        lines: The keys, wrapped or not; the first one seals.
        replace: Whether to replace an existing file; otherwise it is left unchanged.
        consequence: What the error says was changed, or not changed, if the file cannot be written.
        remedy: What to do then.

    Returns:
        Whether the file has these keys; otherwise another command has made it meanwhile.

    Raises:
        CommandError: The file cannot be written.
    """
    try:
        # A link to the file stays a link.
        target = Path(os.path.realpath(file))
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".keys-")
        complete = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.writelines(f"{line.reveal()}\n" for line in lines)
                stream.flush()
                _sync(stream.fileno())
            if replace:
                _keep_mode_and_owner(target, complete)
                complete.replace(target)
            else:
                _rename_to_new(complete, target)
        finally:
            complete.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except FileExistsError:
        _await_writer(target)
        return False
    except OSError as error:
        raise CommandError(
            f"The file {file} cannot be written: {error.strerror}. {consequence}",
            remedy,
            ExitCode.USAGE,
        ) from None
    return True


def _rename_to_new(complete: Path, target: Path) -> None:
    """Rename a file to a name that no file has.

    Raises:
        FileExistsError: A file has it.
    """
    # An empty file takes the name first, since not every file system has hard links, and a rename
    # replaces. If the process is killed in between, the empty file is refused as one without a key.
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY_FILE))
    try:
        complete.replace(target)
    except BaseException:
        if not target.stat().st_size:
            target.unlink()
        raise


def _await_writer(target: Path) -> None:
    """Wait until a file that another command has begun to write has its content."""
    end = time.monotonic() + WAIT_FOR_WRITER
    with suppress(OSError):
        while not target.stat().st_size and time.monotonic() < end:
            time.sleep(WRITER_POLL)


def _keep_mode_and_owner(file: Path, copy: Path) -> None:
    # Run by another user, the command must not make the file unreadable for the store's processes.
    # What is equal is not set: some file systems refuse any change of it.
    wanted, actual = file.stat(), copy.stat()
    if stat.S_IMODE(wanted.st_mode) != stat.S_IMODE(actual.st_mode):
        copy.chmod(stat.S_IMODE(wanted.st_mode))
    owner = (wanted.st_uid, wanted.st_gid)
    if owner != (actual.st_uid, actual.st_gid):
        os.chown(copy, *owner)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def _sync_folder(folder: Path) -> None:
    # The name of the file survives a loss of power too, where a folder can be synchronized.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
