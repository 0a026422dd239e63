"""Purges of a proxy that has a shared store: what was purged must not come back from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import TOKEN, call, token_file
from tests.support.buckets import BUCKET, Bucket
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

pytest.importorskip("moto.server")
pytest.importorskip("obstore")

Start = Callable[..., Proxy]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Proxies with caches of their own, and a bucket for all."""
    running: list[Proxy] = []

    def begin(**options: Any) -> Proxy:
        folder = tmp_path / f"proxy{len(running)}"
        folder.mkdir()
        token = token_file(folder)
        proxy = Proxy(
            folder, cache_shared=f"s3://{BUCKET}/", environment=bucket.environment, admin_token_file=token, **options
        )
        running.append(proxy)
        return proxy.start()

    with Bucket() as bucket:
        yield begin
        for proxy in running:
            proxy.close()
    for proxy in running:
        proxy.check_log()


def version(seed: str, **more: Any) -> Reply:
    headers = (("Cache-Control", "public, max-age=31536000, immutable"), ("ETag", f'"{seed}"'))
    return Reply(size=3000, seed=seed, headers=headers, **more)


def purge(proxy: Proxy, **body: Any) -> Any:
    answer = call(proxy, "POST", "/api/v1/purge", body, token=TOKEN)
    assert answer.status == 200, answer.body
    return answer.json


def written(proxy: Proxy) -> None:
    proxy.wait_for_metric("shared_writes_total", 1, outcome="stored")


def test_what_was_stored_by_a_rule_is_deleted_after_a_restart_too(start: Start, origin: Origin) -> None:
    """Its name has the rule in it, and no request has come by that rule yet."""
    proxy = start(cache_key_ignore_query="/~all/sig")
    url = origin.serve("/ruled?sig=1", version("old"))
    assert proxy.get(url).body == content("old", 3000)
    written(proxy)
    proxy.restart()
    origin.serve("/ruled?sig=1", version("new"))
    assert purge(proxy, url=url)["purged"] == 1
    assert proxy.get(url).body == content("new", 3000)


def test_what_was_being_fetched_does_not_come_from_there_next(start: Start, origin: Origin) -> None:
    """Another proxy had it just then, and has written it."""
    one, other = start(), start()
    gate = Gate()
    url = origin.serve("/fetched", version("old", gate=gate))
    waits = one.start_get(url)
    origin.wait_for("/fetched")
    origin.serve("/fetched", version("old"))
    assert other.get(url).ok
    written(other)
    assert purge(one, host="127.0.0.1") == {"purged": 0, "bytes": 0, "fills": 1}
    origin.serve("/fetched", version("new"))
    gate.open()
    assert waits.result().body == content("old", 3000)
    assert one.get(url).body == content("new", 3000)
