"""The status of a grant, without its secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from attrs import frozen

from blink_oauth.context import Grant
from blink_oauth.tokens import Oddity

from .errors import SealError
from .policy import NEVER_VALID, attempt_limit, needs_attention, seconds_to_last_attempt, windows
from .profile import TargetProfile
from .store.moving import is_moved
from .store.protocol import Record, State, TokenStore, is_revoked, notable_oddities

__all__ = ["GrantStatus", "record_pages", "status_of", "statuses_of"]

PAGE = 500


@frozen(kw_only=True)
class GrantStatus:
    """The status of a grant.

    Attributes:
        grant: The grant.
        state: The state of its record; `needs_attention` if the bank keeps refusing to refresh it
            for a reason other than the refresh token, `unreadable` if no key opens its pair.
        usable: Whether the stored access token can still be used.
        needs_consent: Whether a new consent is needed, now or once the access token expires.
        expires_at: When the access token expires, aware UTC; None if the grant is revoked, if its
            pair cannot be opened, or if it was adopted without an access token.
        refresh_at: When the access token becomes stale, aware UTC; None as `expires_at` is.
        idle_until: When the refresh token expires unless it is used, aware UTC; None without one.
        generation: The generation of the record.
        consent: Number of consents of the customer.
        attempts: Number of attempts with the refresh token, including one in progress. An attempt
            that is known not to have spent it is subtracted.
        retry_in: Seconds until another attempt is possible, 0 for now. The last attempt after two
            uncertain outcomes may come sooner, if the bank is known to respond again.
        error: The class of the last error, None after a success.
        correlation_id: The correlation id of the last call, for the bLink support.
        updated_at: When the record was last written, aware UTC.
        oddities: What departed from the contract in the response with the stored pair. A listing
            opens no pair and takes them from the history.
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
    oddities: frozenset[Oddity] = frozenset()


def status_of(record: Record, profile: TargetProfile, now: datetime) -> GrantStatus:
    """Return the status that a record shows.

    Args:
        record: The record as it was just read.
        profile: The profile of the target.
        now: The current time, timezone-aware.
    """
    # A listing opens no pair; the error says of which it is known that they cannot be opened.
    unreadable = record.token is None and record.error == SealError.__name__
    has_pair = not unreadable and not is_revoked(record)
    has_access_token = has_pair and record.expires_at != NEVER_VALID
    times = windows(record, profile) if has_access_token else None
    # Once the lease is over, its call is no longer in progress: the process was killed.
    in_progress = record.state is State.REFRESHING and record.lease_left > 0
    given_up = record.attempts >= attempt_limit(profile) and not in_progress
    retry_in = max(record.lease_left, record.pause_left)
    if record.state is State.UNCERTAIN:
        retry_in = max(retry_in, seconds_to_last_attempt(record, profile, now))
    ended = record.state is State.NEEDS_CONSENT or is_revoked(record)
    return GrantStatus(
        grant=record.key.grant,
        state=State.UNREADABLE if unreadable else _shown_state(record),
        usable=times is not None and now < times.expires_at,
        needs_consent=not (unreadable or is_moved(record))
        and (ended or given_up or record.idle_until is None),
        expires_at=times.expires_at if times else None,
        refresh_at=times.advisory_at if times else None,
        idle_until=record.idle_until,
        generation=record.generation,
        consent=record.consent,
        attempts=record.attempts,
        retry_in=retry_in,
        error=record.error,
        correlation_id=record.correlation_id,
        updated_at=record.updated_at,
        oddities=notable_oddities(record.token) if record.token else record.oddities,
    )


def _shown_state(record: Record) -> State:
    waits = record.state in {State.ACTIVE, State.UNCERTAIN}
    return State.NEEDS_ATTENTION if waits and needs_attention(record) else record.state


def statuses_of(
    store: TokenStore,
    client_id: str,
    profile_of: Callable[[str], TargetProfile],
    now: Callable[[], datetime],
) -> Iterator[GrantStatus]:
    """Yield the status of every grant of a client, sorted by target and username.

    Args:
        store: The store.
        client_id: The client.
        profile_of: Returns the profile of a target.
        now: Returns the current time, timezone-aware.

    Raises:
        StoreError: The store cannot be used.
    """
    for page in record_pages(store, client_id):
        for record in page:
            yield status_of(record, profile_of(record.key.grant.target_id), now())


def record_pages(store: TokenStore, client_id: str) -> Iterator[Sequence[Record]]:
    """Yield the records of a client, sorted by target and username, some hundred at a time.

    Args:
        store: The store.
        client_id: The client.

    Raises:
        StoreError: The store cannot be used.
    """
    last = None
    while True:
        page = store.records(client_id, after=last, limit=PAGE)
        yield page
        if len(page) < PAGE:
            return
        last = page[-1].key
