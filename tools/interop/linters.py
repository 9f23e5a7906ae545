"""Linters, a validator and a generator of types, each with its own rules."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from subprocess import CompletedProcess
from typing import Any

from .node import Report, Tools, readable


def redocly(tools: Tools) -> Report:
    """Lint the contract with Redocly."""
    lint = ("lint", "--extends=recommended", "--format=json", "--max-problems=1000")
    ran = tools.run("redocly", *lint, str(tools.contract))
    problems = [
        f"{each['ruleId']} at {each['location'][0].get('pointer', '')}: {each['message']}"
        for each in _json(ran)["problems"]
    ]
    return _report("lint, recommended", ran, problems)


def swagger_parser(tools: Tools) -> Report:
    """Validate the contract with swagger-parser."""
    return _report("validate", tools.run("node", "validate.mjs", str(tools.contract)))


def spectral(tools: Tools) -> Report:
    """Lint the contract with Spectral."""
    lint = ("lint", "--ruleset", "spectral.yaml", "--format", "json", "--quiet")
    ran = tools.run("spectral", *lint, str(tools.contract))
    problems = [
        f"{each['code']} at {'/'.join(map(str, each['path']))}: {each['message']}"
        for each in _json(ran)
    ]
    return _report("lint, spectral:oas", ran, problems)


def types(tools: Tools) -> Report:
    """Write the types of the contract with openapi-typescript."""
    (tools.folder / "contract.ts").unlink(missing_ok=True)  # of a run before
    ran = tools.run("openapi-typescript", str(tools.contract), "--output", "contract.ts")
    return _report("types of the contract", ran)


def client(tools: Tools) -> Report:
    """Compile a client that uses those types."""
    return _report("tsc --strict, a client", tools.run("tsc", "--strict", "--noEmit", "client.ts"))


def _json(ran: CompletedProcess[str]) -> Any:
    """Return what a tool printed.

    Raises:
        RuntimeError: It printed no JSON, because it could not run.
    """
    try:
        return json.loads(ran.stdout)
    except ValueError:
        raise RuntimeError(" ".join(readable(ran.stdout + ran.stderr))) from None


def _report(done: str, ran: CompletedProcess[str], problems: Sequence[str] = ()) -> Report:
    """Return the problems, or what a tool printed that failed without naming one."""
    if ran.returncode and not problems:
        lines = readable(ran.stdout + ran.stderr) or [f"exit status {ran.returncode}"]
        # Node.js prints much around an error that is not caught.
        problems = [line for line in lines if re.match(r"\w*Error: ", line)] or lines
    return Report(done, problems)
