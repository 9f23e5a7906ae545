"""Where a token store and its keys are, and how a command opens it: only `create` makes one."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from blink_oauth.errors import BlinkError
from blink_oauth.texts import trimmed
from blink_oauth.tokens import Secret
from blink_oauth_keeper.errors import StoreError

from .configuration import SQLITE
from .errors import CommandError, ExitCode, missing_extra_error
from .key_files import (
    KeyCommands,
    key_provider,
    make_private_folder,
    new_line,
    opened_keys,
    read_keys,
    write_keys,
)

if TYPE_CHECKING:
    from blink_oauth_keeper import KeyProvider
    from blink_oauth_keeper.store.sql import SqlTokenStore

__all__ = ["StoreLocation", "location_of", "missing_key_ids", "open_store"]


NOT_WRAPPED = KeyCommands()


@frozen(kw_only=True)
class StoreLocation:
    """The location of a token store and of its keys.

    Attributes:
        url: The SQLAlchemy URL of a database that is no SQLite file; it may contain a password.
        file: The SQLite file, or None for another database.
        keys_file: The file of the keys, one per line; the first one seals. None if no file is
            configured and the store is not an SQLite file.
        keys: The keys from a variable, which replace the file.
        commands: The commands that unwrap and wrap the keys in the file.
        name: What errors call the store.
        flag: What names the store on the command line.
        keys_flag: What names the file of its keys there.
    """

    url: str | None = field(repr=False)
    file: Path | None
    keys_file: Path | None
    keys: tuple[Secret, ...] = ()
    commands: KeyCommands = NOT_WRAPPED
    name: str = "this store"
    flag: str = "--store (BLINK_STORE)"
    keys_flag: str = "--store-keys-file (BLINK_STORE_KEYS_FILE)"

    @property
    def database(self) -> str | Path:
        """The database, as the store takes it; it may contain a password."""
        database = self.file or self.url
        assert database is not None
        return database


def location_of(
    store: str,
    *,
    keys_file: str | None,
    keys: str | None = None,
    commands: KeyCommands = NOT_WRAPPED,
    **names: str,
) -> StoreLocation:
    """Return the location of a store.

    Args:
        store: A file, or the URL of a database.
        keys_file: The file of the keys; None for the one beside the store, if that is a file.
        keys: The keys, separated by commas or spaces; None for those in the file.
        commands: The commands that unwrap and wrap the keys in the file.
        names: The attributes of the location that name it.

    Raises:
        CommandError: It is the URL of an SQLite file with a query, or a malformed URL.
    """
    store, keys_file = trimmed(store), trimmed(keys_file or "")
    file = _sqlite_file(store)
    default_keys_file = file.with_name(f"{file.name}.keys") if file else None
    return StoreLocation(
        url=store if file is None else None,
        file=file,
        keys_file=Path(keys_file) if keys_file else default_keys_file,
        keys=tuple(map(Secret, (keys or "").replace(",", " ").split())),
        commands=commands,
        **names,
    )


MALFORMED_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+]+:|:[^@]*@")
"""A scheme, which a drive of one letter is not, or user and password."""


def _sqlite_file(store: str) -> Path | None:
    if store.startswith(SQLITE):
        if "?" in store:
            raise CommandError(
                "The URL of the store has a question mark, which would begin a query. Nothing was "
                "read or written.",
                "Give the path of the file by itself, without sqlite:///.",
                ExitCode.USAGE,
            )
        return Path(store.removeprefix(SQLITE)).absolute()
    if "://" in store:
        return None
    if MALFORMED_URL.search(store):
        raise CommandError(
            "The store looks like the URL of a database, but has no ://. Nothing was read or "
            "written.",
            "Give postgresql+psycopg://user@host/name, or the path of a file.",
            ExitCode.USAGE,
        )
    return Path(store).absolute()


def open_store(location: StoreLocation, *, create: bool = False) -> tuple[SqlTokenStore, list[str]]:
    """Open a store that exists; make it first only if `create` is set.

    Args:
        location: The location of the store.
        create: Whether to make what is missing of a store that does not exist: file, tables and
            key. Of a store that exists, neither a key nor anything else is made.

    Returns:
        The store, and a sentence about each thing that was made.

    Raises:
        CommandError: There is no store, a library or a key is missing, or a file cannot be used.
        InvalidInputError: The database or a key cannot be used.
        StoreError: The database cannot be read.
    """
    try:
        from blink_oauth_keeper.store.sql import SqlTokenStore

        if (location.url or "").startswith("postgresql") and find_spec("psycopg") is None:
            raise ModuleNotFoundError(name="psycopg")
    except ModuleNotFoundError as error:
        # Raised here, so that `doctor` reports it as a fault of the store.
        raise missing_extra_error(error.name) or error from None
    if not location.keys and location.keys_file is None:
        raise _no_key_error(location)
    exists = _has_store(location)
    if not exists and not create:
        raise _no_store_error(location)
    made: list[str] = []
    if not exists and location.file is not None:
        folder = Path(os.path.realpath(location.file)).parent
        make_private_folder(folder, remedy=f"Name another place with {location.flag}.")
    keys = location.keys or _key_file(location, made, exists=exists)
    store = SqlTokenStore(location.database, keys=keys)
    try:
        if create and exists:
            _require_opening_key(store, location)
        elif create:
            store.create_schema()
            made.insert(0, f"A new store: {location.file or 'its tables in the database'}")
    except BaseException:
        store.close()
        raise
    return store, made


def _has_store(location: StoreLocation) -> bool:
    from blink_oauth_keeper.store.sql_contents import has_store

    file = location.file
    if file is not None and not _has_content(file, location.flag):
        return False
    return has_store(location.database)


def _has_content(file: Path, flag: str) -> bool:
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        if stat.S_ISREG(status.st_mode):
            return bool(status.st_size)
        problem = "is a folder" if stat.S_ISDIR(status.st_mode) else "is no file"
    raise CommandError(
        f"The store {file} {problem}. Nothing was changed.",
        f"Name a file with {flag}.",
        ExitCode.USAGE,
    )


def _no_store_error(location: StoreLocation) -> CommandError:
    file = location.file
    if file is None:
        what = "There is no store in the database: it lacks the tables."
    elif not file.exists():
        what = f"There is no store {file}."
    elif file.stat().st_size:
        what = f"There is no store in {file}: it is a database of something else."
    else:
        what = f"There is no store in {file}: the file is empty."
    return CommandError(
        f"{what} Nothing was changed.",
        f"Correct {location.flag}. Only blink-oauth login and blink-oauth store init make a store.",
        ExitCode.USAGE,
    )


def _no_key_error(location: StoreLocation) -> CommandError:
    what, give = f"No key is known for {location.name}", f"Name its file with {location.keys_flag}."
    new = "make one with blink-oauth keys generate"
    try:
        exists = _has_store(location)
    except StoreError:
        return CommandError(
            f"{what}, and it cannot be read. Nothing was changed.",
            f"{give} Only for a new store, {new}.",
            ExitCode.USAGE,
        )
    sealed = _sealed_with(location) if exists else ""
    if sealed:
        do = f"{give} A new key could not open them."
    elif exists:
        do = f"Use the key of the store's other processes: {give} If there is none, {new}."
    else:
        what += ", and there is no store yet"
        do = f"For a new store, {new}, name its file, then run blink-oauth store init."
    return CommandError(f"{what}.{sealed} Nothing was changed.", do, ExitCode.USAGE)


def _key_file(location: StoreLocation, made: list[str], *, exists: bool) -> KeyProvider:
    file = location.keys_file
    assert file is not None
    if exists and not file.exists():
        raise CommandError(
            f"The keys of the store are missing: there is no file {file}."
            f"{_sealed_with(location)} Nothing was changed.",
            "Put the file back; another key cannot open what is stored.",
            ExitCode.USAGE,
        )
    if not file.exists():
        remedy = f"Name another file with {location.keys_flag}."
        line, _ = new_line(location.commands)
        make_private_folder(Path(os.path.realpath(file)).parent, remedy=remedy)
        if write_keys(file, [line], replace=False, consequence="No store was made.", remedy=remedy):
            made.append(f"Its key, made just now: {file}. Back it up.")
    try:
        read_keys(file)
    except CommandError as error:
        sealed = _sealed_with(location) if exists else ""
        raise CommandError(f"{error.what}{sealed}", error.do, error.code) from None
    return key_provider(file, location.commands)


def _require_opening_key(store: SqlTokenStore, location: StoreLocation) -> None:
    # A pair that is sealed with a key of no other process would be lost to all of them.
    from blink_oauth_keeper.store.sql_contents import pairs_by_key

    pairs = sum(pairs_by_key(location.database).values())
    if pairs and store.count_unknown_seals() >= pairs:
        raise CommandError(
            f"No given key opens {location.name}. What it has is sealed with the "
            f"{_keys(missing_key_ids(location))}. Nothing was changed.",
            f"Give the missing key back: {location.keys_flag}, or BLINK_STORE_KEYS.",
        )


def missing_key_ids(location: StoreLocation) -> list[str]:
    """Return the ids of the keys that stored pairs are sealed with, and that are not given.

    Raises:
        StoreError: The database cannot be read.
    """
    from blink_oauth_keeper.store.sealing import key_id
    from blink_oauth_keeper.store.sql_contents import pairs_by_key

    file = location.keys_file
    keys = location.keys
    if not keys and file is not None and file.exists():
        keys = tuple(opened_keys(file, location.commands))
    return sorted(pairs_by_key(location.database).keys() - {key_id(key) for key in keys})


def _sealed_with(location: StoreLocation) -> str:
    """Return a sentence with the ids of the keys that the store needs; empty if it needs none."""
    from blink_oauth_keeper.store.sql_contents import pairs_by_key

    with suppress(BlinkError):
        if ids := sorted(pairs_by_key(location.database)):
            return f" Its pairs are sealed with the {_keys(ids)}."
    return ""


def _keys(ids: list[str]) -> str:
    return f"{'keys' if len(ids) > 1 else 'key'} {', '.join(ids)}"
