"""`contract_diff` tells what each change of the contract means, and which version it demands."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from changes.edits import (
    CONFLICT,
    HEADERS,
    PATHS,
    RESPONSES,
    REVOKE,
    SCHEMAS,
    TOKEN,
    Node,
    add_request_header,
    combined,
    put,
    remove,
    rename,
    rename_component,
)
from changes.edits import Change as Edit
from contract_diff import __main__ as command
from contract_diff import release
from contract_diff.changes import compare
from contract_diff.consumers import Code
from contract_diff.report import Comparison, Leaf, as_json, as_markdown, as_text, words_of
from contract_diff.rules import RULES, Change, Consequence
from contract_diff.shape import complaints
from contract_diff.symbols import Symbol

PROJECT = Path(__file__).parents[2]
CONTRACT: Node = yaml.safe_load((PROJECT / "spec/openapi.yaml").read_text("utf-8"))
BREAKS, HANDLE, USABLE = "BREAKS CALLS", "MUST BE HANDLED", "CAN BE USED"
CONFIRMED, WEAKENED, WORDS, LOOK = "CONFIRMED", "WEAKENED", "WORDS", "NO RULE: LOOK"
MINOR, PATCH, NONE = "0.8.0", "0.7.4", "0.7.3"
"""The versions that may follow 0.7.3."""

FORM = f"{SCHEMAS}.TokenRequest"
FIELDS = f"{FORM}.properties"
TOKENS = f"{SCHEMAS}.TokenResponse"
PARAMETERS = "components.parameters"
ADDED = {"type": "string", "x-blink-evidence": "inferred"}
WITHOUT_CODE = (
    '{"if": {"required": ["grant_type"], "properties": {"grant_type": {"const": '
    '"authorization_code"}}}, "then": {"required": ["code", "redirect_uri"], "not": {"required": '
    '["refresh_token"]}}}'
)
SERVER = "https://{host}/consent-flow/v3"


def edited(edit: Edit) -> Node:
    """Return an edited copy of the contract."""
    contract = copy.deepcopy(CONTRACT)
    edit(contract)
    return contract


def at(path: str, edit: Callable[[Any], object]) -> Edit:
    """Edit the one value at a path in place."""

    def change(contract: Node) -> None:
        value: Any = contract
        for key in path.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        edit(value)

    return change


def append(path: str, item: object) -> Edit:
    """Append an item to a list."""
    return at(path, lambda listed: listed.append(item))


def delete(path: str, item: object) -> Edit:
    """Delete an item of a list."""
    return at(path, lambda listed: listed.remove(item))


def with_header(response: str, name: str) -> Node:
    """Return a copy of a response of the contract with one more header."""
    copied = copy.deepcopy(CONTRACT["components"]["responses"][response])
    copied["headers"][name] = {"schema": {"type": "string"}}
    return dict(copied)


def reverse_keys(node: Any) -> Any:
    """Return a copy of a node with the keys in reverse order."""
    if isinstance(node, dict):
        return {key: reverse_keys(node[key]) for key in reversed(list(node))}
    return [reverse_keys(one) for one in node] if isinstance(node, list) else node


def reorder(contract: Node) -> None:
    """Reverse the order of all keys."""
    reversed_ = reverse_keys(contract)
    contract.clear()
    contract.update(reversed_)


# The edit; the changes that are reported, as rule, consequence and words; the version that is
# demanded after 0.7.3.
Row = tuple[Edit, list[tuple[str, str, str]], str]
ROWS: dict[str, Row] = {
    "new required form field": (
        combined(put(f"{FIELDS}.device", ADDED), append(f"{FORM}.required", "device")),
        [("input required", BREAKS, "form field device added as required")],
        MINOR,
    ),
    "new optional form field": (
        put(f"{FIELDS}.device", ADDED),
        [("input optional", USABLE, "form field device added")],
        PATCH,
    ),
    "form field newly required": (
        append(f"{FORM}.required", "code"),
        [("input required", BREAKS, "form field code now required")],
        MINOR,
    ),
    "form field no longer required": (
        delete(f"{FORM}.required", "username"),
        [("input optional", USABLE, "form field username no longer required")],
        PATCH,
    ),
    "form field renamed": (
        rename(f"{FIELDS}.redirect_uri", "redirectUri"),
        [("input removed or renamed", BREAKS, "form field redirect_uri renamed to redirectUri")],
        MINOR,
    ),
    "required form field renamed": (
        combined(
            rename(f"{FIELDS}.username", "login"),
            delete(f"{FORM}.required", "username"),
            append(f"{FORM}.required", "login"),
        ),
        [("input removed or renamed", BREAKS, "form field username renamed to login")],
        MINOR,
    ),
    "form field removed": (
        combined(remove(f"{FIELDS}.username"), delete(f"{FORM}.required", "username")),
        [("input removed or renamed", BREAKS, "form field username removed")],
        MINOR,
    ),
    "form newly open": (
        put(f"{FORM}.additionalProperties", value=True),
        [("request loosened", USABLE, "additionalProperties false -> true")],
        PATCH,
    ),
    "form newly closed": (
        put(f"{TOKENS}.additionalProperties", value=False),
        [("response tightened", USABLE, "additionalProperties true -> false")],
        PATCH,
    ),
    "condition of the form added": (
        append(f"{FORM}.allOf", {"required": ["code"]}),
        [("request tightened", BREAKS, 'allOf added: {"required": ["code"]}')],
        MINOR,
    ),
    "condition of the form changed": (
        put(
            f"{FORM}.allOf",
            [{"required": ["code"]}, CONTRACT["components"]["schemas"]["TokenRequest"]["allOf"][1]],
        ),
        [
            (
                "request value changed",
                BREAKS,
                f'allOf {WITHOUT_CODE} -> {{"required": ["code"]}}',
            )
        ],
        MINOR,
    ),
    "request header renamed": (
        put(f"{PARAMETERS}.TargetId.name", "X-CorAPI-Bank-ID"),
        [
            (
                *("input removed or renamed", BREAKS),
                "request header X-CorAPI-Target-ID renamed to X-CorAPI-Bank-ID",
            )
        ],
        MINOR,
    ),
    "request header added as required": (
        add_request_header("X-Trace", required=True),
        [
            ("input required", BREAKS, "request header X-Trace added as required"),
            ("component", WORDS, "component added"),
        ],
        MINOR,
    ),
    "request header added": (
        add_request_header("X-Trace", required=False),
        [
            ("input optional", USABLE, "request header X-Trace added"),
            ("component", WORDS, "component added"),
        ],
        PATCH,
    ),
    "request header no longer required": (
        put(f"{PARAMETERS}.PsuUserAgent.required", value=False),
        [("input optional", USABLE, "request header X-PSU-User-Agent no longer required")],
        PATCH,
    ),
    "request header of one operation removed": (
        at(f"{REVOKE}.parameters", lambda listed: listed.pop()),
        [("input removed or renamed", BREAKS, "request header X-PSU-User-Agent removed")],
        MINOR,
    ),
    "limit of the username tightened": (
        put(f"{FIELDS}.username.maxLength", 36),
        [("request tightened", BREAKS, "maxLength 64 -> 36")],
        MINOR,
    ),
    "limit of the username loosened": (
        put(f"{FIELDS}.username.maxLength", 128),
        [("request loosened", USABLE, "maxLength 64 -> 128")],
        PATCH,
    ),
    "least length raised": (
        put(f"{FIELDS}.code.minLength", 8),
        [("request tightened", BREAKS, "minLength 1 -> 8")],
        MINOR,
    ),
    "limit on both sides loosened: responses can be longer": (
        put(f"{SCHEMAS}.CorrelationId.maxLength", 128),
        [("response loosened or changed", HANDLE, "maxLength 64 -> 128")],
        MINOR,
    ),
    "limit on both sides tightened: requests can be refused": (
        put(f"{SCHEMAS}.CorrelationId.maxLength", 36),
        [("request tightened", BREAKS, "maxLength 64 -> 36")],
        MINOR,
    ),
    "pattern of a form field added": (
        put(f"{FIELDS}.username.pattern", "^[a-z]+$"),
        [("request tightened", BREAKS, "pattern added: ^[a-z]+$")],
        MINOR,
    ),
    "pattern of a form field changed": (
        put(f"{FIELDS}.client_id.pattern", "^[0-9]+$"),
        [("request value changed", BREAKS, "pattern ^[!-~]+$ -> ^[0-9]+$")],
        MINOR,
    ),
    "format of a form field removed": (
        remove(f"{FIELDS}.code.format"),
        [("request loosened", USABLE, "format removed: password")],
        PATCH,
    ),
    "source added": (
        append(f"{SCHEMAS}.Source.enum", "GATEWAY"),
        [("response value added", HANDLE, "value GATEWAY added")],
        MINOR,
    ),
    "source removed": (
        delete(f"{SCHEMAS}.Source.enum", "PLATFORM"),
        [("response value removed", HANDLE, "value PLATFORM removed")],
        MINOR,
    ),
    "grant type removed": (
        delete(f"{SCHEMAS}.GrantType.enum", "refresh_token"),
        [("request tightened", BREAKS, "value refresh_token removed")],
        MINOR,
    ),
    "grant type added": (
        append(f"{SCHEMAS}.GrantType.enum", "password"),
        [("request loosened", USABLE, "value password added")],
        PATCH,
    ),
    "status removed": (
        remove(f"{PATHS}.*.post.responses.504"),
        [("status removed", HANDLE, "status 504 removed")],
        MINOR,
    ),
    "status added": (
        put(f"{PATHS}.*.post.responses.409", CONFLICT),
        [("status added", HANDLE, "status 409 added")],
        MINOR,
    ),
    "status of one operation added": (
        put(f"{REVOKE}.responses.409", CONFLICT),
        [("status added", HANDLE, "status 409 added")],
        MINOR,
    ),
    "member renamed": (
        rename(f"{TOKENS}.properties.expires_in", "lifetime"),
        [("output removed", HANDLE, "member expires_in renamed to lifetime")],
        MINOR,
    ),
    "member removed": (
        remove(f"{TOKENS}.properties.scope"),
        [("output removed", HANDLE, "member scope removed")],
        MINOR,
    ),
    "member no longer required": (
        delete(f"{TOKENS}.required", "token_type"),
        [("output removed", HANDLE, "member token_type no longer required")],
        MINOR,
    ),
    "member newly required": (
        append(f"{TOKENS}.required", "expires_in"),
        [("output added", USABLE, "member expires_in now required")],
        PATCH,
    ),
    "member added": (
        put(f"{TOKENS}.properties.id_token", ADDED),
        [("output added", USABLE, "member id_token added")],
        PATCH,
    ),
    "type widened to include null": (
        put(f"{TOKENS}.properties.expires_in.type", ["integer", "null"]),
        [("response loosened or changed", HANDLE, 'type integer -> ["integer", "null"]')],
        MINOR,
    ),
    "type of a member widened to numbers": (
        put(f"{TOKENS}.properties.expires_in.type", "number"),
        [("response loosened or changed", HANDLE, "type integer -> number")],
        MINOR,
    ),
    "type of a form field narrowed": (
        put(f"{FIELDS}.code.type", "integer"),
        [("request value changed", BREAKS, "type string -> integer")],
        MINOR,
    ),
    "type written as a list": (
        put(f"{FIELDS}.code.type", ["string"]),
        [("default written", WORDS, 'type string -> ["string"]')],
        NONE,
    ),
    "response header renamed": (
        rename(f"{HEADERS}.X-CorAPI-Source", "X-CorAPI-Origin"),
        [
            (
                *("output removed", HANDLE),
                "response header X-CorAPI-Source renamed to X-CorAPI-Origin",
            )
        ],
        MINOR,
    ),
    "response header of one operation removed": (
        remove(f"{RESPONSES}.TokenRevoked.headers.Pragma"),
        [("output removed", HANDLE, "response header Pragma removed")],
        MINOR,
    ),
    "response header added everywhere": (
        put(f"{HEADERS}.X-Region", {"schema": {"type": "string"}}),
        [("output added", USABLE, "response header X-Region added")],
        PATCH,
    ),
    "response of one operation written there, with one more header": (
        put(f"{TOKEN}.responses.400", with_header("BadRequest", "X-Region")),
        [("output added", USABLE, "response header X-Region added")],
        PATCH,
    ),
    "response header no longer required": (
        put("components.headers.Source.required", value=False),
        [("output removed", HANDLE, "response header X-CorAPI-Source no longer required")],
        MINOR,
    ),
    "media type of the form changed": (
        rename("components.requestBodies.Token.content.application/x-www-form-urlencoded", "a/b"),
        [
            (
                *("form type removed", BREAKS),
                "media type application/x-www-form-urlencoded renamed to a/b",
            )
        ],
        MINOR,
    ),
    "media type of the form added": (
        put("components.requestBodies.Token.content.a/b", {}),
        [("form type added", USABLE, "media type a/b added")],
        PATCH,
    ),
    "media type of a response added": (
        put(f"{RESPONSES}.TokenIssued.content.a/b", {}),
        [("media type of responses", HANDLE, "media type a/b added")],
        MINOR,
    ),
    "path moved": (
        rename(f"{PATHS}./oauth/token", "/oauth/tokens"),
        [("operation removed or moved", BREAKS, "operation /oauth/token renamed to /oauth/tokens")],
        MINOR,
    ),
    "method changed": (
        rename(TOKEN, "put"),
        [
            ("operation removed or moved", BREAKS, "operation removed"),
            ("operation added", USABLE, "operation added"),
        ],
        MINOR,
    ),
    "operation added": (
        put(f"{PATHS}./oauth/introspect", {"post": {"operationId": "introspect", "responses": {}}}),
        [("operation added", USABLE, "operation added")],
        PATCH,
    ),
    "operation renamed": (
        put(f"{TOKEN}.operationId", "get_token"),
        [("operation renamed", BREAKS, "operationId request_token renamed to get_token")],
        MINOR,
    ),
    "base URL changed": (
        at("servers.0", lambda server: server.update(url=SERVER)),
        [
            (
                *("server removed or changed", BREAKS),
                f"url {CONTRACT['servers'][0]['url']} -> {SERVER}",
            )
        ],
        MINOR,
    ),
    "base URL added": (
        append("servers", {"url": SERVER, "x-blink-evidence": "inferred"}),
        [("server added", USABLE, f"server {SERVER} added")],
        PATCH,
    ),
    "client authentication changed": (
        put("x-blink-client-authentication.method", "client-secret"),
        [("client authentication", BREAKS, "method mutual-tls -> client-secret")],
        MINOR,
    ),
    "evidence raised": (
        put(f"{SCHEMAS}.RevokeRequest.properties.username.x-blink-evidence", "stated"),
        [("evidence raised", CONFIRMED, "x-blink-evidence provisional -> stated")],
        PATCH,
    ),
    "evidence lowered": (
        put(f"{FIELDS}.username.x-blink-evidence", "inferred"),
        [("evidence lowered", WEAKENED, "x-blink-evidence stated -> inferred")],
        PATCH,
    ),
    "evidence of a parameter of one operation raised": (
        delete(f"{REVOKE}.x-blink-inferred-parameters", "TargetId"),
        [
            (
                *("evidence raised", CONFIRMED),
                "x-blink-inferred-parameters removed: TargetId inferred",
            )
        ],
        PATCH,
    ),
    "condition of the form that names a member without a demand": (
        at(f"{FORM}.allOf.0.then.not", lambda schema: schema.pop("properties")),
        [
            (
                *("default written", WORDS),
                'allOf > 0 > then > not > properties {"refresh_token": {}} -> none',
            )
        ],
        NONE,
    ),
    "condition of the form that says it is open": (
        at(f"{FORM}.allOf.0.if", lambda schema: schema.update(additionalProperties=True)),
        [("default written", WORDS, "allOf > 0 > if > additionalProperties none -> true")],
        NONE,
    ),
    "property of a condition that matters, as others are forbidden": (
        combined(
            put(f"{FORM}.unevaluatedProperties", value=False),
            at(f"{FORM}.allOf.0.then.not", lambda schema: schema.pop("properties")),
        ),
        [
            (
                *("request value changed", BREAKS),
                'allOf > then > not > properties removed: {"refresh_token": {}}',
            ),
            ("request tightened", BREAKS, "unevaluatedProperties added: false"),
        ],
        MINOR,
    ),
    "text in a condition of the form": (
        at(f"{FORM}.allOf.0.then", lambda then: then.update({"$comment": "Both."})),
        [("default written", WORDS, "allOf > 0 > then > $comment none -> Both.")],
        NONE,
    ),
    "part of a condition of the form": (
        append(f"{FORM}.allOf.0.then.required", "x"),
        [
            (
                *("request value changed", BREAKS),
                'allOf > then > required ["code", "redirect_uri"] -> ["code", "redirect_uri", "x"]',
            )
        ],
        MINOR,
    ),
    "header in another place": (
        put(f"{PARAMETERS}.TargetId.in", "query"),
        [("input removed or renamed", BREAKS, "in header -> query")],
        MINOR,
    ),
    "query parameter added": (
        append(f"{TOKEN}.parameters", {"name": "v", "in": "query", "schema": {"type": "string"}}),
        [("input optional", USABLE, "query parameter v added")],
        PATCH,
    ),
    "header of all operations of a path added": (
        put(f"{PATHS}./oauth/token.parameters", [{"name": "X-A", "in": "header"}]),
        [("input optional", USABLE, "request header X-A added")],
        PATCH,
    ),
    "tag renamed": (
        put(f"{TOKEN}.tags", ["tokens"]),
        [("operation renamed", BREAKS, 'tags ["oauth"] renamed to ["tokens"]')],
        MINOR,
    ),
    "variable of a base URL added": (
        at("servers.0.variables", lambda variables: variables.update(region={"default": "eu"})),
        [("server added", USABLE, "server variable region added")],
        PATCH,
    ),
    "value of a variable of a base URL added": (
        at("servers.0.variables.environment", lambda variable: variable.update(enum=["qa"])),
        [("server added", USABLE, 'enum added: ["qa"]')],
        PATCH,
    ),
    "range of statuses added": (
        put(f"{TOKEN}.responses.4XX", CONFLICT),
        [("status added", HANDLE, "status 4XX added")],
        MINOR,
    ),
    "response of all other statuses added": (
        put(f"{TOKEN}.responses.default", CONFLICT),
        [("status added", HANDLE, "status default added")],
        MINOR,
    ),
    "least length of a member raised": (
        put(f"{TOKENS}.properties.access_token.minLength", 20),
        [("response tightened", USABLE, "minLength 1 -> 20")],
        PATCH,
    ),
    "format of a member added": (
        put(f"{TOKENS}.properties.expires_in.format", "int64"),
        [("response tightened", USABLE, "format added: int64")],
        PATCH,
    ),
    "responses newly closed by another keyword": (
        put(f"{TOKENS}.unevaluatedProperties", value=False),
        [("response tightened", USABLE, "unevaluatedProperties added: false")],
        PATCH,
    ),
    "items of a list described": (
        put(f"{TOKENS}.properties.scope.items", {"description": "One.", "type": "string"}),
        [
            ("text", WORDS, "description added: One."),
            ("response tightened", USABLE, "type added: string"),
        ],
        PATCH,
    ),
    "default of a form field": (
        put(f"{FIELDS}.redirect_uri.default", "https://a.example"),
        [("default", HANDLE, "default added: https://a.example")],
        MINOR,
    ),
    "operation deprecated": (
        put(f"{REVOKE}.deprecated", value=True),
        [("deprecated", HANDLE, "deprecated added: true")],
        MINOR,
    ),
    "operation said to be not deprecated": (
        put(f"{REVOKE}.deprecated", value=False),
        [("default written", WORDS, "deprecated none -> false")],
        NONE,
    ),
    "schema extracted to a component": (
        combined(
            put(
                f"{SCHEMAS}.Code",
                CONTRACT["components"]["schemas"]["TokenRequest"]["properties"]["code"],
            ),
            put(f"{FIELDS}.code", {"$ref": "#/components/schemas/Code"}),
        ),
        [
            ("reference", WORDS, "reference: none -> #/components/schemas/Code"),
            ("component", WORDS, "component added"),
        ],
        NONE,
    ),
    "component copied in place of a reference": (
        put("components.headers.Source.schema", CONTRACT["components"]["schemas"]["Source"]),
        [("reference", WORDS, "reference: #/components/schemas/Source -> none")],
        NONE,
    ),
    "description written beside a reference": (
        put(f"{FIELDS}.grant_type.description", "Text."),
        [("text", WORDS, "description added: Text.")],
        NONE,
    ),
    "element that had no mark is marked": (
        put(f"{TOKENS}.x-blink-evidence", "inferred"),
        [("evidence first marked", WORDS, "x-blink-evidence added: inferred")],
        NONE,
    ),
    "description only": (
        put(f"{FORM}.description", "Form."),
        [("text", WORDS, "description Form of the token request. -> Form.")],
        NONE,
    ),
    "example only": (
        put(f"{PARAMETERS}.TargetId.example", "IIDX00000"),
        [("text", WORDS, "example IIDX99999 -> IIDX00000")],
        NONE,
    ),
    "contract version only": (
        put("info.version", "0.9.0"),
        [("contract version", WORDS, "version 0.7.3 -> 0.9.0")],
        NONE,
    ),
    "default left out": (
        remove(f"{TOKENS}.additionalProperties"),
        [("default written", WORDS, "additionalProperties true -> none")],
        NONE,
    ),
    "component of equal content used instead": (
        combined(
            put(f"{SCHEMAS}.Subject", CONTRACT["components"]["schemas"]["TargetId"]),
            put(f"{PARAMETERS}.TargetId.schema.$ref", "#/components/schemas/Subject"),
        ),
        [
            (
                *("reference", WORDS),
                "reference: #/components/schemas/TargetId -> #/components/schemas/Subject",
            ),
            ("component", WORDS, "component added"),
        ],
        NONE,
    ),
    "component of other content used instead": (
        put(f"{PARAMETERS}.UserAgent.schema.$ref", "#/components/schemas/TargetId"),
        [("request value changed", BREAKS, "pattern ^[!-~]([ -~]*[!-~])?$ -> ^[!-~]+$")],
        MINOR,
    ),
    "reference leads nowhere": (
        put(f"{PARAMETERS}.UserAgent.schema.$ref", "#/no"),
        [
            (
                *("", LOOK),
                "reference leads nowhere: #/components/schemas/HeaderText -> #/no",
            )
        ],
        MINOR,
    ),
    "component removed that is still referred to": (
        remove(f"{SCHEMAS}.Pragma"),
        [("", LOOK, "component removed, and still referred to")],
        MINOR,
    ),
    "component renamed that is still referred to": (
        rename(f"{SCHEMAS}.Pragma", "Pragmas"),
        [
            ("", LOOK, "component removed, and still referred to"),
            ("component", WORDS, "component added"),
        ],
        MINOR,
    ),
    "schema of a form renamed": (
        rename_component("schemas", "TokenRequest", "TokenForm"),
        [
            (
                *("reference", WORDS),
                "reference: #/components/schemas/TokenRequest -> #/components/schemas/TokenForm",
            ),
            (
                *("schema removed or renamed", BREAKS),
                "schema TokenRequest renamed to TokenForm",
            ),
        ],
        MINOR,
    ),
    "schema with a limit renamed": (
        rename_component("schemas", "TargetId", "BankId"),
        [
            (
                *("reference", WORDS),
                "reference: #/components/schemas/TargetId -> #/components/schemas/BankId",
            ),
            ("schema removed or renamed", BREAKS, "schema TargetId renamed to BankId"),
        ],
        MINOR,
    ),
    "enumeration written in place of its component": (
        combined(
            put("components.headers.Source.schema", CONTRACT["components"]["schemas"]["Source"]),
            remove(f"{SCHEMAS}.Source"),
        ),
        [
            ("reference", WORDS, "reference: #/components/schemas/Source -> none"),
            ("schema removed or renamed", BREAKS, "schema removed"),
        ],
        MINOR,
    ),
    "schema of which nothing is generated renamed": (
        rename_component("schemas", "Pragma", "NoCache"),
        [
            (
                *("reference", WORDS),
                "reference: #/components/schemas/Pragma -> #/components/schemas/NoCache",
            ),
            ("component", WORDS, "component Pragma renamed to NoCache"),
        ],
        NONE,
    ),
    "component of a request header renamed": (
        rename_component("parameters", "TargetId", "BankId"),
        [
            (
                *("reference", WORDS),
                "reference: #/components/parameters/TargetId -> #/components/parameters/BankId",
            ),
            ("component", WORDS, "component TargetId renamed to BankId"),
        ],
        NONE,
    ),
    "server of one operation added": (
        put(f"{TOKEN}.servers", [{"url": "https://other.example"}]),
        [("server of its own", BREAKS, "server https://other.example added")],
        MINOR,
    ),
    "server of one path added": (
        put(f"{PATHS}./oauth/token.servers", [{"url": "https://other.example"}]),
        [("server of its own", BREAKS, "server https://other.example added")],
        MINOR,
    ),
    "order of a list only": (
        at(f"{SCHEMAS}.Source.enum", lambda listed: listed.reverse()),
        [("order", WORDS, 'enum ["PLATFORM", "PROVIDER"] -> ["PROVIDER", "PLATFORM"]')],
        NONE,
    ),
    "order of the keys only": (reorder, [], NONE),
    "key that is not known": (
        put("components.headers.Source.x-unknown", value=True),
        [("", LOOK, "x-unknown added: true")],
        MINOR,
    ),
    "key that no rule knows": (
        lambda contract: contract.update(openapi="3.2.0"),
        [("", LOOK, f"openapi {CONTRACT['openapi']} -> 3.2.0")],
        MINOR,
    ),
}


def with_version(contract: Node, version: str) -> Node:
    """Return a contract with another version."""
    return {**contract, "info": {**contract["info"], "version": version}}


def reported(old: Node, new: Node, changes: list[Change]) -> list[tuple[str, str, str]]:
    """Return the rule, the consequence and the words of each change."""
    comparison = Comparison("old", "new", old, new, tuple(map(Leaf, changes)))
    return [(one.rule, one.consequence.value, sentence(one, comparison)) for one in changes]


def sentence(change: Change, comparison: Comparison) -> str:
    """Return what changed, in words."""
    words, before, after = words_of(change, comparison)
    return f"{words} {before} -> {after}" if before else words


@pytest.mark.parametrize("name", ROWS)
def test_a_change_has_a_consequence_and_demands_a_version(name: str) -> None:
    edit, expected, demanded = ROWS[name]
    old = with_version(CONTRACT, "0.7.3")
    new = copy.deepcopy(old)
    edit(new)
    changes = compare(old, new)
    assert reported(old, new, changes) == expected
    entry = "## [Unreleased]\n\n### Contract\n\n- The change.\n"
    checked = release.check(old, new, changes, ("", entry))
    assert checked.needed == demanded
    unchanged = new["info"]["version"] == "0.7.3"
    assert bool(checked.problems) == (demanded != NONE and unchanged)
    raised = with_version(new, demanded)
    assert release.check(old, raised, changes, ("", entry)).problems == ()
    untold = release.check(old, raised, changes, (entry, entry))
    assert bool(untold.problems) == (demanded != NONE)


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_without_a_rule_the_rows_that_name_it_fail(rule: Any) -> None:
    rows = {name for name, row in ROWS.items() if any(rule.name == one for one, _, _ in row[1])}
    assert rows
    fewer = [one for one in RULES if one is not rule]
    old = with_version(CONTRACT, "0.7.3")
    for name in rows:
        new = copy.deepcopy(old)
        ROWS[name][0](new)
        assert reported(old, new, compare(old, new, fewer)) != ROWS[name][1], name


def test_at_most_one_rule_matches_a_change_on_one_side() -> None:
    for name, (edit, _, _) in ROWS.items():
        for change in compare(CONTRACT, edited(edit)):
            for side in change.sides:
                found = [rule.name for rule in RULES if rule.matches(change, side)]
                assert len(found) <= 1, (name, found)


NAMED = {
    "type",
    "constraint",
    "member",
    "request header",
    "response header",
    "status",
    "enum value",
    "limit",
}


@pytest.fixture(scope="module")
def code() -> Code:
    """Return the code of the project."""
    return Code(PROJECT)


def test_what_uses_a_changed_field_header_status_value_or_limit_is_named(code: Code) -> None:
    seen = set()
    for name, (edit, _, _) in ROWS.items():
        new = edited(edit)
        changes = [one for one in compare(CONTRACT, new) if one.kind in NAMED]
        for leaf in command.traced(CONTRACT, new, changes, code):
            if leaf.change.consequence is not Consequence.WORDS:
                seen.add(leaf.change.kind)
                assert leaf.symbols, (name, leaf.change)
                # No code depends on what is new and optional.
                is_new = leaf.change.consequence is Consequence.USABLE and (
                    leaf.change.how == "added" or leaf.change.kind == "enum value"
                )
                assert bool(leaf.consumers) != is_new, (name, leaf.change)
    assert seen == NAMED


@pytest.mark.parametrize(
    ("edit", "symbol", "lines"),
    [
        (
            delete(f"{TOKENS}.required", "token_type"),
            "TokenResponse.token_type",
            ["return token[token_member], error[error_member]"],
        ),
        (
            append(f"{TOKENS}.required", "expires_in"),
            "TokenResponse.expires_in",
            ["return token[token_member], error[error_member]"],
        ),
        (append(f"{FORM}.required", "code"), "TokenRequest.code", ["return TokenRequest("]),
        (
            delete(f"{FORM}.required", "client_id"),
            "TokenRequest.client_id",
            2 * ["return TokenRequest("],
        ),
        (
            rename_component("schemas", "Source", "Origin"),
            "Source",
            ["from blink_oauth_api.models.source import Source as DocumentedSource"],
        ),
        (rename_component("schemas", "TargetId", "BankId"), "TARGET_ID_MIN_LENGTH", []),
    ],
)
def test_the_lines_that_a_changed_name_or_requirement_concerns_are_named(
    code: Code, edit: Edit, symbol: str, lines: list[str]
) -> None:
    new = edited(edit)
    leaves = command.traced(CONTRACT, new, compare(CONTRACT, new), code)
    (leaf,) = (one for one in leaves if one.change.consequence is not Consequence.WORDS)
    assert symbol in {one.name for one in leaf.symbols}
    text = (PROJECT / "wrapper/blink_oauth/_api.py").read_text("utf-8").splitlines()
    direct = [one for one in leaf.consumers if not one.via]
    assert {one.file for one in direct} <= {"wrapper/blink_oauth/_api.py"}
    assert [text[one.line - 1].strip() for one in direct] == lines


def test_the_consumers_of_a_limit_are_named_with_what_they_depend_through(code: Code) -> None:
    new = edited(put(f"{FIELDS}.username.maxLength", 36))
    (leaf,) = command.traced(CONTRACT, new, compare(CONTRACT, new), code)
    assert [one.name for one in leaf.symbols] == ["TOKEN_REQUEST_USERNAME_MAX_LENGTH"]
    assert leaf.consumers[0].file == "wrapper/blink_oauth/_api.py"
    text = as_text(Comparison("a", "b", CONTRACT, new, (leaf,)))
    assert "generated  generated/blink_oauth_api/contract.py:" in text
    assert "used by    wrapper/blink_oauth/_api.py: " in text
    assert "through    MAX_USERNAME\n" in text
    assert "\n                 wrapper/blink_oauth/context.py: " in text


def places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every key and every item of a document."""
    found = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in found:
        yield (*place, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*place, key))


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + 7 if isinstance(value, int) else f"{value}x"


