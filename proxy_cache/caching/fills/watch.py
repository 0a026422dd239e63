"""The watchdog: fills without progress are ended, whatever the reason.

A fill ends with the origin's last byte, after ``origin_timeout`` without a byte, or when its clients have left. A body
that isn't stored is the gap between these: its writer waits for its readers, and while they take nothing the fill holds
a slot and a connection to the origin. So each fill with a body is looked at now and then:

- A waiter whose request is over is made to leave. (There is none, unless a bug has left it behind.)
- No byte in or out for ``origin_timeout``, since the readers take nothing: the unread bytes are spilled (see
  :mod:`store.spill`), so that a client may pause for minutes, and the slot comes back with the origin's last byte. If
  there is no room for that, or it doesn't help, the slowest reader is dropped; the fill ends with the last of them.
  Origins have such a limit of their own, so one wouldn't have waited much longer.
- No byte in or out for longer than all tries of a fill take, and no reader holds it up: it is ended.

Time is counted in looks: a process that was stopped (SIGSTOP, a suspended VM) must not end all its fills afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .context import FillContext
from .fill import Fill

logger = logging.getLogger(__name__)

LOOKS: Final = 4
"""Looks in an ``origin_timeout``."""
LATE: Final = 1.0
"""Seconds by which a look may be late. After a later one nothing is ended: nothing else could run either."""
TRY_MARGIN: Final = 5.0
"""Seconds that a try may take beyond its two timeouts (to connect, and for the first byte)."""


@dataclass(slots=True, eq=False)
class _Seen:
    """The findings about one fill, from look to look."""

    movement: tuple[int, ...]
    idle: float = 0.0
    """Seconds without progress."""
    set_aside: bool = False
    """Whether spilling was tried since the last progress."""


class Watch:
    """Looks at the running fills, while there are any."""

    def __init__(self, context: FillContext, fills: Callable[[], list[Fill]]) -> None:
        self._context = context
        self._fills = fills
        self._timer: asyncio.TimerHandle | None = None
        self.is_on = False
        """Whether it looks at the fills."""
        self._due = 0.0
        self._seen: dict[Fill, _Seen] = {}

    def begin(self) -> None:
        """Begin to look; ends by itself with the last fill."""
        loop, interval = asyncio.get_running_loop(), self._interval
        self._due = loop.time() + interval
        self._timer = loop.call_at(self._due, self._look, interval)
        self.is_on = True

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.is_on = False
        self._seen.clear()

    @property
    def _interval(self) -> float:
        return self._context.origin_timeout / LOOKS

    def _look(self, interval: float) -> None:
        self._timer = None
        self.is_on = False
        fills = self._fills()
        if asyncio.get_running_loop().time() <= self._due + LATE:
            before, self._seen = self._seen, {}
            for fill in fills:
                if fill.body is not None and fill.is_running:
                    self._seen[fill] = seen = before.get(fill) or _Seen(())
                    self._look_at(fill, seen, interval)
        if fills:
            self.begin()

    def _look_at(self, fill: Fill, seen: _Seen, interval: float) -> None:
        body, settings = fill.body, self._context.sources.origin.client.settings
        assert body is not None
        forgotten = [waiter for waiter in fill.waiters if waiter.asker is not None and waiter.asker.is_over]
        if forgotten:
            self._end(fill, f"{len(forgotten)} of its readers have no client any more")
            for waiter in forgotten:
                waiter.leave()
            fill.stalled = not fill.waiters
            return
        movement = body.movement
        if movement != seen.movement:
            seen.movement, seen.idle, seen.set_aside = movement, 0.0, False
            return
        seen.idle += interval
        if body.is_held_up:
            if seen.idle >= settings.timeout:
                self._go_on(fill, seen)
        elif seen.idle >= (2 * settings.timeout + TRY_MARGIN) * (settings.retries + 2):
            self._end(fill, f"nothing has come in or gone out for {seen.idle:.0f} s")
            fill.abandon()

    def _go_on(self, fill: Fill, seen: _Seen) -> None:
        """No reader takes anything."""
        body = fill.body
        assert body is not None
        if not seen.set_aside and body.spill():
            seen.set_aside, seen.idle = True, 0.0
            logger.debug("%r: nobody has read for a while, so the rest is set aside", fill)
            return
        reader = body.slowest_reader
        self._end(fill, f"nothing has come in or gone out for {seen.idle:.0f} s, and there is no room to set it aside")
        if reader is not None:
            fill.drop_reader(reader)
        if not fill.has_client:
            fill.abandon()
        fill.stalled = not fill.waiters
        seen.idle = 0.0

    @staticmethod
    def _end(fill: Fill, why: str) -> None:
        fill.stalled = True
        logger.warning("%s: %s; %s", fill.request.target.shown, why, state_of(fill))


def state_of(fill: Fill) -> str:
    """A fill in words, for the log."""
    body = fill.body
    if body is None:
        return f"{fill.state.value}, {len(fill.waiters)} waiters"
    clients = sum(waiter.reads and not (waiter.asker is not None and waiter.asker.is_over) for waiter in fill.waiters)
    held = "held up by its readers" if body.is_held_up else "not held up"
    slowest = body.slowest_reader
    at = f", the slowest at {slowest.offset}" if slowest is not None else ""
    total = body.total if body.total is not None else "unknown"
    return (
        f"{fill.state.value}, bytes {body.start} to {body.length} of {total}"
        f" ({'kept' if body.kept else 'not kept'}, {held}{at}), {len(fill.waiters)} waiters, {clients} with a client"
    )
