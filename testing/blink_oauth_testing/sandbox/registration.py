"""A registered client: its id, its certificate on disk, and how it reaches the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import frozen

from blink_oauth.settings import Settings
from blink_oauth.tls import ClientCertificate

from .credentials import CredentialFiles, Credentials

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
