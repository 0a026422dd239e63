"""Range requests and partial responses (RFC 9110 §14, §15.3.7; RFC 9111 §3.3, §3.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from .dates import parse_http_date
from .entity_tags import entity_tag, opaque_tag, strong_match
from .headers import Headers
from .spans import Span

RANGES_MAX: Final = 64
"""Ranges in one request; a request with more gets the whole (RFC 9110 §14.2, §17.15)."""

_SPEC: Final = re.compile(r"([0-9]*+)-([0-9]*+)")
_CONTENT_RANGE: Final = re.compile(r"bytes ++([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_DIGITS_MAX: Final = 18
_FAR: Final = 10**_DIGITS_MAX  # beyond the end of any body; int() refuses very long numbers


class RangeSpec(NamedTuple):
    """A requested range of a body whose length may be unknown.

    ``first`` to ``last`` inclusive, ``first`` to the end (``last`` is ``None``), or the last ``last`` bytes (``first``
    is ``None``).
    """

    first: int | None
    last: int | None

    def within(self, length: int) -> Span | None:
        """The bytes of a body of this length; ``None`` if there are none (RFC 9110 §14.1.2)."""
        first, last = self
        if first is None:
            # "If the selected representation is shorter than the specified suffix-length, the entire representation
            # is used."
            start, stop = max(0, length - (last or 0)), length
        else:
            start, stop = first, length if last is None or last >= length else last + 1
        return Span(start, stop) if start < stop else None


def requested(request: Headers) -> tuple[RangeSpec, ...] | None:
    """The ranges that a GET requests; ``None``: the whole.

    RFC 9110 §14.2: "A server MAY ignore the Range header field", and here it does when the field is malformed, in
    another unit, or asks for more than :data:`RANGES_MAX` ranges.
    """
    values = request.get_all("range")
    if len(values) != 1:
        return None
    unit, equals, specs = values[0].partition("=")
    # RFC 9110 §14.1: range units are compared without regard to case.
    if not equals or unit.strip(" \t").lower() != "bytes":
        return None
    parsed = []
    for part in specs.split(",", 2 * RANGES_MAX):
        member = part.strip(" \t")
        if not member:
            continue  # RFC 9110 §5.6.1.2: a recipient ignores empty members of a list
        match = _SPEC.fullmatch(member)
        if match is None or member == "-":
            return None
        first = _number(match[1]) if match[1] else None
        last = _number(match[2]) if match[2] else None
        if first is not None and last is not None and last < first:
            return None  # RFC 9110 §14.1.1: "An int-range is invalid if the last-pos value is present and less"
        parsed.append(RangeSpec(first, last))
    return tuple(parsed) if 0 < len(parsed) <= RANGES_MAX else None


def select(request: Headers, response: Headers, length: int) -> list[Span] | Literal["unsatisfiable"] | None:
    """The spans that the Range header of a GET selects in a 200 with ``length`` bytes; ``None``: the whole.

    Ranges that lie outside the body are left out (RFC 9110 §15.3.7.2).
    """
    specs = requested(request)
    return spans_of(specs, length) if specs is not None and if_range_holds(request, response) else None


def spans_of(specs: Sequence[RangeSpec], length: int) -> list[Span] | Literal["unsatisfiable"] | None:
    """The spans that these ranges select in a body of ``length`` bytes; ``None``: the whole."""
    spans = [span for span in (spec.within(length) for spec in specs) if span is not None]
    if not spans:
        if length == 0 and any(spec.first is None and spec.last for spec in specs):
            return None  # RFC 9110 §14.1.2 has it satisfiable, but Content-Range can't express it
        return "unsatisfiable"
    if len(spans) > 1 and sum(span.length for span in spans) > length:
        return None  # RFC 9110 §14.2: overlapping ranges are not served one by one
    return spans


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS_MAX else _FAR


def if_range_holds(request: Headers, response: Headers) -> bool:
    """RFC 9110 §13.1.5: whether the client's parts are of our representation."""
    value = request.get("if-range")
    if value is None:
        return True
    tag = entity_tag(response)
    if value.startswith(('"', "W/")):
        return tag is not None and strong_match(value, tag)
    # "If [it] exactly matches the Last-Modified field value […], the condition is true."
    date = parse_http_date(value)
    return date is not None and date == parse_http_date(response.get("last-modified") or "") and _is_strong(response)


