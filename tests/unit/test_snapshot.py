"""Which URLs and hosts are asked for most."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from proxy_cache.admin.snapshot import SLICE, TOP, top
from proxy_cache.store.entry import Entry
from proxy_cache.store.store import Store
from tests.support.stores import with_store
from tests.test_index import put, response_of

HOST = "http://packages.example"


def test_the_most_used_come_first(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        for number in range(TOP + 3):
            entry = await put(store, f"{HOST}/{number}", b"x" * number)
            for _ in range(number):
                store.touch(entry)
        other = await put(store, "https://other.example:8443/a?token=secret", b"12345")
        store.touch(other)
        found = await top(store.index)
        assert [one["url"] for one in found["keys"]] == [f"{HOST}/{number}" for number in range(TOP + 2, 2, -1)]
        assert found["keys"][0] == {"url": f"{HOST}/{TOP + 2}", "hits": TOP + 2, "bytes": TOP + 2}
        total = sum(range(TOP + 3))
        assert found["hosts"] == [
            {"host": "packages.example", "hits": total, "bytes": total},
            {"host": "other.example:8443", "hits": 1, "bytes": 5},
        ]

    with_store(tmp_path, story)


def test_secrets_and_what_nobody_asked_for_are_not_told(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        store.touch(await put(store, f"{HOST}/a?token=secret"))
        await put(store, "http://unused.example/")
        assert await top(store.index) == {
            "keys": [{"url": f"{HOST}/a?token=***", "hits": 1, "bytes": 4}],
            "hosts": [{"host": "packages.example", "hits": 1, "bytes": 4}],
        }

    with_store(tmp_path, story)


def test_the_loop_goes_on_while_they_are_counted(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        for number in range(2 * SLICE + 1):
            entry = Entry(store.index.new_id(), f"{HOST}/{number}", response_of(), 0, time.time())
            store.index.add(entry, saved=True)
        counting = asyncio.ensure_future(top(store.index))
        turns = 0
        while not counting.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 3

    with_store(tmp_path, story)
