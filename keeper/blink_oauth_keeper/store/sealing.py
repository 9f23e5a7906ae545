"""Tokens sealed at rest, each for its row alone."""

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

__all__ = ["Key", "Place", "Sealed", "Sealer", "new_key", "sealer_for"]

Key = str | bytes | Secret
KEY_LENGTH = 32
ID_LENGTH = 16
ODDITIES = frozenset(Oddity)


def new_key() -> Secret:
    """Return a new random key. Keep what its `reveal()` returns where you keep your passwords."""
    return Secret(Fernet.generate_key().decode(), what="key")


@frozen
class Place:
    """What a pair is sealed for: in another place the same text is refused."""

    key: GrantKey
    generation: int
    consent: int

    def __str__(self) -> str:
        return f"a grant at {self.key.grant.target_id}, generation {self.generation}"

    def members(self) -> dict[str, object]:
        """Return what stands beside the pair in the sealed text."""
        return {
            "client_id": self.key.client_id,
            "target_id": self.key.grant.target_id,
            "username": self.key.grant.username,
            "generation": self.generation,
            "consent": self.consent,
        }


@frozen
class Sealed:
    """A sealed pair, and the name of the key that it was sealed with."""

    text: str
    key_id: str


class Sealer:
    """Seal pairs with the first key, open them with any, and make fingerprints.

    Args:
        keys: Fernet keys that were checked, the newest first.
        fingerprint_key: The key of the fingerprints.
    """

    def __init__(self, keys: Sequence[Secret], fingerprint_key: Secret) -> None:
        self._fernet = MultiFernet([Fernet(key.reveal()) for key in keys])
        ids = (_derive(key, "key id").hex()[:ID_LENGTH] for key in keys)
        self.key_ids = tuple(dict.fromkeys(ids))
        self._fingerprint_key = _derive(fingerprint_key, "fingerprint")

    def seal(self, place: Place, token: Token) -> Sealed:
        """Seal a pair for one place."""
        refresh = token.refresh_token
        members = place.members() | {
            "access_token": token.access_token.reveal(),
            "refresh_token": None if refresh is None else refresh.reveal(),
            "token_type": token.token_type,
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "scope": None if token.scope is None else sorted(token.scope),
            "oddities": sorted(token.oddities),
        }
        return Sealed(self._fernet.encrypt(json.dumps(members).encode()).decode(), self.key_ids[0])

    def seal_record(self, record: Record) -> Sealed | None:
        """Seal the pair in a record for its place, if there is one."""
        if record.token is None:
            return None
        return self.seal(Place(record.key, record.generation, record.consent), record.token)

    def open(self, place: Place, sealed: Sealed) -> Token:
        """Open a sealed pair.

        Raises:
            SealError: The key is missing, or the pair was not sealed for this place.
        """
        if sealed.key_id not in self.key_ids:
            raise SealError(
                f"The token of {place} is sealed with the key {sealed.key_id}, which is not among "
                f"those given ({', '.join(self.key_ids)}). Nothing was sent and nothing was "
                "changed. Add that key to keys."
            )
        token = _opened(self._fernet, sealed.text, place.members())
        if token is None:
            raise SealError(
                f"The token of {place} was not sealed for this row: it was altered, moved or put "
                "back from an older copy. Nothing was sent and nothing was changed. Restore the "
                "row, or ask the customer for a new consent."
            )
        return token

    def fingerprint(self, text: str) -> str:
        """Return the keyed fingerprint of a text."""
        return fingerprint(self._fingerprint_key, text)


def sealer_for(keys: Sequence[Key], fingerprint_key: Key | None) -> Sealer | InvalidInputError:
    """Return a sealer, or the error that says why the keys are none.

    It returns the error instead of raising it, so that no traceback holds a plain key.

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
    other = texts[-1] if fingerprint_key is None else _as_text(fingerprint_key)
    if not other:
        return InvalidInputError("The fingerprint key must be a str, bytes or Secret, not empty.")
    return Sealer([Secret(text) for text in texts], Secret(other))


def _opened(fernet: MultiFernet, text: str, place: dict[str, object]) -> Token | None:
    # Returns instead of raising: a traceback from here would hold the open text.
    try:
        members = json.loads(fernet.decrypt(text))
        if {name: members[name] for name in place} != place:
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
    # RFC 5869: one key, several uses that tell nothing of each other.
    derivation = HKDF(SHA256(), length=32, salt=None, info=f"blink-oauth {purpose}".encode())
    return derivation.derive(key.reveal().encode())
