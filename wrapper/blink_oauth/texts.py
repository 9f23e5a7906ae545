"""Texts as shells, editors and secret managers deliver them: line ends, marks, UTF-16."""

from __future__ import annotations

import codecs

__all__ = ["decoded", "trimmed"]

BYTE_ORDER_MARK = "\ufeff"
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF_8, UTF_16 = "utf-8-sig", "utf-16"
for _encoding in (UTF_8, UTF_16):
    # Now, and not at its first use: in a child that is forked while another thread imports a
    # module, the import of this module never ends.
    codecs.lookup(_encoding)


def trimmed(text: str) -> str:
    """Return a text without the byte order mark at its start and the line ends at its end."""
    return text.removeprefix(BYTE_ORDER_MARK).rstrip("\r\n")


def decoded(data: bytes) -> str | None:
    """Return the text of a file, or None if it is no text.

    Args:
        data: UTF-8 with or without a byte order mark, or UTF-16 with one.
    """
    is_utf_16 = data[:2] in UTF_16_MARKS and len(data) > 2
    try:
        text = data.decode(UTF_16 if is_utf_16 else UTF_8)
    except UnicodeDecodeError:
        return None
    # UTF-16 without a mark, and UTF-32, have a zero byte or character almost everywhere.
    return None if "\0" in text else text
