"""What every command works with, made when it is first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from attrs import define

from .configuration import Configuration, configure
from .errors import ExitCode, TroubleError
from .keeping import Place, open_store, place_of
from .output import Screen

if TYPE_CHECKING:
    from blink_oauth_keeper import Event, TokenManager
    from blink_oauth_keeper.events import Listener
    from blink_oauth_keeper.store.sql import SqlTokenStore

__all__ = ["App"]

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
        flags: What the command line says, by the names of the variables.
        environ: The process's environment.
        screen: Where it prints.
    """

    flags: Mapping[str, str]
    environ: Mapping[str, str]
    screen: Screen

    @cached_property
    def configuration(self) -> Configuration:
        """What the command was told.

        Raises:
            TroubleError: The file cannot be used.
        """
        from platformdirs import user_config_path

        folder = user_config_path("blink-oauth", appauthor=False)
        return configure(self.flags, self.environ, folder=Path.cwd(), user_folder=folder)

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
        store = self.open_store()
        try:
            yield store
        finally:
            store.close()

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
