"""Errors of the command, in two lines (what happened, what to do), and its exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from blink_oauth.answers import answer_to
from blink_oauth.errors import (
    BlinkError,
    CertificateError,
    InvalidClientError,
    InvalidGrantError,
    InvalidInputError,
    NotConnectedError,
    Outcome,
    ProblemError,
    RevocationError,
    TlsError,
)
from blink_oauth_keeper.errors import (
    ConsentNeededError,
    GrantExistsError,
    GrantMovedError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    SchemaError,
    SealError,
    StoreError,
    UnknownGrantError,
)

__all__ = [
    "CommandError",
    "ExitCode",
    "missing_extra_error",
    "not_stored_error",
    "to_command_error",
]


class ExitCode(IntEnum):
    """The exit codes of the command."""

    DONE = 0
    FAILED = 1
    """The command failed; it may be run again."""
    USAGE = 2
    """The command or the configuration is wrong; nothing was sent."""
    CONSENT_NEEDED = 3
    """The grant needs a new consent of its customer."""
    UNCERTAIN = 4
    """A code or a refresh token may be spent."""
    NOT_STORED = 5
    """The store has no such grant; nothing was sent."""
    INTERRUPTED = 130


class CommandError(Exception):
    """An error that ends the command.

    Args:
        what: What happened, and whether anything was spent.
        do: What to do next.
        code: The exit code.
    """

    def __init__(self, what: str, do: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(what)
        self.what, self.do, self.code = what, do, code


_EXTRAS: Mapping[str, str] = {
    "click": "cli",
    "platformdirs": "cli",
    "prometheus_client": "cli,prometheus",
    "rich": "cli",
    "sqlalchemy": "cli,sql",
    "psycopg": "cli,postgresql",
}
"""The extras that install each optional library."""


def missing_extra_error(module: str | None) -> CommandError | None:
    """Return the error that names the extra of a missing module, or None if no extra installs it.

    Args:
        module: The `name` of a `ModuleNotFoundError`.
    """
    library = (module or "").partition(".")[0]
    extras = _EXTRAS.get(library)
    if extras is None:
        return None
    return CommandError(
        f"{library} is not installed.", f"pip install 'blink-oauth[{extras}]'", ExitCode.USAGE
    )


def not_stored_error(grant: str, client_id: str) -> CommandError:
    """Return the error that names a grant which is not stored.

    Args:
        grant: The name of the grant.
        client_id: The client's id; a grant is stored for one client.
    """
    return CommandError(
        f"The store has no grant {grant} of {client_id}. Nothing was sent.",
        UNKNOWN_GRANT,
        ExitCode.NOT_STORED,
    )


CHECK_IDENTITY = "Check the client id and its certificate: blink-oauth doctor."
UNKNOWN_GRANT = "Log in first: blink-oauth login. blink-oauth status lists the grants."
LOG_IN = "Ask the customer for a new consent: blink-oauth login."
_REMEDIES: tuple[tuple[type[BlinkError], str], ...] = (
    (CertificateError, "Run blink-oauth doctor: it looks at the certificate rule by rule."),
    (GrantExistsError, "See blink-oauth status. A newer consent needs blink-oauth login."),
    (InvalidInputError, "Correct it and run the command again; nothing was sent."),
    (TlsError, "Run blink-oauth doctor: it tries the platform with and without the certificate."),
    (NotConnectedError, "Nothing is spent. Check network and base URL: blink-oauth doctor."),
    (InvalidClientError, CHECK_IDENTITY),
    (InvalidGrantError, LOG_IN),
    (UnknownGrantError, UNKNOWN_GRANT),
    (ConsentNeededError, LOG_IN),
    (GrantMovedError, "Name the store that has the grant now (BLINK_STORE, --store)."),
    (RefreshPausedError, "Wait, then run the command again; nothing was spent."),
    (RefreshPendingError, "Look at blink-oauth status in half a minute, then try again."),
    (RevocationError, "The grant is not used any more. Run blink-oauth revoke again."),
    (SchemaError, "Upgrade blink-oauth to the version that wrote the store; nothing was changed."),
    (SealError, "Give the missing key back (BLINK_STORE_KEYS_FILE); nothing was changed."),
    (StoreError, "See that the store is there and writable: blink-oauth doctor. Then try again."),
)


def to_command_error(error: BlinkError) -> CommandError:
    """Return an error of the library as an error of the command."""
    text = " ".join(str(error).split())
    if error.correlation_id and error.correlation_id not in text:
        text += f" (correlation id {error.correlation_id})"
    return CommandError(text, _remedy(error), _exit_code(error))


def _remedy(error: BlinkError) -> str:
    if isinstance(error, RefreshUncertainError) and not error.needs_consent:
        wait = error.retry_after
        when = "in half a minute" if wait is None else f"in {wait:.0f} s"
        return f"One more attempt is allowed. Run the command again {when}."
    for kind, remedy in _REMEDIES:
        if isinstance(error, kind):
            return remedy
    if isinstance(error, ProblemError) and error.code == "INVALID_CLIENT":
        return CHECK_IDENTITY
    if error.needs_consent:
        return LOG_IN
    if error.outcome is Outcome.UNCERTAIN:
        return "Look at blink-oauth status: the grant may need its customer again."
    return "Quote the correlation id to the bLink support if it goes on."


def _exit_code(error: BlinkError) -> ExitCode:
    if isinstance(error, UnknownGrantError):
        return ExitCode.NOT_STORED
    return ExitCode(answer_to(error).exit_code)
