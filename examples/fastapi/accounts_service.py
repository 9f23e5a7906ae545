"""A web application whose customers connect their banks; docs/how-to/fastapi.md explains it."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Annotated, Any, cast

import httpx
from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.sessions import SessionMiddleware

from blink_oauth import (
    AuthorizationRequest,
    BlinkError,
    BlinkOAuth,
    FailedCallback,
    Grant,
    Psu,
    Secret,
    Settings,
    answer_to,
)
from blink_oauth_keeper import KeyFile, SqlTokenStore, TokenManager, UnknownGrantError

AUTHORIZE_URL = os.environ["BLINK_AUTHORIZE_URL"]
ACCOUNTS_URL = os.environ["BLINK_ACCOUNTS_URL"]
REDIRECT_URI = os.environ.get("BLINK_REDIRECT_URI", "http://127.0.0.1:8000/callback")
STORE = os.environ["BLINK_STORE"]
KEYS_FILE = os.environ.get("BLINK_STORE_KEYS_FILE") or f"{STORE}.keys"
LOGINS = os.environ.get("APP_LOGINS") or Path(KEYS_FILE).with_name("logins.db")
SECRET = Secret(os.environ["APP_SECRET"], what="secret of the application")
SESSION_SECONDS = 3600
# The banks of the sandbox. Yours are in bLink's directory.
BANKS = {"IIDX00001": "Musterbank Streng", "IIDX00002": "Musterbank Mild"}
HEADERS = {
    "Cache-Control": "no-store",
    # No form-action: browsers apply it also to the redirect from our form to the bank.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
templates = Jinja2Templates(Path(__file__).parent / "templates")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open one manager for the process; at the end it finishes the refreshes in progress."""
    store = SqlTokenStore(STORE if "://" in STORE else Path(STORE), keys=KeyFile(KEYS_FILE))
    with BlinkOAuth(Settings.from_env()) as blink:
        async with TokenManager(blink, store) as manager:
            yield {"manager": manager}


app = FastAPI(lifespan=lifespan, openapi_url=None)
# Lax: the bank's redirect comes from another site, and with Strict it would have no session.
app.add_middleware(
    SessionMiddleware,
    secret_key=SECRET.reveal(),
    max_age=SESSION_SECONDS,
    same_site="lax",
    https_only=REDIRECT_URI.startswith("https:"),
)


@app.middleware("http")
async def protect(request: Request, call_next: RequestResponseEndpoint) -> Response:
    # Browsers send Sec-Fetch-Site over https and to this machine; no page can change it (CSRF).
    own = request.method != "POST" or request.headers.get("Sec-Fetch-Site") == "same-origin"
    response = await call_next(request) if own else Response("Form of another site", 403)
    response.headers.update(HEADERS)
    return response


def cut_query(record: logging.LogRecord) -> bool:
    """Remove the query from a line of the access log: that of the callback has the code."""
    if isinstance(record.args, tuple):
        texts = (re.sub(r"\?\S*", "", a) if isinstance(a, str) else a for a in record.args)
        record.args = tuple(texts)
    return True


logging.getLogger("uvicorn.access").addFilter(cut_query)


def manager_of(request: Request) -> TokenManager:
    return cast("TokenManager", request.state.manager)


def username_of(request: Request) -> str:
    """Return who is signed in; lead anyone else to the sign-in."""
    if "username" not in request.session:
        raise HTTPException(303, headers={"Location": "/"})
    return str(request.session["username"])


def grant_of(target_id: str, username: Annotated[str, Depends(username_of)]) -> Grant:
    """Return the customer's own grant: no part of a request names another customer."""
    if target_id not in BANKS:
        raise HTTPException(404)
    return Grant(target_id, username)


def psu_of(request: Request) -> Psu:
    return Psu(request.client.host if request.client else "", request.headers.get("User-Agent"))


Manager = Annotated[TokenManager, Depends(manager_of)]
Username = Annotated[str, Depends(username_of)]
OwnGrant = Annotated[Grant, Depends(grant_of)]
Device = Annotated[Psu, Depends(psu_of)]


def page(request: Request, name: str, **values: Any) -> Response:
    headers, bank = values.get("headers", {}), BANKS.get(values.get("target_id", ""))
    values |= {"username": request.session.get("username"), "banks": BANKS, "bank": bank}
    values["retry_after"] = headers.get("Retry-After")
    return templates.TemplateResponse(request, name, values, values.get("status", 200), headers)


async def is_connected(manager: TokenManager, grant: Grant) -> bool:
    try:
        return not (await manager.astatus(grant)).needs_consent
    except UnknownGrantError:
        return False


@app.get("/")
async def home(request: Request, manager: Manager) -> Response:
    if not (username := request.session.get("username")):
        return page(request, "sign_in.html")
    connected = [each for each in BANKS if await is_connected(manager, Grant(each, username))]
    return page(request, "banks.html", connected=connected)


@app.post("/sign-in")
async def sign_in(
    request: Request, username: Annotated[str, Form(pattern=r"^[\w.@+-]{1,64}$")]
) -> Response:
    """Sign in without a password: this stands for your application's own login."""
    request.session.clear()
    request.session["username"] = username
    return RedirectResponse("/", 303)


