"""What clients, origins, and others at a peer's address may try against a fleet."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy_cache.semantics.peer_fields import proof
from tests.support.agents import Wire, results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.scripted import Scripted, ThreadedOrigin
from tests.test_fleet import SECRET, BadPeer, Fleet, fleet
from tests.test_hangup import configure, hang_up

FRESH = ("Cache-Control", "max-age=3600")


@pytest.fixture
def start_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    with contextlib.ExitStack() as stack:

        def start(count: int = 2, also: tuple[str, ...] = (), **options: object) -> Fleet:
            return stack.enter_context(fleet(tmp_path, count, also, **options))

        yield start


def states(node: Proxy) -> list[str]:
    return [peer["state"] for peer in node.status()["peers"]]


@pytest.mark.parametrize("how", ["many", "long"])
def test_a_request_that_is_nearly_too_large_is_no_reason_to_leave_a_peer_alone(
    start_fleet: Callable[..., Fleet], origin: Origin, how: str
) -> None:
    nodes = start_fleet()
    statuses = set()
    for number in range(16):
        fields = nearly_too_large(how, number)
        statuses.add(nodes[0].get(origin.serve(f"/{number}", Reply(size=1000)), headers=fields).status)
    assert statuses == {200, 431}
    assert states(nodes[0]) == ["up", "up"], nodes[0].text()


@pytest.mark.parametrize("how", ["many", "long"])
def test_a_response_that_is_nearly_too_large_is_no_reason_to_leave_a_peer_alone(
    start_fleet: Callable[..., Fleet], origin: Origin, how: str
) -> None:
    nodes = start_fleet(origin_retries=0)
    statuses = set()
    for number in range(16):
        fields = nearly_too_large(how, number)
        url = origin.serve(f"/{number}", Reply(size=1000).with_headers(FRESH, *fields))
        statuses.add(nodes[0].get(url).status)
    assert statuses == {200, 502}
    assert states(nodes[0]) == ["up", "up"], nodes[0].text()


def nearly_too_large(how: str, number: int) -> list[tuple[str, str]]:
    """More and more, from a little less than a proxy takes to a little more."""
    if how == "many":
        return [(f"X-{n}", "1") for n in range(242 + number)]
    return [(f"X-{n}", "1" * 15_900) for n in range(4)] + [("X", "1" * (1300 + 70 * number))]


def test_an_origin_whose_bodies_break_off_is_no_reason_to_leave_a_peer_alone(
    start_fleet: Callable[..., Fleet], origin: Origin
) -> None:
    nodes = start_fleet(origin_retries=0)
    for number in range(20):
        nodes[0].get(origin.serve(f"/{number}", Reply(size=300_000, cut=200_000)))
        assert nodes[0].get(origin.serve(f"/good{number}", Reply(size=300_000))).status == 200
    assert "is left alone" not in nodes[0].text()


@pytest.mark.parametrize("directive", ["private", "no-store"])
def test_a_body_that_begins_alike_but_is_private_now_is_not_stored(
    start_fleet: Callable[..., Fleet], origin: Origin, directive: str
) -> None:
    """The home's public response breaks off, and the origin's new one is for one user."""
    with BadPeer("short") as bad:
        nodes = start_fleet(1, also=(f"http://{bad.netloc}",))
        for number in range(6):
            url = origin.serve(f"/{number}", Reply(size=1000).with_headers(("Cache-Control", directive)))
            nodes[0].get(url)
            count = origin.count(f"/{number}")
            again = nodes[0].get(url)
            assert not again.hit
            assert origin.count(f"/{number}") > count
        assert bad.asked


class Silent(ThreadedOrigin):
    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                pass


def test_a_request_waits_for_two_silent_peers_at_most(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Silent()) for _ in range(6)]
        nodes = start_fleet(1, also=tuple(f"http://{one.netloc}" for one in silent), cache_peer_timeout=2)
        began = time.monotonic()
        assert nodes[0].get(origin.serve("/x", Reply(size=1000)), expect=1000).ok
        assert time.monotonic() - began < 2 * 2.2 + 2.0


def test_what_was_posted_here_is_seen_here_at_once(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    """RFC 9111 §4.4, also if the home of the URL is another node."""
    nodes = start_fleet()
    for number in range(8):
        path = f"/{number}"
        url = origin.serve(path, Reply(body=b"old").with_headers(FRESH))
        for node in nodes:
            assert node.get(url).body == b"old"
        origin.serve(path, Reply(body=b"new").with_headers(FRESH))
        assert nodes[0].request("POST", url).status == 200
        assert nodes[0].get(url).body == b"new", number
        assert nodes[0].get(url).hit


class Waits(BadPeer):
    """Says 102 many times, and then what is right."""

    def _answers(self, connection: socket.socket) -> None:
        for _ in range(200):
            connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(0.01)


def test_a_home_may_wait_as_long_as_its_queue(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    """However often it says so."""
    with Waits("right") as home:
        nodes = start_fleet(1, also=(f"http://{home.netloc}",))
        urls = [origin.serve(f"/{number}", Reply(size=400)) for number in range(6)]
        assert all(response.ok for response in results([nodes[0].start_get(url, expect=400) for url in urls]))
        assert home.asked
        assert states(nodes[0]) == ["up", "up"], nodes[0].text()


class Records(BadPeer):
    """At an address that a peer had before: keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__("unmarked")
        self.heads: list[bytes] = []

    def _answers(self, connection: socket.socket) -> None:
        self.heads.append(self.data)


