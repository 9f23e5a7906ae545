"""The plain-http port: the authorize endpoints, and the control interface for other processes.

* `GET /sandbox` returns the environment, the banks with their counts, the time and the exchanges.
* `POST /sandbox/faults` with `{"fault": "not-json", "target_id": …, "operation": …, "times": 1}`
  makes the next matching requests fail; only `fault` is required.
* `POST /sandbox/revocation` with `{"refused_fields": ["username"], "target_id": …}` makes a bank
  refuse a revocation that has one of these fields; all banks without `target_id`.
* `POST /sandbox/withdrawal` with `{"target_id": …, "username": …}` ends the consents of a customer,
  as the customer can at the bank.
* `POST /sandbox/clock` with `{"advance": 86400}` advances the clock by that many seconds and
  returns the time, in seconds since the epoch: `{"now": …}`.

Every request must name this port of the loopback address as its host, so that no web page reaches
it under a name of its own (DNS rebinding). The port of mutual TLS needs no such check: a web page
has no client certificate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from urllib.parse import parse_qsl

from aiohttp import web
from attrs import asdict, evolve, frozen

from .banks import Bank, revocation_fields
from .clock import Clock
from .consent import ConsentSessions, authorize
from .faults import FaultPlan, fault_named
from .http import send_response
from .messages import JSON, Response
from .platform import Platform

AUTHORIZE = "/{target_id}/oauth/authorize"
HTTP_PORT = 80
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@frozen
class ControlInterface:
    """The handlers of the plain-http port.

    Attributes:
        platform: The platform to show and to plan faults for.
        clock: The clock to advance.
        clients: The ids of the clients.
        redirect_uris: The registered redirect URIs.
        environment: Returns the variables that a client needs.
        sessions: The open consent sessions.
    """

    platform: Platform
    clock: Clock
    clients: Collection[str]
    redirect_uris: Collection[str]
    environment: Callable[[], Mapping[str, str]]
    sessions: ConsentSessions

    def application(self) -> web.Application:
        """Return the web application with its routes."""
        application = web.Application(middlewares=[refuse_foreign_pages])
        application.add_routes(
            [
                web.get(AUTHORIZE, self.authorize, allow_head=False),
                web.post(AUTHORIZE, self.authorize),
                web.get("/sandbox", self.show),
                web.post("/sandbox/faults", self.fail),
                web.post("/sandbox/revocation", self.close_revocation),
                web.post("/sandbox/withdrawal", self.withdraw),
                web.post("/sandbox/clock", self.advance),
            ]
        )
        return application

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Redirect the browser with a code or an error, or show a consent page."""
        bank = self.platform.banks.get(request.match_info["target_id"])
        if bank is None:
            return await send_response(request, _json(404, {"error": "There is no such bank."}))
        form = parse_qsl(await request.text()) if request.method == "POST" else None
        query = parse_qsl(request.query_string, keep_blank_values=True)
        response = authorize(
            bank,
            query,
            clients=self.clients,
            redirect_uris=self.redirect_uris,
            sessions=self.sessions,
            form=form,
        )
        return await send_response(request, response)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return the environment, the banks, the time and the exchanges, without secrets."""
        content = {
            "environment": dict(self.environment()),
            "targets": list(self.platform.banks),
            "banks": {
                target_id: {"refreshes": bank.refreshes, "reuses": bank.reuses}
                for target_id, bank in self.platform.banks.items()
            },
            "now": self.clock(),
            "exchanges": [asdict(exchange) for exchange in self.platform.recorder.exchanges],
        }
        return await send_response(request, _json(200, content))

    async def fail(self, request: web.Request) -> web.StreamResponse:
        """Make the next matching requests fail."""

        def act(body: object) -> Response:
            plan_fault(self.platform.plan, body)
            return Response(204)

        return await _with_json_body(request, act)

    async def close_revocation(self, request: web.Request) -> web.StreamResponse:
        """Choose the fields of a revocation that the banks refuse."""

        def act(body: object) -> Response:
            refuse_revocation_fields(self.platform.banks, body)
            return Response(204)

        return await _with_json_body(request, act)

    async def withdraw(self, request: web.Request) -> web.StreamResponse:
        """End the consents of a customer."""

        def act(body: object) -> Response:
            withdraw_consents(self.platform.banks, self.clients, body)
            return Response(204)

        return await _with_json_body(request, act)

    async def advance(self, request: web.Request) -> web.StreamResponse:
        """Advance the clock."""

        def act(body: object) -> Response:
            advance_clock(self.clock, body)
            return _json(200, {"now": self.clock()})

        return await _with_json_body(request, act)


@web.middleware
async def refuse_foreign_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request for another host, and one from a web page that is not this port's own.

    The consent page sends `Origin: null`, because it sends no referrer. Its forms are protected by
    the id of their session instead.
    """
    assert request.transport is not None
    port = request.transport.get_extra_info("sockname")[1]
    allowed = {f"{name}:{port}" for name in LOOPBACK_NAMES}
    if port == HTTP_PORT:  # pragma: no cover  # needs the right to open that port
        allowed |= LOOPBACK_NAMES
    hosts = [host.lower() for host in request.headers.getall("Host", [])]
    if len(hosts) != 1 or hosts[0] not in allowed:
        return await send_response(request, _json(403, {"error": "Name this port of 127.0.0.1."}))
    origins = request.headers.getall("Origin", [])
    is_control = request.path.startswith("/sandbox")
    if is_control and not {origin.lower() for origin in origins} <= {
        f"http://{h}" for h in allowed
    }:
        return await send_response(request, _json(403, {"error": "No web page may control this."}))
    return await handler(request)


