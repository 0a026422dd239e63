"""Fills by themselves: whatever becomes of who waits, the slot comes back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.caching.fills.fill import Waiter
from proxy_cache.caching.fills.head import ClientGone
from proxy_cache.caching.fills.request import FillRequest, FillState
from proxy_cache.caching.fills.table import FillTable
from proxy_cache.caching.limiter import Limits, OriginLimiter
from proxy_cache.observe.metrics import Metrics
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.store.body import BodyError
from proxy_cache.store.segments import Segments
from proxy_cache.store.store import Quota, Store
from proxy_cache.upstream.connection import OriginConnection
from proxy_cache.upstream.origin import OriginClient, OriginError, OriginSettings
from proxy_cache.upstream.source import OriginSource, Sources
from tests.support.stores import writer_gate
from tests.support.tasks import until

from .test_origin_connection import CLOSE, HOLD, RawOrigin, then

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
        store = Store(folder, Quota(1 << 40, 0))
        await store.open()
        origin = OriginClient(OriginSettings(retries=retries))
        table = FillTable(store, OriginLimiter(Limits(slots)), Sources(OriginSource(origin)), Metrics())
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
            assert table.context.limiter.in_flight + table.context.limiter.queued == 1
            waiter.client_gone()
            with pytest.raises(ClientGone):
                await waiter.head()
            await waiter.fill.ending()
            assert (table.context.limiter.in_flight, table.context.limiter.queued, table.running) == (0, 0, 0)
            assert table.find(request(number).key, Headers(), lambda response: True) is None

    with_table(tmp_path, story)


def test_a_shutdown_before_the_first_step_is_told_to_who_waits(tmp_path: Path) -> None:
    async def story(table: FillTable) -> None:
        waiters = [table.start(request(number)) for number in range(5)]
        await table.close()
        for waiter in waiters:
            with pytest.raises(OriginError, match="abandoned"):
                await waiter.head()
        assert (table.context.limiter.in_flight, table.context.limiter.queued, table.running) == (0, 0, 0)

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
        await waiter.head()
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


# -- without a task ---------------------------------------------------------------------------------------------------

SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=600\r\n\r\nhello"


def with_origin(
    folder: Path,
    answers: list[list[bytes]],
    story: Callable[[FillTable, RawOrigin, Callable[[str], FillRequest]], Coroutine[Any, Any, None]],
    retries: int = 0,
) -> None:
    """``story`` is told when the first of the ``answers`` is stored, and its connection to the origin is idle."""

    async def with_server(table: FillTable) -> None:
        raw = RawOrigin(answers)
        server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        def request(path: str) -> FillRequest:
            target = Target.of("http", "127.0.0.1", port, path)
            return FillRequest(target.key, target, Headers(), "agent")

        first = table.start(request("/first"))
        await first.head()
        first.leave()
        await first.fill.ending()
        await table.store.written()
        try:
            await story(table, raw, request)
        finally:
            server.close()
            for writer in raw.writers:
                writer.close()

    with_table(folder, with_server, retries=retries)


async def body_of(waiter: Waiter) -> bytes:
    content = (await waiter.head()).content
    if content is not None:
        return content
    assert waiter.reader is not None
    body = b""
    while chunk := await waiter.reader.read():
        body += chunk
    return body


def test_what_comes_in_one_piece_over_an_open_connection_takes_no_task(tmp_path: Path) -> None:
    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        told: list[bool] = []
        before = asyncio.all_tasks()
        waiter = table.start(request("/x"))
        joined = waiter.fill.join("other", Headers())
        joined.on_head = lambda: told.append(True)
        head = await waiter.head()
        assert head.why_not_stored is None
        assert (await body_of(waiter), table.context.limiter.in_flight) == (b"hello", 0)
        assert (table.running, raw.connections) == (0, 1)
        assert asyncio.all_tasks() == before
        # Who comes now finds it in the store, before it is on the disk.
        (entry,) = table.store.lookup(request("/x").key)
        assert (entry.unwritten, entry.memory) == (b"hello", None)
        assert table.store.open_now(entry) == entry.memory == b"hello"
        await until(lambda: entry.unwritten is None)
        assert entry.location
        assert (await body_of(joined), told) == (b"hello", [True])

    with_origin(tmp_path, [[SMALL], [SMALL]], story)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([SMALL[:-3], HOLD, b"llo"], id="in pieces"),
        pytest.param([CLOSE], id="the connection had ended"),
        pytest.param([b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"], id="worth another try"),
        pytest.param([b"HTTP/1.1 200 OK\r\nConte", CLOSE], id="broken off"),
    ],
)
def test_what_takes_more_than_that_is_gone_on_with(tmp_path: Path, answer: list[bytes]) -> None:
    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        before = asyncio.all_tasks()
        waiter = table.start(request("/x"))
        assert asyncio.all_tasks() == before
        assert (await waiter.head()).response.status == 200
        raw.go.set()
        assert await body_of(waiter) == b"hello"
        await waiter.fill.ending()
        assert (table.context.limiter.in_flight, table.running) == (0, 0)
        assert len(table.store.lookup(request("/x").key)) == 1

    with_origin(tmp_path, [[SMALL], answer, [SMALL]], story, retries=1)


def test_what_may_not_be_kept_is_given_to_who_has_asked(tmp_path: Path) -> None:
    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        waiter = table.start(request("/x"))
        assert (await waiter.head()).why_not_stored == "no-store"
        assert table.running == 0
        assert await body_of(waiter) == b"hello"
        waiter.leave()
        assert not table.store.lookup(request("/x").key)

    with_origin(tmp_path, [[SMALL], [SMALL.replace(b"max-age=600", b"no-store")]], story)


@pytest.mark.parametrize("asked", [False, True])
def test_a_shutdown_while_an_answer_is_awaited_is_told_to_who_waits(tmp_path: Path, asked: bool) -> None:
    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        before = asyncio.all_tasks()
        waiter = table.start(request("/x"))
        if asked:
            await until(lambda: len(raw.requests) == 2)
        assert asyncio.all_tasks() == before
        await table.close()
        with pytest.raises(OriginError, match="abandoned"):
            await waiter.head()
        assert (table.context.limiter.in_flight, table.running) == (0, 0)
        await raw.ended.wait()
        assert not table.store.lookup(request("/x").key)

    with_origin(tmp_path, [[SMALL], []], story)


def test_a_refresh_has_its_time_again_when_who_has_joined_it_leaves(tmp_path: Path) -> None:
    """Or else nobody would end it, however long it takes. While somebody is there it has all the time it needs."""

    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        table.context.quick_abort_timeout = 0.05
        table.context.limiter.configure(Limits(2, queue_timeout=1000))
        refresh = table.start(request("/x"), reads=False)
        first, second = (refresh.fill.join("agent", Headers()) for _ in range(2))
        first.leave()
        alone = table.start(request("/alone"), reads=False)
        for path in ("/queued", "/queued-too"):
            table.start(request(path))
        # The two are in the way of these, and the time of the one that nobody has joined is over.
        with pytest.raises(OriginError, match="abandoned"):
            await alone.head()
        assert refresh.fill.is_running
        second.leave()
        second.leave()
        with pytest.raises(OriginError, match="abandoned"):
            await refresh.head()

    with_origin(tmp_path, [[SMALL], [], [], [], []], story)


def test_what_nobody_waits_for_and_nobody_may_have_is_given_up(tmp_path: Path) -> None:
    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        private = request("/x")
        private.private = True
        waiter = table.start(private)
        await until(lambda: len(raw.requests) == 2)
        waiter.client_gone()
        assert (table.context.limiter.in_flight, table.running) == (0, 0)
        await raw.ended.wait()

    with_origin(tmp_path, [[SMALL], []], story)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([SMALL[:-3]], id="in pieces"),
        pytest.param([CLOSE], id="the connection had ended"),
        pytest.param([b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"], id="worth another try"),
    ],
)
@pytest.mark.parametrize("shutdown", [False, True])
def test_who_leaves_before_the_task_that_goes_on_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: list[bytes], shutdown: bool
) -> None:
    """In the turn of the answer: the task never takes a step then, and nothing in it can give the slot back."""

    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        private = request("/x")
        private.private = True
        waiter = table.start(private)
        fill = waiter.fill
        leave, client = fill.cancel if shutdown else waiter.client_gone, table.context.sources.origin.client
        for name in ("data_received", "connection_lost"):
            monkeypatch.setattr(OriginConnection, name, then(getattr(OriginConnection, name), leave))
        await fill.ending()
        assert (table.context.limiter.in_flight, table.running) == (0, 0)
        with pytest.raises((OriginError, ClientGone)):
            await waiter.head()
        await table.close()
        await until(lambda: client.idle == client.connections)

    with_origin(tmp_path, [[SMALL], answer, [SMALL]], story, retries=1)


@pytest.mark.parametrize("written", [False, True])
def test_what_was_changed_meanwhile_is_not_kept(tmp_path: Path, written: bool) -> None:
    """While the origin is asked, or before its answer is written."""

    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        waiter = table.start(request("/x"))
        if written:
            await waiter.head()
            assert waiter.fill.state is FillState.COMPLETE
        table.invalidate(request("/x").key)
        table.store.remove_key(request("/x").key)
        await waiter.head()
        await waiter.fill.ending()
        assert await body_of(waiter) == b"hello"
        assert not table.store.lookup(request("/x").key)
        assert table.running == 0
        await table.store.close()
        segments = [file.stat() for file in (tmp_path / "segments").iterdir()]
        assert sum(segment.st_blocks for segment in segments) * 512 == 4096  # that of /first
        with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
            assert database.execute("SELECT count(*) FROM entries").fetchone() == (1,)

    with_origin(tmp_path, [[SMALL], [SMALL]], story)


def test_a_disk_that_fails_costs_the_storing_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        def fail(segments: Segments, bodies: object) -> None:
            raise OSError(28, "no space")

        monkeypatch.setattr(Segments, "append", fail)
        waiter = table.start(request("/x"))
        await waiter.head()
        await until(lambda: not table.store.lookup(request("/x").key))
        assert await body_of(waiter) == b"hello"
        waiter.leave()
        assert (table.running, table.store.evictor.reserved, table.store.size) == (0, 0, 8192)

    with_origin(tmp_path, [[SMALL], [SMALL]], story)


def test_what_leaves_memory_before_it_is_written_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when so much comes meanwhile that its head is no longer among those in memory."""
    gate = writer_gate(monkeypatch)

    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        store, key = table.store, request("/x").key
        gate.clear()
        waiter = table.start(request("/x"))
        head = await waiter.head()
        (entry,) = store.lookup(key)
        store.memory.drop(entry)
        assert (entry.memory, await store.open_body(entry)) == (None, b"hello")
        store.index.working_set = 1
        other = table.store.put("http://x/other", head.response, b"other")
        assert other is not None
        assert not store.is_loaded(key)
        await store.load(key)
        assert store.lookup(key) == (entry,)
        assert await store.open_body(entry) == b"hello"
        gate.set()

    with_origin(tmp_path, [[SMALL], [SMALL]], story)


