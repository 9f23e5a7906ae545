"""A group of commands: it takes the options of its commands, and suggests the right name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click
from click.core import ParameterSource

__all__ = ["FLAGS", "SWITCHES", "Group", "flag_of", "switches", "value_before_command"]

FLAGS = {
    "profile": ("NAME", "The profile of blink-oauth.toml, such as test or production."),
    "config": ("FILE", "The file to read instead of blink-oauth.toml here or in your settings."),
    "base_url": ("URL", "Where the consent-flow module of the platform is."),
    "client_id": ("ID", "Your id in bLink's directory, such as CIDX0000000002."),
    "user_agent": ("TEXT", "Name and version of your software, such as acme-books/3.2."),
    "certificate": ("FILE", "PEM of your certificate, then its intermediates."),
    "key": ("FILE", "PEM of its key."),
    "key_passphrase_file": ("FILE", "The file that holds the passphrase of the key."),
    "ca": ("FILE", "PEM of the authorities that may issue the server's certificate."),
    "store": ("URL", "Database of the tokens: a file, sqlite:///… or postgresql+psycopg://…"),
    "store_keys_file": ("FILE", "The keys that seal the tokens, one to a line."),
}
"""The flags of the configuration, which every command takes, with metavar and help."""
SWITCHES = {
    "no_color": "Print no colours (NO_COLOR).",
    "debug": "Show where in the code an error arose, and the log's warnings.",
}


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def value_before_command(ctx: click.Context, name: str | None) -> Any:
    """Return the value of an option that stands before the command, or None.

    Args:
        ctx: The context of the command.
        name: The name of the option; the nearest group that was given it counts.
    """
    parent = ctx.parent
    while parent is not None and name is not None:
        if parent.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            return parent.params[name] or None
        parent = parent.parent
    return None


class Switch(click.Option):
    """A switch that may stand before or after the command."""

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, ParameterSource]:
        """Return the value after the command, or else the one before it."""
        if self.name not in opts and (before := value_before_command(ctx, self.name)):
            return before, ParameterSource.COMMANDLINE
        return super().consume_value(ctx, opts)


def switches(*, hidden: bool = False) -> list[click.Parameter]:
    """Return the switches of all commands."""
    return [
        Switch([flag_of(name)], is_flag=True, help=text, hidden=hidden)
        for name, text in SWITCHES.items()
    ]


class Group(click.Group):
    """A group that takes the options of all commands, too; its help does not repeat them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params += [click.Option([flag_of(name)], hidden=True) for name in FLAGS]
        self.params += switches(hidden=True)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of a name, or suggest the names that are like it."""
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            near = get_close_matches(name, self.list_commands(ctx))
            question = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{question}", ctx)
        return super().resolve_command(ctx, args)
