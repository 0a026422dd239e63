"""Waits within a test's own event loop that don't depend on how many turns it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .origin import PATIENCE

T = TypeVar("T")


async def until(true: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Wait for something that has no event. Raises ``TimeoutError`` after so many seconds."""
    async with asyncio.timeout(timeout):
        while not true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)


async def begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has come as far as its first wait, in whatever way the loop starts its tasks."""
    started = asyncio.Event()

    async def run() -> T:
        started.set()  # whoever waits for it is woken in a later turn: ``work`` has had its first step by then
        return await work

    task = asyncio.get_running_loop().create_task(run())
    await started.wait()
    return task
