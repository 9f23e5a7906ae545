"""The configuration that processes share: the database of the tokens, and a sandbox's client.

The processes import this module. It does not import the sandbox, which would slow them.
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

__all__ = ["CUSTOMER", "TWO_DAYS", "SharedConfig", "ShiftedClock", "authorize"]

TWO_DAYS = 2 * 86_400.0
"""Seconds; longer than the lifetime of an access token."""
CUSTOMER = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")


@define(eq=False)
class ShiftedClock:
    """The real time plus an offset.

    Attributes:
        ahead: The offset, in seconds.
    """

    ahead: float = 0.0

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)


@frozen
class SharedConfig:
    """The configuration that processes share.

    Attributes:
        environment: The environment variables of a client of the sandbox.
        database: The URL of the database.
        lease: Duration of a lease, in seconds.
        key: The key that seals the tokens.
    """

    environment: dict[str, str] = field(repr=False)
    database: str
    lease: float = 25.0
    key: str = field(factory=lambda: SqlTokenStore.new_key().reveal(), repr=False)

    @classmethod
    def for_sandbox(
        cls, sandbox: Sandbox, database: str, *, total: float, lease: float
    ) -> SharedConfig:
        """Return a configuration.

        Args:
            sandbox: The sandbox.
            database: The URL of the database.
            total: Timeout of a call, in seconds.
            lease: Duration of a lease, in seconds.
        """
        environment = sandbox.environment() | {"BLINK_TIMEOUT_TOTAL": str(total)}
        return cls(environment, database, lease)

    @property
    def client_id(self) -> str:
        """The client of the grants."""
        return self.environment["BLINK_CLIENT_ID"]

    def store(self) -> SqlTokenStore:
        """Return a new store."""
        return SqlTokenStore(self.database, keys=[self.key])

    @contextmanager
    def manager(
        self,
        clock: ShiftedClock,
        *,
        store: SqlTokenStore | None = None,
        client: Callable[..., BlinkOAuth] = BlinkOAuth,
        on_event: Listener | None = None,
    ) -> Iterator[TokenManager]:
        """Yield a new manager, and close it afterwards."""
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
        grant, code=sandbox.issue_code(grant), redirect_uri=sandbox.redirect_uri, psu=CUSTOMER
    )
