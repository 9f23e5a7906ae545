"""The file `blink-oauth.toml`: one profile for each environment."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from .environments import Environment, environment_of, is_environment
from .errors import ExitCode, TroubleError

__all__ = ["Profile", "no_profile", "read_profile"]

PATHS = ("certificate", "key", "key_passphrase_file", "ca", "store_keys_file")
KEYS = frozenset(
    {
        *PATHS,
        *("base_url", "client_id", "user_agent", "proxy", "trust_env", "allow_plain_http"),
        *(f"timeout_{name}" for name in ("connect", "read", "write", "pool", "total")),
        *("store", "lease", "authorize_url", "redirect_uri", "target", "username", "psu_ip"),
    }
)
SQLITE = "sqlite:///"
SECRETS = frozenset({"key_passphrase", "store_keys"})


@frozen(kw_only=True)
class Profile:
    """The part of the file that holds.

    Attributes:
        name: Its name, or None.
        origin: The file, for messages.
        environment: The platform's environment that it is for, or None.
        values: Its settings as text, paths made absolute.
        targets: What it knows of single targets, by their ids.
    """

    name: str | None = None
    origin: str = ""
    environment: Environment | None = None
    values: Mapping[str, str] = field(factory=dict)
    targets: Mapping[str, Mapping[str, Any]] = field(factory=dict)

    def of_target(self, target_id: str) -> Mapping[str, Any]:
        """Return what is known of a target."""
        return self.targets.get(target_id, {})


def no_profile(name: str | None) -> Profile:
    """Return the profile that holds without a file: only its name can say something."""
    return Profile(name=name, environment=_environment(name))


def read_profile(path: Path, wanted: str | None) -> Profile:
    """Read one profile.

    Args:
        path: The file.
        wanted: The profile that was asked for; None for `profile` in the file, or the only one.

    Raises:
        TroubleError: The file cannot be read, has no such profile, or holds what cannot be used.
    """
    document = _document(path)
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict) or not profiles:
        raise _unusable(path, "it has no [profiles.…] table")
    name = wanted or document.get("profile") or (next(iter(profiles)) if len(profiles) == 1 else "")
    table = profiles.get(name) if isinstance(name, str) else None
    if not isinstance(table, dict):
        there_are = ", ".join(sorted(profiles))
        raise TroubleError(
            f"{path} has no profile {name}." if name else f"{path} has more than one profile.",
            f"Choose one with --profile (BLINK_PROFILE): {there_are}.",
            ExitCode.USAGE,
        )
    table = dict(table)
    targets = table.pop("targets", {})
    if not isinstance(targets, dict) or not all(isinstance(t, dict) for t in targets.values()):
        raise _unusable(path, f"[profiles.{name}.targets] must hold a table for each target")
    environment = table.pop("environment", _environment(name))
    if environment is not None and not is_environment(environment):
        raise _unusable(path, f"the environment of {name} must be test or production")
    for target_id in targets:
        if environment is not None and environment_of(target_id) not in {None, environment}:
            raise _unusable(path, f"the target {target_id} looks like none of {environment}")
    values = {key: _text(path, name, key, value) for key, value in table.items()}
    return Profile(
        name=name, origin=str(path), environment=environment, values=values, targets=targets
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        raise _unusable(path, "it cannot be read as text") from None
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
    raise _unusable(path, problem)


def _environment(name: str | None) -> Environment | None:
    if name == "test":
        return "test"
    return "production" if name == "production" else None


def _text(path: Path, profile: str, key: str, value: object) -> str:
    if key in SECRETS:
        raise _unusable(path, f"{key} is a secret: name a file with {key}_file instead")
    if key not in KEYS:
        raise _unusable(path, f"[profiles.{profile}] holds the unknown key {key}")
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (str, int, float)):
        return _anchored(path.parent, key, str(value))
    raise _unusable(path, f"{key} must be text or a number")


def _anchored(folder: Path, key: str, text: str) -> str:
    """Return a value in which a relative path counts from the file that names it."""
    if key == "store" and text.startswith(SQLITE):
        return f"{SQLITE}{folder / text.removeprefix(SQLITE)}"
    return str(folder / text) if key in PATHS or (key == "store" and "://" not in text) else text


def _unusable(path: Path, problem: str) -> TroubleError:
    return TroubleError(
        f"{path} cannot be used: {problem}. Nothing was sent.",
        "Correct the file; docs/cli.md shows one.",
        ExitCode.USAGE,
    )
