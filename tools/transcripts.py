"""What differs from run to run in the output of the command, and what the pages have instead."""

from __future__ import annotations

import re

_VARIABLE = (
    (r"localhost:\d+", "localhost:8443"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:8080"),
    # The rest of the URL has a new state each time, and a terminal wraps it.
    (r"(/authorize\?response_type=code&)[^ ]+(?=\n[A-Z])", r"\1…"),
    (r"[^ =']*/blink-sandbox-\w+", "/tmp/blink-sandbox"),  # noqa: S108 - only printed
    (r"[^ =']*/newcomer-\w+", "/home/you"),
    (r"\d{4}-\d\d-\d\d", "2026-01-01"),
    (r"\d\d:\d\d:\d\d", "12:00:00"),
    (r"to \d s\.", "to 0 s."),
)
_CORRELATION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def normalized(text: str, ids: dict[str, str] | None = None) -> str:
    """Return output with fixed values for ports, ids, dates and folders.

    Args:
        text: The output.
        ids: The fixed value of each correlation id of earlier output; new ones are added.
    """
    for pattern, replacement in _VARIABLE:
        text = re.sub(pattern, replacement, text)
    known = {} if ids is None else ids
    return _CORRELATION_ID.sub(
        lambda found: known.setdefault(found[0], f"00000000-0000-4000-8000-{len(known) + 1:012}"),
        text,
    )
