"""Fills by themselves: whatever becomes of who waits, the slot comes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.fill_table import FillTable
from proxy_cache.fills import FillRequest
from proxy_cache.limiter import Limits, OriginLimiter
from proxy_cache.metrics import Metrics
from proxy_cache.origin import OriginClient, OriginError, OriginSettings
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.store.body import BodyError
from proxy_cache.store.store import Room, Store
from proxy_cache.waiter import ClientGone

from .test_origin_connection import CLOSE, RawOrigin

HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nCache-Control: max-age=600\r\nETag: "1"\r\n\r\n'
REST = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 400000-999999/1000000\r\nContent-Length: %d\r\n"
    b'ETag: "1"\r\n\r\n'
)
TARGET = Target.of("http", "127.0.0.1", 9, "/nobody-is-asked")


def with_table(
    folder: Path, story: Callable[[FillTable], Coroutine[Any, Any, None]], slots: int = 2, retries: int = 0
) -> None:
    async def run() -> None:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
        store = Store(folder, Room(1 << 40, 0))
        await store.open()
        origin = OriginClient(OriginSettings(retries=retries))
        table = FillTable(store, OriginLimiter(Limits(slots)), origin, Metrics())
        try:
            await story(table)
        finally:
            await table.close()
            await origin.close()
            await store.close()

    asyncio.run(run())


def request(number: int = 0) -> FillRequest:
    target = Target.of("http", "127.0.0.1", 9, f"{TARGET.path}/{number}")
    return FillRequest(target.key, target, Headers(), "agent")


def test_who_leaves_before_the_first_step_leaves_no_slot_taken(tmp_path: Path) -> None:
    """Its task never begins then, so that nothing in it can give the slot back."""

    async def story(table: FillTable) -> None:
        for number in range(5):
            waiter = table.start(request(number))
            assert table.limiter.in_flight + table.limiter.queued == 1
            waiter.client_gone()
            with pytest.raises(ClientGone):
                await waiter.head
            await asyncio.sleep(0)
            assert (table.limiter.in_flight, table.limiter.queued, table.running) == (0, 0, 0)
            assert table.find(request(number).key, Headers(), lambda response: True) is None

    with_table(tmp_path, story)


def test_a_shutdown_before_the_first_step_is_told_to_who_waits(tmp_path: Path) -> None:
    async def story(table: FillTable) -> None:
        waiters = [table.start(request(number)) for number in range(5)]
        await table.close()
        for waiter in waiters:
            with pytest.raises(OriginError, match="abandoned"):
                await waiter.head
        assert (table.limiter.in_flight, table.limiter.queued, table.running) == (0, 0, 0)

    with_table(tmp_path, story)


@pytest.mark.parametrize("length", [600_000, 1_000_000, 599_999])
def test_the_rest_of_a_body_is_not_longer_than_it_says(tmp_path: Path, length: int) -> None:
    """What an origin sends beyond that would be the answer to the next request of the same connection."""
    body = os.urandom(1_000_000)

    async def story(table: FillTable) -> None:
        raw = RawOrigin([[HEAD, body[:400_000], CLOSE], [REST % length, body[400_000:], b"X" * 400_000]])
        server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
        target = Target.of("http", "127.0.0.1", server.sockets[0].getsockname()[1], "/x")
        waiter = table.start(FillRequest(target.key, target, Headers(), "agent"))
        await waiter.head
        reader = waiter.reader
        assert reader is not None
        got = b""
        try:
            while chunk := await reader.read():
                got += chunk
        except BodyError:
            assert length != 600_000
        else:
            assert length == 600_000
        assert got == body[: len(got)]
        waiter.leave()
        await table.close()
        kept = [entry.length for entry in table.store.lookup(target.key) if entry.spans is None]
        assert kept == ([1_000_000] if length == 600_000 else [])
        server.close()
        for writer in raw.writers:
            writer.close()

    with_table(tmp_path, story, retries=1)
