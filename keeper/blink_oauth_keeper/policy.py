"""Every decision about a grant: pure functions of its record, its profile and the time.

First the windows of an access token, then `decide`, then the pauses after failures.
"""

from __future__ import annotations

import copy
import hashlib
import math
from datetime import UTC, datetime, timedelta

from attrs import evolve, frozen

from blink_oauth.errors import (
    ADVICE_ON_REPLAY,
    BlinkError,
    ForeignResponseError,
    Outcome,
    RevocationError,
)
from blink_oauth.tokens import LONGEST_LIFETIME, Token

from .errors import (
    ConsentNeededError,
    GrantExistsError,
    GrantMovedError,
    NoTokenError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    UnknownGrantError,
)
from .profile import AfterUncertainty, TargetProfile
from .store.moving import is_moved
from .store.protocol import GrantKey, Record, State, is_revoked
from .store.rules import is_same_pair

__all__ = [
    "NEVER_VALID",
    "UNLIMITED",
    "Attempt",
    "AwaitLease",
    "Decision",
    "Need",
    "Refuse",
    "Serve",
    "Windows",
    "adoption_error",
    "attempt_limit",
    "backoff",
    "decide",
    "error_for_callers",
    "foreign_responses",
    "idle_until",
    "is_behind",
    "is_newer",
    "is_usable",
    "jitter",
    "may_be_replaced",
    "needs_attention",
    "pause_after",
    "pending_error",
    "poll_delay",
    "retry_after",
    "seconds_to_last_attempt",
    "should_replay",
    "stays_forgotten",
    "windows",
    "with_refusal",
    "without_foreign_pairs",
]

JITTER = 0.25
"""Share of the advisory window over which the refreshes of many grants are spread."""


@frozen
class Need:
    """What a caller needs of a token.

    Attributes:
        validity: Seconds for which the access token must still be valid.
        newer_than: The newest record whose access token was refused or revoked, or None: only a
            newer pair is served.
        early: Whether to refresh a token that can be served, if it is stale or its last refresh is
            uncertain.
        forced: Whether only a newer token than the stored one is served.
        doubted: The newest record whose access token was refused, but is too young to be refreshed.
    """

    validity: float = 0.0
    newer_than: Record | None = None
    early: bool = False
    forced: bool = False
    doubted: Record | None = None


@frozen
class Windows:
    """The times at which an access token becomes stale, makes callers wait, and expires."""

    advisory_at: datetime
    mandatory_at: datetime
    expires_at: datetime


def jitter(key: GrantKey) -> float:
    """Return a number from 0 to below 1 that is the same for a grant on every machine."""
    grant = key.grant
    text = f"{key.client_id}\0{grant.target_id}\0{grant.username}"
    # A host in FIPS mode has only the SHA-2 and SHA-3 families.
    digest = hashlib.sha256(text.encode()).digest()[:6]
    return int.from_bytes(digest) / 2**48


def windows(record: Record, profile: TargetProfile) -> Windows:
    """Return the windows of a stored access token.

    The advisory and the mandatory window are at most half the lifetime: otherwise a token with a
    shorter lifetime would be refreshed at every use. A lifetime that is not known, or longer than
    any access token's, is the default of the profile.
    """
    issued_at, expires_at = record.issued_at, record.expires_at
    if expires_at is None or (expires_at - issued_at).total_seconds() > LONGEST_LIFETIME:
        expires_at = issued_at + timedelta(seconds=profile.default_lifetime)
    half = max(0.0, (expires_at - issued_at).total_seconds() / 2)
    mandatory_at = expires_at - timedelta(seconds=min(profile.mandatory, half))
    advisory = min(profile.advisory, half) * (1 - JITTER * jitter(record.key))
    advisory_at = min(expires_at - timedelta(seconds=advisory), mandatory_at)
    return Windows(advisory_at, mandatory_at, expires_at)


NEVER_VALID = datetime(1970, 1, 1, tzinfo=UTC)
"""When an access token expired that never was: before the time of any clock."""

