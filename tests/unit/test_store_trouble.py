"""A disk that fails for a while: background tasks survive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store import eviction as eviction_module
from proxy_cache.store import store as store_module
from proxy_cache.store import writer as writer_module
from proxy_cache.store.store import Quota, Store
from tests.support.origin import PATIENCE
from tests.support.stores import QUOTA, with_store, writer_gate
from tests.support.tasks import until
from tests.support.tools import Tmpfs


def response_of() -> StoredResponse:
    headers = Headers([(b"Cache-Control", b"max-age=600"), (b"ETag", b'"1"')])
    return StoredResponse(200, headers, 0.0, 0.0, vary=())


def last_use(folder: Path) -> float:
    with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as database:
        (used,) = database.execute("SELECT max(used) FROM entries").fetchone()
    return float(used or 0)  # the row may not have been written yet


def test_the_housekeeper_outlives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that does not answer ``statvfs`` is logged now and then, and asked again. Times of last use are
    still written, and also after a bug."""
    monkeypatch.setattr(store_module, "USES_FLUSH", 0.02)
    monkeypatch.setattr(eviction_module, "FREE_CHECK", 0.02)
    failures: list[str] = []

    async def story(store: Store) -> None:
        entry = store.put("http://x/", response_of(), b"body")
        assert entry is not None
        await store.written()
        with monkeypatch.context() as broken:

            def fail(path: Any) -> Any:
                raise OSError(5, "EIO")

            broken.setattr(os, "statvfs", fail)
            await until(lambda: len(failures) > 5)
        assert set(failures) == {"read"}
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        with monkeypatch.context() as broken:
            broken.setattr(store.evictor, "make_room", lambda size: 1 // 0)
            await until(lambda: len(caplog.records) > 2)
        store.touch(entry, 4e9)
        await until(lambda: last_use(tmp_path) == 4e9)

    with_store(tmp_path, story, on_failure=failures.append)


def test_a_database_that_cannot_be_opened_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of that time are lost; nothing waits for ever, and later ones are kept."""
    connect, failures = writer_module.connect, []
    broken = True

    def sometimes(path: Path) -> sqlite3.Connection:
        if broken:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path)

    monkeypatch.setattr(writer_module, "connect", sometimes)

    async def before() -> None:
        nonlocal broken
        store = Store(tmp_path, QUOTA, on_failure=failures.append)
        await store.open()
        store.put("http://x/lost", response_of(), b"body")
        await store.written()
        await until(lambda: failures)
        broken = False
        store.put("http://x/kept", response_of(), b"body")
        await store.close()

    async def after(store: Store) -> None:
        for key in ("http://x/lost", "http://x/kept"):
            await store.load(key)
        assert not store.lookup("http://x/lost")
        assert store.lookup("http://x/kept")

    asyncio.run(asyncio.wait_for(before(), PATIENCE))
    assert failures == ["index"]
    with_store(tmp_path, after)


def test_what_is_dropped_goes_before_what_takes_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is late: the deletions that make room are in the queue behind the bodies that need it. On a small disk
    old and new bodies must not exist at the same time."""
    failures: list[str] = []
    gate = writer_gate(monkeypatch)

    async def story(store: Store) -> None:
        for at_once in range(3):
            gate.clear()
            for number in range(200):
                assert store.put(f"http://x/{at_once}/{number}", response_of(), bytes(20_000)) is not None
                await asyncio.sleep(0)  # each in a turn of its own: those of one turn would make one batch
            gate.set()
            await store.written()
        assert len([n for n in range(200) if store.lookup(f"http://x/2/{n}")]) > 150
        assert not failures

    with Tmpfs(tmp_path / "small", "8m") as disk:
        with_store(disk, story, Quota(5 << 20, 0), on_failure=failures.append)
