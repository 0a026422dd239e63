"""HTTP-date (RFC 9110 §5.6.7): the current form, and two obsolete ones that recipients must accept."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_TIME = r"(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})"
_MONTH = r"(?P<month>[a-z]{3})"
_FLAGS = re.IGNORECASE | re.ASCII
# RFC 9111 §4.2: "a cache recipient SHOULD match the field value case-insensitively", and "SHOULD consider a date with a
# zone abbreviation other than GMT to be invalid". The name of the day is redundant, and not checked.
_FORMS: Final = (
    re.compile(rf"[a-z]{{3}}, (?P<day>\d{{2}}) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT", _FLAGS),  # IMF-fixdate
    re.compile(rf"[a-z]{{6,9}}, (?P<day>\d{{2}})-{_MONTH}-(?P<year>\d{{2}}) {_TIME} GMT", _FLAGS),  # RFC 850
    re.compile(rf"[a-z]{{3}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})", _FLAGS),  # asctime
)
_MONTH_NAMES: Final = tuple(name.title() for name in _MONTHS)
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LAST_SECOND: Final = 253402300799  # of the year 9999


_REMEMBER_LENGTH: Final = 64  # characters; no HTTP-date is longer


def parse_http_date(value: str) -> float | None:
    """Unix seconds, or ``None`` if this is not an HTTP-date."""
    # Cached: the Date of a response is parsed several times, and all responses of a second share it.
    return _remembered(value) if len(value) <= _REMEMBER_LENGTH else _parse(value)


def _parse(value: str) -> float | None:
    value = value.strip(" \t")
    for form in _FORMS:
        found = form.fullmatch(value)
        if found is not None:
            break
    else:
        return None
    month = _MONTHS.get(found["month"].lower())
    if month is None:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        # RFC 9110 §5.6.7: a two-digit year "that appears to be more than 50 years in the future" is in the past.
        # POSIX's pivot (69) gives the same for all dates in use, without a clock.
        year += 1900 if year >= 69 else 2000
    day, hour, minute, second = (int(found[part]) for part in ("day", "hour", "minute", "second"))
    # RFC 9110 §5.6.7: 60 is a leap second, which datetime does not support.
    leap = second == 60
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() + leap


_remembered = lru_cache(maxsize=1024)(_parse)


def format_http_date(t: float) -> str:
    """IMF-fixdate of unix seconds ``t``, in whole seconds, clamped to the years 1970 to 9999."""
    moment = time.gmtime(min(max(0.0, t), _LAST_SECOND))
    # Not strftime, which uses the locale's language.
    return (
        f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02d} {_MONTH_NAMES[moment.tm_mon - 1]} {moment.tm_year:04d} "
        f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} GMT"
    )
