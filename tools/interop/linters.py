"""Linters, a validator and a generator of types, each with its own rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

from .node import Report, Tools


def reports(tools: Tools) -> Iterator[Report]:
    """Run each tool once over the contract."""
    yield _redocly(tools)
    yield _swagger_parser(tools)
    yield _spectral(tools)
    yield from _typescript(tools)


def _json(ran: CompletedProcess[str]) -> Any:
    """Return what a tool printed.

    Raises:
        RuntimeError: It printed no JSON, because it could not run.
    """
    try:
        return json.loads(ran.stdout)
    except ValueError:
        raise RuntimeError(f"{ran.args[0]} cannot run: {ran.stderr}") from None


def _lines(ran: CompletedProcess[str]) -> list[str]:
    """Return what a tool says that prints text; nothing if it succeeded."""
    if ran.returncode == 0:
        return []
    lines = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
    return lines or [f"exit status {ran.returncode}"]


def _redocly(tools: Tools) -> Report:
    lint = ("lint", "--extends=recommended", "--format=json", "--max-problems=1000")
    ran = tools.run("redocly", *lint, str(tools.contract))
    complaints = [
        f"{each['ruleId']} at {each['location'][0].get('pointer', '')}: {each['message']}"
        for each in _json(ran)["problems"]
    ]
    return Report("@redocly/cli", tools.version("@redocly/cli"), "lint, recommended", complaints)


def _swagger_parser(tools: Tools) -> Report:
    complaints = _lines(tools.run("node", "validate.mjs", str(tools.contract)))
    package = "@apidevtools/swagger-parser"
    return Report(package, tools.version(package), "validate", complaints)


def _spectral(tools: Tools) -> Report:
    lint = ("lint", "--ruleset", "spectral.yaml", "--format", "json", "--quiet")
    ran = tools.run("spectral", *lint, str(tools.contract))
    complaints = [
        f"{each['code']} at {'/'.join(map(str, each['path']))}: {each['message']}"
        for each in _json(ran)
    ]
    package = "@stoplight/spectral-cli"
    return Report(package, tools.version(package), "lint, spectral:oas", complaints)


def _typescript(tools: Tools) -> Iterator[Report]:
    package = "openapi-typescript"
    complaints = _lines(tools.run(package, str(tools.contract), "--output", "contract.ts"))
    yield Report(package, tools.version(package), "types of the contract", complaints)
    complaints = _lines(tools.run("tsc", "--strict", "--noEmit", "client.ts"))
    yield Report("typescript", tools.version("typescript"), "tsc --strict, a client", complaints)
