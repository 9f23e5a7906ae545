"""What a command was told: flags over `BLINK_*` variables over `blink-oauth.toml`.

The ids `CIDX…`, `CIDP…`, `IIDX…` and `IIDP…` stand on the platform's page on custom headers. That X
means test and P production is inferred from its examples, so it is a reason to ask, not a fact.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

from blink_oauth.context import Grant
from blink_oauth.settings import Settings

from .errors import ExitCode, TroubleError

if TYPE_CHECKING:
    from blink_oauth_keeper import TargetProfile

__all__ = [
    "KEYS",
    "SECRETS",
    "Configuration",
    "Environment",
    "configure",
    "environment_of",
    "variable",
]

Environment = Literal["test", "production"]
ENVIRONMENTS: Mapping[str | None, Environment] = {"test": "test", "production": "production"}
"""What the name of a profile says of its environment."""

_PREFIXES: dict[str, Environment] = {
    "CIDX": "test",
    "IIDX": "test",
    "CIDP": "production",
    "IIDP": "production",
}


def environment_of(identity: str) -> Environment | None:
    """Return the environment that the id of a client or a target looks like, or None.

    Source: bLink custom headers (the shapes); their meaning is inferred.
    """
    return _PREFIXES.get(identity[:4])


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
    environment = table.pop("environment", ENVIRONMENTS.get(name))
    if environment not in (None, *ENVIRONMENTS):
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


LEASE = 25.0


def variable(name: str) -> str:
    """Return the name of the variable that says the same as a key of the file."""
    return f"BLINK_{name.upper()}"


@frozen(kw_only=True)
class Configuration:
    """Everything a command was told, the strongest source first.

    Attributes:
        profile: The part of the file that holds, empty without a file.
        values: The variables by their names, flags and file included.
    """

    profile: Profile
    values: Mapping[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        """Return a value by its key in the file, or None."""
        return self.values.get(variable(name)) or None

    @property
    def client_id(self) -> str:
        """Our id in bLink's directory.

        Raises:
            TroubleError: Nobody told it, or it belongs to another environment.
        """
        value = self.get("client_id")
        if value is None:
            raise _missing("client id", "--client-id, BLINK_CLIENT_ID or client_id")
        self._guard("client id", value)
        return value

    @property
    def lease(self) -> float:
        """Seconds that a refresh has at most."""
        text = self.get("lease")
        try:
            return LEASE if text is None else float(text)
        except ValueError:
            raise TroubleError(
                "The lease (BLINK_LEASE) is no number of seconds. Nothing was sent.",
                "Give it as seconds, such as 25.",
                ExitCode.USAGE,
            ) from None

    def settings(self) -> Settings:
        """Return the settings of the client.

        Raises:
            InvalidInputError: One is missing or cannot be used.
            TroubleError: The client id belongs to another environment.
        """
        settings = Settings.from_env(self.values)
        self._guard("client id", settings.client_id)
        return settings

    def grant(self, text: str | None) -> Grant:
        """Return the grant that a command is about.

        Args:
            text: `TARGET/USERNAME`, or None for the target and the username that are said apart.

        Raises:
            TroubleError: It is not said which, or it belongs to another environment.
            InvalidInputError: It is no grant.
        """
        target, username = self.get("target"), self.get("username")
        if text is not None:
            target, _, username = text.partition("/")
            if not (target and username):
                raise TroubleError(
                    f"“{text}” names no grant.",
                    "Write TARGET/USERNAME, such as IIDX99999/u-4711. blink-oauth status lists "
                    "the grants.",
                    ExitCode.USAGE,
                )
        if target is None or username is None:
            raise TroubleError(
                "It is not said which grant is meant.",
                "Write TARGET/USERNAME, or --target and --username (BLINK_TARGET, BLINK_USERNAME).",
                ExitCode.USAGE,
            )
        self._guard("target", target)
        return Grant(target, username)

    def authorize_url(self, target_id: str) -> str:
        """Return the bank's authorize URL, in which `{target_id}` stands for the target.

        Raises:
            TroubleError: Nobody told it.
        """
        url = self.get("authorize_url") or self.profile.targets.get(target_id, {}).get(
            "authorize_url"
        )
        if url is None:
            raise _missing(
                f"authorize URL of {target_id} (bLink's directory has it)",
                "--authorize-url, BLINK_AUTHORIZE_URL or authorize_url",
            )
        return str(url)

    def target_profiles(self) -> dict[str, TargetProfile]:
        """Return what the file knows of single targets.

        Raises:
            TroubleError: A value cannot be used.
        """
        from blink_oauth_keeper import TargetProfile

        profiles = {}
        for target_id, table in self.profile.targets.items():
            habits: dict[str, Any] = {k: v for k, v in table.items() if "authorize" not in k}
            try:
                profiles[target_id] = TargetProfile(**habits)
            except (TypeError, ValueError) as error:
                raise TroubleError(
                    f"The habits of {target_id} in {self.profile.origin} cannot be used: {error}",
                    "docs/operations.md lists them: rotates, after_uncertainty, rate and more.",
                    ExitCode.USAGE,
                ) from None
        return profiles

    def _guard(self, what: str, identity: str) -> None:
        looks_like, meant = environment_of(identity), self.profile.environment
        if meant is not None and looks_like not in {None, meant}:
            raise TroubleError(
                f"The {what} {identity} looks like one of {looks_like}, but the profile "
                f"{self.profile.name} is for {meant}. Nothing was sent.",
                f"Choose another profile with --profile, or correct the {what}.",
                ExitCode.USAGE,
            )


def configure(said: Mapping[str, str], *, folder: Path, user_folder: Path) -> Configuration:
    """Put the file under what flags and variables say.

    Args:
        said: What they say, by the keys of the file; nothing empty.
        folder: The working folder, the first where a file is looked for.
        user_folder: The user's folder for configuration, the second.

    Raises:
        TroubleError: The file cannot be used, or there is no such profile.
    """
    named, wanted = said.get("config"), said.get("profile")
    places = [Path(named)] if named else [f / "blink-oauth.toml" for f in (folder, user_folder)]
    path = next((place for place in places if place.exists()), None)
    if named and path is None:
        raise TroubleError(
            f"There is no file {named}.", "Correct --config (BLINK_CONFIG).", ExitCode.USAGE
        )
    if path is None and wanted and wanted not in ENVIRONMENTS:
        raise TroubleError(
            f"There is no profile {wanted}: no blink-oauth.toml was found.",
            f"Write one to {folder} or {user_folder}, or name it with --config.",
            ExitCode.USAGE,
        )
    # Without a file, the name alone says which environment is meant.
    profile = Profile(name=wanted, environment=ENVIRONMENTS.get(wanted))
    if path is not None:
        profile = read_profile(path, wanted)
    values = {variable(name): value for name, value in {**profile.values, **said}.items()}
    return Configuration(profile=profile, values=values)


def _missing(what: str, where: str) -> TroubleError:
    return TroubleError(
        f"The {what} is not known. Nothing was sent.",
        f"Set {where} in blink-oauth.toml. To try things out: blink-oauth sandbox.",
        ExitCode.USAGE,
    )
