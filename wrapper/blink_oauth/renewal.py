"""The TLS context for new connections, renewed when the client certificate changes.

A tool may write the files one after the other, in any order, and in pieces. So changed files are
read only once they have been the same at two looks, or for a minute, and what they hold is used
only if it is a whole pair that is no worse than the one in use. Otherwise the pair in use goes on.
A function that returns contexts is called instead, less often.
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
from typing import TypeAlias
from weakref import WeakMethod, WeakSet

from attrs import frozen

from .certificate import Finding, Rule
from .settings import Settings
from .tls import Certificate, CertificateReport, load_certificate, require_usable

__all__ = ["CertificateRenewal", "ContextSource"]

LOOK_SECONDS = 1.0
"""The least seconds between two looks at the files."""
QUIET_SECONDS = 60.0
"""Seconds after which a tool has presumably written all files. A file system may have a clock of
its own, so they are many."""
RETRY_SECONDS = 60.0
"""Seconds after which refused files are read again: a certificate may have become valid. A function
that returns contexts is called again after them."""

logger: logging.Logger = logging.getLogger("blink_oauth")

Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]


@frozen(kw_only=True)
class CertificateRenewal:
    """A client certificate that has changed, and is used or refused.

    Attributes:
        at: The time, aware UTC.
        report: The check of the changed certificate; empty for a context.
        reasons: Why it is refused; empty if new connections use it.
        expires_at: The end of the certificate that new connections use, aware UTC, or None for a
            context.
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
        self._next_look = self._interval = math.inf
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
            listener: The method. It is called on the thread of the call that found the change, and
                must not raise.
        """
        with self._choosing:
            existing = [each for each in self._listeners if each() is not None]
            self._listeners = [*existing, WeakMethod(listener)]

    def load(self) -> ssl.SSLContext:
        """Return the context, and load it at the first call.

        Raises:
            InvalidInputError: There is no certificate, or the given context is not strict enough.
            CertificateError: The client certificate cannot be used.
        """
        with self._loading:
            if self.context is None:
                certificate = self._settings.certificate
                if isinstance(certificate, Certificate):
                    stamp, self._digest = _stamp(certificate.files), _digest(certificate.files)
                    report, context = load_certificate(certificate, self._clock())
                    require_usable(report.findings)
                    self._seen = self._decided = stamp
                    self._report, self.context = report, context
                    # Without files there is nothing to look at.
                    self._interval = LOOK_SECONDS if certificate.files else math.inf
                else:
                    self.context = self._settings.ssl_context(now=self._clock())
                    self._interval = RETRY_SECONDS if callable(certificate) else math.inf
                self._next_look = self._monotonic() + self._interval
            return self.context

    def is_due(self) -> bool:
        """Return whether the caller has to call `look`: one caller each time."""
        now = self._monotonic()
        if now < self._next_look:
            return False
        with self._choosing:
            is_first = now >= self._next_look
            if is_first:
                self._next_look = now + self._interval
            return is_first

    def look(self) -> None:
        """Look for another certificate, and use or refuse it. This may block."""
        certificate = self._settings.certificate
        if self._looking.acquire(blocking=False):
            try:
                if isinstance(certificate, Certificate):
                    self._look(certificate)
                else:
                    self._ask()
            finally:
                self._looking.release()

    def _ask(self) -> None:
        try:
            context = self._settings.ssl_context(now=self._clock())
        except Exception as error:  # noqa: BLE001  # it is code of the application
            # The text of the error may contain a secret.
            text = f"The function Settings.certificate has failed: {type(error).__name__}."
            self._report_once(CertificateReport(), (Finding(Rule.READABLE, text),), text.encode())
            return
        is_same, self.context = context is self.context, context
        if is_same:
            self._refused = b""
        else:
            self._report_once(CertificateReport(), (), b"")

    def _look(self, certificate: Certificate) -> None:
        stamp = _stamp(certificate.files)
        if stamp == self._decided and self._monotonic() < self._retry_at:
            return
        if stamp != self._seen:
            self._seen = stamp
            # The next look of a job that sends requests once a day is the one of tomorrow.
            if not _is_quiet(stamp, self._clock()):
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
        self._report_once(report, reasons, digest if reasons else b"")

    def _report_once(
        self, report: CertificateReport, reasons: tuple[Finding, ...], refused: bytes
    ) -> None:
        is_known = refused and refused == self._refused
        self._refused = refused
        if not is_known:
            self._tell(
                CertificateRenewal(
                    at=self._clock(),
                    report=report,
                    reasons=reasons,
                    expires_at=self._report.expires_at,
                )
            )

    def _decide(self, stamp: Stamp, retry_at: float = math.inf) -> None:
        self._decided, self._retry_at = stamp, retry_at

    def _tell(self, renewal: CertificateRenewal) -> None:
        if renewal.reasons:
            logger.error(
                "The changed client certificate is refused. New connections use the one from "
                "before, which is valid until %s. %s",
                renewal.expires_at or "an unknown time",
                " ".join(finding.text for finding in renewal.reasons),
            )
        else:
            logger.info(
                "New connections use the changed client certificate: %s, valid until %s.",
                renewal.report.subject or "an ssl.SSLContext",
                renewal.expires_at or "an unknown time",
            )
        for reference in self._listeners:
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
    # With these it works no worse than the one in use.
    warnings = {Rule.DAYS_LEFT, Rule.CLIENT_AUTHENTICATION_ENDS}
    accepted = warnings.union(finding.rule for finding in old.findings)
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


def _is_quiet(stamp: Stamp, now: datetime) -> bool:
    """Return whether each file is there and was last changed long enough ago."""
    latest = (now.timestamp() - QUIET_SECONDS) * 1e9
    return all(each is not None and max(each[:2]) < latest for each in stamp)


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
