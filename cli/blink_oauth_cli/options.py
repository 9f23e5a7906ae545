"""A click command that takes the configuration as flags and shows examples in its help."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from blink_oauth.texts import trimmed
from blink_oauth_keeper.errors import UnknownGrantError

from .app import App
from .configuration import SECRETS, SETTING_NAMES, misspelt, variable
from .errors import not_stored_error
from .groups import FLAGS, SWITCHES, flag_of, switches, value_before_command
from .output import Screen, grant_name

__all__ = [
    "LISTING_FLAGS",
    "STORE_FLAGS",
    "Command",
    "Setting",
    "configured",
    "given_values",
    "names_of_variables",
    "setting",
    "takes_grant",
]

LISTING_FLAGS = ("profile", "config", "client_id", "store", "store_keys_file")
"""The flags that matter to a command that reads the grants of the client."""
STORE_FLAGS = ("profile", "config", "store", "store_keys_file")
"""The flags that matter to a command that opens the store."""
_CONFIGURATION_NAMES = FLAGS.keys() | SETTING_NAMES | SECRETS
_COMMON = FLAGS.keys() | SWITCHES.keys()


class Setting(click.Option):
    """A setting that the file or a variable may set. With a help text it is also a flag."""

    def __init__(self, declarations: list[str], **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        assert self.name is not None
        self.envvar, self.hidden = variable(self.name), self.hidden or self.help is None

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Add a flag only for a setting with a help text.

        Secrets have none, because a list of processes shows flags.
        """
        if self.help is not None:
            super().add_to_parser(parser, ctx)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> Any:
        """Return the flag after the command, then the one before it, and ignore an empty one."""
        if not opts.get(self.name or "") and (before := value_before_command(ctx, self.name)):
            return before, ParameterSource.COMMANDLINE
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
    """A command with the flags of the configuration, and with examples.

    It takes every flag, since a flag may stand before the command. Its help shows those of `flags`.
    """

    def __init__(
        self,
        *arguments: Any,
        examples: str = "",
        flags: Collection[str] = tuple(FLAGS),
        **options: Any,
    ) -> None:
        lines = "\n".join(f"  $ {line}" for line in examples.strip().splitlines())
        options.setdefault("epilog", f"\b\nExamples:\n{lines}" if lines else None)
        super().__init__(*arguments, **options)
        self.params += [
            Setting([flag_of(name)], metavar=metavar, help=text, hidden=name not in flags)
            for name, (metavar, text) in FLAGS.items()
        ]
        own = {each.name for each in self.params}
        self.params += [Setting([flag_of(name)]) for name in sorted(_CONFIGURATION_NAMES - own)]
        self.params += switches()

    def invoke(self, ctx: click.Context) -> Any:
        """Replace the configuration's flags by an `App` and the grant, then run the command."""
        app = App(
            given=given_values(ctx),
            variables=names_of_variables(ctx),
            screen=Screen(colour=not ctx.params["no_color"]),
            debug=ctx.params["debug"],
        )
        ctx.obj = app
        for name, near in misspelt(os.environ).items():
            app.screen.note(f"Warning: {name} is not read. Did you mean {near}?")
        for name in _CONFIGURATION_NAMES | _COMMON:
            ctx.params.pop(name)
        if "grant" not in ctx.params:
            return super().invoke(ctx)
        grant = app.configuration.grant(ctx.params["grant"])
        ctx.params["grant"] = grant
        try:
            return super().invoke(ctx)
        except UnknownGrantError:
            raise not_stored_error(grant_name(grant), app.configuration.client_id) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then the flags of the configuration."""
        records = [(p.name, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        own = [record for name, record in records if record and name not in FLAGS]
        flags = [record for name, record in records if record and name in FLAGS]
        with formatter.section("Options"):
            formatter.write_dl(own)
        if flags:
            with formatter.section(
                "Configuration (flags override BLINK_* variables and blink-oauth.toml)"
            ):
                formatter.write_dl(flags)


def configured(
    examples: str, name: str | None = None, flags: Collection[str] = tuple(FLAGS)
) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a function a command with the configuration's flags.

    Args:
        examples: Command lines for its help, one per line.
        name: The command's name; None for that of the function.
        flags: The flags of the configuration that its help shows.
    """
    return click.command(name, cls=Command, examples=examples, flags=flags)


def takes_grant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an argument and two options that name a grant; the function receives the `Grant`."""
    for decorate in (
        setting("--username", metavar="NAME", help="The customer's username."),
        setting("--target", metavar="ID", help="The id of the bank, such as IIDX99999."),
        click.argument(
            "grant", required=False, metavar="[TARGET/USERNAME]", shell_complete=stored_grants
        ),
    ):
        function = decorate(function)
    return function


def stored_grants(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the stored grants whose name begins with what was typed; none if anything fails.

    It reads the names alone, so that no key is needed. A name that a shell would not take literally
    is left out.
    """
    with suppress(Exception):
        app = App(
            given=given_values(ctx), variables=names_of_variables(ctx), screen=Screen(colour=False)
        )
        names = app.grant_names(beginning=incomplete)
        return [name for name in names if shlex.quote(name) == name]
    return []
