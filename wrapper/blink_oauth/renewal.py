"""The TLS context for new connections, renewed when the files of the client certificate change.

A tool may write the files one after the other, in any order, and in pieces. So changed files are
read only once they have been the same at two looks, and what they hold is used only if it is a
whole pair that is no worse than the one in use. Otherwise the pair in use goes on.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock
from weakref import WeakMethod, WeakSet

from attrs import frozen

from .certificate import Finding, Rule
from .settings import Settings
from .tls import CertificateReport, ClientCertificate, load_certificate, require_usable

__all__ = ["CertificateRenewal", "ContextSource"]

LOOK_SECONDS = 1.0
"""The least seconds between two looks at the files."""
RETRY_SECONDS = 60.0
"""Seconds after which refused files are read again: a certificate may have become valid."""

logger = logging.getLogger("blink_oauth")

Stamp = tuple[tuple[int, ...] | None, ...]


@frozen(kw_only=True)
class CertificateRenewal:
    """What was found in the changed files of the client certificate.

    Attributes:
        at: The time, aware UTC.
        report: The check of the changed files.
        reasons: Why the files are refused; empty if new connections use them.
        expires_at: The end of the certificate that new connections use, aware UTC.
    """

    at: datetime
    report: CertificateReport
    reasons: tuple[Finding, ...]
    expires_at: datetime | None


class ContextSource:
    """Returns the TLS context for new connections. Threads and event loops may share it.

    Args:
        settings: The settings of the client.
        clock: Returns the current time, timezone-aware.
        monotonic: Returns seconds of a clock that never goes back.

    Attributes:
        context: The context, or None before `load`.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self.context: ssl.SSLContext | None = None
        self._settings, self._clock, self._monotonic = settings, clock, monotonic
        self._next_look = math.inf
        self._report = CertificateReport()
        self._digest = self._refused = b""
        self._seen: Stamp | None = None
        self._decided: Stamp | None = None
        self._retry_at = math.inf
        self._listeners: list[WeakMethod[Callable[[CertificateRenewal], None]]] = []
        self.after_fork()
        _sources.add(self)

    def after_fork(self) -> None:
        """Replace the locks in a child process: a thread of the parent may hold them."""
        self._loading, self._choosing, self._looking = Lock(), Lock(), Lock()

    def subscribe(self, listener: Callable[[CertificateRenewal], None]) -> None:
        """Report each renewal and each refusal to a bound method, which is held weakly.

        Args:
            listener: The method. It is called on the thread of the call that found the change.
        """
        self._listeners.append(WeakMethod(listener))

    def load(self) -> ssl.SSLContext:
        """Return the context, and load it at the first call.

        Raises:
            InvalidInputError: There is no certificate, or the given context is not strict enough.
            CertificateError: The client certificate cannot be used.
        """
        with self._loading:
            if self.context is None:
                certificate = self._settings.certificate
                if isinstance(certificate, ClientCertificate):
                    stamp, self._digest = _stamp(certificate.files), _digest(certificate.files)
                    report, context = load_certificate(certificate, self._clock())
                    require_usable(report.findings)
                    self._seen = self._decided = stamp
                    self._report, self.context = report, context
                    self._next_look = self._monotonic() + LOOK_SECONDS
                else:
                    self.context = self._settings.ssl_context(now=self._clock())
            return self.context

    def is_due(self) -> bool:
        """Return whether the caller has to call `look`: one caller in each second."""
        now = self._monotonic()
        if now < self._next_look:
            return False
        with self._choosing:
            is_first = now >= self._next_look
            if is_first:
                self._next_look = now + LOOK_SECONDS
            return is_first

    def look(self) -> None:
        """Look at the files, and use or refuse what they hold if it has changed. This may block."""
        certificate = self._settings.certificate
        if isinstance(certificate, ClientCertificate) and self._looking.acquire(blocking=False):
            try:
                self._look(certificate)
            finally:
                self._looking.release()

    def _look(self, certificate: ClientCertificate) -> None:
        stamp = _stamp(certificate.files)
        if stamp == self._decided and self._monotonic() < self._retry_at:
            return
        if stamp != self._seen:
            self._seen = stamp
            return
        digest = _digest(certificate.files)
        if digest == self._digest:
            self._decide(stamp)
            return
        now = self._clock()
        report, context = load_certificate(certificate, now)
        if _digest(certificate.files) != digest:
            # OpenSSL has read the files a second time, and may have found others.
            self._seen = None
            return
        reasons = _reasons_against(report, self._report, now)
        if reasons:
            self._decide(stamp, self._monotonic() + RETRY_SECONDS)
        else:
            self._decide(stamp)
            self._report, self._digest, self.context = report, digest, context
        if not reasons or digest != self._refused:
            self._tell(
                CertificateRenewal(
                    at=now, report=report, reasons=reasons, expires_at=self._report.expires_at
                )
            )
        self._refused = digest if reasons else b""

    def _decide(self, stamp: Stamp, retry_at: float = math.inf) -> None:
        self._decided, self._retry_at = stamp, retry_at

    def _tell(self, renewal: CertificateRenewal) -> None:
        if renewal.reasons:
            logger.error(
                "The changed files of the client certificate are refused. New connections use the "
                "certificate from before, which is valid until %s. %s",
                renewal.expires_at,
                " ".join(finding.text for finding in renewal.reasons),
            )
        else:
            logger.info(
                "New connections use the changed files of the client certificate: %s, valid until "
                "%s.",
                renewal.report.subject,
                renewal.expires_at,
            )
        for reference in tuple(self._listeners):
            if (listener := reference()) is not None:
                listener(renewal)


def _reasons_against(
    new: CertificateReport, old: CertificateReport, now: datetime
) -> tuple[Finding, ...]:
    """Return the rules that a new certificate breaks and the old one keeps.

    A shorter validity is none: it may be that of the next authority, or an operator returns to the
    certificate before.
    """
    fatal = tuple(finding for finding in new.findings if finding.fatal)
    if fatal or old.expires_at is None or old.expires_at < now:
        return fatal
    accepted = {Rule.DAYS_LEFT, *(finding.rule for finding in old.findings)}
    return tuple(finding for finding in new.findings if finding.rule not in accepted)


def _stamp(files: Sequence[Path]) -> Stamp:
    return tuple(map(_stamp_of, files))


def _stamp_of(file: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)  # noqa: PTH116  # it costs a third of the method of `Path`
    except (OSError, ValueError):
        return None
    # A tool may restore the time of modification, but not the time of change.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _digest(files: Sequence[Path]) -> bytes:
    return hashlib.sha256(b"".join(map(_digest_of, files))).digest()


def _digest_of(file: Path) -> bytes:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except (OSError, ValueError):
        return b""


_sources: WeakSet[ContextSource] = WeakSet()


def _reset_all_after_fork() -> None:
    for source in list(_sources):
        source.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
