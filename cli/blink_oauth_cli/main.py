"""The command: its subcommands, and the report of their errors."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import click

from blink_oauth import __version__

from .groups import Group
from .output import Screen, visible

if TYPE_CHECKING:
    from .errors import CommandError

__all__ = ["command", "main", "run"]

NAME = "blink-oauth"
COMMANDS = {
    "login": ("login", "Log a customer in at the bank, and store the token."),
    "token": ("grants", "Show when a token expires, or print it for another program."),
    "refresh": ("grants", "Refresh a token now."),
    "adopt": ("grants", "Take over a consent from another program, by its refresh token."),
    "revoke": ("grants", "Revoke every token of a grant, for good."),
    "forget": ("grants", "Revoke a grant, and delete all that names its customer."),
    "status": ("grants", "List the grants: which are active, which need their customer."),
    "history": ("grants", "Show what happened to a grant, the newest first."),
    "keep-alive": ("keep_alive", "Refresh idle grants before their refresh tokens expire."),
    "notices": ("notices", "List the notices of lost consents, and deliver them to a receiver."),
    "doctor": ("doctor", "Find out what is wrong, and what to do about it."),
    "keys": ("keys", "Make, add, use and drop the keys that seal the stored tokens."),
    "store": ("store", "Make a store, move the grants to another, or finish an upgrade."),
    "sandbox": ("sandbox", "Start a local platform with banks behind it."),
    "completion": ("completion", "Print the completion script for your shell."),
}
EPILOG = """\b
Begin without an agreement with SIX, on this machine alone:
  $ blink-oauth sandbox                        # in one terminal
  $ eval "$(blink-oauth sandbox --env)"        # in another one
  $ blink-oauth doctor
  $ blink-oauth login
  $ blink-oauth status

\b
Exit codes: 0 done; 1 failed, try again; 2 wrong usage or configuration, nothing was sent;
3 a customer's consent is needed; 4 a token may be spent; 5 the grant is not stored;
130 interrupted.
"""


def _imported(name: str) -> ModuleType:
    """Import a module of subcommands and return it."""
    # Written out: what freezes a program finds modules by their import statements only.
    module: ModuleType
    match name:
        case "login":
            from . import login

            module = login
        case "grants":
            from . import grants

            module = grants
        case "keep_alive":
            from . import keep_alive

            module = keep_alive
        case "notices":
            from . import notices

            module = notices
        case "doctor":
            from . import doctor

            module = doctor
        case "keys":
            from . import keys

            module = keys
        case "store":
            from . import store

            module = store
        case "sandbox":
            from . import sandbox

            module = sandbox
        case _:
            from . import completion

            module = completion
    return module


class Commands(Group):
    """A group that imports a subcommand when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand and return it; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        subcommand = getattr(_imported(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(subcommand, click.Command)
        return subcommand

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list without importing any subcommand."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name=NAME)
def command(**_: object) -> None:
    """Manage OAuth tokens of SIX bLink from the terminal.

    Settings come from flags, then from BLINK_* variables, then from blink-oauth.toml. The flags of
    the configuration, --no-color and --debug may stand before or after the command.
    """


def main() -> NoReturn:
    """Run the command and exit with its exit code."""
    # Containers and job managers stop a process with SIGTERM: treat it like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        # An output encoding that lacks “→” must not make a command fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = sys.argv[1:]
    _log_visibly(every_record="--debug" in arguments or "keep-alive" in arguments)
    sys.exit(run(arguments))


def _log_visibly(*, every_record: bool) -> None:
    """Let the records that no handler of the process takes be printed like everything else.

    Args:
        every_record: Whether to print those of the library, too: an error says in two lines what
            they say, but a daemon reports no error while it runs.
    """
    import logging
    from traceback import format_exception

    class VisibleFormatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            lines = [record.getMessage()]
            if record.exc_info:
                lines += "".join(format_exception(record.exc_info[1])).splitlines()
            return "\n".join(map(visible, lines))

    def is_of_another(record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] not in {"blink_oauth", "blink_oauth_keeper"}

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())
        if not every_record:
            logging.lastResort.addFilter(is_of_another)


def run(arguments: Sequence[str]) -> int:
    """Run a command line, report an error in two lines, and return the exit code.

    Args:
        arguments: The command-line arguments, without the program's name.
    """
    try:
        code = command.main(list(arguments), prog_name=NAME, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except Exception as error:  # noqa: BLE001 - every error is reported here
        return _report(error, debug="--debug" in arguments)
    except KeyboardInterrupt as error:
        return _report(error, debug=False)
    return code if isinstance(code, int) else 0


def _report(error: BaseException, *, debug: bool) -> int:
    reported = _command_error(error)
    screen = Screen()
    if debug and not isinstance(error, (click.ClickException, click.Abort)):
        from traceback import format_exception

        # Without local variables: they could hold a secret.
        screen.note(*"".join(format_exception(error)).splitlines())
    screen.note(f"Error: {reported.what}", f"→ {reported.do}")
    return reported.code


def _command_error(error: BaseException) -> CommandError:
    from blink_oauth.errors import BlinkError

    from .errors import CommandError, ExitCode, missing_extra_error, to_command_error

    if isinstance(error, ModuleNotFoundError):
        error = missing_extra_error(error.name) or error
    if isinstance(error, CommandError):
        return error
    if isinstance(error, BlinkError):
        return to_command_error(error)
    if isinstance(error, click.ClickException):
        what = " ".join(error.format_message().split())
        do = "Correct it and run the command again."
        if isinstance(error, click.UsageError):
            do = f"{error.ctx.command_path if error.ctx else NAME} --help shows how."
        return CommandError(what, do, ExitCode.USAGE)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return CommandError(
            "Interrupted; nothing was in progress.",
            "Run the command again when you like.",
            ExitCode.INTERRUPTED,
        )
    return CommandError(
        f"Something unexpected: {type(error).__name__}.",
        "Run it again with --debug, and report what it prints; no secret is in it.",
    )
