"""The headers that `GrantAuth` adds to a request, and the requests that it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from blink_oauth import BlinkError, BlinkOAuth, Grant, InvalidInputError, Psu
from blink_oauth.headers import REQUEST_HEADERS
from blink_oauth.tokens import Secret
from blink_oauth_keeper import NoTokenError, TokenManager
from blink_oauth_keeper.auth import HeaderWriter
from flavours import FLAVOURS, Flavour
from keeper.bank_api import URL, BankApi, request, unauthorized
from keeper.harness import PSU, SETTINGS, TARGET, Harness, connection_refused, with_members
from wrapper.leaks import found, texts_of, texts_of_error

BOTH = pytest.mark.parametrize("flavour", FLAVOURS)


@BOTH
def test_a_request_carries_the_token_and_the_five_headers(
    flavour: Flavour, harness: Harness
) -> None:
    grant, api = harness.authorize(), BankApi()
    request(flavour, harness.manager.auth(grant, psu=PSU), api)
    (sent,) = api.requests
    assert sent.bearer == harness.manager.get(grant).access_token.reveal()
    assert sent.headers["User-Agent"] == SETTINGS.user_agent
    assert sent.headers["X-CorAPI-Target-ID"] == TARGET
    assert sent.headers["X-PSU-IP-Address"] == PSU.ip
    assert sent.headers["X-PSU-User-Agent"] == PSU.user_agent
    assert sent.headers["Host"] == "bank.invalid"
    names = [name.decode().lower() for name, _ in sent.headers.raw]
    assert len(names) == len(set(names))


def test_a_request_without_a_psu_says_auto(harness: Harness) -> None:
    api = BankApi()
    request("sync", harness.manager.auth(harness.authorize(), psu=Psu.AUTO), api)
    assert api.requests[0].headers["X-PSU-IP-Address"] == "AUTO"
    assert api.requests[0].headers["X-PSU-User-Agent"] == "AUTO"


@BOTH
def test_headers_of_the_same_name_on_the_request_are_replaced(
    flavour: Flavour, harness: Harness
) -> None:
    api = BankApi()
    callers = {name.upper(): "caller's" for name in (*REQUEST_HEADERS, "Authorization")}
    auth = harness.manager.auth(harness.authorize(), psu=PSU)
    request(flavour, auth, api, headers=callers | {"X-Other": "caller's"})
    (sent,) = api.requests
    assert [name for name, value in sent.headers.items() if value == "caller's"] == ["x-other"]


@BOTH
def test_the_client_makes_the_correlation_ids(flavour: Flavour, harness: Harness) -> None:
    grant = harness.authorize()
    numbers = iter(range(100))
    api = BankApi()
    with manager_with_ids(harness, lambda: f"corr-{next(numbers)}") as manager:
        auth = manager.auth(grant, psu=PSU)
        for _ in range(3):
            request(flavour, auth, api)
    assert [sent.correlation_id for sent in api.requests] == ["corr-0", "corr-1", "corr-2"]


def manager_with_ids(harness: Harness, new_correlation_id: Callable[[], str]) -> TokenManager:
    """Make a manager whose client takes its correlation ids from a function."""
    blink = BlinkOAuth(
        SETTINGS,
        clock=harness.clock.now,
        new_correlation_id=new_correlation_id,
        transport=httpx.MockTransport(harness.banks),
    )
    return TokenManager(blink, harness.memory, clock=harness.clock.now)


@BOTH
@pytest.mark.parametrize("bad", ["", "a\r\nX-PSU-IP-Address: 198.51.100.1", "é", "x" * 65])
def test_an_invalid_correlation_id_is_refused_before_anything_is_sent(
    bad: str, flavour: Flavour, harness: Harness
) -> None:
    grant, api = harness.authorize(), BankApi()
    with manager_with_ids(harness, lambda: bad) as manager, pytest.raises(InvalidInputError):
        request(flavour, manager.auth(grant, psu=PSU), api)
    assert api.requests == []


@BOTH
@pytest.mark.parametrize(
    "url",
    ["http://bank.invalid/", "http://203.0.113.7/", "http://localhost.bank.invalid/", "ftp://a/"],
)
def test_no_token_is_sent_over_plain_http_to_another_host(
    url: str, flavour: Flavour, harness: Harness
) -> None:
    grant, api = harness.authorize(), BankApi()
    before = len(harness.faulty.calls)
    with pytest.raises(InvalidInputError, match="Nothing was sent"):
        request(flavour, harness.manager.auth(grant, psu=PSU), api, url=url)
    assert api.requests == []
    assert len(harness.faulty.calls) == before


@BOTH
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9:8080", "[::1]:8080"])
def test_plain_http_to_loopback_is_allowed(host: str, flavour: Flavour, harness: Harness) -> None:
    api = BankApi()
    auth = harness.manager.auth(harness.authorize(), psu=PSU)
    assert request(flavour, auth, api, url=f"http://{host}/accounts").status_code == 200
    assert api.requests[0].bearer


BAD_ARGUMENTS: list[tuple[Any, Any]] = [
    (Grant(TARGET, "u"), None),
    (Grant(TARGET, "u"), ("203.0.113.7", "Mozilla")),
    (Grant(TARGET, "u"), "AUTO"),
    ((TARGET, "u"), PSU),
    (None, PSU),
]


@pytest.mark.parametrize(("grant", "psu"), BAD_ARGUMENTS)
def test_auth_requires_a_grant_and_a_psu(grant: Any, psu: Any, harness: Harness) -> None:
    with pytest.raises(InvalidInputError, match=r"must be a (Grant|Psu), such as"):
        harness.manager.auth(grant, psu=psu)


def test_the_repr_of_an_auth_shows_the_grant_and_no_secret(harness: Harness) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    token = harness.manager.get(grant)
    request("sync", auth, BankApi())
    assert repr(auth) == f"GrantAuth({grant!r})"
    assert found(secrets_of(token), [("repr", repr(auth)), ("vars", repr(vars(auth)))]) == []


def secrets_of(token: Any) -> list[str]:
    return [token.access_token.reveal(), token.refresh_token.reveal()]


def test_a_signed_request_shows_no_secret(harness: Harness) -> None:
    grant = harness.authorize()
    api = BankApi()
    response = request("sync", harness.manager.auth(grant, psu=PSU), api)
    headers = response.request.headers
    assert api.requests[0].bearer
    texts = [("request", repr(response.request)), ("headers", repr(headers)), ("str", str(headers))]
    assert found([api.requests[0].bearer], texts) == []


INVALID_TOKENS = ["fake token", "fake-token\r\nX-Forged: 1", "fake-tökén", "fake-token\x00"]


@BOTH
@pytest.mark.parametrize("invalid", INVALID_TOKENS)
def test_a_token_that_is_not_visible_ascii_is_neither_sent_nor_shown(
    invalid: str, flavour: Flavour, harness: Harness
) -> None:
    grant, api = harness.authorize(responder=with_members(access_token=invalid)), BankApi()
    with pytest.raises(NoTokenError, match="visible ASCII") as caught:
        request(flavour, harness.manager.auth(grant, psu=PSU), api)
    assert api.requests == []
    assert found([invalid, repr(invalid)[1:-1]], texts_of_error(caught.value)) == []


@BOTH
def test_an_error_after_a_401_shows_no_secret(flavour: Flavour, harness: Harness) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.advance(120)
    harness.banks.respond_always(connection_refused)
    with pytest.raises(BlinkError) as caught:
        request(flavour, harness.manager.auth(grant, psu=PSU), BankApi([unauthorized()]))
    assert found(secrets_of(token), texts_of_error(caught.value)) == []
    assert found(secrets_of(token), texts_of(caught.value)) == []


def test_a_network_error_is_passed_on_and_shows_no_secret(harness: Harness) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    grant = harness.authorize()
    token = harness.manager.get(grant)
    with pytest.raises(httpx.ConnectError) as caught:
        request("sync", harness.manager.auth(grant, psu=PSU), BankApi([broken]))
    assert found(secrets_of(token), texts_of_error(caught.value)) == []


class Echo(BaseHTTPRequestHandler):
    """Responds with the headers of the request."""

    def do_GET(self) -> None:
        body = "\n".join(f"{name}: {value}" for name, value in self.headers.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    """Yield the URL of a server that responds with the headers of the request."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/accounts"
        server.shutdown()
        thread.join()


