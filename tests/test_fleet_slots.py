"""Slots of a fleet with a bucket: who needs one, and how many requests the origins get at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import results
from tests.support.origin import Gate, Origin, Reply

from .test_fleet import NODES, Fleet, fleets_with_bucket

pytest.importorskip("moto.server")
pytest.importorskip("obstore")

FOR_EVER = ("Cache-Control", "public, max-age=31536000, immutable")

Start = Callable[..., Fleet]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with fleets_with_bucket(tmp_path) as begin:
        yield begin


def test_what_is_here_or_at_a_peer_or_in_the_bucket_needs_no_slot(start: Start, origin: Origin) -> None:
    """The only slot of each node is taken, and nobody may queue: whoever needs one has a 503."""
    nodes = start(origin_max_in_flight=1, origin_queue_max=0)
    urls = [origin.serve(f"/{number}", Reply(size=1000, headers=(FOR_EVER,))) for number in range(12)]
    assert all(nodes[0].get(url, expect=1000).ok for url in urls)
    for node in nodes:
        node.wait_for_metric("shared_writes_total", node.value("origin_fetches_total"), outcome="stored")
    for node in nodes:
        node.terminate()
    for node in nodes:
        node.forget_cache()
        node.start()
    gate = Gate()
    held = [
        node.start_get(origin.serve(nodes.path_with_home(number, origin), Reply(gate=gate)))
        for number, node in enumerate(nodes)
    ]
    for node in nodes:
        node.wait_for_metric("origin_fetches_in_flight", 1)
    refused = nodes[0].get(origin.serve(nodes.path_with_home(1, origin), Reply()))
    assert refused.status == 503

    # In the bucket alone: the home of each asks it, whoever asks the home.
    assert all(response.ok for response in results([nodes[0].start_get(url, expect=1000) for url in urls]))
    assert sum(node.value("shared_fetches_total", outcome="hit") for node in nodes) == len(urls)
    at_home = {url: nodes.home(url) for url in urls}
    asked = sum(home != nodes[0].url for home in at_home.values())
    # At its home, and at the first node: the others ask the home.
    hits_of_peers = sum(node.value("peer_fetches_total", outcome="hit") for node in nodes)
    assert all(response.ok for response in results([nodes[1].start_get(url, expect=1000) for url in urls]))
    asks = sum(home != nodes[1].url for home in at_home.values())
    assert sum(node.value("peer_fetches_total", outcome="hit") for node in nodes) == hits_of_peers + asks
    # Here.
    for node in nodes[:2]:
        responses = results([node.start_get(url, expect=1000) for url in urls])
        assert all(response.ok and response.hit for response in responses)

    assert asked  # or nothing of this was about peers
    assert [node.value("origin_fetches_in_flight") for node in nodes] == [1] * NODES
    gate.open()
    assert all(response.ok for response in results(held))
    assert sum(origin.count(f"/{number}") for number in range(12)) == len(urls)


@pytest.mark.parametrize("limit", [1, 3])
def test_the_origin_gets_as_many_requests_at_once_for_the_keys_of_a_home_as_was_set(
    start: Start, origin: Origin, limit: int
) -> None:
    """All clients of all nodes want all of it: whatever node they ask, the home's slots and queue count."""
    nodes = start(origin_max_in_flight=limit, origin_queue_timeout=120)
    gate = Gate()
    paths = [nodes.path_with_home(number % NODES, origin) for number in range(30)]
    urls = [origin.serve(path, Reply(gate=gate)) for path in paths]
    fetches = [node.start_get(url, expect=1000) for url in urls for node in nodes]
    for node in nodes:
        # Nothing is answered yet, so all of it is in one of the slots or in a queue.
        node.wait_for_metric("origin_fetches_queued", 10 - limit)
        node.wait_for_waiters(30 + 10 * (NODES - 1))
    at_once = Counter(nodes.home(origin.url(request.target)) for request in origin.seen())
    assert at_once == {node.url: limit for node in nodes}
    gate.open()
    assert all(response.ok for response in results(fetches, 120))
    assert [origin.count(path) for path in paths] == [1] * len(paths)
    assert origin.peak == limit * NODES
