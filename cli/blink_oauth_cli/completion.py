"""`completion`: print the script that completes words in a shell."""

from __future__ import annotations

import click

from .options import configured

__all__ = ["completion"]

COMPLETION_VARIABLE = "_BLINK_OAUTH_COMPLETE"


@configured(
    """
eval "$(blink-oauth completion bash)"                  # in ~/.bashrc
eval "$(blink-oauth completion zsh)"                   # in ~/.zshrc
blink-oauth completion fish > ~/.config/fish/completions/blink-oauth.fish
""",
    flags=(),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for your shell.

    It completes commands, options and the grants of the configured store.
    """
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    shell_class = get_completion_class(shell)
    assert shell_class is not None
    assert root.info_name is not None
    click.echo(shell_class(root.command, {}, root.info_name, COMPLETION_VARIABLE).source())
