"""Stored tokens, refreshed before they expire: one refresh for all callers and processes.

`SqlTokenStore` and `metadata` need the extra `blink-oauth[sql]`, `otel_listener` needs
`blink-oauth[otel]`, `prometheus_listener` needs `blink-oauth[prometheus]`, and `GrantAuth` loads
httpx. They are imported on first access, so they are not in `__all__`.
"""

from typing import TYPE_CHECKING

from .delivery import NoticeHandler, NoticeReport
from .errors import (
    ConsentNeededError,
    DeliveryError,
    GrantExistsError,
    GrantMovedError,
    NoTokenError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    SchemaError,
    SealError,
    StoreError,
    UnknownGrantError,
)
from .events import Event, EventName, Listener
from .keepalive import Progress, Report
from .manager import TokenManager
from .notices import NoticeReason
from .profile import AfterUncertainty, TargetProfile
from .status import GrantStatus
from .store.keys import EnvironmentKeys, Key, KeyFile, KeyProvider, LiteralKeys
from .store.memory import MemoryTokenStore
from .store.outbox import NewNotice, Notice, NoticeKind, OutboxEntry
from .store.protocol import (
    DueQuery,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
    TokenStore,
)
from .store.wrapped_keys import WrappedKeyFile
from .timers import Timers
from .webhook import Webhook

if TYPE_CHECKING:
    from .auth import GrantAuth as GrantAuth
    from .otel import otel_listener as otel_listener
    from .prometheus import prometheus_listener as prometheus_listener
    from .store.sql import SqlTokenStore as SqlTokenStore
    from .store.sql_tables import metadata as metadata

__all__ = [
    "AfterUncertainty",
    "ConsentNeededError",
    "DeliveryError",
    "DueQuery",
    "EnvironmentKeys",
    "Event",
    "EventName",
    "GrantExistsError",
    "GrantKey",
    "GrantMovedError",
    "GrantStatus",
    "HistoryEntry",
    "JournalEntry",
    "Key",
    "KeyFile",
    "KeyProvider",
    "Listener",
    "LiteralKeys",
    "MemoryTokenStore",
    "NewNotice",
    "NoTokenError",
    "Note",
    "Notice",
    "NoticeHandler",
    "NoticeKind",
    "NoticeReason",
    "NoticeReport",
    "Origin",
    "OutboxEntry",
    "Progress",
    "Record",
    "RefreshPausedError",
    "RefreshPendingError",
    "RefreshUncertainError",
    "Report",
    "SchemaError",
    "SealError",
    "Settlement",
    "State",
    "StoreError",
    "TargetProfile",
    "Timers",
    "TokenManager",
    "TokenStore",
    "UnknownGrantError",
    "Webhook",
    "WrappedKeyFile",
]

# Hidden from type checkers, so that they report a misspelt name.
if not TYPE_CHECKING:  # pragma: no branch

    def __getattr__(name: str) -> object:
        extra = "sql"
        try:
            # Written out: what freezes a program finds modules by their import statements only.
            if name == "SqlTokenStore":
                from .store import sql as module
            elif name == "metadata":
                from .store import sql_tables as module
            elif name == "otel_listener":
                extra = "otel"
                from . import otel as module
            elif name == "prometheus_listener":
                extra = "prometheus"
                from . import prometheus as module
            elif name == "GrantAuth":
                from . import auth as module
            else:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        except ImportError as error:
            raise ImportError(
                f"{name} needs an extra: pip install 'blink-oauth[{extra}]' ({error})."
            ) from error
        return getattr(module, name)


def __dir__() -> list[str]:
    on_first_access = {"GrantAuth", "SqlTokenStore", "metadata"}
    listeners = {"otel_listener", "prometheus_listener"}
    return sorted({*globals(), *__all__, *on_first_access, *listeners})
