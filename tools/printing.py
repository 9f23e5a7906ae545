"""Output of the tools."""

from __future__ import annotations

import os
import sys


def show(text: str) -> None:
    """Print a text, and nothing more once the reader has closed the output, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Later prints, and the flush when the interpreter exits, must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
