"""A handler that posts each notice to a URL, signed according to Standard Webhooks 1.0.0."""

from __future__ import annotations

import asyncio
import binascii
import hmac
import json
import secrets as random_secrets
import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import urlsplit

from blink_oauth import __version__
from blink_oauth.arguments import require_seconds, require_type, wrong_argument
from blink_oauth.errors import InvalidInputError, Outcome
from blink_oauth.headers import read_meta
from blink_oauth.settings import is_http_url, is_loopback
from blink_oauth.tls import trusting_context
from blink_oauth.tokens import Secret, hide, require_secret

from .clocks import aware, utc_now
from .clocks import monotonic as monotonic_clock
from .delivery import LONGEST_PAUSE
from .errors import DeliveryError
from .store.outbox import Notice

__all__ = ["Webhook"]

PREFIX = "whsec_"
NEW_SECRET_BYTES = 32
SECRET_BYTES = range(24, 65)
"""The specification: 192 to 512 bits."""
LONGEST_TIMEOUT = 60.0
"""Seconds; the claim of a notice has as many left when its handler is called."""
GRACE = 1.0
"""Seconds in which a request that has reached the time limit ends by itself."""
GONE = 410
PAUSES = {429: 10.0, 502: 10.0, 503: 10.0, 504: 10.0, GONE: LONGEST_PAUSE}
"""Seconds to send nothing after a status without `Retry-After`. After 410 the specification says to
stop. We pause, so that a receiver that was removed by mistake gets all notices later."""
EXAMPLE = "Webhook.new_secret()"


