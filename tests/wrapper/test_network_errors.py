"""Calls without a response: the error and the outcome for every error of the network."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import httpx
import pytest

from blink_oauth import (
    ConnectionLostError,
    NoResponseError,
    NotConnectedError,
    Outcome,
    RevocationError,
    TimedOutError,
    TlsError,
    TlsFault,
    TokenKind,
)
from wrapper.harness import (
    FIRST_ID,
    SECRETS,
    Call,
    Connect,
    Platform,
    exchange,
    refresh,
    reply,
    revoke_access,
)
from wrapper.leaks import found, texts_of_error

EXPECTED: dict[type[httpx.TransportError], type[NoResponseError]] = {
    httpx.ConnectError: NotConnectedError,
    httpx.ConnectTimeout: NotConnectedError,
    httpx.PoolTimeout: NotConnectedError,
    httpx.ProxyError: NotConnectedError,
    httpx.ReadTimeout: TimedOutError,
    httpx.WriteTimeout: TimedOutError,
    httpx.ReadError: ConnectionLostError,
    httpx.WriteError: ConnectionLostError,
    httpx.CloseError: ConnectionLostError,
    httpx.RemoteProtocolError: ConnectionLostError,
    httpx.LocalProtocolError: ConnectionLostError,
    httpx.UnsupportedProtocol: ConnectionLostError,
}
CLOSED = "the server closed the connection without a response"
BROKE = "the connection broke before the end of the response"
REASONS: dict[type[httpx.TransportError], str] = {
    httpx.ConnectError: "no connection was made",
    httpx.ConnectTimeout: "no connection was made in time",
    httpx.PoolTimeout: "all connections were busy for too long",
    httpx.ProxyError: "the proxy refused the connection",
    httpx.ReadTimeout: "the response did not arrive in time",
    httpx.WriteTimeout: "the request was not sent in time",
    httpx.ReadError: BROKE,
    httpx.WriteError: BROKE,
    httpx.CloseError: BROKE,
    httpx.RemoteProtocolError: CLOSED,
    httpx.LocalProtocolError: "the request is not valid HTTP",
    httpx.UnsupportedProtocol: "the scheme of the URL is not supported",
}
QUOTED = 'illegal status line: bytearray(b\'{"access_token":"fake-access-token-9"}\')'
"""The text of an exception that quotes the peer."""


def leaves(kind: type[httpx.TransportError]) -> Iterator[type[httpx.TransportError]]:
    """Yield the error classes of httpx that have no subclasses."""
    for child in kind.__subclasses__():
        yield from leaves(child)
    if not kind.__subclasses__():
        yield kind


def test_every_error_of_httpx_is_in_the_table() -> None:
    assert set(leaves(httpx.TransportError)) == EXPECTED.keys()


@pytest.mark.parametrize("message", [QUOTED, ""], ids=["quotes the peer", "empty"])
@pytest.mark.parametrize("call", [refresh, exchange])
@pytest.mark.parametrize(("raised", "kind"), EXPECTED.items())
def test_an_error_of_the_network_has_the_outcome_of_the_request(
    connect: Connect,
    call: Call,
    raised: type[httpx.TransportError],
    kind: type[NoResponseError],
    message: str,
) -> None:
    with pytest.raises(NoResponseError) as caught:
        call(connect(Platform(raised(message))))
    error = caught.value
    assert type(error) is kind
    is_unsent = kind is NotConnectedError
    assert error.outcome is (Outcome.NOT_EXECUTED if is_unsent else Outcome.UNCERTAIN)
    assert error.retryable is is_unsent
    assert (error.needs_consent, error.status, error.meta, error.token) == (False, None, None, None)
    assert error.correlation_id == FIRST_ID
    assert error.reason == REASONS[raised]
    assert f"failed: {error.reason}. " in str(error)
    assert "fake-access-token-9" not in f"{error!r} {vars(error)}"
    assert error.__cause__ is error.__context__ is None
    assert found(SECRETS, texts_of_error(error)) == []


@pytest.mark.parametrize(("raised", "kind"), EXPECTED.items())
def test_a_revocation_is_retryable_after_any_error_of_the_network(
    connect: Connect, raised: type[httpx.TransportError], kind: type[NoResponseError]
) -> None:
    with pytest.raises(RevocationError) as caught:
        revoke_access(connect(Platform(raised("it broke"))))
    error = caught.value.errors[TokenKind.ACCESS_TOKEN]
    assert type(error) is kind
    assert error.retryable
    assert caught.value.retryable
    assert caught.value.correlation_id == FIRST_ID
    assert caught.value.status is None


def test_the_status_is_known_if_the_connection_breaks_before_the_body(connect: Connect) -> None:
    response = reply(502, b"", {"X-CorAPI-Source": "PLATFORM"}, cut=httpx.ReadError("reset"))
    with pytest.raises(Exception, match="cut short after 0 bytes") as caught:
        refresh(connect(Platform(response)))
    assert getattr(caught.value, "status", None) == 502


def test_the_details_of_a_network_error_are_numbers_and_names_that_no_peer_can_choose(
    connect: Connect,
) -> None:
    refused = with_cause(httpx.ConnectError(QUOTED), ConnectionRefusedError(111, QUOTED))
    tls = ssl.SSLError(1, QUOTED)
    tls.reason = QUOTED
    details = {
        refused: f"no connection was made ({os.strerror(111)})",
        httpx.ProxyError(f"407 {QUOTED}"): "the proxy refused the connection (status 407)",
        httpx.ProxyError(f"4070 {QUOTED}"): "the proxy refused the connection",
        with_cause(httpx.ReadError(QUOTED), tls): "the TLS connection failed",
        with_cause(httpx.ReadError(QUOTED), ssl.SSLEOFError(8, QUOTED)): CLOSED,
        with_cause(httpx.ConnectError(QUOTED), UnicodeError(QUOTED)): (
            "the host name cannot be resolved"
        ),
    }
    for raised, reason in details.items():
        with pytest.raises(NoResponseError) as caught:
            refresh(connect(Platform(raised)))
        assert caught.value.reason == reason
        assert found(["fake-access-token-9"], texts_of_error(caught.value)) == []


class FailedWhileItFailedError(Exception):
    """Raised during the handling of an error that quotes the peer."""


def test_no_other_exception_has_an_error_of_the_http_library_in_its_chain(
    connect: Connect,
) -> None:
    raised = FailedWhileItFailedError()
    raised.__context__ = httpx.RemoteProtocolError(QUOTED)
    with pytest.raises(FailedWhileItFailedError) as caught:
        refresh(connect(Platform(raised)))
    assert found([*SECRETS, "fake-access-token-9"], texts_of_error(caught.value)) == []


def verification(code: int) -> ssl.SSLCertVerificationError:
    """Return OpenSSL's error for a server certificate that cannot be verified."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    return error


