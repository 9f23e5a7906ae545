"""The pages."""

import hashlib
import re
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from blink_oauth import AuthorizationRequest, FailedCallback, Grant, Psu
from blink_oauth_keeper import UnknownGrantError

from .errors import SignedOutError, failure_page, to_failure
from .tokens import manager


def of_every_page(request: HttpRequest) -> dict[str, Any]:
    return {"username": request.session.get("username"), "banks": settings.BANKS}


def username_of(request: HttpRequest) -> str:
    """Return who is signed in; lead anyone else to the sign-in."""
    if "username" not in request.session:
        raise SignedOutError
    return str(request.session["username"])


def own_grant(request: HttpRequest, target_id: str) -> Grant:
    """Return the customer's own grant: no part of a request names another customer."""
    username = username_of(request)
    if target_id not in settings.BANKS:
        raise Http404
    return Grant(target_id, username)


def of_bank(target_id: str) -> dict[str, Any]:
    return {"target_id": target_id, "bank": settings.BANKS[target_id]}


def psu_of(request: HttpRequest) -> Psu:
    return Psu(ip=request.META["REMOTE_ADDR"], user_agent=request.headers.get("User-Agent"))


def is_connected(grant: Grant) -> bool:
    try:
        return not manager().status(grant).needs_consent
    except UnknownGrantError:
        return False


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    username = request.session.get("username")
    if username is None:
        return render(request, "sign_in.html")
    connected = [each for each in settings.BANKS if is_connected(Grant(each, username))]
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
        return render(request, "confirm.html", of_bank(target_id))
    asked = AuthorizationRequest.new(
        manager().client_id, grant, settings.REDIRECT_URI, key=settings.SECRET_KEY
    )
    request.session["target_id"] = target_id
    request.session["state"] = asked.state.reveal()
    return redirect(asked.url(settings.AUTHORIZE_URL))


@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """Exchange the code. All ways end with a redirect, so that it leaves the address bar."""
    username = username_of(request)
    state, target_id = request.session.get("state"), request.session.get("target_id", "")
    if state is None:
        return to_failure(request, reason="used")
    grant = Grant(target_id, username)
    asked = AuthorizationRequest.restore(
        manager().client_id, grant, settings.REDIRECT_URI, state=state, key=settings.SECRET_KEY
    )
    result = asked.read_callback(request.META["QUERY_STRING"])
    if not isinstance(result, FailedCallback) or result.answers_request:
        del request.session["state"]  # Else it stays: any site can send a browser here.
    if isinstance(result, FailedCallback):
        return to_failure(request, reason=result.reason, target_id=target_id)
    if not is_first_use(state):
        return to_failure(request, reason="used")
    manager().authorize(
        grant, code=result.code, redirect_uri=settings.REDIRECT_URI, psu=psu_of(request)
    )
    return redirect(f"/banks/{target_id}/accounts")


def is_first_use(state: str) -> bool:
    """Return whether no callback had this state before; with several workers, share the cache.

    A reload during the exchange repeats the request, and a code that a bank gets twice is revoked.
    """
    digest = hashlib.sha256(state.encode()).hexdigest()
    return cache.add(digest, True, timeout=settings.SESSION_COOKIE_AGE)


@require_GET
def failed(request: HttpRequest) -> HttpResponse:
    values = request.session.pop("failure", None)
    return failure_page(request, values) if values else redirect("/")


@require_GET
def accounts(request: HttpRequest, target_id: str) -> HttpResponse:
    auth = manager().auth(own_grant(request, target_id), psu=psu_of(request))
    response = manager().client().get(settings.ACCOUNTS_URL, auth=auth)
    response.raise_for_status()
    found = response.json()["accounts"]
    return render(request, "accounts.html", of_bank(target_id) | {"accounts": found})


@require_POST
def disconnect(request: HttpRequest, target_id: str) -> HttpResponse:
    manager().revoke(own_grant(request, target_id), psu=psu_of(request))
    return redirect("/")