LIFETIME_MEMBERS = ("refresh_token_expires_in", "refresh_expires_in")
"""Members of a token response with the lifetime of the refresh token in seconds; no standard."""
LONGEST_IDLE_LIFETIME = 10 * 365 * 86_400.0
"""A longer lifetime, in seconds, is taken for a mistake."""


def idle_until(token: Token, issued_at: datetime, profile: TargetProfile) -> datetime | None:
    """Return when the refresh token of a response expires unused, or None if there is none.

    The lifetime in the response counts, the shortest if it has several; otherwise the profile's.
    """
    if token.refresh_token is None:
        return None
    said = [_lifetime(token.extra.get(name)) for name in LIFETIME_MEMBERS]
    lifetime = min(filter(None, said), default=profile.idle_lifetime)
    return issued_at + timedelta(seconds=min(lifetime, LONGEST_IDLE_LIFETIME))


def _lifetime(value: object) -> float | None:
    # Keycloak sends 0 for a refresh token that does not expire.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds <= LONGEST_IDLE_LIFETIME else None


def is_usable(record: Record, need: Need, profile: TargetProfile, now: datetime) -> bool:
    """Return whether the stored access token can be served at all.

    A `need.validity` above half the lifetime is reduced to half, as the windows are.
    """
    if record.token is None or is_revoked(record) or not is_newer(record, need.newer_than):
        return False
    expires_at = windows(record, profile).expires_at
    half = (expires_at - record.issued_at) / 2
    return expires_at - now > max(timedelta(0), min(timedelta(seconds=need.validity), half))


def is_newer(record: Record, other: Record | None) -> bool:
    """Return whether a record has a newer pair than another record of the grant, or no other is.

    Consent and generation decide, unless the store was restored and a process without the newer
    record counted on from the lower numbers: then the pair that was issued later is the newer one.
    """
    if other is None:
        return True
    numbers, others = (record.consent, record.generation), (other.consent, other.generation)
    return numbers > others or record.issued_at > other.issued_at


def is_behind(stored: Record | None, known: Record) -> bool:
    """Return whether the store went backwards: it has an older record than one that was known.

    Within a generation, the attempts of an uncertain record never become fewer, and only a new
    generation makes a refused or revoked grant usable.

    Args:
        stored: The record as it was just read, or None if there is none.
        known: The newest record of the grant that the process knows.
    """
    if stored is None:
        # Without a pair it is a confirmed revocation: nothing is lost with it.
        return known.token is not None
    if is_newer(stored, known):
        return False
    if stored.state is State.FORGOTTEN and known.token is None:
        # Nothing is left to be revoked.
        return False
    if (stored.consent, stored.generation) != (known.consent, known.generation):
        return True
    return not is_revoked(stored) and (is_revoked(known) or _has_fewer_attempts(stored, known))


def stays_forgotten(stored: Record, known: Record) -> bool:
    """Return whether a newer record is of the consent that was forgotten, and not of a later one.

    Args:
        stored: The record as it was just read.
        known: A newer record of the grant that the process knows.
    """
    is_forgotten = stored.forgetting or stored.state is State.FORGOTTEN
    return is_forgotten and known.consent <= stored.consent


def _has_fewer_attempts(stored: Record, known: Record) -> bool:
    """Return whether a record of the same generation lacks an attempt, or that it was refused."""
    if known.token is None or not is_same_pair(stored.token, known.token):
        # The known pair was superseded before it was stored.
        return False
    if known.state is State.NEEDS_CONSENT:
        return stored.state is not State.NEEDS_CONSENT
    return known.state is State.UNCERTAIN and stored.attempts < known.attempts


@frozen
class Serve:
    """Serve the stored token."""


@frozen
class Attempt:
    """Present the refresh token."""


@frozen
class AwaitLease:
    """Wait: another owner has the lease."""


@frozen
class Refuse:
    """Raise the error: no token that meets the caller's need can be returned now."""

    error: NoTokenError


Decision = Serve | Attempt | AwaitLease | Refuse


