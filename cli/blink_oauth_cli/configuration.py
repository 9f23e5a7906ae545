"""Flags take precedence over `BLINK_*` variables, and these over `blink-oauth.toml`.

The platform's page on custom headers shows the ids `CIDX…`, `CIDP…`, `IIDX…` and `IIDP…`. That X
means test and P means production is inferred from its examples and not documented.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

from blink_oauth.context import Grant
from blink_oauth.settings import Settings

from .errors import CommandError, ExitCode

if TYPE_CHECKING:
    from blink_oauth_keeper import TargetProfile

__all__ = [
    "SECRETS",
    "SETTING_NAMES",
    "SQLITE",
    "Configuration",
    "Environment",
    "configure",
    "environment_of",
    "variable",
]

Environment = Literal["test", "production"]
ENVIRONMENTS: Mapping[str | None, Environment] = {"test": "test", "production": "production"}
"""The environment of a profile, by the profile's name."""

_PREFIXES: dict[str, Environment] = {
    "CIDX": "test",
    "IIDX": "test",
    "CIDP": "production",
    "IIDP": "production",
}


def environment_of(identity: str) -> Environment | None:
    """Return the environment that the prefix of a client's or target's id suggests, or None.

    Source: bLink custom headers (the shapes); their meaning is inferred.
    """
    return _PREFIXES.get(identity[:4])


PATHS = ("certificate", "key", "key_passphrase_file", "ca", "store_keys_file")
SETTING_NAMES = frozenset(
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
    """The chosen profile of the file.

    Attributes:
        name: The profile's name, or None.
        origin: The file, for messages.
        environment: The platform's environment, or None if it is not known.
        values: The settings as text, with absolute paths.
        targets: The tables of single targets, by their ids.
    """

    name: str | None = None
    origin: str = ""
    environment: Environment | None = None
    values: Mapping[str, str] = field(factory=dict)
    targets: Mapping[str, Mapping[str, Any]] = field(factory=dict)


def read_profile(path: Path, wanted: str | None) -> Profile:
    """Return a profile of the file.

    Args:
        path: The file.
        wanted: The name of the profile; None for `profile` in the file, or the only one.

    Raises:
        CommandError: The file cannot be read, has no such profile, or has an unusable value.
    """
    document = _document(path)
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict) or not profiles:
        raise _unusable(path, "it has no [profiles.…] table")
    name = wanted or document.get("profile") or (next(iter(profiles)) if len(profiles) == 1 else "")
    table = profiles.get(name) if isinstance(name, str) else None
    if not isinstance(table, dict):
        available = ", ".join(sorted(profiles))
        raise CommandError(
            f"{path} has no profile {name}." if name else f"{path} has more than one profile.",
            f"Choose one with --profile (BLINK_PROFILE): {available}.",
            ExitCode.USAGE,
        )
    table = dict(table)
    targets = table.pop("targets", {})
    if not isinstance(targets, dict) or not all(isinstance(t, dict) for t in targets.values()):
        raise _unusable(path, f"[profiles.{name}.targets] must hold a table for each target")
    environment = table.pop("environment", ENVIRONMENTS.get(name))
    if environment not in (None, *ENVIRONMENTS):
        raise _unusable(path, f"the environment of {name} must be test or production")
    for target_id in targets:
        if environment is not None and environment_of(target_id) not in {None, environment}:
            raise _unusable(path, f"the target {target_id} does not look like one of {environment}")
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


def _text(path: Path, profile: str, key: str, value: object) -> str:
    if key in SECRETS:
        raise _unusable(path, f"{key} is a secret: name a file with {key}_file instead")
    if key not in SETTING_NAMES:
        raise _unusable(path, f"[profiles.{profile}] holds the unknown key {key}")
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (str, int, float)):
        return _absolute(path.parent, key, str(value))
    raise _unusable(path, f"{key} must be text or a number")


def _absolute(folder: Path, key: str, text: str) -> str:
    """Return the value; if it is a relative path, resolve it against the file's folder."""
    if key == "store" and text.startswith(SQLITE) and "?" not in text:
        # As a path, since the folder may have characters that mean something in a URL.
        return str(folder / text.removeprefix(SQLITE))
    return str(folder / text) if key in PATHS or (key == "store" and "://" not in text) else text


def _unusable(path: Path, problem: str) -> CommandError:
    return CommandError(
        f"{path} cannot be used: {problem}. Nothing was sent.",
        "Correct the file; docs/cli.md shows one.",
        ExitCode.USAGE,
    )


DEFAULT_LEASE = 25.0


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"BLINK_{name.upper()}"


