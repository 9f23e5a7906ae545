"""The contract of `spec/`, enforced by openapi-core on requests and responses.

A violation names the rule and where it was broken, never the value, which may be a secret.
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

from blink_oauth.headers import CORRELATION_ID

from .messages import Request, Response

__all__ = []

# Replaces the servers of the document, which are those of the real platform.
_SERVER_URL = "https://sandbox.invalid"


@frozen
class MessageValidator:
    """Validates requests and responses against an OpenAPI document."""

    _openapi: OpenAPI

    @classmethod
    def of(cls, document: dict[str, Any]) -> MessageValidator:
        """Make a validator that is fast enough for every request of a test suite."""
        validators = _CachingValidatorsFactory()
        casters = SchemaCastersFactory(validators, oas31_schema_casters_factory.types_caster)
        config = Config(
            schema_validators_factory=validators,
            schema_casters_factory=casters,
            extra_media_type_deserializers={"application/problem+json": json.loads},
        )
        spec = SchemaPath.from_dict(
            {**document, "servers": [{"url": _SERVER_URL}]}, resolved_cache_maxsize=10_000
        )
        return cls(OpenAPI(spec, config=config))

    def request_errors(self, path: str, request: Request) -> list[str]:
        """Return the rules that a request to this path of the document breaks."""
        return _violations(self._openapi.iter_request_errors(_OpenAPIRequest(path, request)))

    def response_errors(self, path: str, request: Request, response: Response) -> list[str]:
        """Return the rules that the response to a request to this path breaks."""
        errors = self._openapi.iter_response_errors(
            _OpenAPIRequest(path, request), _OpenAPIResponse(response)
        )
        return _violations(errors)


class _CachingValidatorsFactory(SchemaValidatorsFactory):
    """Caches the validator of each schema, because making one costs far more than using it."""

    def __init__(self) -> None:
        self._cached: dict[tuple[object, ...], SchemaValidator] = {}

    def create(
        self, spec: SchemaPath, schema: SchemaPath, *options: Any, **named: Any
    ) -> SchemaValidator:
        if schema.parts not in self._cached:
            validator = oas31_schema_validators_factory.create(spec, schema, *options, **named)
            self._cached[schema.parts] = validator
        return self._cached[schema.parts]


class _OpenAPIRequest:
    """A request in the form that openapi-core takes."""

    def __init__(self, path: str, request: Request) -> None:
        self.host_url = _SERVER_URL
        self.path = path
        self.method = request.method.lower()
        self.body = request.body
        self.content_type = request.media_type
        self.parameters = RequestParameters(header=Headers(list(request.headers)))


class _OpenAPIResponse:
    """A response in the form that openapi-core takes."""

    def __init__(self, response: Response) -> None:
        self.status_code = response.status
        lines: dict[str, list[str]] = {}
        for name, value in response.headers:
            lines.setdefault(name.lower(), []).append(value)
        # RFC 9110 section 5.3: the lines of a repeated header are one list.
        self.headers = Headers([(name, ", ".join(values)) for name, values in lines.items()])
        self.content_type = response.header("Content-Type") or ""
        self.data = response.body


def _violations(errors: Iterable[Exception]) -> list[str]:
    return [text for error in errors for text in _violations_of(error)]


def _violations_of(error: Exception) -> Iterator[str]:
    """Describe an error of openapi-core without the value that caused it."""
    name = getattr(error, "name", None)
    place = f"{getattr(error, 'location', 'header')} {name}" if name else ""
    cause = error.__cause__ or error
    schema_errors: list[ValidationError] = list(getattr(cause, "schema_errors", ()))
    if not schema_errors:
        kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(cause).__name__).lower()
        yield f"{place or 'body'}: {kind}"
    for schema_error in schema_errors:
        for member, rule in _broken_rules(schema_error):
            field = f"body field {member}" if member else "body"
            yield f"{place or field}: {rule}"


def _broken_rules(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield each member that a schema error is about, and the rule that it breaks."""
    member, rule = ".".join(map(str, error.absolute_path)), str(error.validator)
    limit: object = error.validator_value
    if rule == "required" and isinstance(limit, list) and isinstance(error.instance, dict):
        for name in limit:
            if name not in error.instance:
                yield f"{member}.{name}".lstrip("."), "missing"
    elif rule == "not":
        yield member, "a combination that is not allowed"
    else:
        yield member, f"{rule} {limit}" if isinstance(limit, (str, int)) else rule


