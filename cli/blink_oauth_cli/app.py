"""What every command works with, made when it is first needed: client, store, keys and manager."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from attrs import define, field, frozen

from blink_oauth.tokens import Secret

from .configuration import Configuration, configure
from .errors import ExitCode, TroubleError, trouble_without
from .output import Screen

if TYPE_CHECKING:
    from blink_oauth_keeper import Event, TokenManager
    from blink_oauth_keeper.events import Listener
    from blink_oauth_keeper.store.sql import SqlTokenStore

__all__ = ["App", "place_of", "read_keys", "write_keys"]


@frozen(kw_only=True)
class Place:
    """Where the tokens of a profile are.

    Attributes:
        url: The database, as SQLAlchemy writes it; it may hold a password.
        file: The SQLite file, or None for another database.
        keys_file: The file of the keys, one to a line, the first seals; None if none was named.
        keys: The keys from a variable, in place of a file.
    """

    url: str = field(repr=False)
    file: Path | None
    keys_file: Path | None
    keys: tuple[Secret, ...] = ()


def place_of(configuration: Configuration, data_folder: Path) -> Place:
    """Say where the tokens are: where the configuration says, or in the user's data folder.

    Args:
        configuration: What the command was told.
        data_folder: The user's folder for data.
    """
    keys = (configuration.get("store_keys") or "").replace(",", " ").split()
    named_file = configuration.get("store_keys_file")
    store = configuration.get("store")
    if store is None:
        store = str(data_folder / (configuration.profile.name or "default") / "tokens.db")
    file = _sqlite_file(store)
    if file is not None:
        store = f"sqlite:///{file}"
    beside = file.with_name(f"{file.name}.keys") if file else None
    return Place(
        url=store,
        file=file,
        keys_file=Path(named_file) if named_file else beside,
        keys=tuple(map(Secret, keys)),
    )


def _sqlite_file(store: str) -> Path | None:
    if store.startswith("sqlite:///"):
        return Path(store.removeprefix("sqlite:///")).absolute()
    return None if "://" in store else Path(store).absolute()


def open_store(place: Place) -> tuple[SqlTokenStore, list[str]]:
    """Open the store, and make file and key where there is nothing yet.

    Returns:
        The store, and what was made, in words.

    Raises:
        TroubleError: A library or a key is missing, or a file cannot be used; nothing was changed.
        InvalidInputError: The database or a key cannot be used.
    """
    try:
        from blink_oauth_keeper.store.sql import SqlTokenStore

        if place.url.startswith("postgresql") and find_spec("psycopg") is None:
            raise ModuleNotFoundError(name="psycopg")
    except ModuleNotFoundError as error:
        # Also `doctor` shows it as what is wrong with the store.
        raise trouble_without(error.name) or error from None
    made: list[str] = []
    keys = place.keys or _keys_of(place, made)
    return SqlTokenStore(place.url, keys=keys), made


def _keys_of(place: Place, made: list[str]) -> Sequence[Secret]:
    from blink_oauth_keeper.store.sealing import new_key

    file = place.keys_file
    if file is None:
        raise TroubleError(
            "No key is known for this store. Nothing was read or written.",
            "Make one with blink-oauth keys generate, and name its file in BLINK_STORE_KEYS_FILE.",
            ExitCode.USAGE,
        )
    if file.exists():
        return read_keys(file)
    if place.file is None or (place.file.exists() and place.file.stat().st_size):
        raise TroubleError(
            f"The keys of the store are missing: there is no file {file}. Nothing was changed.",
            "Put the file back; another key cannot open what is stored.",
            ExitCode.USAGE,
        )
    make_private_folder(place.file.parent)
    make_private_folder(file.parent)
    write_keys(file, [new_key()], replace=False)
    made += [f"A new store: {place.file}", f"Its key, made just now: {file}. Back it up."]
    return read_keys(file)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, unless it is there.

    Raises:
        TroubleError: It cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise TroubleError(
            f"The folder {folder} cannot be made: {error.strerror}. Nothing was changed.",
            "Name another place with --store (BLINK_STORE).",
            ExitCode.USAGE,
        ) from None


def read_keys(file: Path) -> list[Secret]:
    """Read the keys of a store, one to a line.

    Raises:
        TroubleError: The file cannot be read, or holds none.
    """
    try:
        lines = file.read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        lines = []
    if not lines:
        raise TroubleError(
            f"No key can be read from {file}. Nothing was changed.",
            "Put the file back as it was: one key to a line, the first seals, all open.",
            ExitCode.USAGE,
        )
    return [Secret(line) for line in lines]


def write_keys(file: Path, keys: Sequence[Secret], *, replace: bool) -> None:
    """Write keys so that a reader sees all of them or those before, and only the owner sees any.

    Args:
        file: The file.
        keys: The keys, the one that seals first.
        replace: Whether a file that is there is replaced; otherwise the one that is there stays.

    Raises:
        TroubleError: It cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".keys-")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.writelines(f"{key.reveal()}\n" for key in keys)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                Path(name).replace(file)
            else:
                # Of two commands that make the first key at once, one wins and both use its key.
                with suppress(FileExistsError):
                    os.link(name, file)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise TroubleError(
            f"The file {file} cannot be written: {error.strerror}. The store is as it was.",
            "Name another file with --store-keys-file (BLINK_STORE_KEYS_FILE).",
            ExitCode.USAGE,
        ) from None


