"""The life of a grant's tokens as a picture, drawn from what the store does.

`transitions` runs a store through its operations and notes each change of the state, so the picture
cannot show a transition that does not happen, or lack one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

from blink_oauth import Grant, Token
from blink_oauth_keeper import GrantKey, MemoryTokenStore, Note, Origin, Record, State
from blink_oauth_keeper.store.protocol import is_revoked, state_before

__all__ = ["picture", "transitions"]

KEY = GrantKey(client_id="CIDX0000000002", grant=Grant(target_id="IIDX00001", username="u"))
NOTE = Note(event="example")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOST_ATTEMPTS = 2
"""More attempts change no state in a way that fewer do not."""

Operation = Callable[[MemoryTokenStore, Record | None], object]


def authorize(store: MemoryTokenStore, record: Record | None) -> None:
    """Store the pair of a new consent."""
    number = record.generation if record else 0
    pair = Token(access_token=f"fake-access-{number}", refresh_token=f"fake-refresh-{number}")
    store.put(KEY, pair, issued_at=NOW, idle_until=None, note=NOTE)


def claim(store: MemoryTokenStore, record: Record | None) -> None:
    """Take the lease."""
    if record:
        store.claim(record, owner=f"owner-{record.attempts}", ttl=30)


def settle(store: MemoryTokenStore, record: Record | None, *, state: State) -> None:
    """Store the pair that was received under a claim."""
    if record and record.state is State.REFRESHING:
        pair = Token(access_token=f"fake-settled-{record.generation}")
        store.settle(record, pair, issued_at=NOW, idle_until=None, note=NOTE, state=state)


def release(store: MemoryTokenStore, record: Record | None, *, state: State | None) -> None:
    """Release a claim without a pair; to the state before it, if none is given."""
    if record and record.state is State.REFRESHING:
        after, left = state or state_before(record), record.attempts - (state is None)
        store.release(record, state=after, attempts=left, pause=0, error=None, note=NOTE)


def revoke(store: MemoryTokenStore, _record: Record | None) -> None:
    """Mark the grant as revoked."""
    store.mark_revoked(KEY, note=NOTE)


def erase(store: MemoryTokenStore, record: Record | None) -> None:
    """Delete the pairs of a revoked grant."""
    if record:
        store.erase(record, journaled=(), note=NOTE)


def forget(store: MemoryTokenStore, record: Record | None) -> None:
    """Delete the pairs of a revoked grant, and all that names the customer."""
    if record and is_revoked(record):
        store.mark_revoked(KEY, note=NOTE, forget=True)
        journaled = [entry.token for entry in store.journal_entries(KEY)]
        store.erase(record, journaled=journaled, note=NOTE)


def receive_late(store: MemoryTokenStore, record: Record | None) -> None:
    """Store a pair that arrives after the grant was forgotten."""
    if record and record.state is State.FORGOTTEN:
        pair = Token(access_token=f"fake-late-{record.generation}")
        store.journal(record, pair, origin=Origin.ERROR)


OPERATIONS: Mapping[str, Operation] = {
    "authorize": authorize,
    "claim": claim,
    "new pair": partial(settle, state=State.ACTIVE),
    "refresh token unreadable": partial(settle, state=State.UNCERTAIN),
    "not executed": partial(release, state=None),
    "may be executed": partial(release, state=State.UNCERTAIN),
    "token refused": partial(release, state=State.NEEDS_CONSENT),
    "revoke": revoke,
    "confirmed": erase,
    "forget": forget,
    "late pair": receive_late,
}


def run(path: tuple[str, ...]) -> Record | None:
    """Return the record of a new store after some operations."""
    store = MemoryTokenStore(clock=lambda: NOW)
    for name in path:
        OPERATIONS[name](store, store.load(KEY))
    return store.load(KEY)


def transitions() -> set[tuple[str, State | None, State]]:
    """Return each operation that changes the state, with the state before it and after it."""
    found: set[tuple[str, State | None, State]] = set()
    known: set[tuple[State, int]] = set()
    pending: list[tuple[str, ...]] = [()]
    while pending:
        path = pending.pop(0)
        before = run(path)
        for name in OPERATIONS:
            after = run((*path, name))
            if after is None or (before and after.state is before.state):
                continue
            found.add((name, before.state if before else None, after.state))
            reached = (after.state, after.attempts)
            if reached not in known and after.attempts <= MOST_ATTEMPTS:
                known.add(reached)
                pending.append((*path, name))
    return found


CENTERS = {
    State.ACTIVE: (115, 190),
    State.REFRESHING: (405, 190),
    State.UNCERTAIN: (715, 130),
    State.NEEDS_CONSENT: (715, 250),
    State.REVOKING: (405, 365),
    State.REVOKED: (715, 365),
    State.FORGOTTEN: (715, 460),
}
"""The centers of the boxes; each is 150 wide and 44 high."""
ARROWS = {
    (State.ACTIVE, State.REFRESHING): ("M190 182 H322", (260, 172)),
    (State.REFRESHING, State.ACTIVE): ("M330 200 H198", (260, 220)),
    (State.REFRESHING, State.UNCERTAIN): ("M480 176 L633 118", (512, 86)),
    (State.UNCERTAIN, State.REFRESHING): ("M640 138 L488 196", (590, 180)),
    (State.REFRESHING, State.NEEDS_CONSENT): ("M480 206 L633 248", (530, 250)),
    (State.REVOKING, State.REVOKED): ("M480 365 H633", (560, 355)),
    (State.REVOKING, State.FORGOTTEN): ("M440 387 L633 455", (515, 440)),
    (State.REVOKED, State.FORGOTTEN): ("M695 387 V430", (665, 416)),
    (State.FORGOTTEN, State.REVOKED): ("M735 438 V395", (775, 420)),
}
"""The path of each arrow between two states, and the middle of its first line of text."""
FRAME = frozenset({State.ACTIVE, State.REFRESHING, State.UNCERTAIN, State.NEEDS_CONSENT})
STYLE = """
.life { width: 100%; min-width: 640px; height: auto; font: 14px var(--font-stack, sans-serif); }
.life rect, .life path { fill: none; stroke: var(--color-foreground-secondary, #555); }
.life .state { fill: var(--color-background-secondary, #eee); }
.life .frame { stroke-dasharray: 4 4; }
.life text { fill: var(--color-foreground-primary, #000); text-anchor: middle; }
.life .name { font-family: var(--font-stack--monospace, monospace); font-weight: 600; }
.life .tip { fill: var(--color-foreground-secondary, #555); stroke: none; }
"""


def arrow(path: str, middle: tuple[int, int], *lines: str) -> str:
    """Return an arrow, and lines of text beside it."""
    x, y = middle
    texts = (f'<text x="{x}" y="{y + 17 * row}">{line}</text>' for row, line in enumerate(lines))
    return f'<path d="{path}" marker-end="url(#life-tip)"/>{"".join(texts)}'


def box(state: State) -> str:
    """Return the box of a state."""
    x, y = CENTERS[state]
    return (
        f'<rect class="state" x="{x - 75}" y="{y - 22}" width="150" height="44" rx="8"/>'
        f'<text class="name" x="{x}" y="{y + 5}">{state}</text>'
    )


def picture() -> str:
    """Return the picture as SVG, in the colors of the page around it.

    Raises:
        ValueError: One of the two arrows from many states would be wrong.
        KeyError: A state or a transition has no place in the picture yet.
    """
    found = sorted(transitions(), key=str)
    names: dict[tuple[State | None, State], list[str]] = {}
    for name, before, after in found:
        names.setdefault((before, after), []).append(name)
    reached = {after for _, after in names}
    for operation, sources, after in (
        ("authorize", {None, *reached} - {State.ACTIVE}, State.ACTIVE),
        ("revoke", {*FRAME}, State.REVOKING),
    ):
        if {before for before, to in names if operation in names[before, to]} != sources:
            raise ValueError(f"{operation} does not lead from {sources} to {after}")
        for before in sources:
            names[before, after].remove(operation)
    arrows = [arrow(*ARROWS[ends], *lines) for ends, lines in names.items() if lines]  # type: ignore[index]
    words = "; ".join(
        f"{name}: {a or 'nothing'} to {b}" for name, a, b in sorted(transitions(), key=str)
    )
    return f"""<div style="overflow-x: auto"><svg class="life" role="img" viewBox="0 0 820 500"
 aria-labelledby="life-title life-words"><title id="life-title">The states of a grant</title>
<desc id="life-words">{words}.</desc><style>{STYLE}</style>
<defs><marker id="life-tip" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="8" markerHeight="8"
 orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>
<rect class="frame" x="20" y="70" width="790" height="225" rx="12"/>
<circle class="tip" cx="115" cy="24" r="7"/>
{arrow("M115 31 V160", (222, 48), "authorize, from each state")}
{arrow("M405 295 V335", (445, 320), "revoke")}
{"".join(arrows)}{"".join(map(box, sorted(reached)))}
</svg></div>"""
