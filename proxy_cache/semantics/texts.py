"""Texts for a log line, a header field or an error page: foreign content, sizes."""

from __future__ import annotations

from typing import Final

TEXT_MAX: Final = 200
"""Characters of an error's text."""


def brief(text: str, length_max: int = TEXT_MAX) -> str:
    """``text`` on one line, without control characters, cut off after ``length_max`` characters with an ellipsis.

    An exception may quote everything that a peer has sent: megabytes of it, with escape sequences for a terminal, or
    line breaks that would start another header field or log line.
    """
    if len(text) > length_max:
        text = text[:length_max] + "..."
    return text if text.isprintable() else "".join([char if char.isprintable() else "?" for char in text])


def human_size(size: float) -> str:
    """Bytes in powers of 1024, as the options have them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
