"""Flags take precedence over `BLINK_*` variables, and these over `blink-oauth.toml`.

A variable does not override the place of a profile: its server, its certificate and its store. A
file that is found in the working folder, and that no flag or variable names, has to be the user's
own; if it names the server, the tokens must be in its folder.

The platform's page on custom headers shows the ids `CIDX…`, `CIDP…`, `IIDX…` and `IIDP…`. That X
means test and P means production is inferred from its examples and not documented.
"""

from __future__ import annotations

import os
import shlex
import stat
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from attrs import evolve, field, frozen

from blink_oauth.context import Grant
from blink_oauth.settings import NO_REVOCATION_FIELD, Settings, is_http_url, is_loopback
from blink_oauth.texts import decoded, trimmed

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
    "environment_of_url",
    "misspelt",
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


TEST_HOST = "api-qa.np.six-group.com"
TEST_SEGMENTS = ("xe", "xp")


def environment_of_url(base_url: str) -> Environment | None:
    """Return the environment that host and path of a base URL suggest, or None.

    Source: spec/openapi.yaml, servers; inferred. The production host there is a third party's
    word, so a URL without a sign of test may be either.
    """
    url = urlsplit(base_url)
    is_test = url.hostname == TEST_HOST or any(
        f"/bankingservices/{name}/" in url.path for name in TEST_SEGMENTS
    )
    return "test" if is_test else None


PATHS = (
    *("certificate", "key", "key_passphrase_file", "ca"),
    *("store_keys_file", "webhook_secrets_file", "webhook_ca"),
)
SETTING_NAMES = frozenset(
    {
        *PATHS,
        *("base_url", "client_id", "user_agent", "proxy", "trust_env", "allow_plain_http"),
        *("accept_foreign_correlation_id", "revocation_fields"),
        *(f"timeout_{name}" for name in ("connect", "read", "write", "pool", "total")),
        *("store_keys_unwrap", "store_keys_wrap"),
        *("store", "lease", "authorize_url", "redirect_uri", "target", "username", "psu_ip"),
        "webhook_url",
    }
)
SQLITE = "sqlite:///"
FILE_NAME = "blink-oauth.toml"
SECRETS = frozenset({"key_passphrase", "store_keys", "webhook_secrets"})


@frozen(kw_only=True)
class Profile:
    """The chosen profile of the file.

    Attributes:
        name: The profile's name, or None.
        origin: The file, for messages.
        environment: The platform's environment, or None if it is not known.
        values: The settings as text, with absolute paths.
        targets: The tables of single targets, by their ids.
        is_found_here: Whether the file was found in the working folder, and not named.
    """

    name: str | None = None
    origin: str = ""
    environment: Environment | None = None
    values: Mapping[str, str] = field(factory=dict)
    targets: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    is_found_here: bool = False


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
        text = decoded(path.read_bytes())
    except OSError:
        text = None
    if text is None:
        raise _unusable(path, "it cannot be read as text")
    try:
        return tomllib.loads(text)
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
    if key == "revocation_fields" and isinstance(value, list):
        if not all(isinstance(name, str) and name for name in value):
            raise _unusable(path, f"{key} must be a list of names")
        return ",".join(value) or NO_REVOCATION_FIELD
    if isinstance(value, (str, int, float)) and "\0" not in str(value):
        return _absolute(path.parent, key, trimmed(str(value)))
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
DIRECTING = frozenset({"base_url", "ca", "webhook_url", "webhook_ca"})
"""The settings that decide which server receives a token or a notice."""
OWNED = {
    **{name: name for name in ("base_url", "client_id", "certificate", "key", "ca", "store")},
    **{name: name for name in ("webhook_url", "webhook_ca")},
    **dict.fromkeys(("key_passphrase", "key_passphrase_file"), "key_passphrase_file"),
    **dict.fromkeys(("store_keys", "store_keys_file"), "store_keys_file"),
    **{name: name for name in ("store_keys_unwrap", "store_keys_wrap")},
    **dict.fromkeys(("webhook_secrets", "webhook_secrets_file"), "webhook_secrets_file"),
}
"""The settings whose variable may not contradict a profile, with the key of the profile."""


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"BLINK_{name.upper()}"


