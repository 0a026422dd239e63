"""Parts: spans that are asked for in place of the whole, and whether an answer is what was asked for (RFC 9110 §14).

What goes out is mostly more than a client wants: whole blocks. An origin may make something of that which it would not
have made of the client's own range: a 416 since a block reaches past the end, another span, an error. Such an answer
is about our range and not about the client's, who must not get it: the client's own is asked for then
(:attr:`RangeFetch.is_exact`), and whatever comes of that is for the client as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...semantics.headers import Headers
from ...semantics.ranges import RangeSpec, is_multipart, parse_content_range, strong_validator
from ...semantics.spans import Span
from ...store.index import Entry
from ...upstream.response import OriginResponse

PROGRESS_MIN: Final = 64 * 1024
"""Bytes that a 206 has to bring of what is needed, if it doesn't bring all: the rest takes further requests. Or else"""
PROGRESS_SHARE: Final = 8
"""at least this part of it, an eighth: there is an end to those requests, too."""
NOT_ABOUT_THE_RANGE: Final = frozenset({401, 407, 408, 429, 502, 503, 504})
"""Errors for which no other range is worth a try: they speak of the client, or of the moment, and some were tried again
already."""


@dataclass(frozen=True, slots=True)
class RangeFetch:
    """A span to ask for, in place of the whole."""

    ask: RangeSpec
    """What the Range header says."""
    need: RangeSpec
    """What the answer must have of it at least."""
    of: Entry | None = None
    """The entry whose gap it is; ``None`` if nothing is stored yet."""
    field: str | None = None
    """The Range header as it has to go out, because it is signed, or the client's own."""
    is_exact: bool = False
    """Whether it is no more than the client wants: its own range or, of an entry, what is lacking."""
    is_own: bool = False
    """Whether the request is then the client's own, so that the client can have the answer as it came."""

    @property
    def header(self) -> str:
        if self.field is not None:
            return self.field
        first, last = ("" if number is None else number for number in self.ask)
        return f"bytes={first}-{last}"

    def span_of(self, response: OriginResponse) -> tuple[Span, int] | None:
        """The span that a 206 has, and the length of the whole; ``None`` if it isn't what was asked for.

        It may be less than that: all that is needed, or as much of it as makes a further request worth while, if that
        can be put to it (RFC 9110 §15.3.7 has a server send "only a subset of the data requested for reasons of its
        own").
        """
        headers = response.headers
        found = parse_content_range(headers) if not is_multipart(headers) else None
        length = found[1] if found is not None else None
        if found is None or length is None:
            return None
        span = found[0]
        asked, needed = self.ask.within(length), self.need.within(length) or self.ask.within(length)
        if response.content_length not in (None, span.length) or asked is None or needed is None:
            return None
        if not (asked.start <= span.start <= needed.start < span.stop <= asked.stop):
            return None
        if needed.stop <= span.stop:
            return span, length
        progress = span.stop - needed.start
        is_enough = progress >= min(PROGRESS_MIN, needed.length / PROGRESS_SHARE)
        return (span, length) if is_enough and strong_validator(headers) is not None else None

    def is_refused_by(self, response: OriginResponse) -> bool:
        """Whether an error may be about the range that was asked for rather than about what the client wants."""
        status, headers = response.status, response.headers
        if status < 400 or status in NOT_ABOUT_THE_RANGE or self.is_exact:
            return False
        length = unsatisfied_length(headers) if status == 416 else None
        return length is None or self.need.within(length) is not None


def unsatisfied_length(headers: Headers) -> int | None:
    """The length of the whole that the Content-Range of a 416 tells (RFC 9110 §15.5.17)."""
    value = (headers.get("content-range") or "").strip(" \t")
    unit, _, length = value.partition(" ")
    number = length.strip(" \t").removeprefix("*/")
    if unit.lower() != "bytes" or number == length.strip(" \t") or not (number.isascii() and number.isdigit()):
        return None
    return int(number) if len(number) <= 18 else None


def is_passed_off_as_whole(response: OriginResponse, *, to_a_range: bool) -> bool:
    """Whether a 200 has a Content-Range. It has no meaning there (RFC 9110 §14.4), but who answers a range so has most
    likely sent a part of the body under the wrong status: nobody can tell. Where no range was asked for it takes one
    that makes sense, and says that there is more."""
    headers = response.headers
    if "content-range" not in headers or not 200 <= response.status < 300 or response.status == 206:
        return False
    found = parse_content_range(headers)
    return to_a_range or (found is not None and found[0].length != found[1])
