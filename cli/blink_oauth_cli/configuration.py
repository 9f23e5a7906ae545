"""What a command was told: flags over `BLINK_*` variables over `blink-oauth.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from blink_oauth.context import Grant
from blink_oauth.settings import Settings

from .environments import Environment, environment_of, is_environment
from .errors import ExitCode, TroubleError
from .file import Profile, no_profile, read_profile

if TYPE_CHECKING:
    from blink_oauth_keeper import TargetProfile

__all__ = ["Configuration", "configure", "variable"]

LEASE = 25.0


def variable(name: str) -> str:
    """Return the name of the variable that a key of the file or a flag stands for."""
    return f"BLINK_{name.upper().replace('-', '_')}"


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
    def environment(self) -> Environment | None:
        """Which environment of the platform is meant, or None if nobody said."""
        return self.profile.environment

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

    def grant(self, text: str | None, target: str | None, username: str | None) -> Grant:
        """Return the grant that a command is about.

        Args:
            text: `TARGET/USERNAME`, or None.
            target: The id of the target, or None.
            username: The customer's user name, or None.

        Raises:
            TroubleError: It is not said which, or it belongs to another environment.
            InvalidInputError: It is no grant.
        """
        if text is not None:
            target, slash, username = text.partition("/")
            if not (target and slash and username):
                raise TroubleError(
                    f"“{text}” names no grant.",
                    "Write TARGET/USERNAME, such as IIDX99999/u-4711. blink-oauth status lists "
                    "the grants.",
                    ExitCode.USAGE,
                )
        target, username = target or self.get("target"), username or self.get("username")
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
        url = self.get("authorize_url") or self.profile.of_target(target_id).get("authorize_url")
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
        looks_like = environment_of(identity)
        if self.environment is not None and looks_like not in {None, self.environment}:
            raise TroubleError(
                f"The {what} {identity} looks like one of {looks_like}, but the profile "
                f"{self.profile.name} is for {self.environment}. Nothing was sent.",
                f"Choose another profile with --profile, or correct the {what}.",
                ExitCode.USAGE,
            )


def configure(
    flags: Mapping[str, str], environ: Mapping[str, str], *, folder: Path, user_folder: Path
) -> Configuration:
    """Put the sources together.

    Args:
        flags: What the command line says, by the names of the variables.
        environ: The process's environment.
        folder: The working folder, the first where a file is looked for.
        user_folder: The user's folder for configuration, the second.

    Raises:
        TroubleError: The file cannot be used, or there is no such profile.
    """
    told = {name: value for name, value in environ.items() if name.startswith("BLINK_")}
    told = {**{name: value for name, value in told.items() if value}, **flags}
    named = told.get("BLINK_CONFIG")
    places = [Path(named)] if named else [f / "blink-oauth.toml" for f in (folder, user_folder)]
    path = next((place for place in places if place.exists()), None)
    if named and path is None:
        raise TroubleError(
            f"There is no file {named}.", "Correct --config (BLINK_CONFIG).", ExitCode.USAGE
        )
    wanted = told.get("BLINK_PROFILE")
    profile = read_profile(path, wanted) if path else no_profile(wanted)
    if path is None and wanted and not is_environment(wanted):
        raise TroubleError(
            f"There is no profile {wanted}: no blink-oauth.toml was found.",
            f"Write one to {folder} or {user_folder}, or name it with --config.",
            ExitCode.USAGE,
        )
    from_file = {variable(name): value for name, value in profile.values.items()}
    return Configuration(profile=profile, values={**from_file, **told})


def _missing(what: str, where: str) -> TroubleError:
    return TroubleError(
        f"The {what} is not known. Nothing was sent.",
        f"Set {where} in blink-oauth.toml. To try things out: blink-oauth sandbox.",
        ExitCode.USAGE,
    )
