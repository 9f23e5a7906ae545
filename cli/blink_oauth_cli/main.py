"""The command itself: its subcommands, and the one place where errors end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, NoReturn

import click

from blink_oauth import __version__

if TYPE_CHECKING:
    from .errors import TroubleError

__all__ = ["command", "main", "run"]

NAME = "blink-oauth"
COMMANDS = {
    "login": ("login", "Log a customer in at the bank, and store the token."),
    "token": ("grants", "Say how a token is, or print it for another program."),
    "refresh": ("grants", "Refresh a token now."),
    "revoke": ("grants", "Revoke every token of a grant, for good."),
    "status": ("grants", "List the grants: which live, which need their customer."),
    "history": ("grants", "Show what happened to a grant, the newest first."),
    "keep-alive": ("keep_alive", "Refresh what nobody uses, before it dies of it."),
    "doctor": ("doctor", "Find out what is wrong, and what to do about it."),
    "keys": ("keys", "Make and rotate the keys that seal the stored tokens."),
    "sandbox": ("sandbox", "Start a local platform with banks behind it."),
    "completion": ("main", "Print what makes your shell complete commands."),
}
EPILOG = """\b
Begin without any contract, on this machine alone:
  $ blink-oauth sandbox                        # in one terminal
  $ eval "$(blink-oauth sandbox --env)"        # in another one
  $ blink-oauth doctor
  $ blink-oauth login
  $ blink-oauth status

\b
Exit codes: 0 done; 1 failed, try again; 2 wrong usage or configuration, nothing was sent;
3 a customer's consent is needed; 4 a token may be spent; 130 interrupted.
"""


class Commands(click.Group):
    """Subcommands that are loaded when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a first day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command, or return None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{COMMANDS[cmd_name][0]}", __package__)
        found = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list without loading what is in it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name=NAME)
def command() -> None:
    """OAuth tokens of SIX bLink from the terminal: never lost, never spent twice, never shown.

    Settings come from flags, then from BLINK_* variables, then from blink-oauth.toml.
    """


def main() -> NoReturn:
    """Run the command, and end the process with its exit code."""
    # Whoever stops a container or a job sends SIGTERM: what is in the air lands for it too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        # Where the encoding has no arrow, a command must not end at one.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line, say in two lines what went wrong, and return the exit code.

    Args:
        arguments: The words after the command's name.
    """
    try:
        code = command.main(list(arguments), prog_name=NAME, standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - errors end here
        return _tell(error, debug="--debug" in arguments)
    except KeyboardInterrupt as error:
        return _tell(error, debug=False)
    return code if isinstance(code, int) else 0


def _tell(error: BaseException, *, debug: bool) -> int:
    trouble = _trouble(error)
    if debug and not isinstance(error, (click.ClickException, click.Abort)):
        from traceback import print_exception

        # Without local variables: they could hold what must not be shown.
        print_exception(error)
    click.echo(f"Error: {trouble.what}\n→ {trouble.do}", err=True)
    return trouble.code


def _trouble(error: BaseException) -> TroubleError:
    from blink_oauth.errors import BlinkError

    from .errors import ExitCode, TroubleError, trouble_with, trouble_without

    if isinstance(error, ModuleNotFoundError):
        error = trouble_without(error.name) or error
    if isinstance(error, TroubleError):
        return error
    if isinstance(error, BlinkError):
        return trouble_with(error)
    if isinstance(error, click.ClickException):
        what = " ".join(error.format_message().split())
        do = "Correct it and run the command again."
        if isinstance(error, click.UsageError):
            do = f"{error.ctx.command_path if error.ctx else NAME} --help shows how."
        return TroubleError(what, do, ExitCode.USAGE)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return TroubleError(
            "Interrupted; nothing was under way.",
            "Run the command again when you like.",
            ExitCode.INTERRUPTED,
        )
    return TroubleError(
        f"Something unexpected: {type(error).__name__}.",
        "Run it again with --debug, and report what it prints; no secret is in it.",
    )


COMPLETION_VARIABLE = "_BLINK_OAUTH_COMPLETE"
COMPLETION_EPILOG = """\b
Examples:
  $ eval "$(blink-oauth completion bash)"                  # in ~/.bashrc
  $ eval "$(blink-oauth completion zsh)"                   # in ~/.zshrc
  $ blink-oauth completion fish > ~/.config/fish/completions/blink-oauth.fish
"""


@click.command(epilog=COMPLETION_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes your shell complete commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, NAME, COMPLETION_VARIABLE).source())
