"""A click command that takes the configuration as flags and shows examples in its help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from blink_oauth.texts import trimmed

from .app import App
from .configuration import SECRETS, SETTING_NAMES, variable
from .output import Screen

__all__ = [
    "Command",
    "Setting",
    "configured",
    "given_values",
    "names_of_variables",
    "setting",
    "takes_grant",
]

_FLAGS = {
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
_CONFIGURATION_NAMES = _FLAGS.keys() | SETTING_NAMES | SECRETS
_COMMON = _FLAGS.keys() | {"no_color", "debug"}


class Setting(click.Option):
    """A setting that the file or a variable may set. With a help text it is also a flag."""

    def __init__(self, declarations: list[str], **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        assert self.name is not None
        self.envvar, self.hidden = variable(self.name), self.help is None

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Add a flag only for a setting with a help text.

        Secrets have none, because a list of processes shows flags.
        """
        if not self.hidden:
            super().add_to_parser(parser, ctx)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> Any:
        """Ignore an empty flag, as click ignores an empty variable."""
        return super().consume_value(ctx, {name: value for name, value in opts.items() if value})


setting = partial(click.option, cls=Setting)


def given_values(ctx: click.Context) -> dict[str, str]:
    """Return the values of flags and variables by setting name; flags take precedence."""
    values = {name: ctx.params.get(name) for name in _CONFIGURATION_NAMES}
    texts = {name: trimmed(value) for name, value in values.items() if value}
    return {name: text for name, text in texts.items() if text}


def names_of_variables(ctx: click.Context) -> frozenset[str]:
    """Return the names of the settings whose value is that of a variable."""
    source = ParameterSource.ENVIRONMENT
    return frozenset(n for n in _CONFIGURATION_NAMES if ctx.get_parameter_source(n) is source)


class Command(click.Command):
    """A command with the flags of the configuration, and with examples."""

    def __init__(self, *arguments: Any, examples: str = "", **options: Any) -> None:
        lines = "\n".join(f"  $ {line}" for line in examples.strip().splitlines())
        options.setdefault("epilog", f"\b\nExamples:\n{lines}" if lines else None)
        super().__init__(*arguments, **options)
        hidden = _CONFIGURATION_NAMES - _FLAGS.keys() - {each.name for each in self.params}
        for name in [*_FLAGS, *sorted(hidden)]:
            metavar, text = _FLAGS.get(name, (None, None))
            flag = f"--{name.replace('_', '-')}"
            self.params.append(Setting([flag], metavar=metavar, help=text))
        self.params += [
            click.Option(["--no-color"], is_flag=True, help="Print no colours (NO_COLOR)."),
            click.Option(["--debug"], is_flag=True, help="Show where in the code an error arose."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Replace the configuration's flags by an `App` and the grant, then run the command."""
        ctx.obj = App(
            given=given_values(ctx),
            variables=names_of_variables(ctx),
            screen=Screen(colour=not ctx.params["no_color"]),
            debug=ctx.params["debug"],
        )
        for name in _CONFIGURATION_NAMES | _COMMON:
            ctx.params.pop(name)
        if "grant" in ctx.params:
            ctx.params["grant"] = ctx.obj.configuration.grant(ctx.params["grant"])
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then those of all commands."""
        records = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        own = [record for p, record in records if record and p.name not in _COMMON]
        common = [record for p, record in records if record and p.name in _COMMON]
        with formatter.section("Options"):
            formatter.write_dl(own)
        with formatter.section(
            "Configuration (flags override BLINK_* variables and blink-oauth.toml)"
        ):
            formatter.write_dl(common)


def configured(
    examples: str, name: str | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a function a command with the configuration's flags.

    Args:
        examples: Command lines for its help, one per line.
        name: The command's name; None for that of the function.
    """
    return click.command(name, cls=Command, examples=examples)


def takes_grant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an argument and two options that name a grant; the function receives the `Grant`."""
    for decorate in (
        setting("--username", metavar="NAME", help="The customer's username."),
        setting("--target", metavar="ID", help="The id of the bank, such as IIDX99999."),
        click.argument("grant", required=False, metavar="[TARGET/USERNAME]"),
    ):
        function = decorate(function)
    return function
