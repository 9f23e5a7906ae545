"""One look at the server: a request that asks for nothing, and what came of it.

It travels as the client's own calls do: through the same proxy, under the same timeouts, with the
same checks of the certificate. Any answer proves that the connection stands.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

import httpx
from attrs import frozen

from blink_oauth._journey import travelling
from blink_oauth._outcomes import TLS_ADVICE
from blink_oauth._reply import no_answer
from blink_oauth._wire import Line
from blink_oauth.errors import InvalidInputError, TlsFault
from blink_oauth.settings import Settings

__all__ = ["Answered", "Obstacle", "Unanswered", "visit"]

PATH = "/oauth/token"
"""Read with GET, which the platform does not offer there: nothing can be spent."""


class Obstacle(Enum):
    """What was in the way."""

    SETTINGS = "settings"
    """Nothing was sent: the settings cannot be used."""
    REFUSAL = "refusal"
    """The server was there and did not want us."""
    NETWORK = "network"
    """The server was not there, or it was not the server."""


@frozen(kw_only=True)
class Answered:
    """The server answered.

    Attributes:
        status: The HTTP status.
        date: The server's clock by its `Date` header (RFC 9110 section 6.6.1), or None.
        before: Our clock before the request, aware.
        after: Our clock after the answer, aware.
    """

    status: int
    date: datetime | None
    before: datetime
    after: datetime


@frozen
class Unanswered:
    """There was no answer.

    Attributes:
        finding: What happened, in words.
        remedy: What to do.
        obstacle: What was in the way.
    """

    finding: str
    remedy: str
    obstacle: Obstacle


REFUSALS = frozenset(
    {
        TlsFault.CLIENT_CERTIFICATE_MISSING,
        TlsFault.CLIENT_CERTIFICATE_REFUSED,
        TlsFault.HANDSHAKE_FAILED,
    }
)

KINDS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        httpx.ProxyError,
        "The proxy did not let the connection through.",
        "Check the proxy that the settings or the environment name, and what it allows.",
    ),
    (
        socket.gaierror,
        "The host name is not known to the name server.",
        "Check the host in base_url, then the name server of this machine.",
    ),
    (
        ConnectionRefusedError,
        "Nothing takes connections at the server's port.",
        "Check host and port in base_url. If they are right, the platform is down: try later.",
    ),
    (
        httpx.TimeoutException,
        "The server did not answer in time.",
        "Check that the firewall lets this machine out; then try later, or with longer timeouts.",
    ),
)


def visit(settings: Settings, clock: Callable[[], datetime]) -> Answered | Unanswered:
    """Send one harmless request and tell what came of it.

    Args:
        settings: Where to, and with which certificate.
        clock: Tells the present moment, aware UTC.
    """
    try:
        line = Line(settings, now=clock())
    except InvalidInputError as error:
        return Unanswered(
            str(error), "Correct first what the checks above have found.", Obstacle.SETTINGS
        )
    limits = settings.timeouts
    timeout = httpx.Timeout(
        connect=limits.connect, read=limits.read, write=limits.write, pool=limits.pool
    )
    secure = settings.base_url.startswith("https://")
    client = httpx.Client(transport=line.transport, timeout=timeout, trust_env=False)
    with (
        closing(client) as http,
        travelling(limits.total, time.monotonic, secure=secure),
    ):
        return _answer(http, settings, clock)


def _answer(
    http: httpx.Client, settings: Settings, clock: Callable[[], datetime]
) -> Answered | Unanswered:
    headers = {"Accept": "application/json", "User-Agent": settings.user_agent}
    before = clock()
    try:
        # The body is not read: it says nothing that is of use here.
        with http.stream("GET", settings.base_url + PATH, headers=headers) as response:
            return Answered(
                status=response.status_code,
                date=_moment(response.headers.get("Date", "")),
                before=before,
                after=clock(),
            )
    except httpx.TransportError as exc:
        return _explain(exc)


def _explain(exc: httpx.TransportError) -> Unanswered:
    answer = no_answer(exc, sent=None)
    if answer.fault is not None:
        finding, _, remedy = TLS_ADVICE[answer.fault].partition(". ")
        obstacle = Obstacle.REFUSAL if answer.fault in REFUSALS else Obstacle.NETWORK
        sentence = f"{finding[0].upper()}{finding[1:]} ({answer.reason})."
        return Unanswered(sentence, f"{remedy}.", obstacle)
    causes = tuple(_causes(exc))
    for kind, finding, remedy in KINDS:
        if any(isinstance(cause, kind) for cause in causes):
            return Unanswered(finding, remedy, Obstacle.NETWORK)
    return Unanswered(
        f"The server hung up without an answer ({answer.reason}).",
        "Check that the certificate is registered with the platform for this environment, and "
        "that nothing in between ends the connection; then try again.",
        Obstacle.REFUSAL,
    )


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _moment(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
