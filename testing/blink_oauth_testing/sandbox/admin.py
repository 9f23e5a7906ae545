"""The plain-http port: the authorize endpoints, and what a process outside can see and ask for.

* `GET /sandbox` shows the environment, the banks with their counts, the time and the exchanges.
* `POST /sandbox/faults` with `{"fault": "not-json", "target_id": …, "operation": …, "times": 1}`
  lets the next matching calls fail; all but `fault` may be left out.
* `POST /sandbox/clock` with `{"advance": 86400}` puts the clock forward by so many seconds and
  answers with the time, in seconds since the epoch: `{"now": …}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from urllib.parse import parse_qsl

from aiohttp import web
from attrs import asdict, frozen

from .banks import Clock
from .consent import Conversations, authorize
from .faults import FaultPlan, ready_made
from .http import deliver
from .messages import JSON, Response
from .platform import Platform

AUTHORIZE = "/{target_id}/oauth/authorize"


@frozen
class Control:
    """The handlers of the plain-http port.

    Attributes:
        platform: Whose banks and exchanges are shown, and whose calls fail.
        clock: What can be put forward.
        clients: The ids of the clients.
        redirect_uris: The redirect URIs that are registered.
        environment: Returns the variables that a client needs.
        conversations: The people who are being asked for their consent.
    """

    platform: Platform
    clock: Clock
    clients: Collection[str]
    redirect_uris: Collection[str]
    environment: Callable[[], Mapping[str, str]]
    conversations: Conversations

    def application(self) -> web.Application:
        """Return the web application with its routes."""
        application = web.Application()
        application.add_routes(
            [
                web.get(AUTHORIZE, self.authorize, allow_head=False),
                web.post(AUTHORIZE, self.authorize),
                web.get("/sandbox", self.show),
                web.post("/sandbox/faults", self.fail),
                web.post("/sandbox/clock", self.advance),
            ]
        )
        return application

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Send the browser back with a code or an error, or show the page that asks."""
        bank = self.platform.banks.get(request.match_info["target_id"])
        if bank is None:
            return await deliver(request, _json(404, {"error": "There is no such bank."}))
        form = parse_qsl(await request.text()) if request.method == "POST" else None
        query = parse_qsl(request.query_string, keep_blank_values=True)
        reply = authorize(
            bank,
            query,
            clients=self.clients,
            redirect_uris=self.redirect_uris,
            conversations=self.conversations,
            form=form,
        )
        return await deliver(request, reply)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show the environment and what was seen, without secrets."""
        content = {
            "environment": dict(self.environment()),
            "targets": list(self.platform.banks),
            "banks": {
                target_id: {"refreshes": bank.refreshes, "reuses": bank.reuses}
                for target_id, bank in self.platform.banks.items()
            },
            "now": self.clock(),
            "exchanges": [asdict(exchange) for exchange in self.platform.record.exchanges],
        }
        return await deliver(request, _json(200, content))

    async def fail(self, request: web.Request) -> web.StreamResponse:
        """Let the next matching calls fail, as the body asks."""

        def act(wish: object) -> Response:
            plan_fault(self.platform.plan, wish)
            return Response(204)

        return await _fulfil(request, act)

    async def advance(self, request: web.Request) -> web.StreamResponse:
        """Put the clock forward, as the body asks."""

        def act(wish: object) -> Response:
            put_forward(self.clock, wish)
            return _json(200, {"now": self.clock()})

        return await _fulfil(request, act)


async def _fulfil(request: web.Request, act: Callable[[object], Response]) -> web.StreamResponse:
    """Do as the body asks, or say why that cannot be."""
    # A page on the web can send a form here, but no JSON without being asked first.
    if request.content_type != JSON:
        return await deliver(request, _json(415, {"error": f"Send {JSON}."}))
    try:
        reply = act(json.loads(await request.text()))
    except ValueError as error:
        reply = _json(400, {"error": str(error)})
    return await deliver(request, reply)


def plan_fault(plan: FaultPlan, wish: object) -> None:
    """Plan the fault that a process outside asks for.

    Args:
        plan: Where it goes.
        wish: An object with `fault`, and optionally `target_id`, `operation` and `times`.

    Raises:
        ValueError: The wish cannot be understood.
    """
    if not isinstance(wish, dict) or wish.keys() - {"fault", "target_id", "operation", "times"}:
        raise ValueError("Send an object of fault, target_id, operation and times.")
    fault, times = ready_made(wish.get("fault")), wish.get("times", 1)
    if type(times) is not int:
        raise ValueError("times must be a whole number.")
    plan.add(
        fault,
        target_id=wish.get("target_id"),
        operation=wish.get("operation"),
        times=times,
    )


def put_forward(clock: Clock, wish: object) -> None:
    """Put the clock forward as a process outside asks for.

    Args:
        clock: The clock.
        wish: An object with `advance` in seconds.

    Raises:
        ValueError: The wish cannot be understood.
    """
    if not isinstance(wish, dict) or wish.keys() != {"advance"}:
        raise ValueError("Send an object of advance.")
    seconds = wish["advance"]
    if type(seconds) not in {int, float}:
        raise ValueError("advance must be a number of seconds.")
    clock.advance(seconds=seconds)


def _json(status: int, content: object) -> Response:
    return Response(status).with_body(JSON, json.dumps(content).encode())
