"""The exceptions, as one tree.

* BlinkError
  x InvalidInputError            an argument or setting is invalid, nothing was sent (a ValueError)
    + CertificateError           the client certificate or its key cannot be used
  x NoResponseError              no response was received
    + NotConnectedError          no connection was completed, so the request was not read
      - TlsError                 one side refused the other's certificate
    + TimedOutError              the request was sent, no response was received in time
    + ConnectionLostError        the request was sent, the connection broke before the response
  x ResponseError                the response is an error, or contains no usable token
    + OAuthError                 its body is an RFC 6749 error
      - InvalidGrantError        the code or refresh token is invalid, expired, revoked or spent
      - InvalidClientError       the client is unknown or not allowed
    + ProblemError               its body is an RFC 9457 problem
    + UnreadableResponseError    its status is a success, its body contains no usable token
    + StatusError                its status is no success, its body is neither of the two
    + ForeignResponseError       it has the correlation id of another request
  x RevocationError              at least one of the tokens to revoke may still be valid

Every error tells whether the call was executed (`outcome`), whether the same call may be sent again
(`retryable`), whether a new consent is needed (`needs_consent`), and which call it was
(`correlation_id`, even without a response).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .context import Grant
    from .headers import ResponseMeta, Source
    from .tokens import Token, TokenKind

__all__ = [
    "ADVICE_ON_REPLAY",
    "STATUS_PAGE",
    "BlinkError",
    "CertificateError",
    "ConnectionLostError",
    "ForeignResponseError",
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

STATUS_PAGE: Final = "https://status.blink.six-group.com/#/service-providers"
"""Where the platform reports outages, by bank and interface (inferred: spec/README.md)."""


ADVICE_ON_REPLAY: Final = (
    "Keep the stored refresh token: the bank may not have replaced it. Present it at most once "
    "more: a bank with reuse detection may revoke the consent if a spent token is presented again."
)
"""The advice of an uncertain refresh to callers that keep their tokens themselves."""


class Outcome(StrEnum):
    """Whether a failed call was executed, as far as is known."""

    NOT_EXECUTED = "not_executed"
    """The call was not executed: no code and no token was spent."""
    REJECTED = "rejected"
    """The server rejected the call: it issued or revoked nothing, unless the error has a token."""
    UNCERTAIN = "uncertain"
    """The call may have been executed: its code or token may be spent."""


class TlsFault(StrEnum):
    """The part of the mutual TLS authentication that failed (RFC 8705, RFC 8446)."""

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
        """What happened, as a clause of a sentence."""
        return _TLS_TEXTS[self][0]

    @property
    def remedy(self) -> str:
        """What to do about it, as a sentence."""
        return _TLS_TEXTS[self][1]


_TLS_TEXTS = {
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
            "Check that both sides support TLS 1.2 or newer and that the server accepts this "
            "client certificate"
        ),
    ),
}


class NetworkFault(StrEnum):
    """The kind of a network fault."""

    PROXY = "proxy"
    """The proxy refused the connection."""
    HOST_UNKNOWN = "host_unknown"
    """The host name cannot be resolved."""
    CONNECTION_REFUSED = "connection_refused"
    """No server accepts connections at the port."""
    TIMED_OUT = "timed_out"
    """A timeout ended the call."""
    OTHER = "other"
    """The connection failed or ended for another reason."""


class BlinkError(Exception):
    """The base class of all errors of this library.

    Attributes:
        outcome: Whether the call was executed, as far as is known.
        retryable: Whether the same call may be sent again: it spends nothing twice and may succeed.
        needs_consent: Whether only a new consent of the customer at the bank helps.
        retry_after: Seconds after the failure from which to try again, or None if no time is known.
        status: The HTTP status, or None without a response.
        meta: The values of the response headers, or None without a response.
        correlation_id: The `X-Correlation-ID` of the request; give it to the bLink support. None
            if the input was invalid and there was no call.
        token: A token in the response to the failed call: store it, except that of a
            `ForeignResponseError`. Almost always None.
        grant: The grant, if a `TokenManager` raised the error for one, otherwise None. No text of
            the error has it: its username is personal data.
    """

    outcome: Outcome = Outcome.NOT_EXECUTED
    retryable: bool = False
    needs_consent: bool = False
    retry_after: float | None = None
    status: int | None = None
    meta: ResponseMeta | None = None
    correlation_id: str | None = None
    token: Token | None = None
    grant: Grant | None = None

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        for name, fact in facts.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r}")
            setattr(self, name, fact)

    @property
    def source(self) -> Source | None:
        """The origin of the response, or None without a response."""
        return self.meta.source if self.meta else None

    def replaced(self, message: str, **facts: Any) -> Self:
        """Return a copy with another text and other attributes.

        Args:
            message: The text of the copy.
            facts: The attributes that differ.
        """
        duplicate = type(self)(message, **(self._facts() | facts))
        for note in getattr(self, "__notes__", ()):
            duplicate.add_note(note)
        return duplicate

    def __copy__(self) -> Self:
        return self.replaced(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the token: a pickle never contains a secret.
        known = self._facts()
        known.pop("token", None)
        return (_rebuild, (type(self), str(self), known))

    def _facts(self) -> dict[str, Any]:
        return {name: fact for name, fact in vars(self).items() if hasattr(type(self), name)}


def _rebuild(cls: type[BlinkError], message: str, facts: dict[str, Any]) -> BlinkError:
    return cls(message, **facts)


class InvalidInputError(BlinkError, ValueError):
    """An argument or a setting is invalid. Nothing was sent."""


class CertificateError(InvalidInputError):
    """The client certificate or its key cannot be used.

    Attributes:
        rules: The names of the broken rules, see `blink_oauth.Rule`.
    """

    rules: tuple[str, ...] = ()


class NoResponseError(BlinkError):
    """No response was received.

    Attributes:
        network_fault: The kind of fault; `OTHER` also if it is not known.
        reason: A text for the class of the network error; it repeats nothing of the peer.
    """

    network_fault: NetworkFault = NetworkFault.OTHER
    reason: str = ""


class NotConnectedError(NoResponseError):
    """The server did not read the request, because no connection was completed."""

    retryable = True


class TlsError(NotConnectedError):
    """One side refused the other's certificate, or the handshake failed.

    With TLS 1.3 a server can refuse the client certificate only after the client has finished its
    part of the handshake (RFC 8446 section 4.4.2.4). The alert then arrives in place of the
    response, and still proves that the server did not read the request.
    """

    retryable = False
    fault: TlsFault = TlsFault.HANDSHAKE_FAILED
    """The part of the authentication that failed."""


class TimedOutError(NoResponseError):
    """The request was sent, at least in part, and no response was received in time."""

    outcome = Outcome.UNCERTAIN


class ConnectionLostError(NoResponseError):
    """The request was sent, at least in part, and the connection broke before the response."""

    outcome = Outcome.UNCERTAIN


class ResponseError(BlinkError):
    """The response is an error, or contains no usable token.

    Attributes:
        codes: The error codes in the body as received, also those of Berlin Group (`tppMessages`),
            UK Open Banking (`Errors`) and other REST interfaces; without secrets.
    """

    outcome = Outcome.UNCERTAIN
    codes: tuple[str, ...] = ()


class OAuthError(ResponseError):
    """The response is an OAuth error (RFC 6749 section 5.2).

    Attributes:
        error: The error code as received, also if it is not one of RFC 6749.
        description: The `error_description`, or None.
        uri: The `error_uri`, or None.
    """

    error: str = ""
    description: str | None = None
    uri: str | None = None

    @property
    def code(self) -> str:
        """The error code in lower case, for comparisons."""
        return self.error.lower()


class InvalidGrantError(OAuthError):
    """The code or refresh token is invalid, expired, revoked or spent (`invalid_grant`)."""


class InvalidClientError(OAuthError):
    """The client is unknown or not allowed (`invalid_client`, `unauthorized_client`)."""


REFUSED_CREDENTIAL = frozenset({"INVALID_TOKEN", "EXPIRED_TOKEN"})
"""Problem types for an invalid token (bLink error codes, of other modules)."""

REFUSED_GRANT = REFUSED_CREDENTIAL | {
    "INVALID_GRANT",
    *("CONSENT_REQUIRED", "INTERACTION_REQUIRED", "LOGIN_REQUIRED"),
    *("CONSENT_EXPIRED", "CONSENT_INVALID", "CONSENT_UNKNOWN"),
    *("TOKEN_EXPIRED", "TOKEN_INVALID", "TOKEN_UNKNOWN"),
    *("UK_OBIE_REAUTHENTICATE", "UK_OBIE_RESOURCE_INVALID_CONSENT_STATUS"),
}
"""Error codes with which a bank refuses a code or refresh token, spelled as by `normalized_code`.

