"""The sandbox: banks, platform and sockets put together, and the client registered with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from aiohttp import web
from attrs import evolve, frozen

from blink_oauth.context import Grant
from blink_oauth.settings import Settings
from blink_oauth.tls import ClientCertificate

from .admin import AUTHORIZE, Control
from .banks import DEFAULT_BANKS, Bank, BankPolicy, Clock
from .certificates import (
    CertificateAuthority,
    CredentialFiles,
    Credentials,
    fake_secret,
    shared_authority,
)
from .consent import Conversations, authorize_query, is_registered
from .contract import LIST_ACCOUNTS, shipped_contract
from .exchanges import ContractViolationError, Exchange
from .faults import Fault, FaultPlan, Operation, ready_made
from .http import ServerThread, Site, bind, reception, server_context
from .platform import ACCOUNT_INFORMATION, CONSENT_FLOW, Platform

__all__ = []


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


USER_AGENT = "acme-books/3.2"


@frozen
class Registration:
    """What a client of the sandbox works with.

    Attributes:
        client_id: The id that the platform knows it by.
        credentials: Its certificate and key.
        files: The same on disk.
        ca: The file of the root that issued the server's certificate.
        base_url: The URL of the consent-flow module.
    """

    client_id: str
    credentials: Credentials
    files: CredentialFiles
    ca: Path
    base_url: str

    @property
    def certificate(self) -> ClientCertificate:
        """Return the client certificate as the client layer takes it."""
        return ClientCertificate(
            chain=self.files.chain,
            key=self.files.key,
            passphrase=self.credentials.passphrase,
            ca=self.ca,
        )

    def settings(self, changes: dict[str, Any]) -> Settings:
        """Return the settings of this client.

        Args:
            changes: Arguments of `Settings` to set otherwise.
        """
        arguments: dict[str, Any] = {
            "base_url": self.base_url,
            "client_id": self.client_id,
            "user_agent": USER_AGENT,
            "certificate": self.certificate,
        }
        return Settings(**(arguments | changes))

    @property
    def environment(self) -> dict[str, str]:
        """Return the `BLINK_*` variables of this client; the passphrase is named as a file."""
        return {
            "BLINK_BASE_URL": self.base_url,
            "BLINK_CLIENT_ID": self.client_id,
            "BLINK_USER_AGENT": USER_AGENT,
            "BLINK_CERTIFICATE": str(self.files.chain),
            "BLINK_KEY": str(self.files.key),
            "BLINK_KEY_PASSPHRASE_FILE": str(self.files.passphrase),
            "BLINK_CA": str(self.ca),
        }


class Sandbox:
    """A strict local bLink platform with banks behind it, over mutual TLS on loopback.

    Where a client id is asked for, the first client is meant unless another is named.

    Args:
        banks: The policies of the banks.
        clients: The ids of the registered clients; each gets a certificate.
        redirect_uris: The registered redirect URIs; on loopback, any port of theirs.
        port: Port for TLS, or 0 for any that is free.
        http_port: Port for the authorize endpoints, or 0 for any that is free.
        authority: Who issues the certificates; one for the whole process unless told.
        server_credentials: What the server identifies itself with, if not as it should.
        clock: What tells codes and tokens the time.
        judged: Hold requests and responses to the contract. It is by far the most of the sandbox's
            work: switch it off to measure a client under load.
    """

    def __init__(
        self,
        *,
        banks: Sequence[BankPolicy] = DEFAULT_BANKS,
        clients: Sequence[str] = ("CIDX0000000002",),
        redirect_uris: Sequence[str] = ("http://127.0.0.1/callback",),
        port: int = 0,
        http_port: int = 0,
        authority: CertificateAuthority | None = None,
        server_credentials: Credentials | None = None,
        clock: Clock | None = None,
        judged: bool = True,
    ) -> None:
        self.authority = authority or shared_authority()
        self.clock = clock or Clock()
        self.banks: Mapping[str, Bank] = {
            policy.target_id: Bank(policy, self.clock, fake_secret) for policy in banks
        }
        self.redirect_uris = tuple(redirect_uris)
        self._server_credentials = server_credentials or self.authority.issue_server()
        self._credentials = {name: self.authority.issue_client(name) for name in clients}
        self._plan = FaultPlan(tuple(self.banks))
        self._platform = Platform(
            contract=shipped_contract(),
            banks=self.banks,
            clients={known.fingerprint: name for name, known in self._credentials.items()},
            plan=self._plan,
            now=self.clock,
            judged=judged,
        )
        self._conversations = Conversations(self.clock, fake_secret)
        self._ports = (port, http_port)
        self._host: Host | None = None

    def start(self) -> Self:
        """Open the sockets and serve until `stop`."""
        clients = tuple(self._credentials)
        told = (clients, self.redirect_uris, self.environment, self._conversations)
        control = Control(self._platform, self.clock, *told)
        self._host = Host.open(
            reception(self._platform.answer),
            control.application(),
            ports=self._ports,
            authority=self.authority,
            server=self._server_credentials,
        )
        for name, credentials in self._credentials.items():
            credentials.save(self._host.folder, name)
        return self

    def stop(self) -> None:
        """End every connection, close the sockets and delete the keys; twice does no harm."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None:
            self.require_no_violations()

    def reset(self) -> None:
        """Forget tokens, faults, exchanges and the time advanced; keep ports and authority."""
        for bank in self.banks.values():
            bank.reset()
        self._plan.clear()
        self._conversations.clear()
        self._platform.record.clear()
        self.clock.ahead = 0.0

    @property
    def base_url(self) -> str:
        """The URL of the consent-flow module."""
        return f"https://localhost:{self._running.secure_port}{CONSENT_FLOW}"

    @property
    def accounts_url(self) -> str:
        """The URL of the accounts. Its path is inferred: no public page prints it whole."""
        return f"https://localhost:{self._running.secure_port}{ACCOUNT_INFORMATION}{LIST_ACCOUNTS}"

    @property
    def control_url(self) -> str:
        """The URL of the plain-http port, where other processes ask for faults and for time."""
        return f"http://127.0.0.1:{self._running.plain_port}"

    @property
    def redirect_uri(self) -> str:
        """The first registered redirect URI."""
        return self.redirect_uris[0]

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The newest requests to the platform, 10,000 at most, oldest first."""
        return self._platform.record.exchanges

    @property
    def violations(self) -> tuple[str, ...]:
        """Where a response broke the contract although no fault asked for it."""
        return self._platform.record.violations

    def require_no_violations(self) -> None:
        """Raise `ContractViolationError` if there are violations."""
        if self.violations:
            raise ContractViolationError("; ".join(self.violations))

    def fingerprint(self, secret: str) -> str:
        """Return what stands for a secret in the record of this sandbox."""
        return self._platform.fingerprints.of(secret)

    def client_certificate(
        self, client_id: str | None = None, *, credentials: Credentials | None = None
    ) -> ClientCertificate:
        """Return a client certificate as files, with the sandbox's authority.

        Args:
            client_id: A registered client.
            credentials: Other credentials instead, for example ones that will be refused.
        """
        registered = self._registration(client_id)
        if credentials is None:
            return registered.certificate
        files = credentials.save(self._running.folder, f"other-{credentials.fingerprint[:16]}")
        return evolve(registered, credentials=credentials, files=files).certificate

    def settings(self, client_id: str | None = None, **changes: Any) -> Settings:
        """Return the settings of a registered client; `changes` are arguments of `Settings`."""
        return self._registration(client_id).settings(changes)

    def environment(self, client_id: str | None = None) -> dict[str, str]:
        """Return the `BLINK_*` variables of a client; the passphrase is named as a file."""
        return self._registration(client_id).environment

    def grant(self, bank: str | None = None, username: str = "u-4711") -> Grant:
        """Return a grant at a bank of the sandbox, the first unless told."""
        return Grant(target_id=bank or next(iter(self.banks)), username=username)

    def authorize_url(
        self, grant: Grant, redirect_uri: str, state: str, client_id: str | None = None
    ) -> str:
        """Return the page that a browser opens to give consent (RFC 6749 section 4.1.1)."""
        name = self._registration(client_id).client_id
        query = authorize_query(name, redirect_uri, grant.username, state)
        return f"{self.control_url}{AUTHORIZE.format(target_id=grant.target_id)}?{query}"

    def issue_code(
        self, grant: Grant, redirect_uri: str | None = None, client_id: str | None = None
    ) -> str:
        """Issue an authorization code without a browser.

        Args:
            grant: For which bank and user.
            redirect_uri: A registered one, the first unless told.
            client_id: A registered client.

        Raises:
            ValueError: The redirect URI is not registered.
        """
        redirect_uri = redirect_uri or self.redirect_uri
        if not is_registered(redirect_uri, self.redirect_uris):
            raise ValueError("The redirect URI is not registered with this sandbox.")
        name = self._registration(client_id).client_id
        return self.banks[grant.target_id].issue_code(name, redirect_uri, grant.username)

    def fail(
        self,
        fault: Fault | str,
        *,
        target_id: str | None = None,
        operation: Operation | None = None,
        times: int = 1,
    ) -> None:
        """Let the next matching calls fail; calls that the platform refuses anyway do not count.

        Args:
            fault: How they fail; a value or a name from `FAULTS` or `SILENT_FAULTS`.
            target_id: Only calls to this bank, or None for any.
            operation: Only calls of this operation, or None for any that the fault fits.
            times: How many calls fail.

        Raises:
            ValueError: There is no such fault, or it could never happen.
        """
        chosen = ready_made(fault) if isinstance(fault, str) else fault
        self._plan.add(chosen, target_id=target_id, operation=operation, times=times)

    @property
    def _running(self) -> Host:
        if self._host is None:
            raise RuntimeError("The sandbox does not run: use it in a with block or call start().")
        return self._host

    def _registration(self, client_id: str | None) -> Registration:
        name = next(iter(self._credentials)) if client_id is None else client_id
        if name not in self._credentials:
            raise ValueError(f"There is no such client. There are: {', '.join(self._credentials)}.")
        host = self._running
        files = CredentialFiles.named(host.folder, name)
        return Registration(name, self._credentials[name], files, host.ca, self.base_url)
