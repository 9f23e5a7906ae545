"""Loads the files of a client certificate into an SSLContext, and tells apart why that fails.

OpenSSL decides whether the files can be used, because the client uses it. cryptography is asked
only for the cause, since the ssl module gives the same error for most of them.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ._pem import (
    certificates_in,
    cipher_in,
    damage_in,
    is_in_module,
    private_key_in,
    why_unreadable,
)
from .certificate import Finding, Rule
from .texts import decoded, trimmed
from .tokens import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

__all__ = ["contents", "load_authorities", "load_key", "read_chain", "read_passphrase"]

LONGEST_PASSPHRASE = 1024
"""Bytes; OpenSSL's buffer for a passphrase."""

IN_EVERY_OPENSSL = ("AES", "DES-EDE3")

REFUSALS = {
    "EE_KEY_TOO_SMALL": Rule.KEY_LENGTH,
    "CA_KEY_TOO_SMALL": Rule.KEY_LENGTH,
    "CA_MD_TOO_WEAK": Rule.SIGNATURE,
}
"""What OpenSSL's security level refuses, in the client certificate or in an intermediate one."""
OF_ANOTHER_TYPE = {"KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
MISMATCHES = OF_ANOTHER_TYPE | {"KEY_VALUES_MISMATCH"}


def contents(path: Path) -> bytes | Finding:
    """Return what a file contains, or the finding that it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as exc:
        return Finding(Rule.READABLE, f"{path} cannot be read: {exc.strerror}.")
    except ValueError:
        return Finding(Rule.READABLE, f"{str(path)!r} cannot be read: it is no valid path.")


def read_chain(path: Path) -> list[Certificate] | Finding:
    """Return the certificates of a file in its order, as OpenSSL finds them.

    Later certificates that cannot be read are left out; whether that matters, OpenSSL decides.
    """
    data = contents(path)
    if isinstance(data, Finding):
        return data
    certificates = certificates_in(data)
    if not certificates or certificates[0] is None:
        why = why_unreadable(data, path, "CERTIFICATE")
        return Finding(Rule.READABLE, f"{path} holds no PEM certificate that can be read: {why}.")
    return [certificate for certificate in certificates if certificate is not None]


def read_passphrase(path: Path) -> Secret | Finding:
    """Return the passphrase that a file holds, or the finding that there is none."""
    try:
        text = decoded(path.read_bytes())
    except (OSError, ValueError):
        text = None
    passphrase = trimmed(text or "")
    if passphrase:
        return Secret(passphrase)
    state = "cannot be read" if text is None else "is empty"
    return Finding(Rule.PASSPHRASE, f"The file of the key's passphrase {state}: {path}.")


@frozen
class _Attempt:
    """A failed attempt of OpenSSL to load a key, with what is known of its files."""

    error: OSError
    path: Path
    data: bytes
    passphrase: Secret | None
    was_asked: bool
    """Whether OpenSSL asked for the passphrase, which it does for an encrypted key alone."""
    certificates: Sequence[Certificate]


def load_key(
    context: ssl.SSLContext,
    chain: Path,
    key: Path | None,
    passphrase: Secret | None,
    certificates: Sequence[Certificate],
) -> Iterator[Finding]:
    """Load the client certificate and its key, and find what is wrong with them.

    Args:
        context: The context to load them into.
        chain: The file of the certificates.
        key: The file of the key; None if the key is in the file of the chain.
        passphrase: The passphrase of the key, or None.
        certificates: What `read_chain` returned for the chain.
    """
    path = key or chain
    data = contents(path)
    if isinstance(data, Finding):
        yield data
        return
    asked: list[bool] = []

    def answer() -> str:
        asked.append(True)
        # Without an answer, OpenSSL would ask on the terminal. A passphrase is no PIN of a PKCS#11
        # module: that is needed after a fork too, where this function is not called.
        return passphrase.reveal() if passphrase and not is_in_module(data) else ""

    try:
        context.load_cert_chain(chain, key, password=answer)
    except ValueError:
        yield Finding(
            Rule.PASSPHRASE,
            f"The passphrase is longer than {LONGEST_PASSPHRASE} bytes, the most that OpenSSL "
            f"takes: encrypt the key in {path} with a shorter one.",
        )
    except OSError as error:
        failed = _Attempt(error, path, data, passphrase, bool(asked), certificates)
        yield _cause(failed, contents(chain))
    else:
        if passphrase is not None and not asked:
            # It usually means that the wrong file was given.
            yield Finding(
                Rule.PASSPHRASE, f"The key in {path} is not encrypted: give no passphrase."
            )
        elif not _is_sound(_open(data, passphrase)):
            yield _no_key(path, "its numbers do not belong together, so it is damaged")


def _cause(failed: _Attempt, chain: bytes | Finding) -> Finding:
    """Tell why OpenSSL could not load the files."""
    reason = getattr(failed.error, "reason", None) or ""
    if reason in REFUSALS:
        text = f"OpenSSL refuses the client certificate or one of its issuers: {_words(reason)}."
        return Finding(REFUSALS[reason], text)
    damage = None if isinstance(chain, Finding) else damage_in(chain)
    if damage and not failed.was_asked and reason not in MISMATCHES:
        return Finding(Rule.READABLE, f"OpenSSL cannot read the chain: {damage}.")
    key = _open(failed.data, failed.passphrase)
    if reason in MISMATCHES or (key and not _is_key_of(key, failed.certificates[0])):
        return _mismatch(failed, key, reason)
    in_module = is_in_module(failed.data)
    if failed.was_asked and not in_module:
        return _not_decrypted(failed, key)
    if key is None:
        why = why_unreadable(failed.data, failed.path, "PRIVATE KEY")
        return _not_used(failed.path) if in_module else _no_key(failed.path, why)
    said = _words(reason) or str(failed.error)
    return Finding(Rule.READABLE, f"OpenSSL cannot use the client certificate: {said}.")


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _no_key(path: Path, why: str) -> Finding:
    return Finding(Rule.READABLE, f"{path} holds no PEM private key that can be read: {why}.")


def _not_used(path: Path) -> Finding:
    # The provider hides the reason, even that of a key of another certificate.
    return Finding(
        Rule.READABLE,
        f"OpenSSL cannot use the key in a PKCS#11 module that {path} names: check that "
        "OPENSSL_CONF loads its provider and the module and has the PIN of the token, and that the "
        "key belongs to the certificate. Wrong PINs may lock the token.",
    )


def _mismatch(failed: _Attempt, key: PrivateKeyTypes | None, reason: str) -> Finding:
    others = failed.certificates[1:]
    number = next((n for n, other in enumerate(others, 2) if key and _is_key_of(key, other)), None)
    if number is not None:
        remedy = f"it belongs to certificate {number} of the file, which has to be the first."
    elif reason in OF_ANOTHER_TYPE:
        remedy = "it is of another type. Give the key it was made with."
    else:
        remedy = "give the key it was made with."
    return Finding(
        Rule.KEY_MATCHES,
        f"The key in {failed.path} does not belong to the certificate: {remedy}",
    )


def _not_decrypted(failed: _Attempt, key: PrivateKeyTypes | None) -> Finding:
    path, passphrase, cipher = (
        failed.path,
        failed.passphrase,
        cipher_in(private_key_in(failed.data)),
    )
    if passphrase is None:
        return Finding(Rule.PASSPHRASE, f"The key in {path} is encrypted: give its passphrase.")
    if key is None and cipher.startswith(IN_EVERY_OPENSSL):
        return _not_opened(path, passphrase)
    if key is None:
        certainty = f"it may lack its cipher, {cipher}, or the passphrase is for another key"
    else:
        certainty = f"the passphrase is right, but its cipher is not supported: {cipher}"
    return Finding(
        Rule.READABLE,
        f"{ssl.OPENSSL_VERSION} cannot decrypt the key in {path}: {certainty}. To encrypt it anew: "
        "openssl pkcs8 -topk8 -v2 aes-256-cbc -provider legacy -provider default "
        f"-in {quote(str(path))} -out NEW.key",
    )


def _not_opened(path: Path, passphrase: Secret) -> Finding:
    text = (
        f"The passphrase does not open the key in {path}: it is for another key, or the file is "
        "damaged."
    )
    if not passphrase.reveal().isascii():
        text += " OpenSSL got it in UTF-8; if it was typed in another encoding, encrypt the key "
        text += "anew with a passphrase in ASCII."
    return Finding(Rule.PASSPHRASE, text)


def _open(data: bytes, passphrase: Secret | None) -> PrivateKeyTypes | None:
    """Return the key that OpenSSL finds as cryptography reads it, or None if it cannot."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # Testing the primes would take 90 ms, most of the start-up time; `_is_sound` takes 2 ms.
        return load_pem_private_key(
            private_key_in(data),
            passphrase.reveal().encode() if passphrase else None,
            unsafe_skip_rsa_key_validation=True,
        )
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return None


def _is_key_of(key: PrivateKeyTypes, certificate: Certificate) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return key.public_key() == certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False


def _is_sound(key: PrivateKeyTypes | None) -> bool:
    """Return whether a test signature of an RSA key is valid; True if there is no such key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    try:
        if isinstance(key, RSAPrivateKey):
            _test_signature(key)
    except (InvalidSignature, ValueError):
        return False
    return True


def _test_signature(key: RSAPrivateKey) -> None:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signature = key.sign(b"", PKCS1v15(), SHA256())
    key.public_key().verify(signature, b"", PKCS1v15(), SHA256())


def load_authorities(context: ssl.SSLContext, ca: Path | None) -> Finding | None:
    """Trust the authorities in a file, or those of the operating system.

    Args:
        context: The context that has to trust them.
        ca: Their PEM file, or None for those of the operating system.

    Returns:
        The finding that they cannot be loaded, or None.
    """
    if ca is None:
        return None if _load_system_authorities(context) else _no_system_authorities()
    data = contents(ca)
    if isinstance(data, Finding):
        return Finding(Rule.AUTHORITIES, f"The authorities in {data.text}")
    try:
        context.load_verify_locations(ca)
    except OSError:
        return Finding(
            Rule.AUTHORITIES,
            f"The authorities in {ca} cannot be read: expected PEM certificates, but "
            f"{why_unreadable(data, ca, 'CERTIFICATE')}.",
        )
    return None


def _load_system_authorities(context: ssl.SSLContext) -> bool:
    """Trust the authorities of the operating system; return whether there are any.

    `SSLContext.load_default_certs` would let `SSL_CERT_FILE` and `SSL_CERT_DIR` of the environment
    replace them.
    """
    paths = ssl.get_default_verify_paths()
    loaded = [
        _loads(context, cafile=paths.openssl_cafile),
        _is_filled(paths.openssl_capath) and _loads(context, capath=paths.openssl_capath),
    ]
    # Only Windows has this function.
    enumerate_store = getattr(ssl, "enum_certificates", None)
    if enumerate_store is not None:
        for der, encoding, purposes in (*enumerate_store("CA"), *enumerate_store("ROOT")):
            trusted = purposes is True or ssl.Purpose.SERVER_AUTH.oid in purposes
            if encoding == "x509_asn" and trusted:
                loaded.append(_loads(context, cadata=der))
    return any(loaded)


def _loads(context: ssl.SSLContext, **authorities: Any) -> bool:
    try:
        context.load_verify_locations(**authorities)
    except OSError:
        return False
    return True


def _is_filled(folder: str) -> bool:
    try:
        return any(Path(folder).iterdir())
    except OSError:
        return False


def _no_system_authorities() -> Finding:
    paths = ssl.get_default_verify_paths()
    return Finding(
        Rule.AUTHORITIES,
        f"This system has no authorities to trust: OpenSSL looks for them in "
        f"{paths.openssl_cafile} and {paths.openssl_capath}. Install the system's package of "
        "them, or set ca to a PEM file. SSL_CERT_FILE and SSL_CERT_DIR have no effect.",
    )
