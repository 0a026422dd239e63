"""A fleet with a shared store behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import results
from tests.support.buckets import BUCKET, Bucket
from tests.support.origin import Gate, Origin, Reply

from .test_fleet import Fleet, fleet

pytest.importorskip("moto.server")
pytest.importorskip("obstore")

FOR_EVER = ("Cache-Control", "public, max-age=31536000, immutable")


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with Bucket() as running:
        yield running


@pytest.fixture
def nodes(tmp_path: Path, bucket: Bucket) -> Iterator[Fleet]:
    shared = f"s3://{BUCKET}/fleet"
    with fleet(tmp_path, cache_shared=shared, environment=bucket.environment) as running:
        yield running


def test_one_cold_key_for_150_clients_of_three_nodes(nodes: Fleet, origin: Origin, bucket: Bucket) -> None:
    """One request to the origin, one object in the bucket, written by one node; and all read along."""
    gate = Gate()
    size, half = 2_000_000, 1_000_000
    reply = Reply(size=size, body_gate=gate, gate_at=half).with_headers(FOR_EVER, ("ETag", '"v1"'))
    url = origin.serve("/image.tar", reply)
    fetches = [node.start_get(url, expect=size) for node in nodes for _ in range(50)]
    for fetch in fetches:
        fetch.received(half)
    gate.open()
    assert all(response.ok for response in results(fetches, 90))
    assert origin.count("/image.tar") == 1
    with_it = [node for node in nodes if node.value("origin_fetches_total")]
    assert len(with_it) == 1
    with_it[0].wait_for_metric("shared_writes_total", 1, outcome="stored")
    assert sum(node.value("shared_writes_total", outcome="stored") for node in nodes) == 1


def test_all_local_caches_are_gone(tmp_path: Path, origin: Origin, bucket: Bucket) -> None:
    """What was shared comes from the bucket, once for each key; the origin hears of nothing."""
    urls = [origin.serve(f"/{number}", Reply(size=5000).with_headers(FOR_EVER)) for number in range(30)]
    shared = f"s3://{BUCKET}/fleet"
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(fleet(tmp_path, cache_shared=shared, environment=bucket.environment))
        for url in urls:
            assert nodes[0].get(url, expect=5000).ok
        for node in nodes:
            node.wait_for_metric("shared_writes_total", node.value("origin_fetches_total"), outcome="stored")
        assert sum(node.value("shared_writes_total", outcome="stored") for node in nodes) == 30
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.forget_cache()
            node.start()
        for node in nodes:
            assert all(node.get(url, expect=5000).ok for url in urls)
        assert sum(origin.count(f"/{number}") for number in range(30)) == 30
        assert sum(node.value("shared_fetches_total", outcome="hit") for node in nodes) == 30
