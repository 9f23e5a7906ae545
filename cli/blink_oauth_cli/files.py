"""Files that hold secrets, as the operating system sees them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from .check import Check, doubtful, failed, passed

__all__ = ["file_check", "private_file_check"]

NAME = "store_file"
ENOUGH_BYTES = 50_000_000
OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
BESIDE = ("", "-wal", "-shm")
"""SQLite writes to these files, all with tokens in them."""


def private_file_check(name: str, path: Path) -> Iterator[Check]:
    """Look who may read a file with keys; of one that is not there, others tell.

    Args:
        name: The name of the check.
        path: The file.
    """
    if os.name != "posix" or not path.is_file():
        return
    if _is_open_to(path, OTHERS_MAY):
        finding = f"Others than its owner may read or write the key in {path}."
        yield doubtful(name, finding, f"chmod 600 {path}")
    else:
        yield passed(name, f"{path} is its owner's alone.")


def file_check(path: Path, free_bytes: Callable[[Path], int]) -> Check:
    """Look who may read the file of a store, and whether there is room for it.

    Others may list its folder, but not write to it: they could put another file in its place.

    Args:
        path: The file; it need not be there yet.
        free_bytes: Tells how many bytes are free in a folder.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return failed(
            NAME,
            f"{path} cannot be written: {folder} is no folder that this user may write to.",
            f"Give this user a folder of its own for the store, or give it {folder}.",
        )
    opened = _open_to_others(path, folder) if os.name == "posix" else {}
    if opened:
        modes = " && ".join(f"chmod {mode} {each}" for each, mode in opened.items())
        return doubtful(
            NAME, f"Others than its owner may open {', '.join(map(str, opened))}.", modes
        )
    free = free_bytes(folder)
    if free < ENOUGH_BYTES:
        return doubtful(
            NAME,
            f"The disk of {path} has {free // 1_000_000} MB left. A token that cannot be stored is "
            "lost.",
            "Make room on the disk.",
        )
    return passed(NAME, f"{path} is its owner's alone, and there is room.")


def _open_to_others(path: Path, folder: Path) -> dict[Path, str]:
    files = (path.with_name(path.name + ending) for ending in BESIDE)
    opened = {file: "600" for file in files if _is_open_to(file, OTHERS_MAY)}
    # A folder above one that is still to be made is not ours to change.
    if path.absolute().parent == folder and _is_open_to(folder, OTHERS_WRITE):
        opened[folder] = "go-w"
    return opened


def _is_open_to(path: Path, others: int) -> bool:
    try:
        return bool(path.stat().st_mode & others)
    except OSError:
        return False