async def _with_json_body(
    request: web.Request, act: Callable[[object], Response]
) -> web.StreamResponse:
    """Send the response that `act` returns for the JSON body, or 400 for its `ValueError`."""
    # A web page can post a form to this port, but JSON only after a CORS preflight.
    if request.content_type != JSON:
        return await send_response(request, _json(415, {"error": f"Send {JSON}."}))
    try:
        # In a thread: an advance waits for refreshes, whose requests this event loop serves.
        response = await asyncio.to_thread(act, json.loads(await request.text()))
    except ValueError as error:
        response = _json(400, {"error": str(error)})
    return await send_response(request, response)


def plan_fault(plan: FaultPlan, body: object) -> None:
    """Add the fault that another process requests.

    Args:
        plan: The planned faults.
        body: An object with `fault`, and optionally `target_id`, `operation` and `times`.

    Raises:
        ValueError: The body is not such an object, or the fault could never happen.
    """
    if not isinstance(body, dict) or body.keys() - {"fault", "target_id", "operation", "times"}:
        raise ValueError("Send an object with fault, target_id, operation and times.")
    fault, times = fault_named(body.get("fault")), body.get("times", 1)
    if type(times) is not int:
        raise ValueError("times must be a whole number.")
    plan.add(
        fault,
        target_id=body.get("target_id"),
        operation=body.get("operation"),
        times=times,
    )


def refuse_revocation_fields(banks: Mapping[str, Bank], body: object) -> None:
    """Choose the fields of a revocation that banks refuse, as another process requests.

    Args:
        banks: The banks by target id.
        body: An object with `refused_fields`, and optionally `target_id`.

    Raises:
        ValueError: The body is not such an object, or there is no such field or bank.
    """
    if not isinstance(body, dict) or body.keys() - {"target_id"} != {"refused_fields"}:
        raise ValueError("Send an object with refused_fields and target_id.")
    refused, target_id = revocation_fields(body["refused_fields"]), body.get("target_id")
    chosen = [bank for name, bank in banks.items() if target_id in (None, name)]
    if not chosen:
        raise ValueError(f"There is no such bank. The banks are: {', '.join(banks)}.")
    for bank in chosen:
        bank.policy = evolve(bank.policy, refused_revocation_fields=refused)


def withdraw_consents(banks: Mapping[str, Bank], clients: Collection[str], body: object) -> None:
    """End the consents of a customer for each client, as another process requests.

    Args:
        banks: The banks by target id.
        clients: The ids of the clients.
        body: An object with `target_id` and `username`.

    Raises:
        ValueError: The body is not such an object, or there is no such bank.
    """
    if not isinstance(body, dict) or body.keys() != {"target_id", "username"}:
        raise ValueError("Send an object with target_id and username.")
    bank = next((bank for name, bank in banks.items() if name == body["target_id"]), None)
    if bank is None:
        raise ValueError(f"There is no such bank. The banks are: {', '.join(banks)}.")
    if not isinstance(body["username"], str):
        raise ValueError("username must be a text.")
    for client_id in clients:
        bank.withdraw(client_id, body["username"])


def advance_clock(clock: Clock, body: object) -> None:
    """Advance the clock as another process requests.

    Args:
        clock: The clock.
        body: An object with `advance` in seconds.

    Raises:
        ValueError: The body is not such an object, or the clock cannot advance so far.
    """
    if not isinstance(body, dict) or body.keys() != {"advance"}:
        raise ValueError("Send an object with advance and nothing else.")
    seconds = body["advance"]
    if type(seconds) not in {int, float}:
        raise ValueError("advance must be a number of seconds.")
    clock.advance(seconds=seconds)


def _json(status: int, content: object) -> Response:
    return Response(status).with_body(JSON, json.dumps(content).encode())
