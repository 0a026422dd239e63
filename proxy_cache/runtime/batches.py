"""Run similar callbacks back to back: ten sends in a row keep code and data in the CPU cache.

A miss runs through hundreds of kilobytes of code: the interpreter, Python, the kernel. Ten misses, each from its first
byte to its last, evict each other's code from the cache. A receiver also is still awake when the next bytes arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class CallBatch:
    """Callbacks batched into the next loop turn, in order."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def add(self, function: Callable[..., object], *arguments: Any) -> None:
        """Add a call. If it raises, that is logged, and the others are made all the same."""
        if not self._calls:
            asyncio.get_running_loop().call_soon(self._make_all)
        self._calls.append((function, arguments))

    def _make_all(self) -> None:
        calls, self._calls = self._calls, []
        for function, arguments in calls:
            try:
                function(*arguments)
            except Exception:
                logger.exception("what was put off failed")
