"""Encrypt pairs for storage, each bound to its row, and authenticate the columns of a grant's row.

A pair names its grant, generation, consent and place, and opens nowhere else. The MAC of a row
covers what is not sealed and decides whether the pair is presented: state and attempts.

Both are missing where a process of the version before has written. Such a row is accepted until
the store is upgraded: it is read with `strict=False`. A pair that is sealed after the upgrade says
so, and never opens in a row without a valid MAC.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import lru_cache

from attrs import field, frozen
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blink_oauth.arguments import type_of
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Oddity, Secret, Token
from blink_oauth_keeper.errors import SealError

from .keys import Key, KeyProvider, LiteralKeys, is_list_of_keys, normalized, text_of
from .protocol import GrantKey, Origin, Record
from .rules import NO_EXTRA, fingerprint, stored_extra

__all__ = [
    "ID_LENGTH",
    "Binding",
    "Key",
    "NamedKey",
    "Sealed",
    "Sealer",
    "Status",
    "StoreKey",
    "altered",
    "key_id",
    "new_key",
    "sealer_for",
]

ID_LENGTH = 16
ASK_INTERVAL = 3.0
"""Seconds after which the provider is asked again for the same unknown key."""
ODDITIES = frozenset(Oddity)

RECORD_PLACE = "grants"
KEY_PLACE = "store key"
MOVED_UNOPENED = frozenset({Origin.REPLACED})
MOVED_BY_VERSION_BEFORE = frozenset({Origin.REPLACED, Origin.REFUSED})

logger = logging.getLogger("blink_oauth_keeper.store")


def new_key() -> Secret:
    """Return a new random key. Store what its `reveal()` returns like a password."""
    return Secret(Fernet.generate_key().decode(), what="key")


@frozen
class Binding:
    """The grant, generation, consent and place that a pair is sealed for. It opens for no other.

    Args:
        key: The client and the grant.
        generation: The generation of the pair.
        consent: The consent that the pair belongs to.
        origin: The origin of a journal entry; None for the pair of a record.
    """

    key: GrantKey
    generation: int
    consent: int
    origin: Origin | None = None

    def __str__(self) -> str:
        return f"a grant at {self.key.grant.target_id}, generation {self.generation}"

    def members(self) -> dict[str, object]:
        """Return the members to seal together with the pair."""
        # A process of the version before knows no foreign pairs. It must not open one: it would
        # revoke it.
        is_foreign = self.origin is Origin.FOREIGN
        return {
            "client_id": self.key.client_id,
            "target_id": self.key.grant.target_id,
            "username": self.key.grant.username,
            "generation": self.generation,
            "consent": f"foreign {self.consent}" if is_foreign else self.consent,
        }

    @property
    def place(self) -> str:
        """The table, and the origin of a journal entry, which decides whether it is salvaged."""
        return RECORD_PLACE if self.origin is None else f"journal: {self.origin.value}"

    def places(self, *, strict: bool) -> Collection[str | None]:
        """Return the places that a pair which is read here may have been sealed for.

        Args:
            strict: Whether to refuse what a process of the version before has sealed or moved.
        """
        # A pair that could not be opened is moved to the journal as it is, and never salvaged.
        moved = MOVED_UNOPENED if strict else MOVED_BY_VERSION_BEFORE
        places = {self.place, RECORD_PLACE} if self.origin in moved else {self.place}
        return places if strict else {*places, None}


@frozen
class Sealed:
    """A sealed pair, and the id of the key that it was sealed with."""

    text: str
    key_id: str


@frozen
class Status:
    """The columns of a grant's row that its MAC covers besides the binding.

    Args:
        state: The stored state.
        attempts: The number of attempts.
    """

    state: str
    attempts: int


@frozen
class StoreKey:
    """The keys that are derived from the random key of a store.

    Attributes:
        fingerprints: Makes the fingerprints in logs.
        pseudonyms: Makes the usernames of tombstones.
    """

    fingerprints: bytes = field(repr=False)
    pseudonyms: bytes = field(repr=False)


@frozen
class NamedKey:
    """A key, and the ids that a pair sealed with it may have.

    Attributes:
        id: The id of the key.
        ids: This id, and those under which earlier versions stored the key if it was written
            otherwise, such as with a line end.
        fernet: Seals and opens with the key.
        secret: The key, normalized.
        mac_key: Authenticates rows.
    """

    id: str
    ids: tuple[str, ...]
    fernet: Fernet = field(repr=False)
    secret: Secret
    mac_key: bytes = field(repr=False)


class Sealer:
    """Seals and authenticates with the current key, opens and verifies with any key.

    It also makes fingerprints for logs.

    Args:
        provider: Gives the keys.
        keys: The provider's keys, the current one first.
        fingerprint_key: The key of the fingerprints, unless `fingerprint` is given another one.
        monotonic: Returns seconds of a clock that never goes back.
    """

    # No lock: a second question does no harm, and another thread may hold a lock during a fork.

    def __init__(
        self,
        provider: KeyProvider,
        keys: Sequence[NamedKey],
        fingerprint_key: Secret,
        monotonic: Callable[[], float],
    ) -> None:
        self._provider, self._monotonic = provider, monotonic
        self._current = keys[0]
        self._by_id = {name: key for key in keys for name in key.ids}
        self._asked_at: dict[str, float] = {}
        self._provider_fails = False
        self._fingerprint_key = _derive(fingerprint_key, "fingerprint")

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids that the keys have, that of the current key first."""
        return tuple(dict.fromkeys((self.current().id, *self._by_id)))

    def current(self) -> NamedKey:
        """Return the key that seals now, as the provider says."""
        keys = self._ask(lambda: [self._provider.current()])
        if keys:
            self._current = keys[0]
        return self._current

    def key(self, key_id: str) -> NamedKey | None:
        """Return the key with an id, or None. If it is unknown, ask the provider again."""
        if key_id not in self._by_id and self._may_ask(key_id):
            self._ask(self._provider.keys)
            if key_id not in self._by_id:
                # Not before: meanwhile another thread would take the key for missing.
                self._asked_at[key_id] = self._monotonic()
        return self._by_id.get(key_id)

    def _may_ask(self, key_id: str) -> bool:
        now = self._monotonic()
        for asked, at in list(self._asked_at.items()):
            if now - at >= ASK_INTERVAL:
                self._asked_at.pop(asked, None)
        return key_id not in self._asked_at

    def _ask(self, question: Callable[[], Sequence[Key]]) -> list[NamedKey]:
        """Add the keys that the provider returns; return them, or none if it fails."""
        keys = _asked(question)
        if isinstance(keys, InvalidInputError):
            if not self._provider_fails:
                logger.warning("%s The keys known so far stay in use.", keys)
            self._provider_fails = True
            return []
        self._provider_fails = False
        self._by_id.update((name, key) for key in keys for name in key.ids)
        return keys

    def seal(self, binding: Binding, token: Token, *, strict: bool = False) -> Sealed:
        """Return a pair sealed for a binding.

        Args:
            binding: Where the pair belongs.
            token: The pair.
            strict: Whether the pair must not open in a row without a valid MAC.
        """
        refresh = token.refresh_token
        members = binding.members() | {
            "place": binding.place,
            "strict": strict,
            "access_token": token.access_token.reveal(),
            "refresh_token": None if refresh is None else refresh.reveal(),
            "token_type": token.token_type,
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "scope": None if token.scope is None else sorted(token.scope),
            "oddities": sorted(token.oddities),
        }
        # Earlier versions read the members that they know, and no others.
        if extra := stored_extra(token.extra):
            members["extra"] = extra
        key = self.current()
        return Sealed(key.fernet.encrypt(json.dumps(members).encode()).decode(), key.id)

    def seal_record(self, record: Record, *, strict: bool = False) -> Sealed | None:
        """Return the sealed pair of a record, or None if the record has no pair."""
        if record.token is None:
            return None
        binding = Binding(record.key, record.generation, record.consent)
        return self.seal(binding, record.token, strict=strict)

    def open(self, binding: Binding, sealed: Sealed, *, strict: bool = True) -> Token:
        """Return the pair that was sealed for a binding, whatever the MAC of its row.

        Args:
            binding: Where the pair was read.
            sealed: The sealed pair.
            strict: Whether to refuse what a process of the version before has sealed or moved.

        Raises:
            SealError: The key is missing, or the pair was not sealed for this binding.
        """
        return self._open(binding, sealed, strict=strict)[0]

    def open_record(
        self, binding: Binding, sealed: Sealed, status: Status, mac: str | None, *, strict: bool
    ) -> Token:
        """Return the pair of a grant's row.

        Args:
            binding: Where the pair was read.
            sealed: The sealed pair.
            status: The columns that the MAC covers.
            mac: The MAC of the row, or None.
            strict: Whether to refuse what a process of the version before has written.

        Raises:
            SealError: A key is missing, the pair was not sealed for this binding, or the MAC is
                missing or wrong.
        """
        token, is_mac_required = self._open(binding, sealed, strict=strict)
        if strict or is_mac_required:
            self.verify(mac, binding, status)
        return token

    def verify(self, mac: str | None, binding: Binding, status: Status) -> None:
        """Check the MAC of a grant's row.

        Raises:
            SealError: The MAC is missing or wrong, or its key is missing.
        """
        if mac is None:
            raise altered(binding)
        key = self._key(binding, mac.partition(":")[0])
        if not hmac.compare_digest(mac.encode(), _mac(key, binding, status).encode()):
            raise altered(binding)

    def mac(self, binding: Binding, status: Status) -> str:
        """Return the MAC of a grant's row, after the id of its key."""
        return _mac(self.current(), binding, status)

    def _open(self, binding: Binding, sealed: Sealed, *, strict: bool) -> tuple[Token, bool]:
        key = self.key_of(binding, sealed)
        opened = _open(key.fernet, sealed.text, binding, strict=strict)
        if opened is None:
            raise altered(binding)
        return opened

    def key_of(self, binding: Binding, sealed: Sealed) -> NamedKey:
        """Return the key that a pair is sealed with.

        Raises:
            SealError: The key is missing.
        """
        return self._key(binding, sealed.key_id)

    def _key(self, binding: Binding, key_id: str) -> NamedKey:
        key = self.key(key_id)
        if key is None:
            known = list(self._by_id.values())
            given = ", ".join(dict.fromkeys(each.id for each in known))
            raise SealError(
                f"The token of {binding} is sealed with the key {key_id}, which is not "
                f"among those given ({given}). The stored token is unchanged. "
                "Add that key to keys."
            )
        return key

    def fingerprint(self, text: str, key: StoreKey | None = None) -> str:
        """Return the keyed fingerprint of a text.

        Args:
            text: The text.
            key: The key of the store; None for the key that was given or derived.
        """
        return fingerprint(key.fingerprints if key else self._fingerprint_key, text)

    def seal_key(self, secret: Secret) -> Sealed:
        """Return the random key of a store, sealed."""
        members = {"place": KEY_PLACE, "key": secret.reveal()}
        key = self.current()
        return Sealed(key.fernet.encrypt(json.dumps(members).encode()).decode(), key.id)

    def open_key(self, sealed: Sealed) -> StoreKey:
        """Return the keys that are derived from the sealed key of a store.

        Raises:
            SealError: The key that sealed it is missing, or it was altered.
        """
        secret = self._opened_key(sealed)
        return StoreKey(_derive(secret, "fingerprint"), _derive(secret, "pseudonym"))

    def resealed_key(self, sealed: Sealed) -> Sealed:
        """Return the key of a store sealed with the current key.

        Raises:
            SealError: The key that sealed it is missing, or it was altered.
        """
        return self.seal_key(self._opened_key(sealed))

    def _opened_key(self, sealed: Sealed) -> Secret:
        key = self.key(sealed.key_id)
        secret = _open_key(key.fernet, sealed.text) if key else None
        if secret is None:
            missing = "was altered" if key else f"is sealed with the key {sealed.key_id}, not given"
            raise SealError(
                "The key of the store's fingerprints and of its forgotten grants "
                f"{missing}. Nothing was changed. Add that key to keys, or restore the table "
                "blink_oauth_store_key."
            )
        return secret


