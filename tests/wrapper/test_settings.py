"""Settings refuse invalid values, and an error names the argument or variable."""

from __future__ import annotations

import math
import os
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from blink_oauth import (
    BlinkOAuth,
    ClientCertificate,
    InvalidInputError,
    Outcome,
    Secret,
    Settings,
    Timeouts,
)
from wrapper.harness import SETTINGS
from wrapper.leaks import found, texts_of_error

PASSPHRASE = " fake-passphrase ä+%2B "
PROXY = "http://user:fake-proxy-password@proxy.invalid:3128"
SECRETS = (PASSPHRASE, "fake-proxy-password")
REQUIRED = {
    "BLINK_BASE_URL": "https://blink.invalid/consent-flow/v2",
    "BLINK_CLIENT_ID": "CIDX0000000002",
    "BLINK_USER_AGENT": "acme-books/3.2",
}


def settings(**values: Any) -> Settings:
    """Return valid settings, except for the given values."""
    valid = {"base_url": "https://blink.invalid/v2", "client_id": "C", "user_agent": "a/1"}
    return Settings(**valid | values)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "blink.invalid/v2",
        "//blink.invalid/v2",
        "ftp://blink.invalid",
        "https://",
        "https:///v2",
        "https://user@blink.invalid",
        "https://user:fake@blink.invalid",
        "https://blink.invalid?a=1",
        "https://blink.invalid/#v2",
        "https://blink.invalid/\nv2",
        "https://blünk.invalid",
        "https://[blink.invalid",
        "https://[::1",
        "https://blink.invalid:port",
        None,
        b"https://x",
        "https://blink.invalid:99999",
    ],
)
def test_a_base_url_that_is_no_plain_https_url_is_refused(url: object) -> None:
    with pytest.raises(InvalidInputError, match=r"Settings\.base_url"):
        settings(base_url=url)


@pytest.mark.parametrize(
    "url",
    [
        "https://blink.invalid",
        "https://blink.invalid:8443/a/v2",
        "HTTPS://blink.invalid/v2",
        "https://[2001:db8::1]:8443/v2",
        "https://203.0.113.7/v2",
    ],
)
def test_a_plain_https_url_is_a_base_url(url: str) -> None:
    assert settings(base_url=url + "/").base_url == url


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_plain_http_to_this_machine_must_be_allowed(host: str) -> None:
    url = f"http://{host}:8080/v2"
    assert settings(base_url=url, allow_plain_http=True).base_url == url
    with pytest.raises(InvalidInputError, match="allow_plain_http=True"):
        settings(base_url=url)


@pytest.mark.parametrize(
    "host", ["blink.invalid", "203.0.113.7", "10.0.0.1", "0.0.0.0", "localhost.blink.invalid"]
)
def test_plain_http_to_another_machine_is_refused_even_if_allowed(host: str) -> None:
    with pytest.raises(InvalidInputError, match="https://"):
        settings(base_url=f"http://{host}/v2", allow_plain_http=True)


@pytest.mark.parametrize("name", ["client_id", "user_agent"])
@pytest.mark.parametrize("value", ["", "a\r\nX: 1", "ä", " a", None, 7])
def test_the_client_id_and_user_agent_must_be_valid_in_a_header(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"Settings\.{name}"):
        settings(**{name: value})


@pytest.mark.parametrize("name", ["connect", "read", "write", "pool", "total"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, None, "5", True])
def test_no_timeout_can_be_switched_off(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"Timeouts\.{name}.*seconds"):
        Timeouts(**{name: value})  # type: ignore[arg-type]


def test_every_timeout_has_a_default_below_the_lifetime_of_a_code() -> None:
    defaults = Timeouts()
    values = [defaults.connect, defaults.read, defaults.write, defaults.pool, defaults.total]
    assert all(0 < value < 30 for value in values)
    assert defaults.total == max(values)


@pytest.mark.parametrize(
    "proxy", ["proxy.invalid:3128", "socks5://u:fake-proxy-password@x", "http://[x", ""]
)
def test_a_proxy_must_be_an_http_url(proxy: str) -> None:
    with pytest.raises(InvalidInputError, match="proxy") as caught:
        settings(proxy=proxy)
    assert "fake-proxy-password" not in str(caught.value)


