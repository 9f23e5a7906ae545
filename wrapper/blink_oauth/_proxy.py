"""The URL of a proxy, the proxy of the environment, and the hosts that `NO_PROXY` excludes.

No text repeats a part of the URL. If a password in it contains a character that is not escaped, a
parser may take any part of the password for the host, the port or the path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from .errors import InvalidInputError
from .texts import trimmed
from .tokens import Secret

__all__ = ["ProxyAddress", "environment_proxy", "excludes", "parse_proxy", "proxy_problem"]

PORTS = {"http": 80, "https": 443}
NOT_SERVED = ("socks", "socks4", "socks4a", "socks5", "socks5h", "ftp", "quic")
CHARACTER = r"(?:[A-Z0-9._~!$&'()*+,;=-]|%[0-9A-F]{2})"
PROXY_URL = re.compile(
    r"(?P<scheme>https?)://"
    rf"(?:(?P<user>{CHARACTER}*)(?::(?P<password>(?:{CHARACTER}|:)*))?@)?"
    r"(?:(?P<name>[A-Z0-9._-]+)|\[(?P<address>[0-9A-F:.]+)\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII | re.IGNORECASE,
)
FORM = (
    "it must be http://host:port or https://host:port, with user:password@ before the host if the "
    "proxy asks for them. In both, write a character other than a letter, a digit and -._~ as % "
    "and two hexadecimal digits: @ as %40, # as %23, / as %2F, % as %25."
)


@frozen
class ProxyAddress:
    """The parts of a proxy's URL.

    Attributes:
        scheme: `http` or `https`.
        host: The host name, or an IP address without brackets.
        port: The port; None for that of the scheme.
        auth: User and password in plain text; None if the URL has neither.
    """

    scheme: str
    host: str
    port: int | None
    auth: tuple[bytes, bytes] | None = field(repr=False)


def parse_proxy(url: str) -> ProxyAddress | None:
    """Return the parts of a proxy's URL, or None if it cannot be used.

    Args:
        url: The URL; without a scheme it is an `http://` URL, as for curl and requests.
    """
    match = PROXY_URL.fullmatch(url if "://" in url else f"http://{url}")
    if match is None:
        return None
    scheme, user, password, name, address, port = match.groups()
    if not (_is_host_name(name) if name else _is_address(address)):
        return None
    if port and not 0 < int(port) < 65_536:
        return None
    auth = None
    if user or password:
        auth = (unquote(user).encode(), unquote(password or "").encode())
    return ProxyAddress(scheme.lower(), name or address, int(port) if port else None, auth)


def proxy_problem(url: str) -> str | None:
    """Return why the URL of a proxy cannot be used, or None; the text has no part of it."""
    if parse_proxy(url):
        return None
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in NOT_SERVED:
        return f"{scheme}:// is not served, only http:// and https:// are."
    return FORM


def _is_host_name(text: str) -> bool:
    return all(0 < len(label) < 64 for label in text.removesuffix(".").split("."))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def environment_proxy(base_url: str) -> Secret | None:
    """Return the proxy that the environment names for a URL, or None.

    Args:
        base_url: An `http://` or `https://` URL.

    Raises:
        InvalidInputError: The proxy cannot be used; the text names its variable.
    """
    variable, proxy = _read_environment(base_url)
    if isinstance(proxy, str):
        raise InvalidInputError(
            f"The proxy in {variable} cannot be used: {proxy} Nothing was sent."
        )
    return proxy


def _read_environment(base_url: str) -> tuple[str, Secret | str | None]:
    from urllib.request import getproxies, proxy_bypass  # It loads the HTTP stack.

    # The problem is returned and not raised: the traceback would include the plain URL.
    url = urlsplit(base_url)
    host, port = url.hostname or "", url.port or PORTS[url.scheme]
    proxies = {kind: trimmed(value) for kind, value in getproxies().items()}
    # Without the variable, the system's own settings may exclude the host.
    excluded = excludes(proxies["no"], host, port) if "no" in proxies else proxy_bypass(host)
    kind = url.scheme if proxies.get(url.scheme) else "all"
    proxy = "" if excluded else proxies.get(kind, "")
    if not proxy:
        return "", None
    return _variable(kind, os.environ), proxy_problem(proxy) or Secret(proxy)


def _variable(kind: str, environ: Mapping[str, str]) -> str:
    # The name in lower case overrides the other one, as in `getproxies`.
    names = [name for name in environ if name.lower() == f"{kind}_proxy" and environ[name]]
    return max(names, default="the settings of the system")


def excludes(no_proxy: str, host: str, port: int) -> bool:
    """Return whether `NO_PROXY` excludes a host, as curl and requests read it.

    An entry is a host with all hosts below it, an IP address, a network, or `*`; a port may follow.

    Args:
        no_proxy: The entries, separated by commas or blanks.
        host: A host name or an IP address without brackets.
        port: The port of the connection.
    """
    entries = no_proxy.lower().replace(",", " ").split()
    return any(_entry_matches(entry, host.lower().rstrip("."), port) for entry in entries)


def _entry_matches(entry: str, host: str, port: int) -> bool:
    name, wanted = entry, ""
    if entry.startswith("["):
        name, _, wanted = entry[1:].partition("]")
        wanted = wanted.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, wanted = entry.partition(":")
    if wanted not in ("", str(port)):
        return False
    if name == "*":
        return True
    if _is_address(host):
        try:
            return ip_address(host) in ip_network(name, strict=False)
        except ValueError:
            return False
    suffix = name.removeprefix("*").strip(".")
    return bool(suffix) and f".{host}".endswith(f".{suffix}")
