"""When Python's collector runs.

Its own measure is how many objects have been made, and hits make none. What a connection of mitmproxy's has held,
megabytes of buffers perhaps, hangs in circles of few objects, and would stay until misses bring enough of them. So a
while after connections have closed the young objects are looked at, and now and then all of them: in a moment when
nobody waits for the loop, or if that takes no time worth speaking of.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable
from typing import Any, Final

SOON: Final = 1.0
"""Seconds from a connection's end to a look at what was made since the last looks."""
FULL_AFTER: Final = 32
"""Connections that have closed, after which everything is looked at: some were there long enough not to be young."""
FULL_EVERY: Final = 10.0
"""Seconds between looks at everything."""
PAUSE: Final = 0.004
"""Seconds that a look at everything may take while requests come. If it takes longer, it waits for a quiet moment."""
QUIET_FOR: Final = 0.25
"""Seconds without a request, which is such a moment."""


def calm() -> None:
    """Python's collector looks at every long-lived object again and again: a quarter of a miss, measured, and more with
    every entry in the index. What there is at start never becomes garbage; what comes later is looked at less often,
    and not too much of it at a time: an object takes up to 2.5 µs, being in no cache by then, and the loop stands
    still meanwhile."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(3_000, 1, 200)


class Collector:
    """Collects what closed connections leave. ``activity()`` gives something else whenever there were requests, and
    ``None`` while some are being answered."""

    def __init__(self, activity: Callable[[], Any]) -> None:
        self._activity = activity
        self._closed = 0
        """Connections since the last look at everything."""
        self._timer: asyncio.TimerHandle | None = None
        self._full_took = 1.0
        """Seconds; not known yet, so the first one waits for a quiet moment."""
        self._full_at = float("-inf")
        self._trim = _malloc_trim()

    def connection_closed(self) -> None:
        self._closed += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._look_at_the_young)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_the_young(self) -> None:
        self._timer = None
        gc.collect(1)
        if self._closed >= FULL_AFTER:
            self._later(max(QUIET_FOR, self._full_at + FULL_EVERY - time.monotonic()))

    def _later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look_at_all, self._activity())

    def _look_at_all(self, before: Any) -> None:
        self._timer = None
        if self._full_took > PAUSE:
            now = self._activity()
            if now is None or now != before:
                gc.collect(1)
                self._later(QUIET_FOR)
                return
        started = time.monotonic()
        gc.collect()
        self._full_took = time.monotonic() - started
        self._full_at = time.monotonic()
        self._closed = 0
        if self._activity() == before:
            self._trim(0)


def _malloc_trim() -> Callable[[int], object]:
    """glibc keeps what is freed for itself, unless it is told to give it back; other libraries have no such call."""
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda keep: None
    return trim
