"""When an access token is fresh, and for whom. Pure."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from attrs import frozen

from blink_oauth.tokens import Token

from .profile import TargetProfile
from .store.records import GrantKey, Record, State

__all__ = ["Need", "Windows", "jitter", "still_good", "windows"]

JITTER = 0.25
"""Share of the advisory window over which the grants of a fleet spread their refreshes."""


@frozen
class Need:
    """What somebody wants of a token.

    Attributes:
        validity: Seconds that it must still live.
        beyond: A generation that was refused at a bank's API: only a newer one will do.
        eager: Refresh it early if it is time, although it can still be served.
        forced: Only a newer one than the store has now will do, however good that is.
    """

    validity: float = 0.0
    beyond: int = 0
    eager: bool = False
    forced: bool = False


@frozen
class Windows:
    """When an access token is refreshed in the background, is waited for, and is over."""

    advisory_at: datetime
    mandatory_at: datetime
    expires_at: datetime


def jitter(key: GrantKey) -> float:
    """Return a number from 0 to below 1 that is the same for a grant on every machine."""
    grant = key.grant
    text = f"{key.client_id}\0{grant.target_id}\0{grant.username}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def windows(record: Record, token: Token, profile: TargetProfile) -> Windows:
    """Return the windows of a stored access token.

    Both are at most half the lifetime: a token that lives shorter than the windows would otherwise
    be refreshed on every look at it.
    """
    issued_at = record.issued_at
    expires_at = token.expires_at or issued_at + timedelta(seconds=profile.default_lifetime)
    half = max(0.0, (expires_at - issued_at).total_seconds() / 2)
    mandatory_at = expires_at - timedelta(seconds=min(profile.mandatory, half))
    early = min(profile.advisory, half) * (1 - JITTER * jitter(record.key))
    return Windows(
        min(expires_at - timedelta(seconds=early), mandatory_at), mandatory_at, expires_at
    )


def still_good(record: Record, need: Need, profile: TargetProfile, now: datetime) -> bool:
    """Say whether the stored access token can be served at all.

    `need.validity` counts as at most half the lifetime, as the windows do.
    """
    token = record.token
    if token is None or record.state is State.REVOKED or record.generation <= need.beyond:
        return False
    expires_at = windows(record, token, profile).expires_at
    half = (expires_at - record.issued_at) / 2
    return expires_at - now > max(timedelta(0), min(timedelta(seconds=need.validity), half))
