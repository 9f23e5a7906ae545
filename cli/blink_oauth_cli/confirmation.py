"""The question before something that cannot be undone."""

from __future__ import annotations

import sys

import click

from .errors import CommandError, ExitCode
from .output import visible

__all__ = ["require_confirmation"]


def require_confirmation(question: str, *, refusal: str, advice: str, reason: str = "") -> None:
    """Ask a question on the terminal, and return if the answer is yes.

    Args:
        question: The question.
        refusal: What was not done, a sentence without its full stop.
        advice: What to do after a no.
        reason: Why it is asked, one or more sentences.

    Raises:
        CommandError: The answer is no, or there is no terminal.
    """
    if not sys.stdin.isatty():
        raise CommandError(
            f"{reason} {refusal}: without a terminal, it cannot be confirmed.".lstrip(),
            "Add --yes to do it without a question.",
            ExitCode.USAGE,
        )
    if reason:
        click.echo(visible(reason), err=True)
    if not click.confirm(visible(question), err=True):
        raise CommandError(f"{refusal}.", advice, ExitCode.USAGE)
