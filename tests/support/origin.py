"""An origin that does as it is told.

A real HTTP/1.1 server on loopback, in a thread of its own, that keeps a record of every request. What it answers is
set per target with :class:`Reply`; a :class:`Gate` holds an answer until the test says go, so that tests wait for
events and not for time.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from .content import BLOCK, content

PATIENCE = 60.0
"""Seconds that any wait for an event may take before the test fails, on a machine whose cores are all busy."""

SAFETY = 280.0
"""Seconds after which a held answer is given up, whatever happened to the test."""


_had: set[int] = set()
"""Ports that something in this process has had."""


def bind_new_port(host: str = "127.0.0.1") -> socket.socket:
    """A socket with a port that nothing in this process has had before. The kernel gives one away again after some
    hundred others, and a proxy that tests share would answer from what it has cached of the earlier one's URLs."""
    refused = []
    try:
        while True:
            sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio switches Nagle off where it sees this
            refused.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, 0))
            if (port := sock.getsockname()[1]) not in _had:
                _had.add(port)
                return refused.pop()
    finally:
        for sock in refused:
            sock.close()


class Gate:
    """Holds answers until it is opened. Made by the test, waited at by the origin."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()

    def open(self) -> None:
        with self._lock:
            self._open.set()
            for loop, event in self._waiters:
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                    loop.call_soon_threadsafe(event.set)
            self._waiters.clear()

    async def passed(self) -> None:
        """Returns when it is open. Raises ``TimeoutError``, so that no origin hangs for ever."""
        event = asyncio.Event()
        with self._lock:
            if self._open.is_set():
                return
            self._waiters.append((asyncio.get_running_loop(), event))
        async with asyncio.timeout(SAFETY):
            await event.wait()


@dataclass(frozen=True)
class Reply:
    """One answer of the origin."""

    status: int = 200
    size: int = 1000
    headers: tuple[tuple[str, str], ...] = (("Cache-Control", "max-age=3600"),)
    body: bytes | None = None
    """The body itself; by default ``size`` bytes that follow from ``seed``."""
    seed: str | None = None
    """By default the target (path and query)."""
    seed_by: str | None = None
    """A request header whose value is part of the seed: representations that differ."""
    chunked: bool = False
    until_close: bool = False
    """Neither Content-Length nor chunks: the end of the connection is the end of the body."""
    delay: float = 0.0
    """Seconds from the request to the head."""
    rate: int = 0
    """Bytes per second; 0 is as fast as it goes."""
    gate: Gate | None = None
    """Nothing is sent before it opens."""
    body_gate: Gate | None = None
    gate_at: int = 0
    """After so many bytes of the body, ``body_gate`` has to open."""
    cut: int | None = None
    """After so many bytes of the body the connection ends, in the middle of the message."""
    fail: str = ""
    """Instead of an answer: ``reset`` (RST), ``close`` (FIN), ``garbage`` (no HTTP)."""
    keep_alive: bool = True
    interim: tuple[tuple[int, tuple[tuple[str, str], ...]], ...] = ()
    """Responses 1xx, status and header, before the final one."""
    dated: bool = True
    """Whether a Date is added where ``headers`` have none."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_headers(self, *headers: tuple[str, str]) -> Reply:
        return replace(self, headers=headers)

    def payload(self, request: Request, start: int, length: int) -> Iterator[bytes]:
        seed = self.seed if self.seed is not None else request.target
        if self.seed_by is not None:
            seed += f"|{request.header(self.seed_by)}"
        while length:
            step = min(length, BLOCK - start % BLOCK)
            if self.body is not None:
                yield self.body[start : start + step]
            else:
                yield content(seed, step, start)
            start += step
            length -= step


@dataclass
class Request:
    """What the origin saw of one request."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    client: tuple[str, int]
    at: float
    body_received: int = 0
    body: bytes = b""
    """The first MiB of it."""
    chunked: bool = False
    body_done: bool = False
    first_body_at: float | None = None
    last_body_at: float | None = None
    sent: int = 0
    """Bytes of the answer's body that were handed to the kernel."""
    answered: bool = False
    aborted: bool = False
    """The other side went away before the answer was complete."""
    trailing: dict[str, object] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        values = self.header_values(name)
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class ClientGone(Exception):
    pass


