"""The stored grants whose consents a login may end at the bank."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from blink_oauth.context import Grant
from blink_oauth_keeper.profile import TargetProfile
from blink_oauth_keeper.status import status_of
from blink_oauth_keeper.store.protocol import GrantKey

from .output import grant_name

if TYPE_CHECKING:
    from blink_oauth_keeper import Record, TokenStore

__all__ = ["consents_at_risk"]

PAGE = 500
"""Records of a target that are read; it may have a hundred thousand."""
NAMED = 3
"""Usernames that the warning names."""
FIRST_USERNAME = "\x01"
"""No other username comes before it."""


def consents_at_risk(
    store: TokenStore,
    key: GrantKey,
    own: Record | None,
    profiles: Mapping[str, TargetProfile],
    now: datetime,
) -> str:
    """Return what a consent may end at the bank, or an empty text if that is nothing.

    Args:
        store: The store.
        key: The client, and the grant that the customer is to consent to.
        own: The record of that grant, or None if there is none.
        profiles: Profiles of single targets, by target id.
        now: The current time, timezone-aware.

    Raises:
        StoreError: The store cannot be used.
    """
    target_id = key.grant.target_id
    profile = profiles.get(target_id, TargetProfile())

    def is_in_force(record: Record) -> bool:
        return not status_of(record, profile, now).needs_consent

    sentences = []
    if own is not None and is_in_force(own):
        sentences.append(
            f"{grant_name(key.grant)} is stored and needs no consent. At some banks a second "
            "consent ends the first, even if this login then fails."
        )
    page = store.records(
        key.client_id, after=GrantKey(key.client_id, Grant(target_id, FIRST_USERNAME)), limit=PAGE
    )
    usernames = [
        record.key.grant.username
        for record in page
        if record.key.grant.target_id == target_id and record.key != key and is_in_force(record)
    ]
    if usernames:
        # After a full page there may be more.
        number = f"{len(usernames)}{' or more' * (len(page) == PAGE)}"
        names = ", ".join(usernames[:NAMED]) + (", …" if len(usernames) > NAMED else "")
        sentences.append(
            f"The store has grants of other usernames at {target_id}: {number} ({names}). If one "
            "belongs to the same contract at the bank, the new consent may end it."
        )
    return " ".join(sentences)
