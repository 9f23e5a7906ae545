"""A client whose key is in a PKCS#11 module, and never leaves it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_pem_private_key,
)

from blink_oauth_testing.sandbox import Credentials, Sandbox
from hsm.software_token import PIN, SoftwareToken, issue_for

PROGRAM = Path(__file__).with_name("hsm_program.py")
NAMES = ("first", "second")
READERS: tuple[Callable[[bytes, None], object], ...] = (load_pem_private_key, load_der_private_key)


@define
class Harness:
    """A token with two keys that the sandbox knows, and a client that uses the first."""

    sandbox: Sandbox
    token: SoftwareToken
    folder: Path
    credentials: dict[str, Credentials]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the client."""
        others = self.sandbox.environment()
        # The key has no passphrase.
        del others["BLINK_KEY_PASSPHRASE_FILE"]
        key = {
            "BLINK_CERTIFICATE": str(self.folder / "first.pem"),
            "BLINK_KEY": str(self.folder / "first.key"),
        }
        return self.token.environment | others | key

    def run(
        self, *arguments: str | Path, **changes: str | Path
    ) -> subprocess.CompletedProcess[str]:
        """Run Python as the client, without a terminal that it could ask for a PIN."""
        return subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=self.environment | {name: str(value) for name, value in changes.items()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def doctor(self, **changes: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `blink-oauth doctor` as the client."""
        return self.run("-m", "blink_oauth_cli", "doctor", **changes)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftwareToken:
    """Return a token."""
    provider = Path(os.environ["BLINK_TEST_PKCS11_PROVIDER"]).absolute()
    return SoftwareToken(tmp_path_factory.mktemp("token"), provider)


@pytest.fixture(scope="module")
def certificate_requests(token: SoftwareToken) -> dict[str, x509.CertificateSigningRequest]:
    """Return a request for a certificate for each of two keys in the module."""
    return {name: token.make_key(name) for name in NAMES}


@pytest.fixture
def harness(
    blink_sandbox: Sandbox,
    token: SoftwareToken,
    certificate_requests: dict[str, x509.CertificateSigningRequest],
    tmp_path: Path,
) -> Harness:
    """Return a client with its own files, whose certificates are issued for keys in the module."""
    token.configure(PIN)
    issued = {}
    for name, request in certificate_requests.items():
        shutil.copy(token.key_file(name), tmp_path)
        issued[name] = issue_for(request, blink_sandbox.authority)
        blink_sandbox.register(issued[name])
        (tmp_path / f"{name}.pem").write_bytes(issued[name].chain_pem)
    return Harness(blink_sandbox, token, tmp_path, issued)


def test_every_kind_of_call_signs_in_the_module(harness: Harness) -> None:
    sandbox, folder = harness.sandbox, harness.folder
    grants = [sandbox.grant(username=name) for name in ("u-managed", "u-direct")]
    done = harness.run(
        *(PROGRAM, sandbox.accounts_url, sandbox.redirect_uri),
        *(folder / "second.pem", folder / "second.key", grants[0].target_id),
        *(text for grant in grants for text in (grant.username, sandbox.issue_code(grant))),
        sandbox.issue_code(grants[1]),
    )
    assert done.returncode == 0, done.stderr
    *others, last = sandbox.exchanges
    assert len(others) == 8
    assert {each.status for each in sandbox.exchanges} == {200}
    assert {each.operation for each in others} == {"request_token", "list_accounts"}
    assert {each.certificate for each in others} == {harness.credentials["first"].fingerprint}
    assert last.certificate == harness.credentials["second"].fingerprint


def test_the_keys_are_made_in_the_module_and_no_file_has_one(harness: Harness) -> None:
    keys = harness.token.private_keys()
    assert len(keys) == 2
    for lines in keys:
        assert "Access:     sensitive, always sensitive, never extractable, local" in lines
    folders = (harness.folder, harness.token.folder)
    paths = [path for each in folders for path in each.rglob("*") if path.is_file()]
    assert harness.folder / "first.key" in paths
    for path in paths:
        for read in READERS:
            with pytest.raises((ValueError, UnsupportedAlgorithm)):
                read(path.read_bytes(), None)
        assert b"PRIVATE KEY" not in path.read_bytes()


def test_the_doctor_checks_a_certificate_whose_key_is_in_the_module(harness: Harness) -> None:
    done = harness.doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    assert harness.sandbox.exchanges[-1].certificate == harness.credentials["first"].fingerprint


def without_provider(harness: Harness) -> dict[str, Path]:
    (harness.token.folder / "openssl.cnf").write_text("")
    return {}


def with_a_wrong_pin(harness: Harness) -> dict[str, Path]:
    harness.token.configure("fake-wrong-pin")
    return {}


def with_the_pin_as_passphrase(harness: Harness) -> dict[str, Path]:
    harness.token.configure("")
    passphrase = harness.folder / "passphrase"
    passphrase.write_text(PIN)
    return {"BLINK_KEY_PASSPHRASE_FILE": passphrase}


def with_another_key(harness: Harness) -> dict[str, Path]:
    return {"BLINK_KEY": harness.folder / "second.key"}


@pytest.mark.parametrize(
    "break_it",
    [without_provider, with_a_wrong_pin, with_the_pin_as_passphrase, with_another_key],
)
def test_a_key_in_the_module_that_cannot_be_used_is_named(
    harness: Harness, break_it: Callable[[Harness], dict[str, Path]]
) -> None:
    done = harness.doctor(**break_it(harness))
    assert done.returncode == 1
    assert "check that OPENSSL_CONF loads its provider" in " ".join(done.stdout.split())
    assert "Enter PIN" not in done.stdout + done.stderr
    assert "fake-" not in done.stdout + done.stderr
    assert harness.sandbox.exchanges == ()
