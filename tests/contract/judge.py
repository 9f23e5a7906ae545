"""An independent reader of the contract: what was really sent and received, held against it.

It shares no code with the client, which has its own checks, nor with the sandbox, which has its own
reader. It sees the messages between the client and a transport of httpx, after all that the client
does.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import yaml
from attrs import define, field, frozen
from openapi_core import Config, OpenAPI
from openapi_core.testing import MockRequest, MockResponse

from blink_oauth import Settings
from blink_oauth.tls import ClientCertificate, ssl_context

CONTRACT = Path(__file__).parents[2] / "spec" / "openapi.yaml"
PROBLEM = "application/problem+json"
FORM = "application/x-www-form-urlencoded"
SCHEMAS = {"/oauth/token": "TokenRequest", "/oauth/revoke": "RevokeRequest"}

Headers = tuple[tuple[str, str], ...]


@frozen(kw_only=True)
class Message:
    """One request as it was sent, and its response as it was received."""

    method: str
    url: str
    sent: Headers
    form: bytes
    status: int
    received: Headers
    body: bytes

    @property
    def operation(self) -> str:
        """The path within the module."""
        return "/oauth/" + self.url.rpartition("/")[2]


@define
class Recorder(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """The transports of httpx with the certificate of a client, and a pen."""

    settings: Settings
    messages: list[Message] = field(factory=list)
    _inner: httpx.HTTPTransport | None = None
    _async_inner: httpx.AsyncHTTPTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._inner is None:
            self._inner = httpx.HTTPTransport(verify=self._context())
        response = self._inner.handle_request(request)
        response.read()
        response.close()
        return self._note(request, response)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._async_inner is None:
            self._async_inner = httpx.AsyncHTTPTransport(verify=self._context())
        response = await self._async_inner.handle_async_request(request)
        await response.aread()
        await response.aclose()
        return self._note(request, response)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    async def aclose(self) -> None:
        if self._async_inner is not None:
            await self._async_inner.aclose()

    def _context(self) -> ssl.SSLContext:
        assert isinstance(self.settings.certificate, ClientCertificate)
        return ssl_context(self.settings.certificate, now=datetime.now(UTC))

    def _note(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        message = Message(
            method=request.method,
            url=str(request.url),
            sent=tuple(request.headers.multi_items()),
            form=request.content,
            status=response.status_code,
            received=tuple(response.headers.multi_items()),
            body=response.content,
        )
        self.messages.append(message)
        return httpx.Response(
            response.status_code, headers=response.headers.raw, content=response.content
        )


def read_problem(body: bytes, **_parameters: str) -> object:
    """Decode problem details; media type parameters such as charset mean nothing for JSON."""
    return json.loads(body)


@frozen
class Judge:
    """Tells what in a message is against the contract."""

    document: dict[str, Any]
    contract: OpenAPI

    @classmethod
    def of(cls, base_url: str) -> Judge:
        """Read the contract, for a server that is not the platform's.

        Args:
            base_url: Where the module is.
        """
        document = yaml.safe_load(CONTRACT.read_text("utf-8")) | {"servers": [{"url": base_url}]}
        config = Config(extra_media_type_deserializers={PROBLEM: read_problem})
        return cls(document, OpenAPI.from_dict(document, config=config))

    def faults(self, message: Message) -> list[str]:
        """Return what is wrong with a message, request and response."""
        host, _, path = message.url.removeprefix("https://").partition("/")
        request = MockRequest(
            f"https://{host}",
            message.method.lower(),
            f"/{path}",
            headers=dict(message.sent),
            data=message.form,
            content_type=dict(message.sent).get("content-type", ""),
        )
        response = MockResponse(
            message.body,
            message.status,
            headers=dict(message.received),
            content_type=dict(message.received).get("content-type", ""),
        )
        found = [f"request: {error!r}" for error in self.contract.iter_request_errors(request)]
        found += [
            f"response: {error!r}"
            for error in self.contract.iter_response_errors(request, response)
        ]
        return [*found, *self._unseen_by_the_library(message)]

    def _unseen_by_the_library(self, message: Message) -> Iterator[str]:
        """Tell what openapi-core does not look at."""
        names = [name for name, _ in parse_qsl(message.form.decode(), keep_blank_values=True)]
        schema = self.document["components"]["schemas"].get(SCHEMAS.get(message.operation), {})
        for name in names:
            if name not in schema.get("properties", {}):
                yield f"request: form field {name} is not in the contract"
            if names.count(name) > 1:
                yield f"request: form field {name} is there more than once"
        for side, headers in (("request", message.sent), ("response", message.received)):
            for name in {name for name, _ in headers}:
                if [other for other, _ in headers].count(name) > 1:
                    yield f"{side}: header {name} is there more than once"
        echo, sent = dict(message.received).get("x-correlation-id"), dict(message.sent)
        if echo != sent.get("x-correlation-id"):
            yield "response: the correlation id is not that of the request"
        if "authorization" in sent or "cookie" in sent:
            yield "request: credentials that the contract does not know"
