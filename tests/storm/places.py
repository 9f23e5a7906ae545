"""What processes share: a database with the tokens, and the bank behind it.

Processes import this, so it imports no sandbox: that would take them longer than all they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from blink_oauth import BlinkOAuth, Grant, Psu, Settings
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_keeper.events import Listener

if TYPE_CHECKING:
    from blink_oauth_testing.sandbox import Sandbox

__all__ = ["DAYS", "Place", "ShiftedClock", "authorize"]

DAYS = 2 * 86_400.0
"""Longer than an access token lives."""
PERSON = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")


@define(eq=False)
class ShiftedClock:
    """The real time, put forward by as much as a test likes."""

    ahead: float = 0.0

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)


@frozen
class Place:
    """Where a process finds what it shares with others.

    Attributes:
        environment: The variables of a client of the sandbox.
        database: The URL of the database.
        lease: Seconds that a lease lasts.
        key: The key of the store.
    """

    environment: dict[str, str] = field(repr=False)
    database: str
    lease: float = 25.0
    key: str = field(factory=lambda: SqlTokenStore.new_key().reveal(), repr=False)

    @classmethod
    def at(cls, sandbox: Sandbox, database: str, *, total: float, lease: float) -> Place:
        """Return a place with timeouts of its own, in seconds."""
        environment = sandbox.environment() | {"BLINK_TIMEOUT_TOTAL": str(total)}
        return cls(environment, database, lease)

    @property
    def client_id(self) -> str:
        """Whose grants they are."""
        return self.environment["BLINK_CLIENT_ID"]

    def store(self) -> SqlTokenStore:
        """Return a store of one's own."""
        return SqlTokenStore(self.database, keys=[self.key])

    @contextmanager
    def managing(
        self,
        clock: ShiftedClock,
        *,
        store: SqlTokenStore | None = None,
        client: Callable[..., BlinkOAuth] = BlinkOAuth,
        on_event: Listener | None = None,
    ) -> Iterator[TokenManager]:
        """Lend a manager of one's own."""
        with (
            client(Settings.from_env(self.environment), clock=clock) as blink,
            TokenManager(
                blink,
                store or self.store(),
                lease=self.lease,
                on_event=on_event,
                clock=clock,
            ) as manager,
        ):
            yield manager


def authorize(manager: TokenManager, sandbox: Sandbox, grant: Grant) -> None:
    """Get the first pair of a grant."""
    manager.authorize(
        grant, code=sandbox.issue_code(grant), redirect_uri=sandbox.redirect_uri, psu=PERSON
    )
