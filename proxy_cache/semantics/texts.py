"""Texts that somebody else has a hand in, for a log line, a header field or an error page."""

from __future__ import annotations

from typing import Final

TEXT_MAX: Final = 200
"""Characters of an error's text that are passed on."""


def brief(text: str, most: int = TEXT_MAX) -> str:
    """``text`` on one line, without control characters, and at most ``most`` characters of it (and an ellipsis).

    What an exception says may quote all that a peer has sent: megabytes of it, with escape sequences for a terminal or
    line breaks that would begin a header field or a log line of their own.
    """
    if len(text) > most:
        text = text[:most] + "..."
    return text if text.isprintable() else "".join([char if char.isprintable() else "?" for char in text])
