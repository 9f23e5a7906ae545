"""The exchanges that the sandbox recorded, without secrets."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import deque
from collections.abc import Iterable

from attrs import define, field, frozen

from .messages import printable_name

# Every other form field is hashed, because an unknown field may contain a secret.
_PLAIN_FIELDS = frozenset(
    {"grant_type", "client_id", "username", "redirect_uri", "token_type_hint"}
)
# About 30 MB. A sandbox may run for days, and a benchmark sends many requests.
MAX_EXCHANGES = 10_000
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


@frozen
class Exchange:
    """One request to the platform and its response.

    Secrets are replaced by keyed fingerprints: equal secrets have equal fingerprints within one
    sandbox, and a fingerprint does not reveal the secret.

    Attributes:
        operation: Operation of the contract, or None if method and path match no operation.
        target_id: The bank that the request named, or None.
        client_id: The client that the certificate is registered for, or None.
        certificate: The SHA-256 hash of the client's certificate, in hexadecimal.
        correlation_id: The id that the request carried, or None.
        method: HTTP method.
        path: Path without query.
        request_headers: Headers in the order received, credentials replaced.
        form: Form fields, secrets replaced.
        status: Status of the response, even if a fault prevented its delivery.
        response_headers: Headers of the response, credentials replaced, even if a fault prevented
            its delivery.
        executed: Whether the bank executed the request; a refusal by the bank counts.
        fault: Name of the fault that applied, or None.
        request_violations: Rules of the contract that the request broke.
        response_violations: Rules of the contract that the sandbox's own response broke.
        at: Time on the sandbox's clock, in seconds since the epoch.
    """

    operation: str | None
    target_id: str | None
    client_id: str | None
    certificate: str
    correlation_id: str | None
    method: str
    path: str
    request_headers: tuple[tuple[str, str], ...]
    form: tuple[tuple[str, str], ...]
    status: int
    response_headers: tuple[tuple[str, str], ...]
    executed: bool
    fault: str | None
    request_violations: tuple[str, ...]
    response_violations: tuple[str, ...]
    at: float


class ContractViolationError(AssertionError):
    """The sandbox sent a response that breaks the contract, although no fault applied."""


@define(eq=False)
class ExchangeRecorder:
    """Records the newest exchanges, and the violations of all. Threads may share it."""

    _exchanges: deque[Exchange] = field(
        init=False, factory=lambda: deque(maxlen=MAX_EXCHANGES), repr=False
    )
    _violations: list[str] = field(init=False, factory=list)
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)

    def add(self, exchange: Exchange) -> None:
        """Record an exchange; the oldest one is dropped beyond `MAX_EXCHANGES`."""
        with self._lock:
            self._exchanges.append(exchange)
            if exchange.fault is None:
                response = f"{exchange.operation} {exchange.status}"
                self._violations += [f"{response}: {text}" for text in exchange.response_violations]

    def clear(self) -> None:
        """Delete all exchanges and violations."""
        with self._lock:
            self._exchanges.clear()
            self._violations.clear()

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Return the newest exchanges, oldest first."""
        with self._lock:
            return tuple(self._exchanges)

    @property
    def violations(self) -> tuple[str, ...]:
        """Return the rules that responses broke although no fault applied."""
        with self._lock:
            return tuple(self._violations)


@frozen
class Fingerprints:
    """Replaces secrets by keyed hashes, which show only whether two secrets are equal."""

    _key: bytes = field(factory=lambda: secrets.token_bytes(32), repr=False)

    def of(self, secret: str) -> str:
        """Return the keyed fingerprint of one secret."""
        digest = hmac.digest(self._key, secret.encode(errors="surrogateescape"), "sha256")
        return f"fingerprint:{digest.hex()[:16]}"

    def of_form(self, fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return form fields with every possible secret replaced."""
        return tuple(
            (printable_name(name), value if name in _PLAIN_FIELDS else self.of(value))
            for name, value in fields
        )

    def of_headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return headers with credentials replaced."""
        return tuple((k, self.of(v) if k.lower() in _SECRET_HEADERS else v) for k, v in headers)