def decide(
    record: Record | None,
    need: Need,
    profile: TargetProfile,
    now: datetime,
    *,
    hold_off: float = 0.0,
    responded_ago: float = math.inf,
) -> Decision:
    """Decide what to do about a grant.

    Args:
        record: The record as it was just read, or None if there is none.
        need: What the caller needs.
        profile: The profile of the target.
        now: The current time, timezone-aware.
        hold_off: Seconds for which the target must not be called.
        responded_ago: Seconds since the bank last responded to a call, infinite if it is not known
            to respond.
    """
    if record is None:
        return Refuse(UnknownGrantError("No token is stored for this grant. Authorize it first."))
    if is_revoked(record) or record.token is None:
        return Refuse(_revoked_error(record))
    usable = is_usable(record, need, profile, now)
    times = windows(record, profile)
    due = not usable or now >= times.mandatory_at
    early = need.early and (now >= times.advisory_at or _is_uncertain(record))
    if not due and not early and not need.forced:
        return Serve()
    if record.lease_left > 0:
        return AwaitLease() if due or need.forced else Serve()
    last_attempt_in = seconds_to_last_attempt(record, profile, now, responded_ago)
    error = _attempt_error(record, profile, hold_off, last_attempt_in, now, due=due)
    if error is None:
        return Attempt()
    return Serve() if usable and not need.forced else Refuse(error)


def _revoked_error(record: Record) -> NoTokenError:
    if is_moved(record):
        return moved_error(record)
    done = "forgotten" if record.state is State.FORGOTTEN else "revoked"
    return ConsentNeededError(f"The grant was {done}. Authorize it anew.")


NOT_ADOPTED = "The refresh token was neither stored nor presented."


def adoption_error(record: Record) -> BlinkError | None:
    """Return why a pair must not be adopted in place of a record's, or None if it may be.

    A revocation stays final: a refresh token of the time before it must not come back. After a
    refusal another refresh token may be of a newer consent, or correct a mistake.
    """
    if is_revoked(record) or is_moved(record):
        error = _revoked_error(record)
        return error.replaced(f"{error} {NOT_ADOPTED}")
    if record.state is State.NEEDS_CONSENT:
        return None
    return GrantExistsError(
        f"The store has another pair of this grant (state {record.state.value}). {NOT_ADOPTED} Use "
        "the stored pair with get; a pair of a newer consent comes into the store by a new "
        "authorization.",
        correlation_id=record.correlation_id,
    )


def may_be_replaced(record: Record | None, need: Need) -> bool:
    """Return whether another owner of the lease may be about to replace a doubted token."""
    if record is None or need.doubted is None or is_newer(record, need.doubted):
        return False
    return record.state is State.REFRESHING and record.lease_left > 0


def _is_uncertain(record: Record) -> bool:
    # Attempts without an error: the refresh succeeded, but its refresh token was unreadable.
    return record.state is State.REFRESHING or (record.attempts > 0 and record.error is not None)


UNLIMITED = 2**31 - 1
LAST_ATTEMPT = 3
"""The number of the last attempt with a refresh token, where the profile allows it."""
LAST_ATTEMPT_WAIT = 3_600.0
"""Seconds after the second uncertain outcome until the last attempt, if the bank is not known to
respond again."""


def attempt_limit(profile: TargetProfile) -> int:
    """Return the number of uncertain attempts after which a refresh token is given up."""
    if not profile.rotates:
        return UNLIMITED
    hold = profile.after_uncertainty is AfterUncertainty.HOLD
    return LAST_ATTEMPT if profile.last_attempt and not hold else LAST_ATTEMPT - 1