@app.post("/sign-out")
async def sign_out(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("/", 303)


@app.post("/banks/{target_id}/connect")
async def connect(
    request: Request, grant: OwnGrant, manager: Manager, confirmed: Annotated[bool, Form()] = False
) -> Response:
    """Lead the customer to the bank; ask first if a second consent may end the first."""
    if not confirmed and await is_connected(manager, grant):
        return page(request, "confirm.html", target_id=grant.target_id)
    asked = AuthorizationRequest.new(manager.client_id, grant, REDIRECT_URI, key=SECRET)
    await run_in_threadpool(begin_login, asked)
    return RedirectResponse(asked.url(AUTHORIZE_URL), 303)


@app.get("/callback")
async def callback(request: Request, username: Username, psu: Device, manager: Manager) -> Response:
    """Exchange the code. All ways end with a redirect, so that it leaves the address bar."""
    state = request.query_params.get("state", "")
    target_id = await run_in_threadpool(end_login, username, state)
    if target_id is None:
        return failed(request, reason="unknown")
    request.state.target_id = target_id
    asked = AuthorizationRequest.restore(
        manager.client_id, Grant(target_id, username), REDIRECT_URI, state=state, key=SECRET
    )
    result = asked.read_callback(request.url.query)
    if isinstance(result, FailedCallback):
        return failed(request, reason=result.reason, target_id=target_id)
    await manager.aauthorize(asked.grant, code=result.code, redirect_uri=REDIRECT_URI, psu=psu)
    return RedirectResponse(f"/banks/{target_id}/accounts", 303)


def logins() -> sqlite3.Connection:
    """Open the logins that wait for a callback, for all workers; you have a database for that."""
    database = sqlite3.connect(LOGINS)
    database.execute("CREATE TABLE IF NOT EXISTS logins (id PRIMARY KEY, target_id, until)")
    return database


def login_id(username: str, state: str) -> str:
    """Return the key of a login: who has read it can neither use the state nor name anybody."""
    return hashlib.sha256(f"{state} {username}".encode()).hexdigest()


def begin_login(asked: AuthorizationRequest) -> None:
    now, key = time.time(), login_id(asked.grant.username, asked.state.reveal())
    with closing(logins()) as database, database:
        database.execute("DELETE FROM logins WHERE until < ?", [now])
        values = (key, asked.grant.target_id, now + SESSION_SECONDS)
        database.execute("INSERT INTO logins VALUES (?, ?, ?)", values)


def end_login(username: str, state: str) -> str | None:
    """Return the bank of a customer's login, once: the code must not reach the bank twice."""
    sql = "DELETE FROM logins WHERE id = ? AND until >= ? RETURNING target_id"
    with closing(logins()) as database, database:
        found = database.execute(sql, [login_id(username, state), time.time()]).fetchall()
    return str(found[0][0]) if found else None


@app.get("/banks/{target_id}/accounts")
async def accounts(request: Request, grant: OwnGrant, psu: Device, manager: Manager) -> Response:
    response = await manager.async_client().get(ACCOUNTS_URL, auth=manager.auth(grant, psu=psu))
    response.raise_for_status()
    try:
        found = list(response.json()["accounts"])
    except (ValueError, LookupError, TypeError):
        raise httpx.DecodingError("These are no accounts.", request=response.request) from None
    return page(request, "accounts.html", target_id=grant.target_id, accounts=found)


@app.post("/banks/{target_id}/disconnect")
async def disconnect(grant: OwnGrant, psu: Device, manager: Manager) -> Response:
    await manager.arevoke(grant, psu=psu)
    return RedirectResponse("/", 303)


@app.post("/forget")
async def forget(request: Request, username: Username, psu: Device, manager: Manager) -> Response:
    """Disconnect all banks, and delete what the store has of the customer."""
    for target_id in BANKS:
        with suppress(UnknownGrantError):
            await manager.aforget(Grant(target_id, username), psu=psu)
    request.session.clear()
    return RedirectResponse("/", 303)


@app.exception_handler(BlinkError)
@app.exception_handler(httpx.HTTPError)
async def on_error(request: Request, error: BlinkError | httpx.HTTPError) -> Response:
    """Tell the customer what to do next, and the log what happened."""
    logging.getLogger(__name__).warning("%s: %s", type(error).__name__, error)
    values: dict[str, Any] = {"status": 502}
    if isinstance(error, BlinkError):
        answer = answer_to(error)
        values = {"status": answer.status, "headers": dict(answer.headers)}
    elif isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
        values = {"status": 403}
    known = request.path_params.get("target_id")
    values["target_id"] = known or getattr(request.state, "target_id", None)
    if request.url.path == "/callback":
        return failed(request, **values)
    return page(request, "failure.html", **values)


@app.exception_handler(Exception)
async def on_fault(_: Request, __: Exception) -> Response:
    """Answer any other error, which the server logs, with the headers of all pages."""
    return Response("The fault is ours.", 500, HEADERS)


def failed(request: Request, status: int = 400, **values: Any) -> Response:
    request.session["failure"] = {"status": status, "connecting": True, **values}
    return RedirectResponse("/failed", 303)


@app.get("/failed")
async def failure(request: Request) -> Response:
    values = request.session.pop("failure", None)
    return page(request, "failure.html", **values) if values else RedirectResponse("/", 303)