def test_a_proxy_url_is_a_secret_because_it_may_contain_a_password() -> None:
    assert settings(proxy=PROXY).proxy == Secret(PROXY)
    assert "fake" not in repr(settings(proxy=PROXY))


@pytest.mark.parametrize("certificate", ["client.pem", ("client.pem", "client.key"), True])
def test_a_certificate_of_another_type_is_refused(certificate: object) -> None:
    with pytest.raises(InvalidInputError, match="ClientCertificate or SSLContext"):
        settings(certificate=certificate)


@pytest.mark.parametrize("certificate", [None, ClientCertificate("client.pem")])
def test_none_and_a_client_certificate_are_accepted(
    certificate: ClientCertificate | None,
) -> None:
    assert settings(certificate=certificate).certificate is certificate


def test_a_given_ssl_context_is_used_unchanged() -> None:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert settings(certificate=context).certificate is context


def test_https_without_a_certificate_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidInputError, match=r"mutual TLS\. Nothing was sent") as caught:
        BlinkOAuth(SETTINGS)
    assert caught.value.outcome is Outcome.NOT_EXECUTED


def test_the_three_required_variables_are_enough() -> None:
    assert Settings.from_env(REQUIRED) == Settings(
        base_url="https://blink.invalid/consent-flow/v2",
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
    )


def test_every_variable_is_read() -> None:
    variables = REQUIRED | {
        "BLINK_CERTIFICATE": "/etc/blink/client.pem",
        "BLINK_KEY": "/etc/blink/client.key",
        "BLINK_KEY_PASSPHRASE": PASSPHRASE,
        "BLINK_CA": "/etc/blink/ca.pem",
        "BLINK_TIMEOUT_CONNECT": "1",
        "BLINK_TIMEOUT_READ": "2.5",
        "BLINK_TIMEOUT_WRITE": "3",
        "BLINK_TIMEOUT_POOL": "4",
        "BLINK_TIMEOUT_TOTAL": "25",
        "BLINK_PROXY": PROXY,
        "BLINK_TRUST_ENV": "yes",
        "BLINK_ALLOW_PLAIN_HTTP": "1",
        "BLINK_UNKNOWN": "x",
    }
    assert Settings.from_env(variables) == Settings(
        base_url="https://blink.invalid/consent-flow/v2",
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
        certificate=ClientCertificate(
            chain="/etc/blink/client.pem",
            key="/etc/blink/client.key",
            passphrase=PASSPHRASE,
            ca="/etc/blink/ca.pem",
        ),
        timeouts=Timeouts(connect=1, read=2.5, write=3, pool=4, total=25),
        proxy=PROXY,
        trust_env=True,
        allow_plain_http=True,
    )


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BLINK_")]:
        monkeypatch.delenv(name)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == Settings.from_env(REQUIRED)