KNOWN_VARIABLES = frozenset(
    {
        *map(variable, SETTING_NAMES | SECRETS | {"config", "profile"}),
        *("BLINK_COPY_TO", "BLINK_COPY_TO_KEYS_FILE", "BLINK_ACCOUNTS_URL"),
    }
)
"""The variables of the command, and the one that only the sandbox prints."""


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that nothing reads but whose name is like a known one, with that one.

    A variable whose name is like none belongs to another program.
    """
    known = [name.removeprefix("BLINK_") for name in sorted(KNOWN_VARIABLES)]
    found = {}
    for name in sorted(environ.keys() - KNOWN_VARIABLES):
        if name.startswith("BLINK_") and environ[name]:
            near = get_close_matches(name.removeprefix("BLINK_").upper(), known, n=1)
            if near:
                found[name] = variable(near[0])
    return found


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
            CommandError: The client id or the base URL belongs to another environment.
        """
        settings = Settings.from_env(self.values)
        self._require_environment("client id", settings.client_id)
        self._require_environment(
            "base URL", settings.base_url, environment_of_url(settings.base_url)
        )
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

    def command(self, name: str) -> tuple[str, ...]:
        """Return a command that is configured, as the list of its arguments; empty if none is.

        Args:
            name: The name of the setting.

        Raises:
            CommandError: It is named by a file that was found in the working folder, or has a
                quotation mark too few.
        """
        text = self.get(name)
        if text is None:
            return ()
        if name not in self.given and self.profile.is_found_here:
            origin = self.profile.origin
            raise CommandError(
                f"{origin} was found in the working folder and names a command, {name}. It was not "
                "run. Nothing was sent.",
                f"If you trust the file, name it: --config {origin} (BLINK_CONFIG).",
                ExitCode.USAGE,
            )
        try:
            return tuple(shlex.split(text))
        except ValueError:
            raise CommandError(
                f"The command in {name} ({variable(name)}) lacks a quotation mark. Nothing was run "
                "or sent.",
                "Write it as in a shell; no shell runs it.",
                ExitCode.USAGE,
            ) from None

    @property
    def directed_from(self) -> Path | None:
        """The working folder, if the file that was found there names server or authorities."""
        values = self.profile.values.keys() - self.given.keys()
        directs = self.profile.is_found_here and not values.isdisjoint(DIRECTING)
        return Path(self.profile.origin).parent if directs else None

    def _require_environment(
        self, what: str, identity: str, apparent: Environment | None = None
    ) -> None:
        apparent, expected = apparent or environment_of(identity), self.profile.environment
        if expected is not None and apparent not in {None, expected}:
            raise CommandError(
                f"The {what} {identity} looks like one of {apparent}, but the profile "
                f"{self.profile.name} is for {expected}. Nothing was sent.",
                f"Choose another profile with --profile, or correct the {what}.",
                ExitCode.USAGE,
            )


