"""Agents: HTTP clients that the test holds in its hand.

They run on an event loop of their own thread, so a test reads as a story: start a request, wait until its head is
there, let the agent leave, look at what another one got. Every client is a plain socket that parses what it gets
strictly and says whether the message was complete.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from .content import Checker
from .origin import PATIENCE, abort

Headers = Sequence[tuple[str, str]]


@dataclass
class Response:
    """What an agent got. ``complete`` is what its framing says: all of Content-Length, or the last chunk."""

    status: int = 0
    version: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    received: int = 0
    """Bytes of body, also when a checker saw them and ``body`` has none."""
    complete: bool = False
    right: bool | None = None
    """Whether the checker found all bytes right, and all of them."""
    error: str = ""
    head_after: float | None = None
    """Seconds from connecting to the head, to the first byte of the body, to the end."""
    first_byte_after: float | None = None
    total: float = 0.0

    def header(self, name: str) -> str | None:
        values = self.header_values(name)
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def hit(self) -> bool:
        """Cache-Status (RFC 9211) says that the answer came out of the cache."""
        return any("hit" in [part.strip() for part in value.split(";")] for value in self.header_values("Cache-Status"))

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.complete and self.right is not False

    def __repr__(self) -> str:
        end = "complete" if self.complete else f"incomplete {self.error}"
        return f"<Response {self.status} {self.received} bytes, {end}, right={self.right}, {self.headers}>"


class Fetch:
    """One request under way. Made by :class:`Agents`."""

    def __init__(self, agents: Agents, url: str) -> None:
        self.url = url
        self.response = Response()
        self._agents = agents
        self._changed = threading.Condition()
        self._head = False
        self._ended = False
        self.writer: asyncio.StreamWriter | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self._future: concurrent.futures.Future[None] | None = None

    # -- what a test says and asks ---------------------------------------------------------------------------

    def head(self, timeout: float = PATIENCE) -> Response:
        """Wait for status and headers."""
        self._wait(lambda: self._head or self._ended, timeout, "a head")
        assert self._head, f"{self.url}: no head: {self.response.error}"
        return self.response

    def received(self, count: int, timeout: float = PATIENCE) -> Response:
        """Wait for ``count`` bytes of body."""
        self._wait(lambda: self.response.received >= count or self._ended, timeout, f"{count} bytes")
        assert self.response.received >= count, f"{self.url}: only {self.response}"
        return self.response

    def result(self, timeout: float = 60.0) -> Response:
        """Wait for the end, whatever it is."""
        self._wait(lambda: self._ended, timeout, "the end")
        return self.response

    @property
    def ended(self) -> bool:
        return self._ended

    def leave(self) -> None:
        """Go away now, without a word."""

        async def leave() -> None:
            if self.writer is not None:
                self.writer.transport.abort()
            if self._future is not None:
                self._future.cancel()

        self._agents.call(leave())

    def pause(self) -> None:
        """Read nothing more until :meth:`resume`."""
        self._agents.loop.call_soon_threadsafe(self._reading.clear)

    def resume(self) -> None:
        self._agents.loop.call_soon_threadsafe(self._reading.set)

    def _wait(self, what: Any, timeout: float, told: str) -> None:
        with self._changed:
            if not self._changed.wait_for(what, timeout):
                raise AssertionError(f"{self.url}: no {told} within {timeout} s, but {self.response}")

    # -- running ---------------------------------------------------------------------------------------------

    async def _run(self, request: _Request) -> None:
        response = self.response
        began = time.monotonic()
        try:
            await self._exchange(request, began)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            response.error = f"{type(error).__name__}: {error}"
        finally:
            if self.writer is not None:
                self.writer.transport.abort()
            with self._changed:
                response.total = time.monotonic() - began
                if request.checker is not None:
                    response.right = request.checker.complete
                self._ended = True
                self._changed.notify_all()

    async def _exchange(self, request: _Request, began: float) -> None:
        response = self.response
        reader, writer = await _connect(request)
        self.writer = writer
        writer.write(request.head())
        if request.body:
            writer.write(request.body)
        await writer.drain()
        raw = await reader.readuntil(b"\r\n\r\n")
        while raw.split(b" ", 2)[1].startswith(b"1"):
            raw = await reader.readuntil(b"\r\n\r\n")
        version, status, headers = parse_head(raw)
        with self._changed:
            response.version, response.status, response.headers = version, status, headers
            response.head_after = time.monotonic() - began
            self._head = True
            self._changed.notify_all()
        await self._body(request, reader, began)

    async def _body(self, request: _Request, reader: asyncio.StreamReader, began: float) -> None:
        response, checker = self.response, request.checker
        kept: list[bytes] = []

        async def arrived(data: bytes) -> None:
            now = time.monotonic()
            if response.first_byte_after is None:
                response.first_byte_after = now - began
            if checker is not None:
                checker.feed(data)
            else:
                kept.append(data)
            with self._changed:
                response.received += len(data)
                self._changed.notify_all()
            if request.rate:
                ahead = began + response.received / request.rate - now
                if ahead > 0:
                    await asyncio.sleep(ahead)
            await self._reading.wait()

        await self._reading.wait()
        step = 1 << 18 if not request.rate else max(1, min(1 << 16, request.rate // 10))
        length = response.header("Content-Length")
        try:
            if request.method == "HEAD" or response.status in (204, 304):
                response.complete = True
            elif "chunked" in (response.header("Transfer-Encoding") or "").lower():
                while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    while size:
                        data = await reader.read(min(size, step))
                        if not data:
                            return
                        size -= len(data)
                        await arrived(data)
                    if await reader.readexactly(2) != b"\r\n":
                        raise ValueError("a chunk without its end")
                while (await reader.readuntil(b"\r\n")).strip():
                    pass
                response.complete = True
            elif length is not None:
                left = int(length)
                while left:
                    data = await reader.read(min(left, step))
                    if not data:
                        return
                    left -= len(data)
                    await arrived(data)
                response.complete = True
            else:
                while data := await reader.read(step):
                    await arrived(data)
                response.complete = True
        finally:
            response.body = b"".join(kept)


@dataclass
class _Request:
    address: tuple[str, int]
    method: str
    target: str
    headers: Headers
    body: bytes
    version: str
    source: str | None
    rate: int
    rcvbuf: int
    checker: Checker | None
    connect: str | None = None
    """Where a tunnel is to lead, for a request in TLS."""
    tls: ssl.SSLContext | None = None

    def head(self) -> bytes:
        lines = [f"{self.method} {self.target} {self.version}", *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _connect(request: _Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio switches Nagle off where it sees this
    try:
        sock.setblocking(False)
        if request.rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, request.rcvbuf)
        if request.source:
            sock.bind((request.source, 0))
        await asyncio.get_running_loop().sock_connect(sock, request.address)
    except BaseException:
        sock.close()
        raise
    # The limit is what the reader keeps ahead of us, twice over: a slow agent must look slow to the proxy.
    limit = 1 << 16 if request.rate or request.rcvbuf else 1 << 20
    if request.connect is None:
        return await asyncio.open_connection(sock=sock, limit=limit)
    try:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, f"CONNECT {request.connect} HTTP/1.1\r\nHost: {request.connect}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            data = await loop.sock_recv(sock, 1024)
            if not data:
                raise ConnectionResetError(f"no answer to CONNECT: {answer!r}")
            answer += data
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionRefusedError(f"CONNECT: {answer!r}")
    except BaseException:
        sock.close()
        raise
    host = request.connect.rpartition(":")[0]
    return await asyncio.open_connection(sock=sock, limit=limit, ssl=request.tls, server_hostname=host)


def parse_head(raw: bytes) -> tuple[str, int, list[tuple[str, str]]]:
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    version, status = first.split(" ", 2)[:2]
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or not name:
            raise ValueError(f"not a header: {line!r}")
        headers.append((name, value.strip()))
    return version, int(status), headers


class Agents:
    """``with Agents(proxy.address) as agents: agents.get(url).result()``."""

    def __init__(self, proxy: tuple[str, int] | None = None) -> None:
        self.proxy = proxy
        self.tls: ssl.SSLContext | None = None
        """For URLs of https: to be asked for in tunnels."""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="agents", daemon=True)
        self._fetches: list[Fetch] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await abort(fetch.writer for fetch in self._fetches if fetch.writer is not None)

        with contextlib.suppress(Exception):
            self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout: float = PATIENCE) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def start(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        host: str | None = None,
        target: str | None = None,
        version: str = "HTTP/1.1",
        source: str | None = None,
        rate: int = 0,
        rcvbuf: int = 0,
        expect: tuple[str, int] | int | None = None,
        direct: bool = False,
        paused: bool = False,
    ) -> Fetch:
        """Start a request.

        ``expect`` is the size of the origin's body for this target, or (seed, size): bytes are then compared on the
        way and not kept. ``source`` is the address the agent comes from, ``rate`` the bytes per second it reads,
        ``host`` another Host header than the URL's, ``direct`` goes to the origin itself.
        """
        parts = urlsplit(url)
        origin_form = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        address = self.proxy
        if direct or address is None:
            address = (parts.hostname or "127.0.0.1", parts.port or 80)
            target = target or origin_form
        connect = parts.netloc if self.tls is not None and parts.scheme == "https" and not direct else None
        if connect:
            target = target or origin_form
        all_headers = [("Host", host if host is not None else parts.netloc), *headers]
        names = {name.lower() for name, _ in all_headers}
        if body and not names & {"content-length", "transfer-encoding"}:
            all_headers.append(("Content-Length", str(len(body))))
        if isinstance(expect, int):
            expect = (origin_form, expect)
        request = _Request(
            address=address,
            method=method,
            target=target or url,
            headers=all_headers,
            body=body,
            version=version,
            source=source,
            rate=rate,
            rcvbuf=rcvbuf or (1 << 16 if rate or paused else 0),
            checker=Checker(*expect) if expect is not None else None,
            connect=connect,
            tls=self.tls,
        )
        fetch = Fetch(self, url)
        if paused:
            fetch.pause()
        self._fetches.append(fetch)
        fetch._future = asyncio.run_coroutine_threadsafe(fetch._run(request), self.loop)
        return fetch

    def get(self, url: str, **options: Any) -> Fetch:
        return self.start("GET", url, **options)

    def get_all(self, urls: Iterable[str], **options: Any) -> list[Fetch]:
        """One GET of each, all at once."""
        return [self.get(url, **options) for url in urls]


def results(fetches: Iterable[Fetch], timeout: float = 60.0) -> list[Response]:
    """Wait for all of them, ``timeout`` seconds in all."""
    deadline = time.monotonic() + timeout
    return [fetch.result(max(0.01, deadline - time.monotonic())) for fetch in fetches]


class Wire:
    """A plain blocking connection, for what no well-behaved client would send."""

    def __init__(self, address: tuple[str, int], timeout: float = PATIENCE) -> None:
        self.socket = socket.create_connection(address, timeout=timeout)
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes | str) -> None:
        self.socket.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def finish(self) -> None:
        """Half-close: we have said all."""
        self.socket.shutdown(socket.SHUT_WR)

    def until(self, mark: bytes) -> bytes:
        """Everything up to ``mark`` and with it."""
        while mark not in self.buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(f"the connection ended before {mark!r}: {self.buffer[:500]!r}")
            self.buffer += data
        end = self.buffer.index(mark) + len(mark)
        result, self.buffer = self.buffer[:end], self.buffer[end:]
        return result

    def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(f"the connection ended after {len(self.buffer)} of {count} bytes")
            self.buffer += data
        result, self.buffer = self.buffer[:count], self.buffer[count:]
        return result

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(1 << 16):
                self.buffer += data
        result, self.buffer = self.buffer, b""
        return result

    def head(self) -> tuple[int, list[tuple[str, str]]]:
        _, status, headers = parse_head(self.until(b"\r\n\r\n"))
        return status, headers

    def response(self) -> Response:
        """A head and a body of Content-Length or chunks; the connection stays open."""
        version, status, headers = parse_head(self.until(b"\r\n\r\n"))
        response = Response(status=status, version=version, headers=headers)
        if "chunked" in (response.header("Transfer-Encoding") or ""):
            while size := int(self.until(b"\r\n"), 16):
                response.body += self.exactly(size)
                self.exactly(2)
            self.until(b"\r\n")
        else:
            response.body = self.exactly(int(response.header("Content-Length") or 0))
        response.received = len(response.body)
        response.complete = True
        return response
