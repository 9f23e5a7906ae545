"""Let foreign tools, with their own rules, check the contract, the client and the sandbox.

    python -m tools.interop FOLDER   the folder where `npm ci` has installed the tools

Exit status: 0 no complaint and every planted fault caught, 1 otherwise.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from . import linters, mock, proxy
from .node import Report, Tools

CONTRACT = Path(__file__).parents[2] / "spec" / "openapi.yaml"
CHECKS: tuple[tuple[str, Callable[[Tools], Report]], ...] = (
    ("@redocly/cli", linters.redocly),
    ("@apidevtools/swagger-parser", linters.swagger_parser),
    ("@stoplight/spectral-cli", linters.spectral),
    ("openapi-typescript", linters.types),
    ("typescript", linters.client),
    ("@stoplight/prism-cli", proxy.check),
    ("@stoplight/prism-cli", mock.check),
)
SHOWN = 30


def main(folder: Path) -> int:
    """Run each tool and print its report; return the exit status."""
    tools = Tools(folder.resolve(), CONTRACT)
    details: list[str] = []
    status = 0
    print(f"{'tool':28} {'version':8} {'':13} what it did")
    for package, check in CHECKS:
        try:
            version, report = tools.version(package), check(tools)
        except Exception as error:  # noqa: BLE001 - what stops a check is a complaint of it
            version, report = (
                "",
                Report("stopped", [f"{type(error).__name__}: {' '.join(str(error).split())}"]),
            )
        count = len(report.complaints)
        complaints = "1 complaint" if count == 1 else f"{count} complaints"
        print(f"{package:28} {version:8} {complaints:13} {report.done}", flush=True)
        details += [f"  {note}" for note in report.notes]
        details += [f"✗ {package}: {complaint}" for complaint in report.complaints[:SHOWN]]
        if count > SHOWN:
            details.append(f"✗ {package}: and {count - SHOWN} more")
        status = 1 if count else status
    print(*details, sep="\n")
    return status


if __name__ == "__main__":
    # As Ctrl-C does, SIGTERM must end what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        raise SystemExit(main(Path(sys.argv[1])))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
