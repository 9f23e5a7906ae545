"""The entry point of the command `blink-oauth`, also as `python -m blink_oauth_cli`."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

EXTRAS = {
    "click": "cli",
    "platformdirs": "cli",
    "rich": "cli",
}
"""Which extra brings a module that a bare installation lacks."""


def main() -> NoReturn:
    """Run the command, or say in one line which extra is missing."""
    try:
        from .main import main as run_command
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        sys.exit(f"blink-oauth needs {error.name}: pip install 'blink-oauth[{extra}]'.")
    run_command()


if __name__ == "__main__":
    main()
