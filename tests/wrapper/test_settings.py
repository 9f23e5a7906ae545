"""Settings refuse invalid values, and an error names the argument or variable."""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from blink_oauth import (
    BlinkOAuth,
    ClientCertificate,
    InvalidInputError,
    NotConnectedError,
    Outcome,
    Secret,
    Settings,
    Timeouts,
    check_certificate,
)
from blink_oauth.settings import REVOCATION_FIELDS
from blink_oauth_testing.sandbox.certificates import shared_authority
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
        # Passwords that are not escaped.
        "https://user:fake#fake@blink.invalid",
        "https://user:fake?fake@blink.invalid",
        "https://user:fake\\@blink.invalid",
        "https://user:1/fake@blink.invalid",
    ],
)
def test_a_base_url_that_is_no_plain_https_url_is_refused(url: object) -> None:
    with pytest.raises(InvalidInputError, match=r"Settings\.base_url \(BLINK_BASE_URL\)") as caught:
        settings(base_url=url)
    assert "fake" not in str(caught.value)


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
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, None, "5", True, 1e10])
def test_no_timeout_can_be_switched_off(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"Timeouts\.{name}.*seconds"):
        Timeouts(**{name: value})  # type: ignore[arg-type]


def test_every_timeout_has_a_default_below_the_lifetime_of_a_code() -> None:
    defaults = Timeouts()
    values = [defaults.connect, defaults.read, defaults.write, defaults.pool, defaults.total]
    assert all(0 < value < 30 for value in values)
    assert defaults.total == max(values)


@pytest.mark.parametrize("proxy", ["socks5://u:fake-proxy-password@x", "http://[x", ""])
def test_a_proxy_must_be_an_http_url(proxy: str) -> None:
    with pytest.raises(InvalidInputError, match="proxy") as caught:
        settings(proxy=proxy)
    assert "fake-proxy-password" not in str(caught.value)


PROXIES: dict[str, tuple[bytes, bytes, int | None]] = {
    "http://proxy.invalid:3128": (b"http", b"proxy.invalid", 3128),
    "HTTPS://proxy.invalid": (b"https", b"proxy.invalid", None),
    # curl and requests take a proxy without a scheme.
    "proxy.invalid:3128": (b"http", b"proxy.invalid", 3128),
    "user:fake%40%23@proxy_1:8080/": (b"http", b"proxy_1", 8080),
    "user@[2001:db8::1]:3128": (b"http", b"2001:db8::1", 3128),
}


@pytest.fixture
def no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies of the machine that runs the tests."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[httpcore.URL | bytes | str, object]]:
    """Return a list that gets the address and the credentials of each proxy that is used."""
    used: list[tuple[httpcore.URL | bytes | str, object]] = []

    class HttpProxy(httpcore.HTTPProxy):
        def __init__(self, *, proxy_url: httpcore.URL, proxy_auth: object, **_: Any) -> None:
            used.append((proxy_url, proxy_auth))
            raise httpcore.ConnectError

    monkeypatch.setattr(httpcore, "HTTPProxy", HttpProxy)
    return used


