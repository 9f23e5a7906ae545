"""What the sandbox saw, kept without secrets."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import deque
from collections.abc import Iterable

from attrs import define, field, frozen

from .messages import printable_name

# Everything else that arrives in a form is hashed: an unknown field may hold a secret.
_PLAIN_FIELDS = frozenset(
    {"grant_type", "client_id", "username", "redirect_uri", "token_type_hint"}
)
# Some 30 MB: a sandbox may run for days, and a benchmark makes more calls than anybody reads.
KEPT = 10_000
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


@frozen
class Exchange:
    """One request to the platform and its response.

    Secrets are replaced by a keyed fingerprint: equal secrets have equal fingerprints within one
    sandbox, and nothing can be computed back.

    Attributes:
        operation: Operation of the contract, or None where the path is none of them.
        target_id: The bank the request was for, or None.
        client_id: The client that the certificate is registered for, or None.
        correlation_id: What the request said, or None.
        method: HTTP method.
        path: Path without query.
        request_headers: As they came, credentials replaced.
        form: Form fields, secrets replaced.
        status: Status of the reply, also where a fault kept it from being sent.
        response_headers: As they were to be sent.
        executed: Whether the bank carried the request out, be it by a refusal.
        fault: Name of the fault that was asked for, or None.
        request_violations: Rules of the contract that the request broke.
        violations: Rules of the contract that the sandbox's own response broke.
        at: Seconds since the epoch, on the sandbox's clock.
    """

    operation: str | None
    target_id: str | None
    client_id: str | None
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
    violations: tuple[str, ...]
    at: float


class ContractViolationError(AssertionError):
    """The sandbox answered what its contract does not allow, and no fault asked for it."""


@define(eq=False)
class Record:
    """The newest exchanges, and what was wrong with any there ever was. Threads may share it."""

    _exchanges: deque[Exchange] = field(init=False, factory=lambda: deque(maxlen=KEPT), repr=False)
    _violations: list[str] = field(init=False, factory=list)
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)

    def add(self, exchange: Exchange) -> None:
        """Keep an exchange, and forget the oldest one where there are too many."""
        with self._lock:
            self._exchanges.append(exchange)
            if exchange.fault is None:
                operated = f"{exchange.operation} {exchange.status}"
                self._violations += [f"{operated}: {text}" for text in exchange.violations]

    def clear(self) -> None:
        """Forget everything."""
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
        """Return in words where a response broke the contract although no fault asked for it."""
        with self._lock:
            return tuple(self._violations)


@frozen
class Fingerprints:
    """Replaces secrets by what only tells whether two of them are equal."""

    _key: bytes = field(factory=lambda: secrets.token_bytes(32), repr=False)

    def of(self, secret: str) -> str:
        """Return the keyed fingerprint of one secret."""
        digest = hashlib.blake2s(secret.encode(errors="surrogateescape"), key=self._key)
        return f"fingerprint:{digest.hexdigest()[:16]}"

    def of_form(self, fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return the fields of a form with every possible secret replaced."""
        return tuple(
            (printable_name(name), value if name in _PLAIN_FIELDS else self.of(value))
            for name, value in fields
        )

    def of_headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return headers with credentials replaced."""
        return tuple((k, self.of(v) if k.lower() in _SECRET_HEADERS else v) for k, v in headers)
