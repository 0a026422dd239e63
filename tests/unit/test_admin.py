"""The metrics port, with misbehaving clients and without free descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from proxy_cache.admin import listener as listening
from proxy_cache.admin import server as admin
from proxy_cache.admin.server import AdminServer

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def serving(work: Callable[[str, int], Awaitable[None]]) -> None:
    async def serve() -> None:
        server = AdminServer(CollectorRegistry(), lambda: True, dict)
        host, port = await server.start("127.0.0.1", 0)
        try:
            await asyncio.wait_for(work(host, port), 60)
        finally:
            await server.stop()

    asyncio.run(serve())


async def status(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(REQUEST)
    answer = await reader.read()
    writer.close()
    return answer.split(b"\r\n")[0]


@pytest.mark.parametrize("start", [b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: "])
def test_half_a_request_does_not_stay_for_good(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "IDLE_MAX", 0.2)

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(start)
        await reader.read()  # until it is closed
        writer.close()

    serving(work)


def test_many_who_say_nothing_keep_nobody_out() -> None:
    async def work(host: str, port: int) -> None:
        silent = [await asyncio.open_connection(host, port) for _ in range(2 * listening.CONNECTIONS_MAX)]
        assert await status(host, port) == b"HTTP/1.1 200 OK"
        for reader, _ in silent[: listening.CONNECTIONS_MAX]:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        for _, writer in silent:
            writer.close()

    serving(work)


def test_what_is_no_request_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def work(host: str, port: int) -> None:
        for line in (b"GET * HTTP/1.1", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost : x", b"\x16\x03\x01"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(line + b"\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 400")
            writer.close()

    serving(work)
    assert not caplog.records


def test_a_client_that_leaves_in_the_middle_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    reading = asyncio.Event()

    async def echo(request: web.Request) -> web.Response:
        reading.set()
        return web.Response(body=await request.read())

    class Echo:
        def add_to(self, router: web.UrlDispatcher) -> None:
            router.add_post("/echo", echo)

        async def close(self, app: web.Application) -> None:
            pass

    async def work() -> None:
        server = AdminServer(CollectorRegistry(), lambda: True, dict, Echo())  # type: ignore[arg-type]
        host, port = await server.start("127.0.0.1", 0)
        _, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        await reading.wait()
        writer.transport.abort()
        await asyncio.sleep(0.05)  # the server hears of it, and its handler ends
        await server.stop()

    asyncio.run(work())
    assert not caplog.records


def test_our_own_faults_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bool:
        raise ZeroDivisionError

    async def work() -> None:
        server = AdminServer(CollectorRegistry(), broken, dict)
        host, port = await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(REQUEST.replace(b"/metrics", b"/readyz"))
        assert (await reader.read()).startswith(b"HTTP/1.1 500")
        writer.close()
        await server.stop()

    asyncio.run(work())
    assert "ZeroDivisionError" in caplog.text


def test_it_answers_when_no_descriptor_is_left() -> None:
    async def work(host: str, port: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            # Our own end takes a descriptor, too: connect first, and be accepted when there
            # is none.
            loop = asyncio.get_running_loop()
            for _ in range(3):
                connection = socket.socket()
                connection.setblocking(False)
                with contextlib.suppress(OSError):
                    while True:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                await loop.sock_connect(connection, (host, port))
                await loop.sock_sendall(connection, REQUEST)
                answer = b""
                while data := await loop.sock_recv(connection, 65536):
                    answer += data
                assert answer.startswith(b"HTTP/1.1 200")
                os.close(taken.pop())
                connection.close()
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    serving(work)