def test_the_secret_is_not_told_to_whoever_has_a_peers_address_now(
    start_fleet: Callable[..., Fleet], origin: Origin
) -> None:
    with Records() as other:
        nodes = start_fleet(1, also=(f"http://{other.netloc}",))
        for number in range(6):
            assert nodes[0].get(origin.serve(f"/{number}", Reply(size=1000)), expect=1000).ok
        assert other.heads
        assert not any(SECRET.encode() in head for head in other.heads)


def test_what_a_peer_has_sent_can_not_be_said_again_for_another_url_or_client(
    start_fleet: Callable[..., Fleet], origin: Origin
) -> None:
    """By whoever has got hold of it."""
    url = origin.serve("/x", Reply(size=1000))
    element, token = "for=192.0.2.1", SECRET
    value = proof(url, element, token)
    nodes = start_fleet(1, also=("http://127.0.0.1:9",))
    for path, said, is_taken in (("/x", element, True), ("/y", element, False), ("/x", "for=192.0.2.2", False)):
        origin.serve(path, Reply(size=1000))
        with Wire(nodes[0].address) as wire:
            target = f"http://127.0.0.1:{origin.port}{path}"
            wire.send(
                f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\nForwarded: {said}\r\n"
                f"Cache-Peer: {value}\r\n\r\n"
            )
            response = wire.response()
        assert response.status == 200
        assert (response.header("Cache-Peer") is not None) == is_taken


def test_another_secret_is_taken_while_it_runs(
    start_fleet: Callable[..., Fleet], origin: Origin, tmp_path: Path
) -> None:
    nodes = start_fleet()
    (tmp_path / "token").write_text("another-secret-than-before\n")
    for node in nodes:
        node.signal(signal.SIGHUP)
        node.wait_for_log("SIGHUP: cache_peer_token_file read again: it has changed")
    for number in range(8):
        url = origin.serve(f"/{number}", Reply(size=1000))
        assert all(node.get(url, expect=1000).ok for node in nodes)
        assert origin.count(f"/{number}") == 1
    (tmp_path / "token").write_text("short")
    nodes[0].signal(signal.SIGHUP)
    nodes[0].wait_for_log("SIGHUP: cache_peer_token_file: .*; what was there before is kept")
    assert all(node.get(origin.serve("/last", Reply(size=1000)), expect=1000).ok for node in nodes)
    assert origin.count("/last") == 1


def test_what_is_read_at_the_start_is_said_to_need_another(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    proxy = start_proxy(confdir=configure(tmp_path, ""))
    said = hang_up(proxy, f"cache_shared: file://{tmp_path}/bucket\ncache_peer_mode: sibling\n")
    assert said.endswith("a restart is needed for cache_peer_mode, cache_shared")


@pytest.mark.parametrize("keep", ["never", "hot"])
def test_a_crowd_shares_what_is_kept_by_the_home_alone(
    start_fleet: Callable[..., Fleet], origin: Origin, keep: str
) -> None:
    """One request to the home, also while the body comes, though none of it is stored here."""
    nodes = start_fleet(cache_peer_keep=keep)
    size, half = 600_000, 300_000
    for number in range(8):
        gate, body_gate = Gate(), Gate()
        url = origin.serve(f"/{number}", Reply(size=size, gate=gate, body_gate=body_gate, gate_at=half))
        fetches = [nodes[0].start_get(url, expect=size) for _ in range(20)]
        nodes[0].wait_for_waiters(20)
        gate.open()
        fetches[0].received(half)
        body_gate.open()
        assert all(response.ok for response in results(fetches))
        assert origin.count(f"/{number}") == 1
    answered = sum(nodes[0].value("peer_fetches_total", outcome=outcome) for outcome in ("hit", "joined", "miss"))
    # (As a home it looks at the other node once for each of its own keys.)
    assert answered <= 8


class FrozenSibling(ThreadedOrigin):
    """Has a body, stops in the middle of it, and says nothing to anybody from then on."""

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            head = Scripted.read_head(stream)
            if "bytes=0-0" not in head:
                body = content("/x", 200_000)
                connection.sendall(
                    b'HTTP/1.1 200 OK\r\nContent-Length: 400000\r\nETag: "v1"\r\nCache-Control: max-age=60\r\n\r\n'
                    + body
                )
            stream.read(1)


def test_a_sibling_that_is_frozen_in_the_middle_of_a_body(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    with FrozenSibling() as sibling:
        proxy = start_proxy(
            cache_peers=f"http://{sibling.netloc}", cache_peer_mode="sibling", cache_peer_timeout=1, origin_timeout=200
        )
        url = origin.serve("/x", Reply(size=400_000).with_headers(FRESH, ("ETag", '"v1"'), ("Accept-Ranges", "bytes")))
        assert proxy.get(url, expect=400_000).ok
        assert origin.seen("/x")[0].header("Range") == "bytes=200000-399999"
        assert states(proxy) == ["left alone"]
