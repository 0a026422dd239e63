"""Peers by DNS, from a real name server and through the system's own resolver."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy_cache.upstream import names
from proxy_cache.upstream.names import Names
from proxy_cache.upstream.peers import dns_discovery, local
from proxy_cache.upstream.peers.peer_list import PeerList
from tests.support.dns_server import AAAA, NO_ERROR, NO_SUCH_NAME, SERVER_FAILURE, A, DnsServer
from tests.support.own_network import add_address, in_own_network
from tests.support.tasks import until

NAME = "proxies.example"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_discovery, "EVERY", 0.05)
    monkeypatch.setattr(dns_discovery, "FIRST_EVERY", 0.05)
    monkeypatch.setattr(names, "KEPT_FOR", 0)
    monkeypatch.setattr(names, "REFUSED_FOR", 0)


def with_peers(story: Callable[[PeerList], Awaitable[None]]) -> None:
    async def run() -> None:
        peers = PeerList(Names())
        peers.configure([f"dns://{NAME}.:8080"], None, [("0.0.0.0", 8080)])
        peers.start()
        try:
            await story(peers)
        finally:
            await peers.stop()

    asyncio.run(run())


def urls(peers: PeerList) -> set[str]:
    return {peer.url for peer in peers.peers}


@in_own_network
def test_all_a_and_aaaa_records_are_peers_and_ours_is_among_them() -> None:
    add_address("10.5.5.5")
    with DnsServer() as server:
        server.records[NAME] = ["10.5.5.4", "10.5.5.5", "2001:db8::4"]

        async def story(peers: PeerList) -> None:
            await peers.first_look()
            assert urls(peers) == {f"http://{host}:8080" for host in ("10.5.5.4", "10.5.5.5", "[2001:db8::4]")}
            assert [peer.url for peer in peers.peers if peer.is_self] == ["http://10.5.5.5:8080"]
            server.records[NAME] = ["10.5.5.5", "10.5.5.6"]
            await until(lambda: urls(peers) == {"http://10.5.5.5:8080", "http://10.5.5.6:8080"})

        with_peers(story)
        assert {(NAME, A, "udp"), (NAME, AAAA, "udp")} <= set(server.queries)


@in_own_network
def test_a_list_too_long_for_a_datagram_is_complete() -> None:
    with DnsServer() as server:
        server.records[NAME] = [f"10.6.{i >> 8}.{i & 255}" for i in range(500)]
        server.records[NAME] += [f"2001:db8::{i:x}" for i in range(99)]

        async def story(peers: PeerList) -> None:
            await peers.first_look()
            assert len(peers.peers) == 599

        with_peers(story)
        assert (NAME, A, "tcp") in server.queries


@in_own_network
@pytest.mark.parametrize("trouble", ["failure", "unknown", "empty", "silent", "gone"])
def test_the_last_list_is_kept_while_the_name_cannot_be_resolved(
    trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = DnsServer()
    server.records[NAME] = ["10.5.5.4", "2001:db8::4"]

    async def story(peers: PeerList) -> None:
        nonlocal server
        await peers.first_look()
        before = peers.peers
        assert len(before) == 2
        if trouble == "empty":
            server.records[NAME] = []
        elif trouble == "gone":
            await asyncio.to_thread(server.__exit__)
        server.is_silent = trouble == "silent"
        server.status = {"failure": SERVER_FAILURE, "unknown": NO_SUCH_NAME}.get(trouble, NO_ERROR)
        await until(lambda: "the last list is kept (2)" in caplog.text)
        looked = next(iter(peers._watches.values())).looked
        for _ in range(2):
            looked.clear()
            await looked.wait()
        assert peers.peers == before
        if trouble == "gone":
            server = DnsServer()
        server.is_silent, server.status = False, NO_ERROR
        server.records[NAME] = ["10.5.5.7"]
        await until(lambda: urls(peers) == {"http://10.5.5.7:8080"})

    with_peers(story)
    server.__exit__()
    assert caplog.text.count("the last list is kept") == 1
    assert caplog.text.count("well again") == 1


@in_own_network
def test_addresses_that_the_kernel_merely_lets_us_bind_are_not_ours() -> None:
    """Machines with addresses that move have ``net.ipv4.ip_nonlocal_bind`` on."""
    add_address("10.5.5.5")
    assert local.is_local("10.5.5.5")
    assert not local.is_local("10.5.5.6")
    try:
        Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")
    except OSError as error:
        pytest.skip(f"no such setting may be changed here: {error}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("10.5.5.6", 0))
    assert local.is_local("10.5.5.5")
    assert local.is_local("127.0.0.1")
    assert not local.is_local("10.5.5.6")
