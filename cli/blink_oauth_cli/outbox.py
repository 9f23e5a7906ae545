"""Undelivered notices, as the command prints them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import asdict

from .output import format_duration, grant_name

if TYPE_CHECKING:
    from blink_oauth_keeper.store.outbox import Notice, OutboxEntry

__all__ = ["about", "entry_json", "next_try", "sentence"]


def about(notice: Notice) -> str:
    """Return the name of the grant or the certificate that a notice is about."""
    if notice.grant is not None:
        return grant_name(notice.grant)
    return f"certificate {notice.certificate}" if notice.certificate else "-"


def next_try(entry: OutboxEntry) -> str:
    """Return when a notice is tried again, as the cell of a table."""
    if entry.is_dead:
        return "dead"
    return f"in {format_duration(entry.due_in)}" if entry.due_in >= 1 else "now"


def sentence(entry: OutboxEntry, now: datetime) -> str:
    """Return a sentence about a notice that is not delivered.

    Args:
        entry: The notice.
        now: The current time, timezone-aware.
    """
    notice = entry.notice
    age = format_duration(max(0.0, (now - notice.at).total_seconds()))
    tries = f"{notice.tries} {'try' if notice.tries == 1 else 'tries'}"
    return (
        f"{about(notice)}: the notice {notice.kind} is {'dead' if entry.is_dead else 'pending'} "
        f"({age} old, {tries})."
    )


def entry_json(entry: OutboxEntry) -> dict[str, object]:
    """Return a notice as JSON shows it."""
    content = asdict(entry.notice, recurse=False)
    grant = content.pop("grant")
    times = {
        name: content[name].isoformat() if content[name] else None for name in ("ends_at", "at")
    }
    return {
        "target_id": grant.target_id if grant else None,
        "username": grant.username if grant else None,
        **content,
        **times,
        "is_dead": entry.is_dead,
        "due_in": entry.due_in,
    }