def alert(reason: str) -> ssl.SSLError:
    """Return OpenSSL's error for an alert from the server."""
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()}")
    error.reason = reason
    return error


FAULTS: list[tuple[ssl.SSLError, TlsFault]] = [
    (verification(9), TlsFault.SERVER_CERTIFICATE_NOT_YET_VALID),
    (verification(10), TlsFault.SERVER_CERTIFICATE_EXPIRED),
    (verification(18), TlsFault.SERVER_AUTHORITY_UNKNOWN),
    (verification(19), TlsFault.SERVER_AUTHORITY_UNKNOWN),
    (verification(20), TlsFault.SERVER_AUTHORITY_UNKNOWN),
    (verification(21), TlsFault.SERVER_AUTHORITY_UNKNOWN),
    (verification(62), TlsFault.SERVER_NAME_MISMATCH),
    (verification(64), TlsFault.SERVER_NAME_MISMATCH),
    (verification(26), TlsFault.SERVER_CERTIFICATE_INVALID),
    (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), TlsFault.CLIENT_CERTIFICATE_MISSING),
    (alert("TLSV1_ALERT_UNKNOWN_CA"), TlsFault.CLIENT_CERTIFICATE_REFUSED),
    (alert("SSLV3_ALERT_BAD_CERTIFICATE"), TlsFault.CLIENT_CERTIFICATE_REFUSED),
    (alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), TlsFault.CLIENT_CERTIFICATE_REFUSED),
    (alert("TLSV1_ALERT_ACCESS_DENIED"), TlsFault.CLIENT_CERTIFICATE_REFUSED),
]


def with_cause(outer: Exception, cause: Exception) -> Exception:
    """Return an exception with another one as its cause, as httpx raises it."""
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize("outer", [httpx.ConnectError, httpx.ReadError])
@pytest.mark.parametrize(("cause", "fault"), FAULTS)
def test_a_refused_certificate_is_a_tls_error_while_connecting_and_while_reading(
    connect: Connect, outer: type[httpx.TransportError], cause: ssl.SSLError, fault: TlsFault
) -> None:
    with pytest.raises(TlsError) as caught:
        refresh(connect(Platform(with_cause(outer(str(cause)), cause))))
    assert caught.value.fault is fault
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert not caught.value.retryable
    assert caught.value.correlation_id == FIRST_ID


def test_a_handshake_that_fails_for_another_reason_is_a_tls_error(connect: Connect) -> None:
    broken = with_cause(httpx.ConnectError("ssl"), alert("WRONG_VERSION_NUMBER"))
    with pytest.raises(TlsError) as caught:
        refresh(connect(Platform(broken)))
    assert caught.value.fault is TlsFault.HANDSHAKE_FAILED


def test_a_tls_failure_after_the_request_was_sent_has_an_uncertain_outcome(
    connect: Connect,
) -> None:
    broken = with_cause(httpx.ReadError("ssl"), alert("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"))
    with pytest.raises(ConnectionLostError) as caught:
        refresh(connect(Platform(broken)))
    assert caught.value.outcome is Outcome.UNCERTAIN
