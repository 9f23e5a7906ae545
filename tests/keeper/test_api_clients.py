"""The shared clients of a manager, and its headers, at the banks of the sandbox over mutual TLS."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import os
import pickle
import re
import ssl
import subprocess
import sys
import threading
import weakref
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import urllib3
from attrs import evolve

from blink_oauth import BlinkOAuth, CertificateError, Grant, InvalidInputError, Timeouts
from blink_oauth_keeper import MemoryTokenStore, NoTokenError, TokenManager, UnknownGrantError
from blink_oauth_testing.sandbox import Sandbox
from blink_oauth_testing.sandbox.faults import Fault
from blink_oauth_testing.sandbox.messages import Response
from flavours import FLAVOURS, Flavour
from keeper.harness import PSU
from wire.connect_proxy import running_proxy

README = Path(__file__).parents[2] / "README.md"
PROGRAM = Path(__file__).with_name("api_client_fork_program.py")
CREDENTIALS = "books:fake%40proxy-password@"
FIVE = {
    "X-Correlation-ID",
    "User-Agent",
    "X-CorAPI-Target-ID",
    "X-PSU-IP-Address",
    "X-PSU-User-Agent",
}

Open = Callable[..., TokenManager]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies of the machine that runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Return each flavour of httpx's client in turn."""
    name: Flavour = request.param
    return name


