"""Stores by themselves, without a proxy around them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from proxy_cache.store.store import Room, Store

ROOM = Room(1 << 40, 0)


def with_store(
    folder: Path,
    story: Callable[[Store], Coroutine[Any, Any, None]],
    room: Room = ROOM,
    verify_rate: int = 0,
    **options: Any,
) -> None:
    """``verify_rate``: bytes a second of the walk over all that is stored."""

    async def run() -> None:
        # As in mitmproxy's loop, where Python has it: a task runs up to its first wait before create_task returns.
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
        store = Store(folder, room, **options)
        store.verifier.rate = verify_rate
        await store.open()
        try:
            await story(store)
        finally:
            await store.close()

    asyncio.run(run())
