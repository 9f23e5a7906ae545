"""Faults on demand, of the platform, a bank, a proxy or the network.

A fault is a value: whether the bank executes the request, how the response is changed, and how it
is delivered. `FAULTS` holds them by name, so that a test can run with each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Literal, get_args

from attrs import field, frozen

from blink_oauth.headers import CACHE_CONTROL, CORRELATION_ID, SOURCE

from .messages import HTML, NORMAL_DELIVERY, TOKEN, Delivery, Response, Source, problem

__all__ = []

Operation = Literal["request_token", "revoke_token", "list_accounts"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

_TITLES = {
    406: "Not Acceptable",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    429: "Too Many Requests",
}


def _unchanged(response: Response) -> Response:
    return response


@frozen
class Fault:
    """One way in which a request fails.

    Attributes:
        name: Its name in `FAULTS` and in the recorded exchanges.
        executes: Whether the bank executes the request before the fault happens.
        change: Returns the faulty response for a correct one.
        delivery: How the response is sent.
        operation: The only operation that the fault fits, or None for all.
    """

    name: str
    executes: bool
    change: Callable[[Response], Response] = field(default=_unchanged, repr=False)
    delivery: Delivery = NORMAL_DELIVERY
    operation: Operation | None = None


def slow_body(interval: float) -> Fault:
    """Make a fault that sends the body in pieces.

    Args:
        interval: Seconds between two of the ten pieces.
    """
    return Fault("slow-body", executes=True, delivery=Delivery(body_interval=interval))


def slow_headers(interval: float) -> Fault:
    """Make a fault that sends the status line and the headers in pieces.

    Args:
        interval: Seconds between two of the ten pieces.
    """
    return Fault("slow-headers", executes=True, delivery=Delivery(head_interval=interval))


def truncated_body(fraction: float) -> Fault:
    """Make a fault that sends a part of the body and closes the connection.

    Args:
        fraction: Share of the body that is sent, from 0.0 to 1.0.
    """
    return Fault("truncated-body", executes=True, delivery=Delivery(body_fraction=fraction))


def unavailable(retry_after: int | datetime | None) -> Fault:
    """Make a fault that responds 503 Service Unavailable.

    Args:
        retry_after: Seconds or a date for the header Retry-After (RFC 9110 section 10.2.3), or
            None to leave it out.

    Raises:
        ValueError: The date is not in UTC.
    """
    return _error_with_retry_after(503, retry_after)


def too_many_requests(retry_after: int | datetime | None) -> Fault:
    """Make a fault that responds 429 Too Many Requests.

    Args:
        retry_after: Seconds or a date for the header Retry-After, or None to leave it out.

    Raises:
        ValueError: The date is not in UTC.
    """
    return _error_with_retry_after(429, retry_after)


def _error_with_retry_after(status: int, retry_after: int | datetime | None) -> Fault:
    if retry_after is None:
        return _platform_error(status, executes=False)
    if isinstance(retry_after, datetime):
        return _platform_error(
            status, executes=False, Retry_After=format_datetime(retry_after, usegmt=True)
        )
    return _platform_error(status, executes=False, Retry_After=str(retry_after))


def _platform_error(
    status: int, *, executes: bool, when: str = "", source: Source = "PLATFORM", **headers: str
) -> Fault:
    """Make a fault that responds with an error in the form of the platform."""

    def change(response: Response) -> Response:
        error = problem(
            status, "TECHNICAL_ERROR", _TITLES[status], "The sandbox was asked to fail.", source
        )
        error = error.with_header(CORRELATION_ID, response.header(CORRELATION_ID) or "")
        for name, value in headers.items():
            error = error.with_header(name.replace("_", "-"), value)
        return error

    name = _TITLES[status].lower().replace(" ", "-")
    return Fault(f"{name}-{when}" if when else name, executes=executes, change=change)


def _proxy_error(status: int) -> Fault:
    """Make a fault that responds with an HTML page of a proxy."""

    def change(response: Response) -> Response:
        page = f"<html><head><title>{status}</title></head><body>Some proxy</body></html>\n"
        return Response(status).with_body(HTML, page.encode())

    name = "bad-gateway-html" if status == 502 else f"status-{status}"
    return Fault(name, executes=False, change=change)


def _undocumented_success(status: int) -> Fault:
    """Make a fault that sends a pair with a success status that the contract does not have."""

    def change(response: Response) -> Response:
        return Response(status, response.headers, response.body)

    return Fault(f"status-{status}", executes=True, change=change, operation="request_token")


def _token_response(name: str, change: Callable[[Response], Response]) -> Fault:
    """Make a fault that changes the token response."""
    return Fault(name, executes=True, change=change, operation="request_token")


def _with_members(name: str, members: dict[str, object]) -> Fault:
    return _token_response(name, lambda response: response.with_members(members))


def _without_member(member: str) -> Fault:
    name = f"missing-{member.replace('_', '-')}"
    return _token_response(name, lambda response: response.without_member(member))


def _broken_headers(name: str, change: Callable[[Response], Response]) -> Fault:
    """Make a fault whose response headers break the contract."""
    return Fault(name, executes=True, change=change)


def _as_list(response: Response) -> Response:
    return response.with_body(TOKEN, b"[" + (response.body or b"{}") + b"]")


def _redirect(response: Response) -> Response:
    elsewhere = "https://elsewhere.invalid/oauth/token"
    return Response(307).with_header("Location", elsewhere)


BAD_GATEWAY_HTML = _proxy_error(502)
GATEWAY_TIMEOUT_BEFORE = _platform_error(504, executes=False, when="before")
GATEWAY_TIMEOUT_AFTER = _platform_error(504, executes=True, when="after")
# A server that compares the type of its response with `Accept` when it writes the response.
NOT_ACCEPTABLE_AFTER = _platform_error(406, executes=True, when="after")
NOT_ACCEPTABLE_AFTER_BY_BANK = _platform_error(
    406, executes=True, when="after-by-bank", source="PROVIDER"
)
INTERNAL_SERVER_ERROR = _platform_error(500, executes=False)
SERVICE_UNAVAILABLE = unavailable(retry_after=2)
TOO_MANY_REQUESTS = too_many_requests(retry_after=2)
RESET_BEFORE = Fault("reset-before", executes=False, delivery=Delivery(reset=True))
RESET_AFTER = Fault("reset-after", executes=True, delivery=Delivery(reset=True))
SLOW_BODY = slow_body(0.05)
SLOW_HEADERS = slow_headers(0.05)
TRUNCATED_BODY = truncated_body(0.5)
MISSING_ACCESS_TOKEN = _without_member("access_token")
MISSING_EXPIRES_IN = _without_member("expires_in")
NULL_EXPIRES_IN = _with_members("null-expires-in", {"expires_in": None})
STRING_EXPIRES_IN = _with_members("string-expires-in", {"expires_in": "300"})
FLOAT_EXPIRES_IN = _with_members("float-expires-in", {"expires_in": 300.5})
NEGATIVE_EXPIRES_IN = _with_members("negative-expires-in", {"expires_in": -1})
MISSING_REFRESH_TOKEN = _without_member("refresh_token")
ODD_TOKEN_TYPE = _with_members("odd-token-type", {"token_type": "MAC"})
UNKNOWN_MEMBERS = _with_members(
    "unknown-members", {"consent_valid_until": "2099-12-31", "x_bank": {"a": [1]}}
)
WRONG_CONTENT_TYPE = _broken_headers(
    "wrong-content-type", lambda response: response.with_header("Content-Type", "text/plain")
)
WRONG_CORRELATION_ID = _broken_headers(
    "wrong-correlation-id",
    lambda response: response.with_header(CORRELATION_ID, "of-another-request"),
)
MISSING_CORRELATION_ID = _broken_headers(
    "missing-correlation-id", lambda response: response.without_header(CORRELATION_ID)
)
MISSING_SOURCE = _broken_headers("missing-source", lambda response: response.without_header(SOURCE))
CACHEABLE = _broken_headers(
    "cacheable", lambda response: response.with_header(CACHE_CONTROL, "public, max-age=60")
)
STATUS_201 = _undocumented_success(201)
STATUS_299 = _undocumented_success(299)
STATUS_499 = _proxy_error(499)
STATUS_520 = _proxy_error(520)
STATUS_599 = _proxy_error(599)
REDIRECT = Fault("redirect", executes=False, change=_redirect)
EMPTY_BODY = _token_response("empty-body", lambda response: response.with_body(TOKEN, b""))
NOT_JSON = _token_response(
    "not-json", lambda response: response.with_body(TOKEN, b"access granted")
)
JSON_LIST = _token_response("json-list", _as_list)

FAULTS: Mapping[str, Fault] = {
    fault.name: fault for fault in list(globals().values()) if isinstance(fault, Fault)
}
"""All ready-made faults except the silent ones, by name."""

SILENT_FAULTS: Mapping[str, Fault] = {
    name: Fault(name, executes=executes, delivery=Delivery(silent=True))
    for name, executes in (("silence-before", False), ("silence-after", True))
}
"""The faults that never send a response, by name; the bank executes the request or does not."""


def fault_named(name: object) -> Fault:
    """Return the ready-made fault with this name.

    Raises:
        ValueError: There is no such fault.
    """
    known = {**FAULTS, **SILENT_FAULTS}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"There is no such fault. The faults are: {', '.join(known)}.")
    return known[name]


@frozen
class _PlannedFault:
    fault: Fault
    target_id: str | None
    operation: str | None

    def matches(self, target_id: str, operation: str) -> bool:
        return self.target_id in {None, target_id} and self.operation in {None, operation}


@frozen
class FaultPlan:
    """The planned faults that have not happened yet, oldest first.

    Attributes:
        targets: The ids of the banks.
    """

    targets: Collection[str]
    _planned: list[_PlannedFault] = field(init=False, factory=list)
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)

    def add(
        self, fault: Fault, *, target_id: str | None, operation: str | None, times: int
    ) -> None:
        """Make the next matching requests fail.

        Args:
            fault: How they fail.
            target_id: The bank whose requests fail, or None for any.
            operation: The operation that fails, or None for any that the fault fits.
            times: Number of requests that fail.

        Raises:
            ValueError: The fault could never happen: there is no such bank or operation, the fault
                does not fit the operation, or `times` is below 1.
        """
        if target_id is not None and target_id not in self.targets:
            raise ValueError(f"There is no such bank. The banks are: {', '.join(self.targets)}.")
        if operation is not None and operation not in OPERATIONS:
            known = ", ".join(OPERATIONS)
            raise ValueError(f"There is no such operation. The operations are: {known}.")
        if fault.operation is not None and operation not in {None, fault.operation}:
            raise ValueError(f"The fault {fault.name} fits only {fault.operation}.")
        if times < 1:
            raise ValueError("A fault must happen at least once.")
        planned = _PlannedFault(fault, target_id, operation or fault.operation)
        with self._lock:
            self._planned.extend([planned] * times)

    def take(self, target_id: str, operation: str) -> Fault | None:
        """Remove and return the fault for this request, or return None if there is none."""
        with self._lock:
            for index, planned in enumerate(self._planned):
                if planned.matches(target_id, operation):
                    return self._planned.pop(index).fault
        return None

    def clear(self) -> None:
        """Remove every planned fault."""
        with self._lock:
            self._planned.clear()
