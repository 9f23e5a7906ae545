"""The platform: checks each request, passes it to its bank and builds the response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import evolve, field, frozen

from blink_oauth.headers import CORRELATION_ID, TARGET_ID

from .banks import ACCOUNTS, Bank, Refusal
from .contract import LIST_ACCOUNTS, Contract
from .exchanges import Exchange, ExchangeRecorder, Fingerprints
from .faults import Fault, FaultPlan
from .messages import (
    JSON,
    NORMAL_DELIVERY,
    Delivery,
    Request,
    Response,
    oauth_error,
    problem,
    success,
)

CONSENT_FLOW = "/consent-flow/v2"
# Inferred from the title of the platform's specification: no public page shows the whole URL.
# Public code of third parties reads versions 5.1 and 6.
ACCOUNT_INFORMATION = "/account-information-service/v4"
SCOPE = "accounts"
"""The scope of every token, as in the examples of the contract."""


@frozen
class _Handled:
    """The result of handling a request.

    Attributes:
        response: The response, before the fault changes it.
        executed: Whether a bank executed the request; a refusal by the bank counts.
        violations: Rules of the contract that the request broke.
        fault: The fault that applies, or None.
        delay: Seconds before the response.
    """

    response: Response
    executed: bool = False
    violations: tuple[str, ...] = ()
    fault: Fault | None = None
    delay: float = 0.0


@frozen
class Platform:
    """Checks requests, passes them to the banks, applies faults and records the exchanges.

    Attributes:
        contract: The contract that requests and responses must meet.
        banks: The banks by target id.
        clients: The client ids by fingerprint of their certificate.
        plan: The faults that will happen.
        now: Returns the time in seconds.
        validate: Whether requests and responses are validated against the OpenAPI document.
        fingerprints: Replaces secrets in the recorded exchanges.
        recorder: Records the exchanges.
    """

    contract: Contract
    banks: Mapping[str, Bank]
    clients: Mapping[str, str]
    plan: FaultPlan
    now: Callable[[], float]
    validate: bool = True
    fingerprints: Fingerprints = field(factory=Fingerprints)
    recorder: ExchangeRecorder = field(factory=ExchangeRecorder)

    def handle(self, request: Request) -> tuple[Response, Delivery]:
        """Handle a request and record the exchange.

        Returns:
            The response, and how to send it.
        """
        path = _contract_path(request.path)
        operation = self.contract.operations.get((request.method, path))
        if operation is None:
            handled = _Handled(self._no_such_operation(path))
        else:
            handled = self._execute(operation, path, request)
            if not _accepts(request.headers_named("Accept"), handled.response.media_type):
                handled = evolve(handled, response=_NOT_ACCEPTABLE)
        response = handled.response.with_header(CORRELATION_ID, request.correlation_id)
        delivery = NORMAL_DELIVERY
        if handled.fault is not None:
            response, delivery = handled.fault.change(response), handled.fault.delivery
        if handled.delay:
            delivery = evolve(delivery, delay=delivery.delay + handled.delay)
        self._add_exchange(operation, path, request, handled, response)
        return response, delivery

    def _no_such_operation(self, path: str) -> Response:
        methods = sorted(method for method, known in self.contract.operations if known == path)
        if not methods:
            return problem(404, "TECHNICAL_ERROR", "Not Found", "There is nothing at this path.")
        response = problem(405, "WRONG_METHOD", "Method Not Allowed", "Use another method.")
        return response.with_header("Allow", ", ".join(methods))

    def _execute(self, operation: str, path: str, request: Request) -> _Handled:
        refusal = self._refusal(path, request)
        if refusal is not None:
            return refusal
        target_id = request.header(TARGET_ID) or ""
        bank, client_id = self.banks[target_id], self.clients[request.certificate]
        delay = bank.policy.response_delay if operation == "request_token" else 0.0
        fault = self.plan.take(target_id, operation)
        if fault is not None and not fault.executes:
            # The fault replaces this response, or the connection ends without one.
            response = problem(500, "TECHNICAL_ERROR", "Fault", "The sandbox was asked to fail.")
            return _Handled(response, fault=fault, delay=delay)
        response = _OPERATIONS[operation](bank, client_id, request)
        return _Handled(response, executed=True, fault=fault, delay=delay)

    def _refusal(self, path: str, request: Request) -> _Handled | None:
        """Return the response of the platform if it refuses a request, or None.

        The order of the checks is invented: no page of the platform has one.
        """
        if not _accepts(request.headers_named("Accept"), JSON):
            return _Handled(_NOT_ACCEPTABLE)
        if request.method == "POST" and request.media_type != "application/x-www-form-urlencoded":
            return _Handled(
                problem(415, "UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type", "Send a form.")
            )
        if broken := self.contract.syntax_violations(request):
            return _Handled(_bad_request("MALFORMED_PAYLOAD", broken), violations=broken)
        if self.validate and (broken := self.contract.request_violations(path, request)):
            return _Handled(_bad_request("INVALID_PAYLOAD", broken), violations=broken)
        return self._unauthorized(path, request)

    def _unauthorized(self, path: str, request: Request) -> _Handled | None:
        """Return the response if the client or its target is refused, or None."""
        client_id = self.clients.get(request.certificate)
        named = request.field("client_id")
        # A revocation may leave the client id out: the certificate tells it.
        is_other = named != client_id and (named != "" or path == "/oauth/token")
        if client_id is None or is_other:
            detail = "The client_id is not the one the certificate is registered for."
            return _Handled(problem(401, "INVALID_CLIENT", "Unauthorized", detail))
        if request.header(TARGET_ID) not in self.banks:
            detail = "The client may not use this target, or there is no such target."
            return _Handled(problem(403, "INSUFFICIENT_PRIVILEGES", "Forbidden", detail))
        return None

    def _add_exchange(
        self,
        operation: str | None,
        path: str,
        request: Request,
        handled: _Handled,
        response: Response,
    ) -> None:
        violations: tuple[str, ...] = ()
        if self.validate and operation is not None:
            violations = self.contract.response_violations(path, request, response)
        exchange = Exchange(
            operation=operation,
            target_id=request.header(TARGET_ID),
            client_id=self.clients.get(request.certificate),
            certificate=request.certificate,
            correlation_id=request.header(CORRELATION_ID),
            method=request.method,
            path=request.path,
            request_headers=self.fingerprints.of_headers(request.headers),
            form=self.fingerprints.of_form(request.form),
            status=response.status,
            response_headers=self.fingerprints.of_headers(response.headers),
            executed=handled.executed,
            fault=handled.fault.name if handled.fault else None,
            request_violations=handled.violations,
            response_violations=violations,
            at=self.now(),
        )
        self.recorder.add(exchange)


def _contract_path(path: str) -> str:
    """Return the path in the contract for the path of a request, or "" if there is none."""
    if path == ACCOUNT_INFORMATION + LIST_ACCOUNTS:
        return LIST_ACCOUNTS
    relative = path.removeprefix(CONSENT_FLOW)
    return "" if relative in {path, LIST_ACCOUNTS} else relative


_NOT_ACCEPTABLE = problem(406, "NOT_ACCEPTABLE", "Not Acceptable", "Only JSON is offered.")


def _accepts(values: Sequence[str], media_type: str) -> bool:
    """Return whether a media type is acceptable (RFC 9110 section 12.5.1).

    Without Accept every type is, and so is a response without a body.
    """
    quality: dict[str, bool] = {}
    for part in ",".join(values).lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        quality[media_range] = not any(weight.strip("0.") == "" for weight in weights)
    if not media_type or not ",".join(values).strip():
        return True
    # The most specific range decides.
    for media_range in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if media_range in quality:
            return quality[media_range]
    return False


def _bad_request(kind: str, broken: tuple[str, ...]) -> Response:
    return problem(400, kind, "Bad Request", "; ".join(broken))


def _request_token(bank: Bank, client_id: str, request: Request) -> Response:
    username = request.field("username")
    if request.field("grant_type") == "authorization_code":
        issued = bank.exchange_code(
            client_id, request.field("code"), request.field("redirect_uri"), username
        )
    else:
        issued = bank.refresh(client_id, request.field("refresh_token"), username)
    if isinstance(issued, Refusal):
        return oauth_error(issued.error, issued.description)
    content: dict[str, object] = {
        "access_token": issued.access_token,
        "token_type": "bearer",
        "expires_in": issued.expires_in,
        "scope": SCOPE,
    }
    if issued.refresh_token is not None:
        content["refresh_token"] = issued.refresh_token
    return success(content)


def _revoke_token(bank: Bank, client_id: str, request: Request) -> Response:
    refused = sorted(bank.policy.refused_revocation_fields.intersection(request.field_names))
    if refused:
        broken = "; ".join(f"form field {name}: not allowed" for name in refused)
        return oauth_error("invalid_request", broken)
    refusal = bank.revoke(client_id, request.field("token"), request.field("username") or None)
    return oauth_error(refusal.error, refusal.description) if refusal else success(None)


def _list_accounts(bank: Bank, client_id: str, request: Request) -> Response:
    scheme, _, token = (request.header("Authorization") or "").partition(" ")
    refusal: Refusal | None
    if scheme.lower() == "bearer" and token:
        refusal = bank.check_access(client_id, token)
    else:
        refusal = Refusal("invalid_token", "There is no bearer token.")
    if refusal is None:
        chosen = bank.accounts(token)
        accounts = [each for each in ACCOUNTS if chosen is None or each["id"] in chosen]
        return success({"accounts": accounts}, JSON)
    response = problem(401, refusal.error.upper(), "Unauthorized", refusal.description, "PROVIDER")
    # RFC 6750 section 3.1 has one code for an expired and for an invalid token.
    return response.with_header("WWW-Authenticate", 'Bearer error="invalid_token"')


_OPERATIONS: Mapping[str, Callable[[Bank, str, Request], Response]] = {
    "request_token": _request_token,
    "revoke_token": _revoke_token,
    "list_accounts": _list_accounts,
}
