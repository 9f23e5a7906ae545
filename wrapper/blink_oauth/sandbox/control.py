"""The plain-http port: the authorize endpoints, and what a process outside can see and ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from urllib.parse import parse_qsl

from aiohttp import web
from attrs import asdict, frozen

from .consent import Decision, authorize
from .faults import FAULTS
from .plan import FaultPlan
from .platform import Platform
from .reply import JSON, Reply
from .transfer import deliver

AUTHORIZE = "/{target_id}/oauth/authorize"


@frozen
class Control:
    """The handlers of the plain-http port.

    Attributes:
        platform: Whose exchanges are shown.
        clients: The ids of the clients.
        redirect_uris: The redirect URIs that are registered.
        environment: Returns the variables that a client needs.
    """

    platform: Platform
    clients: Collection[str]
    redirect_uris: Collection[str]
    environment: Callable[[], Mapping[str, str]]

    def application(self) -> web.Application:
        """Return the web application with its routes."""
        application = web.Application()
        application.add_routes(
            [
                web.get(AUTHORIZE, self.authorize, allow_head=False),
                web.post(AUTHORIZE, self.authorize),
                web.get("/sandbox", self.show),
                web.post("/sandbox/faults", self.fail),
            ]
        )
        return application

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Send the browser back with a code or an error, or show the page that asks."""
        bank = self.platform.banks.get(request.match_info["target_id"])
        if bank is None:
            return await deliver(request, _json(404, {"error": "There is no such bank."}))
        decision: Decision | None = None
        if request.method == "POST":
            form = dict(parse_qsl(await request.text()))
            decision = "approve" if form.get("decision") == "approve" else "refuse"
        query = parse_qsl(request.query_string, keep_blank_values=True)
        reply = authorize(
            bank, query, clients=self.clients, redirect_uris=self.redirect_uris, decision=decision
        )
        return await deliver(request, reply)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show the environment and what was seen, without secrets."""
        content = {
            "environment": dict(self.environment()),
            "targets": list(self.platform.banks),
            "exchanges": [asdict(exchange) for exchange in self.platform.exchanges],
        }
        return await deliver(request, _json(200, content))

    async def fail(self, request: web.Request) -> web.StreamResponse:
        """Let the next matching calls fail, as the body asks."""
        # A page on the web can send a form here, but no JSON without being asked first.
        if request.content_type != JSON:
            return await deliver(request, _json(415, {"error": f"Send {JSON}."}))
        try:
            plan_fault(self.platform.plan, json.loads(await request.text()))
        except ValueError as error:
            return await deliver(request, _json(400, {"error": str(error)}))
        return await deliver(request, Reply(204))


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
    name, times = wish.get("fault"), wish.get("times", 1)
    if not isinstance(name, str) or name not in FAULTS:
        raise ValueError(f"There is no such fault. There are: {', '.join(FAULTS)}.")
    if type(times) is not int:
        raise ValueError("times must be a whole number.")
    plan.add(
        FAULTS[name],
        target_id=wish.get("target_id"),
        operation=wish.get("operation"),
        times=times,
    )


def _json(status: int, content: object) -> Reply:
    return Reply(status).with_body(JSON, json.dumps(content).encode())
