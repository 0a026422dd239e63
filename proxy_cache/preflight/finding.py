"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
WARNING: Final = "warning"
"""It starts, but there is something to know."""
FAULT: Final = "fault"
"""It does not start, does not do what it was told to, or is open to others on the machine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``subject``: an option where one is to blame; ``text``: one line."""

    subject: str
    level: str
    text: str