def replaced(node: Any, place: tuple[Any, ...], *value: Any) -> Any:
    """Return a copy with another value at a place, or, if none is given, without it."""
    key, *rest = place
    new = copy.copy(node)
    if rest:
        new[key] = replaced(node[key], tuple(rest), *value)
    elif value:
        (new[key],) = value
    else:
        del new[key]
    return new


def value_at(place: tuple[Any, ...]) -> Any:
    """Return what is at a place of the contract."""
    found: Any = CONTRACT
    for key in place:
        found = found[key]
    return found


EVERY_PLACE = list(places(CONTRACT))


def test_no_removed_key_of_the_contract_is_invisible() -> None:
    assert len(EVERY_PLACE) > 500
    for place in EVERY_PLACE:
        assert compare(CONTRACT, replaced(CONTRACT, place)), place
        assert compare(replaced(CONTRACT, place), CONTRACT), place


def test_no_changed_value_of_the_contract_is_invisible() -> None:
    scalars = [place for place in EVERY_PLACE if not isinstance(value_at(place), (dict, list))]
    assert len(scalars) > 250
    for place in scalars:
        new = replaced(CONTRACT, place, other(value_at(place)))
        assert compare(CONTRACT, new), place


def test_no_malformed_node_of_the_contract_is_a_traceback(code: Code) -> None:
    # A node is replaced by 7, null, [] or {}, or deleted, in turn; every second one, for the time.
    values: list[tuple[Any, ...]] = [(7,), (None,), ([],), ({},), ()]
    read = 0
    tried = EVERY_PLACE[::2]
    for number, place in enumerate(tried):
        new = replaced(CONTRACT, place, *values[number % len(values)])
        if any(complaints(new)):
            continue
        read += 1
        changes = compare(CONTRACT, new)
        leaves = tuple(command.traced(CONTRACT, new, changes, code))
        comparison = Comparison("old", "new", CONTRACT, new, leaves)
        assert as_text(comparison)
        assert as_markdown(comparison)
        assert as_json(comparison)
        release.check(CONTRACT, new, changes, ("", ""))
    assert len(tried) // 4 < read < len(tried)


