"""What each key of a contract holds, as data, so that a change of it has a kind.

A key that is not named here is of the kind `unknown`, which no rule knows: nothing in the document
is overlooked.
"""

from __future__ import annotations

from attrs import frozen

from contract_document import METHODS


@frozen
class Element:
    """What a key holds.

    Attributes:
        kind: The kind of a change of it.
        type: The name of its keys in `GRAMMAR`; empty for a plain value.
        each: Whether the key holds several of them, in a mapping or a list.
    """

    kind: str = "unknown"
    type: str = ""
    each: bool = False


TEXT, EVIDENCE, UNKNOWN = Element("text"), Element("evidence"), Element()
SCHEMA = Element("constraint", "schema")
TEXTS = {"description": TEXT, "summary": TEXT, "externalDocs": TEXT, "x-blink-evidence": EVIDENCE}
EXAMPLES = {"example": TEXT, "examples": Element("text", "example", each=True)}
PARAMETERS = Element("request header", "parameter", each=True)
SERVERS = Element("server", "server", each=True)
# We send every call to the base URL of the document, so these are another matter.
OWN_SERVERS = Element("own server", "own server", each=True)
LISTS = {"parameter", "server", "own server"}  # Of these types, several stand in a list.
SECURITY, DEPRECATED = Element("authentication"), Element("deprecated")

# The key `*` stands for every other key.
GRAMMAR: dict[str, dict[str, Element]] = {
    "document": {
        "info": Element("text", "info"),
        "servers": SERVERS,
        "paths": Element("operation", "path", each=True),
        "components": Element("component", "components"),
        "tags": TEXT,
        "externalDocs": TEXT,
        "security": SECURITY,
        "x-blink-client-authentication": Element("authentication", "authentication"),
    },
    "info": {"*": TEXT, "version": Element("version")},
    "authentication": {**TEXTS, "method": Element("authentication")},
    "server": {
        **TEXTS,
        "*": Element("server"),
        "variables": Element("server variable", "server variable", True),
    },
    "own server": {**TEXTS, "*": Element("own server")},
    "server variable": {**TEXTS, "default": Element("server"), "enum": Element("server")},
    "components": {
        "schemas": Element("component", "schema", each=True),
        "parameters": Element("component", "parameter", each=True),
        "headers": Element("component", "header", each=True),
        "requestBodies": Element("component", "request body", each=True),
        "responses": Element("component", "response", each=True),
        "examples": Element("text", "example", each=True),
    },
    "path": {
        **TEXTS,
        **dict.fromkeys(METHODS, Element("operation", "operation")),
        "parameters": PARAMETERS,
        "servers": OWN_SERVERS,
    },
    "operation": {
        **TEXTS,
        "deprecated": DEPRECATED,
        "operationId": Element("operationId"),
        "tags": Element("operationId"),
        "parameters": PARAMETERS,
        "requestBody": Element("request body", "request body"),
        "responses": Element("status", "response", each=True),
        "security": SECURITY,
        "servers": OWN_SERVERS,
        "x-blink-inferred-parameters": Element("inferred parameters"),
    },
    "parameter": {
        **TEXTS,
        "deprecated": DEPRECATED,
        **EXAMPLES,
        "name": Element("request header name"),
        "in": Element("request header name"),
        "required": Element("request header required"),
        "schema": SCHEMA,
    },
    "header": {
        **TEXTS,
        "deprecated": DEPRECATED,
        **EXAMPLES,
        "required": Element("response header required"),
        "schema": SCHEMA,
    },
    "request body": {
        **TEXTS,
        "required": Element("request body required"),
        "content": Element("media type", "media type", each=True),
    },
    "response": {
        **TEXTS,
        "headers": Element("response header", "header", each=True),
        "content": Element("media type", "media type", each=True),
    },
    "media type": {**EXAMPLES, "schema": SCHEMA},
    "example": {"*": TEXT},
    "schema": {
        **TEXTS,
        "deprecated": DEPRECATED,
        **EXAMPLES,
        **dict.fromkeys(("title", "$comment", "examples"), TEXT),
        "type": Element("type"),
        "enum": Element("enum value"),
        "properties": Element("member", "schema", each=True),
        "required": Element("members required"),
        "additionalProperties": Element("closed"),
        "unevaluatedProperties": Element("closed"),
        "items": SCHEMA,
        "default": Element("default"),
        **dict.fromkeys(("format", "pattern", "const", "multipleOf"), Element("constraint")),
        **{
            f"{end}{of}": Element("limit")
            for end in ("min", "max")
            for of in ("Length", "Items", "Properties", "imum")
        },
        **dict.fromkeys(("if", "then", "else", "not"), Element("condition")),
        **dict.fromkeys(("allOf", "anyOf", "oneOf"), Element("condition")),
    },
}
