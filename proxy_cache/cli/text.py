"""Values as text: safe for a terminal, and short enough for a column.

What a proxy has stored was named by its clients and origins. A URL may have an escape sequence in it, or a character
that turns the direction of writing round: none of them reaches the terminal.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any, Final

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode: controls, formats (directions, joiners), halves of pairs, private, unassigned, separators."""
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


def printable(value: object) -> str:
    """As one line without anything that a terminal acts on: such characters are shown as ``\\x1b`` or ``\\u202e``."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(one) if unicodedata.category(one) in _UNSEEN else one for one in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(value: Any) -> str:
    """Bytes, in powers of 1024 as the options have them; ``-`` for ``None``."""
    if not isinstance(value, (int, float)):
        return "-"
    if abs(value) < 1024:
        return f"{int(value)} B"
    number = float(value)
    for unit in _UNITS:
        number /= 1024
        if abs(number) < 1024 or unit == _UNITS[-1]:
            break
    return f"{number:.1f} {unit}"


def duration(value: Any) -> str:
    """Seconds, in the two largest units: ``1d 4h``, ``3m 20s``, ``0.25s``; ``-`` for ``None``."""
    if not isinstance(value, (int, float)):
        return "-"
    sign, seconds = ("-", -value) if value < 0 else ("", value)
    if seconds < 10:
        return f"{sign}{seconds:.2f}s" if seconds % 1 else f"{sign}{seconds:.0f}s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{sign}{whole // length}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{sign}{whole}s"


def count(value: Any) -> str:
    """``12,345``; ``-`` for ``None``."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else "-"


def share(part: float, whole: float) -> str:
    """``97.3 %``; ``-`` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def moment(value: Any, now: datetime | None = None) -> str:
    """A time in ISO 8601 with how far off it is: ``2026-11-28T03:00:00Z (in 20m)``; anything else as it is."""
    if value is None:
        return "-"
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return printable(value)
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    off = (at - (now or datetime.now(UTC))).total_seconds()
    return f"{printable(value)} ({f'in {duration(round(off))}' if off > 0 else f'{duration(round(-off))} ago'})"