def seconds_to_last_attempt(
    record: Record, profile: TargetProfile, now: datetime, responded_ago: float = math.inf
) -> float:
    """Return the seconds until a refresh token may be presented for the third and last time.

    Until the access token has expired, there is something to lose. A bank that has responded since
    the second outcome will probably respond to this call too; otherwise an hour must pass. Returns
    0 if the record does not wait for its last attempt.
    """
    is_next = record.attempts == LAST_ATTEMPT - 1 and attempt_limit(profile) == LAST_ATTEMPT
    # The records of a listing have no token.
    if not is_next or (record.token is None and record.expires_at is None):
        return 0.0
    valid = (windows(record, profile).expires_at - now).total_seconds()
    since_outcome = (now - record.updated_at).total_seconds()
    wait = 0.0 if responded_ago < since_outcome else LAST_ATTEMPT_WAIT - since_outcome
    return max(0.0, valid, wait)


def _attempt_error(
    record: Record,
    profile: TargetProfile,
    hold_off: float,
    last_attempt_in: float,
    now: datetime,
    *,
    due: bool,
) -> NoTokenError | None:
    """Return why the refresh token must not be presented now, or None if it may be."""
    facts = {"correlation_id": record.correlation_id}
    if is_moved(record):
        return moved_error(record)
    if record.state is State.NEEDS_CONSENT:
        return ConsentNeededError(
            f"The bank refused the refresh token ({record.error}). Only the customer can help: "
            "start a new authorization. Nothing was sent.",
            **facts,
        )
    if record.token is None or record.token.refresh_token is None:
        return ConsentNeededError(
            "The grant has no refresh token. Start a new authorization. Nothing was sent.",
            **facts,
        )
    uncertainty = _uncertainty_error(record, profile, last_attempt_in, now, due=due)
    if uncertainty is not None:
        return uncertainty
    pause = max(record.pause_left, hold_off)
    if pause > 0:
        return RefreshPausedError(
            f"{_cause_of_pause(record, hold_off)} The next attempt is possible in {pause:.0f} s. "
            "Nothing was sent.",
            retry_after=pause,
            **facts,
        )
    return None


def _uncertainty_error(
    record: Record, profile: TargetProfile, last_attempt_in: float, now: datetime, *, due: bool
) -> RefreshUncertainError | None:
    """Return why a refresh token that may be spent must not be presented now, or None."""
    what, wait, final = "", None, record.attempts >= attempt_limit(profile)
    if final:
        what = (
            f"was presented {record.attempts} times and may be spent. It is not presented again: "
            "start a new authorization."
        )
    elif last_attempt_in > 0:
        wait = max(last_attempt_in, record.pause_left)
        what = (
            "was presented twice and may be spent. It is presented once more when the access "
            f"token has expired and the bank responds again, at the latest in {wait:.0f} s. "
            "Nothing was sent."
        )
    elif not due and (held_for := _held_for(record, profile, now)) is not None:
        wait = max(held_for, record.pause_left)
        what = (
            "was presented and may be spent. It is held back until the access token is about to "
            f"expire, in {wait:.0f} s."
        )
    if not what:
        return None
    return RefreshUncertainError(
        f"The refresh token {what}",
        needs_consent=final,
        retry_after=wait,
        correlation_id=record.correlation_id,
    )


def _held_for(record: Record, profile: TargetProfile, now: datetime) -> float | None:
    """Return the seconds until the access token is about to expire, if the replay waits for it."""
    hold = profile.rotates and profile.after_uncertainty is AfterUncertainty.HOLD
    if not hold or record.attempts != 1:
        return None
    return (windows(record, profile).mandatory_at - now).total_seconds()


def error_for_callers(
    error: BlinkError, record: Record, profile: TargetProfile, now: datetime
) -> BlinkError:
    """Return the error of a failed refresh with what the manager does next, and when.

    The advice of the client is for callers that present refresh tokens themselves.

    Args:
        error: The failure.
        record: The record after it, with its pair.
        profile: The profile of the target.
        now: The current time, timezone-aware.
    """
    if error.needs_consent:
        return error
    if error.outcome is not Outcome.UNCERTAIN:
        return error.replaced(str(error), retry_after=record.pause_left)
    if record.attempts >= attempt_limit(profile):
        wait = None
        plan = "The manager does not present it again: ask the customer for a new consent."
    else:
        last_attempt_in = seconds_to_last_attempt(record, profile, now)
        held_for = _held_for(record, profile, now)
        wait = max(record.pause_left, held_for or 0.0, last_attempt_in)
        plan = (
            f"The manager presents it once more after {wait:.0f} s. Call the manager again then, "
            "and do not present the refresh token yourself."
        )
    text = str(error)
    # An error with a token has another advice, which stays.
    told = text.replace(ADVICE_ON_REPLAY, plan) if ADVICE_ON_REPLAY in text else f"{text} {plan}"
    return error.replaced(told, retry_after=wait)


