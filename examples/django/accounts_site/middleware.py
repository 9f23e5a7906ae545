"""What all pages have in common, and what customer and log are told of an error."""

import logging
from collections.abc import Callable
from typing import Any

import httpx
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from blink_oauth import BlinkError, answer_to

# No form-action: browsers apply it also to the redirect from our form to the bank.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def of_every_page(request: HttpRequest) -> dict[str, Any]:
    target_id = target_of(request)
    values = {"username": request.session.get("username"), "banks": settings.BANKS}
    return values | {"target_id": target_id, "bank": settings.BANKS.get(target_id)}


def target_of(request: HttpRequest) -> str | None:
    """Return the bank of a page: that of its address, or of the last callback."""
    known = request.resolver_match.kwargs if request.resolver_match else {}
    return known.get("target_id") or request.session.get("target_id")


class PageMiddleware:
    """Guards all views, answers their errors, and forbids browsers to store a page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response["Cache-Control"] = "no-store"
        response["Content-Security-Policy"] = POLICY
        if request.path == "/callback":
            response["Referrer-Policy"] = "no-referrer"
        return response

    def process_view(
        self, request: HttpRequest, _view: object, _args: object, kwargs: dict[str, str]
    ) -> HttpResponse | None:
        """Lead anyone who is not signed in to the sign-in."""
        if request.path not in ("/", "/sign-in") and "username" not in request.session:
            return redirect("/")
        if kwargs and kwargs["target_id"] not in settings.BANKS:
            raise Http404
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Tell the customer what to do next, and the log what happened."""
        values: dict[str, Any] = {"status": 502}
        if isinstance(error, BlinkError):
            answer = answer_to(error)
            values = {"status": answer.status, "retry_after": answer.headers.get("Retry-After")}
        elif isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            values = {"status": 403}
        elif not isinstance(error, httpx.HTTPError):
            return None
        logging.getLogger(__name__).warning("%s: %s", type(error).__name__, error)
        is_callback = request.path == "/callback"
        return to_failure(request, **values) if is_callback else failure_page(request, values)


def to_failure(request: HttpRequest, status: int = 400, **values: Any) -> HttpResponse:
    """Redirect from the callback, so that the code leaves the address bar."""
    request.session["failure"] = {"status": status, "connecting": True, **values}
    return redirect("/failed")


def failure_page(request: HttpRequest, values: dict[str, Any]) -> HttpResponse:
    page = render(request, "failure.html", values, status=values["status"])
    if values.get("retry_after"):
        page["Retry-After"] = values["retry_after"]
    return page
