"""Nobody who listens at DEBUG hears a secret, over real sockets and through a proxy."""

from __future__ import annotations

import logging
import ssl
import warnings
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote_plus

import pytest
from attrs import evolve

from blink_oauth import BlinkError, NotConnectedError, RevocationError, Secret, Settings
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


def through(loopback: Loopback) -> Settings:
    """Make the settings of a client that goes through a proxy on loopback; nobody is behind it."""
    return Settings(
        base_url="http://127.0.0.1:9/consent-flow/v2",
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
        proxy=Secret(f"http://user:{PROXY_PASSWORD}@127.0.0.1:{loopback.port}"),
        allow_plain_http=True,
    )


@contextmanager
def everything_heard() -> Iterator[list[tuple[str, str]]]:
    """Collect whatever is logged at DEBUG by anybody, and every warning, as texts with a place."""
    heard: list[tuple[str, str]] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append((record.name, record.getMessage()))
            heard.append((f"record of {record.name}", repr(vars(record))))
            heard.append((f"format of {record.name}", logging.Formatter().format(record)))

    root, ear = logging.getLogger(), Ear()
    level = root.level
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard
            heard += [("warning", str(warning.message)) for warning in warned]
    finally:
        root.removeHandler(ear)
        root.setLevel(level)


def make_every_call(blink: Caller) -> list[BlinkError]:
    """Make each call once and return the errors."""
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
def test_no_logger_hears_a_secret(flavour: Flavour, status: int, body: object) -> None:
    with listening() as loopback, everything_heard() as heard:
        loopback.status, loopback.body = status, body
        with connected(flavour, None, through(loopback)) as blink:
            errors = make_every_call(blink)
    assert len(errors) == (0 if status == 200 else 3)
    # The secrets did travel, and everybody talked.
    sent = "".join(loopback.bodies)
    assert all(quote_plus(secret) in sent for secret in (CODE, REFRESH_TOKEN_SENT, ACCESS_TOKEN))
    assert loopback.authorizations == [f"Basic {CREDENTIALS}"] * 4
    names = {place for place, _ in heard}
    assert {"httpcore.http11", "blink_oauth"} <= names
    places = [*heard, *(text for error in errors for text in texts_of_error(error))]
    assert found([*SECRETS, PROXY_PASSWORD, CREDENTIALS], places) == []


def test_a_log_record_of_ours_says_which_call_it_was_and_how_it_ended(connect: Connect) -> None:
    with everything_heard() as heard:
        blink = connect(Platform(reply(), reply(504, b"", {})))
        refresh(blink)
        with pytest.raises(RevocationError):
            revoke_access(blink)
    done, failed = [text for place, text in heard if place == "blink_oauth"]
    assert done.startswith("refresh target=IIDX99999 correlation_id=corr-1 outcome=done error=None")
    call = "revoke target=IIDX99999 correlation_id=corr-2"
    assert failed.startswith(f"{call} outcome=uncertain error=StatusError")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_proxy_that_refuses_its_password_does_not_bring_it_to_light(flavour: Flavour) -> None:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with listening() as loopback, everything_heard() as heard:
        settings = evolve(through(loopback), base_url="https://127.0.0.1:9", certificate=context)
        with connected(flavour, None, settings) as blink:
            errors = make_every_call(blink)
    assert [type(error) for error in errors] == [
        NotConnectedError,
        NotConnectedError,
        RevocationError,
    ]
    assert loopback.bodies == []
    assert loopback.authorizations == [f"Basic {CREDENTIALS}"] * 4
    places = [*heard, *(text for error in errors for text in texts_of_error(error))]
    assert found([*SECRETS, PROXY_PASSWORD, CREDENTIALS], places) == []
