"""How each fault is planted in a healthy setup."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import evolve

from blink_oauth_cli.errors import TroubleError
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_testing.sandbox import CertificateAuthority, Credentials, Sandbox
from cli.doctor.harness import CLIENT, KEY, OTHER_KEY, Harness, make_world_readable
from cli.doctor.server import Manners, lenient_server
from wire import certificates
from wire.certificates import DAY
from wire.loopback import listening, url_of

Changes = dict[str, Any]


def certificate_of(issue: Callable[[CertificateAuthority], Credentials]) -> Callable[..., Changes]:
    """Return what gives the client another certificate."""

    def plant(harness: Harness) -> Changes:
        certificate = harness.certificate(issue(harness.sandbox.authority))
        return {"settings": harness.settings(certificate=certificate)}

    return plant


def certificate_with(**changes: Any) -> Callable[[Harness], Changes]:
    """Return what changes the certificate's files; a value may be a function of the harness."""

    def plant(harness: Harness) -> Changes:
        given = {k: v(harness) if callable(v) else v for k, v in changes.items()}
        certificate = evolve(harness.sandbox.client_certificate(), **given)
        return {"settings": harness.settings(certificate=certificate)}

    return plant


def settings_with(**changes: Any) -> Callable[[Harness], Changes]:
    """Return what changes the settings; a value may be a function of the harness."""

    def plant(harness: Harness) -> Changes:
        given = {k: v(harness) if callable(v) else v for k, v in changes.items()}
        return {"settings": harness.settings(**given)}

    return plant


def arguments(**changes: Any) -> Callable[[Harness], Changes]:
    """Return what changes the arguments of `examine`."""
    return lambda harness: changes


def key_of_another(harness: Harness) -> Path:
    other = harness.sandbox.authority.issue_client("CIDX0000000003")
    same_passphrase = harness.sandbox.client_certificate().passphrase
    assert same_passphrase is not None
    return evolve(other, passphrase=same_passphrase.reveal()).save(harness.folder, "other").key


def stranger_root(harness: Harness) -> Path:
    path = harness.folder / "stranger.pem"
    path.write_bytes(CertificateAuthority.create("Stranger").root_pem)
    return path


def ends_in_twenty_days(authority: CertificateAuthority) -> Credentials:
    # The platform knows this one by nothing but its name, so it lets nothing through.
    return authority.issue_client(CLIENT, not_after=datetime.now(UTC) + 20 * DAY)


def unregistered(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client("CIDX0000000009")


def stranger_issued(harness: Harness) -> Changes:
    return certificate_of(lambda _: certificates.good(CertificateAuthority.create("Stranger")))(
        harness
    )


def readable_key(harness: Harness) -> Path:
    good = harness.sandbox.client_certificate().key
    assert good is not None
    key = harness.folder / "own.key"
    key.write_bytes(good.read_bytes())
    return make_world_readable(key)


def server_with(issue: Callable[[CertificateAuthority], Credentials]) -> Callable[..., Changes]:
    """Return what puts a server with another certificate in the sandbox's place."""

    def plant(harness: Harness) -> Changes:
        credentials = issue(harness.sandbox.authority)
        other = harness.stack.enter_context(Sandbox(server_credentials=credentials))
        return {"settings": other.settings()}

    return plant


def expired_server(authority: CertificateAuthority) -> Credentials:
    now = datetime.now(UTC)
    return authority.issue_server(not_before=now - 9 * DAY, not_after=now - DAY)


def closed_port(_: Harness) -> str:
    with listening() as server:
        return url_of(server)


def silent_server(harness: Harness) -> str:
    return url_of(harness.stack.enter_context(listening()))


def server_that_answers(**manners: Any) -> Callable[[Harness], Changes]:
    """Return what puts a server with these manners in the sandbox's place."""

    def plant(harness: Harness) -> Changes:
        # Who has no certificate is turned away, unless the manners say otherwise.
        polite = Manners(**({"looked_at": lambda certified: 405 if certified else 401} | manners))
        serving = lenient_server(harness.sandbox.authority, harness.folder, polite)
        return {"settings": harness.settings(base_url=harness.stack.enter_context(serving))}

    return plant


def ahead(seconds: float) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + timedelta(seconds=seconds)


def read_only_store(harness: Harness) -> Changes:
    engine = harness.engine(read_only=True)
    return {"open_store": lambda: SqlTokenStore(engine, keys=[KEY])}


def locked_store(harness: Harness) -> Changes:
    holder = harness.stack.enter_context(harness.engine().connect())
    holder.exec_driver_sql("BEGIN IMMEDIATE")
    engine = harness.engine()
    return {"open_store": lambda: SqlTokenStore(engine, keys=[KEY])}


def newer_schema(harness: Harness) -> Changes:
    with harness.engine().begin() as connection:
        connection.exec_driver_sql("UPDATE blink_oauth_schema SET version = 99")
    return {}


def no_database(harness: Harness) -> Changes:
    harness.path.write_text("nonsense " * 1000)
    for ending in ("-wal", "-shm"):
        harness.path.with_name(harness.path.name + ending).unlink(missing_ok=True)
    return {}


def readable_store(harness: Harness) -> Changes:
    make_world_readable(harness.path)
    return {}


def a_file_for_a_folder(harness: Harness) -> Changes:
    (harness.folder / "file").write_text("")
    path = harness.folder / "file" / "tokens.db"
    return {"store_path": path}


def unreadable_keys() -> SqlTokenStore:
    raise PermissionError(13, "Permission denied", "store.key")


def keys_missing() -> SqlTokenStore:
    raise TroubleError("The keys of the store are missing.", "Put the file back.")


def readable_keys_file(harness: Harness) -> Changes:
    path = harness.folder / "tokens.db.keys"
    path.touch()
    return {"keys_file": make_world_readable(path)}


def rotated(harness: Harness) -> Changes:
    return {"open_store": harness.opening(OTHER_KEY, KEY)}


def failing_with(fault: str) -> Callable[[Harness], Changes]:
    """Return what lets the platform's next revocation fail."""

    def plant(harness: Harness) -> Changes:
        harness.sandbox.fail(fault, operation="revoke_token")
        return {}

    return plant
