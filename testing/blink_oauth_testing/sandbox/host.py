"""What a running sandbox holds of the machine: two sockets, a thread and a folder of keys."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web
from attrs import frozen

from .certificates import CertificateAuthority
from .credentials import Credentials
from .http import ServerThread, Site, bind, server_context


@frozen
class Host:
    """The resources of one running sandbox.

    Attributes:
        secure_port: Port of mutual TLS.
        plain_port: Port of plain http.
        folder: Where certificates and keys lie, readable by the owner alone.
        close: Gives everything back.
    """

    secure_port: int
    plain_port: int
    folder: Path
    close: Callable[[], None]

    @classmethod
    def open(
        cls,
        secure: web.Application,
        plain: web.Application,
        *,
        ports: tuple[int, int],
        authority: CertificateAuthority,
        server: Credentials,
    ) -> Host:
        """Open the sockets and serve.

        Args:
            secure: What answers over mutual TLS.
            plain: What answers over plain http.
            ports: Ports of the two, 0 for any that is free.
            authority: Who issues the clients' certificates.
            server: What the server identifies itself with.

        Raises:
            OSError: A port is taken.
        """
        with ExitStack() as resources:
            secure_socket = resources.enter_context(bind(ports[0]))
            plain_socket = resources.enter_context(bind(ports[1]))
            folder = Path(resources.enter_context(TemporaryDirectory(prefix="blink-sandbox-")))
            (folder / "ca.pem").write_bytes(authority.root_pem)
            context = server_context(
                server.save(folder, "server"), server.passphrase, authority.root_pem.decode()
            )
            thread = ServerThread([Site(secure_socket, secure, context), Site(plain_socket, plain)])
            thread.start()
            resources.callback(thread.stop)
            secure_port, plain_port = (s.getsockname()[1] for s in (secure_socket, plain_socket))
            return cls(secure_port, plain_port, folder, resources.pop_all().close)

    @property
    def ca(self) -> Path:
        """Return the file of the root that clients must trust."""
        return self.folder / "ca.pem"
