"""The index by itself: many entries, few of them loaded, all found again after restarts and crashes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sqlite3
import time
from pathlib import Path

import pytest

from benchmarks.index import build, key_of
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.spans import Spans
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store import additions as additions_module
from proxy_cache.store import index as index_module
from proxy_cache.store import rows
from proxy_cache.store import segments as segments_module
from proxy_cache.store.additions import MAX_VARIANTS
from proxy_cache.store.entry import Entry
from proxy_cache.store.eviction import EVICT_AT_ONCE
from proxy_cache.store.memory import SMALL
from proxy_cache.store.store import Quota, Store
from tests.support.looks import files_below, open_files
from tests.support.stores import hold_reads, with_store, writer_gate
from tests.support.tasks import begun

MANY = 20_000
LARGE = b"body" * SMALL
"""A body with a file of its own."""


def response_of(etag: str = "1", vary: tuple[tuple[str, str | None], ...] = ()) -> StoredResponse:
    now = time.time()
    fields = [(b"Cache-Control", b"max-age=1000"), (b"ETag", f'"{etag}"'.encode())]
    return StoredResponse(200, Headers(fields), now, now, vary=vary, initial_age=0)


async def put(store: Store, key: str, data: bytes = b"body", response: StoredResponse | None = None) -> Entry:
    body = store.body(len(data), keep=True)
    body.put(data)
    body.finish()
    entry = await store.commit(body, key, response or response_of())
    assert entry is not None
    await store.written()
    return entry


async def find(store: Store, key: str) -> list[Entry]:
    if not store.is_loaded(key):
        await store.load(key)
    return list(store.lookup(key))


async def read(store: Store, entry: Entry) -> bytes | None:
    file = await store.open_body(entry)
    if file is None or isinstance(file, bytes):
        return file
    try:
        return await store.files.read(file, entry.length + 1, 0)
    finally:
        store.files.release(file)


def unload(store: Store) -> None:
    """Unload all keys, as if many others had been used since."""
    store.index.working_set, before = 0, store.index.working_set
    for key in ("unload:1", "unload:2"):
        store.index.add(Entry(store.index.new_id(), key, response_of(), 0, time.time()))
    for key in ("unload:1", "unload:2"):
        store.remove_key(key)
    store.index.working_set = before


async def written(store: Store) -> None:
    """Wait for the index's thread: all earlier operations are in the database."""
    store.remove(await put(store, "barrier:"))
    store.remove(await put(store, "barrier:"))
    gc.collect()


