"""A server or a proxy swaps the responses to two calls: no grant gets the pair of the other."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from attrs import define, field

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkOAuth,
    ForeignResponseError,
    Grant,
    Outcome,
    Settings,
    Token,
)
from blink_oauth_keeper import (
    Event,
    EventName,
    GrantKey,
    MemoryTokenStore,
    Note,
    Origin,
    State,
    TokenManager,
)
from flavours import Flavour
from wire.harness import refresh_token

CLIENT_ID = "CIDX0000000002"
GRANTS = (Grant("IIDX00001", "u-one"), Grant("IIDX00001", "u-two"))
TIMEOUT = 10.0
NOTE = Note(event=EventName.AUTHORIZED)


def pair(username: str, number: int) -> Token:
    """Return a pair of a customer."""
    return Token(
        access_token=f"fake-access-{number}-{username}",
        refresh_token=f"fake-refresh-{number}-{username}",
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )


@define(eq=False)
class Swap:
    """Waits for two responses, and gives each call the response to the other.

    Attributes:
        url: The URL of the server, which is a proxy too.
        presented: The secrets that were sent.
    """

    url: str = ""
    presented: list[str] = field(factory=list)
    _barrier: threading.Barrier = field(factory=lambda: threading.Barrier(2))
    _responses: list[tuple[str, bytes]] = field(factory=list)

    def exchange(self, response: tuple[str, bytes]) -> tuple[str, bytes]:
        self._responses.append(response)
        self._barrier.wait(TIMEOUT)
        return next(other for other in self._responses if other is not response)


@contextmanager
def swapping() -> Iterator[Swap]:
    """Run a platform, or a proxy in front of one, that swaps two responses."""
    swap = Swap()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            fields = {name: values[0] for name, values in parse_qs(body).items()}
            swap.presented.append(fields.get("refresh_token") or fields["token"])
            received = pair(fields["username"], 2)
            members = {
                "access_token": received.access_token.reveal(),
                "refresh_token": refresh_token(received),
                "token_type": "bearer",
                "expires_in": 3600,
            }
            content = json.dumps(members).encode() if "refresh_token" in fields else b""
            sent_id, content = swap.exchange((self.headers["X-Correlation-ID"], content))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-CorAPI-Source", "PROVIDER")
            self.send_header("X-Correlation-ID", sent_id)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        swap.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield swap
        finally:
            server.shutdown()
            thread.join()


def settings_for(swap: Swap, *, proxied: bool) -> Settings:
    """Return the settings of a client of the server, or of one that uses it as a proxy."""
    return Settings(
        base_url=f"{'http://127.0.0.1:9' if proxied else swap.url}/consent-flow/v2",
        client_id=CLIENT_ID,
        user_agent="acme-books/3.2",
        proxy=swap.url if proxied else None,
        allow_plain_http=True,
    )


def both(calls: Sequence[Callable[[], object]]) -> list[object]:
    """Make two calls at the same time, and return their results or errors."""

    def result(call: Callable[[], object]) -> object:
        try:
            return call()
        except ForeignResponseError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(result, calls))


def require_foreign(results: Sequence[object]) -> list[ForeignResponseError]:
    """Require that both calls report a response to another request, and name both ids."""
    errors = [error for error in results if isinstance(error, ForeignResponseError)]
    assert len(errors) == len(results)
    assert [error.outcome for error in errors] == [Outcome.UNCERTAIN] * 2
    first, second = errors
    assert first.foreign_correlation_id == second.correlation_id
    assert second.foreign_correlation_id == first.correlation_id
    assert not any("fake-" in str(error) for error in errors)
    return errors


@pytest.mark.parametrize("proxied", [False, True], ids=["platform", "proxy"])
def test_two_calls_of_a_client_do_not_take_each_others_pair(
    flavour: Flavour, proxied: bool
) -> None:
    with swapping() as swap:
        settings = settings_for(swap, proxied=proxied)
        tokens = [refresh_token(pair(grant.username, 1)) for grant in GRANTS]
        if flavour == "sync":
            with BlinkOAuth(settings) as blink:
                calls = zip(GRANTS, tokens, strict=True)
                results = both([partial(blink.refresh, grant, token) for grant, token in calls])
        else:

            async def run() -> Sequence[object]:
                async with AsyncBlinkOAuth(settings) as blink:
                    calls = [blink.refresh(g, t) for g, t in zip(GRANTS, tokens, strict=True)]
                    return await asyncio.gather(*calls, return_exceptions=True)

            results = list(asyncio.run(run()))
    for error, other in zip(require_foreign(results), reversed(GRANTS), strict=True):
        assert error.token is not None
        assert refresh_token(error.token) == refresh_token(pair(other.username, 2))


@pytest.mark.parametrize("proxied", [False, True], ids=["platform", "proxy"])
def test_no_grant_of_a_manager_gets_the_pair_of_another(flavour: Flavour, proxied: bool) -> None:
    store, events = MemoryTokenStore(), list[Event]()
    keys = [GrantKey(CLIENT_ID, grant) for grant in GRANTS]
    for key in keys:
        token, now = pair(key.grant.username, 1), datetime.now(UTC)
        store.put(key, token, issued_at=now, idle_until=now + timedelta(days=30), note=NOTE)
    with (
        swapping() as swap,
        BlinkOAuth(settings_for(swap, proxied=proxied)) as blink,
        TokenManager(blink, store, on_event=events.append) as manager,
    ):
        if flavour == "sync":
            results = both([partial(manager.refresh, grant) for grant in GRANTS])
        else:

            async def run() -> Sequence[object]:
                calls = [manager.arefresh(grant) for grant in GRANTS]
                return await asyncio.gather(*calls, return_exceptions=True)

            results = list(asyncio.run(run()))
        served = [refresh_token(manager.get(grant)) for grant in GRANTS]
    assert all(error.token is None for error in require_foreign(results))
    assert served == [refresh_token(pair(grant.username, 1)) for grant in GRANTS]
    assert sorted(swap.presented) == served
    for key, other in zip(keys, reversed(GRANTS), strict=True):
        record = store.load(key)
        assert record is not None
        assert (record.state, record.attempts) == (State.UNCERTAIN, 1)
        (entry,) = store.journal_entries(key)
        assert entry.origin is Origin.FOREIGN
        assert refresh_token(entry.token) == refresh_token(pair(other.username, 2))
    names = [event.name for event in events]
    assert names.count(EventName.FOREIGN_RESPONSE) == names.count(EventName.UNCERTAIN) == 2
