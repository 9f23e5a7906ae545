"""The entry point of the command `blink-oauth`, also as `python -m blink_oauth_cli`."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command, or name the missing extra in one line."""
    try:
        from .main import main as run_command
    except ModuleNotFoundError as error:
        from .errors import missing_extra_error

        missing = missing_extra_error(error.name)
        if missing is None:
            raise
        sys.stderr.write(f"Error: {missing.what} → {missing.do}\n")
        sys.exit(missing.code)
    run_command()


if __name__ == "__main__":
    main()
