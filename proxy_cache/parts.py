"""Parts: spans that are asked for in place of the whole, and whether an answer is what was asked for (RFC 9110 §14)."""

from __future__ import annotations

from dataclasses import dataclass

from .origin_response import OriginError, OriginResponse
from .semantics.ranges import RangeSpec, parse_content_range
from .semantics.spans import Span
from .store.index import Entry


@dataclass(frozen=True, slots=True)
class Part:
    """A span to ask for, in place of the whole."""

    ask: RangeSpec
    """What the Range header says."""
    need: RangeSpec
    """What the answer must have of it at least."""
    of: Entry | None = None
    """The entry whose gap it is; ``None`` if nothing is stored yet."""
    field: str | None = None
    """The Range header as it has to go out, because it is signed."""

    @property
    def header(self) -> str:
        if self.field is not None:
            return self.field
        first, last = ("" if number is None else number for number in self.ask)
        return f"bytes={first}-{last}"

    def span_of(self, response: OriginResponse) -> tuple[Span, int]:
        """The span that a 206 has. It may be less than was asked for, but must have what is needed and nothing else."""
        found = parse_content_range(response.headers)
        length = found[1] if found is not None else None
        if found is None or length is None:
            raise OriginError("http_protocol_error", "a 206 without a usable Content-Range")
        span = found[0]
        asked, needed = self.ask.within(length), self.need.within(length) or self.ask.within(length)
        if response.content_length not in (None, span.length) or asked is None or needed is None:
            raise OriginError("http_protocol_error", "the length of a 206 is not that of its Content-Range")
        if not (asked.start <= span.start <= needed.start and needed.stop <= span.stop <= asked.stop):
            raise OriginError(
                "http_protocol_error", f"asked for {self.header}, answered with bytes {span.start}-{span.stop - 1}"
            )
        return span, length