LIST_ACCOUNTS = "/accounts"


@frozen
class Contract:
    """The operations of the contract, and the accounts resource that the sandbox adds.

    Attributes:
        operations: The operation ids, by method and path.
    """

    operations: dict[tuple[str, str], str]
    _validator: MessageValidator
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
        names = tuple(_resolve(document, item)["name"] for item in token["parameters"])
        forms = {path: fields for path in paths if (fields := _form_fields(document, paths[path]))}
        return cls(operations, MessageValidator.of(document), names, forms)

    def syntax_violations(self, request: Request) -> tuple[str, ...]:
        """Return why a request is malformed: not UTF-8, or a repeated header or form field.

        Check this before `request_violations`, whose validator sees one value per name.
        """
        try:
            request.body.decode()
        except UnicodeDecodeError:
            return ("body: not UTF-8",)
        return tuple(self._repeated_names(request))

    def request_violations(self, path: str, request: Request) -> tuple[str, ...]:
        """Return the rules that a well-formed request breaks.

        Args:
            path: Path of the operation in the contract.
            request: The request.
        """
        violations = self._validator.request_errors(path, request)
        # openapi-core drops unknown fields before it checks additionalProperties.
        allowed = self._form_fields.get(path)
        unknown = set(request.field_names) - allowed if allowed is not None else set()
        return (*violations, *(f"form field {name}: not allowed" for name in sorted(unknown)))

    def response_violations(
        self, path: str, request: Request, response: Response
    ) -> tuple[str, ...]:
        """Return the rules that a response breaks.

        Args:
            path: Path of the operation in the contract.
            request: The request that it responds to.
            response: The response.
        """
        violations = self._validator.response_errors(path, request, response)
        # No schema can express that the response repeats the id of the request.
        if response.header(CORRELATION_ID) != request.correlation_id:
            violations.append(f"header {CORRELATION_ID}: not that of the request")
        return tuple(violations)

    def _repeated_names(self, request: Request) -> Iterator[str]:
        names = Counter(name.lower() for name, _ in request.headers)
        for name in (*self._header_names, "Content-Type", "Authorization"):
            if names[name.lower()] > 1:
                yield f"header {name}: more than once"
        # RFC 6749 section 3.2: no parameter may be included more than once.
        for name, count in Counter(request.field_names).items():
            if count > 1:
                yield f"form field {name}: more than once"


@functools.cache
def shipped_contract() -> Contract:
    """Return the contract that ships with this version of the package.

    Raises:
        FileNotFoundError: Neither the package nor the checkout around it contains the contract.
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
    """Describe the accounts resource, with the headers and errors of the token operation.

    The contract does not cover it. The sandbox adds it so that a test can use an access token.
    """
    token = _token_operation(document)
    errors = {status: error for status, error in token["responses"].items() if status != "200"}
    headers = _resolve(document, token["responses"]["200"])["headers"]
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
    """Return the only fields that the form of a path may have, or None if any field is allowed."""
    if "requestBody" not in item.get("post", {}):
        return None
    content = _resolve(document, item["post"]["requestBody"])["content"]
    schema = _resolve(document, content["application/x-www-form-urlencoded"]["schema"])
    return None if schema.get("additionalProperties", True) else frozenset(schema["properties"])


def _resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that a reference points to."""
    steps = node["$ref"].removeprefix("#/").split("/")
    return functools.reduce(operator.getitem, steps, document)
