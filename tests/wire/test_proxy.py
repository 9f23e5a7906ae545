"""A proxy is used if the settings name it; one of the environment only with `trust_env`."""

from __future__ import annotations

import ssl
from base64 import b64encode

import pytest
from attrs import evolve

from blink_oauth import (
    BlinkError,
    ConnectionLostError,
    NotConnectedError,
    Outcome,
    Settings,
    Timeouts,
    TlsError,
    TlsFault,
)
from blink_oauth_testing.sandbox import Sandbox
from wire.connect_proxy import CLOSE, STALL, running_proxy
from wire.harness import Connect, exchange
from wire.loopback import listening, url_of

CREDENTIALS = "books:fake-proxy-password@"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies of the machine that runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_proxy_receives_a_connect_request_and_nothing_of_the_call(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with running_proxy() as proxy:
        caller = connect(evolve(settings, proxy=proxy.url()))
        exchange(caller, blink_sandbox, blink_sandbox.grant())
        head = proxy.heads[0].decode()
    port = settings.base_url.split(":")[2].split("/")[0]
    assert head.startswith(f"CONNECT localhost:{port} HTTP/1.1\r\n")
    assert {line.partition(":")[0].lower() for line in head.splitlines()[1:]} <= {"host", "accept"}
    assert len(blink_sandbox.exchanges) == 1


def test_the_calls_of_one_client_share_one_tunnel(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with running_proxy() as proxy:
        caller = connect(evolve(settings, proxy=proxy.url()))
        for _ in range(5):
            exchange(caller, blink_sandbox, blink_sandbox.grant())
        assert len(proxy.heads) == 1


def test_the_credentials_of_a_proxy_are_sent_to_the_proxy_only(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with running_proxy() as proxy:
        through = evolve(settings, proxy=proxy.url(CREDENTIALS))
        exchange(connect(through), blink_sandbox, blink_sandbox.grant())
        expected = b64encode(CREDENTIALS.rstrip("@").encode())
        assert b"Proxy-Authorization: Basic " + expected in proxy.heads[0]
    sent = {name.lower() for name, _ in blink_sandbox.exchanges[0].request_headers}
    assert "proxy-authorization" not in sent
    assert "fake-proxy-password" not in repr(through)


@pytest.mark.parametrize(
    "response",
    [
        "403 Forbidden",
        "407 Proxy Authentication Required",
        '502 {"access_token":"fake-access-token-9"}',
    ],
)
def test_nothing_is_sent_if_the_proxy_refuses(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings, response: str
) -> None:
    with running_proxy(response) as proxy:
        caller = connect(evolve(settings, proxy=proxy.url(CREDENTIALS)))
        with pytest.raises(BlinkError) as caught:
            exchange(caller, blink_sandbox, blink_sandbox.grant())
    error = caught.value
    assert type(error) is NotConnectedError
    assert error.outcome is Outcome.NOT_EXECUTED
    status, _, phrase = response.partition(" ")
    assert f"the proxy refused the connection (status {status})" in str(error)
    assert phrase not in str(error)
    assert "fake-" not in str(error)
    assert blink_sandbox.exchanges == ()


@pytest.mark.parametrize("response", [STALL, CLOSE], ids=["stalls", "closes the connection"])
def test_nothing_is_sent_if_the_proxy_opens_no_tunnel(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings, response: str
) -> None:
    with running_proxy(response) as proxy:
        hurried = evolve(settings, proxy=proxy.url(), timeouts=Timeouts(read=0.2))
        with pytest.raises(NotConnectedError) as caught:
            exchange(connect(hurried), blink_sandbox, blink_sandbox.grant())
        assert len(proxy.heads) == 1
    assert (caught.value.outcome, caught.value.retryable) == (Outcome.NOT_EXECUTED, True)
    assert blink_sandbox.exchanges == ()


def test_nothing_is_sent_if_an_https_proxy_closes_the_connection(
    connect: Connect,
    blink_sandbox: Sandbox,
    settings: Settings,
    https_proxy_context: ssl.SSLContext,
) -> None:
    with running_proxy(CLOSE, https_proxy_context) as proxy:
        with pytest.raises(NotConnectedError) as caught:
            exchange(
                connect(evolve(settings, proxy=proxy.url())), blink_sandbox, blink_sandbox.grant()
            )
        assert len(proxy.heads) == 1
    assert (caught.value.outcome, caught.value.retryable) == (Outcome.NOT_EXECUTED, True)


@pytest.mark.parametrize("fault", ["reset-before", "reset-after"])
def test_a_tunnel_that_breaks_after_the_request_was_sent_makes_the_outcome_uncertain(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings, fault: str
) -> None:
    with running_proxy() as proxy:
        caller = connect(evolve(settings, proxy=proxy.url()))
        for _ in range(2):  # on a new tunnel, and on a reused one
            blink_sandbox.fail(fault)
            with pytest.raises(ConnectionLostError) as caught:
                exchange(caller, blink_sandbox, blink_sandbox.grant())
            assert caught.value.outcome is Outcome.UNCERTAIN
            exchange(caller, blink_sandbox, blink_sandbox.grant())


def test_nothing_is_sent_if_the_proxy_cannot_be_reached(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with listening() as closed:
        url = url_of(closed, "http")
    with pytest.raises(NotConnectedError) as caught:
        exchange(connect(evolve(settings, proxy=url)), blink_sandbox, blink_sandbox.grant())
    assert caught.value.outcome is Outcome.NOT_EXECUTED


def test_the_handshake_is_with_the_platform_and_not_with_the_proxy(
    connect: Connect, blink_sandbox: Sandbox
) -> None:
    context = ssl.create_default_context(cadata=blink_sandbox.authority.root_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with running_proxy() as proxy:
        caller = connect(blink_sandbox.settings(certificate=context, proxy=proxy.url()))
        with pytest.raises(TlsError) as caught:
            exchange(caller, blink_sandbox, blink_sandbox.grant())
    assert caught.value.fault is TlsFault.CLIENT_CERTIFICATE_MISSING
    assert caught.value.outcome is Outcome.NOT_EXECUTED


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_in_the_environment_is_ignored_by_default(
    connect: Connect,
    blink_sandbox: Sandbox,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    with running_proxy() as proxy:
        monkeypatch.setenv(variable, proxy.url())
        exchange(connect(settings), blink_sandbox, blink_sandbox.grant())
        assert proxy.heads == []


def test_a_proxy_in_the_environment_is_used_with_trust_env(
    connect: Connect,
    blink_sandbox: Sandbox,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        caller = connect(evolve(settings, trust_env=True))
        exchange(caller, blink_sandbox, blink_sandbox.grant())
        assert len(proxy.heads) == 1

        monkeypatch.setenv("NO_PROXY", "localhost")
        caller = connect(evolve(settings, trust_env=True))
        exchange(caller, blink_sandbox, blink_sandbox.grant())
        assert len(proxy.heads) == 1


def test_a_connection_that_was_closed_while_idle_is_replaced(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with running_proxy() as proxy:
        caller = connect(evolve(settings, proxy=proxy.url()))
        exchange(caller, blink_sandbox, blink_sandbox.grant())
        proxy.end_tunnels()
        exchange(caller, blink_sandbox, blink_sandbox.grant())
        assert len(proxy.heads) == 2
