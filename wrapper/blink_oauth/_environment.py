"""The `BLINK_*` variables, read into the arguments of `Settings`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .tls import ClientCertificate
from .tokens import Secret, sendable

__all__ = ["read_environment"]

REQUIRED = ("base_url", "client_id", "user_agent")
TIMEOUTS = ("connect", "read", "write", "pool", "total")
FLAGS = ("trust_env", "allow_plain_http")
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})


class _UnusableError(Exception):
    """A variable cannot be used; the message says which and why."""


def read_environment(environ: Mapping[str, str]) -> dict[str, Any] | str:
    """Turn the variables into the arguments of `Settings`, or say in words what is wrong.

    It returns the words, as the variables hold a passphrase and an error would carry this frame.
    """
    try:
        return _read(environ)
    except _UnusableError as exc:
        return str(exc)


def _read(environ: Mapping[str, str]) -> dict[str, Any]:
    for name, value in environ.items():
        if name.startswith("BLINK_") and not sendable(value):
            raise _UnusableError(f"The variable {name} is no valid Unicode text.")
    values: dict[str, Any] = {name: _required(environ, _variable(name)) for name in REQUIRED}
    values["timeouts"] = {
        name: _seconds(environ, variable)
        for name in TIMEOUTS
        if environ.get(variable := _variable(f"timeout_{name}"))
    }
    values |= {name: _flag(environ, _variable(name)) for name in FLAGS}
    if environ.get("BLINK_PROXY"):
        values["proxy"] = Secret(environ["BLINK_PROXY"])
    return values | {"certificate": _certificate(environ)}


def _variable(name: str) -> str:
    return f"BLINK_{name.upper()}"


def _required(environ: Mapping[str, str], variable: str) -> str:
    value = environ.get(variable, "")
    if not value:
        raise _UnusableError(f"The variable {variable} is not set: the README says what it holds.")
    return value


def _seconds(environ: Mapping[str, str], variable: str) -> float:
    try:
        return float(environ[variable])
    except ValueError:
        raise _UnusableError(f"The variable {variable} must be a number of seconds.") from None


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    value = environ.get(variable, "").lower()
    if value not in TRUE | FALSE:
        raise _UnusableError(f"The variable {variable} must be 1 or 0.")
    return value in TRUE


def _certificate(environ: Mapping[str, str]) -> ClientCertificate | None:
    chain = environ.get("BLINK_CERTIFICATE")
    if not chain:
        return None
    return ClientCertificate(
        chain=chain,
        key=environ.get("BLINK_KEY") or None,
        passphrase=_passphrase(environ),
        ca=environ.get("BLINK_CA") or None,
    )


def _passphrase(environ: Mapping[str, str]) -> Secret | None:
    direct, file = environ.get("BLINK_KEY_PASSPHRASE"), environ.get("BLINK_KEY_PASSPHRASE_FILE")
    if direct and file:
        raise _UnusableError("Set BLINK_KEY_PASSPHRASE or BLINK_KEY_PASSPHRASE_FILE, not both.")
    if not file:
        return Secret(direct) if direct else None
    try:
        text = Path(file).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        text = None
    if not text:
        state = "cannot be read" if text is None else "is empty"
        raise _UnusableError(f"The file that BLINK_KEY_PASSPHRASE_FILE names {state}: {file}.")
    return Secret(text)
