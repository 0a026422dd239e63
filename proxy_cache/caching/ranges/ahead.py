"""Bytes far ahead of a running fill, fetched beside it.

One client downloads all of a big object slowly, another wants its last 10 kB: the directory of a wheel, the footer of a
Parquet file. At the pace of the fill these are a minute away, and pip gives up after 15 s without a byte. So a reader
watches the pace of its fill. If its next bytes are more than about a second away, they are fetched as a span of their
own, under the strong validator of the fill's response (``If-Range``, RFC 9110 §13.1.5).

These bytes are asked for twice, once here and once by the fill: at most ``cache_max_span`` of them for one fill, then
readers wait. Readers of the same span share it. While a whole is being fetched the spans are in a hidden entry, which
goes when the fill ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ...semantics.ranges import strong_validator
from ...semantics.spans import Span, Spans, span_to_ask_for
from ...semantics.stored import StoredResponse
from ...store.body import Reader
from ...store.index import Entry

if TYPE_CHECKING:
    from ..fills.fill import Fill
    from ..fills.table import FillTable

SOON: Final = 1.0
"""Seconds that a reader waits for its next bytes."""
SOON_IN_PIECE: Final = 4.0
"""The same if the fill is for a range. It is at most ``cache_max_span`` long, and slow in a burst of readers too, which
bytes that are asked for twice would make worse."""
NEXT: Final = 64 * 1024
"""Bytes, at most, that count as the next. A reader that is less far ahead reads along, however slow the fill is:
another request would get the bytes from the same origin."""
LOOK: Final = 0.25
"""Seconds over which a pace is measured, at least."""
WINDOW: Final = 2.0
"""Seconds over which it is measured, at most."""


class Ahead:
    """The pace of one fill, and the spans fetched beside it. Made for the first reader that is ahead of it."""

    __slots__ = ("_fill", "_samples", "_table", "entry", "is_hidden", "refused", "soon", "twice")

    def __init__(self, table: FillTable, fill: Fill, entry: Entry, *, is_hidden: bool) -> None:
        self._table = table
        self._fill = fill
        self.soon = SOON if is_hidden or fill.request.for_whole else SOON_IN_PIECE
        """Seconds that a reader waits."""
        self.entry = entry
        """The entry of the spans."""
        self.is_hidden = is_hidden
        """Whether that is a hidden one, for these spans only."""
        self.twice = 0
        """Bytes asked for beside the fill, so far."""
        self.refused = False
        """The origin sends no spans of this, or has another version by now."""
        self._samples: deque[tuple[float, int]] = deque()

    async def is_far(self, reader: Reader, stop: int) -> bool:
        """Whether the next bytes of this reader, up to ``stop`` at most, are far away. If not, returns when they are
        nearly here."""
        while reader.is_ahead and is_ahead(self._fill, reader.offset):
            if self._seconds_to(min(stop, reader.offset + NEXT)) > self.soon:
                return True
            try:
                async with asyncio.timeout(LOOK):
                    await reader.arrival()
            except TimeoutError:
                pass
        return False

    def _seconds_to(self, offset: int) -> float:
        """Seconds until the fill reaches ``offset`` at its present pace; 0 if that can't be told yet."""
        body = self._fill.body
        assert body is not None
        now, samples = time.monotonic(), self._samples
        while samples and now - samples[0][0] > WINDOW:
            samples.popleft()
        if not samples or now - samples[-1][0] >= LOOK / 2:
            samples.append((now, body.length))
        since, length = samples[0]
        elapsed, arrived = now - since, body.length - length
        if elapsed < (LOOK if arrived else SOON):
            return 0.0
        return (offset - body.length) * elapsed / arrived if arrived else float("inf")

    def span_for(self, offset: int, stop: int) -> Span | None:
        """The span to ask for beside the fill, for the bytes from ``offset`` to ``stop``; ``None`` if the limit is
        reached."""
        settings, fill, entry = self._table.spans, self._fill, self.entry
        left = settings.most - self.twice
        if left <= 0 or self.refused:
            return None
        body = fill.body
        assert body is not None
        taken = self._table.beside(entry, fill).with_span(body.start, body.length)
        ask = span_to_ask_for(
            offset, stop, taken, entry.length, block=settings.block, max_size=min(settings.most, left)
        )
        if ask.length > left:
            ask = span_to_ask_for(offset, stop, taken, entry.length, block=0, max_size=left)
        return ask

    def count(self, span: Span) -> None:
        """This span is being asked for: other readers find it now."""
        self.twice += span.length
        if self.is_hidden:
            self._table.store.keep_object(self.entry)

    def end(self) -> None:
        """The fill has ended: its body is found by its key."""
        if self.is_hidden:
            self._table.forget_beside(self._fill, self.entry)


def ahead_of(table: FillTable, fill: Fill, entry: Entry | None = None) -> Ahead | None:
    """The pace of a fill; ``None`` if nothing may be fetched beside it.

    ``entry``: the one whose gap it fills for a client that wants all of it; ``None`` if it fetches a whole that is not
    stored yet.
    """
    head, body = fill.head, fill.body
    if head is None or body is None or body.total is None or not fill.is_running:
        return None
    is_small = entry is not None and head.fills_gap_of is entry and fill.span.length <= table.spans.block
    if fill.request.private or (is_small and not fill.request.for_whole):
        return None  # in a single block no byte is far away
    if fill.ahead is None:
        response = head.response
        if response.status != 200 or (response.headers.get("accept-ranges") or "").strip().lower() == "none":
            return None
        hidden = entry is None
        if entry is None:
            if fill.request.range_fetch is not None:
                return None  # asked for a range, the origin has sent it all
            # No URL has a fragment in it (RFC 9110 §7.1), so nobody finds it.
            key = f"{fill.request.key}#"
            entry = Entry(table.store.index.new_id(), key, response, body.total, time.time(), Spans())
            table.covers_too(fill, entry)
        fill.ahead = Ahead(table, fill, entry, is_hidden=hidden)
    return fill.ahead if not fill.ahead.refused else None


def is_ahead(fill: Fill, offset: int) -> bool:
    """Whether a reader at ``offset`` is ahead of the fill, and doesn't just read along."""
    return fill.body is not None and offset - fill.body.length >= NEXT


def may_be_combined(fill: Fill) -> bool:
    """Whether a strong validator tells that spans are of the same version (RFC 9111 §3.4)."""
    head = fill.head
    return head is not None and strong_validator(head.response.headers) is not None


def sends_ranges(response: StoredResponse) -> bool:
    """Whether the origin says that it supports ranges (RFC 9110 §14.3)."""
    return (response.headers.get("accept-ranges") or "").strip().lower() == "bytes"
