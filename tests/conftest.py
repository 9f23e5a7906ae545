"""Settings of every test: only loopback is contacted, and generated examples are deterministic."""

from __future__ import annotations

import ipaddress
import socket
import sys

import hypothesis
import pytest

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests under asyncio alone."""
    return "asyncio"


def is_loopback(host: object) -> bool:
    """Return whether a host is on this machine; the empty host of a listening socket is."""
    text = host.decode("ascii") if isinstance(host, bytes) else str(host or "localhost")
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return text == "localhost"


def refuse_the_network(event: str, arguments: tuple[object, ...]) -> None:
    """Fail each look-up of and connection to another machine, as if the host did not exist."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not is_loopback(host):
        raise socket.gaierror(socket.EAI_NONAME, f"tests contact loopback only, not {host!r}")


# An audit hook covers every socket, also in threads and libraries. It cannot be removed.
sys.addaudithook(refuse_the_network)
