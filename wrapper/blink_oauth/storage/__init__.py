"""Where tokens are kept.

`SqlTokenStore` is here too, and needs the extra `blink-oauth[sql]`; so it is not in `__all__`.
"""

from typing import TYPE_CHECKING

from .memory import MemoryTokenStore
from .records import (
    Due,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
)
from .store import TokenStore

if TYPE_CHECKING:
    from .sql import SqlTokenStore as SqlTokenStore

__all__ = [
    "Due",
    "GrantKey",
    "HistoryEntry",
    "JournalEntry",
    "MemoryTokenStore",
    "Note",
    "Origin",
    "Record",
    "Settlement",
    "State",
    "TokenStore",
]


# Hidden from type checkers, so that a misspelt name stays an error.
if not TYPE_CHECKING:  # pragma: no branch

    def __getattr__(name: str) -> object:
        # The extra [sql] is asked for only by who names the store.
        if name != "SqlTokenStore":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from .sql import SqlTokenStore
        except ImportError as error:
            raise ImportError(f"SqlTokenStore needs blink-oauth[sql]: {error}") from error
        return SqlTokenStore


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
