"""Functions that inject a fault into a setup without faults."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import evolve

from blink_oauth_cli.errors import CommandError
from blink_oauth_keeper import Note, SqlTokenStore, State
from blink_oauth_testing.sandbox import CertificateAuthority, Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import pem
from cli.doctor.harness import CLIENT, KEY, OTHER_KEY, Harness, make_world_readable
from cli.doctor.server import ServerBehaviour, optional_mtls_server
from wire import certificates
from wire.certificates import DAY
from wire.loopback import listening, url_of

Changes = dict[str, Any]


def certificate_issued_by(
    issue: Callable[[CertificateAuthority], Credentials],
) -> Callable[..., Changes]:
    """Return a fault that gives the client the certificate of an issuing function."""

    def inject(harness: Harness) -> Changes:
        certificate = harness.certificate(issue(harness.sandbox.authority))
        return {"settings": harness.settings(certificate=certificate)}

    return inject


def certificate_with(**changes: Any) -> Callable[[Harness], Changes]:
    """Return a fault in the certificate's files; a value may be a function of the harness."""

    def inject(harness: Harness) -> Changes:
        given = {k: v(harness) if callable(v) else v for k, v in changes.items()}
        certificate = evolve(harness.sandbox.client_certificate(), **given)
        return {"settings": harness.settings(certificate=certificate)}

    return inject


def settings_with(**changes: Any) -> Callable[[Harness], Changes]:
    """Return a fault in the settings; a value may be a function of the harness."""

    def inject(harness: Harness) -> Changes:
        given = {k: v(harness) if callable(v) else v for k, v in changes.items()}
        return {"settings": harness.settings(**given)}

    return inject


def arguments(**changes: Any) -> Callable[[Harness], Changes]:
    """Return a fault in the arguments of `run_checks`."""
    return lambda harness: changes


def key_of_other_client(harness: Harness) -> Path:
    other = harness.sandbox.authority.issue_client("CIDX0000000003")
    same_passphrase = harness.sandbox.client_certificate().passphrase
    assert same_passphrase is not None
    return evolve(other, passphrase=same_passphrase.reveal()).save(harness.folder, "other").key


def unknown_root(harness: Harness) -> Path:
    path = harness.folder / "unknown.pem"
    path.write_bytes(CertificateAuthority.create("Unknown").root_pem)
    return path


def ends_in_twenty_days(authority: CertificateAuthority) -> Credentials:
    # This certificate has the client's name but is not registered: the platform refuses calls.
    now = datetime.now(UTC)
    return authority.issue_client(CLIENT, not_before=now - 180 * DAY, not_after=now + 20 * DAY)


def ends_in_nine_days(authority: CertificateAuthority) -> Credentials:
    now = datetime.now(UTC)
    return authority.issue_client(CLIENT, not_before=now - 180 * DAY, not_after=now + 9 * DAY)


def with_ending_issuer(authority: CertificateAuthority) -> Credentials:
    now = datetime.now(UTC)
    issuer = certificates.intermediate(
        authority, not_before=now - 400 * DAY, not_after=now + 9 * DAY
    )
    return evolve(authority.issue_client(CLIENT), issuers=(issuer,))


def ending_root(harness: Harness) -> Path:
    """Write the sandbox's authority, and another one that ends in twenty days."""
    path = harness.folder / "authorities.pem"
    now = datetime.now(UTC)
    other = certificates.intermediate(
        harness.sandbox.authority, not_before=now - 400 * DAY, not_after=now + 20 * DAY
    )
    path.write_bytes(harness.sandbox.authority.root_pem + pem(other))
    return path


