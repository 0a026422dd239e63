"""Clients for soaks: each asks for one thing after the other, in all the ways of clients, and checks every byte."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence

from .agents import parse_head
from .content import content
from .soak_origin import seed_of, size_of

PATIENCE = 60.0
"""Seconds without a byte after which a client says that it hangs."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Broken(Exception):
    """A response that is not all there, with the reason."""


class Clients:
    """So many at a time, until :attr:`over`."""

    def __init__(self, proxy: tuple[str, int], base: str, targets: Sequence[str]) -> None:
        self.proxy = proxy
        self.base = base
        self.targets = targets
        self.over = False
        self.counts: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        """Responses that ended early, by the reason and the kind of target."""
        self.wrong: list[str] = []
        """What must not be: wrong bytes, answers that make no sense, and silence."""
        self.received = 0
        """Bytes of bodies."""
        self.requests = 0

    async def run(self, count: int) -> None:
        await asyncio.gather(*(_Client(self, number).run() for number in range(count)))


class _Client:
    def __init__(self, all_of_them: Clients, number: int) -> None:
        self.all = all_of_them
        self.chance = random.Random(number)
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.connection = 0
        self.is_slow = number % 12 == 11
        """Reads slower than the origin sends."""
        self.etags: dict[str, str] = {}
        self.history: deque[str] = deque(maxlen=6)
        """What was last asked and answered on this connection, and the one before it."""

    async def run(self) -> None:
        while not self.all.over:
            target = self.chance.choice(self.all.targets)
            try:
                async with asyncio.timeout(None) as self.patience:
                    await self._ask(target)
            except Broken as error:
                self.all.broken[f"{error} ({target.split('/')[2]})"] += 1
                self._close()
            except TimeoutError:
                self.all.wrong.append(f"{target}: nothing came for {PATIENCE} s, {list(self.history)}")
                self._close()
            except (OSError, asyncio.IncompleteReadError) as error:
                self.all.broken[f"{type(error).__name__} ({target.split('/')[2]})"] += 1
                self._close()
        self._close()

    def _wait_on(self) -> None:
        self.patience.reschedule(asyncio.get_running_loop().time() + PATIENCE)

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None
        self.connection += 1

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.reader is None or self.writer is None or self.chance.random() < 0.05:
            self._close()
            sock = socket.socket(proto=socket.IPPROTO_TCP)
            sock.setblocking(False)
            if self.is_slow:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
            await asyncio.get_running_loop().sock_connect(sock, self.all.proxy)
            self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=1 << 17)
        return self.reader, self.writer

    def _kind(self, target: str) -> tuple[str, list[tuple[str, str]], bytes]:
        """Method, header fields and body of the next request."""
        chance, size = self.chance, size_of(target)
        dice = chance.random()
        if dice < 0.02:
            return "POST", [("Content-Length", "3")], b"abc"
        if dice < 0.06:
            return "HEAD", [], b""
        if dice < 0.40 and size > 10:
            return "GET", [("Range", f"bytes={self._span(size)}")], b""
        if dice < 0.48:
            return "GET", [chance.choice(_DIRECTIVES)], b""
        if dice < 0.54 and target in self.etags:
            return "GET", [("If-None-Match", self.etags[target])], b""
        if dice < 0.56:
            return "GET", [("Authorization", "Bearer x")], b""
        return "GET", [], b""

    def _span(self, size: int) -> str:
        chance = self.chance
        start = chance.randrange(size)
        kind = chance.random()
        if kind < 0.7:
            return f"{start}-{min(size - 1, start + chance.choice((0, 50, 5000, 700_000, 3_000_000)))}"
        if kind < 0.8:
            return f"-{chance.randrange(1, size)}"
        if kind < 0.9:
            return f"{start}-"
        starts = sorted(chance.sample(range(size), min(4, size // 100 + 1)))
        return ",".join(f"{one}-{min(size - 1, one + 20)}" for one in starts)

    async def _ask(self, target: str) -> None:
        self._wait_on()
        reader, writer = await self._connect()
        method, headers, body = self._kind(target)
        url = self.all.base + target
        leaves = method == "GET" and size_of(target) > 0 and self.chance.random() < 0.05
        if method == "GET" and self.chance.random() < 0.02:
            url = target
            reader, writer = await self._tunnel(reader, writer)
        host = self.all.base.removeprefix("http://")
        lines = [f"{method} {url} HTTP/1.1", f"Host: {host}", *map(": ".join, headers), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()
        self.all.requests += 1
        self.history.append(f"{self.connection}: {lines[0]} {headers}")
        if leaves and self.chance.random() < 0.3:
            self.all.counts["left before the head"] += 1
            self._close()
            return
        head = await reader.readuntil(b"\r\n\r\n")
        if url == target and not head.startswith(b"HTTP/"):
            raise Broken("what the origin sends through a tunnel is no HTTP")
        _, status, fields = parse_head(head)
        self._wait_on()
        if leaves and status in (200, 206):
            await reader.read(self.chance.choice((1, 5000, 100_000)))
            self.all.counts["left in the middle"] += 1
            self._close()
            return
        response = {name.lower(): value for name, value in fields}
        self.history.append(f"{status} {response}")
        source = "hit" if "; hit" in response.get("cache-status", "") else "fwd"
        await self._body(target, method, status, response, ranged=any(name == "Range" for name, _ in headers))
        self.all.counts[f"{method} {status} {source}"] += 1
        if url == target or response.get("connection") == "close":
            self._close()

    async def _tunnel(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = self.all.base.removeprefix("http://")
        writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        _, status, _ = parse_head(await reader.readuntil(b"\r\n\r\n"))
        if status != 200:
            raise Broken(f"CONNECT {status}")
        self.all.counts["tunnels"] += 1
        return reader, writer

    async def _body(self, target: str, method: str, status: int, response: dict[str, str], *, ranged: bool) -> None:
        """Read it, and compare it with what the origin has of the version that the head names."""
        etag, size = response.get("etag"), size_of(target)
        is_content = status in (200, 206) and method != "HEAD"
        if is_content:
            if etag is None:
                self.all.wrong.append(f"{target}: {status} without its ETag")
            else:
                self.etags[target] = etag
        expected: tuple[int, int] | None = (0, size) if status == 200 else None
        if status == 206:
            if not ranged:
                self.all.wrong.append(f"{target}: 206 that nobody has asked for")
            if match := _RANGE.fullmatch(response.get("content-range", "")):
                expected = int(match[1]), int(match[2]) + 1
                if int(match[3]) != size:
                    self.all.wrong.append(f"{target}: {match[0]} of {size} bytes")
        at, seed, parts, kept = expected[0] if expected else 0, seed_of(target, etag or ""), [], is_content
        async for data in self._chunks(method, status, response):
            self.all.received += len(data)
            if not kept:
                continue
            if expected is None:
                parts.append(data)
            elif data != content(seed, len(data), at):
                self.all.wrong.append(f"{target}: {status} {etag}, wrong bytes from {at} on, {response}")
                kept = False
            at += len(data)
        if kept and expected is None:
            self._check_parts(target, seed, b"".join(parts))
        elif kept and expected is not None and at != expected[1]:
            self.all.wrong.append(f"{target}: {status} ended at {at} and not {expected[1]}, and was complete")

    def _check_parts(self, target: str, seed: str, body: bytes) -> None:
        boundary = body[: body.index(b"\r\n", 2)].strip() if b"\r\n" in body[2:] else b"\0"
        parts = body.split(boundary)[1:-1]
        for part in parts:
            head, _, data = part.partition(b"\r\n\r\n")
            match = re.search(r"bytes (\d+)-(\d+)/(\d+)", head.decode("latin-1"))
            start, stop = (int(match[1]), int(match[2]) + 1) if match else (0, 0)
            if not match or data != content(seed, stop - start, start) + b"\r\n":
                self.all.wrong.append(f"{target}: a part of a multipart body is wrong")
        if not parts:
            self.all.wrong.append(f"{target}: a 206 that is neither a range nor several")

    async def _chunks(self, method: str, status: int, response: dict[str, str]) -> AsyncIterator[bytes]:
        reader = self.reader
        assert reader is not None
        if method == "HEAD" or status in (204, 304):
            return
        if "chunked" in response.get("transfer-encoding", ""):
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                yield await self._exactly(size)
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
            return
        left = int(response["content-length"])
        while left:
            data = await reader.read(min(left, 1 << 16))
            if not data:
                raise Broken(f"{status} ended early")
            self._wait_on()
            left -= len(data)
            yield data
            if self.is_slow:
                await asyncio.sleep(0.02)

    async def _exactly(self, size: int) -> bytes:
        assert self.reader is not None
        data = await self.reader.readexactly(size)
        self._wait_on()
        return data


_DIRECTIVES = [
    *[("Cache-Control", value) for value in ("no-cache", "max-age=0", "no-store", "only-if-cached", "max-stale")],
    ("Pragma", "no-cache"),
]


def report(clients: Clients, seconds: float) -> str:
    """What was done so far, in one line."""
    rate = clients.requests / max(seconds, 1)
    return (
        f"{clients.requests} requests ({rate:.0f} a second), {clients.received / 1e6:.0f} MB, "
        f"{len(clients.wrong)} wrong, {sum(clients.broken.values())} broken off"
    )