def test_a_variant_of_what_is_not_written_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = writer_gate(monkeypatch)

    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        gate.clear()
        waiter = table.start(request("/x"))
        head = await waiter.head()
        (entry,) = table.store.lookup(request("/x").key)
        assert entry.unwritten
        gate.set()
        other = dataclasses.replace(head.response, vary=(("accept", "x"),), initial_age=0)
        variant = await table.store.add_variant(entry, other)
        assert variant is not None
        assert variant.location
        table.store.memory.drop(variant)
        assert await table.store.open_body(variant) == b"hello"
        assert len(table.store.lookup(request("/x").key)) == 2

    with_origin(tmp_path, [[SMALL], [SMALL]], story)


# -- nobody reads -----------------------------------------------------------------------------------------------------


class Answered:
    """A request that is over."""

    is_over = True


NOT_KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\nCache-Control: no-store\r\n\r\n"


def test_a_waiter_without_a_client_is_found_and_its_fill_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody may forget one; but if somebody does, a slot is not gone for good."""

    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        table.context.sources.origin.client.configure(OriginSettings(timeout=1.0))
        waiter = table.start(request("/x"))
        await waiter.head()
        waiter.asker = Answered()
        await waiter.fill.ending()
        assert (table.context.limiter.in_flight, table.running) == (0, 0)
        assert waiter.fill.stalled
        raw.go.set()

    with_origin(tmp_path, [[SMALL], [NOT_KEPT, bytes(5_000_000), HOLD]], story)
    assert "1 of its readers have no client any more; running, bytes 0 to" in caplog.text


def test_whatever_way_a_waiter_is_left_it_leaves(tmp_path: Path) -> None:
    async def story(table: FillTable, raw: RawOrigin, request: Callable[[str], FillRequest]) -> None:
        waiter = table.start(request("/x"))

        async def fail() -> None:
            with waiter:
                await waiter.head()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await waiter.fill.ending()
        assert (table.context.limiter.in_flight, table.running) == (0, 0)
        raw.go.set()

    with_origin(tmp_path, [[SMALL], [NOT_KEPT, bytes(5_000_000), HOLD]], story)
