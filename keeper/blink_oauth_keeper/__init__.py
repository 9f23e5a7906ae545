"""Stored tokens, refreshed before they expire: one refresh for all callers and processes.

`SqlTokenStore` and `metadata` need the extra `blink-oauth[sql]`, `otel_listener` needs
`blink-oauth[otel]`. They are imported on first access, so they are not in `__all__`.
"""

from typing import TYPE_CHECKING

from .errors import (
    ConsentNeededError,
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
from .events import Event, EventName
from .keepalive import Report
from .manager import TokenManager
from .profile import AfterUncertainty, TargetProfile
from .status import GrantStatus
from .store.keys import EnvironmentKeys, KeyFile, KeyProvider, LiteralKeys
from .store.memory import MemoryTokenStore
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

if TYPE_CHECKING:
    from .otel import otel_listener as otel_listener
    from .store.sql import SqlTokenStore as SqlTokenStore
    from .store.sql_tables import metadata as metadata

__all__ = [
    "AfterUncertainty",
    "ConsentNeededError",
    "DueQuery",
    "EnvironmentKeys",
    "Event",
    "EventName",
    "GrantKey",
    "GrantMovedError",
    "GrantStatus",
    "HistoryEntry",
    "JournalEntry",
    "KeyFile",
    "KeyProvider",
    "LiteralKeys",
    "MemoryTokenStore",
    "NoTokenError",
    "Note",
    "Origin",
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
    "TokenManager",
    "TokenStore",
    "UnknownGrantError",
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
            else:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        except ImportError as error:
            raise ImportError(f"{name} needs blink-oauth[{extra}]: {error}") from error
        return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