Source: RFC 6749 section 5.2, RFC 6750 section 3.1, OpenID Connect Core section 3.1.2.6, bLink
error codes, Berlin Group NextGenPSD2 Implementation Guidelines section 14.11, UK Open Banking
Read-Write API profile. That banks behind the platform send them on a refresh is inferred.
"""


REFUSALS_OF_FORM = frozenset({"INVALID_REQUEST", "INVALID_PAYLOAD", "MALFORMED_PAYLOAD"})
"""Error codes for a request whose form is refused, spelled as by `normalized_code`.

Source: RFC 6749 section 5.2, bLink error codes.
"""


def problem_code(kind: str | None) -> str:
    """Return the last segment of a problem type in upper case, empty without a type."""
    return (kind or "").rpartition("/")[2].upper()


def normalized_code(code: str) -> str:
    """Return the last segment of an error code or problem type, in upper case with underscores."""
    segment = re.split("[/#:]", code.rstrip("/"))[-1]
    return re.sub("(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", segment).strip("_").upper()


def is_about_form(error: BlinkError) -> bool:
    """Return whether the codes of an error say that the form of the request is refused."""
    codes = error.codes if isinstance(error, ResponseError) else ()
    return not REFUSALS_OF_FORM.isdisjoint(map(normalized_code, codes))


class ProblemError(ResponseError):
    """The response is a problem (RFC 9457), the error format of bLink's other modules.

    Attributes:
        type: The problem type as received, such as `/problems/INVALID_PAYLOAD`.
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
        """The last segment of the problem type in upper case, for comparisons."""
        return problem_code(self.type)