def _cause_of_pause(record: Record, hold_off: float) -> str:
    if hold_off > record.pause_left:
        return "A call failed before at the same target."
    if needs_attention(record):
        return (
            f"The bank has refused every refresh since {record.refused_since:%Y-%m-%d %H:%M} UTC "
            f"({record.error}), for a reason other than the refresh token. A person must find the "
            "cause: quote the correlation id to the bLink support."
        )
    # A pause without an error follows an unstored result or a missing key, not a failed refresh.
    return f"A refresh failed before ({record.error})." if record.error else "The grant is paused."


def moved_error(record: Record) -> GrantMovedError:
    """Return the error for callers of a grant that another store has, or is about to have."""
    return GrantMovedError(
        "The grant was moved to another store, or is being moved. Nothing was sent, and no consent "
        "is needed: use that store.",
        correlation_id=record.correlation_id,
    )


def pending_error(record: Record) -> RefreshPendingError:
    """Return the error for a caller whose flight has waited too long for a lease or a permit."""
    return RefreshPendingError(
        "The refresh had to wait for a lease, for the target's rate limit, or for an unstored "
        "result of this process. The wait was too long: try again.",
        retry_after=record.lease_left or None,
        correlation_id=record.correlation_id,
    )


FIRST_PAUSE = 1.0
LONGEST_BACKOFF = 60.0
"""The longest `backoff`, in seconds."""
LONGEST_RETRY_AFTER = 3_600.0
LONGEST_SHARED = 60.0
"""Seconds for which later callers get the same failure at most, before the store is read again."""
MAY_STILL_EXECUTE = frozenset({408, 424, 460, 499, 502, 503, 504})
"""The statuses that a gateway may send while the bank still executes the request."""
POLL = (0.05, 0.25)
"""Seconds between two reads of a record while another owner has its lease: first, longest."""


def backoff(failures: int, spread: float) -> float:
    """Return the pause after consecutive failures, in seconds: half fixed, half random.

    Args:
        failures: Number of failures in a row, from 1.
        spread: A random number from 0 to 1, so that retries do not coincide.
    """
    longest = min(LONGEST_BACKOFF, FIRST_PAUSE * 2 ** min(failures - 1, 16))
    return float(longest * (0.5 + 0.5 * spread))


ATTENTION_REFUSALS = 5
"""Refusals in a row, over more than `ATTENTION_PERIOD`, after which a person must look."""
ATTENTION_PERIOD = timedelta(days=1)
LONGEST_ATTENTION_PAUSE = 6 * 3_600.0


def with_refusal(record: Record, error: BlinkError, now: datetime) -> Record:
    """Return a record with one refusal more, if the error is one, otherwise the same record.

    A refusal is a rejection for a reason other than the refresh token. Within a day of the first,
    at most `ATTENTION_REFUSALS` less one are counted: a bad hour of a bank calls no person.
    """
    refused = error.outcome is Outcome.REJECTED and error.token is None
    if not refused or error.retryable or error.needs_consent:
        return record
    since = record.refused_since
    if since is None or not record.issued_at <= since <= now:
        return evolve(record, refusals=1, refused_since=now)
    count = record.refusals + 1
    if now - since <= ATTENTION_PERIOD:
        # Another machine's clock may be ahead: the count never goes down.
        count = max(record.refusals, min(count, ATTENTION_REFUSALS - 1))
    return evolve(record, refusals=count)


