"""generated/API.md has every fact of the contract once, and nothing else.

The tests that change the contract need no generator: what they change is not in the generated code,
or is not in the generated code yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from contract_document import GenerationError
from surface import surface

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "generated/blink_oauth_api"
SPEC = (PROJECT / "spec/openapi.yaml").read_text("utf-8")
PAGE = (PROJECT / "generated/API.md").read_text("utf-8")
CONTRACT: dict[str, Any] = YAML(typ="safe").load(SPEC)
SCHEMAS: dict[str, Any] = CONTRACT["components"]["schemas"]
LINES = [line.lstrip(" ") for line in PAGE.splitlines() if line.lstrip(" ").startswith("- ")]
OPERATIONS: dict[str, dict[str, Any]] = {
    operation["operationId"]: {"path": path, "method": method, **operation}
    for path, item in CONTRACT["paths"].items()
    for method, operation in item.items()
}
KEYWORDS = ("pattern", "minimum", "maximum", "multipleOf")


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference leads to, or the node itself."""
    if "$ref" in node:
        _, kind, name = node["$ref"].removeprefix("#/").split("/")
        found: dict[str, Any] = CONTRACT["components"][kind][name]
        return resolve(found)
    return node


def line_of(start: str) -> str:
    """Return the only line that begins with a text."""
    (found,) = [line for line in LINES if re.match(f"- {start}", line)]
    return found


def fact_of(name: str, start: str) -> str:
    """Return the only line about an operation, perhaps among others, that begins with a text."""
    return line_of(rf"(`\w+` and )*`{name}` (and `\w+` )*{start}")


def limits_of(schema: dict[str, Any]) -> Iterator[str]:
    """Yield each limit of a schema as it is shown."""
    if "minLength" in schema or "maxLength" in schema:
        yield f"length `{schema.get('minLength', 0)}..{schema.get('maxLength', '')}`"
    for keyword in KEYWORDS:
        if keyword in schema:
            value = schema[keyword]
            yield f"{keyword} `{value if isinstance(value, str) else json.dumps(value)}`"
    if schema.get("format") == "password":
        yield "secret"


def in_statuses(text: str, statuses: list[str]) -> set[str]:
    """Return the statuses that the end of a line names."""
    shown = set(re.findall("`([^`]*)`", text))
    if text.startswith("every status"):
        return set(statuses) - shown
    return shown


def needed(node: dict[str, Any]) -> str:
    """Return the word for whether a part of a message is required."""
    return "required" if node.get("required") else "optional"


