"""The pace of a fill, and the spans that are fetched beside it (see :mod:`..ranges.ahead`)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ...semantics.spans import Span, Spans, span_to_ask_for
from ...store.body import Body, Reader
from ...store.index import Entry
from .context import FillContext

SOON: Final = 1.0
"""Seconds that a reader waits for its next bytes."""
NEXT: Final = 64 * 1024
"""Bytes, at most, that count as the next. A reader that is less far ahead reads along, however slow the fill is:
another request would get the bytes from the same origin."""
LOOK: Final = 0.25
"""Seconds over which a pace is measured, at least."""
WINDOW: Final = 2.0
"""Seconds over which it is measured, at most."""


class Ahead:
    """The pace of one fill, and the spans fetched beside it. Made for the first reader that is ahead of it."""

    __slots__ = ("_beside", "_body", "_context", "_samples", "entry", "is_hidden", "refused", "soon", "twice")

    def __init__(
        self, context: FillContext, body: Body, entry: Entry, beside: Callable[[], Spans], *, is_hidden: bool,
        soon: float,
    ) -> None:  # fmt: skip
        """``beside``: what of ``entry`` is there, or coming, but for the fill's own bytes. ``soon``: seconds that a
        reader waits."""
        self._context = context
        self._body = body
        self._beside = beside
        self.soon = soon
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
        while reader.is_ahead and is_beyond(self._body, reader.offset):
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
        body = self._body
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
        settings, body, entry = self._context.spans, self._body, self.entry
        left = settings.most - self.twice
        if left <= 0 or self.refused:
            return None
        taken = self._beside().with_span(body.start, body.length)
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
            self._context.store.keep_object(self.entry)


def is_beyond(body: Body, offset: int) -> bool:
    """Whether a reader at ``offset`` is ahead of the body's writer, and doesn't just read along."""
    return offset - body.length >= NEXT
