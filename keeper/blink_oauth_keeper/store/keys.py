"""The keys that seal the stored pairs, and the providers that give them to a store."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from blink_oauth.arguments import require_type, wrong_argument
from blink_oauth.errors import InvalidInputError
from blink_oauth.texts import decoded
from blink_oauth.tokens import Secret

__all__ = [
    "EnvironmentKeys",
    "Key",
    "KeyFile",
    "KeyProvider",
    "LiteralKeys",
    "is_list_of_keys",
    "normalized",
    "text_of",
]

Key = str | bytes | Secret
KEY_LENGTH = 32
BYTE_ORDER_MARK = "\ufeff"
URL_SAFE = str.maketrans("+/", "-_")


@runtime_checkable
class KeyProvider(Protocol):
    """Gives a store its keys, also those that are added while the store is in use.

    If a method raises while the store is in use, the store goes on with the keys that it has. A key
    that the provider no longer returns opens until the process ends.
    """

    def current(self) -> Key:
        """Return the key that seals now. The store asks before each seal: answer quickly."""

    def keys(self) -> Sequence[Key]:
        """Return all keys, the current one among them: each of them opens.

        The store asks when it opens, and when it finds a pair that is sealed with an unknown key.
        """


class LiteralKeys(KeyProvider):
    """Keys that do not change while the process runs: the first one seals, all open.

    Args:
        keys: Fernet keys.

    Raises:
        InvalidInputError: It is no list of keys, but one key for example.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        if not is_list_of_keys(keys):
            error = wrong_argument("keys", keys, "a list of keys", "LiteralKeys([key])")
            # No traceback contains a key.
            del keys
            raise error
        self._keys = tuple(keys)

    def current(self) -> Key:
        """Return the first key."""
        return self._keys[0]

    def keys(self) -> Sequence[Key]:
        """Return the keys."""
        return self._keys


class KeyFile(KeyProvider):
    """Keys in a file, one per line: the first one seals, all open.

    A running store follows the file: it seals with the first key of the file as it is now, and
    reads the file again when it finds a pair that is sealed with an unknown key.

    Args:
        path: The file. The methods raise `InvalidInputError` if it cannot be read or has no key.

    Raises:
        InvalidInputError: The path has another type.
    """

    def __init__(self, path: Path | str) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise wrong_argument("path", path, "a path", 'KeyFile("tokens.keys")')
        is_key = isinstance(path, str) and normalized(path) is not None
        self._path = Path() if is_key else Path(path)
        if is_key:
            path = ""  # No traceback shows it.
            raise InvalidInputError(
                "KeyFile takes the path of a file, but it was given a key: pass keys=[key] to the "
                "store instead. Nothing was stored."
            )
        self._read: tuple[tuple[int, ...], Sequence[Key]] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r})"

    def current(self) -> Key:
        """Return the first key; read the file only if it has changed."""
        try:
            version = self._version()
        except OSError as error:
            raise self._error(error.strerror) from None
        read = self._read
        return (read[1] if read and read[0] == version else self.keys())[0]

    def keys(self) -> Sequence[Key]:
        """Read the file and return its keys."""
        try:
            # Before the file is read: if it changes meanwhile, it is read again.
            version = self._version()
            text = decoded(self._path.read_bytes())
        except OSError as error:
            raise self._error(error.strerror) from None
        if text is None:
            raise self._error("it is no text")
        keys = [Secret(line) for line in text.split()]
        if not keys:
            raise self._error("it is empty")
        self._read = (version, keys)
        return keys

    def _version(self) -> tuple[int, ...]:
        status = self._path.stat()
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def _error(self, reason: str | None) -> InvalidInputError:
        return InvalidInputError(f"No key can be read from {self._path}: {reason}.")


class EnvironmentKeys(KeyProvider):
    """Keys in an environment variable, separated by commas or spaces: the first seals, all open.

    Args:
        name: The name of the variable.
        environ: The variables; by default those of the process. The methods raise
            `InvalidInputError` if the variable has no key.
    """

    def __init__(
        self, name: str = "BLINK_STORE_KEYS", environ: Mapping[str, str] | None = None
    ) -> None:
        require_type("name", name, str, '"BLINK_STORE_KEYS"')
        self._name, self._environ = name, os.environ if environ is None else environ

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def current(self) -> Key:
        """Return the first key."""
        return self.keys()[0]

    def keys(self) -> Sequence[Key]:
        """Return the keys."""
        keys = self._environ.get(self._name, "").replace(",", " ").split()
        if not keys:
            raise InvalidInputError(f"{self._name} has no key.")
        return [Secret(key) for key in keys]


def text_of(key: Key) -> str:
    """Return a key as text, as it is written; an empty text if it is none."""
    if isinstance(key, Secret):
        return key.reveal()
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    return key if isinstance(key, str) else ""


def is_list_of_keys(value: object) -> bool:
    """Return whether a value may be a list of keys, and is not one key."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def normalized(text: str) -> str | None:
    """Return a key in its one form, 44 characters of URL-safe base64; None if it is no Fernet key.

    White space, a byte order mark, a missing padding and the standard alphabet do not matter.
    """
    text = "".join(text.replace(BYTE_ORDER_MARK, "").split()).translate(URL_SAFE).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return base64.urlsafe_b64encode(key).decode() if len(key) == KEY_LENGTH else None
