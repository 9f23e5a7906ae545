"""The configuration, store, keys, client and manager of a command, created on first use."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from attrs import define, field, frozen

from blink_oauth.errors import InvalidInputError
from blink_oauth.texts import trimmed
from blink_oauth.tokens import Secret

from .configuration import SQLITE, Configuration, configure
from .errors import CommandError, ExitCode, missing_extra_error
from .output import Screen

if TYPE_CHECKING:
    from blink_oauth_keeper import Event, KeyFile, TokenManager
    from blink_oauth_keeper.events import Listener
    from blink_oauth_keeper.store.sql import SqlTokenStore

__all__ = [
    "App",
    "StoreLocation",
    "location_of",
    "read_keys",
    "store_location",
    "write_keys",
]


@frozen(kw_only=True)
class StoreLocation:
    """The location of a profile's token store and of its keys.

    Attributes:
        url: The SQLAlchemy URL of a database that is no SQLite file; it may contain a password.
        file: The SQLite file, or None for another database.
        keys_file: The file of the keys, one per line; the first one seals. None if no file is
            configured and the store is not an SQLite file.
        keys: The keys from a variable, which replace the file.
    """

    url: str | None = field(repr=False)
    file: Path | None
    keys_file: Path | None
    keys: tuple[Secret, ...] = ()


def store_location(configuration: Configuration, data_folder: Path | None) -> StoreLocation:
    """Return the configured location of the store, or the default in the user's data folder.

    Args:
        configuration: The configuration of the command.
        data_folder: The user's folder for data, or None if there is none.

    Raises:
        CommandError: It cannot be used, or it is not known.
    """
    store = configuration.get("store")
    if store is None:
        if data_folder is None:
            raise _no_home("Name the store with --store (BLINK_STORE)")
        store = str(data_folder / (configuration.profile.name or "default") / "tokens.db")
    location = location_of(
        store,
        keys_file=configuration.get("store_keys_file"),
        keys=configuration.get("store_keys"),
    )
    folder = configuration.directed_from
    if folder is not None and not _is_within(folder, location, data_folder):
        origin = configuration.profile.origin
        raise CommandError(
            f"{origin} was found in the working folder and names the server. Then the store and "
            "its keys must be in that folder, and they are not. Nothing was sent.",
            f"If you trust the file, name it: --config {origin} (BLINK_CONFIG).",
            ExitCode.USAGE,
        )
    return location


def _is_within(folder: Path, location: StoreLocation, data_folder: Path | None) -> bool:
    # Of a database the keys count: without them, no stored pair can be opened.
    paths = [path.resolve() for path in (location.file, location.keys_file) if path is not None]
    is_elsewhere = any(not path.is_relative_to(folder.resolve()) for path in paths)
    is_default = data_folder is not None and any(
        path.is_relative_to(data_folder.resolve()) for path in paths
    )
    return not (location.keys or is_elsewhere or is_default)


def _no_home(do: str) -> CommandError:
    return CommandError(
        "This user has no home folder, or HOME is no absolute path. Nothing was read or written.",
        f"{do}, or set HOME.",
        ExitCode.USAGE,
    )


def location_of(store: str, *, keys_file: str | None, keys: str | None = None) -> StoreLocation:
    """Return the location of a store.

    Args:
        store: A file, or the URL of a database.
        keys_file: The file of the keys; None for the one beside the store, if that is a file.
        keys: The keys, separated by commas or spaces; None for those in the file.

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


def open_store(location: StoreLocation) -> tuple[SqlTokenStore, list[str]]:
    """Open the store; create the file and its key if neither exists.

    Returns:
        The store, and a sentence about each thing that was created.

    Raises:
        CommandError: A library or a key is missing, or a file cannot be used; nothing was changed.
        InvalidInputError: The database or a key cannot be used.
    """
    try:
        from blink_oauth_keeper.store.sql import SqlTokenStore

        if (location.url or "").startswith("postgresql") and find_spec("psycopg") is None:
            raise ModuleNotFoundError(name="psycopg")
    except ModuleNotFoundError as error:
        # Raised here, so that `doctor` reports it as a fault of the store.
        raise missing_extra_error(error.name) or error from None
    created: list[str] = []
    keys = location.keys or _key_file_of(location, created)
    database = location.file or location.url
    assert database is not None
    return SqlTokenStore(database, keys=keys), created


