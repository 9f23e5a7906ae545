"""What can be said of a grant without showing a secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from attrs import frozen

from blink_oauth.context import Grant

from .policy import Need, is_usable, windows
from .profile import TargetProfile
from .store.protocol import Record, State, TokenStore

__all__ = ["GrantStatus", "status_of", "statuses_of"]

PAGE = 500


@frozen(kw_only=True)
class GrantStatus:
    """How a grant is doing.

    Attributes:
        grant: The grant.
        state: Where it stands.
        usable: Whether the stored access token can still be used.
        needs_consent: Whether only the customer can help, now or once the access token expires.
        expires_at: When the access token expires, aware UTC; None if nothing is stored.
        refresh_at: From when it is refreshed in the background, aware UTC.
        idle_until: Until when the refresh token lives if nobody uses it, aware UTC; None without
            one.
        generation: Counts what was stored for the grant.
        consent: Counts the customer's consents.
        attempts: How often the refresh token was presented without a clear answer.
        retry_in: Seconds before another attempt is possible, 0 for now.
        error: The class of the last error, None after a success.
        correlation_id: The id of the last call, for the bLink support.
        updated_at: When the record was last written, aware UTC.
    """

    grant: Grant
    state: State
    usable: bool
    needs_consent: bool
    expires_at: datetime | None
    refresh_at: datetime | None
    idle_until: datetime | None
    generation: int
    consent: int
    attempts: int
    retry_in: float
    error: str | None
    correlation_id: str | None
    updated_at: datetime


def status_of(record: Record, profile: TargetProfile, now: datetime) -> GrantStatus:
    """Tell the status from a record.

    Args:
        record: The record as it was just read.
        profile: What is known of the target.
        now: The present moment, aware.
    """
    token = record.token
    span = windows(record, token, profile) if token else None
    spent = profile.rotates and record.attempts > 1 and record.state is not State.REFRESHING
    over = record.state in {State.NEEDS_CONSENT, State.REVOKED}
    return GrantStatus(
        grant=record.key.grant,
        state=record.state,
        usable=is_usable(record, Need(), profile, now),
        needs_consent=over or spent or token is None or token.refresh_token is None,
        expires_at=span.expires_at if span else None,
        refresh_at=span.advisory_at if span else None,
        idle_until=record.idle_until,
        generation=record.generation,
        consent=record.consent,
        attempts=record.attempts,
        retry_in=max(record.lease_left, record.pause_left),
        error=record.error,
        correlation_id=record.correlation_id,
        updated_at=record.updated_at,
    )


def statuses_of(
    store: TokenStore,
    client_id: str,
    profile_of: Callable[[str], TargetProfile],
    now: Callable[[], datetime],
) -> Iterator[GrantStatus]:
    """Tell how all grants of a client are doing, sorted by target and username.

    Args:
        store: Where they are.
        client_id: Whose grants.
        profile_of: Returns what is known of a target.
        now: Tells the present moment, aware.

    Raises:
        StoreError: The store cannot be used.
    """
    last = None
    while True:
        page = store.records(client_id, after=last, limit=PAGE)
        for record in page:
            yield status_of(record, profile_of(record.key.grant.target_id), now())
        if len(page) < PAGE:
            return
        last = page[-1].key