class UnreadableResponseError(ResponseError):
    """The status is a success, but the body contains no usable token."""


class StatusError(ResponseError):
    """The status is no success, and the body contains no error of RFC 6749 or RFC 9457.

    If it contains errors of another format, the text repeats them, and `codes` has their codes.
    """


class ForeignResponseError(ResponseError):
    """The response has the `X-Correlation-ID` of another request: it is no response to this call.

    It proves nothing about this call, whatever its status is, and no text of it is repeated. If it
    contains a token, that is in `token`: it may be another customer's. Keep it apart, and neither
    use nor present it.

    Attributes:
        foreign_correlation_id: The id in the response, if it is a UUID; any other text of it is
            not repeated. Give both ids to the bLink support.
    """

    foreign_correlation_id: str | None = None


class RevocationError(BlinkError):
    """At least one of the tokens to revoke may still be valid.

    It is safe to call `revoke` again: revoking a token twice does no harm (RFC 7009 section 2.2).

    Attributes:
        revoked: The kinds of token that are certainly revoked.
        not_revoked: The kinds that are certainly not revoked.
        unknown: The kinds whose revocation may have been executed.
        errors: The error of each kind that is not certainly revoked.
    """

    revoked: frozenset[TokenKind] = frozenset()
    not_revoked: frozenset[TokenKind] = frozenset()
    unknown: frozenset[TokenKind] = frozenset()
    errors: Mapping[TokenKind, BlinkError] = {}