def test_what_was_stored_is_found_after_a_restart(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        for number in range(50):
            await put(store, f"http://x/{number}", b"%d" % number * 100, response_of(str(number)))

    async def after(store: Store) -> None:
        assert len(store.index) == 50
        assert store.index.loaded == 0
        assert not store.is_loaded("http://x/7")
        assert list(store.lookup("http://x/7")) == []
        for number in range(50):
            (entry,) = await find(store, f"http://x/{number}")
            assert store.is_loaded(entry.key)
            assert entry.response.etag == f'"{number}"'
            assert await read(store, entry) == b"%d" % number * 100
        assert store.index.loaded == 50

    with_store(tmp_path, before)
    with_store(tmp_path, after)


def test_a_miss_does_not_read_the_database(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        assert store.is_loaded("http://x/none")
        assert list(store.lookup("http://x/none")) == []

    with_store(tmp_path, story)


def test_many_entries(tmp_path: Path) -> None:
    """All are counted, and no more are loaded than the working set holds."""
    build(tmp_path, MANY)

    async def story(store: Store) -> None:
        assert len(store.index) == MANY
        assert store.size == MANY * 4 * 4096
        store.index.working_set = 100
        chance = random.Random(3)
        for number in (chance.randint(1, MANY) for _ in range(500)):
            (entry,) = await find(store, key_of(number))
            assert entry.id == number
        assert store.index.loaded == 100
        assert not await find(store, "http://packages.example.org/none")

    with_store(tmp_path, story)


def test_an_entry_that_somebody_holds_stays_the_same(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        entry = await put(store, "http://x/a")
        whole = store.add_object("http://x/b", response_of(), 100)
        await written(store)
        unload(store)
        assert not store.is_loaded("http://x/a")
        assert store.holds(entry)
        store.index.add_span(whole, 0, 10, time.time())
        assert await find(store, "http://x/a") == [entry]
        assert await find(store, "http://x/b") == [whole]
        unload(store)
        store.remove_key("http://x/a")
        assert not store.holds(entry)
        assert await find(store, "http://x/a") == []
        assert store.holds(whole)

    with_store(tmp_path, story)


def test_changes_of_unloaded_entries_are_kept(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        entry = store.add_object("http://x/a", response_of("old"), 10_000)
        store.index.add_span(entry, 100, 200, time.time())
        store.update(entry, response_of("new"))
        unload(store)
        del entry
        # It is found, whether its row was written or not.
        (entry,) = await find(store, "http://x/a")
        assert entry.spans == Spans([(100, 200)])
        del entry
        await written(store)
        unload(store)
        gc.collect()
        (entry,) = await find(store, "http://x/a")
        assert entry.spans == Spans([(100, 200)])
        assert entry.response.etag == '"new"'

    with_store(tmp_path, story)


def test_what_never_got_a_byte_vanishes(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        store.add_object("http://x/a", response_of(), 10_000)
        await written(store)
        unload(store)
        gc.collect()
        assert await find(store, "http://x/a") == []
        assert len(store.index) == 0
        assert store.size == 0

    with_store(tmp_path, story)


def test_variants_and_what_replaces_them(tmp_path: Path) -> None:
    """Also if the key was not loaded when the newer one was stored."""
    english, german = (("accept-language", "en"),), (("accept-language", "de"),)

    async def story(store: Store) -> None:
        await put(store, "http://x/", b"en", response_of("en", english))
        await put(store, "http://x/", b"de", response_of("de", german))
        assert [entry.response.etag for entry in await find(store, "http://x/")] == ['"en"', '"de"']
        await written(store)
        unload(store)
        await put(store, "http://x/", b"en again", response_of("en2", english))
        assert not store.is_loaded("http://x/")
        assert [entry.response.etag for entry in await find(store, "http://x/")] == ['"de"', '"en2"']
        assert len(store.index) == 2
        unload(store)
        for number in range(MAX_VARIANTS + 5):
            await put(store, "http://x/", b"", response_of(str(number), (("accept-language", str(number)),)))
        assert len(await find(store, "http://x/")) == MAX_VARIANTS == len(store.index)
        # A replacement replaces no other variant.
        await put(store, "http://x/", b"", response_of("again", (("accept-language", "10"),)))
        assert len(await find(store, "http://x/")) == MAX_VARIANTS == len(store.index)
        store.remove_key("http://x/")
        assert len(store.index) == 0

    async def after(store: Store) -> None:
        assert len(store.index) == 0
        assert not list(store.files.scan())

    with_store(tmp_path, story)
    with_store(tmp_path, after)


def test_removing_a_key_that_is_not_loaded(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        for number in range(3):
            await put(store, "http://x/", b"", response_of(str(number), (("accept", str(number)),)))
        await put(store, "http://y/")

    async def story(store: Store) -> None:
        assert not store.is_loaded("http://x/")
        store.remove_key("http://x/")
        assert store.is_loaded("http://x/")
        assert list(store.lookup("http://x/")) == []
        assert len(store.index) == 1

    async def while_it_is_read(store: Store) -> None:
        read_on = hold_reads(store)
        loading = await begun(store.load("http://y/"))
        store.remove_key("http://y/")
        read_on.set()
        await loading
        assert list(store.lookup("http://y/")) == []
        await written(store)

    async def after(store: Store) -> None:
        assert len(store.index) == 0
        assert not list(store.files.scan())

    with_store(tmp_path, before)
    with_store(tmp_path, story)
    with_store(tmp_path, while_it_is_read)
    with_store(tmp_path, after)


def test_something_stored_while_its_key_is_read(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await put(store, "http://x/", b"old", response_of("old"))

    async def story(store: Store) -> None:
        read_on = hold_reads(store)
        loads = [await begun(store.load("http://x/")) for _ in range(3)]
        new = store.add_object("http://x/", response_of("new"), 100)
        loads[0].cancel()
        read_on.set()
        await asyncio.gather(*loads[1:])
        assert list(store.lookup("http://x/")) == [new]
        assert store.index.loaded == len(store.index) == 1

    with_store(tmp_path, before)
    with_store(tmp_path, story)


def test_two_keys_with_one_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (index_module, rows):
        monkeypatch.setattr(module, "key_hash", lambda key: 42)

    async def before(store: Store) -> None:
        await put(store, "http://x/", b"x")
        assert not store.is_loaded("http://y/")
        assert await find(store, "http://y/") == []
        assert store.is_loaded("http://y/")
        await put(store, "http://y/", b"y")
        assert [entry.key for entry in store.lookup("http://y/")] == ["http://y/"]
        assert [entry.key for entry in store.lookup("http://x/")] == ["http://x/"]

    async def after(store: Store) -> None:
        (x,) = await find(store, "http://x/")
        (y,) = await find(store, "http://y/")
        assert (await read(store, x), await read(store, y)) == (b"x", b"y")
        assert await find(store, "http://z/") == []
        store.remove(x)
        assert list(store.lookup("http://y/")) == [y]
        assert len(store.index) == store.index.loaded == 1

    with_store(tmp_path, before)
    with_store(tmp_path, after)


def test_the_order_of_use_is_kept_over_a_restart(tmp_path: Path) -> None:
    chance = random.Random(4)
    order = list(range(200))

    async def before(store: Store) -> None:
        entries = [await put(store, f"http://x/{number}") for number in range(200)]
        for entry in chance.sample(entries, 50):
            store.touch(entry)
            order.remove(entry.id - 1)
            order.append(entry.id - 1)
        for number in chance.sample(range(200), 20):
            store.remove(entries[number])
            order.remove(number)
        assert list(store.index.oldest()) == [number + 1 for number in order]

    async def after(store: Store) -> None:
        assert list(store.index.oldest()) == [number + 1 for number in order]
        new = await put(store, "http://x/new")
        (entry,) = await find(store, f"http://x/{order[0]}")
        store.touch(entry)
        assert [*store.index.oldest()][-2:] == [new.id, entry.id]
        assert [entry_id for entry_id, _ in store.index.evict(3, lambda: True)] == [n + 1 for n in order[1:4]]

    with_store(tmp_path, before)
    with_store(tmp_path, after)


def test_eviction_goes_by_slices(tmp_path: Path) -> None:
    """Room is granted at once if it can be made, and made slice by slice, with turns of the loop in between."""
    build(tmp_path, MANY)
    size = 4 * 4096
    counts: list[int] = []

    async def story(store: Store) -> None:
        order = list(store.index.oldest())
        held = (await find(store, key_of(order[10])))[0]
        assert store.reserve(10_000 * size)
        assert sum(counts) == EVICT_AT_ONCE
        assert not store.holds(held)
        assert store.reserve(100 * size), "what comes meanwhile is granted without waiting"
        assert sum(counts) == EVICT_AT_ONCE
        assert not store.reserve(MANY * size)
        assert store.evictor.evicting is not None
        await store.evictor.evicting
        assert max(counts) <= EVICT_AT_ONCE
        assert sum(counts) == 10_100
        assert len(store.index) == MANY - 10_100
        assert list(store.index.oldest()) == order[10_100:]

    with_store(tmp_path, story, Quota(MANY * size, 0), on_eviction=counts.append)


def test_small_bodies_that_are_asked_for_are_in_memory_too(tmp_path: Path) -> None:
    async def asked_for(store: Store, number: int) -> Entry:
        entry = await put(store, f"http://x/{number}", bytes([number]) * 9_000)
        assert entry.memory is None
        assert store.open_now(entry) == entry.memory == bytes([number]) * 9_000, "its segment is being written to"
        return entry

    async def story(store: Store) -> None:
        store.memory_max = 3 * 10_000
        first = await asked_for(store, 1)
        second = await asked_for(store, 2)
        assert await read(store, first) == first.memory, "the file is there as well"
        store.touch(first)
        third = await asked_for(store, 3)
        await put(store, "http://x/once", b"o" * 9_000)
        fourth = await asked_for(store, 4)
        assert second.memory is None
        assert None not in (first.memory, third.memory, fourth.memory)
        assert len(store.memory) == 3
        store.remove(first)
        assert first.memory is None
        large = await put(store, "http://x/large", b"l" * 70_000)
        assert large.memory is None
        await written(store)
        unload(store)
        assert len(store.memory) == store.memory.size == 0

    with_store(tmp_path, story)


@pytest.mark.parametrize("size", [SMALL, 300_000, 700_000, 1 << 20])
def test_who_reads_along_has_all_of_it_although_it_was_stored_meanwhile(tmp_path: Path, size: int) -> None:
    """An agent slower than origin and disk still gets every byte."""
    data = os.urandom(size)

    async def story(store: Store) -> None:
        body = store.body(size, keep=True)
        readers = [body.reader() for _ in range(2)]
        got = bytearray()
        for start in range(0, size, 10_000):
            assert body.put(data[start : start + 10_000])
            if start == 50_000:
                got += await readers[0].read()
        body.finish()
        assert await store.commit(body, "http://x/", response_of()) is not None
        while piece := await readers[0].read():
            got += piece
        assert got == data
        whole = bytearray()
        while piece := await readers[1].read():
            whole += piece
        assert whole == data
        for reader in readers:
            reader.close()

    with_store(tmp_path, story)


def test_who_comes_late_to_a_body_that_is_no_longer_kept_cannot_join(tmp_path: Path) -> None:
    """The beginning is in the file, the end in memory; the part between was dropped after all had read it."""
    size = 6 << 20
    data = os.urandom(1 << 16)

    async def story(store: Store) -> None:
        body = store.body(None, keep=True)
        reader = body.reader()
        for _ in range(size // len(data)):
            if not body.put(data):
                await body.drain()
            while reader.offset < body.length:
                await reader.read()
        assert not body.kept
        assert body.file.open_body is not None
        assert not body.joinable
        body.finish()
        assert await reader.read() == b""
        reader.close()
        body.close_if_unused()

    with_store(tmp_path, story, Quota(2 << 20, 0))


def test_many_commits_at_once(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        entries = await asyncio.gather(*(put(store, f"http://x/{n}", b"%d" % n * n) for n in range(300)))
        assert not [name for name in open_files() if name.startswith(str(store.files.bodies))], "no file stays open"
        assert all(await asyncio.gather(*(read(store, entry) for entry in entries[1:])))
        assert store.evictor.reserved == 0

    with_store(tmp_path, story)


@pytest.mark.parametrize("size", [4, SMALL, SMALL + 1])
def test_a_body_that_cannot_be_written_is_not_kept(tmp_path: Path, size: int) -> None:
    failures: list[str] = []
    data = b"d" * size

    async def story(store: Store) -> None:
        body = store.body(size, keep=True)
        body.put(data)
        body.finish()
        reader = body.reader()
        in_the_way = store.files.path(body.file.entry_id) if size > SMALL else str(tmp_path / "segments" / "00000001")
        os.mkdir(in_the_way)
        assert await store.commit(body, "http://x/bad", response_of()) is not None
        await store.written()
        assert await reader.read() == data
        reader.close()
        assert failures == ["write"]
        assert list(store.lookup("http://x/bad")) == []
        assert store.evictor.reserved == 0
        os.rmdir(in_the_way)
        assert await read(store, await put(store, "http://x/good", data)) == data

    with_store(tmp_path, story, on_failure=failures.append)


def segments(folder: Path) -> dict[str, int]:
    """Bytes of each segment on the disk."""
    return {path.name: found.st_blocks * 512 for path, found in files_below(folder / "segments")}


def test_small_bodies_share_a_file_and_give_its_blocks_back(tmp_path: Path) -> None:
    """A removed body becomes a hole; a concurrent read returns the body or nothing."""

    async def story(store: Store) -> None:
        bodies = [bytes([number]) * (number * 3_000) for number in range(20)]
        entries = await asyncio.gather(*(put(store, f"http://x/{n}", body) for n, body in enumerate(bodies)))
        assert all(entry.location for entry in entries)
        assert not list(store.files.scan())
        store.memory_max = 0
        assert [await read(store, entry) for entry in entries] == bodies
        (taken,) = segments(tmp_path).values()
        assert taken == sum(-(-(len(body) + 16) // 4096) * 4096 for body in bodies)
        for entry in entries[1::2]:
            reading = asyncio.ensure_future(store.open_body(entry))
            store.remove(entry)
            assert await reading in (None, bodies[entry.length // 3_000])
            assert await read(store, entry) is None
        await written(store)
        (left,) = segments(tmp_path).values()
        kept = sum(-(-(len(body) + 16) // 4096) * 4096 for body in bodies[::2])
        assert kept <= left <= kept + 2 * 4096, "two blocks for those of written()"
        assert [await read(store, entry) for entry in entries[::2]] == bodies[::2]

    async def after(store: Store) -> None:
        first = await put(store, "http://x/new", b"new")
        assert len(segments(tmp_path)) == 2, "what is there from earlier is not written to"
        for number in range(0, 20, 2):
            (entry,) = await find(store, f"http://x/{number}")
            assert await read(store, entry) == bytes([number]) * (number * 3_000)
            store.remove(entry)
        await written(store)
        assert list(segments(tmp_path)) == ["00000002"], "with its last body a segment goes"
        assert {name for name in open_files() if "/segments/" in name} <= {str(tmp_path / "segments" / "00000002")}
        store.remove(first)

    with_store(tmp_path, story)
    with_store(tmp_path, after)
    assert segments(tmp_path) == {}


def test_a_segment_is_left_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "SEGMENT", 100_000)

    async def story(store: Store) -> None:
        entries = []
        for number in range(30):
            entries.append(await put(store, f"http://x/{number}", bytes([number]) * 10_000))
        assert len(segments(tmp_path)) == 4
        assert [await read(store, entry) for entry in entries] == [bytes([n]) * 10_000 for n in range(30)]

    with_store(tmp_path, story)


def test_a_body_that_has_gone_from_its_segment_is_fetched_again(tmp_path: Path) -> None:
    """As after a crash of the machine: the hole has reached the disk, the deletion of the row has not."""
    failures: list[str] = []

    async def story(store: Store) -> None:
        store.memory_max = 0
        entries = [await put(store, f"http://x/{number}", b"data") for number in range(3)]
        with (tmp_path / "segments" / "00000001").open("r+b") as file:
            file.write(bytes(4096))
            file.truncate(2 * 4096 + 18)
        assert [await read(store, entry) for entry in entries] == [None, b"data", None]
        assert failures == ["read", "read"]
        assert len(store.index) == 1

    with_store(tmp_path, story, on_failure=failures.append)


def test_a_body_of_which_a_part_is_in_the_page_cache(tmp_path: Path) -> None:
    """It is read from the disk, and not mistaken for a truncated one."""
    body = bytes(range(250)) * 40

    async def story(store: Store) -> None:
        store.memory_max = 0
        entries = [await put(store, f"http://x/{number}", body) for number in range(8)]
        assert await read(store, entries[0]) == body
        fd = os.open(tmp_path / "segments" / "00000001", os.O_RDWR)
        for pages in range(1, 4):
            os.fsync(fd)
            for number in range(8):
                offset = number * 3 * 4096
                os.posix_fadvise(fd, offset + (3 - pages) * 4096, pages * 4096, os.POSIX_FADV_DONTNEED)
            for entry in entries:
                assert await read(store, entry) == body
        os.close(fd)

    with_store(tmp_path, story)


def test_without_holes_every_body_has_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "_fallocate", None)

    async def story(store: Store) -> None:
        entry = await put(store, "http://x/")
        assert list(store.files.scan()) == [entry.id]
        assert await read(store, entry) == b"body"

    with_store(tmp_path, story)


def test_a_disk_that_falls_behind_costs_the_storing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[str] = []
    monkeypatch.setattr(additions_module, "UNWRITTEN_MAX", 10)
    gate = writer_gate(monkeypatch)

    async def story(store: Store) -> None:
        gate.clear()
        first = await begun(put(store, "http://x/1", b"longer than that"))
        assert not store.body(4, keep=True).kept
        assert failures == ["busy"]
        gate.set()
        await first
        assert store.body(4, keep=True).kept

    with_store(tmp_path, story, on_failure=failures.append)


def test_a_variant_that_is_cancelled_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = writer_gate(monkeypatch)

    async def story(store: Store) -> None:
        entry = await put(store, "http://x/")
        gate.clear()
        task = await begun(store.add_variant(entry, response_of(vary=(("accept", "x"),))))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert store.unwritten == 1
        gate.set()

    async def after(store: Store) -> None:
        assert len(store.index) == 1
        assert list(segments(tmp_path).values()) == [4096]

    with_store(tmp_path, story)
    with_store(tmp_path, after)


def crash(folder: Path) -> None:
    """The database as left by a process that had no time to close it."""
    with sqlite3.connect(folder / "index.sqlite") as database:
        database.execute("UPDATE meta SET value = '0' WHERE name = 'clean'")


def test_after_a_crash_rows_without_files_and_files_without_rows_are_gone(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        for number in range(5):
            await put(store, f"http://x/{number}", LARGE)
        os.unlink(store.files.path(2))
        os.link(store.files.path(1), store.files.path(99))

    async def after(store: Store) -> None:
        assert len(store.index) == 4
        assert await find(store, "http://x/1") == []
        assert sorted(store.files.scan()) == [1, 3, 4, 5]
        assert (await put(store, "http://x/new")).id > 99, "no file is left that a new entry could meet"

    with_store(tmp_path, before)
    crash(tmp_path)
    with_store(tmp_path, after)


def test_after_a_crash_so_are_segments(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        for number in range(5):
            await put(store, f"http://x/{number}")

    async def after(store: Store) -> None:
        assert [len(await find(store, f"http://x/{number}")) for number in range(5)] == [1, 1, 1, 0, 0]
        assert list(segments(tmp_path)) == ["00000001"]

    async def without(store: Store) -> None:
        assert len(store.index) == 0

    with_store(tmp_path, before)
    crash(tmp_path)
    os.truncate(tmp_path / "segments" / "00000001", 3 * 4096)
    (tmp_path / "segments" / "00000007").write_bytes(b"nobody knows it")
    with_store(tmp_path, after)
    os.unlink(tmp_path / "segments" / "00000001")
    crash(tmp_path)
    with_store(tmp_path, without)


def test_after_a_crash_of_the_machine_the_last_minute_is_gone(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await put(store, "http://x/old", LARGE)
        await put(store, "http://x/new", LARGE)

    async def after(store: Store) -> None:
        assert len(await find(store, "http://x/old")) == 1
        assert await find(store, "http://x/new") == []
        assert list(store.files.scan()) == [1]

    with_store(tmp_path, before)
    crash(tmp_path)
    with sqlite3.connect(tmp_path / "index.sqlite") as database:
        database.execute("UPDATE meta SET value = 'another' WHERE name = 'boot'")
        database.execute("UPDATE entries SET written = written - 100 WHERE id = 1")
    with_store(tmp_path, after)


def test_an_unreadable_head_is_a_miss(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await put(store, "http://x/1")
        await put(store, "http://x/2")

    async def after(store: Store) -> None:
        assert await find(store, "http://x/1") == []
        assert len(await find(store, "http://x/2")) == 1
        assert len(store.index) == 1

    with_store(tmp_path, before)
    with sqlite3.connect(tmp_path / "index.sqlite") as database:
        database.execute("UPDATE heads SET vary = 'nonsense' WHERE id = 1")
    with_store(tmp_path, after)


def test_an_index_without_segments_is_taken_over(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await put(store, "http://x/", LARGE)

    async def after(store: Store) -> None:
        (entry,) = await find(store, "http://x/")
        assert entry.location == 0
        assert await read(store, entry) == LARGE
        assert (await put(store, "http://x/new")).location

    with_store(tmp_path, before)
    with sqlite3.connect(tmp_path / "index.sqlite") as database:
        database.execute("ALTER TABLE entries DROP COLUMN place")
        database.execute("PRAGMA user_version = 4")
    with_store(tmp_path, after)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_index_of_an_earlier_version_is_taken_over(tmp_path: Path, version: int) -> None:
    columns = {
        "id": "INTEGER PRIMARY KEY", "key": "TEXT NOT NULL", "status": "INTEGER NOT NULL", "headers": "BLOB NOT NULL",
        "vary": "TEXT NOT NULL", "request_time": "REAL NOT NULL", "response_time": "REAL NOT NULL",
        "age": "INTEGER NOT NULL", "assigned": "INTEGER", "targeted": "TEXT", "length": "INTEGER NOT NULL",
        "spans": "TEXT", "written": "REAL NOT NULL", "used": "REAL NOT NULL",
    }  # fmt: skip
    later = {1: ("targeted", "spans", "written"), 2: ("spans", "written"), 3: ()}[version]
    columns = {name: kind for name, kind in columns.items() if name not in later}
    now = time.time()
    head = {
        "status": 200, "headers": b'ETag:"e"\r\nX:y', "vary": "[]", "request_time": now, "response_time": now, "age": 3,
        "assigned": None, "targeted": None, "length": 9000, "spans": None, "written": now,
    }  # fmt: skip
    entries = [
        {**head, "id": 7, "key": "http://x/a", "used": now},
        {**head, "id": 8, "key": "http://x/b", "used": now - 50, "vary": json.dumps([["accept", "a/b"]])},
        {**head, "id": 9, "key": "http://x/c", "used": now - 70, "spans": "[[0, 100], [4096, 8192]]"},
        {**head, "id": 10, "key": "http://x/d", "used": now - 90, "spans": "[]"},
    ]
    if version < 3:
        del entries[2:]
    with sqlite3.connect(tmp_path / "index.sqlite") as database:
        database.execute(f"CREATE TABLE entries ({', '.join(map(' '.join, columns.items()))}) STRICT")
        database.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID")
        database.execute("INSERT INTO meta VALUES ('clean', '1')")
        for entry in entries:
            places = ", ".join("?" * len(columns))
            database.execute(f"INSERT INTO entries VALUES ({places})", [entry[name] for name in columns])
        database.execute(f"PRAGMA user_version = {version}")

    async def story(store: Store) -> None:
        assert len(store.index) == len(entries)
        assert list(store.index.oldest()) == [10, 9, 8, 7][-len(entries) :]
        (a,) = await find(store, "http://x/a")
        assert (a.id, a.length, a.used, a.response.etag) == (7, 9000, now, '"e"')
        assert a.response.initial_age == 3
        (b,) = await find(store, "http://x/b")
        assert b.response.vary == (("accept", "a/b"),)
        if version == 3:
            (c,) = await find(store, "http://x/c")
            assert c.spans == Spans([(0, 100), (4096, 8192)])
            assert store.size == (2 * 4 + 3 + 1) * 4096
            assert await find(store, "http://x/d") == [], "nothing of it had arrived"

    async def again(store: Store) -> None:
        assert len(store.index) == (3 if version == 3 else 2)
        assert len(await find(store, "http://x/a")) == 1

    with_store(tmp_path, story)
    with_store(tmp_path, again)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 63, 64, 65, 100, 333])
def test_rows_come_and_go_many_to_a_statement(tmp_path: Path, count: int) -> None:
    database = rows.connect(tmp_path / "index")
    rows.upgrade(database)
    rows.execute_many(
        database, rows.INSERT_ENTRY, [(number, number * 2, 1, 0.0, 0.0, 0) for number in range(count + 1)]
    )
    assert database.execute("SELECT count(*), max(hash) FROM entries").fetchone() == (count + 1, count * 2)
    rows.execute_many(database, rows.DELETE_ENTRY, [(number,) for number in range(count)])
    assert database.execute("SELECT id FROM entries").fetchall() == [(count,)]
    database.close()


def long_response(size: int, etag: str = "1") -> StoredResponse:
    now = time.time()
    fields = [(b"Cache-Control", b"max-age=1000"), (b"ETag", f'"{etag}"'.encode()), (b"X-Long", b"h" * size)]
    return StoredResponse(200, Headers(fields), now, now, initial_age=0)


def test_heads_are_counted_in_an_index_of_an_earlier_version_too(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await put(store, "http://x/short")
        await put(store, "http://x/long", LARGE, long_response(30_000))
        assert store.size == (2 + 64 + 8) * 4096

    async def after(store: Store) -> None:
        assert store.size == (2 + 64 + 8) * 4096
        (entry,) = await find(store, "http://x/long")
        assert await read(store, entry) == LARGE

    with_store(tmp_path, before)
    with sqlite3.connect(tmp_path / "index.sqlite") as database:
        database.execute("UPDATE entries SET blocks = CASE id WHEN 1 THEN 2 ELSE 65 END")
        database.execute("PRAGMA user_version = 5")
    with_store(tmp_path, after)
    with_store(tmp_path, after)


def test_updates_are_counted_and_bounded(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        entry = await put(store, "http://x/")
        assert store.size == 2 * 4096
        store.update(entry, long_response(30_000))
        assert store.size == (1 + 8) * 4096
        store.update(entry, response_of())
        assert store.size == 2 * 4096
        store.update(entry, long_response(70_000))
        assert not store.holds(entry)
        assert store.size == 0

    with_store(tmp_path, story)


def test_heads_in_memory_have_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not their number: long ones are unloaded sooner, and loaded again."""
    budget = 2 << 20
    monkeypatch.setattr(index_module, "HEADS_MEMORY", budget)

    async def story(store: Store) -> None:
        for number in range(60):
            await put(store, f"http://x/{number}", b"body", long_response(40_000))
            assert store.index.weight <= budget
        assert 10 <= store.index.loaded <= 20
        for number in range(60):
            (entry,) = await find(store, f"http://x/{number}")
            assert store.index.weight <= budget
            store.update(entry, long_response(50_000))
            store.update(entry, response_of())
        for number in range(60):
            store.remove_key(f"http://x/{number}")
        assert (store.index.weight, store.index.loaded, len(store.index)) == (0, 0, 0)

    with_store(tmp_path, story)


def test_free_pages_of_the_index_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FREE_PAGES", 64)

    async def story(store: Store) -> None:
        for number in range(100):
            store.put(f"http://x/{number}", long_response(50_000), b"body")
        await store.written()
        for number in range(100):
            store.remove_key(f"http://x/{number}")
        await put(store, "http://x/other")

    with_store(tmp_path, story)
    assert (tmp_path / "index.sqlite").stat().st_size < 1 << 20


def test_nothing_goes_that_was_used_since(tmp_path: Path) -> None:
    """A body started before the last use of an entry can't evict it; unless that use is in the future, by a clock that
    was set back."""

    async def story(store: Store) -> None:
        began = time.time()
        entries = [await put(store, f"http://x/{number}", LARGE) for number in range(6)]
        store.touch(entries[0], began - 20)
        store.touch(entries[1], began - 10)
        for entry in entries[2:]:
            store.touch(entry)
        room = store.capacity - store.size
        assert store.reserve(room, began)
        assert store.reserve(2 * len(LARGE), began)
        assert [store.holds(entry) for entry in entries] == [False, False, True, True, True, True]
        assert not store.reserve(len(LARGE), began)
        assert all(store.holds(entry) for entry in entries[2:])
        store.touch(entries[2], began + 1000)  # the clock was ahead then
        for entry in entries[3:]:
            store.touch(entry)
        assert store.reserve(len(LARGE), began)
        assert not store.holds(entries[2])

    with_store(tmp_path, story, Quota(2 << 20, 0))


def test_uses_are_counted_also_while_an_entry_is_not_loaded(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        entry = await put(store, "key:popular")
        assert store.index.hits(entry) == 0
        for _ in range(3):
            store.touch(entry)
        assert store.index.hits(entry) == 3
        del entry
        unload(store)
        await written(store)  # until then its row is only in memory
        assert "key:popular" not in [other.key for other in store.index.in_memory()]
        (entry,) = await find(store, "key:popular")
        assert entry in store.index.in_memory()
        assert store.index.hits(entry) == 3
        store.remove(entry)
        assert store.index.hits(entry) == 0
        assert store.index.hits(await put(store, "key:in the same row")) == 0

    with_store(tmp_path, work)
