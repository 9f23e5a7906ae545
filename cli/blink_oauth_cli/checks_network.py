"""The checks of `doctor` that use the network: can the server be reached, and does it know us?

The first request asks for nothing. It travels as the client's own calls do: through the same proxy,
under the same timeouts, with the same checks of the certificate. Any response proves that the
connection works.

The second one revokes a token that does not exist. A server that does not know a token answers as
if it had revoked it (RFC 7009 section 2.2), so the call can spend nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from enum import Enum

from attrs import frozen

from blink_oauth.client import BlinkOAuth
from blink_oauth.context import Grant
from blink_oauth.errors import (
    BlinkError,
    InvalidClientError,
    InvalidInputError,
    NetworkFault,
    NoResponseError,
    OAuthError,
    ProblemError,
    RevocationError,
    TlsError,
    TlsFault,
)
from blink_oauth.headers import Probe, ResponseMeta, Source
from blink_oauth.settings import Settings
from blink_oauth.tokens import Token, TokenKind

from .check import Check, doubtful, failed, passed
from .checks_local import without_certificate

__all__ = [
    "Obstacle",
    "Unanswered",
    "call_checks",
    "clock_check",
    "line_checks",
    "visit",
]


class Obstacle(Enum):
    """What was in the way."""

    SETTINGS = "settings"
    """Nothing was sent: the settings cannot be used."""
    REFUSAL = "refusal"
    """The server was there and did not want us."""
    NETWORK = "network"
    """The server was not there, or it was not the server."""


@frozen
class Unanswered:
    """There was no answer.

    Attributes:
        finding: What happened, in words.
        remedy: What to do.
        obstacle: What was in the way.
    """

    finding: str
    remedy: str
    obstacle: Obstacle


REFUSALS = frozenset(
    {
        TlsFault.CLIENT_CERTIFICATE_MISSING,
        TlsFault.CLIENT_CERTIFICATE_REFUSED,
        TlsFault.HANDSHAKE_FAILED,
    }
)

FAULTS = {
    NetworkFault.PROXY: (
        "The proxy did not let the connection through.",
        "Check the proxy that the settings or the environment name, and what it allows.",
    ),
    NetworkFault.HOST_UNKNOWN: (
        "The host name is not known to the name server.",
        "Check the host in base_url, then the name server of this machine.",
    ),
    NetworkFault.CONNECTION_REFUSED: (
        "Nothing takes connections at the server's port.",
        "Check host and port in base_url. If they are right, the platform is down: try later.",
    ),
    NetworkFault.TIMED_OUT: (
        "The server did not answer in time.",
        "Check that the firewall lets this machine out; then try later, or with longer timeouts.",
    ),
}


def visit(settings: Settings, clock: Callable[[], datetime]) -> Probe | Unanswered:
    """Send one harmless request and tell what came of it.

    Args:
        settings: Where to, and with which certificate.
        clock: Tells the present moment, aware UTC.
    """
    try:
        with BlinkOAuth(settings, clock=clock) as blink:
            return blink.probe()
    except InvalidInputError as error:
        return Unanswered(
            str(error), "Correct first what the checks above have found.", Obstacle.SETTINGS
        )
    except NoResponseError as error:
        return _explain(error)


def _explain(error: NoResponseError) -> Unanswered:
    if isinstance(error, TlsError):
        finding, remedy = error.fault.finding, error.fault.remedy
        obstacle = Obstacle.REFUSAL if error.fault in REFUSALS else Obstacle.NETWORK
        sentence = f"{finding[0].upper()}{finding[1:]} ({error.reason})."
        return Unanswered(sentence, f"{remedy}.", obstacle)
    if error.network_fault in FAULTS:
        finding, remedy = FAULTS[error.network_fault]
        return Unanswered(finding, remedy, Obstacle.NETWORK)
    return Unanswered(
        f"The server hung up without an answer ({error.reason}).",
        "Check that the certificate is registered with the platform for this environment, and "
        "that nothing in between ends the connection; then try again.",
        Obstacle.REFUSAL,
    )


REACHABLE, WITHOUT = "reachable", "without_certificate"
UNAUTHENTICATED = frozenset({400, 401, 403})


def line_checks(
    settings: Settings, ours: Probe | Unanswered, clock: Callable[[], datetime]
) -> Iterator[tuple[Check, Probe | None]]:
    """Yield what was found with the certificate and without it, each with the answer behind it.

    Args:
        settings: What the client would use.
        ours: What came of a look with the certificate.
        clock: Tells the present moment, aware UTC.

    Source: RFC 8705 section 2; bLink TLS certificates.
    """
    yield _reachable(settings, ours), ours if isinstance(ours, Probe) else None
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
        yield _refused(ours, theirs), theirs if isinstance(theirs, Probe) else None


def _reachable(settings: Settings, ours: Probe | Unanswered) -> Check:
    if isinstance(ours, Unanswered):
        return failed(REACHABLE, ours.finding, ours.remedy)
    if ours.status >= 500:
        return doubtful(
            REACHABLE,
            f"{settings.base_url} answers {ours.status}: it is there, and in trouble.",
            "Try again later, and look at the platform's status page.",
        )
    return passed(REACHABLE, f"{settings.base_url} answers ({ours.status}); nothing was spent.")


def _refused(ours: Probe | Unanswered, theirs: Probe | Unanswered) -> Check:
    if isinstance(theirs, Unanswered):
        if theirs.obstacle is Obstacle.REFUSAL:
            return passed(WITHOUT, "Without a certificate the server refuses the connection.")
        return failed(WITHOUT, theirs.finding, theirs.remedy)
    same = isinstance(ours, Probe) and ours.status == theirs.status
    if theirs.status in UNAUTHENTICATED and not same:
        return passed(WITHOUT, f"Without a certificate the server answers {theirs.status}.")
    return doubtful(
        WITHOUT,
        f"Without a certificate the server answers as well ({theirs.status}): something in between "
        "seems to end TLS, so that mutual TLS does not reach the platform.",
        "Check base_url, and let the connection pass any proxy or gateway unopened.",
    )


WARN_SECONDS = 5.0
FAIL_SECONDS = 60.0
PRECISION = timedelta(seconds=1)
"""A `Date` header counts whole seconds (RFC 9110 section 5.6.7)."""

REMEDY = "Let NTP set the clock of this machine (chrony or systemd-timesyncd), then look again."


def clock_check(answer: Probe | None) -> Check:
    """Compare the moment of an answer by both clocks.

    How long the answer took does not count: the server may have written its date at any moment of
    it.

    Args:
        answer: An answer of the server, or None if there was none.
    """
    if answer is None:
        return doubtful("clock", "It was not compared.", "Make the server reachable first.")
    if answer.date is None:
        return doubtful(
            "clock", "The server did not tell its time, so it was not compared.", REMEDY
        )
    ahead = (answer.before - answer.date - PRECISION).total_seconds()
    behind = (answer.date - answer.after).total_seconds()
    seconds = max(ahead, behind, 0.0)
    if seconds < WARN_SECONDS:
        return passed("clock", f"It agrees with the server's to {seconds:.0f} s.")
    finding = (
        f"This machine's clock is {seconds:.0f} s {'ahead of' if ahead > 0 else 'behind'} the "
        "server's. Codes live 30 s, and certificates and tokens expire by the clock."
    )
    return (failed if seconds >= FAIL_SECONDS else doubtful)("clock", finding, REMEDY)


CALL, HEADERS = "call", "headers"
BAD_FORM = frozenset({400, 406, 415})
NOTHING_SPENT = "The token was made up, so nothing can be spent."
SUPPORT = "ask the bLink support with the correlation id"


def call_checks(
    settings: Settings,
    target_id: str | None,
    username: str | None,
    clock: Callable[[], datetime],
    new_name: Callable[[], str],
    *,
    reached: bool,
) -> Iterator[Check]:
    """Revoke a made-up token at a bank, and tell what client id, certificate and headers are worth.

    Args:
        settings: What the client would use.
        target_id: The bank, or None to make no call.
        username: The user to name, or None for a made-up one.
        clock: Tells the present moment, aware UTC.
        new_name: Makes a random name.
        reached: Whether the server is reachable with the certificate.
    """
    if target_id is None:
        finding = "Client id and headers were not tried at the platform."
        yield doubtful(CALL, finding, "Give --target with the id of a bank.")
        return
    if not reached:
        finding = "Client id and headers were not tried at the platform."
        yield doubtful(CALL, finding, "Make the server reachable with the certificate first.")
        return
    try:
        grant = Grant(target_id, username or "blink-oauth-doctor")
        with BlinkOAuth(settings, clock=clock) as blink:
            metas = blink.revoke(grant, Token(access_token=f"not-a-token-{new_name()}"))
    except InvalidInputError as error:
        yield failed(CALL, str(error), "Correct the target or the username that were given.")
    except RevocationError as refusal:
        yield from _refusal_checks(target_id, refusal.errors[TokenKind.ACCESS_TOKEN])
    else:
        finding = f"The call to {target_id} was let through. {NOTHING_SPENT}"
        yield passed(CALL, finding)
        yield _headers_check(metas[TokenKind.ACCESS_TOKEN])


def _refusal_checks(target_id: str, error: BlinkError) -> Iterator[Check]:
    if error.meta is None:
        yield failed(CALL, str(error), "Look again; if it stays, tell the operator of the server.")
        return
    said = f"{_said(error)} {NOTHING_SPENT}"
    status, by_bank = error.meta.status, error.source is Source.PROVIDER
    if isinstance(error, InvalidClientError) or (status == 401 and not by_bank):
        yield failed(
            CALL,
            f"The client id is not the one that the certificate is registered for: {said}",
            "Set the client id of this certificate, or the certificate of this client id; for this "
            f"environment. If both are right, {SUPPORT}.",
        )
    elif status == 403:
        yield failed(
            CALL,
            f"{target_id} is not permitted to this client, or there is no such target: {said}",
            f"Check the target's id, and that its bank has approved this client; else {SUPPORT}.",
        )
    elif status in BAD_FORM and not by_bank:
        yield doubtful(CALL, "It came no further than the headers.", "Correct the headers first.")
        yield failed(
            HEADERS,
            f"The platform refuses the form of the call: {said}",
            f"Check user_agent, target and username; if they are right, {SUPPORT}.",
        )
        return
    elif by_bank and status < 500:
        yield passed(CALL, f"The platform let the call through to {target_id}: {said}")
    else:
        yield doubtful(
            CALL,
            f"Platform or bank are in trouble: {said}",
            f"Look again later; if it stays, {SUPPORT}.",
        )
    yield _headers_check(error.meta)


def _said(error: BlinkError) -> str:
    assert error.meta is not None
    words = [f"{error.meta.status}"]
    if isinstance(error, OAuthError):
        words += [error.error, error.description or ""]
    if isinstance(error, ProblemError):
        words += [error.type or error.title or "", error.detail or ""]
    text = ", ".join(word.rstrip(".") for word in words if word)
    return f"{text}. Correlation id {error.meta.correlation_id}."


def _headers_check(meta: ResponseMeta) -> Check:
    wrong = []
    if meta.source is Source.UNKNOWN:
        wrong.append("X-CorAPI-Source does not say who answered")
    if meta.echoed is None:
        wrong.append("X-Correlation-ID did not come back")
    elif not meta.echoed:
        wrong.append("X-Correlation-ID came back changed")
    if wrong:
        return doubtful(
            HEADERS,
            f"{' and '.join(wrong)}. Correlation id {meta.correlation_id}.",
            "Look for a proxy or gateway in between that drops or changes headers; else "
            f"{SUPPORT}.",
        )
    rules = "caches are told to keep nothing" if meta.cache_rules_held else "no word to caches"
    return passed(HEADERS, f"Both ways as they should; the {meta.source} answered; {rules}.")
