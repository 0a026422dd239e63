"""Clients that close their side of the connection after a request, and wait for the answer: option
``half_closed_clients``."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ask_in_tls, interception_of
from tests.support.agents import Wire
from tests.support.origin import Echo, Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def shared_patient(
    tmp_path_factory: pytest.TempPathFactory, fast_lane: bool, origin_certificate: Path
) -> Iterator[Proxy]:
    folder, options = tmp_path_factory.mktemp("patient"), interception_of(origin_certificate)
    with Proxy(folder, fast_lane=fast_lane, half_closed_clients=True, quick_abort_timeout=0, **options) as proxy:
        yield proxy


@pytest.fixture
def patient(shared_patient: Proxy, in_tls: bool, interception: dict[str, Any]) -> Proxy:
    ask_in_tls(shared_patient, in_tls)
    return shared_patient


def request(method: str, url: str, body: str = "", *fields: str) -> str:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {url} HTTP/1.1", f"Host: {url.split('/')[2]}", *fields, *length, "", body])


@pytest.fixture
def slow(origin: Origin) -> Iterator[Gate]:
    """The origin answers when the gate opens, which it does a moment after it was asked."""
    gate = Gate()
    yield gate
    gate.open()


def answered_after(origin: Origin, gate: Gate) -> None:
    """Open the gate as soon as a request waits for it."""

    def wait() -> None:
        origin.wait(lambda: origin.in_flight >= 1)
        gate.open()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize(("method", "body"), [("GET", ""), ("HEAD", ""), ("DELETE", ""), ("POST", "hello")])
def test_the_answer_comes_and_then_the_end(patient: Proxy, origin: Origin, slow: Gate, method: str, body: str) -> None:
    url = origin.serve("/x", Reply(size=300_000, gate=slow))
    with Wire(patient.address) as wire:
        wire.send(request(method, url, body))
        wire.finish()
        origin.wait_for("/x")
        slow.open()
        status, _ = wire.head()
        assert status == 200
        rest = wire.rest()
        if method != "HEAD":
            assert len(rest) >= 300_000
    assert origin.count("/x") == 1


def test_hits_too(patient: Proxy, origin: Origin) -> None:
    for size in (100, 3_000_000):
        url = origin.serve(f"/{size}", Reply(size=size))
        assert patient.get(url, expect=size).ok
        patient.wait_until_idle()
        with Wire(patient.address) as wire:
            wire.send(request("GET", url))
            wire.finish()
            response = wire.response()
            assert "hit" in (response.header("Cache-Status") or "")
            assert response.body == origin.body_of(f"/{size}", size)
            assert wire.rest() == b""


def test_a_request_that_waits_for_a_slot(start_proxy: Start, origin: Origin) -> None:
    """It keeps its place when its client half-closes, and gives it up when its client is gone."""
    patient = start_proxy(half_closed_clients=True, origin_max_in_flight=1, origin_queue_timeout=60)
    slow = Gate()
    first = patient.start_get(origin.serve("/first", Reply(gate=slow)))
    origin.wait_for("/first")
    with Wire(patient.address) as wire:
        wire.send(request("GET", origin.serve("/second", Reply(size=5000))))
        wire.finish()
        patient.wait_for_metric("origin_fetches_queued", 1)
        slow.open()
        assert wire.response().body == origin.body_of("/second", 5000)
        assert wire.rest() == b""
    assert first.result().ok
    slow = Gate()
    third = patient.start_get(origin.serve("/third", Reply(gate=slow)))
    origin.wait_for("/third")
    with Wire(patient.address) as wire:
        wire.send(request("GET", origin.url("/fourth")))
        wire.finish()
        patient.wait_for_metric("origin_fetches_queued", 1)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    patient.wait_for_metric("origin_fetches_queued", 0)
    slow.open()
    assert third.result().ok
    assert origin.count("/fourth") == 0


def test_all_that_was_asked_before_the_end(patient: Proxy, origin: Origin, slow: Gate) -> None:
    """Answered here or forwarded, in their order; what is not all of a request is not."""
    urls = [origin.serve(f"/{number}", Reply(size=100 + number, gate=slow)) for number in range(4)]
    with Wire(patient.address) as wire:
        wire.send(
            request("GET", urls[0])
            + request("GET", urls[1])
            + request("POST", urls[2], "hello")
            + request("GET", urls[3])
            + f"GET {urls[0]} HTTP/1.1\r\nHost: "
        )
        wire.finish()
        origin.wait_for("/0")
        slow.open()
        for number in range(4):
            assert wire.response().body == origin.body_of(f"/{number}", 100 + number)
        assert wire.rest() == b""


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_upload_that_is_not_complete_is_no_request(patient: Proxy, origin: Origin, method: str) -> None:
    with Wire(patient.address) as wire:
        wire.send(request(method, origin.url("/x"), "hello")[:-1])
        wire.finish()
        assert b" 200 " not in wire.rest()
    patient.eventually(lambda: patient.value("inflight_requests"), lambda count: count == 0)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("finish", [True, False])
def test_a_reset_is_leaving(patient: Proxy, origin: Origin, slow: Gate, method: str, finish: bool) -> None:
    """It is noticed at once, also after the client has sent all that it had to say."""
    url = origin.serve("/x", Reply(gate=slow))
    with Wire(patient.address) as wire:
        wire.send(request(method, url))
        if finish:
            wire.finish()
        origin.wait_for("/x")
        if finish:  # until the proxy has seen it
            patient.get(origin.url("/other"))
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    patient.eventually(lambda: patient.value("inflight_requests"), lambda count: count == 0)
    origin.wait(lambda: origin.seen("/x")[0].aborted, told="the end of what nobody waits for")


def test_writes_that_fail_are_leaving(patient: Proxy, origin: Origin) -> None:
    """A client that has closed for good can't be told from one that listens, until it is sent something."""
    gate = Gate()
    for method in ("GET", "POST"):
        url = origin.serve(f"/{method}", Reply(size=50_000_000, body_gate=gate, gate_at=1000))
        with Wire(patient.address) as wire:
            wire.send(request(method, url, "hello" if method == "POST" else ""))
            wire.exactly(500)
    gate.open()
    patient.eventually(lambda: patient.value("inflight_requests"), lambda count: count == 0)


