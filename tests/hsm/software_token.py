"""A PKCS#11 token in software (SoftHSM), used as docs/how-to/certificates.md says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import define, evolve, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from blink_oauth_testing.sandbox import CertificateAuthority, Credentials

__all__ = ["PIN", "SoftwareToken", "issue_for"]

PIN = "fake-pin-4711"
TOKEN = "blink"
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "certificates.md").read_text("utf-8")
MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    *Path("/usr/lib").glob("*/softhsm/libsofthsm2.so"),
)
SOFTHSM = """\
directories.tokendir = {folder}
objectstore.backend = file
log.level = ERROR
"""


def block_of_page(beginning: str) -> str:
    """Return the code block of the page that begins so."""
    block = rf"^```[a-z]+\n({re.escape(beginning)}.*?)^```$"
    (found,) = re.findall(block, PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


@define
class SoftwareToken:
    """A token in a folder. No configuration of the system is changed.

    Args:
        folder: An empty folder for the configurations, the token, and the files of the client.
        provider: OpenSSL's pkcs11-provider, a shared library.
    """

    folder: Path
    provider: Path
    module: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.module = next(path for path in MODULES if path.exists())
        tokens = self.folder / "tokens"
        tokens.mkdir()
        (self.folder / "softhsm2.conf").write_text(SOFTHSM.format(folder=tokens))
        self.configure(PIN)
        pins = ("--pin", PIN, "--so-pin", PIN)
        self.run("softhsm2-util", "--init-token", "--free", "--label", TOKEN, *pins)

    def configure(self, pin: str) -> None:
        """Write the configuration of OpenSSL, with a PIN."""
        pin_file = self.folder / "token.pin"
        pin_file.write_text(pin)
        settings = {
            "module": self.provider,
            "pkcs11-module-path": self.module,
            "pkcs11-module-token-pin": f"file:{pin_file}",
        }
        text = block_of_page("[default]")
        for name, value in settings.items():
            text, count = re.subn(f"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert count == 1
        (self.folder / "openssl.cnf").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that uses the token."""
        return os.environ | {
            "SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"),
            "OPENSSL_CONF": str(self.folder / "openssl.cnf"),
        }

    def run(self, *command: str | Path) -> str:
        """Run a program with the token, and return what it prints."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key_file(self, name: str) -> Path:
        """Return the file that names a key."""
        return self.folder / f"{name}.key"

    def make_key(self, name: str) -> x509.CertificateSigningRequest:
        """Make a key in the module as the page does, and return the request for a certificate."""
        commands = block_of_page("$ openssl genpkey").replace("\\\n", "").replace("client", name)
        for command in commands.splitlines():
            self.run(*shlex.split(command.removeprefix("$ ")))
        return x509.load_pem_x509_csr((self.folder / f"{name}.csr").read_bytes())

    def private_keys(self) -> list[list[str]]:
        """Return the lines about each private key in the module."""
        login = ("--token-label", TOKEN, "--login", "--pin", PIN)
        listed = self.run(
            *("pkcs11-tool", "--module", self.module, *login),
            *("--list-objects", "--type", "privkey"),
        )
        keys = listed.split("Private Key Object;")[1:]
        return [[line.strip() for line in key.splitlines()] for key in keys]


def issue_for(
    request: x509.CertificateSigningRequest, authority: CertificateAuthority
) -> Credentials:
    """Issue a certificate for the key of a request.

    Returns:
        The certificate with its issuers. The key beside it is a different one: an authority has
        never the key of a request.
    """
    assert request.is_signature_valid
    other, now = authority.issue_client("CIDX0000000002"), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(authority.intermediate.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
    )
    for extension in other.certificate.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    return evolve(other, certificate=builder.sign(authority.intermediate_key, hashes.SHA256()))
