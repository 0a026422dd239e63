"""When Python's collector runs.

Its own measure is how many objects have been made, and hits make none. What a connection of mitmproxy's has held,
megabytes of buffers perhaps, hangs in circles of few objects, and would stay until misses bring enough of them. So a
while after connections have closed the young objects are looked at, and now and then all of them: in a moment when
nobody waits for the loop, or as soon as it takes no longer than the time since the last look pays for. (The looks at
the young ones keep Python's own measure from ever being reached: nothing else would look at the old ones.)
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
"""Seconds that a look at everything may take while requests come, for each :data:`FULL_EVERY` since the last one. If it
takes longer, it waits for a quiet moment, but"""
PATIENCE: Final = 120.0
"""seconds at most, if there is much more than what that look has left: garbage that grows is worth any pause."""
GROWTH: Final = 1.25
"""Which is so many times as many objects (as in CPython's own rule, which keeps the looks' cost linear), and"""
FEW: Final = 20_000
"""so many more."""
OBJECT: Final = 2e-7
"""Seconds that one old object takes, before that was measured."""
QUIET_FOR: Final = 0.25
"""Seconds without a request, which is such a moment."""


def tune() -> None:
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
        self._full_at = time.monotonic() - FULL_EVERY
        self._asked_at = self._full_at
        """When it was last asked whether that is too long ago."""
        self._left = 0
        """Old objects that the last look at everything has left, and"""
        self._object = OBJECT
        """the seconds that it took for each."""
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
        if is_due and time.monotonic() >= self._full_at + FULL_EVERY and (is_quiet or self._is_worth_it()):
            is_due = False
            self._look_at_all()
        if is_quiet and not self._is_trimmed:
            self._is_trimmed = True
            self._trim(0)
        if is_due or not self._is_trimmed:
            self._look_after(QUIET_FOR)

    def _is_worth_it(self) -> bool:
        """Whether everything is to be looked at although requests come."""
        now = time.monotonic()
        if now < self._asked_at + FULL_EVERY:
            return False  # to count the objects takes time, too
        self._asked_at = now
        elapsed, old = now - self._full_at, len(gc.get_objects(2))
        if old * self._object <= PAUSE * elapsed / FULL_EVERY:
            return True
        return elapsed >= PATIENCE and old >= GROWTH * self._left + FEW

    def _look_at_all(self) -> None:
        old = len(gc.get_objects(2))
        started = time.monotonic()
        gc.collect()
        self._full_at = time.monotonic()
        self._left = len(gc.get_objects(2))
        if old >= FEW / 10:
            self._object = (self._full_at - started) / old
        self._closed_since_full = 0
        self._is_trimmed = False


def _malloc_trim() -> Callable[[int], object]:
    """glibc keeps what is freed for itself, unless it is told to give it back; other libraries have no such call."""
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda keep: None
    return trim
