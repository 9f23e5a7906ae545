"""Texts of the trace for steps and results. A token is named by its number and never shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Secret, Token
from blink_oauth_keeper import steps
from blink_oauth_keeper.store.protocol import Record

__all__ = ["describe"]


def describe(value: object) -> str:
    """Return the text for a step or a result."""
    for kind, text in _DESCRIPTIONS.items():
        if isinstance(value, kind):
            return text(value)
    return repr(value) if value is None or isinstance(value, bool) else type(value).__name__


def _name(secret: Secret | None) -> str:
    return secret.reveal().removeprefix("fake-") if secret else "no refresh token"


def _pair(token: Token | None) -> str:
    return f"[{_name(token.access_token)} {_name(token.refresh_token)}]" if token else "nothing"


def _record(record: Record) -> str:
    return (
        f"generation {record.generation} {record.state} {_pair(record.token)} "
        f"attempts {record.attempts} lease {record.lease_left:.1f} pause {record.pause_left:.1f}"
    )


def _release(step: steps.Release) -> str:
    return f"Release {step.state} attempts {step.attempts} pause {step.pause:.1f}"


_DESCRIPTIONS: dict[type, Callable[[Any], str]] = {
    Record: _record,
    Token: _pair,
    BlinkError: lambda error: type(error).__name__,
    steps.Send: lambda step: f"sends {_name(step.refresh_token)}",
    steps.Settle: lambda step: f"Settle {_pair(step.token)}",
    steps.Put: lambda step: f"Put {_pair(step.token)}",
    steps.Revoke: lambda step: f"Revoke {_pair(step.token)}",
    steps.Journal: lambda step: f"Journal {_pair(step.token)}",
    steps.Release: _release,
}
