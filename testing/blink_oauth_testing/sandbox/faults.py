"""Faults on demand: what a platform, a bank or a network can do to a call.

A fault is a value: whether the bank carries the call out first, how the reply is changed, and how
it is put on the wire. `FAULTS` holds them by name, so that a test can run over each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Literal, get_args

from attrs import field, frozen

from .messages import AS_USUAL, HTML, TOKEN, Delivery, Response, problem

__all__ = []

Operation = Literal["request_token", "revoke_token", "list_accounts"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

_TITLES = {
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    429: "Too Many Requests",
}


def _unchanged(reply: Response) -> Response:
    return reply


@frozen
class Fault:
    """One way in which a call goes wrong.

    Attributes:
        name: Its name in `FAULTS` and in the record.
        executes: Whether the bank carries the call out, although the answer goes wrong.
        change: Makes the faulty reply from the right one.
        delivery: How the reply is put on the wire.
        operation: The only operation it makes sense for, or None.
    """

    name: str
    executes: bool
    change: Callable[[Response], Response] = field(default=_unchanged, repr=False)
    delivery: Delivery = AS_USUAL
    operation: Operation | None = None


def slow_body(interval: float) -> Fault:
    """Make a fault that drips the body.

    Args:
        interval: Seconds between two of the ten pieces.
    """
    return Fault("slow-body", executes=True, delivery=Delivery(body_interval=interval))


def slow_headers(interval: float) -> Fault:
    """Make a fault that drips the status line and the headers.

    Args:
        interval: Seconds between two of the ten pieces.
    """
    return Fault("slow-headers", executes=True, delivery=Delivery(head_interval=interval))


def truncated_body(fraction: float) -> Fault:
    """Make a fault that sends a part of the body and hangs up.

    Args:
        fraction: Share of the body that is sent, from 0.0 to 1.0.
    """
    return Fault("truncated-body", executes=True, delivery=Delivery(body_fraction=fraction))


def unavailable(retry_after: int | datetime | None) -> Fault:
    """Make a fault with which the platform says that it is down for a while.

    Args:
        retry_after: Seconds until the next attempt, or when, or None to leave the header out
            (RFC 9110 section 10.2.3).

    Raises:
        ValueError: The date is not in UTC, as the header wants it.
    """
    return _busy(503, retry_after)


def too_many_requests(retry_after: int | datetime | None) -> Fault:
    """Make a fault with which the platform says that there are too many requests.

    Args:
        retry_after: As for `unavailable`, which also tells what it raises.
    """
    return _busy(429, retry_after)


def _busy(status: int, retry_after: int | datetime | None) -> Fault:
    if retry_after is None:
        return _status(status, executes=False)
    if isinstance(retry_after, datetime):
        return _status(
            status, executes=False, Retry_After=format_datetime(retry_after, usegmt=True)
        )
    return _status(status, executes=False, Retry_After=str(retry_after))


def _status(status: int, *, executes: bool, when: str = "", **headers: str) -> Fault:
    """A documented or common error of the platform, with its usual headers and problem."""

    def change(reply: Response) -> Response:
        error = problem(
            status, "TECHNICAL_ERROR", _TITLES[status], "The sandbox was asked to fail."
        )
        error = error.with_header("X-Correlation-ID", reply.header("X-Correlation-ID") or "")
        for name, value in headers.items():
            error = error.with_header(name.replace("_", "-"), value)
        return error

    name = _TITLES[status].lower().replace(" ", "-")
    return Fault(f"{name}-{when}" if when else name, executes=executes, change=change)


def _foreign(status: int) -> Fault:
    """A status that belongs to some proxy on the way, in the proxy's own form."""

    def change(reply: Response) -> Response:
        page = f"<html><head><title>{status}</title></head><body>Some proxy</body></html>\n"
        return Response(status).with_body(HTML, page.encode())

    name = "bad-gateway-html" if status == 502 else f"status-{status}"
    return Fault(name, executes=False, change=change)


def _success(status: int) -> Fault:
    """A success with a pair under a status that the contract does not know."""

    def change(reply: Response) -> Response:
        return Response(status, reply.headers, reply.body)

    return Fault(f"status-{status}", executes=True, change=change, operation="request_token")


def _token(name: str, change: Callable[[Response], Response]) -> Fault:
    """An odd token response."""
    return Fault(name, executes=True, change=change, operation="request_token")


def _member(name: str, members: dict[str, object]) -> Fault:
    return _token(name, lambda reply: reply.with_members(members))


def _without(member: str) -> Fault:
    name = f"missing-{member.replace('_', '-')}"
    return _token(name, lambda reply: reply.without_member(member))


def _header(name: str, change: Callable[[Response], Response]) -> Fault:
    """A response whose headers break the contract."""
    return Fault(name, executes=True, change=change)


def _as_list(reply: Response) -> Response:
    return reply.with_body(TOKEN, b"[" + (reply.body or b"{}") + b"]")


def _redirect(reply: Response) -> Response:
    elsewhere = "https://elsewhere.invalid/oauth/token"
    return Response(307).with_header("Location", elsewhere)