@pytest.mark.parametrize("early", [True, False])
def test_tunnels_end_in_one_direction_as_ever(patient: Proxy, echo: Echo, early: bool) -> None:
    """The target hears of the end, and what it sends then arrives; also if the client did not wait for the tunnel."""
    with Wire(patient.address) as wire:
        wire.send(f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\n")
        if not early:
            assert wire.head()[0] == 200
        wire.send("hello")
        wire.finish()
        if early:
            assert wire.head()[0] == 200
        assert wire.rest() == b"hello[goodbye]"


def test_by_default_a_fin_is_leaving(start_proxy: Start, origin: Origin, slow: Gate) -> None:
    """The option may be switched while it runs."""
    proxy = start_proxy(quick_abort_timeout=0, control=True)
    for method in ("GET", "DELETE"):
        url = origin.serve(f"/{method}", Reply(gate=slow))
        with Wire(proxy.address) as wire:
            wire.send(request(method, url))
            origin.wait_for(f"/{method}")
            wire.finish()
            assert wire.rest() == b""
        origin.wait(lambda method=method: origin.seen(f"/{method}")[0].aborted, told="the end of what nobody waits for")
    proxy.eventually(lambda: proxy.value("inflight_requests"), lambda count: count == 0)
    assert proxy.set_option("half_closed_clients=true") == "ok"
    answered_after(origin, slow)
    with Wire(proxy.address) as wire:
        wire.send(request("GET", origin.serve("/switched", Reply(gate=slow))))
        wire.finish()
        assert wire.response().status == 200


def test_no_descriptor_is_left(patient: Proxy, origin: Origin) -> None:
    """A watch for a reset has one of its own."""
    url = origin.serve("/x", Reply(size=1000, headers=(("Cache-Control", "no-store"),)))

    def ask(method: str) -> None:
        with Wire(patient.address) as wire:
            wire.send(request(method, url))
            wire.finish()
            wire.rest()

    def clients() -> list[str]:
        return [name for name in patient.open_files() if name.startswith("socket:")]

    for method in ("GET", "DELETE"):
        ask(method)
    patient.settled()
    before = len(clients())
    for _ in range(10):
        ask("GET")
        ask("DELETE")
    patient.eventually(lambda: len(clients()), lambda count: count <= before + 2)
