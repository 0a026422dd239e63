"""The walk over all entries, and checks of single bodies, in a store without a proxy."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from proxy_cache.store import verify as verify_module
from proxy_cache.store.store import Store
from proxy_cache.store.verify import Verdict
from tests.support.stores import with_store
from tests.support.tasks import until

from ..test_index import find, put, read, response_of

LONG = 3_000_000


async def until_gone(store: Store, count: int) -> None:
    await until(lambda: len(store.index) <= count)


def spoil(store: Store, entry_id: int, at: int) -> None:
    with open(store.files.path(entry_id), "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_a_body_is_good_or_is_dropped(tmp_path: Path) -> None:
    found: list[None] = []

    async def story(store: Store) -> None:
        small, large = await put(store, "http://x/small"), await put(store, "http://x/large", bytes(LONG))
        assert await store.verifier.verify(small) is Verdict.GOOD
        assert await store.verifier.verify(large) is Verdict.GOOD
        store.index.add_sums(large, b"")
        large.sums = b""
        assert await store.verifier.verify(large) is Verdict.UNKNOWN
        assert await store.verifier.verify(large) is Verdict.GOOD
        spoil(store, large.id, LONG - 1)
        assert await asyncio.gather(*(store.verifier.verify(large) for _ in range(3))) == [Verdict.CORRUPT] * 3
        assert not store.holds(large)
        assert await store.verifier.verify(large) is Verdict.GONE
        assert len(found) == 1
        assert await read(store, small) == b"body"

    with_store(tmp_path, story, on_corruption=lambda: found.append(None))


def test_the_walk_comes_round_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also entries outside memory, which are not loaded for that."""
    monkeypatch.setattr(verify_module, "WALK_EVERY", (0.05, 0.1))
    monkeypatch.setattr(verify_module, "QUIET_FOR", 0.01)

    async def before(store: Store) -> None:
        for number in range(4):
            await put(store, f"http://x/{number}", bytes(LONG))

    async def story(store: Store) -> None:
        assert store.index.loaded == 0
        spoil(store, 2, 1_500_000)
        await until_gone(store, 3)
        assert store.index.loaded == 0
        spoil(store, 4, 10)
        await until_gone(store, 2)
        assert await find(store, "http://x/1") == []
        assert len(await find(store, "http://x/2")) == 1

    with_store(tmp_path, before)
    with_store(tmp_path, story, verify_rate=1 << 40)


def test_it_gets_on_where_it_is_never_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "NEVER_QUIET", 0.02)
    monkeypatch.setattr(verify_module, "QUIET_FOR", 0.01)

    async def before(store: Store) -> None:
        for number in range(3):
            await put(store, f"http://x/{number}", bytes(LONG))

    async def story(store: Store) -> None:
        busy = itertools.count()
        store.verifier.activity = lambda: next(busy)
        store.verifier.is_filling = lambda: True
        spoil(store, 3, 5)
        await until_gone(store, 2)

    with_store(tmp_path, before)
    with_store(tmp_path, story, verify_rate=1 << 40)


def test_one_that_is_held_while_it_is_checked_stays_the_one_object_of_its_id(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await put(store, "http://x/", bytes(LONG), response_of())

    async def story(store: Store) -> None:
        held = await store.verifier.entry(1)
        assert held is not None
        (entry,) = await find(store, "http://x/")
        assert entry is held
        del held, entry
        loading = asyncio.ensure_future(store.load("http://x/"))
        both = await store.verifier.entry(1)
        await loading
        (entry,) = await find(store, "http://x/")
        assert entry is both

    with_store(tmp_path, before)
    with_store(tmp_path, story)
