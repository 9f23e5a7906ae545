"""A probe checks whether the platform can be reached, and spends nothing."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime

import pytest
from attrs import evolve

from blink_oauth import (
    InvalidInputError,
    NetworkFault,
    NoResponseError,
    NotConnectedError,
    Outcome,
    Settings,
    TlsError,
    TlsFault,
)
from blink_oauth_testing.sandbox import Sandbox
from flavours import Caller
from wire.harness import Connect
from wire.loopback import listening, server_that, url_of


def test_any_response_proves_that_the_connection_works(
    caller: Caller, blink_sandbox: Sandbox
) -> None:
    before = datetime.now(UTC)
    probe = caller.probe()
    assert (probe.status, before <= probe.before <= probe.after) == (405, True)
    assert probe.date is not None
    assert abs((probe.date - before).total_seconds()) < 60
    (seen,) = blink_sandbox.exchanges
    assert (seen.method, seen.executed) == ("GET", False)


def test_a_response_without_a_valid_date_is_still_a_response(connect: Connect) -> None:
    def respond(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: soon\r\n\r\n")

    with server_that(respond) as url:
        probe = connect(plain_http(url.replace("https:", "http:"))).probe()
    assert (probe.status, probe.date) == (200, None)


def plain_http(url: str) -> Settings:
    """Return the settings of a client that uses plain HTTP."""
    return Settings(
        base_url=url, client_id="CIDX1", user_agent="acme-books/3.2", allow_plain_http=True
    )


def test_a_closed_port_is_reported(connect: Connect) -> None:
    with listening() as server:
        url = url_of(server, "http")
    with pytest.raises(NotConnectedError) as caught:
        connect(plain_http(url)).probe()
    assert caught.value.network_fault is NetworkFault.CONNECTION_REFUSED
    assert caught.value.reason
    assert "Nothing was spent." in str(caught.value)


def test_an_unknown_host_is_reported(connect: Connect, settings: Settings) -> None:
    unknown = evolve(settings, base_url="https://nowhere.invalid/consent-flow/v2")
    with pytest.raises(NotConnectedError) as caught:
        connect(unknown).probe()
    assert caught.value.network_fault is NetworkFault.HOST_UNKNOWN


def test_a_server_that_closes_the_connection_is_reported_and_nothing_is_spent(
    connect: Connect,
) -> None:
    with server_that(lambda connection: None) as url, pytest.raises(NoResponseError) as caught:
        connect(plain_http(url.replace("https:", "http:"))).probe()
    assert caught.value.network_fault is NetworkFault.OTHER
    assert (caught.value.outcome, caught.value.retryable) == (Outcome.NOT_EXECUTED, True)


def test_an_untrusted_authority_of_the_server_is_reported(
    connect: Connect, settings: Settings
) -> None:
    without_authorities = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    without_authorities.minimum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(TlsError) as caught:
        connect(evolve(settings, certificate=without_authorities)).probe()
    assert caught.value.fault is TlsFault.SERVER_AUTHORITY_UNKNOWN
    assert caught.value.fault.finding in str(caught.value)
    assert caught.value.fault.remedy in str(caught.value)
    assert not caught.value.retryable


def test_a_closed_client_makes_no_probe(connect: Connect, settings: Settings) -> None:
    caller = connect(settings)
    caller.close()
    with pytest.raises(InvalidInputError, match="is closed"):
        caller.probe()


@pytest.mark.parametrize("fault", TlsFault)
def test_every_tls_fault_has_a_finding_and_a_remedy(fault: TlsFault) -> None:
    assert fault.finding[0].islower()
    assert fault.remedy[0].isupper()
    assert not fault.finding.endswith(".")
