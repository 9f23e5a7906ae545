"""Settings that would expose a token on the network make no client."""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from blink_oauth import Grant, InvalidInputError, NotConnectedError, Outcome, Settings, StatusError
from blink_oauth_testing.sandbox import Sandbox
from flavours import Flavour, calling
from wire.connect_proxy import running_proxy
from wire.harness import Connect, exchange

URL = "https://platform.invalid/consent-flow/v2"


def without_verification() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def without_host_name_check() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


def with_optional_verification() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def from_tls_1_1() -> ssl.SSLContext:
    context = ssl.create_default_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    return context


def from_any_version() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return context


def with_key_log() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.keylog_filename = os.devnull
    return context


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (with_key_log, "session keys"),
        (without_verification, "verify the server"),
        (without_host_name_check, "verify the server"),
        (with_optional_verification, "verify the server"),
        (from_tls_1_1, "less than TLS 1.2"),
        (from_any_version, "less than TLS 1.2"),
    ],
)
def test_a_context_that_verifies_less_than_the_default_is_refused(
    flavour: Flavour, make: Callable[[], ssl.SSLContext], words: str
) -> None:
    settings = Settings(
        base_url=URL, client_id="CIDX0000000002", user_agent="acme-books/3.2", certificate=make()
    )
    with pytest.raises(InvalidInputError, match=words) as caught, calling(flavour, settings):
        pass
    assert caught.value.outcome is Outcome.NOT_EXECUTED


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:8080/consent-flow/v2", False),
        ("http://platform.example/consent-flow/v2", True),
        ("http://192.0.2.1/consent-flow/v2", True),
        ("http://localhost.example/consent-flow/v2", True),
        ("http://127.0.0.1.example/consent-flow/v2", True),
        ("http://0.0.0.0/consent-flow/v2", True),
        ("ftp://localhost/consent-flow/v2", True),
    ],
)
def test_plain_http_is_refused_except_to_loopback_when_allowed(url: str, allowed: bool) -> None:
    with pytest.raises(InvalidInputError, match="https"):
        Settings(
            base_url=url,
            client_id="CIDX0000000002",
            user_agent="acme-books/3.2",
            allow_plain_http=allowed,
        )


def test_plain_http_to_loopback_works_when_allowed(
    connect: Connect, blink_sandbox: Sandbox
) -> None:
    # The sandbox has no token endpoint on its plain port. The 404 proves that it was reached.
    settings = Settings(
        base_url=f"{blink_sandbox.control_url}/consent-flow/v2",
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
        allow_plain_http=True,
    )
    with pytest.raises(StatusError) as caught:
        exchange(connect(settings), blink_sandbox, blink_sandbox.grant())
    assert caught.value.status == 404
    assert blink_sandbox.exchanges == ()


def test_sslkeylogfile_is_ignored(
    connect: Connect,
    blink_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(written))
    exchange(connect(blink_sandbox.settings()), blink_sandbox, blink_sandbox.grant())
    assert not written.exists()


def test_sslkeylogfile_is_ignored_on_the_way_to_an_https_proxy(
    connect: Connect,
    blink_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    https_proxy_context: ssl.SSLContext,
) -> None:
    written = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(written))
    with running_proxy(context=https_proxy_context) as proxy:
        caller = connect(blink_sandbox.settings(proxy=proxy.url()))
        exchange(caller, blink_sandbox, blink_sandbox.grant())
        assert len(proxy.heads) == 1
    assert not written.exists()


@pytest.mark.parametrize("host", ["xn--", "a..b", "a" * 64 + ".ch"])
def test_an_impossible_host_is_refused_before_anything_is_sent(
    flavour: Flavour, settings: Settings, host: str
) -> None:
    impossible = evolve(settings, base_url=f"https://{host}/consent-flow/v2")
    with pytest.raises(InvalidInputError, match="invalid host name"), calling(flavour, impossible):
        pass


def test_an_unknown_host_is_not_connected(connect: Connect, settings: Settings) -> None:
    # RFC 6761 reserves `.invalid`; the tests resolve no other host than loopback either.
    caller = connect(evolve(settings, base_url="https://platform.invalid/consent-flow/v2"))
    with pytest.raises(NotConnectedError) as caught:
        caller.refresh(Grant("IIDX00001", "u-4711"), "fake-refresh-token")
    assert (caught.value.outcome, caught.value.retryable) == (Outcome.NOT_EXECUTED, True)
