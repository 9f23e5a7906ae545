"""The platform: which call is let through to which bank, and what each answer looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import evolve, field, frozen

from .banks import ACCOUNTS, Bank, Refusal
from .contract import LIST_ACCOUNTS, Contract
from .exchanges import Exchange, Fingerprints, Record
from .faults import Fault, FaultPlan
from .messages import AS_USUAL, JSON, Call, Delivery, Response, oauth_error, problem, success

CONSENT_FLOW = "/consent-flow/v2"
# Inferred: the segment is the title of the platform's specification; no page prints the whole URL.
ACCOUNT_INFORMATION = "/account-information-service/v4"


@frozen
class _Outcome:
    """What became of a call.

    Attributes:
        reply: The answer.
        executed: Whether a bank decided on it.
        violations: Rules of the contract that the request broke.
        fault: The fault that struck, or None.
        after: Seconds until it is answered.
    """

    reply: Response
    executed: bool = False
    violations: tuple[str, ...] = ()
    fault: Fault | None = None
    after: float = 0.0


@frozen
class Platform:
    """Everything between the socket and the banks.

    Attributes:
        contract: What requests and responses are held to.
        banks: The banks by target id.
        clients: The client ids by fingerprint of their certificate.
        plan: The faults that were asked for.
        now: Returns the time in seconds.
        judged: Whether requests and responses are held to the contract.
        fingerprints: Replaces the secrets in the record.
        record: What was seen.
    """

    contract: Contract
    banks: Mapping[str, Bank]
    clients: Mapping[str, str]
    plan: FaultPlan
    now: Callable[[], float]
    judged: bool = True
    fingerprints: Fingerprints = field(factory=Fingerprints)
    record: Record = field(factory=Record)

    def answer(self, call: Call) -> tuple[Response, Delivery]:
        """Decide on a call and record it.

        Returns:
            The reply, and how to put it on the wire.
        """
        path = _contract_path(call.path)
        operation = self.contract.operations.get((call.method, path))
        if operation is None:
            outcome = _Outcome(self._no_operation(path))
        else:
            outcome = self._operate(operation, path, call)
        reply = outcome.reply.with_header("X-Correlation-ID", call.correlation_id)
        delivery = AS_USUAL
        if outcome.fault is not None:
            reply, delivery = outcome.fault.change(reply), outcome.fault.delivery
        if outcome.after:
            delivery = evolve(delivery, after=delivery.after + outcome.after)
        self._record(operation, path, call, outcome, reply)
        return reply, delivery

    def _no_operation(self, path: str) -> Response:
        methods = sorted(method for method, known in self.contract.operations if known == path)
        if not methods:
            return problem(404, "TECHNICAL_ERROR", "Not Found", "There is nothing at this path.")
        reply = problem(405, "WRONG_METHOD", "Method Not Allowed", "Use another method.")
        return reply.with_header("Allow", ", ".join(methods))

    def _operate(self, operation: str, path: str, call: Call) -> _Outcome:
        refused = self._refused(path, call)
        if refused is not None:
            return refused
        target_id = call.header("X-CorAPI-Target-ID") or ""
        bank, client_id = self.banks[target_id], self.clients[call.certificate]
        after = bank.policy.response_delay if operation == "request_token" else 0.0
        fault = self.plan.take(target_id, operation)
        if fault is not None and not fault.executes:
            # The fault's own reply replaces this one, unless the connection ends without any.
            reply = problem(500, "TECHNICAL_ERROR", "Fault", "As asked for.")
            return _Outcome(reply, fault=fault, after=after)
        reply = _OPERATIONS[operation](bank, client_id, call)
        return _Outcome(reply, executed=True, fault=fault, after=after)

    def _refused(self, path: str, call: Call) -> _Outcome | None:
        """Tell why the platform does not let a call through, or None."""
        if not _accepts_json(call.headers_named("Accept")):
            return _Outcome(
                problem(406, "NOT_ACCEPTABLE", "Not Acceptable", "Only JSON is offered.")
            )
        if call.method == "POST" and call.media_type != "application/x-www-form-urlencoded":
            return _Outcome(
                problem(415, "UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type", "Send a form.")
            )
        if broken := self.contract.malformations(call):
            return _Outcome(_bad_request("MALFORMED_PAYLOAD", broken), violations=broken)
        if self.judged and (broken := self.contract.request_violations(path, call)):
            return _Outcome(_bad_request("INVALID_PAYLOAD", broken), violations=broken)
        return self._unauthorized(call)

    def _unauthorized(self, call: Call) -> _Outcome | None:
        """Tell why a client may not do what it wants, or None."""
        client_id = self.clients.get(call.certificate)
        if client_id is None or (call.form and call.field("client_id") != client_id):
            detail = "The client_id is not the one the certificate is registered for."
            return _Outcome(problem(401, "INVALID_CLIENT", "Unauthorized", detail))
        if call.header("X-CorAPI-Target-ID") not in self.banks:
            detail = "The client may not use this target, or there is no such target."
            return _Outcome(problem(403, "INSUFFICIENT_PRIVILEGES", "Forbidden", detail))
        return None

    def _record(
        self, operation: str | None, path: str, call: Call, outcome: _Outcome, reply: Response
    ) -> None:
        judged = self.judged and operation is not None
        violations = self.contract.response_violations(path, call, reply) if judged else ()
        exchange = Exchange(
            operation=operation,
            target_id=call.header("X-CorAPI-Target-ID"),
            client_id=self.clients.get(call.certificate),
            correlation_id=call.header("X-Correlation-ID"),
            method=call.method,
            path=call.path,
            request_headers=self.fingerprints.of_headers(call.headers),
            form=self.fingerprints.of_form(call.form),
            status=reply.status,
            response_headers=self.fingerprints.of_headers(reply.headers),
            executed=outcome.executed,
            fault=outcome.fault.name if outcome.fault else None,
            request_violations=outcome.violations,
            violations=violations,
            at=self.now(),
        )
        self.record.add(exchange)


def _contract_path(path: str) -> str:
    """Turn the path of a request into the path of an operation, or into none."""
    if path == ACCOUNT_INFORMATION + LIST_ACCOUNTS:
        return LIST_ACCOUNTS
    relative = path.removeprefix(CONSENT_FLOW)
    return "" if relative in {path, LIST_ACCOUNTS} else relative


def _accepts_json(values: Sequence[str]) -> bool:
    """Tell whether JSON may be sent (RFC 9110 section 12.5.1); no Accept means anything may."""
    quality: dict[str, bool] = {}
    for part in ",".join(values).lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        quality[media_range] = not any(weight.strip("0.") == "" for weight in weights)
    if not ",".join(values).strip():
        return True
    # The more specific range decides.
    for media_range in ("application/json", "application/*", "*/*"):
        if media_range in quality:
            return quality[media_range]
    return False


def _bad_request(kind: str, broken: tuple[str, ...]) -> Response:
    return problem(400, kind, "Bad Request", "; ".join(broken))


def _request_token(bank: Bank, client_id: str, call: Call) -> Response:
    username = call.field("username")
    if call.field("grant_type") == "authorization_code":
        outcome = bank.exchange_code(
            client_id, call.field("code"), call.field("redirect_uri"), username
        )
    else:
        outcome = bank.refresh(client_id, call.field("refresh_token"), username)
    if isinstance(outcome, Refusal):
        return oauth_error(outcome.error, outcome.description)
    content: dict[str, object] = {
        "access_token": outcome.access_token,
        "token_type": "bearer",
        "expires_in": outcome.expires_in,
    }
    if outcome.refresh_token is not None:
        content["refresh_token"] = outcome.refresh_token
    return success(content)


def _revoke_token(bank: Bank, client_id: str, call: Call) -> Response:
    refusal = bank.revoke(client_id, call.field("token"), call.field("username"))
    return oauth_error(refusal.error, refusal.description) if refusal else success(None)


def _list_accounts(bank: Bank, client_id: str, call: Call) -> Response:
    scheme, _, token = (call.header("Authorization") or "").partition(" ")
    refusal: Refusal | None
    if scheme.lower() == "bearer" and token:
        refusal = bank.check_access(client_id, token)
    else:
        refusal = Refusal("invalid_token", "There is no bearer token.")
    if refusal is None:
        chosen = bank.accounts(token)
        shown = [each for each in ACCOUNTS if chosen is None or each["id"] in chosen]
        return success({"accounts": shown}, JSON)
    reply = problem(401, refusal.error.upper(), "Unauthorized", refusal.description, "PROVIDER")
    # RFC 6750 section 3.1 knows one code for both.
    return reply.with_header("WWW-Authenticate", 'Bearer error="invalid_token"')


_OPERATIONS: Mapping[str, Callable[[Bank, str, Call], Response]] = {
    "request_token": _request_token,
    "revoke_token": _revoke_token,
    "list_accounts": _list_accounts,
}