BAD_GATEWAY_HTML = _foreign(502)
GATEWAY_TIMEOUT_BEFORE = _status(504, executes=False, when="before")
GATEWAY_TIMEOUT_AFTER = _status(504, executes=True, when="after")
INTERNAL_SERVER_ERROR = _status(500, executes=False)
SERVICE_UNAVAILABLE = unavailable(retry_after=2)
TOO_MANY_REQUESTS = too_many_requests(retry_after=2)
RESET_BEFORE = Fault("reset-before", executes=False, delivery=Delivery(reset=True))
RESET_AFTER = Fault("reset-after", executes=True, delivery=Delivery(reset=True))
SLOW_BODY = slow_body(0.05)
SLOW_HEADERS = slow_headers(0.05)
TRUNCATED_BODY = truncated_body(0.5)
MISSING_ACCESS_TOKEN = _without("access_token")
MISSING_EXPIRES_IN = _without("expires_in")
NULL_EXPIRES_IN = _member("null-expires-in", {"expires_in": None})
STRING_EXPIRES_IN = _member("string-expires-in", {"expires_in": "300"})
FLOAT_EXPIRES_IN = _member("float-expires-in", {"expires_in": 300.5})
NEGATIVE_EXPIRES_IN = _member("negative-expires-in", {"expires_in": -1})
MISSING_REFRESH_TOKEN = _without("refresh_token")
ODD_TOKEN_TYPE = _member("odd-token-type", {"token_type": "MAC"})
UNKNOWN_MEMBERS = _member(
    "unknown-members", {"consent_valid_until": "2099-12-31", "x_bank": {"a": [1]}}
)
WRONG_CONTENT_TYPE = _header(
    "wrong-content-type", lambda reply: reply.with_header("Content-Type", "text/plain")
)
WRONG_CORRELATION_ID = _header(
    "wrong-correlation-id", lambda reply: reply.with_header("X-Correlation-ID", "of-somebody-else")
)
MISSING_CORRELATION_ID = _header(
    "missing-correlation-id", lambda reply: reply.without_header("X-Correlation-ID")
)
MISSING_SOURCE = _header("missing-source", lambda reply: reply.without_header("X-CorAPI-Source"))
CACHEABLE = _header(
    "cacheable", lambda reply: reply.with_header("Cache-Control", "public, max-age=60")
)
STATUS_201 = _success(201)
STATUS_299 = _success(299)
STATUS_499 = _foreign(499)
STATUS_520 = _foreign(520)
STATUS_599 = _foreign(599)
REDIRECT = Fault("redirect", executes=False, change=_redirect)
EMPTY_BODY = _token("empty-body", lambda reply: reply.with_body(TOKEN, b""))
NOT_JSON = _token("not-json", lambda reply: reply.with_body(TOKEN, b"access granted"))
JSON_LIST = _token("json-list", _as_list)

FAULTS: Mapping[str, Fault] = {
    fault.name: fault for fault in list(globals().values()) if isinstance(fault, Fault)
}
"""Every ready-made fault that comes to an end, by its name."""

SILENT_FAULTS: Mapping[str, Fault] = {
    name: Fault(name, executes=executes, delivery=Delivery(silent=True))
    for name, executes in (("silence-before", False), ("silence-after", True))
}
"""No answer at all, be it that the bank never saw the call or that it carried it out."""


def ready_made(name: object) -> Fault:
    """Return the fault of that name.

    Raises:
        ValueError: There is none.
    """
    known = {**FAULTS, **SILENT_FAULTS}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"There is no such fault. There are: {', '.join(known)}.")
    return known[name]


@frozen
class _Planned:
    fault: Fault
    target_id: str | None
    operation: str | None

    def matches(self, target_id: str, operation: str) -> bool:
        return self.target_id in {None, target_id} and self.operation in {None, operation}


@frozen
class FaultPlan:
    """The faults that were asked for and have not happened yet, oldest first.

    Attributes:
        targets: The ids of the banks there are.
    """

    targets: Collection[str]
    _planned: list[_Planned] = field(init=False, factory=list)
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)

    def add(
        self, fault: Fault, *, target_id: str | None, operation: str | None, times: int
    ) -> None:
        """Let the next matching calls fail.

        Args:
            fault: How they fail.
            target_id: Only calls to this bank, or None for any.
            operation: Only calls of this operation, or None for any that the fault fits.
            times: How many calls fail.

        Raises:
            ValueError: It could never happen: there is no such bank or operation, the fault does
                not fit the operation, or `times` is below 1.
        """
        if target_id is not None and target_id not in self.targets:
            raise ValueError(f"There is no such bank. There are: {', '.join(self.targets)}.")
        if operation is not None and operation not in OPERATIONS:
            raise ValueError(f"There is no such operation. There are: {', '.join(OPERATIONS)}.")
        if fault.operation is not None and operation not in {None, fault.operation}:
            raise ValueError(f"The fault {fault.name} fits only {fault.operation}.")
        if times < 1:
            raise ValueError("A fault must happen at least once.")
        planned = _Planned(fault, target_id, operation or fault.operation)
        with self._lock:
            self._planned.extend([planned] * times)

    def take(self, target_id: str, operation: str) -> Fault | None:
        """Return the fault for this call and forget it, or None if it is to succeed."""
        with self._lock:
            for index, planned in enumerate(self._planned):
                if planned.matches(target_id, operation):
                    return self._planned.pop(index).fault
        return None

    def clear(self) -> None:
        """Forget everything that was asked for."""
        with self._lock:
            self._planned.clear()
