"""Alike things one after the other.

A miss goes through hundreds of kilobytes of the interpreter, of Python and of the kernel. Ten of them, each from its
first byte to its last, find little of that in the processor's caches; ten that are sent one after the other find it
there. And whoever is sent something is awake when the next thing arrives, and has not to be woken up for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class CallBatch:
    """Calls that are put off until everything that is there now has come as far. They are made in the loop's next turn,
    in the order in which they were asked for."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def add(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call it then. What it raises is logged, and keeps no other from being called."""
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
