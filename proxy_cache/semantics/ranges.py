"""Range requests against a whole stored body (RFC 9110 §14): one range of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from .dates import parse_http_date
from .headers import Headers
from .validation import entity_tag, strong_match

_SPEC: Final = re.compile(r"([0-9]*)-([0-9]*)")
_MOST_DIGITS: Final = 18
_FAR: Final = 10**_MOST_DIGITS  # more bytes than any body has; int() refuses very long numbers


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes from ``start`` up to, and without, ``stop``."""

    start: int
    stop: int


def single_range(request: Headers, response: Headers, length: int) -> ByteRange | Literal["unsatisfiable"] | None:
    """What the Range header of a GET asks of a 200 with a body of ``length`` bytes.

    ``None``: answer with all of it. RFC 9110 §14.2: "A server MAY ignore the Range header field", and here it does when
    the field is malformed, in another unit, or for several ranges.
    """
    values = request.get_all("range")
    if len(values) != 1 or not _if_range_holds(request, response):
        return None
    unit, equals, specs = values[0].partition("=")
    # RFC 9110 §14.1: range units are compared without regard to case.
    if not equals or unit.strip(" \t").lower() != "bytes":
        return None
    # RFC 9110 §5.6.1.2: a recipient ignores empty members of a list.
    members = [member for member in (part.strip(" \t") for part in specs.split(",", 2)) if member]
    match = _SPEC.fullmatch(members[0]) if len(members) == 1 else None
    if match is None:
        return None
    first, last = match[1], match[2]
    if first:
        start = _number(first)
        stop = _number(last) + 1 if last else length
        if last and stop <= start:
            return None  # RFC 9110 §14.1.1: "An int-range is invalid if the last-pos value is present and less"
        if start >= length:
            return "unsatisfiable"  # RFC 9110 §14.1.2: satisfiable if first-pos is less than the current length
        return ByteRange(start, min(stop, length))
    if not last:
        return None
    suffix = _number(last)
    if suffix == 0:
        return "unsatisfiable"  # RFC 9110 §14.1.2: satisfiable "with a non-zero suffix-length"
    if length == 0:
        return None  # satisfiable, but Content-Range can't say so
    # RFC 9110 §14.1.2: "If the selected representation is shorter than the specified suffix-length, the entire
    # representation is used."
    return ByteRange(max(0, length - suffix), length)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else _FAR


def _if_range_holds(request: Headers, response: Headers) -> bool:
    """RFC 9110 §13.1.5: the parts that the client has must be of the very representation that we have."""
    value = request.get("if-range")
    if value is None:
        return True
    tag = entity_tag(response)
    if value.startswith(('"', "W/")):
        return tag is not None and strong_match(value, tag)
    # "If the HTTP-date validator provided is not a strong validator in the sense defined by Section 8.8.2.2, the
    # condition is false": Date has to be at least a second later, or the file may have changed again in the second it
    # was read in. "If [it] exactly matches the Last-Modified field value […], the condition is true."
    wanted = parse_http_date(value)
    modified = parse_http_date(response.get("last-modified") or "")
    date = parse_http_date(response.get("date") or "")
    return wanted is not None and wanted == modified and date is not None and date - wanted >= 1


def content_range(r: ByteRange, length: int) -> str:
    """The Content-Range of a 206 (RFC 9110 §14.4)."""
    return f"bytes {r.start}-{r.stop - 1}/{length}"
