"""The settings of a client, from arguments or from `BLINK_*` variables."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen

from ._checks import require_header_value, sendable
from ._loading import read_passphrase
from ._proxy import environment_proxy, proxy_problem
from .arguments import require_type, type_of
from .certificate import Finding
from .errors import InvalidInputError
from .expiry import CertificateExpiry
from .texts import trimmed
from .tls import (
    Certificate,
    ClientCertificate,
    certificate_expiries,
    is_content,
    require_verifying,
    ssl_context,
)
from .tokens import Secret, hide, require_secret, utc_now

__all__ = [
    "NO_REVOCATION_FIELD",
    "REVOCATION_FIELDS",
    "RevocationField",
    "Settings",
    "Timeouts",
]

RevocationField = Literal["token_type_hint", "client_id", "username"]
"""A field of the revocation form that a platform may not know."""
REVOCATION_FIELDS: tuple[RevocationField, ...] = get_args(RevocationField)
"""All of them. Of the form, only `token` is certain (RFC 7009 section 2.1)."""
NO_REVOCATION_FIELD: Final = "none"
"""The variable of a form with the token alone; an empty variable counts as not set."""

CertificateSetting = Certificate | ssl.SSLContext | Callable[[], ssl.SSLContext] | None

REQUIRED = ("base_url", "client_id", "user_agent")
TIMEOUTS = ("connect", "read", "write", "pool", "total")
FLAGS = ("trust_env", "allow_plain_http", "accept_foreign_correlation_id")
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})
ENDPOINTS = ("/oauth/token", "/oauth/revoke")
LONGEST_TIMEOUT = 86_400.0
"""Seconds; the functions of the operating system refuse much longer ones."""


class _UnusableError(Exception):
    """A variable cannot be used; the message names it and the reason."""


def read_environment(environ: Mapping[str, str]) -> dict[str, Any] | str:
    """Return the arguments of `Settings` from the variables, or the text of an error.

    The error is not raised here: its traceback would include the variables, and a passphrase.
    """
    try:
        return _read(environ)
    except _UnusableError as exc:
        return str(exc)


def _read(variables: Mapping[str, str]) -> dict[str, Any]:
    environ = {n: trimmed(value) for n, value in variables.items() if n.startswith("BLINK_")}
    for name, value in environ.items():
        if "\0" in value or not sendable(value):
            raise _UnusableError(f"The variable {name} is no valid Unicode text.")
    values: dict[str, Any] = {name: _required(environ, _variable(name)) for name in REQUIRED}
    values["timeouts"] = {
        name: _timeout_seconds(environ, variable)
        for name in TIMEOUTS
        if environ.get(variable := _variable(f"timeout_{name}"))
    }
    values |= {name: _flag(environ, _variable(name)) for name in FLAGS}
    if fields := environ.get("BLINK_REVOCATION_FIELDS"):
        names = [name.strip() for name in fields.split(",")]
        values["revocation_fields"] = [] if names == [NO_REVOCATION_FIELD] else names
    if environ.get("BLINK_PROXY"):
        values["proxy"] = Secret(environ["BLINK_PROXY"])
    return values | {"certificate": _certificate_files(environ)}


def _variable(name: str) -> str:
    return f"BLINK_{name.upper()}"


def _required(environ: Mapping[str, str], variable: str) -> str:
    value = environ.get(variable, "")
    if not value:
        near = get_close_matches(variable, [name for name in environ if environ[name]], n=1)
        meant = f" {near[0]} is set, but not read: was it meant?" if near else ""
        raise _UnusableError(
            f"The variable {variable} is not set: the README says what it holds.{meant}"
        )
    return value


def _timeout_seconds(environ: Mapping[str, str], variable: str) -> float:
    try:
        return float(environ[variable])
    except ValueError:
        raise _UnusableError(f"The variable {variable} must be a number of seconds.") from None


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    value = environ.get(variable, "").lower()
    if value not in TRUE | FALSE:
        raise _UnusableError(f"The variable {variable} must be 1 or 0.")
    return value in TRUE


def _certificate_files(environ: Mapping[str, str]) -> ClientCertificate | None:
    chain = environ.get("BLINK_CERTIFICATE")
    if not chain:
        return None
    for variable in ("BLINK_CERTIFICATE", "BLINK_KEY", "BLINK_CA"):
        if is_content(environ.get(variable)):
            raise _UnusableError(
                f"The variable {variable} must be the path of a PEM file, but it is the content of "
                "one. Write it into a file."
            )
    return ClientCertificate(
        chain=chain,
        key=environ.get("BLINK_KEY") or None,
        ca=environ.get("BLINK_CA") or None,
        **_passphrase(environ),
    )


def _passphrase(environ: Mapping[str, str]) -> dict[str, Any]:
    direct, file = environ.get("BLINK_KEY_PASSPHRASE"), environ.get("BLINK_KEY_PASSPHRASE_FILE")
    if direct and file:
        raise _UnusableError("Set BLINK_KEY_PASSPHRASE or BLINK_KEY_PASSPHRASE_FILE, not both.")
    if not file:
        return {"passphrase": Secret(direct)} if direct else {}
    found = read_passphrase(Path(file))
    if isinstance(found, Finding):
        raise _UnusableError(f"BLINK_KEY_PASSPHRASE_FILE: {found.text}")
    return {"passphrase_file": file}


def _seconds(instance: object, attribute: Attribute[float], value: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= LONGEST_TIMEOUT:
        raise InvalidInputError(
            f"Timeouts.{attribute.name} (BLINK_TIMEOUT_{attribute.name.upper()}) must be a number "
            f"of seconds > 0, at most {LONGEST_TIMEOUT:.0f}."
        )


@frozen(kw_only=True)
class Timeouts:
    """The timeouts of one call, in seconds. No timeout can be switched off.

    Args:
        connect: For the TCP connection and for the TLS handshake, each.
        read: For each wait for the next bytes of the response.
        write: For each wait to send the next bytes of the request.
        pool: For the wait for a free connection.
        total: For the whole call. The default is below the 30 s for which a code is valid.

    Raises:
        InvalidInputError: A value is not a number above zero, or is more than a day.
    """

    connect: float = field(default=5.0, validator=_seconds)
    read: float = field(default=15.0, validator=_seconds)
    write: float = field(default=5.0, validator=_seconds)
    pool: float = field(default=10.0, validator=_seconds)
    total: float = field(default=20.0, validator=_seconds)


DEFAULT_TIMEOUTS = Timeouts()


def _client_id(instance: object, attribute: Attribute[str], value: str) -> None:
    require_header_value("Settings.client_id (BLINK_CLIENT_ID)", value)


def _user_agent(instance: object, attribute: Attribute[str], value: str) -> None:
    require_header_value("Settings.user_agent (BLINK_USER_AGENT)", value, blanks=True)


def _boolean(instance: object, attribute: Attribute[bool], value: bool) -> None:
    # A text such as "false" would count as true.
    if not isinstance(value, bool):
        raise InvalidInputError(
            f"Settings.{attribute.name} must be True or False, but it is {type_of(value)}."
        )


def _timeouts(instance: object, attribute: Attribute[Timeouts], value: Timeouts) -> None:
    if not isinstance(value, Timeouts):
        raise InvalidInputError(
            "Settings.timeouts must be Timeouts, such as Timeouts(total=20.0), but it is "
            f"{type_of(value)}."
        )


def _max_connections(instance: object, attribute: Attribute[int], value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInputError("Settings.max_connections must be a whole number, 1 or more.")


def _proxy_url(instance: object, attribute: Attribute[Secret | None], value: Secret | None) -> None:
    problem = None if value is None else proxy_problem(value.reveal())
    if problem:
        raise InvalidInputError(f"Settings.proxy (BLINK_PROXY) cannot be used: {problem}")


def _certificate(
    instance: object,
    attribute: Attribute[CertificateSetting],
    value: CertificateSetting,
) -> None:
    kinds = Certificate | ssl.SSLContext | None
    if not isinstance(value, kinds) and (isinstance(value, type) or not callable(value)):
        raise InvalidInputError(
            "Settings.certificate must be a ClientCertificate or SSLContext, such as "
            f'ClientCertificate("client.pem", "client.key"), but it is {type_of(value)}.'
        )


def _in_order(value: Collection[RevocationField]) -> tuple[RevocationField, ...]:
    """Return the fields in the order of the contract, each once."""
    # A text is a collection of its characters.
    is_list = isinstance(value, Collection) and not isinstance(value, str)
    if not is_list or any(name not in REVOCATION_FIELDS for name in value):
        raise InvalidInputError(
            "Settings.revocation_fields (BLINK_REVOCATION_FIELDS) may have the names "
            f"{', '.join(REVOCATION_FIELDS)}; without any, the variable is {NO_REVOCATION_FIELD}. "
            "The token itself is always sent."
        )
    return tuple(name for name in REVOCATION_FIELDS if name in value)


def _without_slash(value: str) -> str:
    return value.rstrip("/") if isinstance(value, str) else value


def is_http_url(url: str) -> bool:
    """Return whether a text is an http:// or https:// URL with a host and a valid port."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is a loopback one: this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@frozen(kw_only=True, init=False)
