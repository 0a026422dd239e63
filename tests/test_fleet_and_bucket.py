"""A fleet with a shared store behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import BUCKET, Bucket
from tests.support.origin import Origin, Reply

from .test_fleet import fleet

pytest.importorskip("moto.server")
pytest.importorskip("obstore")

FOR_EVER = ("Cache-Control", "public, max-age=31536000, immutable")


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with Bucket() as running:
        yield running


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
