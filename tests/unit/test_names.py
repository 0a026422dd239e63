"""Look-ups of names, with a name server that answers when the test says so."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proxy_cache.upstream import names
from proxy_cache.upstream.names import Names, NameTimeout
from tests.support.origin import PATIENCE
from tests.support.tasks import begun, until

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]


class NameServer:
    """Replaces ``socket.getaddrinfo``, which asks the machine."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()

    def __call__(self, host: str, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        if host.startswith("silent"):
            assert self.answers.wait(PATIENCE)
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host.startswith("six"):
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 3)), *FOUND]
        return FOUND


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.answers.set()


def test_a_name_has_its_addresses_in_their_order_with_the_port_that_was_asked_for(server: NameServer) -> None:
    async def ask() -> None:
        lookups = Names()
        found = await lookups.getaddrinfo("Six.example", 8080, type=socket.SOCK_STREAM)
        assert [address for *_, address in found] == [("2001:db8::1", 8080, 0, 3), ("192.0.2.1", 8080)]
        assert (await lookups.getaddrinfo("six.example", 443, type=socket.SOCK_STREAM))[1][4] == ("192.0.2.1", 443)
        assert server.asked == ["six.example"]

    asyncio.run(ask())


def test_addresses_take_no_thread(server: NameServer) -> None:
    async def ask() -> None:
        lookups = Names()
        for address in ("127.0.0.1", "::1", "fe80::1%lo"):
            await lookups.getaddrinfo(address, 80)
        assert not lookups.in_flight

    asyncio.run(ask())


def test_who_leaves_does_not_take_the_answer_from_the_others(server: NameServer) -> None:
    async def ask() -> None:
        lookups = Names()
        first, second = [await begun(lookups.getaddrinfo("silent.example", 80)) for _ in range(2)]
        first.cancel()
        await asyncio.wait([first])
        server.answers.set()
        assert await second
        assert server.asked == ["silent.example"]

    asyncio.run(ask())


def test_silent_names_hold_a_bounded_number_of_threads(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is the queue for them."""
    monkeypatch.setattr(names, "RUNNING_MAX", 4)
    monkeypatch.setattr(names, "SLOW_MAX", 8)
    monkeypatch.setattr(names, "WAITING_MAX", 5)
    monkeypatch.setattr(names, "SLOW", 0.01)
    told: list[str] = []

    async def ask() -> None:
        lookups = Names(on_end=told.append)
        running = []
        for number in range(12):  # as each of them gets slow, another one may start
            running.append(await begun(lookups.getaddrinfo(f"silent{number}", 80)))
            await until(lambda started=number + 1: len(server.asked) == started)  # type: ignore[misc]
        waiting = [await begun(lookups.getaddrinfo(f"silent-too{number}", 80)) for number in range(5)]
        assert lookups.in_flight == len(server.asked) == 12
        with pytest.raises(NameTimeout, match="too many"):
            await lookups.getaddrinfo("one-more", 80)
        waiting[0].cancel()  # nobody waits for it any more: another one gets its place
        await asyncio.wait([waiting[0]])
        another = await begun(lookups.getaddrinfo("another", 80))
        server.answers.set()
        await asyncio.gather(*running, *waiting[1:], another)
        assert "silent-too0" not in server.asked
        assert not lookups.in_flight

    asyncio.run(ask())
    assert told.count("rejected") == 1
    assert told.count("found") == 12 + 4 + 1


def test_who_has_waited_long_enough_is_told_so_and_the_look_up_goes_on(server: NameServer) -> None:
    async def ask() -> None:
        lookups = Names(timeout=0.05)
        for _ in range(3):
            with pytest.raises(NameTimeout, match=r"no answer for silent within 0\.05 s"):
                await lookups.getaddrinfo("silent", 80)
        assert server.asked == ["silent"]  # one thread, however many callers
        server.answers.set()
        lookups.timeout = 60
        assert await lookups.getaddrinfo("silent", 80)
        assert server.asked == ["silent"]

    asyncio.run(ask())


@pytest.mark.parametrize("name", ["unknown", "a" * 70, "a..b", "\ud800"])
def test_what_is_no_name_is_an_error_of_the_same_kind(
    server: NameServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "unknown":
        monkeypatch.undo()  # the real one, which refuses it without asking a name server

    async def ask() -> None:
        lookups = Names()
        for _ in range(2):
            with pytest.raises(socket.gaierror):
                await lookups.getaddrinfo(name, 80)

    asyncio.run(ask())


def test_a_loop_looks_names_up_here_until_that_ends(server: NameServer) -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        original = loop.getaddrinfo
        lookups = Names()
        lookups.install(loop)
        await loop.getaddrinfo("good", 80)
        assert await loop.getaddrinfo("good", 80)
        assert server.asked == ["good"]
        lookups.uninstall()
        assert loop.getaddrinfo == original
        await loop.getaddrinfo("good", 80)
        assert server.asked == ["good", "good"]

    asyncio.run(ask())
