"""What customer and log are told of an error."""

import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from blink_oauth import BlinkError, answer_to

log = logging.getLogger(__name__)


class SignedOutError(Exception):
    """The page is for customers who are signed in."""


class WithoutQuery(logging.Filter):
    """Removes the query from a line of the access log: that of the callback has the code."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            texts = (re.sub(r"\?\S*", "", a) if isinstance(a, str) else a for a in record.args)
            record.args = tuple(texts)
        return True


class ErrorMiddleware:
    """Answers the errors of all views, and forbids browsers to store a page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers["Cache-Control"] = "no-store"
        # No form-action: browsers apply it also to the redirect from our form to the bank.
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        if request.path == "/callback":
            response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Tell the customer what to do next, and the log what happened."""
        if isinstance(error, SignedOutError):
            return redirect("/")
        values: dict[str, Any] = {"status": 502}
        if isinstance(error, BlinkError):
            answer = answer_to(error)
            values = {"status": answer.status, "headers": dict(answer.headers)}
        elif isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            values = {"status": 403}
        elif not isinstance(error, httpx.HTTPError):
            return None
        log.warning("%s: %s", type(error).__name__, error)
        known = request.resolver_match.kwargs if request.resolver_match else {}
        values["target_id"] = known.get("target_id") or request.session.get("target_id")
        if request.path == "/callback":
            return to_failure(request, **values)
        return failure_page(request, values)


def to_failure(request: HttpRequest, status: int = 400, **values: Any) -> HttpResponse:
    """Redirect from the callback, so that the code leaves the address bar."""
    request.session["failure"] = {"status": status, "connecting": True, **values}
    return redirect("/failed")


def failure_page(request: HttpRequest, values: dict[str, Any]) -> HttpResponse:
    headers, bank = values.get("headers", {}), settings.BANKS.get(values.get("target_id"))
    context = values | {"bank": bank, "retry_after": headers.get("Retry-After")}
    page = render(request, "failure.html", context, status=values["status"])
    for name, value in headers.items():
        page[name] = value
    return page