def test_the_auth_works_with_httpx_get_over_a_socket(echo: str, harness: Harness) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    lines = httpx.get(echo, auth=auth, trust_env=False).text.splitlines()
    assert f"Authorization: Bearer {harness.manager.get(grant).access_token.reveal()}" in lines
    assert {line.partition(":")[0] for line in lines} >= REQUEST_HEADERS
    assert f"X-PSU-User-Agent: {PSU.user_agent}" in lines


HEADERS: dict[str, list[tuple[bytes, bytes]]] = {
    "none": [],
    "other headers": [(b"Host", b"bank.invalid"), (b"Accept", b"*/*")],
    "a header twice": [(b"X-Tag", b"a"), (b"Accept", b"*/*"), (b"x-tag", b"b")],
    "one of the writer's in the middle": [(b"A", b"1"), (b"USER-AGENT", b"httpx"), (b"B", b"2")],
    "a value that is not ASCII": [(b"X-Name", "Zoë".encode())],
    "a value that is not UTF-8": [(b"X-Name", b"Zo\xeb")],
}


def written(before: list[tuple[bytes, bytes]]) -> tuple[httpx.Headers, httpx.Headers]:
    """Return headers as the writer sets them, and as setting one after the other does."""
    writer = HeaderWriter(
        Grant(TARGET, "u-4711"), PSU, user_agent="acme-books/3.2", new_correlation_id=lambda: "c-1"
    )
    request = httpx.Request("GET", URL, headers=before)
    request.headers = httpx.Headers(before)
    writer.write(request, Secret("fake-access-token"))
    expected = httpx.Headers(before)
    values = {
        "User-Agent": "acme-books/3.2",
        "X-CorAPI-Target-ID": TARGET,
        "X-PSU-IP-Address": PSU.ip,
        "X-PSU-User-Agent": PSU.user_agent,
        "X-Correlation-ID": "c-1",
        "Authorization": "Bearer fake-access-token",
    }
    for name in values:
        expected.pop(name, None)
    for name, value in values.items():
        expected[name] = value
    return request.headers, expected


