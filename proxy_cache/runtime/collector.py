"""Schedules Python's garbage collector.

By default it runs after a number of new objects, and hits make none. A closed connection of mitmproxy's is a cycle of
few objects that may hold megabytes of buffers, which would stay until misses make enough objects. So the young
generation is collected a while after connections close, and now and then all objects: in a quiet moment, or when the
time since the last full collection pays for the pause. (Python would never start a full one by itself: the collections
of the young generation reset its count.)
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable
from typing import Any, Final

SOON: Final = 1.0
"""Seconds from the end of a connection to a collection of the young generation."""
FULL_AFTER: Final = 32
"""Closed connections before a full collection: some of them lived long enough to leave the young generation."""
FULL_EVERY: Final = 10.0
"""Least seconds between full collections."""
PAUSE: Final = 0.004
"""Seconds that a full collection may take under load, for each :data:`FULL_EVERY` since the last one. If it is expected
to take longer, it waits for a quiet moment."""
PATIENCE: Final = 120.0
"""Seconds after which it waits no longer, if the old objects have grown much: then any pause is worth it."""
GROWTH: Final = 1.25
"""Much growth: the factor (as in CPython's own rule, which keeps the total cost linear)."""
GROWTH_MIN: Final = 20_000
"""Much growth: the number of further objects."""
OBJECT: Final = 2e-7
"""Seconds per old object, until that was measured."""
QUIET_FOR: Final = 0.25
"""Seconds without a request that make a quiet moment."""


def tune() -> None:
    """Set the collector's thresholds. By default it visits every long-lived object again and again: a quarter of the
    cost of a miss (measured), and more with every entry in the index. Objects that exist at the start never become
    garbage, and are frozen. Later ones are collected less often, and few at a time: visiting one takes up to 2.5 µs if
    it is in no CPU cache, and blocks the loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(3_000, 1, 200)


class Collector:
    """Collects the remains of closed connections. ``activity()`` returns another value after each request, and ``None``
    while requests are being answered."""

    def __init__(self, activity: Callable[[], Any]) -> None:
        self._activity = activity
        self._closed = 0
        """Connections closed since the last collection."""
        self._closed_since_full = 0
        """Connections closed since the last full collection."""
        self._is_trimmed = True
        """Whether free memory was returned to the system."""
        self._timer: asyncio.TimerHandle | None = None
        self._full_at = time.monotonic() - FULL_EVERY
        self._asked_at = self._full_at
        """When :meth:`_is_worth_it` last counted the objects."""
        self._left = 0
        """Old objects after the last full collection."""
        self._object = OBJECT
        """Seconds that it took per old object."""
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
        """Collect as far as the moment allows; the rest waits for a later one."""
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
        """Whether to make a full collection under load."""
        now = time.monotonic()
        if now < self._asked_at + FULL_EVERY:
            return False  # counting the objects takes time, too
        self._asked_at = now
        elapsed, old = now - self._full_at, len(gc.get_objects(2))
        if old * self._object <= PAUSE * elapsed / FULL_EVERY:
            return True
        return elapsed >= PATIENCE and old >= GROWTH * self._left + GROWTH_MIN

    def _look_at_all(self) -> None:
        old = len(gc.get_objects(2))
        started = time.monotonic()
        gc.collect()
        self._full_at = time.monotonic()
        self._left = len(gc.get_objects(2))
        if old >= GROWTH_MIN / 10:
            self._object = (self._full_at - started) / old
        self._closed_since_full = 0
        self._is_trimmed = False


def _malloc_trim() -> Callable[[int], object]:
    """glibc's call for returning free memory to the system; does nothing with other C libraries."""
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda keep: None
    return trim
