"""Bytes far ahead of a running fill, which are fetched beside it.

Somebody downloads all of a big object slowly, somebody else wants its last 10 kB: the directory of a wheel, the footer
of a Parquet file. At the pace of the fill these are a minute away, and pip gives up after 15 s without a byte. So a
reader looks at the pace of what it waits for, all the time. If what it needs next is more than about a second away, it
is fetched as a span of its own, under the strong validator of what the fill brings (``If-Range``, RFC 9110 §13.1.5).

These bytes are asked for twice, once here and once by the fill. Of one fill no more than ``cache_max_span`` are:
whoever wants more then waits. Readers that want the same span share it. Of a whole that is on its way the spans are in
an entry of their own that no request can find, which goes when the fill ends.
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
"""Seconds that a reader waits for what it needs next."""
SOON_IN_PIECE: Final = 4.0
"""Seconds that it waits where the fill brings what somebody's range lacks. That is at most ``cache_max_span``, and is
slow in a burst of readers too, who all begin at once: what each of them asks for twice makes that worse."""
NEXT: Final = 64 * 1024
"""Bytes that it needs next, at most: what is longer is read as it comes. And who is no further ahead than this reads
along, however slowly the bytes come: another request would get them from the same origin."""
LOOK: Final = 0.25
"""Seconds over which a pace is measured at least, and"""
WINDOW: Final = 2.0
"""at most."""


class Ahead:
    """The pace of one fill, and what is fetched beside it. Made when somebody waits for what is ahead of it."""

    __slots__ = ("_fill", "_samples", "_table", "entry", "is_hidden", "refused", "soon", "twice")

    def __init__(self, table: FillTable, fill: Fill, entry: Entry, *, is_hidden: bool) -> None:
        self._table = table
        self._fill = fill
        self.soon = SOON if is_hidden or fill.request.whole else SOON_IN_PIECE
        """Seconds that are not long to wait."""
        self.entry = entry
        """What the spans belong to."""
        self.is_hidden = is_hidden
        """Whether it is there for these spans only."""
        self.twice = 0
        """Bytes that were asked for beside the fill, which brings them, too."""
        self.refused = False
        """The origin sends no spans of this, or has another version by now."""
        self._samples: deque[tuple[float, int]] = deque()

    async def is_far(self, reader: Reader, stop: int) -> bool:
        """Whether what a reader of the fill's body needs next, up to ``stop`` at most, is far away. If it isn't, this
        returns when it is nearly there."""
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
        """Seconds until all up to ``offset`` is there, at the pace of the last moments; 0 if that can't be told yet."""
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
        """What to ask for beside the fill, to get the byte at ``offset`` and those up to ``stop``; ``None`` if no
        more may be."""
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
        """It is being asked for, and kept where others find it."""
        self.twice += span.length
        if self.is_hidden:
            self._table.store.keep_object(self.entry)

    def end(self) -> None:
        """The fill has ended: what it has brought is found by its key."""
        if self.is_hidden:
            self._table.forget_beside(self._fill, self.entry)


def ahead_of(table: FillTable, fill: Fill, entry: Entry | None = None) -> Ahead | None:
    """What there is to know of a fill that is waited for; ``None`` if nothing may be fetched beside it.

    ``entry``: with gaps, one of which it fills for a client that wants all of it; ``None`` if it brings a whole that is
    not stored yet.
    """
    head, body = fill.head, fill.body
    if head is None or body is None or body.total is None or not fill.is_running:
        return None
    is_small = entry is not None and head.piece_of is entry and fill.span.length <= table.spans.block
    if fill.request.private or (is_small and not fill.request.whole):
        return None  # in a block that was asked for on behalf of a range no byte is far away
    if fill.ahead is None:
        response = head.response
        if response.status != 200 or (response.headers.get("accept-ranges") or "").strip().lower() == "none":
            return None
        hidden = entry is None
        if entry is None:
            if fill.request.part is not None:
                return None  # asked for a range, the origin has sent it all
            # No URL has a fragment in it (RFC 9110 §7.1), so nobody finds it.
            key = f"{fill.request.key}#"
            entry = Entry(table.store.index.new_id(), key, response, body.total, time.time(), Spans())
            table.covers_too(fill, entry)
        fill.ahead = Ahead(table, fill, entry, is_hidden=hidden)
    return fill.ahead if not fill.ahead.refused else None


def is_ahead(fill: Fill, offset: int) -> bool:
    """Whether a reader at ``offset`` of what a fill brings is ahead of it, and doesn't just read along."""
    return fill.body is not None and offset - fill.body.length >= NEXT


def may_be_combined(fill: Fill) -> bool:
    """Whether what is fetched beside it can be told to be of the same version (RFC 9111 §3.4)."""
    head = fill.head
    return head is not None and strong_validator(head.response.headers) is not None


def sends_ranges(response: StoredResponse) -> bool:
    """Whether the origin says that it does (RFC 9110 §14.3)."""
    return (response.headers.get("accept-ranges") or "").strip().lower() == "bytes"
