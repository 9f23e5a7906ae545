"""`python -m blink_oauth.cli` is the command `blink-oauth`."""

from .main import main

if __name__ == "__main__":
    main()
