"""Range requests on a whole stored body (RFC 9110 §14). One range; several are answered with all of it (§14.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .dates import parse_http_date
from .headers import Headers
from .validation import strong_match

_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` to ``stop``, exclusive."""

    start: int
    stop: int


def single_range(request: Headers, response: Headers, length: int) -> ByteRange | Literal["unsatisfiable"] | None:
    """The part asked for; ``None`` if the answer is the whole (no Range, or none that we answer with a part)."""
    text = request.get("range")
    if text is None or not _applies(request, response):
        return None
    match = _RANGE.fullmatch(text.strip())
    if match is None or (not match[1] and not match[2]) or len(match[1]) > 18 or len(match[2]) > 18:
        return None
    if not match[1]:  # the last so many bytes
        suffix = int(match[2])
        if suffix == 0 or length == 0:
            return "unsatisfiable"
        return ByteRange(max(0, length - suffix), length)
    first = int(match[1])
    if match[2] and int(match[2]) < first:
        return None  # invalid, hence ignored (§14.1.1, §14.2)
    if first >= length:
        return "unsatisfiable"
    return ByteRange(first, min(int(match[2]) + 1, length) if match[2] else length)


def _applies(request: Headers, response: Headers) -> bool:
    """If-Range (§13.1.5): a strong tag, or exactly the date of the last modification; else the Range is ignored."""
    condition = request.get("if-range")
    if condition is None:
        return True
    if '"' in condition:
        return strong_match(condition.strip(), response.get("etag") or "")
    asked = parse_http_date(condition)
    return asked is not None and asked == parse_http_date(response.get("last-modified") or "")


def content_range(r: ByteRange, length: int) -> str:
    """The value of Content-Range for a 206 (§14.4)."""
    return f"bytes {r.start}-{r.stop - 1}/{length}"
