"""The contract of `spec/`, enforced by openapi-core on what comes in and on what goes out.

Errors are told by rule and place, never by value: a value may be a secret.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen
from jsonschema.exceptions import ValidationError
from jsonschema_path import SchemaPath
from openapi_core import Config, OpenAPI
from openapi_core.casting.schemas import oas31_schema_casters_factory
from openapi_core.casting.schemas.factories import SchemaCastersFactory
from openapi_core.datatypes import RequestParameters
from openapi_core.validation.schemas import oas31_schema_validators_factory
from openapi_core.validation.schemas.factories import SchemaValidatorsFactory
from openapi_core.validation.schemas.validators import SchemaValidator
from werkzeug.datastructures import Headers

from .messages import Call, Response

__all__ = []

# The document's own servers are the platform's; the sandbox is somewhere else, on any port.
_HOST = "https://sandbox.invalid"


@frozen
class Judge:
    """Holds requests and responses against an OpenAPI document."""

    _openapi: OpenAPI

    @classmethod
    def of(cls, document: dict[str, Any]) -> Judge:
        """Make a judge that is quick enough to judge each call of a test suite."""
        validators = _ValidatorsMadeOnce()
        casters = SchemaCastersFactory(validators, oas31_schema_casters_factory.types_caster)
        config = Config(
            schema_validators_factory=validators,
            schema_casters_factory=casters,
            extra_media_type_deserializers={"application/problem+json": json.loads},
        )
        spec = SchemaPath.from_dict(
            {**document, "servers": [{"url": _HOST}]}, resolved_cache_maxsize=10_000
        )
        return cls(OpenAPI(spec, config=config))

    def request_errors(self, path: str, call: Call) -> list[str]:
        """Tell what is wrong with a request to this path of the document."""
        return _texts(self._openapi.iter_request_errors(_Request(path, call)))

    def response_errors(self, path: str, call: Call, reply: Response) -> list[str]:
        """Tell what is wrong with the response to a request to this path of the document."""
        errors = self._openapi.iter_response_errors(_Request(path, call), _Response(reply))
        return _texts(errors)


class _ValidatorsMadeOnce(SchemaValidatorsFactory):
    """Keeps the validator of each schema: to make one costs far more than to use it."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], SchemaValidator] = {}

    def create(
        self, spec: SchemaPath, schema: SchemaPath, *options: Any, **named: Any
    ) -> SchemaValidator:
        if schema.parts not in self._made:
            made = oas31_schema_validators_factory.create(spec, schema, *options, **named)
            self._made[schema.parts] = made
        return self._made[schema.parts]


class _Request:
    """A call as openapi-core wants to see it."""

    def __init__(self, path: str, call: Call) -> None:
        self.host_url = _HOST
        self.path = path
        self.method = call.method.lower()
        self.body = call.body
        self.content_type = call.media_type
        self.parameters = RequestParameters(header=Headers(list(call.headers)))


class _Response:
    """A reply as openapi-core wants to see it."""

    def __init__(self, reply: Response) -> None:
        self.status_code = reply.status
        self.headers = Headers(list(reply.headers))
        self.content_type = reply.header("Content-Type") or ""
        self.data = reply.body


def _texts(errors: Iterable[Exception]) -> list[str]:
    return [text for error in errors for text in _text(error)]


def _text(error: Exception) -> Iterator[str]:
    """Put an error of openapi-core into words without the value it is about."""
    name = getattr(error, "name", None)
    place = f"{getattr(error, 'location', 'header')} {name}" if name else ""
    cause = error.__cause__ or error
    broken: list[ValidationError] = list(getattr(cause, "schema_errors", ()))
    if not broken:
        kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(cause).__name__).lower()
        yield f"{place or 'body'}: {kind}"
    for schema_error in broken:
        for member, rule in _rules(schema_error):
            field = f"body field {member}" if member else "body"
            yield f"{place or field}: {rule}"


def _rules(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Tell member and rule of a schema error."""
    member, rule = ".".join(map(str, error.absolute_path)), str(error.validator)
    wanted: object = error.validator_value
    if rule == "required" and isinstance(wanted, list) and isinstance(error.instance, dict):
        for name in wanted:
            if name not in error.instance:
                yield f"{member}.{name}".lstrip("."), "missing"
    elif rule == "not":
        yield member, "a combination that is not allowed"
    else:
        yield member, f"{rule} {wanted}" if isinstance(wanted, (str, int)) else rule


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

    def response_violations(self, path: str, call: Call, reply: Response) -> tuple[str, ...]:
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
