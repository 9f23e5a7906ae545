"""A certificate and its key from PKCS#12 or from memory, as the PEM files that OpenSSL demands.

The ssl module loads a key from a file only. So the key is written into a folder of its own that
only its owner may open, encrypted with a passphrase that is in no file, and deleted at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from attrs import field, frozen

from .certificate import Finding, Rule
from .tokens import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["Unpacked", "unpack_pem", "unpack_pkcs12", "written"]


@frozen
class Unpacked:
    """A certificate chain and its key.

    Attributes:
        chain: The certificates in PEM form, the client's first.
        key: The private key.
        label: What a text about them calls their origin.
    """

    chain: bytes = field(repr=False)
    key: PrivateKeyTypes = field(repr=False)
    label: str


def unpack_pkcs12(data: bytes, passphrase: Secret | None, label: str) -> Unpacked | Finding:
    """Return the content of a PKCS#12 file, or the finding that it cannot be read.

    Args:
        data: The file.
        passphrase: Its passphrase, or None.
        label: What a text calls the file.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

    try:
        found = pkcs12.load_pkcs12(data, passphrase.reveal().encode() if passphrase else None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        if not data.startswith(b"\x30"):
            return Finding(Rule.READABLE, f"{label} is no PKCS#12 file.")
        text = f"{label} cannot be opened: its passphrase is another one, or it is damaged."
        return Finding(Rule.PASSPHRASE, text)
    if found.cert is None or found.key is None:
        return Finding(Rule.READABLE, f"{label} lacks the certificate or its private key.")
    certificates = [found.cert.certificate, *(each.certificate for each in found.additional_certs)]
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in certificates)
    return Unpacked(chain, found.key, label)


def unpack_pem(
    chain: bytes, key: Secret, passphrase: Secret | None, label: str
) -> Unpacked | Finding:
    """Return a chain and key that are in memory, or the finding that the key cannot be read.

    Args:
        chain: The certificates in PEM form.
        key: The private key in PEM form.
        passphrase: The passphrase of the key, or None.
        label: What a text calls them.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # Its numbers are tested when it is loaded from its file.
        loaded = load_pem_private_key(
            key.reveal().encode(),
            passphrase.reveal().encode() if passphrase else None,
            unsafe_skip_rsa_key_validation=True,
        )
    except TypeError:
        state = "not encrypted: give no" if passphrase else "encrypted: give its"
        return Finding(Rule.PASSPHRASE, f"The key of {label} is {state} passphrase.")
    except (ValueError, UnsupportedAlgorithm):
        text = f"{label} holds no private key that can be read, or its passphrase is another one."
        return Finding(Rule.READABLE, text)
    return Unpacked(chain, loaded, label)


@contextmanager
def written(unpacked: Unpacked) -> Iterator[tuple[Path, Path, Secret]]:
    """Write chain and key to files, and yield their paths and the passphrase of the key."""
    from cryptography.hazmat.primitives import serialization

    passphrase = Secret(secrets.token_urlsafe(32))
    with TemporaryDirectory(prefix="blink-oauth-") as folder:
        chain, key = Path(folder, "client.pem"), Path(folder, "client.key")
        key.touch(mode=0o600)
        key.write_bytes(
            unpacked.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(passphrase.reveal().encode()),
            )
        )
        chain.write_bytes(unpacked.chain)
        yield chain, key, passphrase
