"""The chain of sources of a fill: a source before the origin costs no slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.caching.fills.head import ClientGone
from proxy_cache.caching.fills.request import FillRequest
from proxy_cache.caching.fills.table import FillTable
from proxy_cache.caching.limiter import Limits, OriginLimiter, Overloaded
from proxy_cache.observe.metrics import Metrics
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.store.store import Quota, Store
from proxy_cache.upstream.origin import OriginClient, OriginSettings
from proxy_cache.upstream.response import OriginResponse
from proxy_cache.upstream.source import OriginSource, SourceRequest, Sources, Wanted
from tests.support.tasks import until

from .test_origin_connection import RawOrigin

FOUND = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nCache-Control: max-age=600\r\n\r\nelsewhere"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=600\r\n\r\nhello"


class Elsewhere:
    """A source in front of the origin, on another port."""

    def __init__(self, client: OriginClient) -> None:
        self.client = client
        self.port = 0
        """Where to ask; 0: it has nothing."""
        self.asked = 0
        self.answers = asyncio.Event()

    def may_have(self, wanted: Wanted) -> bool:
        return True

    async def get(self, request: SourceRequest) -> OriginResponse | None:
        self.asked += 1
        await self.answers.wait()
        if not self.port:
            return None
        return await self.client.get(Target.of("http", "127.0.0.1", self.port, request.target.path), request.headers)


Story = Callable[[FillTable, Elsewhere, Callable[[str], FillRequest]], Coroutine[Any, Any, None]]


def with_sources(folder: Path, story: Story, *, has_it: bool = False, **limits: int) -> None:
    async def run() -> None:
        store = Store(folder, Quota(1 << 40, 0))
        await store.open()
        client = OriginClient(OriginSettings(retries=0))
        elsewhere = Elsewhere(client)
        sources = Sources(OriginSource(client), (elsewhere,))
        table = FillTable(store, OriginLimiter(Limits(**limits)), sources, Metrics())
        servers = [RawOrigin([[answer]]) for answer in (HELLO, FOUND)]
        listening = [await asyncio.start_server(server.serve, "127.0.0.1", 0) for server in servers]
        origin_port, other_port = (one.sockets[0].getsockname()[1] for one in listening)
        if has_it:
            elsewhere.port = other_port

        def request(path: str) -> FillRequest:
            target = Target.of("http", "127.0.0.1", origin_port, path)
            return FillRequest(target.key, target, Headers(), "agent")

        try:
            await story(table, elsewhere, request)
        finally:
            await table.close()
            await client.close()
            await store.close()
            for one in listening:
                one.close()
            for server in servers:
                for writer in server.writers:
                    writer.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def body_of(waiter: Any) -> bytes:
    head = await waiter.head()
    if head.content is not None:
        return bytes(head.content)
    body = b""
    while chunk := await waiter.reader.read():
        body += chunk
    waiter.leave()
    return body


def test_what_another_source_has_takes_no_slot(tmp_path: Path) -> None:
    async def story(table: FillTable, elsewhere: Elsewhere, request: Callable[[str], FillRequest]) -> None:
        waiter = table.start(request("/x"))
        elsewhere.answers.set()
        assert await body_of(waiter) == b"elsewhere"
        await waiter.fill.ending()
        assert waiter.fill.slot.asked is None
        assert [entry.length for entry in table.store.lookup(request("/x").key)] == [9]

    with_sources(tmp_path, story, has_it=True, max_in_flight=1)


def test_the_slot_is_taken_when_the_origin_is_the_next(tmp_path: Path) -> None:
    async def story(table: FillTable, elsewhere: Elsewhere, request: Callable[[str], FillRequest]) -> None:
        waiter = table.start(request("/x"))
        joined = waiter.fill.join("other", Headers())
        await until(lambda: elsewhere.asked == 1)
        assert (table.context.limiter.in_flight, table.context.limiter.queued) == (0, 0)
        elsewhere.answers.set()
        assert await body_of(waiter) == b"hello"
        assert await body_of(joined) == b"hello"
        await waiter.fill.ending()
        assert waiter.fill.slot.first_byte is not None
        assert table.context.limiter.in_flight == 0

    with_sources(tmp_path, story, max_in_flight=1)


def test_who_leaves_before_the_origin_is_asked_takes_no_slot(tmp_path: Path) -> None:
    async def story(table: FillTable, elsewhere: Elsewhere, request: Callable[[str], FillRequest]) -> None:
        waiter = table.start(request("/x"))
        await until(lambda: elsewhere.asked == 1)
        waiter.client_gone()
        with pytest.raises(ClientGone):
            await waiter.head()
        await waiter.fill.ending()
        assert (table.context.limiter.in_flight, table.context.limiter.queued, table.running) == (0, 0, 0)

    with_sources(tmp_path, story, max_in_flight=1)


def test_a_full_queue_at_the_origins_turn_is_told_to_all_who_wait(tmp_path: Path) -> None:
    async def story(table: FillTable, elsewhere: Elsewhere, request: Callable[[str], FillRequest]) -> None:
        ticket, _ = table.context.limiter.enter("busy.example", "somebody", lambda overloaded: None)
        waiter = table.start(request("/x"))
        joined = waiter.fill.join("other", Headers())
        elsewhere.answers.set()
        for one in (waiter, joined):
            with pytest.raises(Overloaded):
                await one.head()
        await waiter.fill.ending()
        assert (table.context.limiter.in_flight, table.context.limiter.queued, table.running) == (1, 0, 0)
        ticket.end()

    with_sources(tmp_path, story, max_in_flight=1, queue_max=0)