def test_the_change_of_one_component_is_one_change_wherever_it_is_used() -> None:
    (change,) = compare(CONTRACT, edited(remove("components.headers.CorrelationId.required")))
    assert change.place == ("components", "headers", "CorrelationId", "required")
    (change,) = compare(CONTRACT, edited(put(f"{HEADERS}.X-New", {"schema": {}})))
    assert len(change.others) == len(CONTRACT["components"]["responses"]) - 1


@pytest.mark.parametrize(
    ("keyword", "old", "new", "hows"),
    [
        ("type", "integer", "number", ["loosened"]),
        ("type", "number", "integer", ["tightened"]),
        ("type", ["string", "null"], "string", ["tightened"]),
        ("type", "string", "integer", ["changed"]),
        ("allOf", [{"minLength": 1}], [{"minLength": 1}, {"maxLength": 9}], ["tightened"]),
        ("anyOf", [{"minLength": 1}], [{"minLength": 1}, {"maxLength": 9}], ["loosened"]),
        ("oneOf", [{"minLength": 1}, {"maxLength": 9}], [{"minLength": 1}], ["tightened"]),
        ("anyOf", [{"minLength": 1}], [{"minLength": 2}], ["changed"]),
        ("not", {"const": "a"}, {"const": "b"}, ["changed"]),
        ("minimum", 1, 2, ["tightened"]),
        ("maximum", 1, 2, ["loosened"]),
        ("additionalProperties", {"type": "string"}, False, ["changed"]),
        ("enum", ["a", "b"], ["b", "c"], ["tightened", "loosened"]),
    ],
)
def test_a_constraint_is_tightened_loosened_or_changed(
    keyword: str, old: object, new: object, hows: list[str]
) -> None:
    schema = f"{FIELDS}.code"
    before, after = (edited(put(f"{schema}.{keyword}", value)) for value in (old, new))
    assert [one.how for one in compare(before, after)] == hows