@frozen(kw_only=True)
class Configuration:
    """The merged values of flags, variables and file.

    Attributes:
        profile: The chosen profile; without a file, it has no values.
        given: The values of flags and variables, by the names of the settings; none is empty.
    """

    profile: Profile
    given: Mapping[str, str] = field(repr=False)

    @property
    def values(self) -> dict[str, str]:
        """The values of all three sources, by the names of the variables."""
        merged = {**self.profile.values, **self.given}
        return {variable(name): value for name, value in merged.items()}

    def get(self, name: str) -> str | None:
        """Return a value by the name of its setting, or None."""
        return self.given.get(name) or self.profile.values.get(name) or None

    @property
    def client_id(self) -> str:
        """The client's id in bLink's directory.

        Raises:
            CommandError: The id is not set, or belongs to another environment.
        """
        value = self.get("client_id")
        if value is None:
            raise _missing("client id", "--client-id, BLINK_CLIENT_ID or client_id")
        self._require_environment("client id", value)
        return value

    @property
    def lease(self) -> float:
        """The lease of a refresh, in seconds."""
        text = self.get("lease")
        try:
            return DEFAULT_LEASE if text is None else float(text)
        except ValueError:
            raise CommandError(
                "The lease (BLINK_LEASE) is no number of seconds. Nothing was sent.",
                "Give it as seconds, such as 25.",
                ExitCode.USAGE,
            ) from None

    def settings(self) -> Settings:
        """Return the settings of the client.

        Raises:
            InvalidInputError: A setting is missing or cannot be used.
            CommandError: The client id belongs to another environment.
        """
        settings = Settings.from_env(self.values)
        self._require_environment("client id", settings.client_id)
        return settings

    def grant(self, text: str | None) -> Grant:
        """Return the grant that the command line or the configuration names.

        Args:
            text: `TARGET/USERNAME`, or None to use the configured target and username.

        Raises:
            CommandError: Target or username is missing, or the target is of another environment.
            InvalidInputError: Target or username is invalid.
        """
        target, username = self.get("target"), self.get("username")
        if text is not None:
            target, _, username = text.partition("/")
            if not (target and username):
                raise CommandError(
                    f"“{text}” names no grant.",
                    "Write TARGET/USERNAME, such as IIDX99999/u-4711. blink-oauth status lists "
                    "the grants.",
                    ExitCode.USAGE,
                )
        if target is None or username is None:
            missing = [n for n, v in (("target", target), ("username", username)) if v is None]
            flags = " and ".join(f"--{name} ({variable(name)})" for name in missing)
            what = "grant" if len(missing) > 1 else missing[0]
            do = f"Pass {flags}, or TARGET/USERNAME."
            raise CommandError(f"No {what} given.", do, ExitCode.USAGE)
        self._require_environment("target", target)
        return Grant(target, username)

    def authorize_url(self, target_id: str) -> str:
        """Return the bank's authorize URL, in which `{target_id}` is a placeholder.

        A flag or variable overrides the target's own URL, and this one that of the profile.

        Raises:
            CommandError: The URL is not set.
        """
        own = self.profile.targets.get(target_id, {}).get("authorize_url")
        url = self.given.get("authorize_url") or own or self.get("authorize_url")
        if url is None:
            raise _missing(
                f"authorize URL of {target_id} (bLink's directory has it)",
                "--authorize-url, BLINK_AUTHORIZE_URL or authorize_url",
            )
        return str(url)

    def target_profiles(self) -> dict[str, TargetProfile]:
        """Return a `TargetProfile` for each target in the file.

        Raises:
            CommandError: A value cannot be used.
        """
        from blink_oauth_keeper import TargetProfile

        profiles = {}
        for target_id, table in self.profile.targets.items():
            fields: dict[str, Any] = {k: v for k, v in table.items() if k != "authorize_url"}
            try:
                profiles[target_id] = TargetProfile(**fields)
            except (TypeError, ValueError) as error:
                raise CommandError(
                    f"The target profile of {target_id} in {self.profile.origin} cannot be used: "
                    f"{error}",
                    "docs/operations.md lists them: rotates, after_uncertainty, rate and more.",
                    ExitCode.USAGE,
                ) from None
        return profiles

    def _require_environment(self, what: str, identity: str) -> None:
        apparent, expected = environment_of(identity), self.profile.environment
        if expected is not None and apparent not in {None, expected}:
            raise CommandError(
                f"The {what} {identity} looks like one of {apparent}, but the profile "
                f"{self.profile.name} is for {expected}. Nothing was sent.",
                f"Choose another profile with --profile, or correct the {what}.",
                ExitCode.USAGE,
            )


def configure(given: Mapping[str, str], *, folder: Path, user_folder: Path) -> Configuration:
    """Merge flags and variables with the file; flags and variables take precedence.

    Args:
        given: The values of flags and variables, by the names of the settings; none is empty.
        folder: The working folder, which is searched first.
        user_folder: The user's folder for configuration, which is searched second.

    Raises:
        CommandError: The file cannot be used, or there is no such profile.
    """
    named, wanted = given.get("config"), given.get("profile")
    candidates = [Path(named)] if named else [f / "blink-oauth.toml" for f in (folder, user_folder)]
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if named and path is None:
        raise CommandError(
            f"There is no file {named}.", "Correct --config (BLINK_CONFIG).", ExitCode.USAGE
        )
    if path is None and wanted and wanted not in ENVIRONMENTS:
        raise CommandError(
            f"There is no profile {wanted}: no blink-oauth.toml was found.",
            f"Write one to {folder} or {user_folder}, or name it with --config.",
            ExitCode.USAGE,
        )
    # Without a file, the profile's name alone determines the environment.
    profile = Profile(name=wanted, environment=ENVIRONMENTS.get(wanted))
    if path is not None:
        profile = read_profile(path, wanted)
    return Configuration(profile=profile, given=given)


def _missing(what: str, where: str) -> CommandError:
    return CommandError(
        f"The {what} is not known. Nothing was sent.",
        f"Set {where} in blink-oauth.toml. To try things out: blink-oauth sandbox.",
        ExitCode.USAGE,
    )
