"""Whom we trust to have issued the server's certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from attrs import evolve

from blink_oauth.settings import Settings
from blink_oauth.tls import ClientCertificate

from .check import Check, failed, passed

__all__ = ["authorities_check", "without_certificate"]


def authorities_check(ca: Path | None) -> Check:
    """Look whether the authorities can be loaded.

    Args:
        ca: Their file, or None for those of the operating system.
    """
    name = "server_authorities"
    try:
        _trusting(ca)
    except (OSError, ssl.SSLError):
        return failed(
            name,
            f"The authorities in {ca} cannot be read.",
            "Name a file with the PEM certificates of the server's authorities that the user of "
            "this process may read, or none to trust those of the operating system.",
        )
    return passed(name, f"The authorities in {ca} are trusted." if ca else "The system's own.")


def without_certificate(settings: Settings) -> Settings | None:
    """Return the same settings for somebody who has no client certificate.

    The server is verified by the same authorities; None if they cannot be read.
    """
    certificate = settings.certificate
    if isinstance(certificate, ssl.SSLContext):
        context = _trusting(None)
        known = b"".join(certificate.get_ca_certs(binary_form=True))
        if known:
            context = _empty()
            context.load_verify_locations(cadata=known)
    else:
        ca = certificate.ca if isinstance(certificate, ClientCertificate) else None
        try:
            context = _trusting(ca)
        except (OSError, ssl.SSLError):
            return None
    return evolve(settings, certificate=context)


def _trusting(ca: Path | None) -> ssl.SSLContext:
    context = _empty()
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(ca)
    return context


def _empty() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
