"""Removes secrets from the texts of a server that an error repeats (RFC 6749 section 10.14).

A known secret is struck out in the forms in which servers return it, and so is any long random run:
it may be a secret that is not known here. A text that still shares a part with a known secret is
left out whole, also if it does so only after its encodings are undone.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from unicodedata import normalize
from urllib.parse import quote, quote_plus, unquote

__all__ = ["LEFT_OUT", "Redactor"]

MAX_TEXT = 300
"""Characters of a text that an error repeats."""
MAX_READ = 4_000
"""Characters of a text, and of a secret, that are looked at."""

STRUCK_OUT = "***"
LEFT_OUT = f"{STRUCK_OUT} (left out: it resembles a secret)"

RUN = 8
"""Characters in a row that a text may not share with a secret. A run of letters may be a word, and
has to be twice as long, unless the whole secret consists of letters."""
SHORTEST_PART = 5
"""A shorter secret is only struck out, in its known forms."""
SHORTEST_INSIDE_A_WORD = 4
"""A shorter secret is struck out only where it stands alone: it is a part of many words."""

MAX_DEPTH, MAX_VIEWS = 3, 64
"""Encodings within each other that are undone, and texts that are compared at most."""

JOSE = r"eyJ[\w-]{5,}(?:\.[\w-]*)+"
RANDOM = r"[A-Za-z0-9_+-]{20,}={0,2}"
LOOKS_SECRET = re.compile(rf"{JOSE}|{RANDOM}", re.ASCII)


class Redactor:
    """Returns a text without secrets and control characters, or `LEFT_OUT`.

    Args:
        secrets: The secrets that are known.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets = frozenset(secrets)
        spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
        # The longest first: a short secret may be part of a longer one.
        self._spellings = sorted(spellings, key=len, reverse=True)
        self._parts: dict[int, set[str]] = defaultdict(set)
        for secret in secrets:
            for part in _parts(_squeezed(secret[:MAX_READ])):
                self._parts[len(part)].add(part)

    def __call__(self, text: str) -> str:
        shown = _printable(text[:MAX_READ])
        for spelling in self._spellings:
            shown = _struck_out(shown, spelling)
        shown = LOOKS_SECRET.sub(_random_struck_out, shown)[:MAX_TEXT].strip()
        return LEFT_OUT if any(map(self._has_part, _views(shown))) else shown

    def _has_part(self, text: str) -> bool:
        squeezed = _squeezed(text)
        return any(
            not parts.isdisjoint(_runs(squeezed, size)) for size, parts in self._parts.items()
        )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in normalize("NFKC", text))


def _spellings(secret: str) -> set[str]:
    if len(secret) > MAX_READ:
        return set()
    quoted = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    quoted |= {quote(text, safe="") for text in quoted}
    # Some platforms write the hexadecimal digits of an escape in lower case.
    lower = {re.sub("%(?:25)*..", lambda escape: escape[0].lower(), text) for text in quoted}
    escaped = {json.dumps(secret)[1:-1], secret.replace("/", r"\/"), html.escape(secret)}
    return {secret, _printable(secret)} | quoted | lower | escaped


def _struck_out(text: str, spelling: str) -> str:
    if len(spelling) >= SHORTEST_INSIDE_A_WORD:
        return text.replace(spelling, STRUCK_OUT)
    return re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", STRUCK_OUT, text)


def _random_struck_out(found: re.Match[str]) -> str:
    run = found[0].rstrip("=")
    digits = sum(c.isdigit() for c in run)
    # Names of codes have separators, and UUIDs, which are mostly ids of traces, have one case.
    mixed = run.isalnum() or (run != run.lower() and run != run.upper())
    is_random = run.startswith("eyJ") or (1 < digits < len(run) and mixed)
    return STRUCK_OUT if is_random else found[0]


def _squeezed(text: str) -> str:
    """Return the visible ASCII characters in lower case: nothing between them hides a run."""
    return re.sub("[^!-~]+", "", normalize("NFKD", text)).lower()


def _runs(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _parts(secret: str) -> Iterator[str]:
    """Yield the runs of a secret that no text may contain, in both directions."""
    if len(secret) < SHORTEST_PART:
        return
    letters_only = secret.isalpha() and len(secret) >= RUN
    for text in (secret, secret[::-1]):
        for run in _runs(text, min(RUN, len(text))):
            if letters_only or not run.isalpha():
                yield run
        yield from _runs(text, 2 * RUN)


def _views(text: str) -> Iterator[str]:
    """Yield a text as it is and with its encodings undone, also those within each other."""
    seen = [text]
    latest = seen
    for _ in range(MAX_DEPTH):
        decoded = {decode(view) for view in latest for decode in DECODERS}
        latest = sorted(decoded - set(seen), key=len)[: MAX_VIEWS - len(seen)]
        seen = [*seen, *latest]
    yield from seen


def _without_backslashes(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        if code:
            return chr(int(code, 16))
        return "" if found[3] in "bfnrt" else found[3]

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", character, text)


def _from_quoted_printable(text: str) -> str:
    # A line break was replaced by blanks before.
    return re.sub(r"=(?:([0-9A-Fa-f]{2})|\s+)", lambda m: chr(int(m[1] or "20", 16)), text)


def _from_base64(text: str) -> str:
    standard = re.sub(r"\s+", "", text).replace("-", "+").replace("_", "/")
    pieces = []
    for run in re.findall(r"[A-Za-z0-9+/]{11,}", standard):
        # Where the encoded text begins within the run is not known.
        for start in range(4):
            piece = run[start:]
            pieces.append(b64decode(piece + "A" * (-len(piece) % 4)).decode("latin-1"))
    return " ".join(pieces)


def _from_hexadecimal(text: str) -> str:
    pieces = []
    for run in re.findall(r"(?i:(?:(?:0x|\\x)?[0-9a-f]{2}[\s:,;._-]*){5,})", text):
        digits = re.sub("(?i:0x|[^0-9a-f])", "", run)
        for start in range(2):
            even = digits[start : start + (len(digits) - start) // 2 * 2]
            pieces.append(bytes.fromhex(even).decode("latin-1"))
    return " ".join(pieces)


def _from_decimals(text: str) -> str:
    runs = re.findall(r"(?:\b[0-9]{2,3}\b[\s,;]*){5,}", text)
    return " ".join("".join(chr(int(code)) for code in re.findall("[0-9]+", run)) for run in runs)


DECODERS: tuple[Callable[[str], str], ...] = (
    unquote,
    html.unescape,
    _without_backslashes,
    _from_quoted_printable,
    _from_base64,
    _from_hexadecimal,
    _from_decimals,
)
