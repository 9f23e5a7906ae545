"""Everything that can go wrong, as one tree.

* BlinkError
  x InvalidInputError            refused here, before anything was sent (also a ValueError)
    + CertificateError           the client certificate or its key cannot be used
  x NoResponseError              no response came
    + NotConnectedError          no connection was made, so nothing was sent
      - TlsError                 one side refused the other's certificate
    + TimedOutError              the request left, the response did not come in time
    + ConnectionLostError        the request left, the connection broke before the response
  x ResponseError                a response came, and it is no token
    + OAuthError                 its body is an RFC 6749 error
      - InvalidGrantError        the code or refresh token is no longer good: ask for consent
      - InvalidClientError       the client is not known or not allowed
    + ProblemError               its body is an RFC 9457 problem
    + UnreadableResponseError    its status promises success, its body holds no usable token
    + StatusError                its status is an error, its body says nothing readable
  x RevocationError              of the tokens to revoke, at least one may still be alive

Every error answers the same questions: what is known of the execution (`outcome`), may the same
call be sent again (`retryable`), is the customer needed (`needs_consent`), and which call was it
(`correlation_id`, also where no response came).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .headers import ResponseMeta, Source
    from .tokens import Token, TokenKind

__all__ = [
    "BlinkError",
    "CertificateError",
    "ConnectionLostError",
    "InvalidClientError",
    "InvalidGrantError",
    "InvalidInputError",
    "NetworkFault",
    "NoResponseError",
    "NotConnectedError",
    "OAuthError",
    "Outcome",
    "ProblemError",
    "ResponseError",
    "RevocationError",
    "StatusError",
    "TimedOutError",
    "TlsError",
    "TlsFault",
    "UnreadableResponseError",
]


class Outcome(StrEnum):
    """What is known of the execution of a call that did not return."""

    NOT_EXECUTED = "not_executed"
    """Certainly nothing happened: no code and no token was spent."""
    REJECTED = "rejected"
    """The server looked at the call and decided against it."""
    UNCERTAIN = "uncertain"
    """The call may have been executed: the code or token it carried may be spent."""


class TlsFault(StrEnum):
    """Which part of the mutual authentication failed (RFC 8705, RFC 8446)."""

    SERVER_AUTHORITY_UNKNOWN = "server_authority_unknown"
    SERVER_CERTIFICATE_EXPIRED = "server_certificate_expired"
    SERVER_CERTIFICATE_NOT_YET_VALID = "server_certificate_not_yet_valid"
    SERVER_CERTIFICATE_INVALID = "server_certificate_invalid"
    SERVER_NAME_MISMATCH = "server_name_mismatch"
    CLIENT_CERTIFICATE_MISSING = "client_certificate_missing"
    CLIENT_CERTIFICATE_REFUSED = "client_certificate_refused"
    HANDSHAKE_FAILED = "handshake_failed"

    @property
    def finding(self) -> str:
        """What happened, in words."""
        return _TLS_WORDS[self][0]

    @property
    def remedy(self) -> str:
        """What to do about it, in words."""
        return _TLS_WORDS[self][1]


_TLS_WORDS = {
    TlsFault.SERVER_AUTHORITY_UNKNOWN: (
        "the server's certificate is from an authority that is not trusted here",
        "Check base_url and the ca file",
    ),
    TlsFault.SERVER_CERTIFICATE_EXPIRED: (
        "the server's certificate has expired",
        "Check the clock of this machine, then tell the operator of the server",
    ),
    TlsFault.SERVER_CERTIFICATE_NOT_YET_VALID: (
        "the server's certificate is not valid yet",
        "Check the clock of this machine",
    ),
    TlsFault.SERVER_CERTIFICATE_INVALID: (
        "the server's certificate was refused",
        "Check base_url and the ca file",
    ),
    TlsFault.SERVER_NAME_MISMATCH: (
        "the server's certificate is for another host name",
        "Check base_url",
    ),
    TlsFault.CLIENT_CERTIFICATE_MISSING: (
        "the server demands a client certificate and got none",
        "Set Settings.certificate",
    ),
    TlsFault.CLIENT_CERTIFICATE_REFUSED: (
        "the server refused the client certificate",
        "Check that it is registered with the platform for this environment, whole chain included",
    ),
    TlsFault.HANDSHAKE_FAILED: (
        "the handshake failed",
        (
            "Check that both sides speak TLS 1.2 or newer and that the server accepts this client "
            "certificate"
        ),
    ),
}


class NetworkFault(StrEnum):
    """Why no response came, as far as the network told it."""

    PROXY = "proxy"
    """The proxy did not let the connection through."""
    HOST_UNKNOWN = "host_unknown"
    """The name server does not know the host."""
    CONNECTION_REFUSED = "connection_refused"
    """Nothing takes connections at the port."""
    TIMED_OUT = "timed_out"
    """Something took too long."""
    OTHER = "other"
    """The connection ended, or it never became one, for another reason."""


class BlinkError(Exception):
    """The root of all errors of this library.

    Attributes:
        outcome: What is known of the execution.
        retryable: Whether the very same call may be sent again without the risk of spending
            anything twice, with a chance of success.
        needs_consent: Whether only a new consent of the customer at the bank helps.
        status: The HTTP status, or None where no response came.
        meta: What the response headers said, or None where no response came.
        correlation_id: The `X-Correlation-ID` that was sent; quote it to the bLink support. None
            where the input was refused before there was a call.
        token: A token that the response held although the call failed. Keep it. Almost always None.
    """

    outcome: Outcome = Outcome.NOT_EXECUTED
    retryable: bool = False
    needs_consent: bool = False
    status: int | None = None
    meta: ResponseMeta | None = None
    correlation_id: str | None = None
    token: Token | None = None

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        for name, fact in facts.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r}")
            setattr(self, name, fact)

    @property
    def source(self) -> Source | None:
        """Who made the response, the platform or the provider; None where no response came."""
        return self.meta.source if self.meta else None

    def __copy__(self) -> BlinkError:
        twin = _rebuild(type(self), str(self), self._facts())
        for note in getattr(self, "__notes__", ()):
            twin.add_note(note)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        # A salvaged token stays behind: secrets never enter a pickle.
        known = self._facts()
        known.pop("token", None)
        return (_rebuild, (type(self), str(self), known))

    def _facts(self) -> dict[str, Any]:
        return {name: fact for name, fact in vars(self).items() if hasattr(type(self), name)}


def _rebuild(cls: type[BlinkError], message: str, facts: dict[str, Any]) -> BlinkError:
    return cls(message, **facts)


class InvalidInputError(BlinkError, ValueError):
    """An argument or a setting was refused before anything was sent."""


class CertificateError(InvalidInputError):
    """The client certificate or its key cannot be used.

    Attributes:
        rules: The names of the broken rules, see `blink_oauth.tls.Rule`.
    """

    rules: tuple[str, ...] = ()


class NoResponseError(BlinkError):
    """No response came.

    Attributes:
        network_fault: Why, as far as the network told it.
        reason: What the network said.
    """

    network_fault: NetworkFault = NetworkFault.OTHER
    reason: str = ""


class NotConnectedError(NoResponseError):
    """No connection was made, so nothing was sent."""

    retryable = True


class TlsError(NotConnectedError):
    """One side refused the other's certificate, or the handshake failed.

    With TLS 1.3 a server refuses a client certificate only after the client believes the handshake
    done (RFC 8446 section 4.4.2.4), so the alert arrives in place of the response. It still proves
    that the request was not looked at.
    """

    retryable = False
    fault: TlsFault = TlsFault.HANDSHAKE_FAILED


class TimedOutError(NoResponseError):
    """The request left, and no response came in time."""

    outcome = Outcome.UNCERTAIN


class ConnectionLostError(NoResponseError):
    """The request left, and the connection broke before the response came."""

    outcome = Outcome.UNCERTAIN


class ResponseError(BlinkError):
    """A response came, and it is no token."""

    outcome = Outcome.UNCERTAIN


class OAuthError(ResponseError):
    """The response is an OAuth error (RFC 6749 section 5.2).

    Attributes:
        error: The error code as it was received; unknown codes are kept.
        description: The `error_description`, or None.
        uri: The `error_uri`, or None.
    """

    error: str = ""
    description: str | None = None
    uri: str | None = None

    @property
    def code(self) -> str:
        """The error code for comparisons: in lower case."""
        return self.error.lower()


class InvalidGrantError(OAuthError):
    """The code or refresh token is invalid, expired, revoked or spent (`invalid_grant`)."""


class InvalidClientError(OAuthError):
    """The client is not known or not allowed (`invalid_client`, `unauthorized_client`)."""


SPENT_CREDENTIAL = frozenset({"INVALID_TOKEN", "EXPIRED_TOKEN"})
"""Problem types that speak of the credential that was presented (bLink error codes)."""


def problem_code(kind: str | None) -> str:
    """Return the last segment of a problem's type in upper case, or nothing without one."""
    return (kind or "").rpartition("/")[2].upper()


