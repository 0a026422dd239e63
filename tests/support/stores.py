"""Stores without a proxy."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.store import writer
from proxy_cache.store.store import Quota, Store

from .origin import PATIENCE

QUOTA = Quota(1 << 40, 0)
READING_THREADS = 8
"""At least the limit of a store."""


def with_store(
    folder: Path,
    story: Callable[[Store], Coroutine[Any, Any, None]],
    quota: Quota = QUOTA,
    verify_rate: int = 0,
    **options: Any,
) -> None:
    """``verify_rate``: bytes a second of the walk over all entries."""

    async def run() -> None:
        # As in mitmproxy's loop, if Python supports it: a task runs up to its first wait before create_task returns.
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
        store = Store(folder, quota, **options)
        store.verifier.rate = verify_rate
        await store.open()
        try:
            await story(store)
        finally:
            await store.close()

    asyncio.run(run())


def nothing_is_known_to_be_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems without ``RWF_NOWAIT``, which don't tell what is in the page cache."""

    preadv = os.preadv

    def refuse(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refuse)


def writer_gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event, set at first. While a test clears it, the writer's thread waits. The test has to set it again."""
    gate = threading.Event()
    gate.set()
    collect_waiting = writer.collect_waiting

    def late(*arguments: Any) -> None:
        assert gate.wait(PATIENCE)
        collect_waiting(*arguments)

    monkeypatch.setattr(writer, "collect_waiting", late)
    return gate


def hold_reads(store: Store) -> threading.Event:
    """An event that all reading threads of a store wait for."""
    release = threading.Event()
    for _ in range(READING_THREADS):
        store.files.pool.submit(release.wait, PATIENCE)
    return release
