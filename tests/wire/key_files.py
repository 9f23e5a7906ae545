"""Private keys in files of every kind, as tools and people make them."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable
from hashlib import md5
from typing import cast

from attrs import frozen
from cryptography.hazmat.decrepit.ciphers import algorithms as decrepit
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherAlgorithm, algorithms
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from blink_oauth.tls import Rule
from blink_oauth_testing.sandbox.certificates import private_key, shared_authority
from wire.certificates import NAME, der_sequence, der_value

PASSPHRASE = "fake-passphrase-of-a-key"
SALT = bytes.fromhex("0102030405060708")
AUTHORITY = shared_authority()


def rsa_key() -> RSAPrivateKey:
    """Return the key of the client's certificate."""
    return private_key(NAME)


def pem(form: PrivateFormat = PrivateFormat.PKCS8, passphrase: str | None = None) -> bytes:
    """Return the client's key in PEM form, encrypted with AES if a passphrase is given."""
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return rsa_key().private_bytes(Encoding.PEM, form, encryption)


def der(form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return rsa_key().private_bytes(Encoding.DER, form, NoEncryption())


def block(label: str, content: bytes, header: str = "") -> bytes:
    """Return a PEM block (RFC 7468 section 3)."""
    lines = textwrap.fill(base64.b64encode(content).decode(), 64)
    return f"-----BEGIN {label}-----\n{header}{lines}\n-----END {label}-----\n".encode()


def encrypted(algorithm: CipherAlgorithm, iv: bytes, plain: bytes) -> bytes:
    pad = PKCS7(len(iv) * 8).padder()
    encryptor = Cipher(algorithm, CBC(iv)).encryptor()
    return encryptor.update(pad.update(plain) + pad.finalize()) + encryptor.finalize()


def traditional(
    name: str,
    cipher: Callable[[bytes], object],
    key_size: int,
    iv: bytes,
    passphrase: str = PASSPHRASE,
) -> bytes:
    """Return the key encrypted as OpenSSL did before PKCS#8 (RFC 1423, EVP_BytesToKey)."""
    derived = digest = b""
    while len(derived) < key_size:
        digest = md5(digest + passphrase.encode() + iv[:8], usedforsecurity=False).digest()
        derived += digest
    algorithm = cast("CipherAlgorithm", cipher(derived[:key_size]))
    content = encrypted(algorithm, iv, der(PrivateFormat.TraditionalOpenSSL))
    header = f"Proc-Type: 4,ENCRYPTED\nDEK-Info: {name},{iv.hex().upper()}\n\n"
    return block("RSA PRIVATE KEY", content, header)


def camellia(passphrase: str = PASSPHRASE) -> bytes:
    """Return a key that OpenSSL opens, and cryptography does not."""
    # It has moved from one module of cryptography to the other.
    cipher = getattr(decrepit, "Camellia", None) or algorithms.Camellia
    return traditional("CAMELLIA-256-CBC", cipher, 32, SALT * 2, passphrase)


def des() -> bytes:
    """Return a key that neither library opens: single DES is Triple DES with one key."""
    return traditional("DES-CBC", lambda key: TripleDES(key * 3), 8, SALT)


def des_with_md5() -> bytes:
    """Return a key that cryptography opens and OpenSSL 3 does not (RFC 8018 section 6.1)."""
    derived = PASSPHRASE.encode() + SALT
    for _ in range(2000):
        derived = md5(derived, usedforsecurity=False).digest()
    content = encrypted(TripleDES(derived[:8] * 3), derived[8:], der())
    algorithm = bytes.fromhex(f"301b06092a864886f70d010503300e0408{SALT.hex()}020207d0")
    return block("ENCRYPTED PRIVATE KEY", der_sequence(algorithm, der_value(0x04, content)))


def elliptic() -> bytes:
    key = generate_private_key(SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pkcs12() -> bytes:
    credentials = AUTHORITY.issue_client(NAME)
    return serialize_key_and_certificates(
        None, rsa_key(), credentials.certificate, credentials.issuers, NoEncryption()
    )


def public() -> bytes:
    return rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def open_ssh() -> bytes:
    return rsa_key().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@frozen
class KeyFile:
    """A key file.

    Attributes:
        make: Returns the content.
        passphrase: The passphrase that is given for it, or None.
        rule: The rule that the file breaks, or None for a file that works.
        words: Words of the finding.
    """

    make: Callable[[], bytes]
    passphrase: str | None = None
    rule: Rule | None = None
    words: str = ""


READABLE, WRONG = Rule.READABLE, Rule.PASSPHRASE
KEY_FILES = {
    "PKCS#1": KeyFile(lambda: pem(PrivateFormat.TraditionalOpenSSL)),
    "encrypted PKCS#1": KeyFile(
        lambda: pem(PrivateFormat.TraditionalOpenSSL, PASSPHRASE), PASSPHRASE
    ),
    "CRLF": KeyFile(lambda: pem().replace(b"\n", b"\r\n")),
    "text around": KeyFile(lambda: b"Bag Attributes\n  x: y\n" + pem() + b"Bye.\n"),
    "byte order mark": KeyFile(lambda: b"\xef\xbb\xbf" + pem()),
    "non-ASCII passphrase": KeyFile(lambda: pem(passphrase="fake-Zürich"), "fake-Zürich"),
    "longest passphrase": KeyFile(lambda: pem(passphrase="f" * 1023), "f" * 1023),
    "Camellia": KeyFile(camellia, PASSPHRASE),
    "empty passphrase": KeyFile(lambda: camellia("")),
    "Camellia without": KeyFile(camellia, None, WRONG, "encrypted: give its passphrase"),
    "Camellia wrong": KeyFile(camellia, "fake", READABLE, "CAMELLIA-256-CBC, or the passphrase"),
    "DES": KeyFile(des, PASSPHRASE, READABLE, "may lack its cipher, DES-CBC"),
    "DES with MD5": KeyFile(
        des_with_md5, PASSPHRASE, READABLE, "passphrase is right, but its cipher is not supported"
    ),
    "DES with MD5 wrong": KeyFile(des_with_md5, "fake", READABLE, "DES with MD5, or the pass"),
    "wrong": KeyFile(lambda: pem(passphrase=PASSPHRASE), "fake", WRONG, "does not open"),
    "wrong non-ASCII": KeyFile(lambda: pem(passphrase=PASSPHRASE), "fakeé", WRONG, "in UTF-8"),
    "too long": KeyFile(
        lambda: pem(passphrase="f" * 1000), "f" * 1025, WRONG, "longer than 1024 bytes"
    ),
    "too long and not needed": KeyFile(pem, "f" * 1025, WRONG, "not encrypted"),
    "another key": KeyFile(
        lambda: private_key("server").private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        None,
        Rule.KEY_MATCHES,
        "give the key it was made with",
    ),
    "another type": KeyFile(elliptic, None, Rule.KEY_MATCHES, "is of another type"),
    "certificate": KeyFile(lambda: AUTHORITY.root_pem, None, READABLE, "only CERTIFICATE"),
    "public key": KeyFile(public, None, READABLE, "only PUBLIC KEY"),
    "OpenSSH": KeyFile(open_ssh, None, READABLE, "ssh-keygen"),
    "DER": KeyFile(der, None, READABLE, "openssl pkey -inform DER"),
    "PKCS#12": KeyFile(pkcs12, None, READABLE, "openssl pkcs12"),
    "UTF-16": KeyFile(lambda: pem().decode().encode("utf-16"), None, READABLE, "UTF-16"),
    "empty": KeyFile(lambda: b"\n", None, READABLE, "it is empty"),
    "prose": KeyFile(lambda: b"fake\n", None, READABLE, "no line that starts with"),
    "indented": KeyFile(
        lambda: textwrap.indent(pem().decode(), "  ").encode(), None, READABLE, "margin"
    ),
    "half": KeyFile(lambda: pem()[:900], None, READABLE, "damaged or cut off"),
    "half encrypted": KeyFile(
        lambda: pem(passphrase=PASSPHRASE)[:900], PASSPHRASE, READABLE, "damaged or cut off"
    ),
    "without its last lines": KeyFile(
        lambda: block("PRIVATE KEY", der()[:-90]), None, READABLE, "damaged or cut off"
    ),
}
