"""One request to a peer, at the limits of what it may do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from proxy_cache.caching.fills.request import FillRequest
from proxy_cache.observe.metrics import Metrics
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.peer_fields import WITH_DIGEST, answer_to
from proxy_cache.upstream.dial import Dialler
from proxy_cache.upstream.names import Names
from proxy_cache.upstream.peers import fleet as fleet_file
from proxy_cache.upstream.peers.client import PeerClient, PeerSettings
from proxy_cache.upstream.peers.fleet import PeerFleet
from proxy_cache.upstream.peers.peer_source import PeerSource
from proxy_cache.upstream.peers.settings import FleetSettings, Keeping
from proxy_cache.upstream.source import SourceRequest
from tests.support.tasks import until
from tests.unit.test_peer_list import AGAIN, NameServer, hasty, server

__all__ = ["hasty", "server"]

TARGET = Target.of("http", "packages.example", 80, "/x")
TOKEN = "0123456789abcdef"
Peer = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Slot:
    async def granted(self) -> None:
        raise AssertionError("a peer needs none")

    def answered(self) -> None: ...
    def asks_peer(self, is_asking: bool) -> None: ...
    def released(self) -> None: ...


@dataclass
class Asked:
    source: PeerSource
    fleet: PeerFleet

    async def get(self) -> object:
        wanted = FillRequest(TARGET.key, TARGET, Headers(), "192.0.2.1")
        return await self.source.get(SourceRequest(wanted, TARGET, Headers(), Slot()))


def with_peer(answer: Peer, story: Callable[[Asked], Awaitable[None]], settings: PeerSettings) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    async def run() -> None:
        listener = await asyncio.start_server(serve, "127.0.0.1")
        port = listener.sockets[0].getsockname()[1]
        fleet, client = PeerFleet(Names(), lambda: ()), PeerClient(settings, Dialler())
        fleet.configure(FleetSettings((f"http://127.0.0.1:{port}",), client=settings))
        try:
            await story(Asked(PeerSource(fleet, client, Keeping("always"), Metrics()), fleet))
        finally:
            client.close()
            await fleet.stop()
            listener.close()

    asyncio.run(run())


def test_a_peer_that_says_for_ever_that_it_is_at_it_is_given_up() -> None:
    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def story(asked: Asked) -> None:
        async with asyncio.timeout(30):
            assert await asked.get() is None
        assert asked.fleet.status()[0]["reason"] == "no head in 0.5 s"

    with_peer(answer, story, PeerSettings(tokens=(TOKEN,), longest=0.5))


def test_who_leaves_while_a_small_body_is_awaited_leaves_no_connection() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = re.search(rb"Cache-Peer: (\S+)", head)
        assert found is not None
        proof = answer_to(found[1].decode(), TARGET.key, TOKEN) + WITH_DIGEST
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nCache-Peer: {proof}\r\n\r\nhalf".encode())
        await writer.drain()
        begun.set()
        assert await reader.read() == b""
        ended.set()

    async def story(asked: Asked) -> None:
        task = asyncio.get_running_loop().create_task(asked.get())
        await begun.wait()
        await asyncio.sleep(0.1)  # so that the head is there; if it isn't, the request is ended all the same
        task.cancel()
        async with asyncio.timeout(10):
            await ended.wait()

    with_peer(answer, story, PeerSettings(timeout=60, tokens=(TOKEN,)))


def test_a_named_peer_is_known_by_its_address_once_it_has_one(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fleet without a secret: its name may come after it was first asked for, and its address may change."""
    monkeypatch.setattr(fleet_file, "FIND_FIRST", 0.01)
    monkeypatch.setattr(fleet_file, "FIND_EVERY", 0.01)

    async def story() -> None:
        server.answers["cache-b"] = AGAIN
        fleet = PeerFleet(Names(), lambda: ())
        fleet.configure(FleetSettings(("http://cache-b:8080", "http://10.0.0.1:8080")))
        await until(lambda: server.asked.count("cache-b") > 1)
        assert fleet.is_peer("10.0.0.1")
        assert not fleet.is_peer("10.0.0.2")
        server.answers["cache-b"] = ["10.0.0.2"]
        await until(lambda: fleet.is_peer("10.0.0.2"))
        server.answers["cache-b"] = ["10.0.0.3"]
        await until(lambda: fleet.is_peer("10.0.0.3"))
        assert not fleet.is_peer("10.0.0.2")
        server.answers["cache-b"] = AGAIN
        asked = len(server.asked)
        await until(lambda: len(server.asked) > asked + 3)
        assert fleet.is_peer("10.0.0.3")
        await fleet.stop()

    asyncio.run(story())


def test_an_agent_of_this_machine_is_no_peer_by_the_machines_address() -> None:
    """In a fleet without a secret, where agents and the proxy share a node's address."""

    async def story() -> None:
        fleet = PeerFleet(Names(), lambda: ())
        peers = ("http://10.0.0.1:8080", "http://10.0.0.2:8080")
        fleet.configure(FleetSettings(peers, own=peers[0]))
        assert fleet.is_peer("10.0.0.2")
        assert not fleet.is_peer("10.0.0.1")
        await fleet.stop()

    asyncio.run(story())