class ProblemError(ResponseError):
    """The response is a problem (RFC 9457), the error format of bLink's other modules.

    Attributes:
        type: The problem type as it was received, such as `/problems/INVALID_PAYLOAD`.
        title: Its title, or None.
        detail: Its detail, or None.
        instance: Its instance, or None.
    """

    type: str | None = None
    title: str | None = None
    detail: str | None = None
    instance: str | None = None

    @property
    def code(self) -> str:
        """The last segment of the problem type for comparisons: in upper case."""
        return problem_code(self.type)


class UnreadableResponseError(ResponseError):
    """The status promises success, and the body holds no usable token."""


class StatusError(ResponseError):
    """The status is an error or a redirect, and the body says nothing readable."""


class RevocationError(BlinkError):
    """Of the tokens to revoke, at least one may still be alive.

    Revoking a token twice does no harm (RFC 7009 section 2.2): to try again, call `revoke` again.

    Attributes:
        revoked: The kinds that are surely revoked.
        alive: The kinds that are surely still alive.
        unknown: The kinds whose revocation may or may not have been executed.
        errors: What went wrong, for each kind that is not surely revoked.
    """

    revoked: frozenset[TokenKind] = frozenset()
    alive: frozenset[TokenKind] = frozenset()
    unknown: frozenset[TokenKind] = frozenset()
    errors: Mapping[TokenKind, BlinkError] = {}
