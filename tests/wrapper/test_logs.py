"""No log record at DEBUG contains a secret, with real sockets and through a proxy."""

from __future__ import annotations

import logging
import ssl
import warnings
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote_plus

import pytest
from attrs import evolve

from blink_oauth import (
    BlinkError,
    NotConnectedError,
    RevocationError,
    Secret,
    Settings,
    StatusError,
)
from flavours import FLAVOURS, Caller, Flavour
from wrapper.harness import (
    ACCESS_TOKEN,
    CODE,
    REFRESH_TOKEN,
    REFRESH_TOKEN_SENT,
    SECRETS,
    TOKEN_BODY,
    Connect,
    Platform,
    connected,
    exchange,
    refresh,
    reply,
    revoke_access,
    revoke_pair,
)
from wrapper.leaks import found, texts_of_error
from wrapper.loopback import Loopback, listening

PROXY_PASSWORD = "fake-proxy-password"
CREDENTIALS = b64encode(f"user:{PROXY_PASSWORD}".encode()).decode()


def proxied(loopback: Loopback) -> Settings:
    """Return settings with a proxy on loopback. No server listens at the base URL."""
    return Settings(
        base_url="http://127.0.0.1:9/consent-flow/v2",
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
        proxy=Secret(f"http://user:{PROXY_PASSWORD}@127.0.0.1:{loopback.port}"),
        allow_plain_http=True,
    )


@contextmanager
def captured_logs() -> Iterator[list[tuple[str, str]]]:
    """Collect the log records of all loggers at DEBUG, and all warnings, as (place, text)."""
    texts: list[tuple[str, str]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append((record.name, record.getMessage()))
            texts.append((f"record of {record.name}", repr(vars(record))))
            texts.append((f"format of {record.name}", logging.Formatter().format(record)))

    root, collector = logging.getLogger(), Collector()
    level = root.level
    root.addHandler(collector)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield texts
            texts += [("warning", str(warning.message)) for warning in caught]
    finally:
        root.removeHandler(collector)
        root.setLevel(level)


def make_every_call(blink: Caller) -> list[BlinkError]:
    """Make each call once, and return the errors."""
    errors = []
    for call in (exchange, refresh, revoke_pair):
        try:
            call(blink)
        except BlinkError as exc:
            logging.getLogger("app").exception("failed: %s %r", exc, exc)
            errors.append(exc)
    return errors


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("status", "body"),
    [(200, TOKEN_BODY), (502, TOKEN_BODY), (400, TOKEN_BODY | {"error": REFRESH_TOKEN})],
)
def test_no_logger_gets_a_secret(flavour: Flavour, status: int, body: object) -> None:
    with listening() as loopback, captured_logs() as logged:
        loopback.status, loopback.body = status, body
        with connected(flavour, None, proxied(loopback)) as blink:
            errors = make_every_call(blink)
    assert len(errors) == (0 if status == 200 else 3)
    # The secrets were sent, and both libraries have logged.
    sent = "".join(loopback.bodies)
    assert all(quote_plus(secret) in sent for secret in (CODE, REFRESH_TOKEN_SENT, ACCESS_TOKEN))
    assert loopback.authorizations == [f"Basic {CREDENTIALS}"] * 4
    names = {place for place, _ in logged}
    assert {"httpcore.http11", "blink_oauth"} <= names
    places = [*logged, *(text for error in errors for text in texts_of_error(error))]
    assert found([*SECRETS, PROXY_PASSWORD, CREDENTIALS], places) == []


def test_a_log_record_names_the_call_and_its_outcome(connect: Connect) -> None:
    with captured_logs() as logged:
        blink = connect(Platform(reply(), reply(504, b"", {})))
        refresh(blink)
        with pytest.raises(RevocationError):
            revoke_access(blink)
    done, failed = [text for place, text in logged if place == "blink_oauth"]
    assert done.startswith("refresh target=IIDX99999 correlation_id=corr-1 outcome=done error=None")
    assert done.endswith(" oddities=")
    call = "revoke target=IIDX99999 correlation_id=corr-2"
    assert failed.startswith(f"{call} outcome=uncertain error=StatusError")


@pytest.mark.parametrize("status", [200, 500])
def test_a_log_record_names_the_oddities_of_a_pair(connect: Connect, status: int) -> None:
    with captured_logs() as logged, suppress(StatusError):
        refresh(connect(Platform(reply(status, headers={"Content-Type": "application/json"}))))
    (text,) = [text for place, text in logged if place == "blink_oauth"]
    undocumented = "" if status == 200 else ",status_undocumented"
    assert text.endswith(f" oddities=cacheable{undocumented}")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_text_contains_the_password_that_a_proxy_refuses(flavour: Flavour) -> None:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with listening() as loopback, captured_logs() as logged:
        settings = evolve(proxied(loopback), base_url="https://127.0.0.1:9", certificate=context)
        with connected(flavour, None, settings) as blink:
            errors = make_every_call(blink)
    assert [type(error) for error in errors] == [
        NotConnectedError,
        NotConnectedError,
        RevocationError,
    ]
    assert loopback.bodies == []
    assert loopback.authorizations == [f"Basic {CREDENTIALS}"] * 4
    places = [*logged, *(text for error in errors for text in texts_of_error(error))]
    assert found([*SECRETS, PROXY_PASSWORD, CREDENTIALS], places) == []
