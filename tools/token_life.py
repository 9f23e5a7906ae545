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
    State.ACTIVE: (100, 116),
    State.REFRESHING: (100, 252),
    State.NEEDS_CONSENT: (392, 252),
    State.UNCERTAIN: (100, 400),
    State.REVOKING: (100, 520),
    State.REVOKED: (392, 520),
    State.FORGOTTEN: (392, 640),
}
"""The centers of the boxes; each is 140 wide and 44 high."""
ARROWS = {
    (State.ACTIVE, State.REFRESHING): ("M80 138 V222", (72, 184, "end")),
    (State.REFRESHING, State.ACTIVE): ("M120 230 V146", (130, 178, "start")),
    (State.REFRESHING, State.NEEDS_CONSENT): ("M170 252 H314", (242, 244, "middle")),
    (State.REFRESHING, State.UNCERTAIN): ("M120 274 V370", (130, 306, "start")),
    (State.UNCERTAIN, State.REFRESHING): ("M80 378 V282", (72, 332, "end")),
    (State.REVOKING, State.REVOKED): ("M170 520 H314", (242, 512, "middle")),
    (State.REVOKING, State.FORGOTTEN): ("M100 542 V640 H314", (242, 632, "middle")),
    (State.REVOKED, State.FORGOTTEN): ("M372 542 V610", (364, 586, "end")),
    (State.FORGOTTEN, State.REVOKED): ("M412 618 V550", (420, 586, "start")),
}
"""The path of each arrow between two states; the place of its first line of text, and its side."""
FRAME = frozenset({State.ACTIVE, State.REFRESHING, State.UNCERTAIN, State.NEEDS_CONSENT})
STYLE = """
.life { width: 100%; max-width: 500px; height: auto; font: 15px var(--font-stack, sans-serif); }
.life rect, .life path { fill: none; stroke: var(--color-foreground-secondary, #555); }
.life .state { fill: var(--color-background-secondary, #eee); }
.life .frame { stroke-dasharray: 4 4; }
.life text { fill: var(--color-foreground-primary, #000); }
.life .name { font-family: var(--font-stack--monospace, monospace); font-weight: 600; }
.life .tip { fill: var(--color-foreground-secondary, #555); stroke: none; }
"""


def arrow(path: str, place: tuple[int, int, str], *lines: str) -> str:
    """Return an arrow, and lines of text beside it."""
    x, y, side = place
    texts = (
        f'<text x="{x}" y="{y + 18 * row}" text-anchor="{side}">{line}</text>'
        for row, line in enumerate(lines)
    )
    return f'<path d="{path}" marker-end="url(#life-tip)"/>{"".join(texts)}'


def box(state: State) -> str:
    """Return the box of a state."""
    x, y = CENTERS[state]
    return (
        f'<rect class="state" x="{x - 70}" y="{y - 22}" width="140" height="44" rx="8"/>'
        f'<text class="name" x="{x}" y="{y + 5}" text-anchor="middle">{state}</text>'
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
    return f"""<svg class="life" role="img" viewBox="0 0 500 680"
 aria-labelledby="life-title life-words"><title id="life-title">The states of a grant</title>
<desc id="life-words">{words}.</desc><style>{STYLE}</style>
<defs><marker id="life-tip" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="8" markerHeight="8"
 orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>
<rect class="frame" x="10" y="66" width="480" height="374" rx="12"/>
<circle class="tip" cx="100" cy="18" r="7"/>
{arrow("M100 25 V86", (112, 46, "start"), "authorize, from each state")}
{arrow("M100 440 V490", (112, 472, "start"), "revoke or forget, from each of these")}
{"".join(arrows)}{"".join(map(box, sorted(reached)))}
</svg>"""
