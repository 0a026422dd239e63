"""150 clients of three nodes with a bucket behind them want the same thing, which nobody has: one asks the origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import Response, results
from tests.support.certificates import self_signed, server_context
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply

from .conftest import ask_in_tls
from .test_fleet import Fleet, fleets_with_bucket

pytest.importorskip("moto.server")
pytest.importorskip("obstore")

FOR_EVER = ("Cache-Control", "public, max-age=31536000, immutable")
ALWAYS_STALE = ("Cache-Control", "max-age=60"), ("Age", "100")
ETAG = ("ETag", '"v1"')
RANGES = ("Accept-Ranges", "bytes")
CLIENTS = 50
"""Of each node."""
SIZE, HALF = 2_000_000, 1_000_000

Start = Callable[..., Fleet]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    # With all of this on two cores nobody is fast, and nobody is away.
    with fleets_with_bucket(tmp_path, cache_peer_timeout=30) as begin:
        yield begin


def ask(nodes: Fleet, url: str, **options: Any) -> list[Any]:
    return [node.start_get(url, **options) for node in nodes for _ in range(CLIENTS)]


def all_read_along(fetches: list[Any], gate: Gate, received: int = HALF) -> list[Response]:
    """The origin holds the second half of the body back until all clients have the first."""
    for fetch in fetches:
        fetch.received(received, 120)
    assert not any(fetch.ended for fetch in fetches)
    gate.open()
    return results(fetches, 120)


def wrong(responses: list[Response]) -> list[Response]:
    return [response for response in responses if not response.ok][:3]


@pytest.mark.parametrize("how", ["http", "https, absolute form", "https, reverse mode", "https, intercepted"])
def test_a_body_is_fetched_once_and_all_read_along(start: Start, tmp_path: Path, how: str) -> None:
    gate = Gate()
    options: dict[str, Any] = {}
    tls = None
    if how != "http":
        certificate = self_signed(tmp_path / "origin.pem")
        tls = server_context(certificate)
        options["ssl_verify_upstream_trusted_ca"] = certificate
    with Origin(tls=tls) as origin:
        asks: dict[str, Any] = {"expect": SIZE}
        if how == "https, reverse mode":
            options["mode"] = f"reverse:{origin.base}"
            asks["target"] = "/image.tar"
        if how == "https, intercepted":
            options["intercept_hosts"] = "127.0.0.1"
        reply = Reply(size=SIZE, body_gate=gate, gate_at=HALF, headers=(FOR_EVER, ETAG))
        url = origin.serve("/image.tar", reply)
        nodes = start(**options)
        if how == "https, intercepted":
            for node in nodes:
                ask_in_tls(node, True)
        responses = all_read_along(ask(nodes, url, **asks), gate)
        assert not wrong(responses)
        assert origin.count("/image.tar") == 1
        (home,) = [node for node in nodes if node.value("origin_fetches_total")]
        assert home.url == nodes.home(url)
        home.wait_for_metric("shared_writes_total", 1, outcome="stored")
        assert sum(node.value("shared_writes_total") for node in nodes) == 1
        for node in nodes:
            assert node.get(url, **asks).hit


def test_a_range_is_fetched_once_and_all_read_along(start: Start, origin: Origin) -> None:
    gate, size, first = Gate(), 12_000_000, 1_048_576
    reply = Reply(size=size, body_gate=gate, gate_at=HALF, headers=(FOR_EVER, ETAG, RANGES))
    url = origin.serve("/data.parquet", reply)
    wanted = [("Range", f"bytes={first}-{first + SIZE - 1}")]
    nodes = start()
    responses = all_read_along(ask(nodes, url, headers=wanted, expect=None), gate, HALF - 1000)
    assert {response.status for response in responses} == {206}
    expected = content("/data.parquet", SIZE, first)
    assert all(response.complete and response.body == expected for response in responses)
    assert origin.count("/data.parquet") == 1


def test_no_byte_of_one_object_is_fetched_twice_whatever_ranges_are_wanted(start: Start, origin: Origin) -> None:
    size, step, length = 12_000_000, 75_000, 200_000
    url = origin.serve("/data.parquet", Reply(size=size, headers=(FOR_EVER, ETAG, RANGES)))
    nodes = start()
    starts = [number * step for number in range(3 * CLIENTS)]
    fetches = [
        nodes[number % 3].start_get(url, headers=[("Range", f"bytes={first}-{first + length - 1}")])
        for number, first in enumerate(starts)
    ]
    for first, response in zip(starts, results(fetches, 120), strict=True):
        assert response.status == 206
        assert response.body == content("/data.parquet", length, first)
    assert sum(request.sent for request in origin.seen("/data.parquet")) <= size


def test_one_validation_for_all(start: Start, origin: Origin) -> None:
    """All wait for it, on all nodes."""
    gate = Gate()
    url = origin.serve("/index", Reply(size=SIZE, headers=(*ALWAYS_STALE, ETAG)))
    nodes = start()
    for node in nodes:
        assert node.get(url, expect=SIZE).ok
    origin.serve("/index", Reply(size=SIZE, gate=gate, headers=(*ALWAYS_STALE, ETAG)))
    served = origin.count("/index")
    fetches = ask(nodes, url, expect=SIZE)
    origin.wait_for("/index", served + 1)
    all_wait(nodes, url)
    gate.open()
    assert not wrong(results(fetches, 120))
    asked = [request.header("If-None-Match") for request in origin.seen("/index")]
    assert asked[served:] == ['"v1"']


def test_a_validation_that_finds_a_new_version_is_read_along_by_all(start: Start, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/index", Reply(size=SIZE, headers=(*ALWAYS_STALE, ETAG)))
    nodes = start()
    for node in nodes:
        assert node.get(url, expect=SIZE).ok
    served = origin.count("/index")
    new = Reply(size=SIZE, seed="new", body_gate=gate, gate_at=HALF, headers=(FOR_EVER, ("ETag", '"v2"')))
    origin.serve("/index", new)
    responses = all_read_along(ask(nodes, url, expect=("new", SIZE)), gate)
    assert not wrong(responses)
    assert origin.count("/index") == served + 1


def all_wait(nodes: Fleet, url: str) -> None:
    """At the home its own clients and the other nodes, at the others their clients."""
    for node in nodes:
        node.wait_for_waiters(CLIENTS + (len(nodes) - 1 if node.url == nodes.home(url) else 0), 120)