class Settings:
    """The settings of a client.

    Args:
        base_url: The URL of the consent-flow module, such as `https://…/consent-flow/v2`.
        client_id: The service user's id in bLink's directory, such as `CIDX0000000002`.
        user_agent: Name and version of the service user's software, such as `acme-books/3.2`.
        certificate: The client certificate; or an `ssl.SSLContext` that contains one, or a function
            that returns one, such as for a key in a hardware module. The function is called again
            with a request, once a minute at most; if it returns another context, new connections
            use that one.
        timeouts: The timeouts of each call.
        max_connections: The largest number of connections that are open at once.
        proxy: The URL of an HTTP proxy, or None; `http://` may be left out. For an `https://` one
            the operating system's authorities are trusted.
        trust_env: Whether to take the proxy from the environment (`HTTPS_PROXY`, `ALL_PROXY`,
            `NO_PROXY`), if `proxy` is None.
        allow_plain_http: Whether `base_url` may be an `http://` URL of this machine, for tests.
        accept_foreign_correlation_id: Whether to believe a response with another `X-Correlation-ID`
            than the request's: only for a platform that does not return the id it was sent.
        revocation_fields: The names of the fields that a revocation sends beside the token, if the
            platform refuses one: `token_type_hint`, `client_id`, `username`; by default all.

    Raises:
        InvalidInputError: A value cannot be used, or the proxy of the environment.
    """

    base_url: str = field(converter=_without_slash)
    client_id: str = field(validator=_client_id)
    user_agent: str = field(validator=_user_agent)
    certificate: CertificateSetting = field(validator=_certificate)
    timeouts: Timeouts = field(validator=_timeouts)
    max_connections: int = field(validator=_max_connections)
    proxy: Secret | None = field(validator=_proxy_url)
    trust_env: bool = field(validator=_boolean)
    allow_plain_http: bool = field(validator=_boolean)
    accept_foreign_correlation_id: bool = field(validator=_boolean)
    revocation_fields: tuple[RevocationField, ...] = field(converter=_in_order)

    def __init__(
        self,
        *,
        base_url: str,
        client_id: str,
        user_agent: str,
        certificate: CertificateSetting = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        max_connections: int = 100,
        proxy: str | Secret | None = None,
        trust_env: bool = False,
        allow_plain_http: bool = False,
        accept_foreign_correlation_id: bool = False,
        revocation_fields: Collection[RevocationField] = REVOCATION_FIELDS,
    ) -> None:
        secret = None if proxy is None else hide(proxy, "proxy URL")
        del proxy
        self.__attrs_init__(
            base_url=base_url,
            client_id=client_id,
            user_agent=user_agent,
            certificate=certificate,
            timeouts=timeouts,
            max_connections=max_connections,
            proxy=None if secret is None else require_secret(secret),
            trust_env=trust_env,
            allow_plain_http=allow_plain_http,
            accept_foreign_correlation_id=accept_foreign_correlation_id,
            revocation_fields=revocation_fields,
        )

    @base_url.validator
    def _check_base_url(self, attribute: Attribute[str], value: str) -> None:
        require_header_value("Settings.base_url (BLINK_BASE_URL)", value)
        url = urlsplit(value) if is_http_url(value) else None
        if url is None or "@" in value or url.query or url.fragment:
            raise InvalidInputError(
                "Settings.base_url (BLINK_BASE_URL) must be a plain https URL: host and path, "
                "without user, query and fragment."
            )
        if url.path.endswith(ENDPOINTS):
            raise InvalidInputError(
                "Settings.base_url (BLINK_BASE_URL) must be the URL of the module, "
                "https://…/consent-flow/v2: the client appends /oauth/token and /oauth/revoke."
            )
        if url.scheme == "https":
            return
        if not (self.allow_plain_http and is_loopback(url.hostname or "")):
            raise InvalidInputError(
                "Settings.base_url (BLINK_BASE_URL) must start with https://. http:// is accepted "
                "for this machine only (loopback), with allow_plain_http=True "
                "(BLINK_ALLOW_PLAIN_HTTP=1)."
            )

    @trust_env.validator
    def _check_environment(self, attribute: Attribute[bool], value: bool) -> None:
        if value and self.proxy is None:
            environment_proxy(self.base_url)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings from `BLINK_*` variables; the README lists them.

        Args:
            environ: The variables; the environment of the process if None.

        Raises:
            InvalidInputError: A variable is missing or cannot be used, or `environ` is no mapping.
        """
        if environ is not None:
            require_type("environ", environ, Mapping, "os.environ")
        values = read_environment(os.environ if environ is None else environ)
        # A traceback must not include the variables, because they may contain a passphrase.
        del environ
        if isinstance(values, str):
            raise InvalidInputError(values)
        timeouts = Timeouts(**values.pop("timeouts"))
        return cls(timeouts=timeouts, **values)

    def ssl_context(self, *, now: datetime | None = None) -> ssl.SSLContext:
        """Return the TLS context of the client, for an HTTP client of your own.

        It has the client certificate, trusts the authorities of the settings, and demands a valid
        server name and TLS 1.2 or later. Each call reads and checks the files and returns a new
        context, because HTTP libraries change the one that they are given, and the files may have
        been renewed. That is slow: call it once for each HTTP client and not for each request. If
        `certificate` is an `ssl.SSLContext` or returns one, that is checked and returned itself.

        Args:
            now: The current time, timezone-aware; that of the system if None.

        Raises:
            InvalidInputError: There is no certificate, or the given context is not strict enough.
            CertificateError: The client certificate cannot be used.

        Source: bLink TLS certificates; RFC 8705 section 2.
        """
        certificate = self.certificate
        if isinstance(certificate, Certificate):
            return ssl_context(certificate, now=now or utc_now())
        if certificate is None:
            raise InvalidInputError(
                "Settings.certificate is not set (BLINK_CERTIFICATE), but bLink demands mutual "
                "TLS. Nothing was sent."
            )
        context = certificate if isinstance(certificate, ssl.SSLContext) else certificate()
        if not isinstance(context, ssl.SSLContext):
            raise InvalidInputError(
                "The function Settings.certificate must return an ssl.SSLContext, but it has "
                f"returned {type_of(context)}. Nothing was sent."
            )
        require_verifying(context)
        return context

    def certificate_expiries(self, *, now: datetime | None = None) -> tuple[CertificateExpiry, ...]:
        """Return the certificates that can end the client's calls, and how near their end is.

        Each call reads the files of the certificates, and no key. There is none of a file that
        cannot be read, and none of an `ssl.SSLContext`.

        Args:
            now: The current time, timezone-aware; that of the system if None.
        """
        if not isinstance(self.certificate, Certificate):
            return ()
        return certificate_expiries(self.certificate, now or utc_now())

    def proxy_for(self, url: str) -> Secret | None:
        """Return the URL of the proxy for a request: that of `proxy`, or of the environment.

        Args:
            url: The `http://` or `https://` URL of the request.

        Raises:
            InvalidInputError: The URL has another scheme, or the environment's proxy cannot be
                used.
        """
        if self.proxy is not None or not self.trust_env:
            return self.proxy
        if not is_http_url(url):
            raise InvalidInputError("A request needs an https:// URL. Nothing was sent.")
        return environment_proxy(url)
