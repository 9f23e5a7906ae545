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

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret

from .errors import CommandError, ExitCode

__all__ = ["make_private_folder", "read_keys", "write_keys"]

OWNER_ONLY_FILE, OWNER_ONLY_FOLDER = 0o600, 0o700
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""The codes of fsync where a file system or the system has none."""
WAIT_FOR_WRITER, WRITER_POLL = 2.0, 0.01
"""Seconds to wait for another command that writes the same new file, and between two looks."""


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


def read_keys(file: Path) -> list[Secret]:
    """Return the keys in a file, one per line.

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


def write_keys(
    file: Path, keys: Sequence[Secret], *, replace: bool, consequence: str, remedy: str
) -> bool:
    """Write keys to a file, of which no reader ever sees a part.

    A new file can be read by its owner only; a file that is replaced keeps its owner and its mode.

    Args:
        file: The file.
        keys: The keys; the first one seals.
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
                stream.writelines(f"{key.reveal()}\n" for key in keys)
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