def test_a_required_member_of_a_nested_object_is_not_mistaken_for_one_with_the_same_name() -> None:
    nested = put(f"{TOKENS}.properties.bank", {"properties": {"scope": ADDED}})
    old = edited(nested)
    new = copy.deepcopy(old)
    put(f"{TOKENS}.properties.bank.required", ["scope"])(new)
    remove(f"{TOKENS}.properties.scope")(new)
    assert [words for _, _, words in reported(old, new, compare(old, new))] == [
        "member scope now required",
        "member scope removed",
    ]


# ---- versions and the changelog


@pytest.mark.parametrize(
    ("before", "worst", "needed"),
    [
        ("0.7.3", Consequence.BREAKS, "0.8.0"),
        ("0.7.3", Consequence.UNKNOWN, "0.8.0"),
        ("0.7.3", Consequence.HANDLE, "0.8.0"),
        ("0.7.3", Consequence.USABLE, "0.7.4"),
        ("0.7.3", Consequence.CONFIRMED, "0.7.4"),
        ("0.7.3", Consequence.WEAKENED, "0.7.4"),
        ("0.7.3", Consequence.WORDS, "0.7.3"),
        ("0.7.3", None, "0.7.3"),
        ("1.7.3", Consequence.BREAKS, "2.0.0"),
        ("1.7.3", Consequence.UNKNOWN, "2.0.0"),
        ("1.7.3", Consequence.HANDLE, "2.0.0"),
        ("1.7.3", Consequence.USABLE, "1.8.0"),
        ("1.7.3", Consequence.CONFIRMED, "1.7.4"),
        ("1.7.3", Consequence.WEAKENED, "1.7.4"),
        ("1.7.3", Consequence.WORDS, "1.7.3"),
        ("1.7.3", None, "1.7.3"),
    ],
)
def test_a_consequence_demands_a_version(
    before: str, worst: Consequence | None, needed: str
) -> None:
    assert release.needed_version(before, worst) == needed


