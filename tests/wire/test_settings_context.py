"""`Settings.ssl_context`: the TLS context of the client, for an HTTP client of one's own."""

from __future__ import annotations

import http.client
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attrs import evolve

from blink_oauth import CertificateError, InvalidInputError, Settings
from blink_oauth.context import request_headers
from blink_oauth_testing.sandbox import Sandbox
from wire.harness import CUSTOMER


def status_with(context: ssl.SSLContext, url: str, headers: dict[str, str]) -> int:
    """Return the status of a request of the standard library's client."""
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(parts.netloc, context=context, timeout=10)
    try:
        connection.request("GET", parts.path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_context_has_the_client_certificate_and_the_authorities(
    blink_sandbox: Sandbox,
) -> None:
    context, grant = blink_sandbox.settings().ssl_context(), blink_sandbox.grant()
    headers = request_headers(grant, CUSTOMER, user_agent="acme-books/3.2", correlation_id="corr-1")
    headers["Authorization"] = "Bearer fake-token"
    # The platform knows the client by its certificate, and refuses the token.
    assert status_with(context, blink_sandbox.accounts_url, headers) == 401
    assert blink_sandbox.exchanges[-1].client_id == "CIDX0000000002"


def test_each_call_reads_the_files_and_returns_a_new_context(
    blink_sandbox: Sandbox, tmp_path: Path
) -> None:
    certificate = blink_sandbox.client_certificate()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(certificate.chain.read_bytes())
    settings = blink_sandbox.settings(certificate=evolve(certificate, chain=chain))
    first = settings.ssl_context()
    assert settings.ssl_context() is not first
    # A change of one context by an HTTP library does not reach another.
    first.check_hostname = False
    assert settings.ssl_context().check_hostname
    chain.write_text("no certificate")
    with pytest.raises(CertificateError, match="holds no PEM certificate"):
        settings.ssl_context()


def test_an_expired_certificate_is_refused_by_the_time_that_is_given(
    blink_sandbox: Sandbox,
) -> None:
    settings, now = blink_sandbox.settings(), datetime.now(UTC)
    assert settings.ssl_context(now=now)
    with pytest.raises(CertificateError) as caught:
        settings.ssl_context(now=now + timedelta(days=10_000))
    assert caught.value.rules


def test_a_given_context_is_returned_itself(
    settings: Settings, client_context: ssl.SSLContext
) -> None:
    assert evolve(settings, certificate=client_context).ssl_context() is client_context


def test_a_given_context_that_does_not_verify_is_refused(settings: Settings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with pytest.raises(InvalidInputError, match="must verify the server"):
        evolve(settings, certificate=context).ssl_context()


@pytest.mark.parametrize("url", ["https://blink.invalid/v2", "http://localhost/v2"])
def test_without_a_certificate_there_is_no_context(settings: Settings, url: str) -> None:
    bare = evolve(settings, base_url=url, certificate=None, allow_plain_http=True)
    with pytest.raises(InvalidInputError, match=r"Settings\.certificate is not set"):
        bare.ssl_context()
