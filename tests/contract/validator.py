"""An independent validator: requests and responses on the wire against the contract.

It shares no code with the checks of the client and of the sandbox. It records the exchanges in the
transport of httpx, after the client has built each request and before it reads the response.
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
class Exchange:
    """A request as it was sent, and its response as it was received."""

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
    """The sync and async transports of httpx with a client certificate; records each exchange."""

    settings: Settings
    exchanges: list[Exchange] = field(factory=list)
    _inner: httpx.HTTPTransport | None = None
    _async_inner: httpx.AsyncHTTPTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._inner is None:
            self._inner = httpx.HTTPTransport(verify=self._context())
        response = self._inner.handle_request(request)
        response.read()
        response.close()
        return self._record(request, response)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._async_inner is None:
            self._async_inner = httpx.AsyncHTTPTransport(verify=self._context())
        response = await self._async_inner.handle_async_request(request)
        await response.aread()
        await response.aclose()
        return self._record(request, response)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    async def aclose(self) -> None:
        if self._async_inner is not None:
            await self._async_inner.aclose()

    def _context(self) -> ssl.SSLContext:
        assert isinstance(self.settings.certificate, ClientCertificate)
        return ssl_context(self.settings.certificate, now=datetime.now(UTC))

    def _record(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        exchange = Exchange(
            method=request.method,
            url=str(request.url),
            sent=tuple(request.headers.multi_items()),
            form=request.content,
            status=response.status_code,
            received=tuple(response.headers.multi_items()),
            body=response.content,
        )
        self.exchanges.append(exchange)
        return httpx.Response(
            response.status_code, headers=response.headers.raw, content=response.content
        )


def read_problem(body: bytes, **_parameters: str) -> object:
    """Decode problem details; parameters of the media type, such as charset, do not affect JSON."""
    return json.loads(body)


@frozen
class ContractValidator:
    """Validates exchanges against the contract."""

    document: dict[str, Any]
    contract: OpenAPI

    @classmethod
    def for_server(cls, base_url: str) -> ContractValidator:
        """Read the contract, with the base URL of another server.

        Args:
            base_url: The base URL of the module.
        """
        document = yaml.safe_load(CONTRACT.read_text("utf-8")) | {"servers": [{"url": base_url}]}
        config = Config(extra_media_type_deserializers={PROBLEM: read_problem})
        return cls(document, OpenAPI.from_dict(document, config=config))

    def violations(self, exchange: Exchange) -> list[str]:
        """Return the violations of the contract in a request and its response."""
        host, _, path = exchange.url.removeprefix("https://").partition("/")
        request = MockRequest(
            f"https://{host}",
            exchange.method.lower(),
            f"/{path}",
            headers=dict(exchange.sent),
            data=exchange.form,
            content_type=dict(exchange.sent).get("content-type", ""),
        )
        response = MockResponse(
            exchange.body,
            exchange.status,
            headers=dict(exchange.received),
            content_type=dict(exchange.received).get("content-type", ""),
        )
        found = [f"request: {error!r}" for error in self.contract.iter_request_errors(request)]
        found += [
            f"response: {error!r}"
            for error in self.contract.iter_response_errors(request, response)
        ]
        return [*found, *self._unchecked_by_openapi_core(exchange)]

    def _unchecked_by_openapi_core(self, exchange: Exchange) -> Iterator[str]:
        """Yield the violations that openapi-core does not check."""
        names = [name for name, _ in parse_qsl(exchange.form.decode(), keep_blank_values=True)]
        schema = self.document["components"]["schemas"].get(SCHEMAS.get(exchange.operation), {})
        for name in names:
            if name not in schema.get("properties", {}):
                yield f"request: form field {name} is not in the contract"
            if names.count(name) > 1:
                yield f"request: form field {name} is repeated"
        for side, headers in (("request", exchange.sent), ("response", exchange.received)):
            for name in {name for name, _ in headers}:
                if [other for other, _ in headers].count(name) > 1:
                    yield f"{side}: header {name} is repeated"
        echo, sent = dict(exchange.received).get("x-correlation-id"), dict(exchange.sent)
        if echo != sent.get("x-correlation-id"):
            yield "response: the correlation id differs from that of the request"
        if "authorization" in sent or "cookie" in sent:
            yield "request: credentials that are not in the contract"
