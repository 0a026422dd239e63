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
FEW: Final = 20_000
"""Old objects that can be looked at in about that time. They may have become many since the last time."""
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
        """Connections since the last look at the young objects, and"""
        self._closed_since_full = 0
        """since the last one at all of them."""
        self._is_trimmed = True
        """Whether what is free has been given back to the system."""
        self._timer: asyncio.TimerHandle | None = None
        self._full_took = 0.0
        """Seconds that it took the last time. (There is little to look at after :func:`calm`.)"""
        self._full_at = float("-inf")
        self._trim = _malloc_trim()

    def connection_closed(self) -> None:
        self._closed += 1
        self._closed_since_full += 1
        if self._timer is None:
            self._look_after(SOON)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look, self._activity())

    def _look(self, before: Any) -> None:
        """Do what there is to do as far as this is a moment for it; the rest is for a later one."""
        self._timer = None
        now = self._activity()
        is_quiet = now is not None and now == before
        if self._closed:
            self._closed = 0
            if gc.collect(1):
                self._is_trimmed = False
        is_due = self._closed_since_full >= FULL_AFTER
        if is_due and time.monotonic() >= self._full_at + FULL_EVERY and (is_quiet or self._full_is_cheap()):
            is_due = False
            self._look_at_all()
        if is_quiet and not self._is_trimmed:
            self._is_trimmed = True
            self._trim(0)
        if is_due or not self._is_trimmed:
            self._look_after(QUIET_FOR)

    def _full_is_cheap(self) -> bool:
        return self._full_took <= PAUSE and len(gc.get_objects(2)) <= FEW

    def _look_at_all(self) -> None:
        started = time.monotonic()
        gc.collect()
        self._full_at = time.monotonic()
        self._full_took = self._full_at - started
        self._closed_since_full = 0
        self._is_trimmed = False


def _malloc_trim() -> Callable[[int], object]:
    """glibc keeps what is freed for itself, unless it is told to give it back; other libraries have no such call."""
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda keep: None
    return trim