def _key_file_of(location: StoreLocation, created: list[str]) -> KeyFile:
    from blink_oauth_keeper import KeyFile
    from blink_oauth_keeper.store.sealing import new_key

    file = location.keys_file
    if file is None:
        raise CommandError(
            "No key is known for this store. Nothing was read or written.",
            "Make one with blink-oauth keys generate, and name its file in BLINK_STORE_KEYS_FILE.",
            ExitCode.USAGE,
        )
    if file.exists():
        read_keys(file)
        return KeyFile(file)
    if location.file is None or (location.file.exists() and location.file.stat().st_size):
        raise CommandError(
            f"The keys of the store are missing: there is no file {file}. Nothing was changed.",
            "Put the file back; another key cannot open what is stored.",
            ExitCode.USAGE,
        )
    make_private_folder(
        location.file.parent, remedy="Name another place with --store (BLINK_STORE)."
    )
    remedy = "Name another file with --store-keys-file (BLINK_STORE_KEYS_FILE)."
    make_private_folder(file.parent, remedy=remedy)
    write_keys(
        file, [new_key()], replace=False, consequence="The store is as it was.", remedy=remedy
    )
    created += [f"A new store: {location.file}", f"Its key, made just now: {file}. Back it up."]
    return KeyFile(file)


def make_private_folder(folder: Path, *, remedy: str) -> None:
    """Create a folder that only its owner may access, unless it exists.

    Args:
        folder: The folder.
        remedy: What to do if it cannot be created.

    Raises:
        CommandError: The folder cannot be created.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
) -> None:
    """Write keys atomically to a file.

    A new file can be read by its owner only; a file that is replaced keeps its owner and its mode.

    Args:
        file: The file.
        keys: The keys; the first one seals.
        replace: Whether to replace an existing file; otherwise it is left unchanged.
        consequence: What the error says was changed, or not changed, if the file cannot be written.
        remedy: What to do then.

    Raises:
        CommandError: The file cannot be written.
    """
    try:
        # A link to the file stays a link.
        target = file.resolve()
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".keys-")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.writelines(f"{key.reveal()}\n" for key in keys)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                shutil.copymode(target, name)
                _keep_owner(target, name)
                Path(name).replace(target)
            else:
                # If two commands create the first key at the same time, both use the key that was
                # written first.
                with suppress(FileExistsError):
                    os.link(name, target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(
            f"The file {file} cannot be written: {error.strerror}. {consequence}",
            remedy,
            ExitCode.USAGE,
        ) from None


def _keep_owner(file: Path, copy: str) -> None:
    # Run by another user, the command must not make the file unreadable for the store's processes.
    wanted, actual = file.stat(), Path(copy).stat()
    owner = (wanted.st_uid, wanted.st_gid)
    if owner != (actual.st_uid, actual.st_gid):
        os.chown(copy, *owner)


POLL_INTERVAL = 0.2
"""Seconds between two checks; a longer wait may miss a second Ctrl-C."""
INTERRUPTED_NOTE = (
    "\nInterrupted. A call in progress is awaited, so that nothing is lost; Ctrl-C again "
    "exits immediately."
)
FORCED_EXIT_NOTE = (
    "\nExited immediately. A call may have been in progress: its grant shows as refreshing, then "
    "as uncertain.\n→ Look at blink-oauth status in half a minute."
)


def _require_stored(event_names: Collection[str]) -> None:
    if "store.lost" in event_names:
        raise CommandError(
            "What the bank answered could not be written to the store, and is lost: the code or "
            "the refresh token is spent.",
            "Repair the store: blink-oauth doctor. Then look at blink-oauth status; if the grant "
            "does not recover, log in again.",
            ExitCode.UNCERTAIN,
        )


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


def _data_folder() -> Path | None:
    from platformdirs import user_data_path

    return _user_folder(user_data_path)


def _user_folder(find: Callable[..., Path]) -> Path | None:
    try:
        folder = find("blink-oauth", appauthor=False)
    except RuntimeError:
        return None
    # Without a home folder, older versions return a path that begins with `~`.
    return folder if folder.is_absolute() else None


@define(eq=False, slots=False)
class App:
    """One run of the command.

    Attributes:
        given: The values of flags and variables, by the names of the settings.
        screen: Prints to the two output streams.
        variables: The names in `given` whose value is that of a variable.
        debug: Whether to print which file is used.
    """

    given: Mapping[str, str] = field(repr=False)
    screen: Screen
    variables: Collection[str] = ()
    debug: bool = False

    @cached_property
    def configuration(self) -> Configuration:
        """The configuration of the command.

        Raises:
            CommandError: The file cannot be used.
        """
        from platformdirs import user_config_path

        found = configure(
            self.given,
            folder=_working_folder(),
            user_folder=_user_folder(user_config_path),
            variables=self.variables,
        )
        if self.debug and found.profile.origin:
            self._note_file(found)
        return found

    def _note_file(self, configuration: Configuration) -> None:
        profile = configuration.profile
        self.screen.note(f"Configuration: profile {profile.name} of {profile.origin}")

    @property
    def data_folder(self) -> Path:
        """The user's folder for data, whether it exists or not.

        Raises:
            CommandError: The user has no home folder.
        """
        folder = _data_folder()
        if folder is None:
            raise _no_home("Set XDG_DATA_HOME")
        return folder

    @cached_property
    def store_location(self) -> StoreLocation:
        """The location of the store.

        Raises:
            CommandError: It cannot be used, or it is not known.
        """
        return store_location(self.configuration, _data_folder())

    def open_store(self, location: StoreLocation | None = None) -> SqlTokenStore:
        """Open a store, and print a note about each thing that was created for it.

        Args:
            location: The location of the store; None for the configured one.

        Raises:
            CommandError: A key is missing or a file cannot be used.
            InvalidInputError: The database or a key cannot be used.
        """
        store, created = open_store(location or self.store_location)
        for line in created:
            self.screen.note(line)
        return store

    @contextmanager
    def store(self, location: StoreLocation | None = None) -> Iterator[SqlTokenStore]:
        """Open a store as `open_store` does, and close it afterwards."""
        with closing(self.open_store(location)) as store:
            yield store

    @contextmanager
    def manager(self, on_event: Listener | None = None) -> Iterator[TokenManager]:
        """Open client, store and manager, and close them afterwards.

        On Ctrl-C, calls in progress finish first.

        Args:
            on_event: Receives every event.

        Raises:
            CommandError: The configuration cannot be used, or a result could not be stored.
            BlinkError: The configuration, the certificate or the store cannot be used.
        """
        from blink_oauth.client import BlinkOAuth
        from blink_oauth_keeper import TokenManager

        # Each name once: a daemon receives events for weeks.
        event_names: dict[str, None] = {}

        def listen(event: Event) -> None:
            event_names[event.name.value] = None
            if on_event is not None:
                on_event(event)

        configuration = self.configuration
        if configuration.profile.is_found_here and not self.debug:
            self._note_file(configuration)
        profiles = configuration.target_profiles()
        with BlinkOAuth(configuration.settings()) as blink, self.store() as store:
            manager = TokenManager(
                blink, store, profiles=profiles, lease=configuration.lease, on_event=listen
            )
            try:
                yield manager
            except KeyboardInterrupt:
                self._finish_and_exit(manager, event_names)
            finally:
                manager.close()
        # Until the manager is closed, it may still store a result.
        _require_stored(event_names)

    def _finish_and_exit(self, manager: TokenManager, event_names: Collection[str]) -> NoReturn:
        closing = threading.Thread(target=manager.close, daemon=True)
        try:
            self.screen.note(INTERRUPTED_NOTE)
            closing.start()
            while closing.is_alive():
                closing.join(POLL_INTERVAL)
        except KeyboardInterrupt:
            self.screen.note(FORCED_EXIT_NOTE)
            # After a second Ctrl-C, a normal exit would still wait for the call in progress.
            os._exit(ExitCode.INTERRUPTED)
        _require_stored(event_names)
        events = ", ".join(event_names) or "nothing was sent"
        raise CommandError(
            f"Interrupted; until then: {events}.",
            "Look at blink-oauth status.",
            ExitCode.INTERRUPTED,
        )