@pytest.mark.parametrize(
    ("before", "after", "problems"),
    [
        ("1.2.9", "1.2.10", ()),
        ("1.9.0", "1.10.0", ()),
        ("0.9.0", "1.0.0", ()),
        (
            "1.2.0",
            "1.1.9",
            ("info.version is 1.1.9, and lower than before; raise it to 1.2.0 or higher.",),
        ),
        ("1.2.0", "1.3", ("info.version is '1.3'; it must be three numbers, as in 1.2.3.",)),
    ],
)
def test_a_version_may_be_higher_than_demanded_and_never_lower_than_before(
    before: str, after: str, problems: tuple[str, ...]
) -> None:
    old, new = (with_version(CONTRACT, version) for version in (before, after))
    assert release.check(old, new, compare(old, new), ("", "")).problems == problems


CHANGELOG = """\
# Changelog

## [Unreleased]

### Contract

- Newest,
  on two lines.

### Added

- No entry of the contract.

## [0.2.0]

### Contract

- Newer.
* With a star.

## [0.1.0]

### Contract

- Oldest.
"""


def test_the_changelog_counts_what_is_unreleased_and_in_the_newest_version() -> None:
    entries = ["Newest, on two lines.", "Newer.", "With a star."]
    assert release.contract_entries(CHANGELOG, newest=True) == entries
    assert release.contract_entries(CHANGELOG, newest=False) == [*entries, "Oldest."]
    released = CHANGELOG.replace("## [Unreleased]", "## [0.3.0]")
    assert release.contract_entries(released, newest=True) == entries[:1]