PULSE = 0.2
"""Seconds after which a wait looks up: one that sleeps may overlook a second Ctrl-C."""
INTERRUPTED = (
    "\nInterrupted. A call that is under way is awaited, so that nothing is lost; Ctrl-C again "
    "leaves at once."
)
LEFT = (
    "\nLeft at once. A call was perhaps under way: its grant shows as refreshing, then as "
    "uncertain.\n→ Look at blink-oauth status in half a minute."
)


def _require_kept(seen: Collection[str]) -> None:
    if "store.lost" in seen:
        raise TroubleError(
            "What the bank answered could not be written to the store, and is lost: the code or "
            "the refresh token is spent.",
            "Repair the store: blink-oauth doctor. Then look at blink-oauth status; if the grant "
            "does not recover, log in again.",
            ExitCode.UNCERTAIN,
        )


@define(eq=False, slots=False)
class App:
    """One run of the command.

    Attributes:
        said: What flags and variables say, by the keys of the file.
        screen: Where it prints.
    """

    said: Mapping[str, str] = field(repr=False)
    screen: Screen

    @cached_property
    def configuration(self) -> Configuration:
        """What the command was told.

        Raises:
            TroubleError: The file cannot be used.
        """
        from platformdirs import user_config_path

        folder = user_config_path("blink-oauth", appauthor=False)
        return configure(self.said, folder=Path.cwd(), user_folder=folder)

    @property
    def data_folder(self) -> Path:
        """The user's folder for data, whether it exists or not."""
        from platformdirs import user_data_path

        return user_data_path("blink-oauth", appauthor=False)

    @cached_property
    def place(self) -> Place:
        """Where the tokens are."""
        return place_of(self.configuration, self.data_folder)

    def open_store(self) -> SqlTokenStore:
        """Open the store; what had to be made for it is told.

        Raises:
            TroubleError: A key is missing or a file cannot be used.
            InvalidInputError: The database or a key cannot be used.
        """
        store, made = open_store(self.place)
        for line in made:
            self.screen.note(line)
        return store

    @contextmanager
    def store(self) -> Iterator[SqlTokenStore]:
        """Open the store, and close it in the end."""
        with closing(self.open_store()) as store:
            yield store

    @contextmanager
    def manager(self, on_event: Listener | None = None) -> Iterator[TokenManager]:
        """Open client, store and manager, and close them in the end.

        When it is interrupted, what is in the air lands first.

        Args:
            on_event: Is told every event.

        Raises:
            TroubleError: The configuration cannot be used, or a result is lost as the store never
                took it.
            BlinkError: The configuration, the certificate or the store cannot be used.
        """
        from blink_oauth.client import BlinkOAuth
        from blink_oauth_keeper import TokenManager

        # Each name once: a daemon hears events for weeks.
        seen: dict[str, None] = {}

        def listen(event: Event) -> None:
            seen[event.name.value] = None
            if on_event is not None:
                on_event(event)

        configuration = self.configuration
        profiles = configuration.target_profiles()
        with BlinkOAuth(configuration.settings()) as blink, self.store() as store:
            manager = TokenManager(
                blink, store, profiles=profiles, lease=configuration.lease, on_event=listen
            )
            try:
                yield manager
            except KeyboardInterrupt:
                self._land(manager, seen)
            finally:
                manager.close()
        # Only when everything is closed is it known whether what came was written.
        _require_kept(seen)

    def _land(self, manager: TokenManager, seen: Collection[str]) -> NoReturn:
        closing = threading.Thread(target=manager.close, daemon=True)
        try:
            self.screen.note(INTERRUPTED)
            closing.start()
            while closing.is_alive():
                closing.join(PULSE)
        except KeyboardInterrupt:
            self.screen.note(LEFT)
            # Nothing may wait for the call that is still under way: the user has said so twice.
            os._exit(ExitCode.INTERRUPTED)
        _require_kept(seen)
        told = ", ".join(seen) or "nothing was sent"
        raise TroubleError(
            f"Interrupted; until then: {told}.",
            "Look at blink-oauth status.",
            ExitCode.INTERRUPTED,
        )