@pytest.fixture
def open_manager(blink_sandbox: Sandbox) -> Iterator[Open]:
    """Return a function that makes a manager with changed settings."""

    def now() -> datetime:
        return datetime.fromtimestamp(blink_sandbox.clock(), UTC)

    with ExitStack() as stack:

        def make(**changes: Any) -> TokenManager:
            blink = stack.enter_context(BlinkOAuth(blink_sandbox.settings(**changes)))
            manager = TokenManager(blink, MemoryTokenStore(clock=now), clock=now)
            return stack.enter_context(manager)

        yield make


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield an event loop for the coroutines of a test."""
    with asyncio.Runner() as runner:
        yield runner


def authorize(sandbox: Sandbox, manager: TokenManager, username: str = "u-4711") -> Grant:
    """Authorize a grant at the first bank."""
    grant = sandbox.grant(username=username)
    code = sandbox.issue_code(grant)
    manager.authorize(grant, code=code, redirect_uri=sandbox.redirect_uri, psu=PSU)
    return grant


def shared(flavour: Flavour, manager: TokenManager) -> httpx.Client | httpx.AsyncClient:
    """Return the shared client of a flavour."""
    return manager.client() if flavour == "sync" else manager.async_client()


def get(
    client: httpx.Client | httpx.AsyncClient, url: str, auth: httpx.Auth, runner: asyncio.Runner
) -> httpx.Response:
    """Send a request with a client of either flavour."""
    if isinstance(client, httpx.Client):
        return client.get(url, auth=auth)
    return runner.run(client.get(url, auth=auth))


def send(
    flavour: Flavour, manager: TokenManager, grant: Grant, url: str, runner: asyncio.Runner
) -> httpx.Response:
    """Send a request of a grant with the shared client of a flavour."""
    return get(shared(flavour, manager), url, manager.auth(grant, psu=PSU), runner)


def connection(response: httpx.Response) -> object:
    """Return the local address of the connection of a response."""
    return response.extensions["network_stream"].get_extra_info("client_addr")


def test_all_grants_and_requests_share_one_connection(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open, runner: asyncio.Runner
) -> None:
    manager = open_manager()
    grants = [authorize(blink_sandbox, manager, name) for name in ("u-1", "u-2", "u-1")]
    url = blink_sandbox.accounts_url
    responses = [send(flavour, manager, grant, url, runner) for grant in grants]
    assert [response.status_code for response in responses] == [200] * 3
    assert len({connection(response) for response in responses}) == 1
    bearers = [response.request.headers["Authorization"] for response in responses]
    assert bearers[0] == bearers[2] != bearers[1]
    assert shared(flavour, manager) is shared(flavour, manager)


def test_the_shared_client_has_the_timeouts_of_the_settings_and_no_base_url(
    flavour: Flavour, open_manager: Open
) -> None:
    timeouts = Timeouts(connect=1.0, read=2.0, write=3.0, pool=4.0)
    client = shared(flavour, open_manager(timeouts=timeouts))
    assert client.timeout == httpx.Timeout(connect=1.0, read=2.0, write=3.0, pool=4.0)
    assert str(client.base_url) == ""
    assert not client.follow_redirects
    assert not client.trust_env


def test_max_connections_limits_the_connections(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open, runner: asyncio.Runner
) -> None:
    manager = open_manager(max_connections=1, timeouts=Timeouts(pool=0.01))
    auth = manager.auth(authorize(blink_sandbox, manager), psu=PSU)
    url = blink_sandbox.accounts_url

    async def run() -> None:
        client = manager.async_client()
        async with client.stream("GET", url, auth=auth):
            with pytest.raises(httpx.PoolTimeout):
                await client.get(url, auth=auth)

    if flavour == "async":
        runner.run(run())
        return
    with manager.client().stream("GET", url, auth=auth), pytest.raises(httpx.PoolTimeout):
        manager.client().get(url, auth=auth)


def test_threads_that_ask_at_once_get_one_client(flavour: Flavour, open_manager: Open) -> None:
    manager, barrier = open_manager(), threading.Barrier(8)

    def make(_: int) -> httpx.Client | httpx.AsyncClient:
        barrier.wait(10)
        return shared(flavour, manager)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(make, range(8))))) == 1


def test_after_a_401_the_auth_refreshes_and_sends_again_on_the_same_connection(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open, runner: asyncio.Runner
) -> None:
    manager = open_manager()
    grant = authorize(blink_sandbox, manager)
    before = manager.get(grant)
    blink_sandbox.clock.advance(seconds=120)
    refusal = Fault("refusal", executes=False, change=lambda _: Response(401, (), b""))
    blink_sandbox.fail(refusal, operation="list_accounts")
    response = send(flavour, manager, grant, blink_sandbox.accounts_url, runner)
    assert response.status_code == 200
    (refused,) = response.history
    assert refused.status_code == 401
    assert connection(refused) == connection(response)
    assert manager.get(grant) != before
    assert manager.status(grant).generation == 2


def test_no_cookie_of_one_customer_is_sent_for_another(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open, runner: asyncio.Runner
) -> None:
    manager = open_manager()
    grants = [authorize(blink_sandbox, manager, name) for name in ("u-1", "u-2")]

    def add_cookie(response: Response) -> Response:
        cookie = ("Set-Cookie", "session=fake-session")
        return evolve(response, headers=(*response.headers, cookie))

    url = blink_sandbox.accounts_url
    setting = Fault("cookie", executes=True, change=add_cookie)
    blink_sandbox.fail(setting, operation="list_accounts")
    first, second = (send(flavour, manager, grant, url, runner) for grant in grants)
    assert first.headers["Set-Cookie"] == "session=fake-session"
    assert "Cookie" not in second.request.headers


def test_a_closed_manager_gives_out_no_client_and_its_clients_send_nothing(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open, runner: asyncio.Runner
) -> None:
    manager = open_manager()
    grant, url = authorize(blink_sandbox, manager), blink_sandbox.accounts_url
    response = send(flavour, manager, grant, url, runner)
    client, auth = shared(flavour, manager), manager.auth(grant, psu=PSU)
    manager.close()
    manager.close()
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        shared(flavour, manager)
    # The event loop closes its connections when it runs.
    runner.run(asyncio.sleep(0))
    assert response.extensions["network_stream"].get_extra_info("socket").fileno() == -1
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        get(client, url, auth, runner)


def test_a_manager_that_is_closed_in_a_coroutine_leaves_no_connection_open(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    auth = manager.auth(authorize(blink_sandbox, manager), psu=PSU)

    async def run() -> httpx.Response:
        response = await manager.async_client().get(blink_sandbox.accounts_url, auth=auth)
        manager.close()
        return response

    stream = asyncio.run(run()).extensions["network_stream"]
    assert stream.get_extra_info("socket").fileno() == -1


def test_when_aclose_returns_the_connections_of_its_event_loop_are_closed(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    auth = manager.auth(authorize(blink_sandbox, manager), psu=PSU)

    async def run() -> list[int]:
        client, url = manager.async_client(), blink_sandbox.accounts_url
        responses = await asyncio.gather(*(client.get(url, auth=auth) for _ in range(5)))
        await manager.aclose()
        streams = [response.extensions["network_stream"] for response in responses]
        return [stream.get_extra_info("socket").fileno() for stream in streams]

    assert asyncio.run(run()) == [-1] * 5


def test_after_the_application_has_closed_the_client_there_is_a_new_one(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open, runner: asyncio.Runner
) -> None:
    manager = open_manager()
    grant, url = authorize(blink_sandbox, manager), blink_sandbox.accounts_url
    first = send(flavour, manager, grant, url, runner)
    client, before = shared(flavour, manager), connection(first)
    if isinstance(client, httpx.Client):
        client.close()
    else:
        runner.run(client.aclose())
    assert first.extensions["network_stream"].get_extra_info("socket").fileno() == -1
    assert shared(flavour, manager) is not client
    response = send(flavour, manager, grant, url, runner)
    assert response.status_code == 200
    assert connection(response) != before


@pytest.mark.filterwarnings("error")
def test_one_asynchronous_client_serves_one_event_loop_after_another(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    auth = manager.auth(authorize(blink_sandbox, manager), psu=PSU)
    client = manager.async_client()

    async def run() -> httpx.Response:
        await client.get(blink_sandbox.accounts_url, auth=auth)
        return await client.get(blink_sandbox.accounts_url, auth=auth)

    responses = [asyncio.run(run()) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 200]
    for response in responses:
        # The end of its loop has closed the connection.
        assert response.extensions["network_stream"].get_extra_info("socket").fileno() == -1


def test_an_event_loop_that_ended_without_notice_is_forgotten(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    auth = manager.auth(authorize(blink_sandbox, manager), psu=PSU)

    async def refused() -> None:
        with pytest.raises(httpx.ConnectError):
            await manager.async_client().get("http://127.0.0.1:1/", auth=auth)

    references = []
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(refused())
        # `asyncio.run` would call `shutdown_asyncgens` before.
        loop.close()
        references.append(weakref.ref(loop))
        del loop
    gc.collect()
    assert [reference() is None for reference in references] == [True, False]
    manager.close()


def test_event_loops_in_two_threads_have_connections_of_their_own(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    auth = manager.auth(authorize(blink_sandbox, manager), psu=PSU)
    both = threading.Barrier(2)

    async def run() -> object:
        response = await manager.async_client().get(blink_sandbox.accounts_url, auth=auth)
        address = connection(response)
        both.wait(10)
        return address

    with ThreadPoolExecutor(2) as pool:
        addresses = list(pool.map(lambda _: asyncio.run(run()), range(2)))
    assert len(set(addresses)) == 2


def test_after_a_fork_parent_and_child_use_connections_of_their_own(
    blink_sandbox: Sandbox,
) -> None:
    grant = blink_sandbox.grant()
    run = subprocess.run(
        [
            *(sys.executable, "-W", "error", PROGRAM, blink_sandbox.accounts_url),
            *(grant.target_id, blink_sandbox.issue_code(grant), blink_sandbox.redirect_uri),
        ],
        env=os.environ
        | blink_sandbox.environment()
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    child, parent = (json.loads(line) for line in run.stdout.splitlines())
    assert [status for status, _ in child.values()] == [200, 200]
    assert [status for status, _ in parent["after"].values()] == [200, 200]
    assert parent["before"] == parent["after"]
    for name, (_, address) in child.items():
        assert address != parent["before"][name][1]


@pytest.fixture(params=["http", "https"])
def proxy_context(
    request: pytest.FixtureRequest,
    blink_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ssl.SSLContext | None:
    """Return the TLS context of a proxy, whose authority is one of the system's; None for http."""
    if request.param == "http":
        return None
    (tmp_path / "system.pem").write_bytes(blink_sandbox.authority.root_pem)
    paths = ssl.get_default_verify_paths()._replace(
        openssl_cafile=str(tmp_path / "system.pem"), openssl_capath=str(tmp_path / "none")
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    issued = blink_sandbox.authority.issue_server()
    files = issued.save(tmp_path, "proxy")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain, files.key, issued.passphrase)
    return context