# ---- reports

SEVERAL = combined(
    put(f"{FIELDS}.username.maxLength", 36),
    put(f"{HEADERS}.X-New", {"schema": {"type": "string"}}),
    put(f"{FIELDS}.client_id.pattern", "^a|<b>$"),
    put(f"{FORM}.description", "Form."),
    put(f"{FIELDS}.device", ADDED),
)


def several() -> Comparison:
    """Return a comparison with several changes that are not checked."""
    new = edited(SEVERAL)
    leaves = tuple(map(Leaf, compare(CONTRACT, new)))
    return Comparison("before", "after", CONTRACT, new, leaves)


def test_the_tree_has_the_worst_consequence_first_then_operation_or_component_then_change() -> None:
    text = as_text(several())
    assert text.startswith("before -> after\n2 BREAKS CALLS, 2 CAN BE USED, 1 WORDS\n")
    assert (
        "\nBREAKS CALLS\n"
        "  TokenRequest (schema, requests)\n"
        "    client_id > pattern ^[!-~]+$ -> ^a|<b>$\n"
        "      What we may send today can be refused.\n"
        "    username > maxLength 64 -> 36\n"
        "      What we may send today can be refused.\n"
        "\nCAN BE USED\n"
    ) in text
    assert "\nWORDS\n  TokenRequest (schema, requests): description\n\nWorst: " in text
    assert "also in    TokenRevoked, BadRequest, Unauthorized," in text
    assert max(map(len, text.splitlines())) <= 100


HEADINGS = list(product(("", "POST "), ("token", "revoke")))


