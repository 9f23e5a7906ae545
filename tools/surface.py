"""The generated package as text for reviewers: operations, parameters, statuses, models, values.

Python names and types are read from the generated code, the rest from the contract. What the
contract has and the generator left out is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openapi_python_client.strings import ClassName, snake_case

from contract_document import (
    JSON_TYPES,
    SPEC,
    Node,
    operations,
    parameters,
    resolve,
    response_headers,
)
from generated_code import Declaration, Endpoint, Model, missing, read_endpoint, read_models

HEAD = f"""\
# The generated surface

Generated from `{SPEC}` by `tools/surface.py`; do not edit. Each line is one fact and names
what it is about, so that a diff can be read without its context. A fact that operations share
stands once. The order is that of the contract. A `secret` has `format: password`; a length is in
characters.

- Contract version `{{version}}`
"""
# Keywords that are not shown: texts, marks, and what is shown in another way.
NOT_SHOWN = ("$ref", "type", "title", "description", "example", "examples", "properties")
PREFIX = "field_"  # of a name that begins with no letter; the generator's default
CONDITIONS = ("if", "then", "else", "not", "allOf", "anyOf", "oneOf")


def surface(contract: Node, package: Path) -> str:
    """Return the text of API.md.

    Raises:
        GenerationError: If the generated package lacks something of the contract.
    """
    models = read_models(package)
    schemas: dict[str, Node] = contract.get("components", {}).get("schemas", {})
    objects = {
        class_name(schema.get("title", name)): schema
        for name, schema in schemas.items()
        if "properties" in schema or class_name(schema.get("title", name)) in models
    }
    # Those that the generator made of schemas without a name of their own come last.
    objects |= {name: {} for name in models if name not in objects}
    enums = {name: schema for name, schema in schemas.items() if "enum" in schema}
    values = {
        name: schema
        for name, schema in schemas.items()
        if name not in enums and class_name(schema.get("title", name)) not in objects
    }
    sections = {
        "Operations": list(operation_lines(contract, package)),
        "Models": [line for one in objects.items() for line in model_lines(contract, models, *one)],
        "Enumerations": [line for one in enums.items() for line in enum_lines(*one)],
        "Other values": [line for one in values.items() for line in value_lines(contract, *one)],
    }
    lines = [HEAD.format(version=contract["info"]["version"])]
    for title, facts in sections.items():
        if facts:
            lines += [f"## {title}", "", *facts, ""]
    return "\n".join(lines).removesuffix("\n") + "\n"


def operation_lines(contract: Node, package: Path) -> Iterator[str]:
    """Yield the facts of each operation, then those that several share.

    Raises:
        GenerationError: If the generated functions lack an operation or a part of one.
    """
    heads: dict[str, str] = {}
    owners: dict[str, list[str]] = {}  # the operations with each fact
    for path, method, operation in operations(contract):
        name = operation["operationId"]
        endpoint = read_endpoint(package, name, method, path)
        heads[f"`{name}`"] = f"`{method.upper()} {path}`, returns `{endpoint.returns}`"
        for fact in operation_facts(contract, path, operation, endpoint):
            owners.setdefault(fact, []).append(f"`{name}`")
    for name, head in heads.items():
        yield f"- {name}: {head}"
        yield from (f"  - {name} {fact}" for fact, names in owners.items() if names == [name])
    shared = {fact: names for fact, names in owners.items() if len(names) > 1}
    yield from (f"- {' and '.join(names)} {fact}" for fact, names in shared.items())


def operation_facts(
    contract: Node, path: str, operation: Node, endpoint: Endpoint
) -> Iterator[str]:
    """Yield the facts of an operation, without its name.

    Raises:
        GenerationError: If the generated functions lack a part of the operation.
    """
    name = operation["operationId"]
    body = resolve(contract, operation.get("requestBody", {}))
    if body:
        declared, _ = argument(endpoint, name, "body")
        media = ", ".join(map(code, body["content"]))
        yield f"argument `{declared}`: body {media}, {needed(body)}"
    for one in parameters(contract, path, operation):
        python = endpoint.names.get(one["name"], snake_case(one["name"]))
        declared, type_ = argument(endpoint, name, python)
        facts = [f"{one['in']} {code(one['name'])}", needed(one)]
        facts += limits(contract, one.get("schema", {}), type_)
        yield f"argument `{declared}`: {', '.join(facts)}"
    for status, response in operation["responses"].items():
        content = resolve(contract, response).get("content", {})
        text = bodies(contract, content, endpoint, f"status {status} of {name}", status)
        yield f"status `{status}`: {text}"
    yield from header_facts(contract, response_headers(contract, operation))


def header_facts(contract: Node, received: dict[str, Node]) -> Iterator[str]:
    """Yield each response header once, with the statuses that have it."""
    found: dict[str, list[str]] = {}
    for status, headers in received.items():
        for header, one in headers.items():
            facts = [needed(one), *limits(contract, one.get("schema", {}))]
            text = f"response header {code(header)}: {', '.join(facts)}"
            found.setdefault(text, []).append(status)
    for text, with_it in found.items():
        without = [status for status in received if status not in with_it]
        if not without:
            yield f"{text}, on every status"
        elif len(without) < len(with_it):
            yield f"{text}, on every status but {', '.join(map(code, without))}"
        else:
            yield f"{text}, on {', '.join(map(code, with_it))}"


def bodies(contract: Node, content: Node, endpoint: Endpoint, place: str, status: str) -> str:
    """Return the bodies of a status, by their types.

    Raises:
        GenerationError: If the generated parser does not know the status or reads another model.
    """
    media: dict[str, list[str]] = {}
    for kind, each in content.items():
        media.setdefault(type_name(contract, each.get("schema", {})), []).append(kind)
    if status not in endpoint.parsed or not endpoint.parsed[status] <= media.keys():
        raise missing(f"parser for {place}")
    texts = [f"{code(type_)} as {', '.join(map(code, kinds))}" for type_, kinds in media.items()]
    return "; ".join(texts) or "no body"


def model_lines(contract: Node, models: dict[str, Model], name: str, schema: Node) -> Iterator[str]:
    """Yield the facts of a model.

    Raises:
        GenerationError: If the generated models lack it or one of its fields.
    """
    if name not in models:
        raise missing(f"model {name}")
    fields = models[name].fields
    is_open = models[name].is_open
    yield f"- `{name}`: {'keeps' if is_open else 'has no'} other members"
    required = schema.get("required", ())
    members = schema.get("properties", {})
    for member, value in members.items():
        if member not in fields:
            raise missing(f"field for {member} of {name}")
        field, type_ = fields[member]
        facts = ["required" if member in required else "optional"]
        facts += limits(contract, value, type_)
        if not field.startswith(f"{member}:"):
            facts.insert(0, f"member {code(member)}")
        yield f"  - `{name}.{field}`: {', '.join(facts)}"
    # The others are of a schema that this one is composed of, or of one without a name.
    yield from (f"  - `{name}.{fields[member][0]}`" for member in fields if member not in members)
    yield from condition_lines(contract, name, schema)


def enum_lines(name: str, schema: Node) -> Iterator[str]:
    """Yield the values of an enumeration, each on its own line."""
    name = class_name(schema.get("title", name))
    yield f"- `{name}`: `{JSON_TYPES.get(str(schema.get('type')), 'object')}`"
    yield from (f"  - `{name}` value {code(value)}" for value in schema["enum"])


def value_lines(contract: Node, name: str, schema: Node) -> Iterator[str]:
    """Yield the facts of a schema that is neither a model nor an enumeration."""
    name = class_name(schema.get("title", name))
    yield f"- `{name}`: {', '.join(limits(contract, schema))}"
    yield from condition_lines(contract, name, schema)


def condition_lines(contract: Node, name: str, schema: Node) -> Iterator[str]:
    """Yield the conditions that a schema states beside its members."""
    own = {key: schema[key] for key in CONDITIONS if key in schema and key != "allOf"}
    for each in ([own] if own else []) + schema.get("allOf", []):
        yield f"  - `{name}` condition: {condition(contract, each)}"


def condition(contract: Node, schema: Node) -> str:
    """Return a condition in words."""
    # An empty schema permits any value, so that it says only the name of a member.
    members = {name: value for name, value in schema.get("properties", {}).items() if value}
    required = schema.get("required", ())
    parts = [
        f"{code(name)}{'' if name in required else ', if present,'} {condition(contract, value)}"
        for name, value in members.items()
    ]
    parts += [f"with {code(name)}" for name in required if name not in members]
    for key, value in schema.items():
        if key not in ("properties", "required"):
            parts += keyword(contract, schema, key, value)
    if len(parts) > 1:
        parts = [
            f"({part})" if " or " in part and not part.startswith("not (") else part
            for part in parts
        ]
    return " and ".join(parts) or "anything"


def keyword(contract: Node, schema: Node, key: str, value: Any) -> Iterator[str]:
    """Yield one keyword of a condition in words; one without a word is shown as it is."""
    match key:
        case "if":
            for branch, word in (("then", "if"), ("else", "unless")):
                if branch in schema:
                    met = condition(contract, schema[branch])
                    yield f"{word} {condition(contract, value)}, then {met}"
        case "not":
            yield f"not ({condition(contract, value)})"
        case "allOf" | "anyOf" | "oneOf":
            word = {"allOf": " and ", "anyOf": " or ", "oneOf": " or else "}[key]
            yield word.join(condition(contract, each) for each in value)
        case "const":
            yield f"is {code(value)}"
        case "$ref":
            yield f"is {code(type_name(contract, schema))}"
        case "unevaluatedProperties" if value is True:
            return  # what is permitted without it, too
        case _ if is_shown(key) and key not in CONDITIONS:
            yield f"{key} {code(value)}"


def limits(contract: Node, schema: Node, type_: str = "") -> Iterator[str]:
    """Yield the limits of a value: the name of its schema, and each keyword.

    Args:
        contract: The parsed contract.
        schema: The schema of the value.
        type_: The Python type that is shown already; without one, it is yielded first.
    """
    name = type_name(contract, schema)
    if name != type_ and ("$ref" in schema or not type_):
        yield code(name)
    for key, value in schema.items():
        if key == "format" and value == "password":
            yield "secret"
        elif key == "minLength" or (key == "maxLength" and "minLength" not in schema):
            yield f"length `{schema.get('minLength', 0)}..{schema.get('maxLength', '')}`"
        elif key == "maxLength":
            continue
        elif key == "enum":
            yield f"one of {', '.join(map(code, value))}"
        elif is_shown(key) and key not in CONDITIONS:
            yield f"{key} {code(value)}"


def is_shown(key: str) -> bool:
    """Return whether a keyword of a schema is shown: texts and marks are not."""
    return key not in NOT_SHOWN and not key.startswith("x-")


def needed(node: Node) -> str:
    """Return whether a parameter, header or body is required."""
    return "required" if node.get("required") else "optional"


def type_name(contract: Node, schema: Node) -> str:
    """Return the name of a schema, or the Python type if it has no name."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return class_name(resolve(contract, schema).get("title", name))
    return JSON_TYPES.get(str(schema.get("type")), "object")


def class_name(name: str) -> str:
    """Return the name that the generator gives a class."""
    return str(ClassName(name, PREFIX))


def code(value: Any) -> str:
    """Return a value as code in Markdown, on one line."""
    is_plain = isinstance(value, str) and value.isprintable() and value.strip()
    text = value if is_plain else json.dumps(value, default=str)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    blank = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def argument(endpoint: Endpoint, operation: str, name: str) -> Declaration:
    """Return the declaration of an argument.

    Raises:
        GenerationError: If the generated functions lack it.
    """
    if name not in endpoint.arguments:
        raise missing(f"argument {name} of {operation}")
    return endpoint.arguments[name]
