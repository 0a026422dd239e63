"""Fills that give way while other fills queue for a slot.

Two kinds of fills hold a slot without serving a client: one without a client (see :mod:`.leftover`), and one held up by
slow clients, because its body is not stored. The unread bytes are spilled then (see :mod:`store.spill`), so that the
slot comes back with the origin's last byte. If there is no room for that, the slowest reader is dropped once it has as
good as stopped reading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from ...store.body import Body, Reader
from .context import FillContext
from .fill import Fill

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the running fills, while the queue isn't empty."""
LOOKS_HELD_UP: Final = 2
"""So many looks in a row have to find a fill held up before anything is done: a busy agent pauses now and then."""
READER_PATIENCE: Final = 5.0
"""A reader that holds up a fill has to reach :data:`READER_PACE` bytes a second, over so many seconds."""
READER_PACE: Final = 16 * 1024


class Contention:
    """Looks at the running fills while others queue."""

    def __init__(self, context: FillContext, fills: Callable[[], list[Fill]]) -> None:
        self._limiter = context.limiter
        self._fills = fills
        self._hold_ups: WeakKeyDictionary[Fill, HoldUp] = WeakKeyDictionary()
        self._next_look: asyncio.TimerHandle | None = None
        context.limiter.on_queued = self._somebody_queues

    def end(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()

    def _somebody_queues(self) -> None:
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(0, self._look)

    def _look(self) -> None:
        """See which fills can give way to those that queue, again and again as long as somebody does."""
        self._next_look = None
        loop, limiter = asyncio.get_running_loop(), self._limiter
        now = loop.time()
        for fill in self._fills():
            self._let_give_way(fill, now)
        if limiter.has_queue:
            self._next_look = loop.call_later(LOOK_EVERY, self._look)

    def _let_give_way(self, fill: Fill, now: float) -> None:
        """Let this fill give its slot to the queue, if it holds one up. ``now``: by the loop's clock."""
        if not fill.is_running or not fill.is_in_the_way:
            return
        if not fill.has_client and self._limiter.is_full:
            fill.abandon()
        elif not fill.waiters:
            if not fill.may_go_on_for_nobody:
                fill.abandon()
        elif fill.body is not None:
            if fill not in self._hold_ups:
                self._hold_ups[fill] = HoldUp()
            reader = self._hold_ups[fill].look(fill.body, now)
            if reader is not None:
                shown = fill.request.target.shown
                logger.info("%s: a client that has stopped reading was dropped, since others wait", shown)
                fill.drop_reader(reader)


class HoldUp:
    """How long a fill has been held up by its readers."""

    __slots__ = ("_looks", "_seen")

    def __init__(self) -> None:
        self._looks = 0
        self._seen: dict[Reader, tuple[int, float]] = {}
        """Each reader's offset, and when it was there. One clock for all would start again whenever two slow readers
        overtake each other."""

    def look(self, body: Body, now: float) -> Reader | None:
        """Let the body go on. Returns the reader that has to be dropped for that, if any."""
        if not body.is_held_up:
            self._looks = 0
            self._seen = {}
            return None
        self._looks += 1
        if self._looks < LOOKS_HELD_UP or body.spill():
            return None
        # A reader without unread bytes waits for the writer.
        before = {reader: at for reader, at in self._seen.items() if reader.offset < body.length}
        self._seen = {reader: before.get(reader, (reader.offset, now)) for reader in body.readers}
        slowest = body.slowest_reader
        for reader, (offset, since) in self._seen.items():
            if now - since >= READER_PATIENCE:
                if reader.offset - offset >= READER_PACE * (now - since):
                    self._seen[reader] = reader.offset, now
                elif reader is slowest:
                    return reader
        return None
