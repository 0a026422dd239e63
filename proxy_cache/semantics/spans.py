"""Spans of bytes: the parts of a body that are present, the gaps between them, and the span to request next.

A span is half-open: ``start`` is its first byte, ``stop`` the first one after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple


class Span(NamedTuple):
    """Bytes from ``start`` up to ``stop`` (exclusive)."""

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
        """With another span. Only the spans that it touches are visited."""
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
        """Bytes in all spans."""
        return sum(span.stop - span.start for span in self)

    def span_with(self, offset: int) -> Span | None:
        """The span that contains ``offset``."""
        before = bisect_right(self, (offset, _END)) - 1
        return self[before] if before >= 0 and offset < self[before].stop else None

    def covers(self, start: int, stop: int) -> bool:
        before = bisect_right(self, (start, _END)) - 1
        return start >= stop or (before >= 0 and stop <= self[before].stop)

    def around(self, offset: int) -> Span:
        """The gap that contains ``offset``, from the end of the span before to the start of the span after it. Without
        a span after it, the gap has no end."""
        after = bisect_right(self, (offset, _END))
        start = self[after - 1].stop if after else 0
        return Span(start, self[after].start if after < len(self) else _END)

    def first_missing(self, start: int, stop: int) -> int | None:
        """The first byte from ``start`` to ``stop`` that is in no span."""
        span = self.span_with(start)
        offset = start if span is None else span.stop
        return offset if offset < stop else None


_END: Final = 1 << 62


def span_to_ask_for(
    offset: int, stop: int, taken: Spans, length: int | None, *, block: int, max_size: int, whole_gap: bool = False
) -> Span:
    """The span to request from the origin if ``offset`` is missing and bytes up to ``stop`` are needed.

    Whole blocks of ``block`` bytes (0: just the needed bytes), at most ``max_size`` bytes (but one block; without
    blocks, 0: no limit), nothing that is ``taken`` (present or pending), and nothing beyond ``length``, if that is
    known. ``whole_gap``: the whole gap.
    """
    gap = taken.around(offset)
    end = gap.stop if length is None else min(gap.stop, length)
    if whole_gap:
        return Span(gap.start, end)
    start = offset
    if block:
        start = max(offset // block * block, gap.start)
        stop = -(-stop // block) * block
        max_size = max(max_size // block, 1) * block
        # Counted from the start of a block, so that the next span begins at one.
        stop = min(stop, start // block * block + max_size)
    elif max_size:
        stop = min(stop, start + max_size)
    return Span(start, min(stop, end))
