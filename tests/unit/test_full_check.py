"""All that is stored, compared with its checksums on demand, in a store without a proxy."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy_cache.store import full_check as full_check_module
from proxy_cache.store.entry import Entry
from proxy_cache.store.full_check import Report
from proxy_cache.store.memory import SMALL
from proxy_cache.store.store import Store
from tests.support.content import content
from tests.support.stores import with_store
from tests.support.tasks import until

from ..test_index import put, read, response_of

EACH = 12
"""Entries of each kind. Every third one is spoilt."""
LONG = 2_500_000


@dataclass
class Kind:
    """How such a body is stored, and how its byte at an offset is flipped."""

    name: str
    size: int
    spoil: Callable[[Store, Entry, bytes, int], None]


def flip_on_disk(store: Store, entry: Entry, data: bytes, at: int) -> None:
    """As a disk would."""
    present = data if entry.spans is None else data[: entry.spans[0].stop]
    for file in [*store.root.glob("bodies/*/*"), *store.root.glob("segments/*")]:
        found = file.read_bytes().find(present)
        if found >= 0:
            with file.open("r+b", buffering=0) as opened:
                os.pwrite(opened.fileno(), bytes([data[at] ^ 0x10]), found + at)
            return
    raise AssertionError(f"{entry} is not on the disk")


def flip_in_memory(store: Store, entry: Entry, data: bytes, at: int) -> None:
    assert entry.memory is not None
    entry.memory = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def flip_in_row(column: str) -> Callable[[Store, Entry, bytes, int], None]:
    def flip(store: Store, entry: Entry, data: bytes, at: int) -> None:
        with sqlite3.connect(store.root / "index.sqlite") as database:
            table = "entries" if column == "hash" else "heads"
            (value,) = database.execute(f"SELECT {column} FROM {table} WHERE id = ?", (entry.id,)).fetchone()
            match value:
                case bytes():
                    changed: object = bytes([value[0] ^ 1]) + value[1:]
                case str():
                    changed = value[:-1] + chr(ord(value[-1]) ^ 1)
                case _:
                    changed = value ^ 1
            database.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (changed, entry.id))
        database.close()

    return flip


KINDS = [
    Kind("segment", 5_000, flip_on_disk),
    Kind("file", 8 * SMALL, flip_on_disk),
    Kind("long", LONG, flip_on_disk),
    Kind("gaps", LONG, flip_on_disk),
    Kind("memory", 5_000, flip_on_disk),
    Kind("memory-itself", 5_000, flip_in_memory),
    Kind("headers", 5_000, flip_in_row("headers")),
    Kind("key", 5_000, flip_in_row("key")),
    Kind("status", 8 * SMALL, flip_in_row("status")),
    Kind("sums", LONG, flip_in_row("sums")),
    Kind("hash", 5_000, flip_in_row("hash")),
]


async def add(store: Store, kind: Kind, url: str) -> Entry:
    data = content(url, kind.size)
    if kind.name == "gaps":
        entry = store.add_object(url, response_of(), kind.size)
        for start, stop in ((0, 100_000), (1_000_000, 2_200_000)):
            piece = store.piece(entry, start, stop)
            piece.put(data[start:stop])
            piece.finish()
            await store.commit(piece, url, entry.response)
    else:
        entry = await put(store, url, data)
    if kind.name.startswith("memory"):
        await read(store, entry)
        assert entry.memory is not None
    return entry


async def reports(store: Store) -> list[Report]:
    return [report async for report in store.full_check.run()]


def spoilt_offset(kind: Kind, number: int) -> int:
    """Each time somewhere else; the last byte, too."""
    end = 100_000 if kind.name == "gaps" else kind.size
    return end - 1 if number == 0 else (number * 7919) % end


@pytest.mark.parametrize("is_restarted", [False, True])
def test_each_flipped_byte_is_found_and_nothing_else(tmp_path: Path, is_restarted: bool) -> None:
    found: list[None] = []
    kinds = [kind for kind in KINDS if not (is_restarted and kind.name.startswith("memory"))]
    urls = {f"http://x/{kind.name}/{number}": (kind, number) for number in range(EACH) for kind in kinds}
    bad = {url for url, (_, number) in urls.items() if number % 3 == 0}

    async def fill(store: Store) -> dict[str, Entry]:
        entries = {url: await add(store, kind, url) for url, (kind, _) in urls.items()}
        await store.written()
        await until(lambda: not store.verifier.unsummed)
        return entries

    def spoil(store: Store, entries: dict[str, Entry]) -> None:
        for url in bad:
            kind, number = urls[url]
            kind.spoil(store, entries[url], content(url, kind.size), spoilt_offset(kind, number))

    async def check(store: Store) -> None:
        told = await reports(store)
        assert told[0] == Report(len(urls))
        last = told[-1]
        assert (last.checked, last.corrupt, last.unsummed, last.is_last) == (len(urls), len(bad), 0, True)
        assert last.size > 0
        names = [report.found for report in told if report.found]
        assert len(names) == len(bad) == len(found)
        named = {name for name in names if not name.startswith("index row")}
        assert named <= bad
        # Of what has to be read from its row to be known there is no URL.
        unnamed = bad - named
        assert all(
            is_restarted and urls[url][0].name in ("headers", "key", "status", "sums", "hash") for url in unnamed
        )
        assert len(store.index) == len(urls) - len(bad)
        for url, (kind, _) in urls.items():
            if not store.is_loaded(url):
                await store.load(url)
            entries = store.lookup(url)
            assert bool(entries) == (url not in bad), url
            if entries and kind.name != "gaps":
                assert await read(store, entries[0]) == content(url, kind.size)
        assert [(report.corrupt, report.checked) for report in await reports(store)][-1] == (0, len(urls) - len(bad))

    async def filled(store: Store) -> None:
        entries = await fill(store)
        spoil(store, entries)
        if not is_restarted:
            await check(store)

    with_store(tmp_path, filled, on_corruption=lambda: found.append(None))
    if is_restarted:
        with_store(tmp_path, check, on_corruption=lambda: found.append(None))


def test_one_that_is_closed_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_check_module, "TELL_EVERY", 0.0)

    async def story(store: Store) -> None:
        await put(store, "http://x/long", bytes(12_000_000))
        async with aclosing(store.full_check.run()) as running:
            await anext(running)
            assert store.full_check.is_running
            assert not (await anext(running)).is_last
        assert not store.full_check.is_running
        await until(lambda: not any("compare" in repr(task) for task in asyncio.all_tasks()))
        assert (await reports(store))[-1].is_last

    with_store(tmp_path, story)


def test_what_is_removed_meanwhile_is_not_corrupt(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        for number in range(6):
            await put(store, f"http://x/{number}", bytes(LONG))
        async with aclosing(store.full_check.run()) as running:
            await anext(running)
            for number in range(1, 6):
                store.remove_key(f"http://x/{number}")
            told = [report async for report in running]
        assert told[-1].corrupt == 0
        assert told[-1].checked >= 1
        assert not any(report.found for report in told)

    with_store(tmp_path, story)


def test_bodies_without_checksums_get_some(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        entry = await put(store, "http://x/", bytes(LONG))
        entry.sums = b""
        assert (await reports(store))[-1].unsummed == 1
        assert (await reports(store))[-1].unsummed == 0
        assert entry.sums

    with_store(tmp_path, story)


def test_requests_have_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rests for as long as it has worked, while they come."""
    monkeypatch.setattr(full_check_module, "SLICE", 0.0)
    rested: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        rested.append(seconds)
        await sleep(0)

    async def story(store: Store) -> None:
        for number in range(4):
            await put(store, f"http://x/{number}", bytes(LONG))
        monkeypatch.setattr(full_check_module.asyncio, "sleep", note)
        await reports(store)
        assert set(rested) == {0}
        rested.clear()
        requests = iter(range(1000))
        store.verifier.activity = lambda: next(requests)
        await reports(store)
        assert all(seconds > 0 for seconds in rested)

    with_store(tmp_path, story)
