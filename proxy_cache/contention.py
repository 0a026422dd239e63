"""Slots that others wait for, and fills that have to give way.

Whoever queues waits for the fills that run. Two kinds of them hold their slot although no client is served by it:

- A fill that no client waits for. It is finished if that does not take long (:class:`Leftover`), and if somebody queues
  for its slot, not more than a moment: most are the rest of a block whose first bytes a client has asked for.
- A fill that is held up by its clients, because what it brings is not stored and they read slower than the origin
  sends. What they have not read is set aside (see :mod:`.store.spill`), so that the origin's last byte gives the slot
  back. Where there is no room for that, the slowest reader is dropped if it has as good as stopped reading.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from .store.body import Body, Reader

if TYPE_CHECKING:
    from .fills import Fill

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

    __slots__ = ("_arrived", "_fill", "_since", "_timer")

    def __init__(self, fill: Fill) -> None:
        loop = asyncio.get_running_loop()
        self._fill = fill
        self._since = loop.time()
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
        if fill.is_queued:
            self._since = now
            return False
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
        if fill.head is None:
            return elapsed >= fill.table.origin.settings.timeout
        if elapsed < REFRESH_PATIENCE:
            return False
        self._since += elapsed
        self._arrived += arrived
        return arrived < REFRESH_PACE * elapsed


class HoldUp:
    """How a fill was held up by its readers, from one look to the next."""

    __slots__ = ("_looks", "_offset", "_reader", "_since")

    def __init__(self) -> None:
        self._looks = 0
        self._reader: Reader | None = None
        self._offset = 0
        self._since = 0.0

    def look(self, body: Body, now: float) -> Reader | None:
        """See to it that the body can go on. A reader that has to be dropped for that."""
        if not body.is_held_up:
            self._looks = 0
            self._reader = None
            return None
        self._looks += 1
        if self._looks < LOOKS_HELD_UP or body.spill():
            return None
        reader = body.slowest_reader
        if reader is not self._reader:
            self._reader, self._offset, self._since = reader, reader.offset if reader is not None else 0, now
        elif reader is not None and now - self._since >= READER_PATIENCE:
            if reader.offset - self._offset < READER_PACE * (now - self._since):
                return reader
            self._offset, self._since = reader.offset, now
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
