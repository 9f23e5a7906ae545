"""Bytes that have arrived are read although a timeout has passed: the process may have been frozen.

The clock jumps at a point of the call at which the server has sent everything. No test waits.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from attrs import define

from blink_oauth import Outcome, Settings, TimedOutError
from wire.counting_server import (
    GRANT,
    body_of,
    counting_server,
    head_of,
    name_of,
    refresh_token_of,
    response_of,
)
from wire.harness import Connect, wait_until
from wire.loopback import server_that

AFTER_SENDING = "send_request_body.complete"
AFTER_THE_HEAD = "receive_response_headers.complete"
BODY, RESPONSE = body_of("late"), response_of("late")
CHUNKS = [b"%X\r\n%b\r\n" % (len(part), part) for part in (BODY[:9], BODY[9:], b"")]
CHUNKED_HEAD = head_of(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
EARLY = b"HTTP/1.1 103 Early Hints\r\n\r\n"
LONG = EARLY.replace(b"\r\n\r\n", b"\r\nLink: <%b>\r\n\r\n" % (b"x" * 10_000))

ARRIVED: dict[str, Sequence[bytes]] = {
    "in one record": [RESPONSE],
    "head and body": [head_of(len(BODY)), BODY],
    "a record for each byte": [RESPONSE[at : at + 1] for at in range(len(RESPONSE))],
    "a record for each chunk": [CHUNKED_HEAD, *CHUNKS],
    "behind interim responses": [EARLY, EARLY, head_of(len(BODY)), BODY],
    "of several records": [response_of("late", padding="x" * 50_000)],
}


@define(eq=False)
class FrozenProcess(logging.Handler):
    """A clock that jumps by an hour when httpcore logs a message, once everything has arrived.

    Args:
        prefix: The beginning of the message.
        arrived: Returns whether the server has sent everything.
        now: The time in seconds.
    """

    prefix: str
    arrived: Callable[[], bool]
    now: float = 0.0

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __call__(self) -> float:
        return self.now

    def emit(self, record: logging.LogRecord) -> None:
        """Wait for the response, and set the clock forward."""
        if record.getMessage().startswith(self.prefix):
            wait_until(self.arrived)
            self.now += 3600.0


@contextmanager
def frozen(moment: str, arrived: Callable[[], bool]) -> Iterator[FrozenProcess]:
    """Freeze the process at a moment of its call until everything has arrived."""
    logger, handler = logging.getLogger("httpcore.http11"), FrozenProcess(moment, arrived)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize("moment", [AFTER_SENDING, AFTER_THE_HEAD])
@pytest.mark.parametrize("pieces", ARRIVED.values(), ids=ARRIVED)
def test_a_pair_that_has_arrived_is_returned_although_the_total_time_is_over(
    connect: Connect,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    pieces: Sequence[bytes],
    moment: str,
) -> None:
    with (
        counting_server(server_context) as server,
        frozen(moment, lambda: "late" in server.responded) as clock,
    ):
        server.pieces["late"] = pieces
        caller = connect(server.settings(certificate=client_context), monotonic=clock)
        token = caller.refresh(GRANT, refresh_token_of("late"))
    assert name_of(token) == "late"
    assert token.refresh_token == refresh_token_of("late")
    assert token.oddities == frozenset()


def test_an_http_response_that_has_arrived_is_read_as_well(connect: Connect) -> None:
    with (
        counting_server() as server,
        frozen(AFTER_SENDING, lambda: "late" in server.responded) as clock,
    ):
        caller = connect(server.settings(), monotonic=clock)
        assert name_of(caller.refresh(GRANT, refresh_token_of("late"))) == "late"


def settings_for(url: str) -> Settings:
    """Return the settings of a client that uses plain HTTP."""
    return Settings(
        base_url=url.replace("https:", "http:"),
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
        allow_plain_http=True,
    )


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (b"HTTP/1.1 200 OK\r\nX", b""), (b"", LONG)],
    ids=["nothing", "half a head", "interim responses without end"],
)
def test_a_call_whose_response_has_not_arrived_ends_at_its_total_time(
    connect: Connect, first: bytes, then: bytes
) -> None:
    sent = []

    def behave(connection: socket.socket) -> None:
        received = b""
        while b"refresh_token=" not in received:
            received += connection.recv(65_536)
        connection.sendall(first)
        sent.append(first)
        with suppress(OSError):
            while then:
                connection.sendall(then)
            connection.recv(1)

    with (
        server_that(behave) as url,
        frozen(AFTER_SENDING, lambda: bool(sent)) as clock,
        pytest.raises(TimedOutError) as caught,
    ):
        connect(settings_for(url), monotonic=clock).refresh(GRANT, refresh_token_of("late"))
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert caught.value.reason == "the response did not arrive in time"