def sealer_for(
    keys: Sequence[Key] | KeyProvider,
    fingerprint_key: Key | None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Sealer | InvalidInputError:
    """Return a sealer, or an error if the keys are invalid.

    The error is returned and not raised, so that no traceback contains a key.

    Args:
        keys: A provider, or Fernet keys: 32 random bytes in base64, the first one seals.
        fingerprint_key: The key of the fingerprints; None to derive it from the key with the lowest
            id, whatever the order of the keys is.
        monotonic: Returns seconds of a clock that never goes back.
    """
    # A class of providers has their methods, too.
    is_provider = isinstance(keys, KeyProvider) and not isinstance(keys, type)
    if not (is_provider or is_list_of_keys(keys)):
        return InvalidInputError(
            "The argument keys must be a list of keys or a KeyProvider, such as [key] or "
            f'KeyFile("tokens.keys"), but it is {type_of(keys)}. Nothing was stored.'
        )
    provider = keys if isinstance(keys, KeyProvider) else LiteralKeys(keys)
    named = _asked(provider.keys)
    if isinstance(named, InvalidInputError):
        return named
    current = _asked(lambda: [provider.current()])
    if isinstance(current, InvalidInputError):
        return current
    fingerprint_text = min(named, key=lambda key: key.id).secret
    if fingerprint_key is not None:
        text = text_of(fingerprint_key)
        if not text:
            return InvalidInputError(
                "The fingerprint key must be a str, bytes or Secret, not empty."
            )
        fingerprint_text = Secret(text)
    return Sealer(provider, [*current, *named], fingerprint_text, monotonic)


def key_id(key: Key) -> str | None:
    """Return the id of a key, which is no secret, or None if it is no Fernet key."""
    named = _named(key)
    return None if named is None else named.id


def _asked(question: Callable[[], Sequence[Key]]) -> list[NamedKey] | InvalidInputError:
    # Returns an error instead of raising: a traceback from here would contain the keys.
    try:
        keys = question()
    except InvalidInputError as error:
        return InvalidInputError(str(error))
    except Exception as error:  # noqa: BLE001  the provider may be of the application
        return InvalidInputError(f"The provider of the keys failed with {type(error).__name__}.")
    if not keys:
        return InvalidInputError("keys is empty: without a key no token can be stored.")
    named = [_named(key) for key in keys]
    valid = [key for key in named if key is not None]
    if len(valid) < len(named):
        return InvalidInputError(
            f"Key {named.index(None) + 1} of {len(named)} is no Fernet key: 32 bytes in URL-safe "
            "base64, as SqlTokenStore.new_key().reveal() returns them. Nothing was stored."
        )
    return valid


def _named(key: Key) -> NamedKey | None:
    written = text_of(key)
    text = normalized(written)
    return None if text is None else _named_text(Secret(text), Secret(written))


@lru_cache(maxsize=64)
def _named_text(secret: Secret, written: Secret) -> NamedKey:
    # Earlier versions derived the id from the key as it was written.
    forms = (secret, written, Secret(f"{secret.reveal()}\n"))
    ids = tuple(dict.fromkeys(_derive(form, "key id").hex()[:ID_LENGTH] for form in forms))
    return NamedKey(ids[0], ids, Fernet(secret.reveal()), secret, _derive(secret, "row"))


def _mac(key: NamedKey, binding: Binding, status: Status) -> str:
    text = json.dumps([*binding.members().values(), status.state, status.attempts])
    return f"{key.id}:{hmac.digest(key.mac_key, text.encode(), 'sha256').hex()}"


def altered(binding: Binding) -> SealError:
    """Return the error for a pair or row that is not as it was written."""
    error = SealError(
        f"The token of {binding} was not sealed for this row: it was altered, moved or put "
        "back from an older copy. The stored token is unchanged. Restore the row, or ask "
        "the customer for a new consent."
    )
    error.altered = True
    return error


def _open(
    fernet: Fernet, text: str, binding: Binding, *, strict: bool
) -> tuple[Token, bool] | None:
    # Returns None instead of raising: a traceback from here would contain the tokens.
    try:
        members = json.loads(fernet.decrypt(text))
        expected = binding.members()
        if {name: members[name] for name in expected} != expected:
            return None
        is_mac_required = bool(members.get("strict"))
        if members.get("place") not in binding.places(strict=strict or is_mac_required):
            return None
        expires_at, scope = members["expires_at"], members["scope"]
        token = Token(
            access_token=members["access_token"],
            refresh_token=members["refresh_token"],
            token_type=members["token_type"],
            expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
            scope=None if scope is None else frozenset(scope),
            oddities=frozenset(map(Oddity, ODDITIES.intersection(members["oddities"]))),
            extra=members.get("extra") or NO_EXTRA,
        )
        return token, is_mac_required
    except (InvalidToken, ValueError, KeyError, TypeError):
        return None


def _open_key(fernet: Fernet, text: str) -> Secret | None:
    # Returns None instead of raising: a traceback from here would contain the key.
    try:
        members = json.loads(fernet.decrypt(text))
        return Secret(members["key"]) if members["place"] == KEY_PLACE else None
    except (InvalidToken, ValueError, KeyError, TypeError):
        return None


def _derive(key: Secret, purpose: str) -> bytes:
    # RFC 5869: keys derived for different purposes reveal nothing about each other.
    derivation = HKDF(SHA256(), length=32, salt=None, info=f"blink-oauth {purpose}".encode())
    return derivation.derive(key.reveal().encode())