async def abort(writers: Iterable[asyncio.StreamWriter]) -> None:
    """End connections, and wait for their sockets to be closed."""
    closed = []
    for writer in writers:
        writer.transport.abort()
        closed.append(writer.wait_closed())
    await asyncio.gather(*closed, return_exceptions=True)


class Origin:
    """``with Origin() as origin: url = origin.serve("/a", Reply(size=10))``."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = 0
        self.default = Reply()
        self._tls = tls
        self.requests: list[Request] = []
        self.in_flight = 0
        self.peak = 0
        self.connections = 0
        self._replies: dict[str, list[Reply]] = {}
        self._prefixes: dict[str, Reply] = {}
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="origin", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    # -- what a test says ------------------------------------------------------------------------------------

    @property
    def netloc(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def base(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.netloc}"

    def url(self, target: str) -> str:
        return self.base + target

    def serve(self, target: str, *replies: Reply) -> str:
        """Set the answers to ``target`` (path and query), in their order; the last one stays. Returns the URL."""
        with self._changed:
            self._replies[target] = list(replies) or [Reply()]
        return self.url(target)

    def serve_prefix(self, prefix: str, reply: Reply) -> str:
        """Set the answer to every target that starts with ``prefix`` and has no answer of its own."""
        with self._changed:
            self._prefixes[prefix] = reply
        return self.url(prefix)

    # -- what a test asks ------------------------------------------------------------------------------------

    def seen(self, target: str | None = None, method: str | None = None) -> list[Request]:
        """The requests so far, in order; of one target (or below a prefix that ends in ``/*``), of one method."""
        with self._changed:
            requests = list(self.requests)

        def wanted(request: Request) -> bool:
            if method is not None and request.method != method:
                return False
            if target is None:
                return True
            if target.endswith("/*"):
                return request.target.startswith(target[:-1])
            return request.target == target

        return [request for request in requests if wanted(request)]

    def count(self, target: str | None = None, method: str | None = None) -> int:
        return len(self.seen(target, method))

    def wait(self, what: Callable[[], bool], timeout: float = PATIENCE, told: str = "") -> None:
        """Until ``what()`` holds; it is asked again whenever something happens at the origin."""
        with self._changed:
            if not self._changed.wait_for(what, timeout):
                raise AssertionError(f"the origin did not see {told or what} within {timeout} s: {self.requests}")

    def wait_for(self, target: str, count: int = 1, timeout: float = PATIENCE) -> Request:
        """Until ``target`` was asked for ``count`` times; the last of these requests."""
        self.wait(lambda: self.count(target) >= count, timeout, f"{count} of {target}")
        return self.seen(target)[count - 1]

    def body_of(self, target: str, size: int, start: int = 0) -> bytes:
        """The bytes that an unscripted body of ``target`` has."""
        return content(target, size, start)

    # -- running ---------------------------------------------------------------------------------------------

    def start(self) -> Self:
        sock = bind_new_port(self.host)
        self.port = sock.getsockname()[1]
        sock.listen(1024)
        sock.setblocking(False)
        self._socket = sock
        self._thread.start()
        return self

    def stop(self) -> None:
        if not self._thread.is_alive():
            return

        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, ssl=self._tls, sock=self._socket, limit=1 << 18)
        )
        self._loop.run_forever()
        self._server.close()
        self._loop.run_until_complete(self._hang_up())
        self._loop.close()

    async def _hang_up(self) -> None:
        writers = list(self._writers)
        leftover = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in leftover:
            task.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)
        await abort(writers)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with self._changed:
            self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                writer.transport.abort()
            else:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. True if the connection may be used again."""
        raw = await reader.readuntil(b"\r\n\r\n")
        lines = raw[:-4].decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        request = Request(method, target, version, headers, writer.get_extra_info("peername")[:2], time.monotonic())
        with self._changed:
            self.requests.append(request)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            reply = self._reply_for(target)
            self._changed.notify_all()
        try:
            await self._read_body(request, reader, writer)
            return await self._answer(request, reply, reader, writer)
        except (OSError, ClientGone, asyncio.IncompleteReadError):
            request.aborted = True
            return False
        finally:
            with self._changed:
                self.in_flight -= 1
                self._changed.notify_all()

    def _reply_for(self, target: str) -> Reply:
        replies = self._replies.get(target)
        if replies is not None:
            return replies.pop(0) if len(replies) > 1 else replies[0]
        prefixes = [prefix for prefix in self._prefixes if target.startswith(prefix)]
        return self._prefixes[max(prefixes, key=len)] if prefixes else self.default

    async def _read_body(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (request.header("Expect") or "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.chunked = "chunked" in (request.header("Transfer-Encoding") or "").lower()
        kept = bytearray()

        def arrived(data: bytes) -> None:
            now = time.monotonic()
            with self._changed:
                request.first_body_at = request.first_body_at or now
                request.last_body_at = now
                request.body_received += len(data)
                if len(kept) < 1 << 20:
                    kept.extend(data)
                self._changed.notify_all()

        if request.chunked:
            while size := int((await reader.readline()).split(b";")[0], 16):
                arrived(await reader.readexactly(size))
                await reader.readexactly(2)
            while (await reader.readline()).strip():
                pass
        else:
            left = int(request.header("Content-Length") or 0)
            while left:
                data = await reader.read(min(left, 1 << 16))
                if not data:
                    raise ClientGone
                arrived(data)
                left -= len(data)
        with self._changed:
            request.body = bytes(kept)
            request.body_done = True
            self._changed.notify_all()

    async def _answer(
        self, request: Request, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        # Nobody sends a second request before the answer to the first is complete, so anything that can be read
        # while we answer is the end of the connection.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            if reply.delay:
                await self._or_gone(asyncio.sleep(reply.delay), gone)
            if reply.gate is not None:
                await self._or_gone(reply.gate.passed(), gone)
            if reply.fail:
                return self._fail(reply.fail, writer)
            return await self._send(request, reply, writer, gone)
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone

    @staticmethod
    async def _or_gone(waiting: object, gone: asyncio.Future[bytes]) -> None:
        task = asyncio.ensure_future(waiting)  # type: ignore[call-overload]
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            task.result()
        finally:
            task.cancel()

    @staticmethod
    def _fail(how: str, writer: asyncio.StreamWriter) -> bool:
        if how == "garbage":
            writer.write(b"\x00\xff this is no HTTP\r\n\r\n")
        elif how == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False

    async def _send(
        self, request: Request, reply: Reply, writer: asyncio.StreamWriter, gone: asyncio.Future[bytes]
    ) -> bool:
        status, headers = reply.status, list(reply.headers)
        total = len(reply.body) if reply.body is not None else reply.size
        start, length = 0, total
        bodiless = status in (204, 304) or 100 <= status < 200
        if status == 200 and request.method in ("GET", "HEAD"):
            if self._not_modified(request, reply):
                status, bodiless = 304, True
            elif request.method == "GET" and (span := self._range(request, reply, total)) is not None:
                if span[0] >= total:
                    headers.append(("Content-Range", f"bytes */{total}"))
                    headers.append(("Content-Length", "0"))
                    return await self._send_empty(request, writer, 416, headers)
                start, length = span[0], span[1] - span[0]
                status = 206
                headers.append(("Content-Range", f"bytes {start}-{start + length - 1}/{total}"))
        if bodiless:
            length = 0
        elif reply.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif not reply.until_close:
            headers.append(("Content-Length", str(length)))
        keep_alive = reply.keep_alive and not reply.until_close
        if not keep_alive:
            headers.append(("Connection", "close"))
        if reply.dated and reply.header("Date") is None:
            headers.append(("Date", email.utils.formatdate(usegmt=True)))
        for code, fields in reply.interim:
            writer.write("\r\n".join([f"HTTP/1.1 {code} So far", *map(": ".join, fields), "", ""]).encode("latin-1"))
            await writer.drain()
        head = [f"HTTP/1.1 {status} Told so", *(f"{name}: {value}" for name, value in headers), "", ""]
        writer.write("\r\n".join(head).encode("latin-1"))
        await writer.drain()
        if request.method == "HEAD":
            length = 0
        elif not await self._send_body(request, reply, writer, gone, start, length, not bodiless and reply.chunked):
            return False
        with self._changed:
            request.answered = True
            self._changed.notify_all()
        return keep_alive and (request.header("Connection") or "").lower() != "close"

    async def _send_empty(
        self, request: Request, writer: asyncio.StreamWriter, status: int, headers: list[tuple[str, str]]
    ) -> bool:
        head = [f"HTTP/1.1 {status} Told so", *(f"{name}: {value}" for name, value in headers), "", ""]
        writer.write("\r\n".join(head).encode("latin-1"))
        await writer.drain()
        with self._changed:
            request.answered = True
            self._changed.notify_all()
        return True

    async def _send_body(
        self,
        request: Request,
        reply: Reply,
        writer: asyncio.StreamWriter,
        gone: asyncio.Future[bytes],
        start: int,
        length: int,
        chunked: bool,
    ) -> bool:
        """The body; False if it was cut."""
        end = length if reply.cut is None else min(length, reply.cut)
        began = time.monotonic()
        for piece in reply.payload(request, start, end):
            while piece:
                now = piece
                if reply.rate:
                    now = now[: max(1024, reply.rate // 100)]
                if reply.body_gate is not None and request.sent < reply.gate_at:
                    now = now[: reply.gate_at - request.sent]
                if reply.body_gate is not None and request.sent >= reply.gate_at:
                    await self._or_gone(reply.body_gate.passed(), gone)
                piece = piece[len(now) :]
                writer.write(b"%x\r\n%b\r\n" % (len(now), now) if chunked else now)
                await writer.drain()
                if gone.done():
                    raise ClientGone
                with self._changed:
                    request.sent += len(now)
                    self._changed.notify_all()
                if reply.rate:
                    ahead = began + request.sent / reply.rate - time.monotonic()
                    if ahead > 0:
                        await asyncio.sleep(ahead)
        if reply.body_gate is not None and request.sent >= reply.gate_at:
            await self._or_gone(reply.body_gate.passed(), gone)
        if reply.cut is not None:
            return False
        if chunked:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return True

    @staticmethod
    def _not_modified(request: Request, reply: Reply) -> bool:
        etag, tags = reply.header("ETag"), request.header("If-None-Match")
        if tags is not None:
            return etag is not None and (tags == "*" or etag in [tag.strip() for tag in tags.split(",")])
        modified = reply.header("Last-Modified")
        return modified is not None and request.header("If-Modified-Since") == modified

    @staticmethod
    def _range(request: Request, reply: Reply, total: int) -> tuple[int, int] | None:
        wanted = request.header("Range")
        if wanted is None or reply.header("Accept-Ranges") != "bytes" or not wanted.startswith("bytes="):
            return None
        condition = request.header("If-Range")
        if condition is not None and condition not in (reply.header("ETag"), reply.header("Last-Modified")):
            return None
        first, _, last = wanted[len("bytes=") :].partition("-")
        if not first:
            return max(0, total - int(last)), total
        return int(first), min(total, int(last) + 1 if last else total)


class Echo:
    """A raw TCP server for tunnels: sends back what it gets, and says goodbye when the other side has finished."""

    GOODBYE = b"[goodbye]"

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0
        self.eof = threading.Event()
        self._socket = bind_new_port()
        self._socket.listen(128)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="echo", daemon=True)

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(PATIENCE)
            try:
                while data := connection.recv(1 << 16):
                    self.received += data
                    connection.sendall(data)
                # The client has finished; we have not: a tunnel must still carry what we say.
                self.eof.set()
                connection.sendall(self.GOODBYE)
            except OSError:
                pass
