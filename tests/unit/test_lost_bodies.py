"""A disk that fails while a body is read from it: the origin is asked for the rest."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.caching.answers import Exchange
from proxy_cache.caching.cache import Cache
from proxy_cache.caching.fills.request import FillRequest
from proxy_cache.caching.fills.table import FillTable
from proxy_cache.caching.headers import Heads
from proxy_cache.caching.ranges.lost_body import from_origin
from proxy_cache.caching.serving import CacheSettings
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.store.body import Body, BodyLost, Reader

from .test_fills import with_table
from .test_origin_connection import until

SIZE = 3_000_000
BODY = os.urandom(SIZE)


class RangeOrigin:
    """One object under one tag, or another one from the second request on."""

    def __init__(self, tag: str = '"1"') -> None:
        self.tag = tag
        self.asked: list[str | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                wanted = fields.get("Range")
                self.asked.append(wanted)
                start, stop, status = 0, SIZE, "200 OK"
                if wanted is not None and fields.get("If-Range", self.tag) == self.tag:
                    first, last = wanted.removeprefix("bytes=").split("-")
                    start, stop = int(first), int(last) + 1 if last else SIZE
                    status = f"206 Partial Content\r\nContent-Range: bytes {start}-{stop - 1}/{SIZE}"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\nCache-Control: max-age=600\r\n"
                    f"ETag: {self.tag}\r\n\r\n".encode()
                )
                writer.write(BODY[start:stop])
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def begun(table: FillTable, origin: RangeOrigin, *, elsewhere: bool) -> tuple[Reader, Any]:
    """A reader of a body that is complete and, but for its end, only in the file."""
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    target = Target.of("http", "127.0.0.1", server.sockets[0].getsockname()[1], "/x")
    exchange = Exchange(target, Headers(), "agent")
    waiter = table.start(FillRequest(target.key, target, Headers(), "agent"))
    head = await waiter.head()
    reader = waiter.reader
    assert reader is not None
    await waiter.fill.ending()
    if elsewhere:

        def rest(start: int, stop: int, length: int) -> Any:
            return from_origin(table, exchange, None, head.response, start, stop, length)

        reader.elsewhere = rest
    return reader, server


def broken_disk(table: FillTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(table.store.files, "read_into", fail)
    monkeypatch.setattr(os, "pread", fail)


@pytest.mark.parametrize("start", [0, 1_234_567])
def test_a_fill_is_read_on_from_the_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    async def story(table: FillTable) -> None:
        origin = RangeOrigin()
        reader, server = await begun(table, origin, elsewhere=True)
        got = b""
        while len(got) < start:
            got += await reader.read()
        broken_disk(table, monkeypatch)
        at = len(got)
        while data := await reader.read():
            got += data
        assert got == BODY
        assert origin.asked[0] is None
        assert origin.asked[1] == f"bytes={at}-{SIZE - 1}"
        assert len(origin.asked) == 2
        reader.close()
        await until(lambda: not table.running)
        assert table.context.limiter.in_flight == 0
        server.close()

    with_table(tmp_path, story)


def test_it_can_go_elsewhere_after_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for several ranges."""

    async def story(table: FillTable) -> None:
        reader, server = await begun(table, RangeOrigin(), elsewhere=True)
        broken_disk(table, monkeypatch)
        for start, stop in ((10, 20), (2_900_000, SIZE), (0, 500_000)):
            reader.seek(start, stop)
            got = b""
            while data := await reader.read():
                got += data
            assert got == BODY[start:stop]
        reader.close()
        server.close()

    with_table(tmp_path, story)


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"'])
def test_without_a_strong_validator_it_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    async def story(table: FillTable) -> None:
        reader, server = await begun(table, RangeOrigin(tag), elsewhere=tag != '"1"')
        broken_disk(table, monkeypatch)
        with pytest.raises(BodyLost):
            await reader.read()
        reader.close()
        server.close()

    with_table(tmp_path, story)


@pytest.mark.parametrize("fields", [Headers(), Headers([(b"Range", b"bytes=10-2000000")])], ids=["all", "range"])
def test_what_has_been_sent_leaves_nothing_to_the_collector(tmp_path: Path, fields: Headers) -> None:
    """A body's tail, and the descriptor of its file, go with the last response, and not at some later time."""

    async def story(table: FillTable) -> None:
        server = await asyncio.start_server(RangeOrigin().serve, "127.0.0.1", 0)
        target = Target.of("http", "127.0.0.1", server.sockets[0].getsockname()[1], "/x")
        cache = Cache(table.store, table, CacheSettings(), Heads("test"))
        for _ in range(3):  # from a fill, and from what is stored
            exchange = Exchange(target, fields, "agent")
            answer = await cache.get(exchange)
            source = answer.body
            assert not isinstance(source, bytes)
            while await source.read():
                pass
            exchange.close()
            del exchange, answer, source
            await until(lambda: not table.running)
        await until(lambda: not [thing for thing in gc.get_objects() if isinstance(thing, (Exchange, Body))])
        server.close()

    gc.collect()
    gc.freeze()  # what is there already, a million objects, need not be looked through
    gc.disable()
    try:
        with_table(tmp_path, story)
    finally:
        gc.enable()
        gc.unfreeze()
