"""What a failing database means to the caller of a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from blink_oauth_keeper.errors import SchemaError, StoreError

__all__ = ["operation"]

ATTEMPTS = 10
CONFLICTS = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, and a row that another has inserted just now."""
UNKNOWN_TABLES = frozenset({"42P01", "42703", "SQLITE_ERROR"})
"""No such table, no such column, and what SQLite says of either."""
HINTS = {
    "25006": "The database is read-only.",
    "28P01": "The database refuses the password.",
    "3D000": "There is no such database.",
    "42501": "The database refuses the permission.",
    "53300": "The database has too many connections.",
    "55P03": "Somebody held a lock for too long.",
    "57P01": "The server is shutting down.",
    "57P03": "The server is starting or shutting down.",
    "SQLITE_BUSY": "Somebody held the file for too long.",
    "SQLITE_CANTOPEN": "The file cannot be opened.",
    "SQLITE_FULL": "The disk is full.",
    "SQLITE_READONLY": "The file is read-only.",
}


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def operation(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method of a store raise nothing but `StoreError` where its database fails.

    Where the database asks for it, because others were at the same rows, the method runs again.
    """

    @wraps(method)
    def run(store: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for left in reversed(range(ATTEMPTS)):
            try:
                return method(store, *args, **kwargs)
            except (SQLAlchemyError, OSError) as error:
                if left and _code(error) in CONFLICTS:
                    continue
                problem = _explain(method.__name__, error)
                break
        # Raised out here, where no context holds the parameters of the statement.
        raise problem

    return run


def _code(error: Exception) -> str | None:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)


def _explain(name: str, error: Exception) -> StoreError:
    code = _code(error)
    cause = error.orig if isinstance(error, DBAPIError) else error
    what = type(cause).__name__ + (f", {code}" if code else "")
    if code in UNKNOWN_TABLES:
        return SchemaError(
            f"The tables of the token store are not those that this version knows ({what}) in "
            f"{name}. Nothing was sent and nothing was changed. Bring them up to date."
        )
    return StoreError(
        f"The token store's database failed in {name} ({what}). {_hint(error, code)} Nothing was "
        "sent. The change was not made, or nobody knows: it does no harm to call it again.",
        retryable=not isinstance(error, DatabaseError) or isinstance(error, OperationalError),
    )


def _hint(error: Exception, code: str | None) -> str:
    if isinstance(error, PoolTimeoutError):
        return "No connection of the pool became free in time."
    if isinstance(error, OSError):
        return f"The file cannot be created: {error.strerror}."
    if isinstance(error, OperationalError) and code is None:
        return "There is no connection to the server."
    return HINTS.get(code or "", "The log of the database may tell more.")
