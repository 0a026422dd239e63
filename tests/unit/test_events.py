"""Server-sent events of the status: who gets them, when they are made, and what is left afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from proxy_cache.admin import events as events_module
from proxy_cache.admin.api import problems
from proxy_cache.admin.events import LISTENERS_MAX, Events
from tests.support.tasks import until

TIMEOUT = 60


class Status:
    """What is read: it has the number of the reading."""

    def __init__(self, padding: str = "") -> None:
        self.readings = 0
        self.fails = False
        self.errors: list[Exception] = []
        self.padding = padding

    async def read(self) -> dict[str, Any]:
        if self.fails:
            raise ValueError("no status")
        self.readings += 1
        return {"reading": self.readings, "text": "line\nbreak" + self.padding}


class Listener:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    @classmethod
    async def connect(cls, port: int) -> Listener:
        listener = cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 22))
        # HTTP/1.0: what comes is the body as it is, up to the end of the connection.
        listener.writer.write(b"GET /events HTTP/1.0\r\n\r\n")
        listener.head = await listener.reader.readuntil(b"\r\n\r\n")
        return listener

    async def event(self) -> Any:
        text = (await self.reader.readuntil(b"\n\n")).decode()
        name, data, *_ = text.splitlines()
        assert name == "event: status"
        return json.loads(data.removeprefix("data: "))

    async def ends(self) -> None:
        while await self.reader.read(1 << 16):
            pass

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


Story = Callable[[Events, int], Awaitable[None]]


def serving(status: Status, story: Story) -> None:
    async def run() -> None:
        events = Events(status.read, status.errors.append)
        app = web.Application(middlewares=[problems])
        app.router.add_get("/events", events.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with asyncio.timeout(TIMEOUT):
                await story(events, port)
        finally:
            events.close()
            await runner.cleanup()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "INTERVAL", 0.02)


def test_whoever_listens_gets_the_status_again_and_again() -> None:
    status = Status()

    async def story(events: Events, port: int) -> None:
        one, other = await Listener.connect(port), await Listener.connect(port)
        assert one.head.startswith(b"HTTP/1.0 200 ")
        assert b"text/event-stream" in one.head
        first = await one.event()
        assert first["text"] == "line\nbreak"
        assert [(await one.event())["reading"] for _ in range(3)] == [first["reading"] + number for number in (1, 2, 3)]
        # They share the readings.
        assert (await other.event())["reading"] <= status.readings
        await one.leave()
        await other.leave()

    serving(status, story)


def test_nothing_is_read_while_nobody_listens() -> None:
    status = Status()

    async def story(events: Events, port: int) -> None:
        before = asyncio.all_tasks()
        assert status.readings == 0
        for _ in range(2):
            listener = await Listener.connect(port)
            await listener.event()
            await listener.leave()
            await until(lambda: not events.listeners)
            readings = status.readings
            # What is left of a connection ends by itself.
            await until(lambda: not asyncio.all_tasks() - before)
            assert status.readings == readings

    serving(status, story)


def test_a_bounded_number_is_served() -> None:
    async def story(events: Events, port: int) -> None:
        listeners = [await Listener.connect(port) for _ in range(LISTENERS_MAX)]
        refused = await Listener.connect(port)
        assert refused.head.startswith(b"HTTP/1.0 503 ")
        assert b"Retry-After: 5" in refused.head
        assert str(LISTENERS_MAX) in json.loads(await refused.reader.read())["detail"]
        await listeners.pop().leave()
        await until(lambda: events.listeners < LISTENERS_MAX)
        listeners.append(await Listener.connect(port))
        assert (await listeners[-1].event())["reading"]
        for listener in listeners:
            await listener.leave()
        await until(lambda: not events.listeners)

    serving(Status(), story)


def test_a_listener_that_does_not_read_is_cut_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "WRITE_TIMEOUT", 0.3)

    async def story(events: Events, port: int) -> None:
        silent = await Listener.connect(port)
        silent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        other = await Listener.connect(port)
        while events.listeners == 2:
            await other.event()
        await other.event()
        await other.leave()
        silent.writer.transport.abort()

    serving(Status("x" * 1_000_000), story)


def test_closing_ends_all_streams_and_takes_no_more() -> None:
    async def story(events: Events, port: int) -> None:
        listeners = [await Listener.connect(port) for _ in range(3)]
        await listeners[0].event()
        events.close()
        for listener in listeners:
            await listener.ends()
        await until(lambda: not events.listeners)
        late = await Listener.connect(port)
        assert late.head.startswith(b"HTTP/1.0 503 ")

    serving(Status(), story)


def test_a_status_that_cannot_be_read_ends_the_streams_and_not_the_next_ones() -> None:
    status = Status()

    async def story(events: Events, port: int) -> None:
        listener = await Listener.connect(port)
        await listener.event()
        status.fails = True
        await listener.ends()
        assert [str(error) for error in status.errors] == ["no status"]
        status.fails = False
        again = await Listener.connect(port)
        await again.event()
        await again.leave()

    serving(status, story)
