"""Short turns of the event loop: fewer events when they take long, and no event starves."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from proxy_cache.runtime import loop as proxy_loop
from proxy_cache.runtime.loop import (
    ACCEPTED_AT_ONCE,
    EVENTS_MIN,
    ShortTurns,
    accept_in_turns,
    read_at_once,
    take_short_turns,
)
from tests.support.origin import PATIENCE
from tests.support.tasks import until


def test_fewer_events_when_turns_are_long_and_everybody_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    epoll = select.epoll()
    pipes = [os.pipe() for _ in range(10)]
    try:
        for read, write in pipes:
            os.write(write, b"x")  # and nobody reads it: always ready
            epoll.register(read, select.EPOLLIN)
        turns = ShortTurns(epoll)
        assert len(turns.poll(0, 10)) == 10
        monkeypatch.setattr(proxy_loop, "TURN", -1.0)  # any turn is too long
        while len(events := turns.poll(0, 10)) > EVENTS_MIN:
            pass
        assert len(events) == EVENTS_MIN
        seen = Counter(fd for _ in range(50) for fd, _ in turns.poll(0, 10))
        assert set(seen.values()) == {EVENTS_MIN * 50 // 10}
        monkeypatch.setattr(proxy_loop, "TURN", 1e9)
        while len(turns.poll(0, 10)) < 10:
            pass
    finally:
        epoll.close()
        for fd in (fd for pipe in pipes for fd in pipe):
            os.close(fd)


def test_a_burst_of_connections_is_accepted_some_at_a_time() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        accepted = 0
        at_once = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted
            accepted += 1
            writer.write(await reader.readexactly(1))
            writer.close()

        def watch(before: int = 0) -> None:
            at_once.append(accepted - before)
            if accepted < 30:
                loop.call_soon(watch, accepted)

        take_short_turns(loop)
        take_short_turns(loop)  # again: a reloaded script
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        accept_in_turns(loop, server, lambda factory: factory)
        clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(30)]
        watch()
        for client in clients:
            client.setblocking(False)
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 10) == b"x"
            client.close()
        assert sum(at_once) == 30
        assert max(at_once) <= ACCEPTED_AT_ONCE
        server.close()
        await server.wait_closed()

    asyncio.run(story())


@pytest.mark.parametrize("last", [b"", b"raise"])
def test_what_is_read_at_once_arrives_as_it_would_otherwise(last: bytes) -> None:
    """After the connection has closed nothing reads: its descriptor may belong to another one."""

    class Collector(asyncio.Protocol):
        def __init__(self) -> None:
            self.got: list[bytes] = []
            self.lost = asyncio.Event()
            self.end: Callable[[], None] = lambda: None

        def data_received(self, data: bytes) -> None:
            self.got.append(data)
            if data == b"raise":
                raise RuntimeError

        def connection_lost(self, error: Exception | None) -> None:
            self.end()
            self.lost.set()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[Any] = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context["exception"]))
        take_short_turns(loop)
        readers = loop._selector._selector.readers  # type: ignore[attr-defined]
        ours, theirs = socket.socketpair()
        transport, collector = await loop.create_connection(Collector, sock=ours)
        collector.end = read_at_once(loop, transport)
        assert list(readers) == [ours.fileno()]
        near, other = socket.socketpair()
        _, beside = await loop.create_connection(Collector, sock=near)
        theirs.send(b"one")
        await until(lambda: collector.got == [b"one"])
        theirs.send(b"two")
        await until(lambda: collector.got == [b"one", b"two"])
        transport.pause_reading()
        theirs.send(b"three")
        other.send(b"one")  # arrives later and is read: so the first would have been reported by now
        await until(lambda: beside.got == [b"one"])
        assert len(collector.got) == 2
        transport.resume_reading()
        await until(lambda: len(collector.got) == 3)
        if last:
            theirs.send(last)
        else:
            theirs.close()
        await collector.lost.wait()
        assert collector.got == [b"one", b"two", b"three", *([last] if last else [])]
        assert readers == {}
        assert [type(complaint) for complaint in complaints] == ([RuntimeError] if last else [])
        theirs.close()
        other.close()
        await beside.lost.wait()

    asyncio.run(asyncio.wait_for(story(), PATIENCE))