class Webhook:
    """Post each notice as JSON to a URL, signed according to Standard Webhooks 1.0.0.

    It is a handler for `TokenManager.deliver_notices` and for `adeliver_notices`, and may be
    shared. A response with a status of 2xx accepts a notice; anything else raises `DeliveryError`,
    a redirect too, and the notice is sent again later. The response's body is not read. Each
    notice has a connection of its own, without the proxy of the environment and without cookies.

    Args:
        url: The receiver's URL. It must start with https://, or be an http:// URL of this machine.
        secrets: The secrets, `whsec_` and 24 to 64 bytes in base64. Each one adds a signature:
            while the receiver changes from one to the next, give both.
        timeout: The most seconds for a request and its response, at most 60.
        ssl_context: The TLS context that verifies the receiver; None to trust the authorities of
            the operating system.
        clock: Returns the current time, aware UTC.
        monotonic: Returns seconds of a clock that never goes back.

    Raises:
        InvalidInputError: An argument cannot be used.
    """

    def __init__(
        self,
        url: str | Secret,
        *secrets: str | Secret,
        timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = monotonic_clock,
    ) -> None:
        # The path or the query may be a password, as with many chat services.
        hidden_url = hide(url, "webhook url")
        hidden = [hide(secret, "webhook secret") for secret in secrets]
        del url, secrets
        self._url = require_secret(hidden_url)
        self._shown_url = _checked(self._url)
        self._secrets = tuple(_checked_secret(require_secret(each)) for each in hidden)
        if not self._secrets:
            raise wrong_argument("secrets", None, "one secret or several", EXAMPLE)
        require_seconds("timeout", timeout)
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise InvalidInputError(
                f"The argument timeout must be above 0 and at most {LONGEST_TIMEOUT:g} seconds. "
                "Nothing was sent."
            )
        if ssl_context is not None:
            require_type("ssl_context", ssl_context, ssl.SSLContext, "ssl.create_default_context()")
        self._timeout, self._context = timeout, ssl_context
        self._clock, self._monotonic = aware(clock), monotonic
        self._not_before = 0.0

    @staticmethod
    def new_secret() -> Secret:
        """Return a new random secret. Give what its `reveal()` returns to the receiver.

        It is printed as `Secret(***)`.
        """
        text = b64encode(random_secrets.token_bytes(NEW_SECRET_BYTES)).decode()
        return Secret(PREFIX + text, what="webhook secret")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown_url!r})"

    def __call__(self, notice: Notice) -> None:
        """Send a notice, and wait for the response.

        Args:
            notice: The notice.

        Raises:
            DeliveryError: The receiver did not accept it.
        """
        require_type("notice", notice, Notice, "a notice of the manager")
        left = self._not_before - self._monotonic()
        if left > 0:
            raise DeliveryError(
                "The receiver asked for a pause, which is not over. Nothing was sent.",
                retry_after=left,
            )
        failure = self._failure(notice)
        if failure is not None:
            if failure.retry_after is not None:
                wait = min(failure.retry_after, LONGEST_PAUSE)
                self._not_before = self._monotonic() + wait
            raise failure

    def _failure(self, notice: Notice) -> DeliveryError | None:
        # asyncio can limit the time in total, which a timeout for each read does not. In a thread
        # of its own, since an event loop may run in this one, and since nothing ends the search
        # for an address.
        thread = ThreadPoolExecutor(1)
        sending = thread.submit(asyncio.run, self._send(notice))
        thread.shutdown(wait=False)
        try:
            return sending.result(self._timeout + GRACE)
        except TimeoutError as error:
            return _no_response(error)

    async def _send(self, notice: Notice) -> DeliveryError | None:
        import httpx

        body = _payload(notice)
        now = self._clock()
        headers = _headers(notice.id, now, body, self._secrets)
        request = httpx.Request("POST", self._url.reveal(), content=body, headers=headers)
        try:
            # Not a client, which logs the URL.
            async with (
                asyncio.timeout(self._timeout),
                httpx.AsyncHTTPTransport(verify=self._verification(), trust_env=False) as transport,
            ):
                response = await transport.handle_async_request(request)
                status, retry_after = response.status_code, response.headers.get("Retry-After", "")
        # An error of ours without the one of httpx, which holds the request.
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return DeliveryError(f"The receiver was not reached ({_cause(error)}).")
        except (httpx.HTTPError, TimeoutError) as error:
            return _no_response(error)
        if httpx.codes.is_success(status):
            return None
        meta = read_meta(status, {"Retry-After": retry_after}, correlation_id="", now=now)
        return DeliveryError(
            f"The receiver responded with status {status}.",
            status=status,
            outcome=Outcome.UNCERTAIN,
            retry_after=PAUSES.get(status) if meta.retry_after is None else meta.retry_after,
        )

    def _verification(self) -> ssl.SSLContext:
        if self._context is None:
            is_tls = self._shown_url.startswith("https:")
            # To load the authorities takes longer than to send a notice to this machine.
            self._context = (
                trusting_context(None) if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
        return self._context


def _no_response(error: Exception) -> DeliveryError:
    return DeliveryError(
        f"The receiver sent no complete response in time ({type(error).__name__}).",
        outcome=Outcome.UNCERTAIN,
    )


def _cause(error: BaseException) -> str:
    """Return why a certificate was refused, if one was, and otherwise the class of the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            # A text of OpenSSL, with the host at most.
            return f"its certificate was refused: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _checked(url: Secret) -> str:
    """Return the part of a receiver's URL that may be shown.

    Raises:
        InvalidInputError: It cannot be used.
    """
    shown, scheme, host = _shown_part(url)
    if not shown:
        raise InvalidInputError(
            "The webhook url must be an https URL of ASCII characters, without user and fragment. "
            "Nothing was sent."
        )
    if scheme != "https" and not is_loopback(host):
        raise InvalidInputError(
            "The webhook url must start with https://. http:// is accepted for this machine only "
            "(loopback). Nothing was sent."
        )
    return shown


def _shown_part(url: Secret) -> tuple[str, str, str]:
    """Return what may be shown, the scheme and the host of a URL; empty if it cannot be used."""
    text = url.reveal()
    usable = text.isascii() and text.isprintable() and " " not in text and is_http_url(text)
    usable = usable and _is_usable_by_httpx(text)
    parts = urlsplit(text) if usable else None
    if parts is None or "@" in parts.netloc or parts.fragment:
        return "", "", ""
    return f"{parts.scheme}://{parts.netloc}/…", parts.scheme, parts.hostname or ""


def _is_usable_by_httpx(url: str) -> bool:
    import httpx

    try:
        return bool(httpx.URL(url).host)
    # A host that begins with xn-- and is no encoded name.
    except (httpx.InvalidURL, UnicodeError):
        return False


def _checked_secret(secret: Secret) -> Secret:
    if not _is_usable(secret):
        raise InvalidInputError(
            f"A webhook secret must be {PREFIX} and {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes "
            f"in base64, such as that of {EXAMPLE}. Nothing was sent."
        )
    return secret


def _is_usable(secret: Secret) -> bool:
    if not secret.reveal().startswith(PREFIX):
        return False
    try:
        return len(_key(secret)) in SECRET_BYTES
    except (binascii.Error, ValueError):
        return False


def _key(secret: Secret) -> bytes:
    text = secret.reveal().removeprefix(PREFIX)
    return b64decode(text + "=" * (-len(text) % 4), validate=True)


def _headers(
    notice_id: str, now: datetime, body: bytes, secrets: tuple[Secret, ...]
) -> dict[str, str]:
    timestamp = str(int(now.timestamp()))
    signed = f"{notice_id}.{timestamp}.".encode() + body
    digests = [hmac.digest(_key(secret), signed, "sha256") for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"blink-oauth/{__version__}",
        "webhook-id": notice_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{b64encode(digest).decode()}" for digest in digests),
    }


def _payload(notice: Notice) -> bytes:
    """Return the body. Members may be added, but none is removed or gets another meaning."""
    data: dict[str, object] = {"client_id": notice.client_id}
    if notice.grant is not None:
        data |= {
            "target_id": notice.grant.target_id,
            "username": notice.grant.username,
            "generation": notice.generation,
            "correlation_id": notice.correlation_id,
        }
    else:
        data |= {"certificate": notice.certificate, "stage": notice.generation}
    data |= {"reason": notice.reason, "ends_at": _text(notice.ends_at)}
    content = {"type": notice.kind.value, "timestamp": _text(notice.at), "data": data}
    return json.dumps(content, separators=(",", ":")).encode()


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")
