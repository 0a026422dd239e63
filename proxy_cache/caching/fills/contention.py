"""Slots that others wait for, and fills that have to give way.

Whoever queues waits for the fills that run. Two kinds of them hold their slot although no client is served by it:

- A fill that no client waits for. It is finished if that does not take long (:class:`Leftover`), and if somebody queues
  for its slot, not more than a moment: most are the rest of a block whose first bytes a client has asked for. A refresh
  in the background may take longer, but not for ever while others queue; and neither goes on with what isn't kept.
- A fill that is held up by its clients, because what it brings is not stored and they read slower than the origin
  sends. What they have not read is set aside (see :mod:`store.spill`), so that the origin's last byte gives the slot
  back. Where there is no room for that, the slowest reader is dropped if it has as good as stopped reading.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ...store.body import Body, Reader

if TYPE_CHECKING:
    from .fill import Fill

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5
"""Seconds between looks at the fills that run, as long as somebody queues."""
IN_THE_WAY_MAX: Final = 1.0
"""Seconds that a fill may still take for which no client waits, if somebody queues for its slot."""
LOOKS_HELD_UP: Final = 2
"""Looks in a row that find a fill held up by its readers before anything is done about it: a client that is read from
a slow disk or a busy agent pauses now and then."""
READER_PATIENCE: Final = 5.0
"""Seconds after which a reader that holds up a fill has to have taken :data:`READER_PACE` bytes a second."""
READER_PACE: Final = 16 * 1024
REFRESH_PACE: Final = 8 * 1024
"""Bytes a second that a refresh in the background has to bring (``stale-while-revalidate``), looked at every"""
REFRESH_PATIENCE: Final = 10.0
"""seconds. It may be of any length: it was asked for by no client, but the next ones will be served from it."""


class Leftover:
    """The time that a fill has left which no client waits for."""

    __slots__ = ("_arrived", "_fill", "_in_the_way", "_looked", "_since", "_timer")

    def __init__(self, fill: Fill) -> None:
        loop = asyncio.get_running_loop()
        self._fill = fill
        self._since = self._looked = loop.time()
        self._in_the_way = 0.0
        """Seconds, so far, that somebody has queued for its slot."""
        self._arrived = fill.arrived
        self._timer = loop.call_later(self._next_look, self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    @property
    def _next_look(self) -> float:
        return min(0.25 if self._fill.is_in_the_way else 1.0, self._fill.table.quick_abort_timeout)

    def _look(self) -> None:
        if self.is_late:
            self._fill.abandon()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._next_look, self._look)

    @property
    def is_late(self) -> bool:
        """Whether it is too slow to be finished for nobody."""
        fill, now = self._fill, asyncio.get_running_loop().time()
        if fill.is_in_the_way:
            self._in_the_way += now - self._looked
        self._looked = now
        if fill.is_queued:
            self._since = now
            return False
        if not fill.has_client and fill.body is not None and not fill.body.kept:
            return True  # nobody gets any of it, now or later
        return self._is_late(now - self._since, fill.arrived - self._arrived)

    def _is_late(self, elapsed: float, arrived: int) -> bool:
        """``arrived``: bytes that have come in the ``elapsed`` seconds."""
        fill = self._fill
        if not fill.waiters:
            # All of it has to be here in time, at the pace that it has: after a quarter of the time that can be told.
            limit = fill.table.quick_abort_timeout
            if fill.is_in_the_way:
                limit = min(limit, IN_THE_WAY_MAX)
            left = limit - elapsed
            is_slow = fill.body is not None and fill.bytes_left * elapsed > arrived * left
            return left <= 0 or (is_slow and elapsed >= limit / 4)
        # Whoever queues is to have the slot before its own time is up.
        patience = min(fill.table.quick_abort_timeout, fill.table.limiter.limits.queue_timeout / 2)
        if self._in_the_way >= patience:
            return True
        if fill.head is None:
            return elapsed >= fill.table.sources.origin.client.settings.timeout
        if elapsed < REFRESH_PATIENCE:
            return False
        self._since += elapsed
        self._arrived += arrived
        return arrived < REFRESH_PACE * elapsed


class HoldUp:
    """How a fill was held up by its readers, from one look to the next."""

    __slots__ = ("_looks", "_seen")

    def __init__(self) -> None:
        self._looks = 0
        self._seen: dict[Reader, tuple[int, float]] = {}
        """Where each reader was, and when. Each has its own time: of two that overtake each other, now this one is the
        slowest and now that one, and the time of both would begin anew with each look."""

    def look(self, body: Body, now: float) -> Reader | None:
        """See to it that the body can go on. A reader that has to be dropped for that."""
        if not body.is_held_up:
            self._looks = 0
            self._seen = {}
            return None
        self._looks += 1
        if self._looks < LOOKS_HELD_UP or body.spill():
            return None
        # One that has had all that there is waits for the writer as well.
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


def make_way(fill: Fill, now: float, *, queue_is_full: bool) -> None:
    """What this fill can do for those who queue, if they wait for its slot. ``now``: by the loop's clock."""
    if not fill.is_running or not fill.is_in_the_way:
        return
    if not fill.has_client and queue_is_full:
        fill.abandon()
    elif not fill.waiters:
        if not fill.may_go_on_for_nobody:
            fill.abandon()
    elif fill.body is not None:
        if fill.hold_up is None:
            fill.hold_up = HoldUp()
        reader = fill.hold_up.look(fill.body, now)
        if reader is not None:
            shown = fill.request.target.shown
            logger.info("%s: a client that has stopped reading was dropped, since others wait", shown)
            fill.drop_reader(reader)
