"""Encrypt pairs for storage, each bound to its grant, generation and consent."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime

from attrs import frozen
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Oddity, Secret, Token
from blink_oauth_keeper.errors import SealError

from .protocol import GrantKey, Record
from .rules import fingerprint

__all__ = ["Binding", "Key", "Sealed", "Sealer", "new_key", "sealer_for"]

Key = str | bytes | Secret
KEY_LENGTH = 32
ID_LENGTH = 16
ODDITIES = frozenset(Oddity)


def new_key() -> Secret:
    """Return a new random key. Store what its `reveal()` returns like a password."""
    return Secret(Fernet.generate_key().decode(), what="key")


@frozen
class Binding:
    """The grant, generation and consent that a pair is sealed for. It opens for no other."""

    key: GrantKey
    generation: int
    consent: int

    def __str__(self) -> str:
        return f"a grant at {self.key.grant.target_id}, generation {self.generation}"

    def members(self) -> dict[str, object]:
        """Return the members to seal together with the pair."""
        return {
            "client_id": self.key.client_id,
            "target_id": self.key.grant.target_id,
            "username": self.key.grant.username,
            "generation": self.generation,
            "consent": self.consent,
        }


@frozen
class Sealed:
    """A sealed pair, and the id of the key that it was sealed with."""

    text: str
    key_id: str


class Sealer:
    """Seals pairs with the first key, opens them with any key, and makes fingerprints.

    Args:
        keys: Valid Fernet keys, the newest first.
        fingerprint_key: The key of the fingerprints.
    """

    def __init__(self, keys: Sequence[Secret], fingerprint_key: Secret) -> None:
        self._fernet = MultiFernet([Fernet(key.reveal()) for key in keys])
        ids = (_derive(key, "key id").hex()[:ID_LENGTH] for key in keys)
        self.key_ids = tuple(dict.fromkeys(ids))
        self._fingerprint_key = _derive(fingerprint_key, "fingerprint")

    def seal(self, binding: Binding, token: Token) -> Sealed:
        """Return a pair sealed for a binding."""
        refresh = token.refresh_token
        members = binding.members() | {
            "access_token": token.access_token.reveal(),
            "refresh_token": None if refresh is None else refresh.reveal(),
            "token_type": token.token_type,
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "scope": None if token.scope is None else sorted(token.scope),
            "oddities": sorted(token.oddities),
        }
        return Sealed(self._fernet.encrypt(json.dumps(members).encode()).decode(), self.key_ids[0])

    def seal_record(self, record: Record) -> Sealed | None:
        """Return the sealed pair of a record, or None if the record has no pair."""
        if record.token is None:
            return None
        return self.seal(Binding(record.key, record.generation, record.consent), record.token)

    def open(self, binding: Binding, sealed: Sealed) -> Token:
        """Return the pair that was sealed for a binding.

        Raises:
            SealError: The key is missing, or the pair was not sealed for this binding.
        """
        if sealed.key_id not in self.key_ids:
            raise SealError(
                f"The token of {binding} is sealed with the key {sealed.key_id}, which is not "
                f"among those given ({', '.join(self.key_ids)}). The stored token is unchanged. "
                "Add that key to keys."
            )
        token = _open(self._fernet, sealed.text, binding.members())
        if token is None:
            raise SealError(
                f"The token of {binding} was not sealed for this row: it was altered, moved or put "
                "back from an older copy. The stored token is unchanged. Restore the row, or ask "
                "the customer for a new consent."
            )
        return token

    def fingerprint(self, text: str) -> str:
        """Return the keyed fingerprint of a text."""
        return fingerprint(self._fingerprint_key, text)


def sealer_for(keys: Sequence[Key], fingerprint_key: Key | None) -> Sealer | InvalidInputError:
    """Return a sealer, or an error if the keys are invalid.

    The error is returned and not raised, so that no traceback contains a key.

    Args:
        keys: Fernet keys: 32 random bytes in URL-safe base64, the newest first.
        fingerprint_key: The key of the fingerprints; None to derive it from the last of `keys`.
    """
    if isinstance(keys, (str, bytes, Secret)) or not isinstance(keys, Sequence):
        return InvalidInputError("keys must be a list of keys, the newest first.")
    if not keys:
        return InvalidInputError("keys is empty: without a key no token can be stored.")
    texts = [_as_text(key) for key in keys]
    for number, text in enumerate(texts, 1):
        if not _is_key(text):
            return InvalidInputError(
                f"Key {number} of {len(texts)} is no Fernet key: 32 bytes in URL-safe base64, as "
                "SqlTokenStore.new_key().reveal() returns them. Nothing was stored."
            )
    fingerprint_text = texts[-1] if fingerprint_key is None else _as_text(fingerprint_key)
    if not fingerprint_text:
        return InvalidInputError("The fingerprint key must be a str, bytes or Secret, not empty.")
    return Sealer([Secret(text) for text in texts], Secret(fingerprint_text))


def _open(fernet: MultiFernet, text: str, binding: dict[str, object]) -> Token | None:
    # Returns None instead of raising: a traceback from here would contain the tokens.
    try:
        members = json.loads(fernet.decrypt(text))
        if {name: members[name] for name in binding} != binding:
            return None
        expires_at, scope = members["expires_at"], members["scope"]
        return Token(
            access_token=members["access_token"],
            refresh_token=members["refresh_token"],
            token_type=members["token_type"],
            expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
            scope=None if scope is None else frozenset(scope),
            oddities=frozenset(map(Oddity, ODDITIES.intersection(members["oddities"]))),
        )
    except (InvalidToken, ValueError, KeyError, TypeError):
        return None


def _as_text(key: Key) -> str:
    if isinstance(key, Secret):
        return key.reveal()
    if isinstance(key, bytes):
        return key.decode("ascii", "replace")
    return key if isinstance(key, str) else ""


def _is_key(text: str) -> bool:
    try:
        return len(base64.urlsafe_b64decode(text)) == KEY_LENGTH
    except ValueError:
        return False


def _derive(key: Secret, purpose: str) -> bytes:
    # RFC 5869: keys derived for different purposes reveal nothing about each other.
    derivation = HKDF(SHA256(), length=32, salt=None, info=f"blink-oauth {purpose}".encode())
    return derivation.derive(key.reveal().encode())
