"""The checks of `doctor` that use the network: the connection, the clock and a harmless call.

Two probes, with and without the certificate, use the configured proxy, timeouts and certificate
verification, as the client's own calls do. Any response proves that the connection works.

A third request revokes a token that does not exist. A server treats an unknown token as revoked
(RFC 7009 section 2.2), so the call can spend nothing. If its form is refused, up to seven more
revoke other made-up tokens with other fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from enum import Enum

from attrs import frozen

from blink_oauth.client import BlinkOAuth
from blink_oauth.context import Grant
from blink_oauth.errors import (
    STATUS_PAGE,
    BlinkError,
    ForeignResponseError,
    InvalidClientError,
    InvalidInputError,
    NetworkFault,
    NoResponseError,
    OAuthError,
    ProblemError,
    TlsError,
    TlsFault,
)
from blink_oauth.headers import Probe, ResponseMeta, Source
from blink_oauth.settings import Settings

from .check import Check, failed, passed, warning
from .checks_local import settings_without_certificate
from .checks_revocation import FormState, other_trials, revocation_check, trial

__all__ = [
    "FailureCause",
    "ProbeFailure",
    "call_checks",
    "clock_check",
    "connection_checks",
    "send_probe",
]


class FailureCause(Enum):
    """Why a probe got no response."""

    SETTINGS = "settings"
    """The settings cannot be used; nothing was sent."""
    REFUSAL = "refusal"
    """The server refused the TLS handshake or closed the connection without a response."""
    NETWORK = "network"
    """The server could not be reached, or its certificate could not be verified."""


@frozen
class ProbeFailure:
    """A probe without a response.

    Attributes:
        finding: A sentence that says what happened.
        remedy: What to do.
        cause: Why there was no response.
    """

    finding: str
    remedy: str
    cause: FailureCause


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
        (
            "Check host and port in base_url. If they are right, the platform is down: try later. "
            f"Its status page: {STATUS_PAGE}"
        ),
    ),
    NetworkFault.TIMED_OUT: (
        "The server did not answer in time.",
        "Check that the firewall lets this machine out; then try later, or with longer timeouts.",
    ),
}


def send_probe(settings: Settings, clock: Callable[[], datetime]) -> Probe | ProbeFailure:
    """Send one harmless request, and return its result.

    Args:
        settings: The client's settings, with or without a certificate.
        clock: Returns the current time, aware UTC.
    """
    try:
        with BlinkOAuth(settings, clock=clock) as blink:
            return blink.probe()
    except InvalidInputError as error:
        return ProbeFailure(
            str(error), "Correct first what the checks above have found.", FailureCause.SETTINGS
        )
    except NoResponseError as error:
        return _explain(error)


def _explain(error: NoResponseError) -> ProbeFailure:
    if isinstance(error, TlsError):
        finding, remedy = error.fault.finding, error.fault.remedy
        cause = FailureCause.REFUSAL if error.fault in REFUSALS else FailureCause.NETWORK
        sentence = f"{finding[0].upper()}{finding[1:]} ({error.reason})."
        return ProbeFailure(sentence, f"{remedy}.", cause)
    if error.network_fault in FAULTS:
        finding, remedy = FAULTS[error.network_fault]
        return ProbeFailure(finding, remedy, FailureCause.NETWORK)
    return ProbeFailure(
        f"{error.reason[0].upper()}{error.reason[1:]}.",
        "Check that the certificate is registered with the platform for this environment, and "
        "that nothing in between ends the connection; then try again.",
        FailureCause.REFUSAL,
    )


REACHABLE, WITHOUT = "reachable", "without_certificate"
UNAUTHENTICATED = frozenset({400, 401, 403})


def connection_checks(
    settings: Settings, with_certificate: Probe | ProbeFailure, clock: Callable[[], datetime]
) -> Iterator[tuple[Check, Probe | None]]:
    """Check the connection with and without the certificate; yield each check and its probe.

    Args:
        settings: The client's settings.
        with_certificate: The result of a probe with the certificate.
        clock: Returns the current time, aware UTC.

    Source: RFC 8705 section 2; bLink TLS certificates.
    """
    yield (
        _reachable(settings, with_certificate),
        with_certificate if isinstance(with_certificate, Probe) else None,
    )
    if settings.base_url.startswith("http://"):
        check = warning(
            WITHOUT,
            "base_url is plain http: no certificate is asked for, and nothing is encrypted.",
            "Set the https:// URL of the platform.",
        )
        yield check, None
        return
    other_settings = settings_without_certificate(settings)
    unreachable = (
        isinstance(with_certificate, ProbeFailure)
        and with_certificate.cause is FailureCause.NETWORK
    )
    if other_settings is None or unreachable:
        check = warning(WITHOUT, "It was not tried.", "Make the server reachable first.")
        yield check, None
    else:
        without_certificate = send_probe(other_settings, clock)
        yield (
            _without_certificate_check(with_certificate, without_certificate),
            without_certificate if isinstance(without_certificate, Probe) else None,
        )


def _reachable(settings: Settings, with_certificate: Probe | ProbeFailure) -> Check:
    if isinstance(with_certificate, ProbeFailure):
        return failed(REACHABLE, with_certificate.finding, with_certificate.remedy)
    if with_certificate.status >= 500:
        return warning(
            REACHABLE,
            f"{settings.base_url} answers {with_certificate.status}: it is reachable, but fails.",
            f"Try again later, and look at the platform's status page: {STATUS_PAGE}",
        )
    finding = f"{settings.base_url} answers ({with_certificate.status}); nothing was spent."
    return passed(REACHABLE, finding)


def _without_certificate_check(
    with_certificate: Probe | ProbeFailure, without_certificate: Probe | ProbeFailure
) -> Check:
    if isinstance(without_certificate, ProbeFailure):
        if without_certificate.cause is FailureCause.REFUSAL:
            return passed(WITHOUT, "Without a certificate the server refuses the connection.")
        return failed(WITHOUT, without_certificate.finding, without_certificate.remedy)
    same_status = (
        isinstance(with_certificate, Probe)
        and with_certificate.status == without_certificate.status
    )
    if without_certificate.status in UNAUTHENTICATED and not same_status:
        return passed(
            WITHOUT, f"Without a certificate the server answers {without_certificate.status}."
        )
    return warning(
        WITHOUT,
        f"Without a certificate the server answers as well ({without_certificate.status}): "
        "something in between seems to terminate TLS, so that mutual TLS does not reach the "
        "platform.",
        "Check base_url, and configure every proxy or gateway not to terminate TLS.",
    )


WARN_SECONDS = 5.0
FAIL_SECONDS = 60.0
PRECISION = timedelta(seconds=1)
"""A `Date` header counts whole seconds (RFC 9110 section 5.6.7)."""

SET_CLOCK = "Let NTP set the clock of this machine (chrony or systemd-timesyncd), then look again."


def clock_check(probe: Probe | None) -> Check:
    """Compare this machine's clock with the `Date` header of a probe.

    The duration of the probe does not count: the server may have set its date at any time in it.

    Args:
        probe: A probe of the server, or None if there was no response.
    """
    if probe is None:
        return warning("clock", "It was not compared.", "Make the server reachable first.")
    if probe.date is None:
        return warning(
            "clock", "The server sent no usable Date header, so it was not compared.", SET_CLOCK
        )
    ahead = (probe.before - probe.date - PRECISION).total_seconds()
    behind = (probe.date - probe.after).total_seconds()
    seconds = max(ahead, behind, 0.0)
    if seconds < WARN_SECONDS:
        return passed("clock", f"It agrees with the server's to {seconds:.0f} s.")
    finding = (
        f"This machine's clock is {seconds:.0f} s {'ahead of' if ahead > 0 else 'behind'} the "
        "server's. Codes are valid for 30 s, and certificates and tokens expire by the clock."
    )
    return (failed if seconds >= FAIL_SECONDS else warning)("clock", finding, SET_CLOCK)


CALL, HEADERS = "call", "headers"
MALFORMED = frozenset({400, 406, 415, 422})
MADE_UP_TOKEN = "The token was made up, so nothing can be spent."
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
    """Revoke a made-up token at a bank, to check client id, certificate and headers.

    Args:
        settings: The client's settings.
        target_id: The id of the bank, or None to make no call.
        username: The username of the call, or None for a made-up one.
        clock: Returns the current time, aware UTC.
        new_name: Returns a random name.
        reached: Whether the server can be reached with the certificate.
    """
    if target_id is None:
        finding = "Client id and headers were not tried at the platform."
        yield warning(CALL, finding, "Give --target with the id of a bank.")
        return
    if not reached:
        finding = "Client id and headers were not tried at the platform."
        yield warning(CALL, finding, "Make the server reachable with the certificate first.")
        return
    try:
        grant = Grant(target_id, username or "blink-oauth-doctor")
        first = trial(settings, grant, clock, new_name)
        is_refused = first.state is FormState.REFUSED
        others = list(other_trials(settings, grant, clock, new_name)) if is_refused else []
    except InvalidInputError as error:
        yield failed(CALL, str(error), "Correct the target or the username that were given.")
        return
    # A refused form says nothing about the rest of the call; an accepted one says most.
    order = (FormState.ACCEPTED, FormState.UNKNOWN, FormState.REFUSED)
    best = min([first, *others], key=lambda each: order.index(each.state))
    if isinstance(best.result, BlinkError):
        yield from _refusal_checks(target_id, best.result)
    else:
        finding = f"The call to {target_id} was let through. {MADE_UP_TOKEN}"
        yield passed(CALL, finding)
        yield _headers_check(best.result)
    if first.state is not FormState.UNKNOWN:
        response = _response_summary(first.result) if isinstance(first.result, BlinkError) else ""
        yield revocation_check(first, others, response)


def _refusal_checks(target_id: str, error: BlinkError) -> Iterator[Check]:
    if error.meta is None:
        yield failed(CALL, str(error), "Look again; if it stays, tell the operator of the server.")
        return
    if isinstance(error, ForeignResponseError):
        # What the response says of the call belongs to another request.
        yield warning(
            HEADERS,
            f"{error}",
            "Look for a proxy or gateway in between that drops or changes headers, or mixes up "
            f"responses; else {SUPPORT}. Only if the platform never returns the id that it was "
            "sent, set BLINK_ACCEPT_FOREIGN_CORRELATION_ID=1.",
        )
        return
    response = f"{_response_summary(error)} {MADE_UP_TOKEN}"
    status, by_bank = error.meta.status, error.source is Source.PROVIDER
    if isinstance(error, InvalidClientError) or (status == 401 and not by_bank):
        yield failed(
            CALL,
            "The client was not authenticated; its id may not be the one that the certificate is "
            f"registered for: {response}",
            "Set the client id of this certificate, or the certificate of this client id, both for "
            f"this environment. If both are right, {SUPPORT}.",
        )
    elif status == 403:
        yield failed(
            CALL,
            f"Access was denied; {target_id} may not be permitted to this client, or may not "
            f"exist: {response}",
            f"Check the target's id, and that its bank has approved this client; else {SUPPORT}.",
        )
    elif status in MALFORMED and not by_bank:
        finding = "The platform refused the call, probably because of its headers."
        yield warning(CALL, finding, "Correct the headers first.")
        yield failed(
            HEADERS,
            f"The platform refuses the form of the call: {response}",
            f"Check user_agent, target and username; if they are right, {SUPPORT}.",
        )
        return
    elif by_bank and status < 500:
        yield passed(CALL, f"The platform let the call through to {target_id}: {response}")
    else:
        yield warning(
            CALL,
            f"The platform or the bank fails: {response}",
            f"Look again later; if it stays, {SUPPORT}. The platform's status page: {STATUS_PAGE}",
        )
    yield _headers_check(error.meta)


def _response_summary(error: BlinkError) -> str:
    assert error.meta is not None
    parts = [f"{error.meta.status}"]
    if isinstance(error, OAuthError):
        parts += [error.error, error.description or ""]
    if isinstance(error, ProblemError):
        parts += [error.type or error.title or "", error.detail or ""]
    text = ", ".join(part.rstrip(".") for part in parts if part)
    return f"{text}. Correlation id {error.meta.correlation_id}."


def _headers_check(meta: ResponseMeta) -> Check:
    faults = []
    if meta.source is Source.UNKNOWN:
        faults.append("X-CorAPI-Source does not say who answered")
    if meta.echoed is None:
        faults.append("X-Correlation-ID did not come back")
    elif not meta.echoed:
        faults.append("X-Correlation-ID came back changed")
    # An error need not forbid caching.
    if 200 <= meta.status < 300 and not meta.caching_forbidden:
        faults.append("Cache-Control and Pragma do not forbid caching, which could store tokens")
    if faults:
        return warning(
            HEADERS,
            f"{' and '.join(faults)}. Correlation id {meta.correlation_id}.",
            "Look for a proxy or gateway in between that drops or changes headers; else "
            f"{SUPPORT}.",
        )
    caching = " and forbids caching" if meta.caching_forbidden else ""
    return passed(
        HEADERS,
        f"Request and response headers are correct; the {meta.source} responded{caching}.",
    )
