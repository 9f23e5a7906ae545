"""The contract of `spec/`, enforced on what comes in and on what goes out."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

from .call import Call
from .judge import Judge
from .messages import Reply

LIST_ACCOUNTS = "/accounts"


@frozen
class Contract:
    """The operations of the contract, and the accounts resource that the sandbox adds.

    Attributes:
        operations: Operation ids by method and path.
    """

    operations: dict[tuple[str, str], str]
    _judge: Judge
    _header_names: tuple[str, ...]
    _form_fields: dict[str, frozenset[str]]

    @classmethod
    def load(cls, document: dict[str, Any]) -> Contract:
        """Read a contract from an OpenAPI document."""
        paths = {**document["paths"], LIST_ACCOUNTS: _accounts(document)}
        document = {**document, "paths": paths}
        operations = {
            (method.upper(), path): operation["operationId"]
            for path, item in paths.items()
            for method, operation in item.items()
            if isinstance(operation, dict) and "operationId" in operation
        }
        token = _token_operation(document)
        names = tuple(_follow(document, item)["name"] for item in token["parameters"])
        forms = {path: fields for path in paths if (fields := _form_fields(document, paths[path]))}
        return cls(operations, Judge.of(document), names, forms)

    def malformations(self, call: Call) -> tuple[str, ...]:
        """Tell why a request cannot be read in one way only.

        A validator sees one value per name, so this has to be ruled out first.
        """
        try:
            call.body.decode()
        except UnicodeDecodeError:
            return ("body: not UTF-8",)
        return tuple(self._repeated(call))

    def request_violations(self, path: str, call: Call) -> tuple[str, ...]:
        """Tell which rules a well-formed request breaks.

        Args:
            path: Path of the operation in the contract.
            call: The request.
        """
        texts = self._judge.request_errors(path, call)
        # openapi-core leaves unknown fields out before it looks at additionalProperties.
        allowed = self._form_fields.get(path)
        unknown = set(call.field_names) - allowed if allowed is not None else set()
        return (*texts, *(f"form field {name}: not allowed" for name in sorted(unknown)))

    def response_violations(self, path: str, call: Call, reply: Reply) -> tuple[str, ...]:
        """Tell which rules a response breaks.

        Args:
            path: Path of the operation in the contract.
            call: The request it answers.
            reply: The response.
        """
        texts = self._judge.response_errors(path, call, reply)
        # The echo is a rule of the contract that no schema can express.
        if reply.header("X-Correlation-ID") != call.correlation_id:
            texts.append("header X-Correlation-ID: not that of the request")
        return tuple(texts)

    def _repeated(self, call: Call) -> Iterator[str]:
        names = Counter(name.lower() for name, _ in call.headers)
        for name in (*self._header_names, "Content-Type", "Authorization"):
            if names[name.lower()] > 1:
                yield f"header {name}: more than once"
        # RFC 6749 section 3.2: no parameter may be included more than once.
        for name, count in Counter(call.field_names).items():
            if count > 1:
                yield f"form field {name}: more than once"


@functools.cache
def shipped_contract() -> Contract:
    """Return the contract that this version of the package was made for.

    Raises:
        FileNotFoundError: Neither the package nor the checkout around it holds the contract.
    """
    packaged = Path(str(files(__package__))) / "spec" / "openapi.yaml"
    checkout = Path(__file__).parents[3] / "spec" / "openapi.yaml"
    for path in (packaged, checkout):
        if path.is_file():
            return Contract.load(yaml.safe_load(path.read_text(encoding="utf-8")))
    raise FileNotFoundError("openapi.yaml is missing: install blink-oauth again, as a wheel.")


def _token_operation(document: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = document["paths"]["/oauth/token"]["post"]
    return operation


def _accounts(document: dict[str, Any]) -> dict[str, Any]:
    """Describe the accounts resource: headers and errors of the token operation, own success.

    The contract does not cover it. It is here so that a token can be seen to work.
    """
    token = _token_operation(document)
    errors = {status: answer for status, answer in token["responses"].items() if status != "200"}
    headers = _follow(document, token["responses"]["200"])["headers"]
    schema = {"type": "object", "required": ["accounts"]}
    success = {
        "description": "The accounts that the consent covers.",
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }
    return {
        "get": {
            "operationId": "list_accounts",
            "parameters": token["parameters"],
            "responses": {"200": success, **errors},
        }
    }


def _form_fields(document: dict[str, Any], item: dict[str, Any]) -> frozenset[str] | None:
    """Return the only fields that the form of a path may have, or None if there is no such rule."""
    if "requestBody" not in item.get("post", {}):
        return None
    content = _follow(document, item["post"]["requestBody"])["content"]
    schema = _follow(document, content["application/x-www-form-urlencoded"]["schema"])
    return None if schema.get("additionalProperties", True) else frozenset(schema["properties"])


def _follow(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return what a node refers to: in this contract everything stands under components."""
    steps = node["$ref"].removeprefix("#/").split("/")
    return functools.reduce(operator.getitem, steps, document)
