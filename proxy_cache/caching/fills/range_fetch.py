"""Spans to ask for in place of the whole, and whether a response is what was asked for (RFC 9110 §14).

Mostly more is asked for than a client wants: whole blocks. An origin may answer a block in another way than the
client's own range: with a 416 since it reaches past the end, another span, an error. That is about our range, and must
not go to the client: its own range is asked for then (:attr:`RangeFetch.is_exact`), and the response passed on as it
is.
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
"""Bytes of the needed ones that a 206 has to have, if it hasn't all: the rest takes further requests."""
PROGRESS_SHARE: Final = 8
"""Or this part of them, an eighth: the number of those requests is bounded, too."""
NOT_ABOUT_THE_RANGE: Final = frozenset({401, 407, 408, 429, 502, 503, 504})
"""Errors about the client, or the moment: another range is not worth a try."""


@dataclass(frozen=True, slots=True)
class RangeFetch:
    """A span to ask for, in place of the whole."""

    ask: RangeSpec
    """What the Range header says."""
    need: RangeSpec
    """The part of it that the response must have."""
    of: Entry | None = None
    """The entry whose gap it is; ``None`` if nothing is stored yet."""
    field: str | None = None
    """The Range field to send as it is, because it is signed, or the client's own."""
    is_exact: bool = False
    """Whether it is no more than the client wants: its own range, or the missing bytes of an entry."""
    is_own: bool = False
    """Whether the request is then the client's own, so that the response can be passed on as it is."""

    @property
    def header(self) -> str:
        if self.field is not None:
            return self.field
        first, last = ("" if number is None else number for number in self.ask)
        return f"bytes={first}-{last}"

    def span_of(self, response: OriginResponse) -> tuple[Span, int] | None:
        """The span of a 206, and the length of the whole; ``None`` if it isn't what was asked for.

        It may be less ("only a subset of the data requested for reasons of its own", RFC 9110 §15.3.7): all needed
        bytes, or enough of them to make a further request worth while, if that can be combined with it.
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
        """Whether an error may be about our range rather than the client's."""
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
    """Whether a 200 has a Content-Range. It has no meaning there (RFC 9110 §14.4), but in answer to a range it is most
    likely a part of the body under the wrong status: nobody can tell. Without a range in the request it has to parse,
    and say that there is more."""
    headers = response.headers
    if "content-range" not in headers or not 200 <= response.status < 300 or response.status == 206:
        return False
    found = parse_content_range(headers)
    return to_a_range or (found is not None and found[0].length != found[1])
