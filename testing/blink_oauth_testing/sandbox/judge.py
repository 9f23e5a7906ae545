"""openapi-core as the judge of requests and responses.

Errors are told by rule and place, never by value: a value may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

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

from .call import Call
from .messages import Reply

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

    def response_errors(self, path: str, call: Call, reply: Reply) -> list[str]:
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

    def __init__(self, reply: Reply) -> None:
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