def strong_validator(response: Headers) -> str | None:
    """What If-Range can name the very bytes of this response by: a strong entity tag, or else a Last-Modified that is
    one (RFC 9110 §13.1.5). Parts of a response that has none cannot be put together (RFC 9111 §3.4).

    An ETag that is no entity tag (unquoted, most often) leaves it to Last-Modified. A weak one doesn't: "A client MUST
    NOT generate an If-Range header field containing an HTTP-date unless […] the client has no entity tag"."""
    tag = entity_tag(response)
    if tag is not None:
        return None if tag.startswith("W/") else tag
    if len(response.get_all("etag")) > 1:
        return None  # nobody knows which
    return response.get("last-modified") if _is_strong(response) else None


def is_same_representation(one: Headers, other: Headers, *, if_range: bool = False) -> bool:
    """Whether parts of these two are parts of one body (RFC 9111 §3.4: "they share the same strong validator").

    ``if_range``: ``other`` is a 206 to a request whose If-Range named the validator of ``one``. It then need not repeat
    Last-Modified, but has to repeat an entity tag (RFC 9110 §15.3.7: "the sender SHOULD NOT generate other
    representation header fields beyond those required", and ETag is required)."""
    validator = strong_validator(one)
    if validator is None:
        return False
    if validator.startswith('"'):
        tag = entity_tag(other)
        return tag is not None and strong_match(validator, tag)
    return (
        entity_tag(other) is None
        and opaque_tag(other) == opaque_tag(one)
        and other.get("last-modified") in ((validator, None) if if_range else (validator,))
        and len(other.get_all("etag")) <= 1
    )


def _is_strong(response: Headers) -> bool:
    """RFC 9110 §8.8.2.2: Last-Modified is a strong validator if Date is at least a second later, or the file may have
    changed again in the second in which it was read."""
    modified = parse_http_date(response.get("last-modified") or "")
    date = parse_http_date(response.get("date") or "")
    return modified is not None and date is not None and date - modified >= 1


def content_range(span: Span, length: int) -> str:
    """The Content-Range of a 206 (RFC 9110 §14.4)."""
    return f"bytes {span.start}-{span.stop - 1}/{length}"


def parse_content_range(headers: Headers) -> tuple[Span, int | None] | None:
    """The span in a 206, and the complete length if it is given; ``None`` if Content-Range is invalid.

    RFC 9110 §14.4: "A Content-Range field value is invalid if it contains a range-resp that has a last-pos value less
    than its first-pos value, or a complete-length value less than or equal to its last-pos value."
    """
    values = headers.get_all("content-range")
    match = _CONTENT_RANGE.fullmatch(values[0].strip(" \t")) if len(values) == 1 else None
    if match is None:
        return None
    span = Span(int(match[1]), int(match[2]) + 1)
    length = None if match[3] == "*" else int(match[3])
    if span.stop <= span.start or (length is not None and length < span.stop):
        return None
    return span, length


def as_whole(headers: Headers, length: int) -> Headers:
    """The fields of a 200 with the whole body, derived from those of a 206 (RFC 9111 §3.4)."""
    return without_digests(headers).without("content-range", "content-length").add("Content-Length", str(length))


def without_digests(headers: Headers) -> Headers:
    """Without digests of other bytes than those of the message: :data:`DIGESTS`, and those of S3."""
    names = [name for name in headers.names if name in DIGESTS or name.startswith("x-amz-checksum-")]
    return headers.without(*names) if names else headers


DIGESTS: Final = ("content-digest", "content-md5", "digest", "x-ms-content-crc64")
"""Digests of the content of one message (RFC 9530 §2; RFC 1864), which must not be sent with other parts of the body.
``Digest`` (RFC 3230) was meant for the whole, and has been used in both ways. (Repr-Digest, RFC 9530 §3, is of the
whole, and valid with any part.)"""


def is_multipart(headers: Headers) -> bool:
    """Whether a 206 has several parts, each with its own Content-Range (RFC 9110 §14.6)."""
    return (headers.get("content-type") or "").partition(";")[0].strip(" \t").lower() == "multipart/byteranges"


class BodyPart(NamedTuple):
    """One part of a multipart/byteranges body: its header, and the span that follows."""

    head: bytes
    span: Span


def multipart(
    spans: list[Span], length: int, content_type: str | None, boundary: str
) -> tuple[list[BodyPart], bytes, int]:
    """The parts of a 206 for several ranges, the closing delimiter, and Content-Length (RFC 9110 §14.6)."""
    parts: list[BodyPart] = []
    size = 0
    typed = f"Content-Type: {content_type}\r\n" if content_type else ""
    for span in spans:
        start = "\r\n" if parts else ""
        head = f"{start}--{boundary}\r\n{typed}Content-Range: {content_range(span, length)}\r\n\r\n"
        parts.append(BodyPart(head.encode("latin-1"), span))
        size += len(head) + span.length
    end = f"\r\n--{boundary}--\r\n".encode("latin-1")
    return parts, end, size + len(end)