def call_with(**values: Any) -> None:
    """Try a call of a client with these settings; it is not connected."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with (
        pytest.raises(NotConnectedError),
        BlinkOAuth(settings(certificate=context, **values)) as blink,
    ):
        blink.probe()


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("variable", [None, "HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.usefixtures("no_proxy_variables")
def test_a_proxy_is_used_as_curl_and_requests_use_it(
    addresses: list[tuple[httpcore.URL, object]],
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
    variable: str | None,
) -> None:
    if variable is None:
        call_with(proxy=proxy)
    else:
        monkeypatch.setenv(variable, f"{proxy}\n")
        call_with(trust_env=True)
    ((url, credentials),) = addresses
    assert (url.scheme, url.host, url.port) == PROXIES[proxy]
    assert credentials == (
        (b"user", b"fake@#") if "fake" in proxy else (b"user", b"") if "@" in proxy else None
    )


MALFORMED = [
    "http://user:{}#wort@proxy.invalid:3128",
    "http://user:fake@{}@proxy.invalid",
    "http://user:1/{}@proxy.invalid",
    "http://user:1?{}@proxy.invalid",
    "http://user:{}",
    "http://user:{}\\@proxy.invalid",
    "http://user:%{}%@proxy.invalid",
    "http://user:{} @proxy.invalid",
    "http://user:{}ä@proxy.invalid",
    "http://user:{}@",
    "http://user:{}@proxy.invalid:99999",
    "http://user:{}@proxy.invalid:",
    "http://user:{}@[proxy.invalid",
    "http://user:{}@[:::1]:3128",
    "http://user:{}@proxy..invalid",
    "http://user:{}@proxy.invalid/path",
    " http://user:{}@proxy.invalid",
    "http://user:{}\n@proxy.invalid",
    "user:{}#wort@proxy.invalid:3128",
    "user:{}://@proxy.invalid",
    "socks5h://user:{}@proxy.invalid:1080",
    "SOCKS4://user:{}@proxy.invalid:1080",
    "ftp://user:{}@proxy.invalid",
    "{}://proxy.invalid",
    "http://",
    "http://:3128",
    " ",
]


@pytest.mark.parametrize("form", MALFORMED)
@pytest.mark.usefixtures("no_proxy_variables")
def test_a_proxy_that_cannot_be_used_is_refused_and_no_part_of_it_is_repeated(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    canary = "geheim"
    url = form.format(canary)
    scheme = url.partition("://")[0].lower()
    served = "not served" if scheme in {"socks5h", "socks4", "ftp"} else "host:port"
    makers: dict[str, Callable[[], object]] = {
        "Settings.proxy": lambda: settings(proxy=Secret(url)),
        "BLINK_PROXY": lambda: Settings.from_env(REQUIRED | {"BLINK_PROXY": url}),
        "https_proxy": lambda: settings(trust_env=True),
        "HTTPS_PROXY": lambda: Settings.from_env(REQUIRED | {"BLINK_TRUST_ENV": "1"}),
    }
    for named, make in makers.items():
        if named.lower() == "https_proxy":
            monkeypatch.setenv(named, url)
        with pytest.raises(InvalidInputError, match=named) as caught:
            make()
        assert served in str(caught.value)
        assert found([canary], texts_of_error(caught.value)) == []
        monkeypatch.delenv(named, raising=False)


@pytest.mark.usefixtures("no_proxy_variables")
def test_a_proxy_of_the_environment_is_checked_again_when_the_client_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = settings(trust_env=True, certificate=ssl.create_default_context())
    monkeypatch.setenv("https_proxy", "socks5://user:geheim@proxy.invalid")
    with pytest.raises(InvalidInputError, match="https_proxy") as caught:
        BlinkOAuth(made)
    assert found(["geheim"], texts_of_error(caught.value)) == []


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "socks5://proxy.invalid", "HTTPS_PROXY": "proxy.invalid:3128"},
        {"HTTP_PROXY": "socks5://proxy.invalid"},
        {"HTTPS_PROXY": "socks5://proxy.invalid", "NO_PROXY": "blink.invalid"},
        {"HTTPS_PROXY": "socks5://proxy.invalid", "https_proxy": ""},
        {"HTTPS_PROXY": "\r\n"},
    ],
)
@pytest.mark.usefixtures("no_proxy_variables")
def test_a_variable_that_is_not_used_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings(trust_env=True).trust_env


@pytest.mark.parametrize(
    ("no_proxy", "host", "excluded"),
    [
        ("blink.invalid", "blink.invalid", True),
        ("blink.invalid", "BLINK.invalid:443", True),
        ("blink.invalid:443", "blink.invalid", True),
        ("blink.invalid:443", "blink.invalid:8443", False),
        ("blink.invalid:8443", "blink.invalid:8443", True),
        (".invalid:8443", "blink.invalid:8443", True),
        ("*.invalid", "blink.invalid", True),
        (".invalid", "blink.invalid", True),
        ("Invalid.", "blink.invalid", True),
        ("link.invalid", "blink.invalid", False),
        ("api.blink.invalid", "blink.invalid", False),
        ("other, blink.invalid\n", "blink.invalid", True),
        ("other blink.invalid", "blink.invalid", True),
        ("*", "blink.invalid", True),
        (" * ", "203.0.113.7", True),
        ("", "blink.invalid", False),
        (",.,:,:443,[", "blink.invalid", False),
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7:8443", "203.0.113.7:8443", True),
        ("203.0.113.7:8443", "203.0.113.7", False),
        ("203.0.113.0/24", "203.0.113.7", True),
        ("203.0.113.0/24:8443", "203.0.113.7", False),
        ("203.0.112.0/24", "203.0.113.7", False),
        ("113.7", "203.0.113.7", False),
        ("::1", "[::1]", True),
        ("[::1]", "[::1]:8443", True),
        ("[::1]:8443", "[::1]:8443", True),
        ("[::1]:8443", "[::1]", False),
        ("0:0:0:0:0:0:0:1", "[::1]", True),
        ("fd00::/8", "[fd12::1]:8443", True),
        ("::2", "[::1]", False),
    ],
)
@pytest.mark.usefixtures("no_proxy_variables")
def test_no_proxy_excludes_hosts_as_curl_and_requests_do(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, excluded: bool
) -> None:
    # A proxy that is used is refused.
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.invalid")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    refusal = nullcontext() if excluded else pytest.raises(InvalidInputError, match="HTTPS_PROXY")
    with refusal:
        settings(base_url=f"https://{host}/v2", trust_env=True)


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
        "BLINK_ACCEPT_FOREIGN_CORRELATION_ID": "1",
        "BLINK_REVOCATION_FIELDS": "client_id, token_type_hint",
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
        accept_foreign_correlation_id=True,
        revocation_fields=("token_type_hint", "client_id"),
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
    optional += ["ACCEPT_FOREIGN_CORRELATION_ID", "REVOCATION_FIELDS"]
    empty = {f"BLINK_{name}": "" for name in optional}
    assert Settings.from_env(REQUIRED | empty) == Settings.from_env(REQUIRED)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (None, REVOCATION_FIELDS),
        ("", REVOCATION_FIELDS),
        ("\n", REVOCATION_FIELDS),
        ("none", ()),
        (" none \n", ()),
        ("username", ("username",)),
        ("username,client_id", ("client_id", "username")),
        (" username ,\ttoken_type_hint\n", ("token_type_hint", "username")),
        ("username,username", ("username",)),
    ],
)
def test_the_variable_of_the_revocation_fields_is_a_list_or_the_word_none(
    text: str | None, fields: tuple[str, ...]
) -> None:
    variables = {} if text is None else {"BLINK_REVOCATION_FIELDS": text}
    assert Settings.from_env(REQUIRED | variables).revocation_fields == fields


@pytest.mark.parametrize("fields", [["username", "client_id"], {"client_id", "username"}])
def test_revocation_fields_are_kept_in_the_order_of_the_contract(fields: Any) -> None:
    changed = settings(revocation_fields=fields)
    assert changed.revocation_fields == ("client_id", "username")
    assert changed == settings(revocation_fields=("client_id", "username", "client_id"))
    assert changed != settings()
    assert "revocation_fields=('client_id', 'username')" in repr(changed)
    assert evolve(changed, revocation_fields=[]).revocation_fields == ()
    assert evolve(changed, user_agent="b/2").revocation_fields == changed.revocation_fields
    with pytest.raises(FrozenInstanceError):
        changed.revocation_fields = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    "fields",
    [
        ["token"],
        ["user"],
        ["Username"],
        ["username", ""],
        ["none"],
        "none",
        "username",
        "",
        None,
        7,
        b"username",
        [None],
    ],
)
def test_other_revocation_fields_are_refused_and_the_known_ones_listed(fields: Any) -> None:
    names = "token_type_hint, client_id, username"
    with pytest.raises(InvalidInputError, match=rf"BLINK_REVOCATION_FIELDS\) may .* {names}"):
        settings(revocation_fields=fields)


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
        ({"BLINK_TIMEOUT_READ": "nan"}, "BLINK_TIMEOUT_READ"),
        ({"BLINK_TIMEOUT_TOTAL": "1e10"}, "BLINK_TIMEOUT_TOTAL"),
        ({"BLINK_USER_AGENT": "acme\n/1"}, "BLINK_USER_AGENT"),
        ({"BLINK_CERTIFICATE": "c\0"}, "BLINK_CERTIFICATE"),
        ({"BLINK_PROXY": "socks5://u:fake-proxy-password@x"}, r"Settings\.proxy"),
        ({"BLINK_REVOCATION_FIELDS": "username;client_id"}, r"Settings\.revocation_fields"),
        *[
            ({"BLINK_REVOCATION_FIELDS": fields}, "without any, the variable is none")
            for fields in ("username,none", "None", "username,", ",", " ")
        ],
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


def require_key_opens(folder: Path, variables: dict[str, str]) -> None:
    """Require that the variables open a key that is encrypted with `PASSPHRASE`."""
    authority = shared_authority()
    files = evolve(authority.issue_client("c"), passphrase=PASSPHRASE).save(folder, "client")
    (folder / "ca.pem").write_bytes(authority.root_pem)
    certificate = Settings.from_env(
        REQUIRED
        | {"BLINK_CERTIFICATE": str(files.chain), "BLINK_KEY": str(files.key)}
        | {"BLINK_CA": str(folder / "ca.pem")}
        | variables
    ).certificate
    assert isinstance(certificate, ClientCertificate)
    assert check_certificate(certificate, now=datetime.now(UTC)).findings == ()


@pytest.mark.parametrize("text", [PASSPHRASE, f"{PASSPHRASE}\n", f"{PASSPHRASE}\r\n"])
def test_the_passphrase_may_be_in_a_file_with_or_without_a_line_end(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(text.encode())
    require_key_opens(tmp_path, {"BLINK_KEY_PASSPHRASE_FILE": str(file)})
    variables = {"BLINK_CERTIFICATE": "c.pem", "BLINK_KEY_PASSPHRASE": text}
    certificate = Settings.from_env(REQUIRED | variables).certificate
    assert certificate == ClientCertificate(chain="c.pem", passphrase=PASSPHRASE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark"])
def test_the_passphrase_file_may_begin_with_a_byte_order_mark(
    tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "passphrase"
    text = f"\ufeff{PASSPHRASE}\r\n" if encoding.endswith("-mark") else f"{PASSPHRASE}\r\n"
    file.write_bytes(text.encode(encoding.removesuffix("-mark")))
    require_key_opens(tmp_path, {"BLINK_KEY_PASSPHRASE_FILE": f"{file}\n"})


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r\n\r\n"])
def test_a_line_end_behind_any_variable_does_not_matter(line_end: str) -> None:
    variables = REQUIRED | {
        "BLINK_CERTIFICATE": "client.pem",
        "BLINK_KEY": "client.key",
        "BLINK_KEY_PASSPHRASE": "fake\npassphrase",
        "BLINK_CA": "ca.pem",
        "BLINK_TIMEOUT_READ": "2.5",
        "BLINK_PROXY": PROXY,
        "BLINK_TRUST_ENV": "1",
        "BLINK_ALLOW_PLAIN_HTTP": "",
    }
    with_line_ends = {name: f"\ufeff{value}{line_end}" for name, value in variables.items()}
    assert Settings.from_env(with_line_ends) == Settings.from_env(variables)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", "fake".encode("utf-16-le"), b"\xff\xfe\n\0"],
)
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


def test_the_proxy_of_the_settings_is_that_of_every_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "bank.invalid")
    for value in (settings(proxy=PROXY), settings(proxy=PROXY, trust_env=True)):
        assert value.proxy_for("https://bank.invalid/accounts") == Secret(PROXY)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://bank.invalid/accounts?a=1", Secret(PROXY)),
        ("https://direct.invalid/accounts", None),
        ("http://localhost:8000/", None),
    ],
)
def test_the_proxy_of_the_environment_is_that_of_the_url_of_the_request(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: Secret | None
) -> None:
    for name in ("http_proxy", "all_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "direct.invalid")
    assert settings(trust_env=True).proxy_for(url) == proxy
    assert settings().proxy_for(url) is None


@pytest.mark.parametrize("url", ["ftp://bank.invalid/", "bank.invalid", ""])
def test_there_is_no_proxy_of_the_environment_for_another_scheme(url: str) -> None:
    with pytest.raises(InvalidInputError, match="https://"):
        settings(trust_env=True).proxy_for(url)


PEM = "-----BEGIN PRIVATE KEY-----\nfake-private-key\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("name", ["BLINK_CERTIFICATE", "BLINK_KEY", "BLINK_CA"])
def test_a_variable_that_holds_a_key_and_no_path_is_named_and_not_shown(name: str) -> None:
    environ = {**REQUIRED, "BLINK_CERTIFICATE": "c.pem", name: PEM}
    with pytest.raises(InvalidInputError, match=f"The variable {name} must be the path") as caught:
        Settings.from_env(environ)
    assert found(["fake-private-key"], texts_of_error(caught.value)) == []


@pytest.mark.parametrize("name", ["chain", "key", "ca"])
def test_a_certificate_of_contents_and_not_of_paths_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(InvalidInputError, match="takes the paths of PEM files") as caught:
        ClientCertificate(**({"chain": "c.pem"} | {name: PEM}))
    assert found(["fake-private-key"], texts_of_error(caught.value)) == []


def test_a_missing_variable_names_one_that_may_be_meant() -> None:
    environ = {**REQUIRED, "BLINK_CLIENTID": "C"}
    del environ["BLINK_CLIENT_ID"]
    with pytest.raises(InvalidInputError, match="BLINK_CLIENTID is set, but not read: was it"):
        Settings.from_env(environ)