def test_the_proxy_of_the_settings_tunnels_the_requests(
    flavour: Flavour,
    blink_sandbox: Sandbox,
    open_manager: Open,
    runner: asyncio.Runner,
    *,
    proxy_context: ssl.SSLContext | None,
) -> None:
    with running_proxy(context=proxy_context) as proxy:
        # Without a scheme it is an http:// URL.
        manager = open_manager(proxy=proxy.url(CREDENTIALS).removeprefix("http://"))
        grant = authorize(blink_sandbox, manager)
        proxy.heads.clear()
        url = blink_sandbox.accounts_url
        assert send(flavour, manager, grant, url, runner).status_code == 200
        assert send(flavour, manager, grant, url, runner).status_code == 200
        (head,) = proxy.heads
        manager.close()
        runner.run(asyncio.sleep(0))
    assert head.startswith(b"CONNECT localhost:")
    assert b"Proxy-Authorization: Basic " + b64encode(b"books:fake@proxy-password") in head
    assert PSU.ip.encode() not in head


@pytest.mark.parametrize(
    ("trust_env", "no_proxy", "tunnels"),
    [(True, "", 1), (False, "", 0), (True, "localhost", 0), (True, "other.invalid", 1)],
)
def test_a_proxy_of_the_environment_is_used_only_if_the_settings_trust_it(
    flavour: Flavour,
    blink_sandbox: Sandbox,
    open_manager: Open,
    runner: asyncio.Runner,
    *,
    monkeypatch: pytest.MonkeyPatch,
    trust_env: bool,
    no_proxy: str,
    tunnels: int,
) -> None:
    manager = open_manager(trust_env=trust_env)
    grant = authorize(blink_sandbox, manager)
    with running_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        monkeypatch.setenv("NO_PROXY", no_proxy)
        url = blink_sandbox.accounts_url
        assert send(flavour, manager, grant, url, runner).status_code == 200
        assert len(proxy.heads) == tunnels
        manager.close()
        runner.run(asyncio.sleep(0))


