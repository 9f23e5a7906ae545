"""The sandbox: banks, platform and HTTP servers, and the clients registered with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from aiohttp import web
from attrs import evolve, frozen

from blink_oauth.arguments import GRANT, require_count, require_type, type_of, wrong_argument
from blink_oauth.context import Grant
from blink_oauth.errors import InvalidInputError
from blink_oauth.settings import Settings
from blink_oauth.tls import ClientCertificate

from .admin import AUTHORIZE, ControlInterface
from .banks import DEFAULT_BANKS, Bank, BankPolicy
from .certificates import (
    CertificateAuthority,
    CredentialFiles,
    Credentials,
    fake_secret,
    shared_authority,
)
from .clock import Clock
from .consent import ConsentSessions, authorize_query, is_registered
from .contract import LIST_ACCOUNTS, shipped_contract
from .exchanges import ContractViolationError, Exchange
from .faults import Fault, FaultPlan, Operation, fault_named
from .http import ServedApplication, ServerThread, bind, mutual_tls_application, server_context
from .platform import ACCOUNT_INFORMATION, CONSENT_FLOW, Platform

__all__ = []


@frozen
class RunningServer:
    """The resources of a running sandbox.

    Attributes:
        secure_port: Port of mutual TLS.
        plain_port: Port of plain http.
        folder: Folder of certificates and keys, readable by the owner alone.
        close: Stops the server, closes the sockets and deletes the folder.
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
    ) -> RunningServer:
        """Open the sockets and serve.

        Args:
            secure: The application served over mutual TLS.
            plain: The application served over plain http.
            ports: Ports of both, 0 for any free port.
            authority: The authority of the clients' certificates.
            server: The server certificate and its key.

        Raises:
            OSError: A port is in use.
        """
        with ExitStack() as resources:
            secure_socket = resources.enter_context(bind(ports[0]))
            plain_socket = resources.enter_context(bind(ports[1]))
            folder = Path(resources.enter_context(TemporaryDirectory(prefix="blink-sandbox-")))
            (folder / "ca.pem").write_bytes(authority.root_pem)
            context = server_context(
                server.save(folder, "server"), server.passphrase, authority.root_pem.decode()
            )
            thread = ServerThread(
                [
                    ServedApplication(secure_socket, secure, context),
                    ServedApplication(plain_socket, plain),
                ]
            )
            thread.start()
            resources.callback(thread.stop)
            secure_port, plain_port = (s.getsockname()[1] for s in (secure_socket, plain_socket))
            return cls(secure_port, plain_port, folder, resources.pop_all().close)

    @property
    def ca(self) -> Path:
        """Return the file of the root certificate that clients must trust."""
        return self.folder / "ca.pem"


USER_AGENT = "acme-books/3.2"