def needs_attention(record: Record) -> bool:
    """Return whether a person must look why the bank refuses each refresh of a grant."""
    since = record.refused_since
    # An earlier version of the library stores a new pair and leaves the refusals of the old one.
    is_of_this_pair = since is not None and since >= record.issued_at
    return is_of_this_pair and record.refusals >= ATTENTION_REFUSALS


def pause_after(
    error: BlinkError, *, failures: int, spread: float, lease_left: float, refusals: int = 0
) -> float:
    """Return the pause after a failed refresh, in seconds.

    The `Retry-After` of the response decides, with the backoff as the lower bound. If the bank may
    still be executing the request, the pause lasts at least until the lease ends. After a refusal
    that needs a person's attention it grows from a minute to `LONGEST_ATTENTION_PAUSE`.

    Args:
        error: The failure.
        failures: Number of failures in a row, including this one.
        spread: A random number from 0 to 1.
        lease_left: Seconds until the lease ends.
        refusals: Number of refusals in a row, if this is one of them.
    """
    pause = max(backoff(failures, spread), retry_after(error) or 0.0)
    if error.needs_consent:
        pause = max(pause, LONGEST_BACKOFF)
    if _may_still_execute(error):
        pause = max(pause, lease_left * (1 + 0.1 * spread))
    if refusals >= ATTENTION_REFUSALS:
        doublings = min(refusals - ATTENTION_REFUSALS, 16)
        longest = min(LONGEST_ATTENTION_PAUSE, LONGEST_BACKOFF * 2**doublings)
        pause = max(pause, longest * (0.5 + 0.5 * spread))
    return pause


def _may_still_execute(error: BlinkError) -> bool:
    """Return whether the bank may still be executing the request after this failure."""
    status = _response_status(error)
    if status == 503 and retry_after(error) is not None:
        return False  # The server itself says when to ask again.
    may_still_execute = status is None or status in MAY_STILL_EXECUTE
    return error.outcome is Outcome.UNCERTAIN and may_still_execute


def foreign_responses(error: BlinkError) -> list[ForeignResponseError]:
    """Return the foreign responses in the error of a call, also in those of a revocation."""
    errors = error.errors.values() if isinstance(error, RevocationError) else [error]
    return [each for each in errors if isinstance(each, ForeignResponseError)]


def without_foreign_pairs(error: BlinkError) -> BlinkError:
    """Return a copy of an error without the pairs of foreign responses."""
    stripped = copy.copy(error)
    if isinstance(stripped, RevocationError):
        errors = stripped.errors.items()
        stripped.errors = {kind: without_foreign_pairs(each) for kind, each in errors}
    elif isinstance(stripped, ForeignResponseError):
        stripped.token = None
    return stripped


def _response_status(error: BlinkError) -> int | None:
    """Return the status of the response to the call; a foreign response answers another call."""
    return None if isinstance(error, ForeignResponseError) else error.status


def retry_after(error: BlinkError) -> float | None:
    """Return the `Retry-After` of an error in seconds, an hour at most, or None."""
    if isinstance(error, ForeignResponseError):
        return None
    seconds = error.meta.retry_after if error.meta else None
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER)


def should_replay(error: BlinkError, profile: TargetProfile) -> bool:
    """Return whether to replay the refresh token as soon as the pause is over.

    If the bank rotated and its response was lost, only a prompt replay helps. A 503 or a
    `Retry-After` means that the request was most likely not executed: a later replay is better.
    """
    unavailable = _response_status(error) == 503 or retry_after(error) is not None
    hold = profile.rotates and profile.after_uncertainty is AfterUncertainty.HOLD
    return error.outcome is Outcome.UNCERTAIN and not unavailable and not hold


def poll_delay(polls: int, spread: float) -> float:
    """Return the seconds until a record is read again, while another owner has its lease.

    Args:
        polls: Number of delays before this one.
        spread: A random number from 0 to 1.
    """
    first, longest = POLL
    return float(min(longest, first * 2 ** min(polls, 8)) * (0.75 + 0.5 * spread))
