"""The configuration, store, keys, client and manager of a command, created on first use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from attrs import define, field

from .configuration import Configuration, configure
from .errors import CommandError, ExitCode
from .key_files import KeyCommands
from .output import Screen
from .store_opening import StoreLocation, location_of, open_store

if TYPE_CHECKING:
    from blink_oauth_keeper import Event, TokenManager
    from blink_oauth_keeper.events import Listener
    from blink_oauth_keeper.store.sql import SqlTokenStore

__all__ = ["App", "store_location"]


def key_commands(configuration: Configuration) -> KeyCommands:
    """Return the configured commands that unwrap and wrap keys.

    Raises:
        CommandError: They cannot be used.
    """
    unwrap, wrap = (configuration.command(f"store_keys_{name}") for name in ("unwrap", "wrap"))
    if wrap and not unwrap:
        raise CommandError(
            "store_keys_wrap (BLINK_STORE_KEYS_WRAP) is set, but not the command that unwraps. "
            "Nothing was changed.",
            "Set store_keys_unwrap (BLINK_STORE_KEYS_UNWRAP) too, or neither.",
            ExitCode.USAGE,
        )
    return KeyCommands(unwrap, wrap)


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
        commands=key_commands(configuration),
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


MAX_NAMES = 1_000
"""How many grants a shell is offered; what is typed further narrows them."""
POLL_INTERVAL = 0.2
"""Seconds between two checks; a longer wait may miss a second Ctrl-C."""
# The first line ends that of the terminal, which has shown ^C.
INTERRUPTED_NOTE = (
    "\nInterrupted. A call in progress is awaited, so that nothing is lost; Ctrl-C again "
    "exits immediately."
).splitlines()
FORCED_EXIT_NOTE = (
    "\nExited immediately. A call may have been in progress: its grant shows as refreshing, then "
    "as uncertain.\n→ Look at blink-oauth status in half a minute."
).splitlines()


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
    # Without a home folder, older versions return a path that begins with `~`, or a hidden folder
    # of the root folder if HOME is empty.
    is_in_root = os.environ.get("HOME") == "" and folder.parts[1].startswith(".")
    return folder if folder.is_absolute() and not is_in_root else None


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

    @property
    def key_commands(self) -> KeyCommands:
        """The configured commands that unwrap and wrap keys.

        Raises:
            CommandError: They cannot be used.
        """
        return key_commands(self.configuration)

    def grant_names(self, beginning: str) -> list[str]:
        """Return the names of stored grants of the client, in order; no key is needed.

        Args:
            beginning: What the names begin with.

        Raises:
            CommandError: The configuration cannot be used.
            BlinkError: The database cannot be used, or has no store.
        """
        from blink_oauth_keeper.store.sql_contents import grant_names

        client_id, database = self.configuration.client_id, self.store_location.database
        return list(grant_names(database, client_id, beginning=beginning, limit=MAX_NAMES))

    def open_store(
        self, location: StoreLocation | None = None, *, create: bool = False
    ) -> SqlTokenStore:
        """Open a store, and print a note about each thing that was made for it.

        Args:
            location: The location of the store; None for the configured one.
            create: Whether to make a store that does not exist.

        Raises:
            CommandError: There is no store, a key is missing or a file cannot be used.
            InvalidInputError: The database or a key cannot be used.
            StoreError: The database cannot be read.
        """
        store, made = open_store(location or self.store_location, create=create)
        if made:
            self.screen.note(*made)
        return store

    @contextmanager
    def store(
        self, location: StoreLocation | None = None, *, create: bool = False
    ) -> Iterator[SqlTokenStore]:
        """Open a store as `open_store` does, and close it afterwards."""
        with closing(self.open_store(location, create=create)) as store:
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
            self.screen.note(*INTERRUPTED_NOTE)
            closing.start()
            while closing.is_alive():
                closing.join(POLL_INTERVAL)
        except KeyboardInterrupt:
            self.screen.note(*FORCED_EXIT_NOTE)
            # After a second Ctrl-C, a normal exit would still wait for the call in progress.
            os._exit(ExitCode.INTERRUPTED)
        _require_stored(event_names)
        events = ", ".join(event_names) or "nothing was sent"
        raise CommandError(
            f"Interrupted; until then: {events}.",
            "Look at blink-oauth status.",
            ExitCode.INTERRUPTED,
        )
