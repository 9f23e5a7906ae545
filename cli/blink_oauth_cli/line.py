"""Whether the server is reachable with the certificate, and not without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from blink_oauth.settings import Settings

from .authorities import without_certificate
from .check import Check, doubtful, failed, passed
from .checks_network import Answered, Obstacle, Unanswered, visit

__all__ = ["line_checks"]

REACHABLE, WITHOUT = "reachable", "without_certificate"
UNAUTHENTICATED = frozenset({400, 401, 403})


def line_checks(
    settings: Settings, ours: Answered | Unanswered, clock: Callable[[], datetime]
) -> Iterator[tuple[Check, Answered | None]]:
    """Yield what was found with the certificate and without it, each with the answer behind it.

    Args:
        settings: What the client would use.
        ours: What came of a look with the certificate.
        clock: Tells the present moment, aware UTC.

    Source: RFC 8705 section 2; bLink TLS certificates.
    """
    yield _reachable(settings, ours), ours if isinstance(ours, Answered) else None
    if settings.base_url.startswith("http://"):
        check = doubtful(
            WITHOUT,
            "base_url is plain http: nobody is asked for a certificate, and nothing is encrypted.",
            "Set the https:// URL of the platform.",
        )
        yield check, None
        return
    bare = without_certificate(settings)
    if bare is None or (isinstance(ours, Unanswered) and ours.obstacle is Obstacle.NETWORK):
        check = doubtful(WITHOUT, "It was not tried.", "Make the server reachable first.")
        yield check, None
    else:
        theirs = visit(bare, clock)
        yield _refused(ours, theirs), theirs if isinstance(theirs, Answered) else None


def _reachable(settings: Settings, ours: Answered | Unanswered) -> Check:
    if isinstance(ours, Unanswered):
        return failed(REACHABLE, ours.finding, ours.remedy)
    if ours.status >= 500:
        return doubtful(
            REACHABLE,
            f"{settings.base_url} answers {ours.status}: it is there, and in trouble.",
            "Try again later, and look at the platform's status page.",
        )
    return passed(REACHABLE, f"{settings.base_url} answers ({ours.status}); nothing was spent.")


def _refused(ours: Answered | Unanswered, theirs: Answered | Unanswered) -> Check:
    if isinstance(theirs, Unanswered):
        if theirs.obstacle is Obstacle.REFUSAL:
            return passed(WITHOUT, "Without a certificate the server refuses the connection.")
        return failed(WITHOUT, theirs.finding, theirs.remedy)
    same = isinstance(ours, Answered) and ours.status == theirs.status
    if theirs.status in UNAUTHENTICATED and not same:
        return passed(WITHOUT, f"Without a certificate the server answers {theirs.status}.")
    return doubtful(
        WITHOUT,
        f"Without a certificate the server answers as well ({theirs.status}): something in between "
        "seems to end TLS, so that mutual TLS does not reach the platform.",
        "Check base_url, and let the connection pass any proxy or gateway unopened.",
    )
