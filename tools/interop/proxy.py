"""Prism as validating proxy between the client and the sandbox.

    client → relay → Prism → relay → mutual TLS → sandbox

Exchanges that conform must pass without a complaint, and each planted fault must be complained of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, combinations, cycle, product
from typing import Any, get_args
from urllib.parse import parse_qsl

import httpx
import yaml
from attrs import evolve, frozen

from blink_oauth import BlinkError, BlinkOAuth, Grant, Psu, Secret, Token
from blink_oauth.settings import REVOCATION_FIELDS
from blink_oauth.tls import ClientCertificate, ssl_context
from blink_oauth_testing.sandbox import FAULTS, Delivery, Fault, Sandbox
from blink_oauth_testing.sandbox.messages import Response, Source, oauth_error, problem

from .faults import IN_REQUESTS, IN_RESPONSES, NOT_CAUGHT, Call
from .node import Report, Tools
from .relay import Exchange, Message, Relay, serving, unchanged

SOURCES: tuple[Source, ...] = ("PLATFORM", "PROVIDER")
FORMS = ("application/json", "application/problem+json")
ADDRESSES = ("203.0.113.7", "2001:db8::7", "::ffff:203.0.113.7", "::1")
DEVICES = (
    *(Psu(ip=each, user_agent="Mozilla/5.0 (X11; Linux x86_64)") for each in ADDRESSES),
    Psu.AUTO,
)
USERNAMES = (
    *("u-4711", "zoe@books.example", "Zoë & Söhne+1=%", "山田太郎 😀", '"quoted" \\ <b>'),
    *("a=b&c=d;e", "100%25%zz", " blanks around ", "two\r\nlines", "0", "u" * 64, "😀" * 64),
)
# FetchError: Prism could not read the response.
TYPES_OF_PRISM = ("https://stoplight.io/prism/errors", "FetchError")
FAKE = Token(access_token=Secret("fake-access-1"), refresh_token=Secret("fake-refresh-1"))


@frozen
class Line:
    """The client and the sandbox, with Prism and two relays between them."""

    sandbox: Sandbox
    url: str
    client: BlinkOAuth
    before: Relay
    behind: Relay

    def issue(self, grant: Grant, psu: Psu) -> Token:
        """Exchange a new code."""
        uri, known = self.sandbox.redirect_uri, grant.target_id in self.sandbox.banks
        code = self.sandbox.issue_code(grant) if known else "fake-authorization-code-1"
        return self.client.exchange_code(grant, code=code, redirect_uri=uri, psu=psu)


@contextmanager
def connected(tools: Tools) -> Iterator[Line]:
    """Connect the client with the sandbox by way of Prism."""
    with Sandbox() as sandbox:
        certificate = sandbox.settings().certificate
        assert isinstance(certificate, ClientCertificate)
        context = ssl_context(certificate, now=datetime.now(UTC))
        with (
            httpx.Client(base_url=sandbox.base_url, verify=context, trust_env=False) as to_sandbox,
            serving(behind := Relay(to_sandbox)) as upstream,
            tools.prism("proxy", upstream, "--errors") as prism,
            httpx.Client(base_url=prism, trust_env=False) as to_prism,
            serving(before := Relay(to_prism)) as url,
            BlinkOAuth(sandbox.settings(base_url=url, allow_plain_http=True)) as client,
        ):
            yield Line(sandbox, url, client, before, behind)


def check(tools: Tools) -> Report:
    """Run every exchange and every fault."""
    contract = yaml.safe_load(tools.contract.read_text("utf-8"))
    with connected(tools) as line:
        complaints = list(succeed(line))
        fail(line, errors(contract))
        complaints += [*violations(line), *not_covered(line, contract)]
        exchanges = len(line.before.exchanges)
        outcomes = list(plant(line))
    faults = {each.fault for each in outcomes if each.breaks}
    missed = {each.fault for each in outcomes if each.breaks and not each.said}
    conforming = {each.fault: each.said for each in outcomes if not each.breaks}
    complaints += [f"not caught: {fault}" for fault in sorted(missed - NOT_CAUGHT.keys())]
    complaints += [
        f"caught, although faults.py says it cannot be: {fault}"
        for fault in sorted(NOT_CAUGHT.keys() - missed)
    ]
    complaints += [f"{fault} conforms, but: {said}" for fault, said in conforming.items() if said]
    caught = f"caught {len(faults - missed)} of {len(faults)} planted faults"
    left_out = sorted(FAULTS.keys() - faults - conforming.keys())
    notes = [
        *(f"not caught: {fault}. {reason}." for fault, reason in NOT_CAUGHT.items()),
        f"permitted by the contract, and by Prism: {', '.join(conforming)}",
        "not planted, since Prism follows redirects and reads whole responses: "
        + ", ".join(left_out),
    ]
    return Report(f"proxy --errors: {exchanges} exchanges; {caught}", complaints, notes)


def succeed(line: Line) -> Iterator[str]:
    """Exchange, refresh and revoke: each source, device, name and form; yield what failed."""
    calls = zip(product(SOURCES, DEVICES, USERNAMES), cycle(subsets(REVOCATION_FIELDS)))
    for (source, device, name), fields in calls:
        line.sandbox.fail(Fault("from-a-source", executes=True, change=_from(source)), times=4)
        grant = line.sandbox.grant(username=name)
        settings = line.sandbox.settings(
            base_url=line.url, allow_plain_http=True, revocation_fields=fields
        )
        try:
            token = line.issue(grant, device)
            newer = line.client.refresh(grant, token.refresh_token or "", psu=device)
            with BlinkOAuth(settings) as client:
                client.revoke(grant, newer, psu=device)
        except BlinkError as error:
            yield f"a call for {device} that should succeed: {error}"


def subsets(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield each choice of some, all or none of the names."""
    return chain.from_iterable(combinations(names, count) for count in range(len(names) + 1))


