"""Stores by themselves, without a proxy around them."""

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
"""As many as a store has, at the least."""


def with_store(
    folder: Path,
    story: Callable[[Store], Coroutine[Any, Any, None]],
    quota: Quota = QUOTA,
    verify_rate: int = 0,
    **options: Any,
) -> None:
    """``verify_rate``: bytes a second of the walk over all that is stored."""

    async def run() -> None:
        # As in mitmproxy's loop, where Python has it: a task runs up to its first wait before create_task returns.
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
    """As on file systems that can't say what is in the page cache: ``preadv2`` with ``RWF_NOWAIT`` is refused."""

    preadv = os.preadv

    def refuse(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refuse)


def writer_gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set, until a test clears it: what a store's thread has to write waits for that. To be set again by the end."""
    gate = threading.Event()
    gate.set()
    collect_waiting = writer.collect_waiting

    def late(*arguments: Any) -> None:
        assert gate.wait(PATIENCE)
        collect_waiting(*arguments)

    monkeypatch.setattr(writer, "collect_waiting", late)
    return gate


def hold_reads(store: Store) -> threading.Event:
    """Have all threads that read for a store wait until this is set."""
    release = threading.Event()
    for _ in range(READING_THREADS):
        store.files.pool.submit(release.wait, PATIENCE)
    return release
