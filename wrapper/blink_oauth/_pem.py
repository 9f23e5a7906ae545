"""What a file holds that should be PEM: its blocks as OpenSSL finds them, or what it is instead."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = [
    "certificates_in",
    "cipher_in",
    "damage_in",
    "is_in_module",
    "private_key_in",
    "why_unreadable",
]

BLOCK = re.compile(
    rb"^-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t\r]*\n(.*?)^-----END \1-----[ \t\r]*$",
    re.DOTALL | re.MULTILINE,
)
LABEL = re.compile(rb"^-----BEGIN ([A-Z0-9 ]{1,40})-----", re.MULTILINE)
DEK_INFO = re.compile(rb"^DEK-Info: *([A-Z0-9-]{1,40}),", re.MULTILINE)
# OpenSSL's pkcs11-provider reads it: the block has the URI of the key (RFC 7512).
IN_MODULE = re.compile(rb"^-----BEGIN PKCS#11 PROVIDER URI-----", re.MULTILINE)
BOM = b"\xef\xbb\xbf"
SEQUENCE = 0x30
ISSUER_LABELS = {b"CERTIFICATE", b"X509 CERTIFICATE"}
# OpenSSL takes this label for the first certificate alone.
LEAF_LABELS = ISSUER_LABELS | {b"TRUSTED CERTIFICATE"}

CIPHERS = {
    "6086480165030401": "AES",
    "2a864886f70d0307": "DES-EDE3",
    "2a864886f70d010c0103": "DES-EDE3",
    "2a83088c9a4b3d010101": "Camellia",
    "2a831a8c9a6e0101": "ARIA",
    "2a831a8c9a440104": "SEED",
    "2b0e030207": "DES",
    "2a864886f70d010503": "DES with MD5",
    "2a864886f70d01050a": "DES with SHA-1",
    "2a864886f70d0302": "RC2",
    "2a864886f70d010506": "RC2 with MD5",
    "2a864886f70d01050b": "RC2 with SHA-1",
    "2a864886f70d010c0105": "RC2 with SHA-1",
    "2a864886f70d010c0106": "RC2 with SHA-1",
    "2a864886f70d010c0101": "RC4 with SHA-1",
    "2a864886f70d010c0102": "RC4 with SHA-1",
}
"""Object identifiers of ciphers, or their beginnings (RFC 8018 appendix C, RFC 7292 appendix C)."""


def certificates_in(data: bytes) -> list[Certificate | None]:
    """Return the certificates in their order; None for one that cannot be read."""
    return list(map(_certificate, _certificate_blocks(data)))


def _certificate_blocks(data: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    for label, body in BLOCK.findall(data.removeprefix(BOM)):
        if label in (ISSUER_LABELS if blocks else LEAF_LABELS):
            blocks.append(body)
    return blocks


def _certificate(block: bytes) -> Certificate | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import InvalidVersion, load_der_x509_certificate

    try:
        return load_der_x509_certificate(_first_value(base64.b64decode(block)))
    except (ValueError, IndexError, UnsupportedAlgorithm, InvalidVersion):
        return None


def _first_value(der: bytes) -> bytes:
    """Return the certificate in a block; OpenSSL's settings follow it in a trusted certificate."""
    size = der[1] & 0x7F
    return der[: 2 + size + int.from_bytes(der[2 : 2 + size])] if der[1] & 0x80 else der


def private_key_in(data: bytes) -> bytes:
    """Return the first block of a private key, empty if there is none."""
    blocks = BLOCK.finditer(data.removeprefix(BOM))
    return next((block[0] for block in blocks if block[1].endswith(b"PRIVATE KEY")), b"")


def is_in_module(data: bytes) -> bool:
    """Return whether the key of a file is in a PKCS#11 module, and the file only names it."""
    return IN_MODULE.search(data) is not None


def cipher_in(key: bytes) -> str:
    """Return the name of the cipher of an encrypted key, one block."""
    header = DEK_INFO.search(key)
    if header:
        return header[1].decode()
    try:
        der = base64.b64decode(b"".join(key.splitlines()[1:-1]))
    except ValueError:  # pragma: no cover  # OpenSSL has decoded it before it asked
        der = b""
    return next((name for oid, name in CIPHERS.items() if bytes.fromhex(oid) in der), "unknown")


def damage_in(chain: bytes) -> str | None:
    """Return what is wrong with a certificate of a chain whose first one can be read, or None."""
    if b"-----END CERTIFICATE----------BEGIN" in chain:
        return "a line break is missing between two certificates"
    certificates = certificates_in(chain)
    if None in certificates:
        return f"certificate {certificates.index(None) + 1} of the file is damaged"
    if len([label for label in LABEL.findall(chain) if label in LEAF_LABELS]) > len(certificates):
        return "the last certificate of the file is cut off"
    return None


def why_unreadable(data: bytes, path: Path, wanted: str) -> str:
    """Return why OpenSSL finds no block of a kind in a file, and what to do.

    Args:
        data: What the file contains.
        path: The file.
        wanted: How the label of the block ends, `CERTIFICATE` or `PRIVATE KEY`.
    """
    labels = [label.decode() for label in LABEL.findall(data.removeprefix(BOM))]
    if not labels:
        return _what_instead(data, path, wanted)
    if not any(label.endswith(wanted) for label in labels):
        return f"it holds only {', '.join(dict.fromkeys(labels))}"
    if "OPENSSH PRIVATE KEY" in labels:
        return f"it is a key of OpenSSH; convert a copy: ssh-keygen -p -m PEM -f {quote(str(path))}"
    return damage_in(data) or "it is damaged or cut off"


def _what_instead(data: bytes, path: Path, wanted: str) -> str:
    files = f"-in {quote(str(path))} -out NEW.pem"
    program = "x509" if wanted == "CERTIFICATE" else "pkey"
    return next(
        text
        for applies, text in (
            (not data.strip(), "it is empty"),
            (b"-\0-\0" in data, "it is text in UTF-16; save it in ASCII"),
            (_is_pkcs12(data), f"it is PKCS#12; convert it: openssl pkcs12 {files}"),
            (_is_der(data), f"it is DER; convert it: openssl {program} -inform DER {files}"),
            (b"-----BEGIN " in data, "its lines -----BEGIN do not start at the margin"),
            (True, "it has no line that starts with -----BEGIN"),
        )
        if applies
    )


def _is_der(data: bytes) -> bool:
    return len(data) > 1 and data[0] == SEQUENCE and data[1] >= 0x80


def _is_pkcs12(data: bytes) -> bool:
    # PFX begins with its version, the integer 3 (RFC 7292 section 4).
    return _is_der(data) and data[2 + (data[1] & 0x7F) :].startswith(b"\x02\x01\x03")