def configure(
    given: Mapping[str, str],
    *,
    folder: Path | None,
    user_folder: Path | None,
    variables: Collection[str] = (),
) -> Configuration:
    """Merge flags and variables with the file.

    Args:
        given: The values of flags and variables, by the names of the settings; none is empty.
        folder: The working folder, which is searched first; None if it was deleted.
        user_folder: The user's folder for configuration, which is searched second, or None.
        variables: The names in `given` whose value is that of a variable.

    Raises:
        CommandError: The file cannot be used, there is no such profile, or a variable contradicts
            it.
    """
    named, wanted = given.get("config"), given.get("profile")
    folders = [each for each in (folder, user_folder) if each is not None]
    candidates = [Path(named)] if named else [each / FILE_NAME for each in folders]
    # Unlike the method of `Path`, it returns False for a folder that this user may not search.
    path = next((candidate for candidate in candidates if os.path.exists(candidate)), None)  # noqa: PTH110
    if named and path is None:
        raise CommandError(
            f"There is no file {named}.", "Correct --config (BLINK_CONFIG).", ExitCode.USAGE
        )
    if path is None and wanted and wanted not in ENVIRONMENTS:
        raise CommandError(
            f"There is no profile {wanted}: no {FILE_NAME} was found.",
            f"Write one to {' or '.join(map(str, folders))}, or name it with --config.",
            ExitCode.USAGE,
        )
    # Without a file, the profile's name alone determines the environment.
    profile = Profile(name=wanted, environment=ENVIRONMENTS.get(wanted))
    if path is not None:
        is_found_here = not named and path.parent == folder != user_folder
        if is_found_here:
            _require_own(path)
        profile = evolve(read_profile(path, wanted), is_found_here=is_found_here)
    from_variables = {name: given[name] for name in variables if name in given}
    _require_agreement(profile, from_variables)
    _require_test_url(profile, from_variables.get("base_url"))
    return Configuration(profile=profile, given=given)


def _require_own(file: Path) -> None:
    """Require that only this user and root can write a file, its folder and what it links to."""
    target = file.resolve()
    for path in (file.parent, file, target.parent, target):
        problem = _other_writer(path) if os.name == "posix" else None
        if problem:
            raise CommandError(
                f"{file} is not used, because {path} {problem}. Nothing was sent.",
                f"If you trust the file, name it: --config {file} (BLINK_CONFIG).",
                ExitCode.USAGE,
            )


def _other_writer(path: Path) -> str | None:
    try:
        status = path.lstat()
    except OSError:
        return "cannot be examined"
    if status.st_uid not in {0, os.geteuid()}:
        return "belongs to another user"
    # Everybody may write to a link by its mode, and add to a sticky folder, but not replace.
    is_harmless = stat.S_ISLNK(status.st_mode) or (
        stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_harmless:
        return "can be written by other users"
    return None


def _require_agreement(profile: Profile, variables: Mapping[str, str]) -> None:
    names = sorted(
        name
        for name, value in variables.items()
        if name in OWNED and _contradicts(name, value, profile.values.get(OWNED[name]))
    )
    if names:
        shown = ", ".join(map(variable, names))
        raise CommandError(
            f"The profile {profile.name} of {profile.origin} has another value than {shown}. "
            "Nothing was sent.",
            f"Unset {shown}, or choose another profile with --profile.",
            ExitCode.USAGE,
        )


def _require_test_url(profile: Profile, base_url: str | None) -> None:
    """Require that a variable does not direct the calls of a test profile to production.

    A profile with a URL of its own has been compared with the variable.
    """
    if base_url is None or profile.environment != "test" or "base_url" in profile.values:
        return
    parts = urlsplit(base_url) if is_http_url(base_url) else None
    if parts is None or is_loopback(parts.hostname or "") or environment_of_url(base_url):
        return
    raise CommandError(
        f"The profile {profile.name} is for test and has no base_url, and BLINK_BASE_URL does not "
        "look like test. Nothing was sent.",
        "Give the profile its base_url, or unset BLINK_BASE_URL.",
        ExitCode.USAGE,
    )


def _contradicts(name: str, value: str, own: str | None) -> bool:
    if own is None:
        return False
    if name in PATHS or (name == "store" and "://" not in own):
        return Path(value.removeprefix(SQLITE)).resolve() != Path(own).resolve()
    return value.rstrip("/") != own.rstrip("/")


def _missing(what: str, where: str) -> CommandError:
    return CommandError(
        f"The {what} is not known. Nothing was sent.",
        f"Set {where} in blink-oauth.toml. To try things out: blink-oauth sandbox.",
        ExitCode.USAGE,
    )
