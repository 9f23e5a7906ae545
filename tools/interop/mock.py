"""Prism as mock: it must answer with `spec/examples`, as anybody expects who tries the contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from blink_oauth import BlinkOAuth, Grant, Psu, Settings

from .node import Report, Tools

FORMS = {
    "/oauth/token": "token-request-authorization-code",
    "/oauth/revoke": "revoke-request-refresh-token",
}

Asked = tuple[str, str, str, str]
"""Path, status, media type and name of an example."""


def check(tools: Tools) -> Report:
    """Ask for each example by its status and name, then call with the client."""
    examples = tools.contract.parent / "examples"
    responses = list(_responses(yaml.safe_load(tools.contract.read_text("utf-8"))))
    complaints: list[str] = []
    with tools.prism("mock") as url, httpx.Client(base_url=url, trust_env=False) as client:
        for each in responses:
            complaints += (
                f"{' '.join(each)}: {wrong}" for wrong in _answer(client, examples, each)
            )
        complaints += _first_answer(url, examples)
    done = f"mock: {len(responses)} answers by Prefer and one to the client, as in the examples"
    return Report(done, complaints)


def _responses(contract: dict[str, Any]) -> Iterator[Asked]:
    """Yield each example, each media type without one, and each response without a body."""
    components = contract["components"]["responses"]
    for path, item in contract["paths"].items():
        for status, reference in item["post"]["responses"].items():
            response = components[reference["$ref"].rpartition("/")[2]]
            for content_type, media in response.get("content", {"*/*": {}}).items():
                for name in media.get("examples", [""]):
                    yield path, status, content_type, name


def _answer(client: httpx.Client, examples: Path, asked: Asked) -> Iterator[str]:
    """Yield what is wrong with the answer that is asked for."""
    path, status, content_type, name = asked
    headers = json.loads((examples / "headers.json").read_text("utf-8"))["request_interactive"]
    prefer = f"code={status}, example={name}" if name else f"code={status}"
    form = json.loads((examples / f"{FORMS[path]}.json").read_text("utf-8"))
    headers |= {"Accept": content_type, "Prefer": prefer}
    response = client.post(path, headers=headers, data=form)
    if str(response.status_code) != status:
        yield f"answered {response.status_code}"
    if content_type not in ("*/*", response.headers.get("Content-Type")):
        yield f"answered in {response.headers.get('Content-Type')}"
    if name and response.json() != json.loads((examples / f"{name}.json").read_text("utf-8")):
        yield "another body than the example"
    if violations := response.headers.get("sl-violations"):
        yield violations


def _first_answer(url: str, examples: Path) -> Iterator[str]:
    """Yield what is wrong with the answer that a client gets who asks for nothing particular."""
    headers = json.loads((examples / "headers.json").read_text("utf-8"))["request_interactive"]
    settings = Settings(
        base_url=url,
        client_id="CIDX0000000002",
        user_agent=headers["User-Agent"],
        allow_plain_http=True,
    )
    form = json.loads((examples / "token-request-authorization-code.json").read_text("utf-8"))
    # The mock answers with the correlation id of the example.
    with BlinkOAuth(settings, new_correlation_id=lambda: headers["X-Correlation-ID"]) as blink:
        token = blink.exchange_code(
            Grant(target_id=headers["X-CorAPI-Target-ID"], username=form["username"]),
            code=form["code"],
            redirect_uri=form["redirect_uri"],
            psu=Psu(ip=headers["X-PSU-IP-Address"], user_agent=headers["X-PSU-User-Agent"]),
        )
    issued = json.loads((examples / "token-response.json").read_text("utf-8"))
    scope = frozenset(issued["scope"].split())
    if (token.access_token.reveal(), token.scope) != (issued["access_token"], scope):
        yield "the client read another token than that of the example"