def test_what_belongs_to_a_whole_path_is_headed_by_the_path() -> None:
    reference = {"$ref": "#/components/parameters/TargetId"}
    old = edited(put(f"{PATHS}.*.parameters", [reference]))
    new = copy.deepcopy(old)
    rename_component("parameters", "TargetId", "BankId")(new)
    put(f"{PATHS}./oauth/token.servers", [{"url": "https://other.example"}])(new)
    leaves = tuple(map(Leaf, compare(old, new)))
    text = " ".join(as_text(Comparison("a", "b", old, new, leaves)).split())
    assert " /oauth/token server https://other.example added " in text
    (also,) = re.findall(r"\(also in (.*?)\)", text)
    assert set(also.split(", ")) <= {f"{method}/oauth/{name}" for method, name in HEADINGS}
    assert "/oauth/revoke" in also.split(", ")


def test_texts_are_one_line_for_each_component_and_said_only_if_asked_for() -> None:
    new = edited(combined(put(f"{FIELDS}.*.description", "Text."), put(f"{FORM}.example", {})))
    leaves = tuple(map(Leaf, compare(CONTRACT, new)))
    comparison = Comparison("a", "b", CONTRACT, new, leaves)
    shown = " ".join(as_text(comparison).split())
    names = ", ".join(CONTRACT["components"]["schemas"]["TokenRequest"]["properties"])
    assert f"WORDS TokenRequest (schema, requests): description of {names}; 1 example" in shown
    assert "Text." not in shown + as_markdown(comparison)
    for text in (as_text(comparison, words=True), as_markdown(comparison, words=True)):
        assert text.count("Text.") == len(leaves) - 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Short.", "Other.", ("Short.", "Other.")),
        (
            f"{'a ' * 40}old words {'b ' * 40}",
            f"{'a ' * 40}new {'b ' * 40}",
            ("… a a a old words b b b …", "… a a a new b b b …"),
        ),
        ("a " * 40, "a " * 40 + "b", ("… a a a", "… a a a b")),
        ("b " + "a " * 40, "a " * 40, ("b a a a …", "a a a …")),
        ("a" * 40, "b" * 999, ("a" * 40, "b" * 400 + " …")),
    ],
)
def test_of_long_texts_what_differs_is_shown(old: str, new: str, words: tuple[str, str]) -> None:
    before, after = (edited(put(f"{FORM}.description", one)) for one in (old, new))
    (change,) = compare(before, after)
    comparison = Comparison("a", "b", before, after, (Leaf(change),))
    assert words_of(change, comparison) == ("description", *words)


def markdown_of_a_flag() -> str:
    """Return a report with the code that a name with an underscore concerns."""
    new = edited(delete(f"{FORM}.required", "client_id"))
    (change,) = compare(CONTRACT, new)
    leaf = Leaf(change, [Symbol("a.py", "A")])
    return as_markdown(Comparison("a", "b", CONTRACT, new, (leaf,)))


def test_markdown_has_a_table_and_escapes_what_the_contract_holds() -> None:
    text = as_markdown(several())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    form = r"| BREAKS CALLS | TokenRequest (schema, requests) \> "
    header = "| CAN BE USED | TokenIssued (response, responses) and 9 more"
    assert rows[2:5] == [
        form + r"client\_id | pattern `^[!-~]+$` → `^a\|<b>$` |",
        form + "username | maxLength `64` → `36` |",
        f"{header} | response header X-New added |",
    ]
    assert text.count("<details>") == text.count("</details>")
    assert "<summary>1 change of words</summary>" in text
    assert "<summary>TokenRequest (schema, requests), form field client_id" in markdown_of_a_flag()


def test_json_has_the_documented_keys() -> None:
    report = json.loads(json.dumps(as_json(several())))
    assert report.keys() == {"from", "to", "error", "worst", "release", "readers", "changes"}
    documented = set((command.__doc__ or "").replace("`", " ").replace(",", " ").split())
    assert report.keys() <= documented
    for change in report["changes"]:
        assert change.keys() <= documented
    username = next(one for one in report["changes"] if one.get("before") == 64)
    assert username["places"] == [
        ["components", "schemas", "TokenRequest", "properties", "username", "maxLength"]
    ]
    assert (username["after"], username["consequence"]) == (36, "BREAKS CALLS")


# ---- the command, in repositories

SMALL: Node = {
    "openapi": "3.1.0",
    "info": {"title": "Small", "version": "0.1.0"},
    "paths": {"/a": {"post": {"operationId": "a", "responses": {"200": {"description": "Yes."}}}}},
}
STATUS = "paths./a.post.responses.409"


class Repository:
    """A repository with a small contract and a changelog."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "spec").mkdir(parents=True)
        (root / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n", "utf-8")
        self.contract = copy.deepcopy(SMALL)
        self.edit(lambda _: None)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("First")

    def git(self, *arguments: str) -> None:
        """Run git without the settings of this machine."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.root), "GIT_CONFIG_NOSYSTEM": "1"}
        name = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *name, *arguments], cwd=self.root, env=env, check=True)

    def edit(self, edit: Edit) -> None:
        """Edit the contract of the working tree."""
        edit(self.contract)
        (self.root / "spec/openapi.yaml").write_text(yaml.safe_dump(self.contract), "utf-8")

    def tell(self, entry: str) -> None:
        """Add an entry to the changelog of the working tree."""
        with (self.root / "CHANGELOG.md").open("a", encoding="utf-8") as changelog:
            changelog.write(f"\n### Contract\n\n- {entry}\n")

    def commit(self, subject: str) -> None:
        """Commit the working tree."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)

    def diff(self, *arguments: str) -> int:
        """Run the command and return its exit status."""
        return command.main(["--root", str(self.root), *arguments])


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return a repository with one commit."""
    return Repository(tmp_path / "project")