def unregistered(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client("CIDX0000000009")


def issued_by_unknown_authority(harness: Harness) -> Changes:
    return certificate_issued_by(
        lambda _: certificates.good(CertificateAuthority.create("Unknown"))
    )(harness)


def world_readable_key(harness: Harness) -> Path:
    good = harness.sandbox.client_certificate().key
    assert good is not None
    key = harness.folder / "own.key"
    key.write_bytes(good.read_bytes())
    return make_world_readable(key)


def server_with(issue: Callable[[CertificateAuthority], Credentials]) -> Callable[..., Changes]:
    """Return a fault that replaces the sandbox by one with another server certificate."""

    def inject(harness: Harness) -> Changes:
        credentials = issue(harness.sandbox.authority)
        other = harness.stack.enter_context(Sandbox(server_credentials=credentials))
        return {"settings": other.settings()}

    return inject


def expired_server(authority: CertificateAuthority) -> Credentials:
    now = datetime.now(UTC)
    return authority.issue_server(not_before=now - 9 * DAY, not_after=now - DAY)


def closed_port(_: Harness) -> str:
    with listening() as server:
        return url_of(server)


def silent_server(harness: Harness) -> str:
    return url_of(harness.stack.enter_context(listening()))


def server_with_behaviour(**behaviour: Any) -> Callable[[Harness], Changes]:
    """Return a fault that replaces the sandbox by a server with this behaviour."""

    def inject(harness: Harness) -> Changes:
        # By default, a request without a certificate is refused.
        complete = ServerBehaviour(
            **({"get_status": lambda certified: 405 if certified else 401} | behaviour)
        )
        serving = optional_mtls_server(harness.sandbox.authority, harness.folder, complete)
        return {"settings": harness.settings(base_url=harness.stack.enter_context(serving))}

    return inject


def clock_ahead_by(seconds: float) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + timedelta(seconds=seconds)


def read_only_store(harness: Harness) -> Changes:
    engine = harness.engine(read_only=True)
    return {"open_store": lambda: SqlTokenStore(engine, keys=[KEY])}


def locked_store(harness: Harness) -> Changes:
    connection = harness.stack.enter_context(harness.engine().connect())
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    engine = harness.engine()
    return {"open_store": lambda: SqlTokenStore(engine, keys=[KEY])}


def newer_schema(harness: Harness) -> Changes:
    with harness.engine().begin() as connection:
        connection.exec_driver_sql("UPDATE blink_oauth_schema SET version = 99")
    return {}


def not_a_database(harness: Harness) -> Changes:
    harness.path.write_text("nonsense " * 1000)
    for suffix in ("-wal", "-shm"):
        harness.path.with_name(harness.path.name + suffix).unlink(missing_ok=True)
    return {}


def world_readable_store(harness: Harness) -> Changes:
    make_world_readable(harness.path)
    return {}


def file_in_place_of_folder(harness: Harness) -> Changes:
    (harness.folder / "file").write_text("")
    path = harness.folder / "file" / "tokens.db"
    return {"store_path": path}


def unreadable_keys() -> SqlTokenStore:
    raise PermissionError(13, "Permission denied", "store.key")


def keys_missing() -> SqlTokenStore:
    raise CommandError("The keys of the store are missing.", "Put the file back.")


def world_readable_keys_file(harness: Harness) -> Changes:
    path = harness.folder / "tokens.db.keys"
    path.touch()
    return {"keys_file": make_world_readable(path)}


def keys_rotated(harness: Harness) -> Changes:
    return {"open_store": harness.open_store_with(OTHER_KEY, KEY)}


def grant_refused_for_days(harness: Harness) -> Changes:
    with closing(harness.open_store_with(KEY)()) as store:
        (listed,) = store.records(CLIENT)
        record = store.load(listed.key)
        assert record is not None
        claim = store.claim(record, owner="refused owner", ttl=25)
        assert claim is not None
        store.release(
            evolve(claim, refusals=5, refused_since=claim.issued_at),
            state=State.ACTIVE,
            attempts=0,
            pause=0,
            error="StatusError",
            note=Note(event="refresh.failed"),
        )
    return {}


def failing_revocation(fault: str) -> Callable[[Harness], Changes]:
    """Return a fault that makes the platform's next revocation fail."""

    def inject(harness: Harness) -> Changes:
        harness.sandbox.fail(fault, operation="revoke_token")
        return {}

    return inject
