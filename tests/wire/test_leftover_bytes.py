"""A connection is used again only if nothing came behind the response to the call before.

Otherwise the next call, which may be for another customer, would take those bytes for its response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from attrs import evolve

from blink_oauth import Settings, UnreadableResponseError
from wire.connect_proxy import running_proxy
from wire.counting_server import (
    GRANT,
    CountingServer,
    body_of,
    counting_server,
    head_of,
    name_of,
    refresh_token_of,
    response_of,
)
from wire.harness import Connect, wait_until

FIRST, FOREIGN = body_of("first"), response_of("foreign")
RESPONSE = response_of("first")
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = CHUNKED_HEAD + b"5;x=1\r\n%b\r\n%X\r\n%b\r\n0\r\n" % (
    FIRST[:5],
    len(FIRST) - 5,
    FIRST[5:],
)
BARE = RESPONSE.replace(b"\r\n", b"\n")
READ_SIZE = 1 << 16

CLEAN: dict[str, Sequence[bytes]] = {
    "in one piece": [RESPONSE],
    "head and body": [head_of(len(FIRST)), FIRST],
    "chunked": [CHUNKS + b"\r\n"],
    "behind an interim response": [EARLY + EARLY, RESPONSE],
    "with bare line feeds": [BARE],
    "without a body": [b"HTTP/1.1 204 No Content\r\n\r\n"],
}
DOUBTFUL: dict[str, Sequence[bytes]] = {
    "a second response": [RESPONSE + FOREIGN],
    "a second response in a record of its own": [RESPONSE, FOREIGN],
    "the same response": [RESPONSE + RESPONSE],
    "a body longer than Content-Length": [RESPONSE + b"}"],
    "a second response behind a broken Content-Length": [
        head_of(5) + FIRST[:5] + FOREIGN,
    ],
    "a second response behind the last chunk": [CHUNKS + b"\r\n" + FOREIGN],
    "a second response behind a trailer": [CHUNKS + b"X-A: 1\r\n\r\n" + FOREIGN],
    "a second response behind an interim one": [EARLY + RESPONSE + FOREIGN],
    "a second response behind bare line feeds": [BARE + FOREIGN],
    "a second response behind no body": [b"HTTP/1.1 204 No Content\r\n\r\n" + FOREIGN],
    "an interim response": [RESPONSE + EARLY],
    "half a head": [RESPONSE + b"HTTP/1.1 200 OK\r\nX"],
    "a second response behind exactly one read": [
        response_of("first", padding="x" * (READ_SIZE - len(response_of("first", padding=""))))
        + FOREIGN
    ],
}
ROUTES = ["TLS", "http proxy", "https proxy"]


def on_routes(rows: Mapping[str, Sequence[bytes]], *names: str) -> list[Any]:
    """Return all rows without TLS, and the named ones on every route."""
    return [
        pytest.param(route, pieces, id=f"{route}-{name}")
        for name, pieces in rows.items()
        for route in ["plain", *(ROUTES if name in names else [])]
    ]


@pytest.fixture
def server(request: pytest.FixtureRequest, route: str) -> Iterator[CountingServer]:
    """Run a server with or without TLS."""
    context = None if route == "plain" else request.getfixturevalue("server_context")
    with counting_server(context) as server:
        yield server


@pytest.fixture
def settings_by_route(
    server: CountingServer, route: str, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Return the settings of a client that reaches the server by a route."""
    if route == "plain":
        yield server.settings()
        return
    settings = server.settings(certificate=request.getfixturevalue("client_context"))
    if route == "TLS":
        yield settings
        return
    context = request.getfixturevalue("https_proxy_context") if route == "https proxy" else None
    with running_proxy(context=context) as proxy:
        yield evolve(settings, proxy=proxy.url())


def connections_of_two_calls(
    connect: Connect, server: CountingServer, settings: Settings, pieces: Sequence[bytes]
) -> list[int]:
    """Make two calls, of which the second must get its own token; return their connections."""
    server.pieces["first"] = pieces
    # The clock stands still: on a slow machine the connection would expire meanwhile.
    caller = connect(settings, monotonic=lambda: 0.0)
    with suppress(UnreadableResponseError):  # not each first response contains a token
        assert name_of(caller.refresh(GRANT, refresh_token_of("first"))) == "first"
    wait_until(lambda: "first" in server.responded)
    second = caller.refresh(GRANT, refresh_token_of("second"))
    assert name_of(second) == "second"
    return server.connections_of("first", "second")


@pytest.mark.parametrize(("route", "pieces"), on_routes(CLEAN, "head and body"))
def test_a_connection_is_used_again_after_a_complete_response(
    connect: Connect, server: CountingServer, settings_by_route: Settings, pieces: Sequence[bytes]
) -> None:
    assert connections_of_two_calls(connect, server, settings_by_route, pieces) == [0, 0]


@pytest.mark.parametrize(
    ("route", "pieces"),
    on_routes(DOUBTFUL, "a second response", "a second response in a record of its own"),
)
def test_a_connection_with_bytes_behind_the_response_is_not_used_again(
    connect: Connect, server: CountingServer, settings_by_route: Settings, pieces: Sequence[bytes]
) -> None:
    assert connections_of_two_calls(connect, server, settings_by_route, pieces) == [0, 1]


@pytest.mark.parametrize("route", ["plain", "TLS"])
def test_a_connection_that_the_server_has_ended_is_not_used_again(
    connect: Connect, server: CountingServer, settings_by_route: Settings
) -> None:
    server.ending.add("first")
    assert connections_of_two_calls(connect, server, settings_by_route, [RESPONSE]) == [0, 1]