def test_the_working_tree_is_compared_with_the_first_commit_if_there_is_no_tag(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repository.diff() == 0
    assert "no change" in capsys.readouterr().out
    repository.edit(put(STATUS, {"description": "No."}))
    assert repository.diff() == 1
    shown = capsys.readouterr().out
    assert "MUST BE HANDLED\n  POST /a\n    status 409 added\n" in shown
    assert "info.version is 0.1.0; raise it to 0.2.0 or higher." in shown
    assert "CHANGELOG.md does not tell the change: add it under *Contract*." in shown
    repository.edit(put("info.version", "0.2.0"))
    assert repository.diff() == 1
    repository.tell("A status 409.")
    assert repository.diff() == 0
    assert "Version and changelog fit." in capsys.readouterr().out


def test_the_last_tag_is_preferred_and_a_commit_can_be_named(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.edit(put(STATUS, {"description": "No."}))
    repository.commit("Second")
    assert repository.diff() == 1
    repository.git("tag", "v0.1.0")
    repository.git("tag", "other")
    repository.edit(put("info.title", "Another"))
    capsys.readouterr()
    assert repository.diff() == 0
    assert capsys.readouterr().out.startswith("v0.1.0 -> working tree\n1 WORDS\n")
    assert repository.diff("--against", "other~1") == 1
    assert capsys.readouterr().out.startswith("other~1 -> working tree\n1 MUST BE HANDLED, 1 WORDS")


def test_each_commit_since_the_tag_is_shown_and_only_the_whole_is_checked(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.git("tag", "v0.1.0")
    repository.edit(put(STATUS, {"description": "No."}))
    repository.commit("Add a status")
    repository.edit(remove(STATUS))
    repository.commit("Remove it")
    (repository.root / "README.md").write_text("No contract.", "utf-8")
    repository.commit("Leave the contract alone")
    with (repository.root / "spec/openapi.yaml").open("a", encoding="utf-8") as spec:
        spec.write("# A comment.\n")
    repository.commit("Change a comment of the contract")
    assert repository.diff("--each", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    subjects = [one["to"].partition(" ")[2] for one in report["commits"]]
    assert subjects == ["Add a status", "Remove it"]
    assert [one["worst"] for one in report["commits"]] == [HANDLE, HANDLE]
    assert [one["release"] for one in report["commits"]] == [None, None]
    assert (report["worst"], report["changes"]) == (None, [])
    assert repository.diff("--each", "--markdown") == 0
    assert capsys.readouterr().out.count("### Contract: ") == 3


def test_a_past_commit_that_cannot_be_read_is_shown_and_not_checked(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = repository.root / "spec/openapi.yaml"
    readable = spec.read_text("utf-8")
    spec.write_text("a: [", "utf-8")
    repository.commit("Break it")
    spec.write_text(readable, "utf-8")
    repository.commit("Repair it")
    assert repository.diff("--each") == 0
    shown = capsys.readouterr().out
    assert shown.count("not compared: spec/openapi.yaml of ") == 2
    assert shown.count(" is not YAML: ") == 2


def test_a_status_may_be_written_as_a_number(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.edit(put("paths./a.post.responses", {200: {"description": "Yes."}}))
    assert repository.diff() == 0
    assert "no change" in capsys.readouterr().out


def test_two_files_are_compared_without_a_repository_and_a_changelog(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(yaml.safe_dump(SMALL), "utf-8")
    contract = copy.deepcopy(SMALL)
    put(STATUS, {"description": "No."})(contract)
    files = ["--root", str(tmp_path), str(old), str(new)]
    new.write_text(yaml.safe_dump(contract), "utf-8")
    assert command.main(files) == 1
    put("info.version", "0.2.0")(contract)
    new.write_text(yaml.safe_dump(contract), "utf-8")
    capsys.readouterr()
    assert command.main([*files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["release"]["new_changelog_entries"] is None


def test_a_missing_history_is_said_with_an_exit_status_of_its_own(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.edit(put("info.title", "Another"))
    repository.commit("Second")
    shallow = tmp_path / "shallow"
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.root}", str(shallow))
    for arguments in ([], ["--against", "HEAD~1"]):
        assert command.main(["--root", str(shallow), *arguments]) == 3
        message = capsys.readouterr().err
        assert message.startswith("Nothing was compared. This ")
        assert "git fetch --unshallow --tags" in message
    assert command.main(["--root", str(shallow), "--against", "HEAD"]) == 0
    shutil.rmtree(shallow / ".git")
    capsys.readouterr()
    assert command.main(["--root", str(shallow)]) == 3
    assert "no checkout of git" in capsys.readouterr().err


def test_without_git_the_history_is_missing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(repository.root))
    assert repository.diff() == 3
    assert "git is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("a: [", "is not YAML"),
        ("a: 1\na: 2\n", "is not YAML"),
        ("- a\n", "is not an OpenAPI document"),
        ("openapi: 3.1.0\n", "is not an OpenAPI document"),
        ("info: {version: 2026-02-31}\n", "is not YAML"),
    ],
)
def test_a_contract_that_cannot_be_read_is_no_equal_contract(
    repository: Repository, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = repository.root / "spec/openapi.yaml"
    spec.unlink()
    if content is not None:
        spec.write_text(content, "utf-8")
    assert repository.diff() == 2
    assert message in capsys.readouterr().err


ITSELF: Node = {}
ITSELF["a"] = ITSELF


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda contract: contract.update(paths=None), "paths must be a mapping"),
        (put("paths./a.parameters", None), "paths > /a > parameters must be a list"),
        (put("paths./a.parameters", [7]), "paths > /a > parameters > 0 must be a mapping"),
        (put("paths./a.parameters", [{"in": "header"}]), "paths > /a > parameters > 0 has no name"),
        (
            lambda contract: contract.update(components={"parameters": {"A": 7}}),
            "components > parameters > A must be a mapping",
        ),
        (
            combined(put("info.A", 7), put("paths./a.parameters", [{"$ref": "#/info/A"}])),
            "info > A must be a mapping",
        ),
        (remove("paths./a.post.operationId"), "paths > /a > post has no operationId"),
        (put("paths./a.post.tags", "a"), "paths > /a > post > tags must be a list of texts"),
        (put("paths./a.post.responses", []), "paths > /a > post > responses must be a mapping"),
        (put("paths./a.post.responses.200", None), "paths > /a > post > responses > 200 must be a"),
        (lambda contract: contract.update(servers={}), "servers must be a list"),
        (put("info.x", {"$ref": 7}), "info > x > $ref must be a text"),
        (put("info.x", ITSELF), "info > x > a contains itself"),
    ],
)
def test_a_malformed_contract_is_not_compared_and_the_place_is_named(
    tmp_path: Path, edit: Edit, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    contract = copy.deepcopy(SMALL)
    good.write_text(yaml.safe_dump(contract), "utf-8")
    edit(contract)
    bad.write_text(yaml.safe_dump(contract), "utf-8")
    for files in ((good, bad), (bad, good)):
        assert command.main(["--root", str(tmp_path), *map(str, files)]) == 2
        assert capsys.readouterr().err.startswith(f"Nothing was compared. {bad}: {complaint}")


@pytest.mark.parametrize(
    "reference", ["#/components/no", "other.yaml#/a", "#/paths/~1a/post/responses/200"]
)
def test_a_reference_that_leads_nowhere_is_reported(
    tmp_path: Path, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    contract = copy.deepcopy(SMALL)
    old.write_text(yaml.safe_dump(contract), "utf-8")
    put("paths./a.post.responses.200", {"$ref": reference})(contract)
    new.write_text(yaml.safe_dump(contract), "utf-8")
    assert command.main(["--root", str(tmp_path), str(old), str(new)]) == 1
    assert LOOK in capsys.readouterr().out


def test_an_unknown_commit_and_wrong_arguments_have_the_status_2(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repository.diff("--against", "v9") == 2
    assert "There is no commit v9." in capsys.readouterr().err
    for arguments in (["a.yaml"], ["a.yaml", "b.yaml", "--each"], ["--json", "--markdown"]):
        with pytest.raises(SystemExit) as exit_:
            repository.diff(*arguments)
        assert exit_.value.code == 2
