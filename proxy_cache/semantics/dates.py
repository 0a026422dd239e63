"""HTTP dates (RFC 9110 §5.6.7)."""

from __future__ import annotations

import calendar
import re
from email.utils import formatdate
from functools import lru_cache

_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, 1)}
_FORMS = (
    re.compile(r"[A-Za-z]{3},? (?P<d>\d{1,2}) (?P<m>[A-Za-z]{3}) (?P<y>\d{4}) (?P<t>\d\d:\d\d:\d\d) GMT", re.ASCII),
    re.compile(r"[A-Za-z]+, (?P<d>\d\d)-(?P<m>[A-Za-z]{3})-(?P<y>\d\d) (?P<t>\d\d:\d\d:\d\d) GMT", re.ASCII),
    re.compile(r"[A-Za-z]{3} (?P<m>[A-Za-z]{3}) (?P<d>[ \d]\d) (?P<t>\d\d:\d\d:\d\d) (?P<y>\d{4})", re.ASCII),
)


@lru_cache(maxsize=1024)
def parse_http_date(value: str) -> float | None:
    """Unix seconds from any of the three formats; ``None`` if it is none of them. Never raises."""
    text = value.strip()
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is None:
            continue
        month = _MONTHS.get(match["m"].lower())
        hour, minute, second = (int(part) for part in match["t"].split(":"))
        day, year = int(match["d"]), int(match["y"])
        if month is None or not (1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
            return None
        if len(match["y"]) == 2:
            # More than 50 years in the future means the century before (§5.6.7); no clock is asked for that here.
            year += 1900 if year >= 77 else 2000
        if year < 1:
            return None
        return float(calendar.timegm((year, month, day, hour, minute, second)))
    return None


def format_http_date(t: float) -> str:
    """Unix seconds as an IMF-fixdate."""
    return formatdate(t, usegmt=True)
