"""What `GrantAuth` does with each response of a bank's API, in both clients of httpx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from attrs import field, frozen

from blink_oauth import BlinkError, Grant, InvalidGrantError, NotConnectedError
from blink_oauth_keeper import ConsentNeededError, StoreError, UnknownGrantError
from flavours import FLAVOURS, Flavour
from keeper.bank_api import URL, BankApi, PreparedResponse, redirect, request, unauthorized
from keeper.harness import PSU, TARGET, Harness, connection_refused, status_response

BOTH = pytest.mark.parametrize("flavour", FLAVOURS)
REFRESHABLE_AGE = 120.0
"""Seconds after which a refused token is worth a refresh."""
OTHER_ORIGIN = "https://other.invalid/accounts"


def nothing(harness: Harness, grant: Grant) -> None:
    """Do nothing."""


def refreshed_by_another_process(harness: Harness, grant: Grant) -> None:
    """Refresh the token with another manager on the same store."""
    other = harness.make_manager()
    other.invalidate(grant, other.get(grant))
    other.get(grant)


@frozen
class Case:
    """The handling of one request.

    Attributes:
        responses: The responses of the bank's API in turn; 200 after that.
        status: The status that the caller gets.
        requests: How many requests reach the bank's API.
        refreshes: How many refreshes reach the token endpoint.
        options: The options of the request.
        age: Seconds since the token was issued.
        before: Is called before the request.
        next_refreshes: How many refreshes the next request costs.
    """

    responses: list[PreparedResponse]
    status: int = 200
    requests: int = 1
    refreshes: int = 0
    options: dict[str, Any] = field(factory=dict)
    age: float = REFRESHABLE_AGE
    before: Callable[[Harness, Grant], None] = nothing
    next_refreshes: int = 0


POST: dict[str, Any] = {"method": "POST", "json": {"amount": "1.00"}}
PROBLEM = {"Content-Type": "application/problem+json"}
STREAM: dict[str, Any] = {"method": "POST", "streaming": True}

TABLE: dict[str, Callable[[], Case]] = {
    "the token is accepted": lambda: Case([]),
    "401 once": lambda: Case([unauthorized()], requests=2, refreshes=1),
    "401 once to a request with a body": lambda: Case(
        [unauthorized()], requests=2, refreshes=1, options=POST
    ),
    "401 always": lambda: Case(
        [unauthorized(), unauthorized()], status=401, requests=2, refreshes=1
    ),
    "401 to a token that was just issued": lambda: Case([unauthorized()], status=401, age=10),
    "403": lambda: Case([httpx.Response(403)], status=403),
    "403 invalid_token": lambda: Case(
        [httpx.Response(403, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})],
        status=403,
    ),
    "401 invalid_token": lambda: Case(
        [unauthorized('Bearer realm="bank", error="invalid_token", error_description="expired"')],
        requests=2,
        refreshes=1,
    ),
    "401 invalid_token in the second of two challenges": lambda: Case(
        [unauthorized('Basic realm="a, b", Bearer Error=Invalid_Token')], requests=2, refreshes=1
    ),
    "401 insufficient_scope": lambda: Case(
        [unauthorized('Bearer error="insufficient_scope"')], status=401
    ),
    "401 invalid_request with invalid_token in its description": lambda: Case(
        [
            unauthorized(
                'Bearer error="invalid_request", error_description="no error=\\"invalid_token\\""'
            )
        ],
        status=401,
    ),
    "401 with a challenge without an error": lambda: Case(
        [unauthorized('Bearer realm="error=none"')], requests=2, refreshes=1
    ),
    "401 with the problem EXPIRED_TOKEN": lambda: Case(
        [unauthorized(problem="/problems/EXPIRED_TOKEN")], requests=2, refreshes=1
    ),
    "401 with the problem invalid_token in lower case": lambda: Case(
        [unauthorized(problem="/problems/invalid_token")], requests=2, refreshes=1
    ),
    "401 with another problem": lambda: Case(
        [unauthorized(problem="/problems/INSUFFICIENT_PRIVILEGES")], status=401
    ),
    "401 with the problem about:blank": lambda: Case(
        [unauthorized(problem="about:blank")], requests=2, refreshes=1
    ),
    "401 invalid_token with another problem": lambda: Case(
        [unauthorized('Bearer error="invalid_token"', problem="/problems/OTHER")],
        requests=2,
        refreshes=1,
    ),
    "401 with a problem that is not JSON": lambda: Case(
        [httpx.Response(401, headers=PROBLEM, content=b"<html>")],
        requests=2,
        refreshes=1,
    ),
    "401 with a problem that is nested too deeply": lambda: Case(
        [httpx.Response(401, headers=PROBLEM, content=b"[" * 100_000)], requests=2, refreshes=1
    ),
    "401 with a problem that is a list": lambda: Case(
        [httpx.Response(401, headers=PROBLEM, json=["type"])],
        requests=2,
        refreshes=1,
    ),
    "401 with a member type in a body that is no problem": lambda: Case(
        [unauthorized(json={"type": "error", "message": "expired"})], requests=2, refreshes=1
    ),
    "401 to a request with a streamed body": lambda: Case(
        [unauthorized()], status=401, options=STREAM, next_refreshes=1
    ),
    "200 to a request with a streamed body": lambda: Case([], options=STREAM),
    "401 after another process has refreshed": lambda: Case(
        [unauthorized()], requests=2, refreshes=1, before=refreshed_by_another_process
    ),
    "401 after a redirect within the origin": lambda: Case(
        [redirect("/v2/accounts"), unauthorized()], requests=3, refreshes=1
    ),
    "401 after a redirect to another origin": lambda: Case(
        [redirect(OTHER_ORIGIN), unauthorized()], status=401, requests=2
    ),
    "401 after a redirect to another origin and back": lambda: Case(
        [redirect(OTHER_ORIGIN), redirect(URL), unauthorized()], status=401, requests=3
    ),
    "401 after a redirect that turned a POST into a GET": lambda: Case(
        [redirect("/payments/1", 303), unauthorized()], requests=3, refreshes=1, options=POST
    ),
}


@BOTH
@pytest.mark.parametrize("name", TABLE)
def test_each_response_of_the_bank_is_handled_as_the_table_says(
    name: str, flavour: Flavour, harness: Harness
) -> None:
    case = TABLE[name]()
    manager, grant = harness.manager, harness.authorize()
    manager.get(grant)
    harness.advance(case.age)
    case.before(harness, grant)
    api, auth = BankApi(case.responses), manager.auth(grant, psu=PSU)

    response = request(flavour, auth, api, **case.options)

    assert response.status_code == case.status
    assert len(api.requests) == case.requests
    assert len(harness.banks.presented()) == case.refreshes
    assert len({sent.bearer for sent in api.requests if sent.bearer}) == 1 + (case.refreshes > 0)
    assert response.read() is not None
    assert request(flavour, auth, api).status_code == 200
    assert len(harness.banks.presented()) == case.refreshes + case.next_refreshes
    assert harness.record(grant).generation == 1 + case.refreshes + case.next_refreshes


@BOTH
def test_each_request_keeps_a_correlation_id_of_its_own(flavour: Flavour, harness: Harness) -> None:
    grant = harness.authorize()
    harness.advance(REFRESHABLE_AGE)
    api = BankApi([unauthorized(text="no")])
    response = request(flavour, harness.manager.auth(grant, psu=PSU), api)
    (refused,) = response.history
    attempts = [refused.request.headers, response.request.headers]
    assert [one["X-Correlation-ID"] for one in attempts] == [s.correlation_id for s in api.requests]
    assert [one["Authorization"] for one in attempts] == [
        f"Bearer {s.bearer}" for s in api.requests
    ]
    assert len({sent.correlation_id for sent in api.requests}) == 2
    assert refused.text == "no"


@BOTH
def test_the_second_request_differs_only_in_token_and_correlation_id(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    harness.advance(REFRESHABLE_AGE)
    api = BankApi([unauthorized()])
    response = request(
        flavour,
        harness.manager.auth(grant, psu=PSU),
        api,
        method="PUT",
        json={"amount": "1.00"},
        headers={"Idempotency-Key": "key-1", "Cookie": "session=fake"},
        params={"page": "2"},
        timeout=1.25,
    )
    first, second = api.requests
    ours = {"authorization", "x-correlation-id"}
    assert first.headers.keys() == second.headers.keys()
    for name in first.headers.keys() - ours:
        assert first.headers[name] == second.headers[name], name
    assert (first.method, first.url, first.body) == (second.method, second.url, second.body)
    assert second.body == response.request.content
    assert second.headers["Idempotency-Key"] == "key-1"
    assert response.request.extensions["timeout"]["read"] == 1.25


@BOTH
def test_after_a_redirected_post_only_the_refused_get_is_sent_again(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    harness.advance(REFRESHABLE_AGE)
    api = BankApi([redirect("/payments/1", 303), unauthorized()])
    request(flavour, harness.manager.auth(grant, psu=PSU), api, **POST)
    assert [sent.method for sent in api.requests] == ["POST", "GET", "GET"]


@BOTH
def test_a_redirect_to_another_origin_removes_only_the_token(
    flavour: Flavour, harness: Harness
) -> None:
    # httpx does not call the auth for a redirect; the docstring of GrantAuth promises this.
    api = BankApi([redirect(OTHER_ORIGIN)])
    request(flavour, harness.manager.auth(harness.authorize(), psu=PSU), api)
    first, second = api.requests
    assert first.bearer
    assert not second.bearer
    assert "Authorization" not in second.headers
    assert second.headers["X-PSU-IP-Address"] == PSU.ip
    assert second.correlation_id == first.correlation_id


@BOTH
def test_httpx_follows_no_redirect_unless_asked(flavour: Flavour, harness: Harness) -> None:
    api = BankApi([redirect(OTHER_ORIGIN)])
    auth = harness.manager.auth(harness.authorize(), psu=PSU)
    response = request(flavour, auth, api, follow_redirects=False)
    assert response.status_code == 307
    assert len(api.requests) == 1


def unknown(harness: Harness) -> Grant:
    return Grant(TARGET, "u-unknown")


def revoked(harness: Harness) -> Grant:
    grant = harness.authorize()
    harness.manager.revoke(grant)
    return grant


def not_refreshable(harness: Harness) -> Grant:
    harness.banks.respond_always(connection_refused)
    return harness.expired_grant()


def store_unavailable(harness: Harness) -> Grant:
    harness.faulty.fail()
    return Grant(TARGET, "u-4711")


NO_TOKEN: dict[str, tuple[Callable[[Harness], Grant], type[BlinkError]]] = {
    "no token was ever stored": (unknown, UnknownGrantError),
    "the grant is revoked": (revoked, ConsentNeededError),
    "the token has expired and the refresh fails": (not_refreshable, NotConnectedError),
    "the store is unavailable": (store_unavailable, StoreError),
}


@BOTH
@pytest.mark.parametrize("name", NO_TOKEN)
def test_nothing_is_sent_without_a_token(name: str, flavour: Flavour, harness: Harness) -> None:
    prepare, expected = NO_TOKEN[name]
    auth, api = harness.manager.auth(prepare(harness), psu=PSU), BankApi()
    with pytest.raises(expected) as caught:
        request(flavour, auth, api)
    assert api.requests == []
    assert not hasattr(caught.value, "__notes__")


@BOTH
def test_an_expired_token_is_refreshed_before_the_request_is_sent(
    flavour: Flavour, harness: Harness
) -> None:
    grant, api = harness.expired_grant(), BankApi()
    assert request(flavour, harness.manager.auth(grant, psu=PSU), api).status_code == 200
    (sent,) = api.requests
    assert sent.bearer == harness.manager.get(grant).access_token.reveal()
    assert [request.psu_ip for request in harness.banks.requests] == [PSU.ip, PSU.ip]


NO_NEWER_TOKEN: dict[str, tuple[Any, type[BlinkError], bool]] = {
    "consent is needed": (
        status_response(400, {"error": "invalid_grant"}),
        InvalidGrantError,
        True,
    ),
    "the platform is unavailable": (connection_refused, NotConnectedError, False),
}


@BOTH
@pytest.mark.parametrize("name", NO_NEWER_TOKEN)
def test_a_failed_refresh_after_a_401_raises_an_error_that_mentions_the_401(
    name: str, flavour: Flavour, harness: Harness
) -> None:
    responder, expected, needs_consent = NO_NEWER_TOKEN[name]
    grant = harness.authorize()
    harness.advance(REFRESHABLE_AGE)
    harness.banks.respond_always(responder)
    api, auth = BankApi([unauthorized(), unauthorized()]), harness.manager.auth(grant, psu=PSU)
    with pytest.raises(expected) as caught:
        request(flavour, auth, api)
    assert caught.value.needs_consent is needs_consent
    (note,) = caught.value.__notes__
    assert "401" in note
    assert "not executed" in note
    assert len(api.requests) == 1


@BOTH
def test_after_a_failed_refresh_the_refused_token_is_not_sent_again(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    harness.advance(REFRESHABLE_AGE)
    harness.banks.respond_always(status_response(429, Retry_After="600"))
    api, auth = BankApi([unauthorized()]), harness.manager.auth(grant, psu=PSU)
    for _ in range(3):
        with pytest.raises(BlinkError):
            request(flavour, auth, api)
    assert len(api.requests) == len(harness.banks.presented()) == 1


@BOTH
@pytest.mark.parametrize("streamed", [False, True])
def test_the_body_of_a_returned_401_can_be_read(
    flavour: Flavour, streamed: bool, harness: Harness
) -> None:
    grant = harness.authorize()
    api = BankApi([unauthorized(problem="/problems/OTHER")])
    auth = harness.manager.auth(grant, psu=PSU)
    assert read(flavour, auth, api, streamed)["type"] == "/problems/OTHER"


def read(flavour: Flavour, auth: Any, api: BankApi, streamed: bool) -> dict[str, Any]:
    """Read the body of a response, in chunks or at once."""

    async def chunks() -> bytes:
        async with (
            httpx.AsyncClient(auth=auth, transport=api) as client,
            client.stream("GET", URL) as response,
        ):
            return b"".join([chunk async for chunk in response.aiter_bytes()])

    if not streamed:
        return dict(request(flavour, auth, api).json())
    if flavour == "async":
        return dict(json.loads(asyncio.run(chunks())))
    with (
        httpx.Client(auth=auth, transport=api) as client,
        client.stream("GET", URL) as response,
    ):
        return dict(json.loads(b"".join(response.iter_bytes())))


def test_the_body_of_a_streamed_401_without_a_problem_is_left_unread(harness: Harness) -> None:
    transport = BankApi([unauthorized(content=b"raw")])
    auth = harness.manager.auth(harness.authorize(), psu=PSU)
    with (
        httpx.Client(auth=auth, transport=transport) as client,
        client.stream("GET", URL) as response,
    ):
        assert b"".join(response.iter_raw()) == b"raw"


def test_the_auth_of_a_second_manager_uses_the_token_that_the_first_one_refreshed(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    first, second = harness.manager, harness.make_manager()
    assert second.get(grant) == first.get(grant)
    harness.advance(REFRESHABLE_AGE)
    for manager in (first, second):
        api = BankApi([unauthorized()])
        assert request("sync", manager.auth(grant, psu=PSU), api).status_code == 200
    assert len(harness.banks.presented()) == 1
