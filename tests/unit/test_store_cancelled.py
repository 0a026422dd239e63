"""Whoever waits for the disk may be cancelled while a thread is at it: no file is closed under the thread, and what it
leaves belongs to somebody."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store import checksums as checksums_module
from proxy_cache.store import files as files_module
from proxy_cache.store.body import BodyError
from proxy_cache.store.entry import Entry
from proxy_cache.store.files import BodyFiles, OpenBody
from proxy_cache.store.store import Store
from tests.support.looks import is_open_still, open_files
from tests.support.stores import with_store

LONG = 2_000_000
"""Bytes of a body with a file of its own."""


def response_of(vary: tuple[tuple[str, str | None], ...] = ()) -> StoredResponse:
    headers = Headers([(b"Cache-Control", b"max-age=600"), (b"ETag", b'"1"')])
    return StoredResponse(200, headers, 0.0, 0.0, vary=vary)


async def put(store: Store) -> Entry:
    body = store.body(LONG, keep=True)
    for _ in range(LONG // 100_000):
        if not body.put(b"x" * 100_000):
            await body.room()
    body.finish()
    entry = await store.commit(body, "http://x/", response_of())
    assert entry is not None
    return entry


def held_up(function: Callable[..., Any]) -> tuple[Callable[..., Any], threading.Event, threading.Event]:
    """The function, which says when it begins, and waits until it may."""
    began, release = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        began.set()
        assert release.wait(30)
        return function(*arguments)

    return slow, began, release


async def cancel_in(task: asyncio.Task[Any], began: threading.Event) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, began.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def is_open(path: str) -> bool:
    return any(target.startswith(path) for target in open_files())


def test_the_last_of_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the thread writes goes to the file that it was meant for, and to no other with the same number."""
    slow, began, release = held_up(checksums_module.write_at)

    async def story(store: Store) -> None:
        entry = store.add_object("http://x/", response_of(), 1_000_000)
        body = store.piece(entry, 0, 300_000)
        body.put(b"x" * 100_000)
        monkeypatch.setattr(checksums_module, "write_at", slow)
        committing = asyncio.create_task(store.commit(body, "http://x/", response_of()))
        assert await asyncio.get_running_loop().run_in_executor(None, began.wait, 30)
        assert body.file is not None
        fd = body.file.fd
        await cancel_in(committing, began)
        body.fail(BodyError("given up"))
        store.remove(entry)
        before = os.fstat(fd)
        release.set()
        await store.files.drain()
        assert not is_open_still(fd, before)
        assert list(store.files.scan()) == []

    with_store(tmp_path, story)


def test_the_file_of_a_piece(tmp_path: Path) -> None:
    """Its entry is removed before the thread has made it: it goes, too."""

    async def story(store: Store) -> None:
        slow, began, release = held_up(store.files.create_sparse)
        store.files.create_sparse = slow  # type: ignore[method-assign]
        entry = store.add_object("http://x/", response_of(), 1_000_000)
        body = store.piece(entry, 0, 300_000)
        body.put(b"x" * 100_000)
        await cancel_in(asyncio.create_task(store.commit(body, "http://x/", response_of())), began)
        body.fail(BodyError("given up"))
        store.remove(entry)
        release.set()
        await store.files.drain()
        assert list(store.files.scan()) == []
        assert not is_open(store.files.path(entry.id))

    with_store(tmp_path, story)


def test_a_file_that_is_opened(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        slow, began, release = held_up(store.files._open_checked)
        store.files._open_checked = slow  # type: ignore[method-assign]
        store.files.write_whole(7, [b"abc"])
        await cancel_in(asyncio.create_task(store.files.open(7, 3)), began)
        release.set()
        await store.files.drain()
        while is_open(store.files.path(7)):  # noqa: ASYNC110 - until the loop has heard of its thread
            await asyncio.sleep(0)

    with_store(tmp_path, story)


def test_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(store: Store) -> None:
        entry = await put(store)
        file = await store.files.open(entry.id, LONG)
        slow, began, release = held_up(os.pread)
        monkeypatch.setattr(os, "pread", slow)
        store.files._nowait = False
        reading = asyncio.create_task(store.files.read(file, 1000, 0))
        await cancel_in(reading, began)
        store.remove(entry)
        store.files.release(file)
        before = os.fstat(file.fd)
        release.set()
        await store.files.drain()
        assert not is_open_still(file.fd, before)

    with_store(tmp_path, story)


def test_a_variant_with_the_same_file(tmp_path: Path) -> None:
    """A link without an entry would stay for ever."""

    async def story(store: Store) -> None:
        entry = await put(store)
        slow, began, release = held_up(store.files.link)
        store.files.link = slow  # type: ignore[method-assign]
        vary = (("accept", "x"),)
        await cancel_in(asyncio.create_task(store.add_variant(entry, response_of(vary))), began)
        release.set()
        await store.files.drain()
        assert list(store.files.scan()) == [entry.id]
        assert store.space.reserved == 0

    with_store(tmp_path, story)


def test_a_variant_of_what_has_gone_is_no_trouble_of_the_disks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[str] = []

    async def story(store: Store) -> None:
        entry = await put(store)
        store.remove(entry)
        await store.files.drain()
        assert await store.add_variant(entry, response_of((("accept", "x"),))) is None

    with_store(tmp_path, story, on_failure=failures.append)
    assert not failures
    assert not caplog.records


def test_a_file_whose_entry_goes_while_it_is_opened_does_not_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was opened before it was unlinked: its blocks would stay taken for as long as the process lives."""
    opened, may_go_on = threading.Event(), threading.Event()

    def open_slowly(files: BodyFiles, entry_id: int, length: int) -> int:
        fd = open_checked(files, entry_id, length)
        opened.set()
        assert may_go_on.wait(30)
        return fd

    open_checked = BodyFiles._open_checked
    monkeypatch.setattr(BodyFiles, "_open_checked", open_slowly)

    async def story(store: Store) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(files_module, "OPEN_FILES", 0)
            entry = await put(store)
        opening = asyncio.create_task(store.open_body(entry))
        assert await asyncio.get_running_loop().run_in_executor(None, opened.wait, 30)
        store.remove(entry)
        may_go_on.set()
        file = await opening
        assert isinstance(file, OpenBody)
        assert os.pread(file.fd, 1, 0) == b"x"  # whoever has asked for it has it
        before = os.fstat(file.fd)
        store.files.release(file)
        assert not is_open_still(file.fd, before)

    with_store(tmp_path, story)
