"""`completion`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click

__all__ = ["completion"]

NAME, VARIABLE = "blink-oauth", "_BLINK_OAUTH_COMPLETE"
EPILOG = """\b
Examples:
  $ eval "$(blink-oauth completion bash)"                  # in ~/.bashrc
  $ eval "$(blink-oauth completion zsh)"                   # in ~/.zshrc
  $ blink-oauth completion fish > ~/.config/fish/completions/blink-oauth.fish
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes your shell complete commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, NAME, VARIABLE).source())