CHANGES: dict[str, Callable[[httpx.Headers], object]] = {
    "none": lambda headers: None,
    "a header is set": lambda headers: headers.__setitem__("X-New", "new"),
    "a header is replaced": lambda headers: headers.__setitem__("x-correlation-id", "new"),
    "a header is removed": lambda headers: headers.pop("Authorization"),
    "a header is added and one is replaced": lambda headers: headers.update(
        {"X-New": "new", "USER-AGENT": "new"}
    ),
    "a header is added with update": lambda headers: headers.update({"X-New": "new"}),
    "a header is set if it is missing": lambda headers: headers.setdefault("X-New", "new"),
    "all headers are removed": lambda headers: headers.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", HEADERS)
def test_headers_behave_like_headers_set_one_by_one(before: str, change: str) -> None:
    actual, expected = written(HEADERS[before])
    for headers in (actual, expected):
        CHANGES[change](headers)
    assert actual.raw == expected.raw
    assert dict(actual) == dict(expected)
    assert list(actual) == list(expected)
    assert actual.keys() == expected.keys()
    assert actual.items() == expected.items()
    assert list(actual.values()) == list(expected.values())
    assert actual.multi_items() == expected.multi_items()
    assert actual.encoding == expected.encoding
    assert len(actual) == len(expected)
    assert actual == expected
    assert httpx.Headers(actual).raw == actual.copy().raw == expected.raw
    for name in ("Authorization", "x-tag", "X-NAME", "X-New", "missing"):
        assert actual.get(name) == expected.get(name)
        assert actual.get_list(name) == expected.get_list(name)
        assert (name in actual) == (name in expected)
    with pytest.raises(KeyError):
        actual["missing"]


def test_a_header_that_a_request_hook_adds_is_sent(harness: Harness) -> None:
    def hook(request: httpx.Request) -> None:
        request.headers["X-Trace"] = "trace-1"

    api = BankApi()
    auth = harness.manager.auth(harness.authorize(), psu=PSU)
    with httpx.Client(auth=auth, transport=api, event_hooks={"request": [hook]}) as client:
        client.get(URL)
    assert api.requests[0].headers["X-Trace"] == "trace-1"
    assert api.requests[0].bearer
