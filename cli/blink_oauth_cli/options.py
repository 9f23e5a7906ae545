"""A command that takes the configuration as flags, and shows examples in its help."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from .configuration import variable
from .output import Screen

__all__ = ["Command", "configured", "the_grant"]

_FLAGS = {
    "profile": ("NAME", "The profile of blink-oauth.toml, such as test or production."),
    "config": ("FILE", "The file to read instead of blink-oauth.toml here or in your settings."),
    "base-url": ("URL", "Where the consent-flow module of the platform is."),
    "client-id": ("ID", "Your id in bLink's directory, such as CIDX0000000002."),
    "user-agent": ("TEXT", "Name and version of your software, such as acme-books/3.2."),
    "certificate": ("FILE", "PEM of your certificate, then its intermediates."),
    "key": ("FILE", "PEM of its key."),
    "key-passphrase-file": ("FILE", "The file that holds the passphrase of the key."),
    "ca": ("FILE", "PEM of the authorities that may issue the server's certificate."),
    "store": ("URL", "Database of the tokens: a file, sqlite:///… or postgresql+psycopg://…"),
    "store-keys-file": ("FILE", "The keys that seal the tokens, one to a line."),
}


_GRANT = {"grant", "target", "username"}


class Command(click.Command):
    """A command with the flags of the configuration, and with examples."""

    def __init__(self, *arguments: Any, examples: str = "", **options: Any) -> None:
        lines = "\n".join(f"  $ {line}" for line in examples.strip().splitlines())
        options.setdefault("epilog", f"\b\nExamples:\n{lines}" if lines else None)
        super().__init__(*arguments, **options)
        self.params += [
            click.Option([f"--{name}"], metavar=metavar, help=text)
            for name, (metavar, text) in _FLAGS.items()
        ]
        self.params += [
            click.Option(["--no-color"], is_flag=True, help="Print no colours (NO_COLOR)."),
            click.Option(["--debug"], is_flag=True, help="Show where in the code an error arose."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with what it works with in place of the flags."""
        from .app import App

        names = {name: name.replace("-", "_") for name in _FLAGS}
        given = {name: ctx.params.pop(parameter, None) for name, parameter in names.items()}
        ctx.params.pop("debug")
        ctx.obj = App(
            flags={variable(name): value for name, value in given.items() if value},
            environ=os.environ,
            screen=Screen(colour=not ctx.params.pop("no_color")),
        )
        if ctx.params.keys() >= _GRANT:
            named = [ctx.params.pop(name) for name in ("target", "username")]
            ctx.params["grant"] = ctx.obj.configuration.grant(ctx.params["grant"], *named)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of this command first, and apart what all commands have."""
        records = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        shared = {name.replace("-", "_") for name in _FLAGS} | {"no_color", "debug"}
        own = [record for p, record in records if record and p.name not in shared]
        common = [record for p, record in records if record and p.name in shared]
        with formatter.section("Options"):
            formatter.write_dl(own)
        with formatter.section("Configuration, over BLINK_* variables and blink-oauth.toml"):
            formatter.write_dl(common)


def configured(
    examples: str, name: str | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command with the flags of the configuration.

    Args:
        examples: Command lines for its help, one to a line.
        name: Its name, if not that of the function.
    """
    return click.command(name, cls=Command, examples=examples)


def the_grant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command say in either way which grant it is about; the function gets the `Grant`."""
    for decorate in (
        click.option("--username", metavar="NAME", help="The customer's user name."),
        click.option("--target", metavar="ID", help="The id of the bank, such as IIDX99999."),
        click.argument("grant", required=False, metavar="[TARGET/USERNAME]"),
    ):
        function = decorate(function)
    return function
