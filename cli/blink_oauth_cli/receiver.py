"""The receiver of notices: its URL and the secrets that sign what it receives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import frozen

from blink_oauth.errors import CertificateError, InvalidInputError
from blink_oauth.texts import decoded
from blink_oauth.tokens import Secret

from .configuration import Configuration
from .errors import CommandError, ExitCode

if TYPE_CHECKING:
    from blink_oauth_keeper import Webhook

__all__ = ["Receiver", "receiver_of", "secrets_file"]

NEW_SECRET = "blink-oauth notices secret makes one"


@frozen
class Receiver:
    """A receiver of notices.

    Attributes:
        url: Its URL, in which the path may be a password.
        secrets: The secrets, each of which signs.
        ca: The file of the authorities that may issue its certificate, or None for those of the
            operating system.
        authorities: The content of that file: a receiver with a changed one is not the same.
    """

    url: Secret
    secrets: tuple[Secret, ...]
    ca: Path | None = None
    authorities: bytes = b""

    @property
    def origin(self) -> str:
        """Scheme, host and port of the URL, for messages."""
        parts = urlsplit(self.url.reveal())
        return f"{parts.scheme}://{parts.netloc}"

    def webhook(self) -> Webhook:
        """Return the handler that sends it notices.

        Raises:
            CommandError: The URL, a secret or the file of the authorities cannot be used.
        """
        from blink_oauth.tls import trusting_context
        from blink_oauth_keeper import Webhook

        try:
            context = None if self.ca is None else trusting_context(self.ca)
            return Webhook(self.url.reveal(), *self.secrets, ssl_context=context)
        except CertificateError as error:
            what = f"The receiver of notices cannot be used: {error}"
            do = "Correct BLINK_WEBHOOK_CA: a PEM file of the authorities of the receiver."
        except InvalidInputError as error:
            what = f"The receiver of notices cannot be used: {error}"
            do = f"Correct BLINK_WEBHOOK_URL or the secrets; {NEW_SECRET}."
        raise CommandError(what, do, ExitCode.USAGE)


def receiver_of(configuration: Configuration) -> Receiver | None:
    """Return the configured receiver, or None if there is none; its files are read anew.

    Args:
        configuration: The configuration of the command.

    Raises:
        CommandError: The URL or the secrets are missing, or the file of secrets cannot be read.
    """
    url, secrets = configuration.get("webhook_url"), _secrets(configuration)
    if url is None and not secrets:
        return None
    if url is None:
        raise CommandError(
            "Secrets for notices are configured, but no receiver. Nothing was sent.",
            "Set its URL: BLINK_WEBHOOK_URL or webhook_url.",
            ExitCode.USAGE,
        )
    if not secrets:
        raise CommandError(
            "The receiver of notices has no secret to sign them with. Nothing was sent.",
            f"Name a file: BLINK_WEBHOOK_SECRETS_FILE or webhook_secrets_file; {NEW_SECRET}.",
            ExitCode.USAGE,
        )
    file = configuration.get("webhook_ca")
    ca = None if file is None else Path(file)
    # A missing file is reported when it is used.
    authorities = ca.read_bytes() if ca is not None and ca.is_file() else b""
    return Receiver(Secret(url), tuple(secrets), ca, authorities)


def secrets_file(configuration: Configuration) -> Path | None:
    """Return the file of the secrets, or None if they are not in a file."""
    file = configuration.get("webhook_secrets_file")
    return None if file is None or configuration.get("webhook_secrets") else Path(file)


def _secrets(configuration: Configuration) -> list[Secret]:
    file = secrets_file(configuration)
    text = configuration.get("webhook_secrets") or ""
    if file is not None:
        try:
            text = decoded(file.read_bytes()) or ""
            problem = "" if text.split() else "it has no secret"
        except OSError as error:
            problem = error.strerror or "it cannot be read"
        if problem:
            raise CommandError(
                f"No secret can be read from {file}: {problem}. Nothing was sent.",
                f"Put one to a line into it; {NEW_SECRET}.",
                ExitCode.USAGE,
            )
    return [Secret(each) for each in text.replace(",", " ").split()]