def fail(line: Line, responses: Iterable[Response]) -> None:
    """Get each error response on each call, after those that the sandbox makes by itself."""
    unknown = Grant(target_id="IIDX99999", username="u-4711")
    for kind in get_args(Call):
        call(line, kind, unknown)
        call(line, kind)
    for response in responses:
        asked_for = Fault("asked-for", executes=False, change=_instead(response))
        line.sandbox.fail(asked_for, times=4)
        for kind in get_args(Call):
            call(line, kind)


def call(line: Line, kind: Call, grant: Grant | None = None) -> None:
    """Make one call, which may fail; a revocation is two requests."""
    grant, psu = grant or line.sandbox.grant(), DEVICES[0]
    with suppress(BlinkError):
        if kind == "refuse":
            line.client.refresh(grant, FAKE.refresh_token or "", psu=psu)
        elif kind == "revoke":
            line.client.revoke(grant, FAKE, psu=psu)
        else:
            line.issue(grant, psu)


def errors(contract: dict[str, Any]) -> Iterator[Response]:
    """Yield each error status with each source and each form of the body."""
    for status, source in product(sorted(_statuses(contract) - {200}), SOURCES):
        yield problem(status, "TECHNICAL_ERROR", "Fault", "As asked for.", source)
        error = evolve(oauth_error("server_error", "As asked for."), status=status)
        yield error.with_header("X-CorAPI-Source", source)


def _statuses(contract: dict[str, Any]) -> set[int]:
    return {int(status) for status in contract["paths"]["/oauth/token"]["post"]["responses"]}


def _from(source: Source) -> Callable[[Response], Response]:
    return lambda usual: usual.with_header("X-CorAPI-Source", source)


def _instead(response: Response) -> Callable[[Response], Response]:
    return lambda usual: response.with_header(
        "X-Correlation-ID", usual.header("X-Correlation-ID") or ""
    )


