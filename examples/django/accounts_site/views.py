"""The pages."""

import hashlib
import re
from contextlib import suppress
from typing import Any

import httpx
from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from blink_oauth import AuthorizationRequest, FailedCallback, Grant, Psu
from blink_oauth_keeper import UnknownGrantError

from .middleware import failure_page, to_failure
from .tokens import manager


def own_grant(request: HttpRequest, target_id: str) -> Grant:
    """Return the customer's own grant: no part of a request names another customer."""
    return Grant(target_id, request.session["username"])


def psu_of(request: HttpRequest) -> Psu:
    return Psu(ip=request.META["REMOTE_ADDR"], user_agent=request.headers.get("User-Agent"))


def is_connected(grant: Grant) -> bool:
    try:
        return not manager().status(grant).needs_consent
    except UnknownGrantError:
        return False


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    if "username" not in request.session:
        return render(request, "sign_in.html")
    connected = [each for each in settings.BANKS if is_connected(own_grant(request, each))]
    return render(request, "banks.html", {"connected": connected})


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in without a password: this stands for your application's own login."""
    username = request.POST.get("username", "")
    if not re.fullmatch(r"[\w.@+-]{1,64}", username):
        return HttpResponseBadRequest("This is no user name.")
    request.session.flush()
    request.session["username"] = username
    return redirect("/")


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return redirect("/")


@require_POST
def connect(request: HttpRequest, target_id: str) -> HttpResponse:
    """Lead the customer to the bank; ask first if a second consent may end the first."""
    grant = own_grant(request, target_id)
    if "confirmed" not in request.POST and is_connected(grant):
        return render(request, "confirm.html")
    values = (manager().client_id, grant, settings.REDIRECT_URI)
    asked = AuthorizationRequest.new(*values, key=settings.SECRET_KEY)
    key = login_key(grant.username, asked.state.reveal())
    cache.set(key, target_id, timeout=settings.SESSION_COOKIE_AGE)
    return redirect(asked.url(settings.AUTHORIZE_URL))


@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """Exchange the code. All ways end with a redirect, so that it leaves the address bar."""
    state = request.GET.get("state", "")
    key = login_key(request.session["username"], state)
    target_id = cache.get(key)
    # Of two requests only one deletes it: a code that a bank gets twice is revoked.
    if target_id is None or not cache.delete(key):
        return to_failure(request, reason="unknown")
    request.session["target_id"] = target_id  # For the page of an error.
    values = (manager().client_id, own_grant(request, target_id), settings.REDIRECT_URI)
    asked = AuthorizationRequest.restore(*values, state=state, key=settings.SECRET_KEY)
    result = asked.read_callback(request.META["QUERY_STRING"])
    if isinstance(result, FailedCallback):
        return to_failure(request, reason=result.reason)
    uri, psu = settings.REDIRECT_URI, psu_of(request)
    manager().authorize(asked.grant, code=result.code, redirect_uri=uri, psu=psu)
    return redirect(f"/banks/{target_id}/accounts")


def login_key(username: str, state: str) -> str:
    """Return the key of a login: who has read it can neither use the state nor name anybody."""
    return hashlib.sha256(f"{state} {username}".encode()).hexdigest()


@require_GET
def failed(request: HttpRequest) -> HttpResponse:
    values: dict[str, Any] | None = request.session.pop("failure", None)
    return failure_page(request, values) if values else redirect("/")


@require_GET
def accounts(request: HttpRequest, target_id: str) -> HttpResponse:
    auth = manager().auth(own_grant(request, target_id), psu=psu_of(request))
    response = manager().client().get(settings.ACCOUNTS_URL, auth=auth)
    response.raise_for_status()
    try:
        found = list(response.json()["accounts"])
    except (ValueError, LookupError, TypeError):
        raise httpx.DecodingError("These are no accounts.", request=response.request) from None
    return render(request, "accounts.html", {"accounts": found})


@require_POST
def disconnect(request: HttpRequest, target_id: str) -> HttpResponse:
    manager().revoke(own_grant(request, target_id), psu=psu_of(request))
    return redirect("/")


@require_POST
def forget(request: HttpRequest) -> HttpResponse:
    """Disconnect all banks, and delete what the store has of the customer."""
    for target_id in settings.BANKS:
        with suppress(UnknownGrantError):
            manager().forget(own_grant(request, target_id), psu=psu_of(request))
    request.session.flush()
    return redirect("/")