def test_empty_variables_count_as_not_set() -> None:
    optional = ["CERTIFICATE", "KEY", "KEY_PASSPHRASE", "KEY_PASSPHRASE_FILE", "CA", "PROXY"]
    optional += ["TRUST_ENV", "ALLOW_PLAIN_HTTP", "TIMEOUT_READ", "TIMEOUT_TOTAL"]
    empty = {f"BLINK_{name}": "" for name in optional}
    assert Settings.from_env(REQUIRED | empty) == Settings.from_env(REQUIRED)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("1", True),
        ("true", True),
        ("YES", True),
        ("On", True),
        ("0", False),
        ("False", False),
        ("no", False),
        ("off", False),
        ("", False),
    ],
)
def test_a_flag_accepts_these_texts(text: str, flag: bool) -> None:
    assert Settings.from_env(REQUIRED | {"BLINK_TRUST_ENV": text}).trust_env is flag


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"BLINK_BASE_URL": ""}, "BLINK_BASE_URL"),
        ({"BLINK_CLIENT_ID": ""}, "BLINK_CLIENT_ID"),
        ({"BLINK_USER_AGENT": ""}, "BLINK_USER_AGENT"),
        ({"BLINK_TIMEOUT_READ": "5s"}, "BLINK_TIMEOUT_READ"),
        ({"BLINK_TRUST_ENV": "maybe"}, "BLINK_TRUST_ENV"),
        ({"BLINK_ALLOW_PLAIN_HTTP": "2"}, "BLINK_ALLOW_PLAIN_HTTP"),
        ({"BLINK_CERTIFICATE": "c", "BLINK_KEY_PASSPHRASE": "\udcff"}, "BLINK_KEY_PASSPHRASE"),
        ({"BLINK_PROXY": "http://u:fake\udcff@x"}, "BLINK_PROXY"),
        ({"BLINK_CERTIFICATE": "c", "BLINK_KEY_PASSPHRASE_FILE": "/nowhere/x"}, "/nowhere/x"),
        (
            {"BLINK_CERTIFICATE": "c", "BLINK_KEY_PASSPHRASE_FILE": "f"},
            "BLINK_KEY_PASSPHRASE_FILE",
        ),
        # An error of Settings names the argument.
        ({"BLINK_BASE_URL": "http://blink.invalid"}, r"Settings\.base_url"),
        ({"BLINK_CLIENT_ID": "ä"}, r"Settings\.client_id"),
        ({"BLINK_TIMEOUT_READ": "-1"}, r"Timeouts\.read"),
        ({"BLINK_PROXY": "socks5://u:fake-proxy-password@x"}, r"Settings\.proxy"),
    ],
)
def test_the_refusal_of_a_variable_names_it_and_contains_no_secret(
    variables: dict[str, str], named: str
) -> None:
    secret = {"BLINK_CERTIFICATE": "c", "BLINK_KEY_PASSPHRASE": PASSPHRASE, "BLINK_PROXY": PROXY}
    if "BLINK_KEY_PASSPHRASE_FILE" in variables and "/nowhere/x" in variables.values():
        del secret["BLINK_KEY_PASSPHRASE"]
    with pytest.raises(InvalidInputError, match=named) as caught:
        Settings.from_env(REQUIRED | secret | variables)
    assert found(SECRETS, texts_of_error(caught.value)) == []


@pytest.mark.parametrize("text", [PASSPHRASE, f"{PASSPHRASE}\n", f"{PASSPHRASE}\r\n"])
def test_the_passphrase_may_be_in_a_file_with_or_without_a_line_end(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(text.encode())
    variables = {"BLINK_CERTIFICATE": "c.pem", "BLINK_KEY_PASSPHRASE_FILE": str(file)}
    certificate = Settings.from_env(REQUIRED | variables).certificate
    assert certificate == ClientCertificate(chain="c.pem", passphrase=PASSPHRASE)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_passphrase_file_without_a_passphrase_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(content)
    variables = {"BLINK_CERTIFICATE": "c.pem", "BLINK_KEY_PASSPHRASE_FILE": str(file)}
    with pytest.raises(InvalidInputError, match="BLINK_KEY_PASSPHRASE_FILE"):
        Settings.from_env(REQUIRED | variables)


def test_the_repr_of_settings_shows_the_values_that_are_not_secret() -> None:
    certificate = ClientCertificate(chain="c.pem", passphrase=PASSPHRASE)
    value = settings(certificate=certificate, proxy=PROXY)
    assert value == settings(certificate=certificate, proxy=PROXY)
    assert "https://blink.invalid/v2" in repr(value)
    assert "c.pem" in repr(value)
    with BlinkOAuth(value, transport=httpx.MockTransport(lambda _: httpx.Response(200))) as blink:
        assert repr(blink) == f"BlinkOAuth({value!r})"


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "10"])
def test_a_number_of_connections_that_is_not_a_positive_integer_is_refused(number: object) -> None:
    with pytest.raises(InvalidInputError, match="max_connections"):
        settings(max_connections=number)


@pytest.mark.parametrize("timeouts", [None, 5, 5.0])
def test_timeouts_of_another_type_are_refused(timeouts: object) -> None:
    with pytest.raises(InvalidInputError, match="timeouts"):
        settings(timeouts=timeouts)
