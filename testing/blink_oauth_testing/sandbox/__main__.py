"""Run the sandbox from a shell until it is interrupted."""

from __future__ import annotations

import argparse
import shlex
import signal
import threading
from collections.abc import Sequence

from attrs import evolve

from blink_oauth.settings import REVOCATION_FIELDS

from .banks import DAY, DEFAULT_BANKS
from .server import Sandbox


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the sandbox, print the variables for a client, and wait for SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    banks = [
        evolve(
            bank,
            consent_page=options.consent_page,
            access_token_lifetime=float(options.lifetime),
            refused_revocation_fields=options.refuse_revocation_field,
        )
        for bank in DEFAULT_BANKS
    ]
    stopping = threading.Event()
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, lambda *_: stopping.set())
    with Sandbox(banks=banks, port=options.port, http_port=options.http_port) as sandbox:
        print(_instructions(sandbox), flush=True)
        # On some platforms Ctrl-C does not interrupt a wait without a timeout.
        while not stopping.wait(timeout=1.0):
            pass  # pragma: no cover  # only if it runs longer than in a test
    print("# The sandbox has stopped; its keys are deleted.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m blink_oauth_testing.sandbox",
        description="A strict local bLink platform with banks behind it, over mutual TLS.",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of mutual TLS (default: any free port)"
    )
    parser.add_argument(
        "--http-port", type=int, default=0, help="port of plain http (default: any free port)"
    )
    parser.add_argument("--consent-page", action="store_true", help="show consent pages")
    parser.add_argument(
        "--refuse-revocation-field",
        choices=REVOCATION_FIELDS,
        action="append",
        default=[],
        help="refuse a revocation with this field; may be repeated",
    )
    parser.add_argument(
        "--lifetime",
        type=_seconds,
        default=int(DAY),
        metavar="SECONDS",
        help="lifetime of access tokens (default: %(default)s)",
    )
    return parser


def _seconds(text: str) -> int:
    seconds = int(text)
    if seconds < 1:
        raise argparse.ArgumentTypeError("give a whole number of seconds, 1 or more")
    return seconds


def _instructions(sandbox: Sandbox) -> str:
    authorize_url = sandbox.authorize_url(sandbox.grant(), sandbox.redirect_uri, state="some-state")
    lines = ["# The sandbox is running. Variables for a client:"]
    lines += [f"export {k}={shlex.quote(v)}" for k, v in sandbox.environment().items()]
    lines += ["# Targets:"]
    lines += [f"#   {bank.policy.target_id}  {bank.policy.name}" for bank in sandbox.banks.values()]
    lines += [
        f"# Accounts:   {sandbox.accounts_url}",
        f"# Authorize:  {authorize_url}",
        f"# Control:    {sandbox.control_url}/sandbox; POST to its /faults, /revocation, /clock",
        "# Press Ctrl-C to stop it.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