def received(operation: dict[str, Any]) -> dict[tuple[str, str, str], set[str]]:
    """Return the statuses with each response header: its name, whether it is required, its type."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for status, response in operation["responses"].items():
        for name, header in resolve(response)["headers"].items():
            one = resolve(header)
            type_ = one["schema"].get("$ref", "str").rpartition("/")[2]
            found.setdefault((name, needed(one), type_), set()).add(status)
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_has_its_parameters_statuses_and_headers(name: str) -> None:
    operation = OPERATIONS[name]
    assert line_of(f"`{name}`: `{operation['method'].upper()} {operation['path']}`")
    (media,) = resolve(operation["requestBody"])["content"]
    assert f"body `{media}`, required" in fact_of(name, "argument `body: ")
    for parameter in map(resolve, operation["parameters"]):
        shown = fact_of(name, rf"argument `\w+: str`: header `{parameter['name']}`, ")
        assert f", {needed(parameter)}" in shown
        type_ = parameter["schema"].get("$ref", "").rpartition("/")[2]
        assert not type_ or shown.endswith(f", `{type_}`")
    statuses = list(operation["responses"])
    for status, response in operation["responses"].items():
        shown = fact_of(name, f"status `{status}`: ")
        content = resolve(response).get("content", {})
        for media_type, body in content.items():
            assert f"`{body['schema']['$ref'].rpartition('/')[2]}`" in shown
            assert f"`{media_type}`" in shown
        assert shown.endswith("no body") == (not content)
    for (header, word, type_), with_it in received(operation).items():
        shown = fact_of(name, f"response header `{header}`: {word}, `{type_}`")
        assert in_statuses(shown.rpartition(", on ")[2], statuses) == with_it


MODELS = [name for name, schema in SCHEMAS.items() if "properties" in schema]


@pytest.mark.parametrize("name", MODELS)
def test_each_model_has_its_members_with_their_limits(name: str) -> None:
    schema = SCHEMAS[name]
    is_open = schema["additionalProperties"]
    assert line_of(f"`{name}`: ").endswith(f"{'keeps' if is_open else 'has no'} other members")
    for member, value in schema["properties"].items():
        shown = [
            line
            for line in LINES
            if re.match(rf"- `{name}\.{member}: ", line)
            or (line.startswith(f"- `{name}.") and f"member `{member}`, " in line)
        ]
        assert len(shown) == 1
        facts = set(re.split(r", (?=[a-z])", shown[0].partition("`: ")[2]))
        needed = "required" if member in schema.get("required", ()) else "optional"
        renamed = {fact for fact in facts if fact == f"member `{member}`"}
        assert facts - renamed == {needed, *limits_of(value)}
        if "$ref" in value:
            assert f": {value['$ref'].rpartition('/')[2]}`" in shown[0]


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name not in MODELS])
def test_each_value_has_its_limits_or_its_members(name: str) -> None:
    schema = SCHEMAS[name]
    shown = line_of(f"`{name}`: `str`")
    assert shown == ", ".join([f"- `{name}`: `str`", *limits_of(schema)])
    for value in schema.get("enum", ()):
        assert line_of(f"`{name}` value `{value}`$")


def test_nothing_else_is_shown() -> None:
    facts = 1  # the version of the contract
    for operation in OPERATIONS.values():
        facts += 2 + len(operation["parameters"]) + len(operation["responses"])
        facts += len(received(operation))
    # What operations share stands once.
    facts -= sum(line.count("` and `") for line in LINES if line.startswith("- `request_token` "))
    for schema in SCHEMAS.values():
        facts += 1 + len(schema.get("properties", ())) + len(schema.get("enum", ()))
        facts += len(schema.get("allOf", ())) + ("if" in schema)
    assert len(LINES) == facts
    assert len(set(LINES)) == facts


def test_the_version_of_the_contract_is_shown() -> None:
    assert line_of("Contract version ") == f"- Contract version `{CONTRACT['info']['version']}`"


def test_each_secret_is_marked() -> None:
    marked = {line.partition(":")[0] for line in LINES if ", secret" in line}
    assert marked == {
        f"- `{name}.{member}"
        for name in MODELS
        for member, value in SCHEMAS[name]["properties"].items()
        if value.get("format") == "password"
    }
    assert marked


def edited(old: str, new: str) -> dict[str, Any]:
    """Return the contract with the first occurrence of a text replaced, which must occur."""
    assert old in SPEC
    contract: dict[str, Any] = YAML(typ="safe").load(SPEC.replace(old, new, 1))
    return contract


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        pytest.param(
            f'version: "{CONTRACT["info"]["version"]}"',
            'version: "9.9.9"',
            [
                f"-- Contract version `{CONTRACT['info']['version']}`",
                "+- Contract version `9.9.9`",
            ],
            id="version",
        ),
        pytest.param(
            "        code:\n          type: string\n          format: password\n",
            "        code:\n          type: string\n",
            [
                "-  - `TokenRequest.code: str`: optional, secret, length `1..`",
                "+  - `TokenRequest.code: str`: optional, length `1..`",
            ],
            id="no longer a secret",
        ),
        pytest.param(
            "required: [code, redirect_uri]",
            "required: [code]",
            [
                (
                    "-  - `TokenRequest` condition: if `grant_type` is `authorization_code`, then"
                    " with `code` and with `redirect_uri` and not (with `refresh_token`)"
                ),
                (
                    "+  - `TokenRequest` condition: if `grant_type` is `authorization_code`, then"
                    " with `code` and not (with `refresh_token`)"
                ),
            ],
            id="condition",
        ),
        pytest.param(
            "            - required: [error]\n            - required: [type]",
            "            - required: [error]\n            - required: [type, title]",
            [
                "-  - `ErrorBody` condition: with `error` or with `type`",
                "+  - `ErrorBody` condition: with `error` or with `type` and with `title`",
            ],
            id="condition with alternatives",
        ),
        pytest.param(
            "        application/x-www-form-urlencoded:\n",
            "        application/json:\n",
            [
                (
                    "-  - `request_token` argument `body: TokenRequest`: body"
                    " `application/x-www-form-urlencoded`, required"
                ),
                (
                    "+  - `request_token` argument `body: TokenRequest`: body `application/json`,"
                    " required"
                ),
            ],
            id="media type",
        ),
        pytest.param(
            "    ContentLanguage:\n      type: string\n",
            "    ContentLanguage:\n      type: string\n      maxLength: 2\n",
            [
                "-- `ContentLanguage`: `str`, pattern `^[Ee][Nn]$`",
                "+- `ContentLanguage`: `str`, length `0..2`, pattern `^[Ee][Nn]$`",
            ],
            id="limit of a response header",
        ),
        pytest.param(
            "[Ee][Nn]$",
            "`+$",
            [
                "-- `ContentLanguage`: `str`, pattern `^[Ee][Nn]$`",
                "+- `ContentLanguage`: `str`, pattern ``^`+$``",
            ],
            id="code with a backtick",
        ),
        pytest.param(
            'pattern: "^[Ee][Nn]$"',
            'pattern: "``|\\n"\n      description: "a `|` \\n\\n- b"',
            [
                "-- `ContentLanguage`: `str`, pattern `^[Ee][Nn]$`",
                '+- `ContentLanguage`: `str`, pattern ```"``|\\n"```',
            ],
            id="code with backticks and a line end",
        ),
        pytest.param(
            '        - $ref: "#/components/parameters/TargetId"\n',
            "        - {name: X-CorAPI-Target-ID, in: header, schema: {type: string}}\n",
            [
                (
                    "+  - `request_token` argument `x_cor_api_target_id: str`: header"
                    " `X-CorAPI-Target-ID`, optional"
                ),
                (
                    "+  - `revoke_token` argument `x_cor_api_target_id: str`: header"
                    " `X-CorAPI-Target-ID`, required, `TargetId`"
                ),
                (
                    "-- `request_token` and `revoke_token` argument `x_cor_api_target_id: str`:"
                    " header `X-CorAPI-Target-ID`, required, `TargetId`"
                ),
            ],
            id="fact that is no longer shared",
        ),
        pytest.param(
            "valid for 30 seconds.\n          minLength: 1\n          x-blink-evidence: stated\n",
            "valid for 60 seconds.\n          minLength: 1\n          x-blink-evidence: inferred\n",
            [],
            id="text and evidence",
        ),
    ],
)
def test_a_change_of_the_contract_changes_its_lines_only(
    old: str, new: str, facts: list[str]
) -> None:
    text = surface(edited(old, new), PACKAGE)
    changed = list(unified_diff(PAGE.splitlines(), text.splitlines(), n=0, lineterm=""))[2:]
    assert [line for line in changed if not line.startswith("@@")] == facts


HEADER = "{name: X-Trace, in: header, schema: {type: string}}"
QUERY = "{name: trace, in: query, content: {text/plain: {schema: {type: string}}}}"


@pytest.mark.parametrize(
    ("old", "new", "lacks"),
    [
        pytest.param(
            "operationId: revoke_token",
            "operationId: withdraw_token",
            "module withdraw_token for POST /oauth/revoke (two operations of this name?)",
            id="operation",
        ),
        pytest.param(
            "operationId: revoke_token",
            "operationId: request_token",
            "module request_token for POST /oauth/revoke (two operations of this name?)",
            id="operation with the name of another",
        ),
        pytest.param(
            "  /oauth/token:\n",
            f"  /oauth/token:\n    parameters: [{HEADER}]\n",
            "argument x_trace of request_token",
            id="header",
        ),
        pytest.param(
            "  /oauth/token:\n",
            f"  /oauth/token:\n    parameters: [{QUERY}]\n",
            "argument trace of request_token",
            id="parameter without a schema",
        ),
        pytest.param(
            '        "504":\n',
            '        "503":\n          $ref: "#/components/responses/BadGateway"\n        "504":\n',
            "parser for status 503 of request_token",
            id="status",
        ),
        pytest.param(
            'schema:\n            $ref: "#/components/schemas/TokenResponse"',
            'schema:\n            $ref: "#/components/schemas/ErrorBody"',
            "parser for status 200 of request_token",
            id="model of a body",
        ),
        pytest.param(
            "    ErrorBody:\n      type: object\n",
            "    Another: {type: object, properties: {}}\n    ErrorBody:\n      type: object\n",
            "model Another",
            id="model",
        ),
        pytest.param(
            "        scope:\n", "        scopes:\n", "field for scopes of TokenResponse", id="field"
        ),
    ],
)
def test_what_the_generator_left_out_is_an_error(old: str, new: str, lacks: str) -> None:
    with pytest.raises(GenerationError) as failure:
        surface(edited(old, new), PACKAGE)
    assert str(failure.value) == f"Correct spec/openapi.yaml: the generator made no {lacks}."
