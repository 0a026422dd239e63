"""Spans of bytes: which parts of a body are here, which are missing, and what to ask the origin for.

A span is half-open: ``start`` is its first byte, ``stop`` the first after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple


class Span(NamedTuple):
    """Bytes from ``start`` up to, and without, ``stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Spans(tuple[Span, ...]):
    """Spans in ascending order that neither overlap nor touch. Immutable."""

    __slots__ = ()

    def __new__(cls, spans: Iterable[tuple[int, int]] = ()) -> Spans:
        joined: list[Span] = []
        for start, stop in sorted(spans):
            if start >= stop:
                continue
            if joined and start <= joined[-1].stop:
                joined[-1] = Span(joined[-1].start, max(stop, joined[-1].stop))
            else:
                joined.append(Span(start, stop))
        return super().__new__(cls, joined)

    def with_span(self, start: int, stop: int) -> Spans:
        """These and one more. The others are not looked at, but for those that it touches."""
        if start >= stop:
            return self
        first, after = bisect_right(self, (start, _END)), bisect_right(self, (stop, _END))
        if first and self[first - 1].stop >= start:
            first -= 1
            start = self[first].start
        if after > first:
            stop = max(stop, self[after - 1].stop)
        return super().__new__(Spans, (*self[:first], Span(start, stop), *self[after:]))

    @property
    def length(self) -> int:
        """Bytes in all of them."""
        return sum(span.stop - span.start for span in self)

    def span_with(self, offset: int) -> Span | None:
        """The span that ``offset`` is in."""
        before = bisect_right(self, (offset, _END)) - 1
        return self[before] if before >= 0 and offset < self[before].stop else None

    def covers(self, start: int, stop: int) -> bool:
        span = self.span_with(start)
        return start >= stop or (span is not None and stop <= span.stop)

    def around(self, offset: int) -> Span:
        """The gap that ``offset`` is in: from the end of the span before it to the start of the one after it, which is
        without end if there is none."""
        after = bisect_right(self, (offset, _END))
        start = self[after - 1].stop if after else 0
        return Span(start, self[after].start if after < len(self) else _END)

    def first_missing(self, start: int, stop: int) -> int | None:
        """The first byte of ``start`` to ``stop`` that is in none of them."""
        span = self.span_with(start)
        offset = start if span is None else span.stop
        return offset if offset < stop else None


_END: Final = 1 << 62


def span_to_ask_for(
    offset: int, stop: int, taken: Spans, length: int | None, *, block: int, most: int, whole: bool = False
) -> Span:
    """What to ask the origin for when ``offset`` is missing and bytes up to ``stop`` are wanted.

    Whole blocks of ``block`` bytes (0: just what is wanted), at most ``most`` bytes of them, nothing that is ``taken``
    (here, or on its way), and nothing beyond ``length``, if that is known. ``whole``: the whole gap.
    """
    gap = taken.around(offset)
    end = gap.stop if length is None else min(gap.stop, length)
    if whole:
        return Span(gap.start, end)
    start = offset
    if block:
        start = max(offset // block * block, gap.start)
        stop = -(-stop // block) * block
        most = max(most // block, 1) * block
        # Counted from a block's start, so that the next span begins at one.
        stop = min(stop, start // block * block + most)
    elif most:
        stop = min(stop, start + most)
    return Span(start, min(stop, end))
