"""TLS towards clients: what OpenSSL reads from and writes to belongs to all connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.downstream.handshake import Handshake
from proxy_cache.downstream.tls import AT_ONCE, INCOMING, OUTGOING, RECORD, TlsTransport
from tests.support.certificates import server_context


class Served(asyncio.Protocol):
    """Both the owner of a connection and what answers inside of TLS: each line with its own upper case."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.tls: Any = None
        self.line = b""
        self.failure = ""

    # -- the owner

    def connection_made(self, transport: Any) -> None:
        transport.set_protocol(Handshake(transport, self))
        self.handshake = transport.get_protocol()

    def hello_arrived(self, hello: object) -> None:
        self.handshake.answer(self.context)

    def established(self, tls: TlsTransport, *, resumed: bool) -> None:
        self.tls = tls
        tls.set_protocol(self)

    def is_used(self) -> None:
        pass

    def failed(self, reason: str, *, by_client: bool) -> None:
        self.failure = reason

    def left(self, *, has_seen_certificate: bool) -> None:
        self.failure = "left"

    def connection_lost(self, error: Exception | None) -> None:
        pass

    # -- inside of it

    def data_received(self, data: bytes) -> None:
        self.line += data
        while b"\n" in self.line:
            line, _, self.line = self.line.partition(b"\n")
            self.tls.send(b"%d\n" % len(line), line.upper(), None)

    def eof_received(self) -> bool:
        return False


class Client:
    """TLS of a client whose bytes can be sent piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    async def shake(self, *, with_line: bytes = b"") -> None:
        """``with_line``: sent along with the last message of the handshake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.writer.write(self.outgoing.read())
                self.incoming.write(await self.reader.read(1 << 16))
            else:
                break
        self.writer.write(self.outgoing.read() + self.encrypted(with_line))

    def encrypted(self, line: bytes) -> bytes:
        if line:
            self.tls.write(line)
        return self.outgoing.read()

    async def exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            try:
                found += self.tls.read(size - len(found))
            except ssl.SSLWantReadError:
                data = await self.reader.read(1 << 16)
                assert data, f"the end, after {len(found)} bytes"
                self.incoming.write(data)
        return found

    async def hears(self, line: bytes) -> None:
        expected = b"%d\n%b" % (len(line), line.upper())
        assert await self.exactly(len(expected)) == expected


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[tuple[Callable[[], Any], list[Served]]]:
    served: list[Served] = []

    def make() -> Served:
        served.append(Served(context))
        return served[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection(*server.sockets[0].getsockname())))
        return clients[-1]

    try:
        yield connect, served
    finally:
        for client in clients:
            client.writer.close()
        server.close()


def nothing_is_left() -> None:
    assert not INCOMING.pending
    assert not OUTGOING.pending


@pytest.fixture
def context(origin_certificate: Path) -> ssl.SSLContext:
    return server_context(origin_certificate)


def test_connections_do_not_disturb_each_other(context: ssl.SSLContext) -> None:
    """One is in the middle of a record while others shake hands, send nonsense, and leave."""

    async def scenario() -> None:
        async with serving(context) as (connect, served):
            slow, quick = await connect(), await connect()
            await slow.shake()
            await quick.shake(with_line=b"at once\n")
            await quick.hears(b"at once")
            record = slow.encrypted(b"piece by piece\n" * 100)
            for start in range(0, len(record), 700):
                slow.writer.write(record[start : start + 700])
                # Whatever the others do is done before the next piece comes.
                quick.writer.write(quick.encrypted(b"meanwhile\n"))
                await quick.hears(b"meanwhile")

                broken = await connect()
                await broken.shake(with_line=b"fine\n")
                await broken.hears(b"fine")
                broken.writer.write(b"\x17\x03\x03\x00\x20" + b"nonsense" * 50)
                assert await broken.reader.read()  # OpenSSL's alert, and the end
                nothing_is_left()

                half = await connect()
                half.writer.write(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00" + b"x" * 50)
                await half.reader.read()
                nothing_is_left()

                polite = await connect()
                await polite.shake()
                with pytest.raises(ssl.SSLWantReadError):
                    polite.tls.unwrap()
                polite.writer.write(polite.outgoing.read() + b"more after its end")
                await polite.reader.read()
                nothing_is_left()
            for _ in range(100):
                await slow.hears(b"piece by piece")
            assert not any(one.failure for one in served[:2])

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_memory_that_runs_out_costs_one_connection(context: ssl.SSLContext) -> None:
    """What it has left behind would be the next one's."""

    def run_out(size: int) -> bytes:
        raise MemoryError

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with serving(context) as (connect, served):
            unlucky, other = await connect(), await connect()
            for client in (unlucky, other):
                await client.shake(with_line=b"fine\n")
                await client.hears(b"fine")
            served[0].tls._decrypt = run_out
            unlucky.writer.write(unlucky.encrypted(b"lost\n"))
            await unlucky.reader.read()
            nothing_is_left()
            other.writer.write(other.encrypted(b"still fine\n"))
            await other.hears(b"still fine")

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_owner_that_fails_hears_of_the_end(context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep what it has for the connection, for good."""
    ended = asyncio.Event()

    def fail(self: Served, tls: TlsTransport, *, resumed: bool) -> None:
        raise RuntimeError

    monkeypatch.setattr(Served, "established", fail)
    monkeypatch.setattr(Served, "connection_lost", lambda self, error: ended.set())

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with serving(context) as (connect, _):
            client = await connect()
            await client.shake()
            await ended.wait()
            nothing_is_left()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_client_that_has_tls_talk_and_never_reads_is_cut_off() -> None:
    """An alert for each handshake that it asks for, say (OpenSSL as a client asks once)."""

    class Full(asyncio.Transport):
        aborted = False

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return socket.socket()

        def get_write_buffer_size(self) -> int:
            return 200_000

        def is_closing(self) -> bool:
            return self.aborted

        def write(self, data: Any) -> None:
            pass

        def abort(self) -> None:
            self.aborted = True

    transport: Any = Full()
    owner: Any = Served(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    tls = TlsTransport(transport, owner.context.wrap_bio(INCOMING, OUTGOING, server_side=True), owner)

    def decrypt(size: int) -> bytes:
        INCOMING.read()
        OUTGOING.write(b"x" * 31)
        raise ssl.SSLWantReadError

    tls._decrypt = decrypt
    for _ in range(10_000):
        tls.data_received(b"a handshake")
    assert transport.aborted
    nothing_is_left()


@pytest.mark.parametrize(
    "size", [1, RECORD - 7, RECORD, 3 * RECORD, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + RECORD + 5]
)
def test_bodies_of_all_sizes(context: ssl.SSLContext, size: int) -> None:
    async def scenario() -> None:
        async with serving(context) as (connect, _):
            client = await connect()
            await client.shake()
            line = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            client.writer.write(client.encrypted(line + b"\n"))
            await client.hears(line)
            client.writer.write(client.encrypted(b"next\n"))
            await client.hears(b"next")

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_many_records_at_once_and_the_end(context: ssl.SSLContext) -> None:
    async def scenario() -> None:
        async with serving(context) as (connect, _):
            client = await connect()
            await client.shake()
            lines = [b"%d" % number * 50 for number in range(200)]
            together = b"".join(client.encrypted(line + b"\n") for line in lines)
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.unwrap()
            client.writer.write(together + client.outgoing.read())
            for line in lines:
                await client.hears(line)

    asyncio.run(asyncio.wait_for(scenario(), 30))