def complaint(response: Message) -> str:
    """Return what Prism says about an exchange, or an empty text."""
    own = json.loads(response.body) if b'"type":' in response.body else {}
    if not str(own.get("type")).startswith(TYPES_OF_PRISM):
        own = {}
    found = json.loads(response.header("sl-violations") or "[]") or own.get("validation", [])
    texts = [
        ": ".join([".".join(each.get("location", ["all"])), each["message"]]) for each in found
    ]
    return "; ".join(texts) or str(own.get("title", ""))


def violations(line: Line) -> Iterator[str]:
    """Yield each complaint of Prism and of the sandbox, and each response that Prism replaced."""
    for each in line.before.exchanges:
        if text := complaint(each.response):
            yield f"{each.path} {each.response.status}: {text}"
    if len(line.before.exchanges) != len(line.behind.exchanges):
        yield "Prism did not pass every request."
    for outer, inner in zip(line.before.exchanges, line.behind.exchanges, strict=False):
        if outer.response.status != inner.response.status:
            yield f"{outer.path}: Prism made {outer.response.status} of {inner.response.status}."
    for seen in line.sandbox.exchanges:
        for text in (*seen.request_violations, *seen.response_violations):
            yield f"the sandbox: {seen.operation} {seen.status}: {text}"


def not_covered(line: Line, contract: dict[str, Any]) -> Iterator[str]:
    """Yield each kind of exchange that was promised and did not happen."""
    seen = {
        (each.path, each.response.status, each.response.header("X-CorAPI-Source"), _form(each))
        for each in line.behind.exchanges
    }
    statuses = sorted(_statuses(contract) - {200})
    wanted = {*product(contract["paths"], statuses, SOURCES, FORMS)}
    wanted |= {*product(["/oauth/token"], [200], SOURCES, [FORMS[0]])}
    wanted |= {*product(["/oauth/revoke"], [200], SOURCES, [""])}
    yield from (f"no exchange was {each}" for each in sorted(wanted - seen))
    form = contract["components"]["schemas"]["RevokeRequest"]
    optional = form["properties"].keys() - {*form["required"]}
    revoked = {
        frozenset(_fields(each)) for each in line.behind.exchanges if each.response.status == 200
    }
    for chosen in subsets(optional):
        if {*form["required"], *chosen} not in revoked:
            yield f"no revocation had the optional fields {sorted(chosen)}"


def _fields(exchange: Exchange) -> dict[str, str]:
    return dict(parse_qsl(exchange.request.body.decode()))


def _form(exchange: Exchange) -> str:
    return exchange.response.header("Content-Type").partition(";")[0]


@frozen
class Outcome:
    """A fault, and what Prism said about it.

    Attributes:
        fault: Its name.
        breaks: Whether it breaks the contract, as the sandbox's own validator says.
        said: What Prism said; empty if it let it pass.
    """

    fault: str
    breaks: bool
    said: str


def plant(line: Line) -> Iterator[Outcome]:
    """Plant each fault: those of the sandbox, then those of the relays."""
    for fault in FAULTS.values():
        # Prism would follow the redirect, to another machine.
        if fault.delivery == Delivery() and fault.name != "redirect":
            line.sandbox.fail(fault, operation="request_token")
            said = _said(line, "issue")
            breaks = bool(line.sandbox.exchanges[-1].response_violations)
            yield Outcome(fault.name, breaks, said)
    for planted in IN_REQUESTS:
        line.before.change_request = planted.change
        yield Outcome(planted.name, True, _said(line, planted.call))
    line.before.change_request = unchanged
    for planted in IN_RESPONSES:
        line.behind.change_response = planted.change
        yield Outcome(planted.name, True, _said(line, planted.call))


def _said(line: Line, kind: Call) -> str:
    """Make a call, and return what Prism says about its last exchange."""
    before = len(line.before.exchanges)
    call(line, kind)
    made = line.before.exchanges[before:]
    return complaint(made[-1].response) if made else ""
