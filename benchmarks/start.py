"""What it costs to start the command, as a ratio within one run.

`blink-oauth --help` may take 3 times what `python -c pass` takes, plus the import of click itself.
All three are run in turn, so that a machine whose speed drifts does not matter.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from time import perf_counter

ROUNDS, LIMIT = 21, 3.0
NOTHING = ("-c", "pass")
CLICK = ("-c", "import click")
HELP = ("-m", "blink_oauth_cli", "--help")


def seconds(*arguments: str) -> float:
    """Return how long a fresh interpreter takes."""
    begin = perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return perf_counter() - begin


def main() -> None:
    """Measure, print, and fail if the limit is not kept."""
    rounds = [(seconds(*NOTHING), seconds(*CLICK), seconds(*HELP)) for _ in range(ROUNDS)]
    allowed = [LIMIT * nothing + (click - nothing) for nothing, click, _ in rounds]
    share = statistics.median(
        help_ / limit for (_, _, help_), limit in zip(rounds, allowed, strict=True)
    )
    nothing, click, help_ = (1000 * statistics.median(each) for each in zip(*rounds, strict=True))
    print(f"python -c pass {nothing:.0f} ms, with click {click:.0f} ms, --help {help_:.0f} ms")
    verdict = "kept" if share <= 1 else "BROKEN"
    print(f"blink-oauth --help: {share:.2f} of 3 x (python -c pass) + import click: {verdict}")
    sys.exit(share > 1)


if __name__ == "__main__":
    main()
