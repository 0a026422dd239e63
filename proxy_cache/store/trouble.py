"""Failures of the cache folder's disk: counted each time, logged now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from .files import TornFile

logger = logging.getLogger(__name__)

COMPLAIN_EVERY = 30.0
"""Seconds between log lines about a failing disk. (The metric counts every failure.)"""


class Trouble:
    """``count(reason)`` is called for each failure. All methods are safe in any thread."""

    def __init__(self, root: Path, count: Callable[[str], None]) -> None:
        self.count = count
        self._root = root
        self._last_complaint = 0.0

    def disk_error(self, what: str, error: Exception) -> None:
        """``what`` failed: ``read``, ``write`` or ``index``."""
        self.count(what)
        now = time.monotonic()
        if now - self._last_complaint >= COMPLAIN_EVERY:
            self._last_complaint = now
            logger.warning("cache_dir %s: %s failed, serving uncached: %s", self._root, what, error)

    def read_failed(self, error: OSError) -> None:
        self.disk_error("read", error)

    def write_failed(self, error: OSError) -> None:
        """Not counted if the body's entry was removed in the meantime: that is no fault of the disk."""
        if not isinstance(error, TornFile):
            self.disk_error("write", error)