@frozen
class RegisteredClient:
    """A client that is registered with the sandbox.

    Attributes:
        client_id: Its id at the platform.
        credentials: Its certificate and key.
        files: The files of the credentials.
        ca: The file of the root certificate that the client must trust.
        base_url: The URL of the consent-flow module.
    """

    client_id: str
    credentials: Credentials
    files: CredentialFiles
    ca: Path
    base_url: str

    @property
    def certificate(self) -> ClientCertificate:
        """Return the client certificate for `Settings`."""
        return ClientCertificate(
            chain=self.files.chain,
            key=self.files.key,
            passphrase=self.credentials.passphrase,
            ca=self.ca,
        )

    def settings(self, changes: dict[str, Any]) -> Settings:
        """Return the settings of this client.

        Args:
            changes: Arguments of `Settings` that override those of the client.
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
        """Return the `BLINK_*` variables of this client; the passphrase is given as a file."""
        return {
            "BLINK_BASE_URL": self.base_url,
            "BLINK_CLIENT_ID": self.client_id,
            "BLINK_USER_AGENT": USER_AGENT,
            "BLINK_CERTIFICATE": str(self.files.chain),
            "BLINK_KEY": str(self.files.key),
            "BLINK_KEY_PASSPHRASE_FILE": str(self.files.passphrase),
            "BLINK_CA": str(self.ca),
        }


BANKS = '[BankPolicy("IIDX00001", "Musterbank")]'


def _require_all(name: str, values: object, kind: type, example: str) -> None:
    """Require a list or tuple that is not empty, of values of a type."""
    accepted = f"a sequence of {kind.__name__}"
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise wrong_argument(name, values, accepted, example)
    for value in values:
        if not isinstance(value, kind):
            raise InvalidInputError(
                f"The argument {name} must be {accepted}, such as {example}, but it contains "
                f"{type_of(value)}."
            )
    if not values:
        raise InvalidInputError(f"The argument {name} must not be empty, but such as {example}.")


class Sandbox:
    """A strict local bLink platform with banks behind it, over mutual TLS on loopback.

    A `client_id` of None means the first client.

    Args:
        banks: The policies of the banks.
        clients: The ids of the registered clients; each gets a certificate.
        redirect_uris: The registered redirect URIs; one on loopback is registered for any port.
        port: Port for mutual TLS, or 0 for any free port.
        http_port: Port for plain http, or 0 for any free port.
        authority: The authority of all certificates; by default one for the whole process.
        server_credentials: The server certificate and its key; by default a valid one.
        clock: The clock of codes and tokens. Two sandboxes may share one.
        validate: Whether to validate requests and responses against the OpenAPI document. This
            takes most of the sandbox's time: switch it off to measure a client under load.

    Raises:
        InvalidInputError: An argument has another type, or two banks have the same id.
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
        validate: bool = True,
    ) -> None:
        _require_all("banks", banks, BankPolicy, BANKS)
        _require_all("clients", clients, str, '["CIDX0000000002"]')
        _require_all("redirect_uris", redirect_uris, str, '["http://127.0.0.1/callback"]')
        names = [policy.target_id for policy in banks]
        if len(set(names)) < len(names):
            raise InvalidInputError("The argument banks has two banks with the same target_id.")
        for name, number in {"port": port, "http_port": http_port}.items():
            require_count(name, number, least=0, example="0, for any free port")
        for name, value, kind, example in (
            ("authority", authority, CertificateAuthority, 'CertificateAuthority.create("Test")'),
            ("server_credentials", server_credentials, Credentials, "authority.issue_server()"),
            ("clock", clock, Clock, "other_sandbox.clock"),
        ):
            if value is not None:
                require_type(name, value, kind, example)
        self.authority = authority or shared_authority()
        self.clock = clock or Clock()
        self.banks: Mapping[str, Bank] = {
            policy.target_id: Bank(policy, self.clock, fake_secret) for policy in banks
        }
        self.redirect_uris = tuple(redirect_uris)
        self._server_credentials = server_credentials or self.authority.issue_server()
        self._credentials = {name: self.authority.issue_client(name) for name in clients}
        self._clients = {known.fingerprint: name for name, known in self._credentials.items()}
        self._plan = FaultPlan(tuple(self.banks))
        self._platform = Platform(
            contract=shipped_contract(),
            banks=self.banks,
            clients=self._clients,
            plan=self._plan,
            now=self.clock,
            validate=validate,
        )
        self._sessions = ConsentSessions(self.clock, fake_secret)
        self._ports = (port, http_port)
        self._server: RunningServer | None = None

    def start(self) -> Self:
        """Open the sockets and serve until `stop`.

        Raises:
            OSError: A port is in use.
        """
        control = ControlInterface(
            platform=self._platform,
            clock=self.clock,
            clients=tuple(self._credentials),
            redirect_uris=self.redirect_uris,
            environment=self.environment,
            sessions=self._sessions,
        )
        self._server = RunningServer.open(
            mutual_tls_application(self._platform.handle),
            control.application(),
            ports=self._ports,
            authority=self.authority,
            server=self._server_credentials,
        )
        for name, credentials in self._credentials.items():
            credentials.save(self._server.folder, name)
        return self

    def stop(self) -> None:
        """End every connection, close the sockets and delete the keys; may be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None:
            self.require_no_violations()

    def reset(self) -> None:
        """Reset banks, consents, faults, exchanges and clock; keep ports, clients and authority."""
        for bank in self.banks.values():
            bank.reset()
        self._plan.clear()
        self._sessions.clear()
        self._platform.recorder.clear()
        self.clock.ahead = 0.0

    @property
    def base_url(self) -> str:
        """The URL of the consent-flow module."""
        return f"https://localhost:{self._running.secure_port}{CONSENT_FLOW}"

    @property
    def accounts_url(self) -> str:
        """The URL of the accounts. Its path is inferred: no public page shows the whole URL."""
        return f"https://localhost:{self._running.secure_port}{ACCOUNT_INFORMATION}{LIST_ACCOUNTS}"

    @property
    def control_url(self) -> str:
        """The URL of the plain-http port, where other processes plan faults and advance time."""
        return f"http://127.0.0.1:{self._running.plain_port}"

    @property
    def redirect_uri(self) -> str:
        """The first registered redirect URI."""
        return self.redirect_uris[0]

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The newest exchanges with the platform, at most 10,000, oldest first."""
        return self._platform.recorder.exchanges

    @property
    def violations(self) -> tuple[str, ...]:
        """The rules that responses broke although no fault applied."""
        return self._platform.recorder.violations

    def require_no_violations(self) -> None:
        """Raise `ContractViolationError` if there are violations."""
        if self.violations:
            raise ContractViolationError("; ".join(self.violations))

    def fingerprint(self, secret: str) -> str:
        """Return the fingerprint that replaces a secret in the exchanges of this sandbox."""
        return self._platform.fingerprints.of(secret)

    def client_certificate(
        self, client_id: str | None = None, *, credentials: Credentials | None = None
    ) -> ClientCertificate:
        """Return a client certificate as files, with the sandbox's authority.

        Args:
            client_id: A registered client.
            credentials: Credentials to use instead, for example ones that will be refused.
        """
        client = self._registered_client(client_id)
        if credentials is None:
            return client.certificate
        require_type("credentials", credentials, Credentials, "sandbox.authority.issue_client(…)")
        files = credentials.save(self._running.folder, f"other-{credentials.fingerprint[:16]}")
        return evolve(client, credentials=credentials, files=files).certificate

    def register(self, credentials: Credentials, client_id: str | None = None) -> None:
        """Accept one more certificate of a registered client, as the platform does for a renewal.

        Args:
            credentials: The certificate, from `CertificateAuthority.issue_client`.
            client_id: A registered client.
        """
        self._clients[credentials.fingerprint] = self._registered_client(client_id).client_id

    def settings(self, client_id: str | None = None, **changes: Any) -> Settings:
        """Return the settings of a registered client; `changes` are arguments of `Settings`."""
        return self._registered_client(client_id).settings(changes)

    def environment(self, client_id: str | None = None) -> dict[str, str]:
        """Return the `BLINK_*` variables of a client; the passphrase is given as a file."""
        return self._registered_client(client_id).environment

    def grant(self, bank: str | None = None, username: str = "u-4711") -> Grant:
        """Return a grant at a bank of the sandbox, by default the first bank."""
        return Grant(target_id=bank or next(iter(self.banks)), username=username)

    def authorize_url(
        self, grant: Grant, redirect_uri: str, state: str, client_id: str | None = None
    ) -> str:
        """Return the URL that a browser opens for consent (RFC 6749 section 4.1.1)."""
        require_type("grant", grant, Grant, GRANT)
        name = self._registered_client(client_id).client_id
        query = authorize_query(name, redirect_uri, grant.username, state)
        return f"{self.control_url}{AUTHORIZE.format(target_id=grant.target_id)}?{query}"

    def issue_code(
        self, grant: Grant, redirect_uri: str | None = None, client_id: str | None = None
    ) -> str:
        """Issue an authorization code without a browser.

        Args:
            grant: The bank and the username.
            redirect_uri: A registered redirect URI, by default the first.
            client_id: A registered client.

        Raises:
            ValueError: The redirect URI is not registered, or there is no such bank.
        """
        require_type("grant", grant, Grant, GRANT)
        if grant.target_id not in self.banks:
            known = ", ".join(self.banks)
            raise ValueError(f"There is no bank {grant.target_id}. The banks are: {known}.")
        redirect_uri = redirect_uri or self.redirect_uri
        if not is_registered(redirect_uri, self.redirect_uris):
            raise ValueError("The redirect URI is not registered with this sandbox.")
        name = self._registered_client(client_id).client_id
        return self.banks[grant.target_id].issue_code(name, redirect_uri, grant.username)

    def fail(
        self,
        fault: Fault | str,
        *,
        target_id: str | None = None,
        operation: Operation | None = None,
        times: int = 1,
    ) -> None:
        """Make the next matching requests fail, without counting those the platform refuses.

        Args:
            fault: How they fail: a fault, or a name from `FAULTS` or `SILENT_FAULTS`.
            target_id: The bank whose requests fail, or None for any.
            operation: The operation that fails, or None for any that the fault fits.
            times: Number of requests that fail.

        Raises:
            ValueError: There is no such fault, or it could never happen.
        """
        require_count("times", times, least=1, example="1")
        chosen = fault if isinstance(fault, Fault) else fault_named(fault)
        self._plan.add(chosen, target_id=target_id, operation=operation, times=times)

    @property
    def _running(self) -> RunningServer:
        if self._server is None:
            raise RuntimeError("The sandbox is not running: use a with block or call start().")
        return self._server

    def _registered_client(self, client_id: str | None) -> RegisteredClient:
        name = next(iter(self._credentials)) if client_id is None else client_id
        if name not in self._credentials:
            known = ", ".join(self._credentials)
            raise ValueError(f"There is no such client. The clients are: {known}.")
        host = self._running
        files = CredentialFiles.named(host.folder, name)
        return RegisteredClient(name, self._credentials[name], files, host.ca, self.base_url)
