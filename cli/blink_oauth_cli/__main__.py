"""The entry point of the command `blink-oauth`, also as `python -m blink_oauth_cli`."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command, or say in one line which extra is missing."""
    try:
        from .main import main as run_command
    except ModuleNotFoundError as error:
        from .errors import trouble_without

        trouble = trouble_without(error.name)
        if trouble is None:
            raise
        sys.stderr.write(f"Error: {trouble.what} → {trouble.do}\n")
        sys.exit(trouble.code)
    run_command()


if __name__ == "__main__":
    main()