def test_without_a_usable_certificate_there_is_no_client(
    flavour: Flavour, blink_sandbox: Sandbox, tmp_path: Path
) -> None:
    certificate = blink_sandbox.client_certificate()
    copied = copy_of(certificate.chain, tmp_path)
    settings = blink_sandbox.settings(certificate=evolve(certificate, chain=copied))
    # With a transport of its own, the client does not load the certificate.
    blink = BlinkOAuth(settings, transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    with blink, TokenManager(blink, MemoryTokenStore()) as manager:
        copied.unlink()
        with pytest.raises(CertificateError):
            shared(flavour, manager)
        copied.write_bytes(certificate.chain.read_bytes())
        assert shared(flavour, manager)


def copy_of(chain: Path, folder: Path) -> Path:
    """Copy a chain to a folder, and return the path of the copy."""
    copied = folder / "chain.pem"
    copied.write_bytes(chain.read_bytes())
    return copied


HEADERS_OF: dict[Flavour, Callable[[TokenManager, Grant], dict[str, str]]] = {
    "sync": lambda manager, grant: manager.headers(grant, psu=PSU),
    "async": lambda manager, grant: asyncio.run(manager.aheaders(grant, psu=PSU)),
}


def test_the_headers_are_a_dict_that_shows_the_token_only_by_its_value(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    grant = authorize(blink_sandbox, manager)
    token = manager.get(grant).access_token.reveal()
    headers, again = (HEADERS_OF[flavour](manager, grant) for _ in range(2))
    assert type(headers) is dict
    assert headers.keys() == {"Authorization", *FIVE}
    assert headers["Authorization"] == f"Bearer {token}"
    assert headers["X-CorAPI-Target-ID"] == grant.target_id
    assert headers["X-PSU-IP-Address"] == PSU.ip
    assert headers["X-Correlation-ID"] != again["X-Correlation-ID"]
    for mapping in (headers, headers | {"Accept": "a/b"}, {**headers}, copy.deepcopy(headers)):
        assert mapping["Authorization"] == f"Bearer {token}"
        assert token not in f"{mapping} {mapping!r} {list(mapping.items())}"
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(mapping)
    assert copy.copy(headers["Authorization"]) is headers["Authorization"]


def test_the_headers_have_a_newer_token_after_a_refused_one_was_reported(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    grant = authorize(blink_sandbox, manager)
    refused = HEADERS_OF[flavour](manager, grant)
    blink_sandbox.clock.advance(seconds=120)
    manager.invalidate(grant, manager.get(grant))
    assert HEADERS_OF[flavour](manager, grant)["Authorization"] != refused["Authorization"]
    assert manager.status(grant).generation == 2


def test_the_headers_of_a_grant_without_a_token_are_an_error(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open
) -> None:
    with pytest.raises(UnknownGrantError):
        HEADERS_OF[flavour](open_manager(), blink_sandbox.grant())


def test_the_headers_need_a_grant_and_a_device(flavour: Flavour, open_manager: Open) -> None:
    with pytest.raises(InvalidInputError, match="argument grant must be a Grant"):
        HEADERS_OF[flavour](open_manager(), "u-4711")  # type: ignore[arg-type]


def test_no_header_carries_an_access_token_with_a_line_end(
    flavour: Flavour, blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager = open_manager()
    grant = blink_sandbox.grant()

    def broken(response: Response) -> Response:
        body = json.loads(response.body) | {"access_token": "fake\r\ntoken"}
        return evolve(response, body=json.dumps(body).encode())

    blink_sandbox.fail(Fault("line end", executes=True, change=broken))
    code = blink_sandbox.issue_code(grant)
    manager.authorize(grant, code=code, redirect_uri=blink_sandbox.redirect_uri, psu=PSU)
    with pytest.raises(NoTokenError, match="no header can carry"):
        HEADERS_OF[flavour](manager, grant)


def test_urllib3_gets_the_accounts_with_headers_and_context(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager, context = open_manager(), blink_sandbox.settings().ssl_context()
    headers = manager.headers(authorize(blink_sandbox, manager), psu=PSU)
    with urllib3.PoolManager(ssl_context=context) as http:
        response = http.request("GET", blink_sandbox.accounts_url, headers=headers)
    assert response.status == 200
    assert response.json()["accounts"]


def test_aiohttp_gets_the_accounts_with_headers_and_context(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager, context = open_manager(), blink_sandbox.settings().ssl_context()
    grant = authorize(blink_sandbox, manager)

    async def run() -> Any:
        connector = aiohttp.TCPConnector(ssl=context)
        headers = await manager.aheaders(grant, psu=PSU)
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.get(blink_sandbox.accounts_url, headers=headers) as response,
        ):
            assert response.status == 200
            return await response.json()

    assert asyncio.run(run())["accounts"]


def test_httpx_gets_the_accounts_with_auth_and_context(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    manager, context = open_manager(), blink_sandbox.settings().ssl_context()
    auth = manager.auth(authorize(blink_sandbox, manager), psu=PSU)
    with httpx.Client(verify=context, trust_env=False) as http:
        assert http.get(blink_sandbox.accounts_url, auth=auth).json()["accounts"]


def test_the_client_id_is_that_of_the_settings(open_manager: Open) -> None:
    assert open_manager().client_id == "CIDX0000000002"


def test_the_readme_s_request_to_a_bank_returns_the_accounts(
    blink_sandbox: Sandbox, open_manager: Open
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    (block,) = [each for each in blocks if "manager.client()" in each]
    manager = open_manager()
    names: dict[str, Any] = {
        "manager": manager,
        "grant": authorize(blink_sandbox, manager),
        "psu": PSU,
        "accounts_url": blink_sandbox.accounts_url,
    }
    exec(block, names)
    assert names["accounts"].json()["accounts"]
