"""Fixtures of the tests over real sockets."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from blink_oauth import Settings
from blink_oauth.tls import ssl_context
from blink_oauth_testing.sandbox import Sandbox
from blink_oauth_testing.sandbox.certificates import shared_authority
from flavours import FLAVOURS, Caller, Flavour, calling
from wire.harness import Connect


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Return each flavour of the client in turn."""
    name: Flavour = request.param
    return name


@pytest.fixture
def connect(flavour: Flavour) -> Iterator[Connect]:
    """Return a function that makes clients of the flavour; close them at the end of the test."""
    with ExitStack() as stack:

        def make(settings: Settings, **options: Any) -> Caller:
            return stack.enter_context(calling(flavour, settings, **options))

        yield make


@pytest.fixture(scope="session")
def contexts() -> dict[str, ssl.SSLContext]:
    """Return a cache of TLS contexts by base URL: checking and loading a key is slow."""
    return {}


@pytest.fixture(scope="session")
def server_context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Return the TLS context of a server on loopback that demands no client certificate."""
    issued = shared_authority().issue_server()
    files = issued.save(tmp_path_factory.mktemp("server"), "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain, files.key, issued.passphrase)
    return context


@pytest.fixture(scope="session")
def client_context() -> ssl.SSLContext:
    """Return the TLS context of a client of such a server."""
    context = ssl.create_default_context(cadata=shared_authority().root_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.fixture
def https_proxy_context(
    server_context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ssl.SSLContext:
    """Return the TLS context of an https proxy, whose authority is one of the system's."""
    (tmp_path / "ca.pem").write_bytes(shared_authority().root_pem)
    paths = ssl.get_default_verify_paths()._replace(
        openssl_cafile=str(tmp_path / "ca.pem"), openssl_capath=str(tmp_path / "none")
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    return server_context


@pytest.fixture
def settings(blink_sandbox: Sandbox, contexts: dict[str, ssl.SSLContext]) -> Settings:
    """Return the settings of a client of the sandbox, with the certificate already loaded."""
    url = blink_sandbox.base_url
    if url not in contexts:
        certificate = blink_sandbox.client_certificate()
        contexts[url] = ssl_context(certificate, now=datetime.now(UTC))
    return blink_sandbox.settings(certificate=contexts[url])


@pytest.fixture
def caller(connect: Connect, settings: Settings) -> Caller:
    """Return a client of the flavour for the sandbox."""
    return connect(settings)


@pytest.fixture(autouse=True)
def every_request_conforms_to_the_contract(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which the client sent a request that violates the contract."""
    if "blink_sandbox" not in request.fixturenames:
        yield
        return
    sandbox: Sandbox = request.getfixturevalue("blink_sandbox")
    yield
    assert not [violation for seen in sandbox.exchanges for violation in seen.request_violations]
