"""Let foreign tools, with their own rules, judge the contract, the client and the sandbox.

    python -m tools.interop FOLDER   the folder where `npm ci` has installed the tools

Exit status: 0 no complaint and every planted fault caught, 1 otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import linters, mock, proxy
from .node import Tools

CONTRACT = Path(__file__).parents[2] / "spec" / "openapi.yaml"
SHOWN = 30


def main(folder: Path) -> int:
    """Run each tool and print its report; return the exit status."""
    tools = Tools(folder.resolve(), CONTRACT)
    reports = [*linters.reports(tools), proxy.report(tools), mock.report(tools)]
    print(f"{'tool':28} {'version':8} {'':13} what it did")
    for each in reports:
        count = len(each.complaints)
        complaints = "1 complaint" if count == 1 else f"{count} complaints"
        print(f"{each.tool:28} {each.version:8} {complaints:13} {each.done}")
    for each in reports:
        for note in each.notes:
            print(f"  {note}")
        for complaint in each.complaints[:SHOWN]:
            print(f"✗ {each.tool}: {complaint}")
        if len(each.complaints) > SHOWN:
            print(f"✗ {each.tool}: and {len(each.complaints) - SHOWN} more")
    return 1 if any(each.complaints for each in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
