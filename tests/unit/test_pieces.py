"""Bodies in thousands of ranges: their size is bounded and counted, and the loop does not work through them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.spans import Spans
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store import entry as entry_module
from proxy_cache.store import verify
from proxy_cache.store.checksums import BLOCK, Run, blocks, check, count_runs, of_body, packed, runs, with_runs
from proxy_cache.store.entry import SPAN_MEMORY, SPAN_ROW, Entry
from proxy_cache.store.store import Store
from proxy_cache.store.verify import Verdict
from tests.support.stores import with_store
from tests.support.tasks import begun


def lines_of(function: Callable[[], object]) -> int:
    """Lines of Python that a call runs: the same number on any machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def single_bytes(count: int) -> tuple[Spans, bytes]:
    """Every other byte, and its checksum."""
    digest = runs(of_body([b"x"]))[0].digest
    at = range(0, 2 * count, 2)
    return Spans((start, start + 1) for start in at), packed(Run(start, start + 1, digest) for start in at)


def test_looking_at_many_pieces_takes_no_more_than_their_number() -> None:
    def look(count: int) -> int:
        spans, sums = single_bytes(count)
        (block,) = blocks(BLOCK, spans, sums)
        assert block.is_covered
        data = memoryview(b"x" * BLOCK)
        read: Callable[[int, int], memoryview] = lambda start, stop: data[start:stop]  # noqa: E731
        assert check(block, read) == []
        return lines_of(lambda: (blocks(BLOCK, spans, sums), check(block, read)))

    assert look(400) < 2.5 * look(200)


@pytest.mark.parametrize("at", [0, 399, 798])
def test_one_more_piece_takes_as_long_with_few_as_with_many(at: int) -> None:
    def add(count: int) -> int:
        spans, sums = single_bytes(count)
        new = packed([Run(at, at + 3, 1)])
        return lines_of(lambda: (spans.with_span(at, at + 3), with_runs(sums, new)))

    assert add(3200) < 2 * add(400)


def response_of() -> StoredResponse:
    headers = Headers([(b"Cache-Control", b"max-age=600"), (b"ETag", b'"1"')])
    return StoredResponse(200, headers, 0.0, 0.0, vary=())


async def keep(store: Store, entry: Entry, start: int, data: bytes) -> bool:
    body = store.piece(entry, start, start + len(data))
    body.put(data)
    body.finish()
    return await store.commit(body, entry.key, entry.response) is not None


def test_there_is_an_end_to_the_pieces_of_a_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range that would make another span is served, but not kept; one that closes a gap is kept."""
    monkeypatch.setattr(entry_module, "SPANS_MAX", 10)
    failures: list[str] = []

    async def story(store: Store) -> None:
        entry = store.add_object("http://x/", response_of(), 1000)
        assert [await keep(store, entry, 2 * number, b"x") for number in range(12)] == [True] * 10 + [False] * 2
        assert failures == ["too_many_pieces"] * 2
        assert await keep(store, entry, 1, b"x")
        assert entry.spans is not None
        assert len(entry.spans) == 9
        assert await keep(store, entry, 50, b"x")
        together = [store.piece(entry, start, start + 1) for start in (60, 70)]  # there was no room for both
        assert not any(body.kept for body in together)

    with_store(tmp_path, story, on_failure=failures.append)


def test_pieces_that_come_at_a_time_are_counted_when_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_module, "SPANS_MAX", 1)

    async def story(store: Store) -> None:
        entry = store.add_object("http://x/", response_of(), 1000)
        bodies = [store.piece(entry, start, start + 1) for start in (10, 20, 30)]
        for body in bodies:
            body.put(b"x")
            body.finish()
        kept = [await store.commit(body, entry.key, entry.response) for body in bodies]
        assert [one is not None for one in kept] == [True, False, False]
        assert entry.spans == ((10, 11),)

    with_store(tmp_path, story)


def test_the_rest_of_what_is_there_in_megabytes_is_kept() -> None:
    """Blocks of the usual size may have a span each, up to some eight thousand."""
    entry = Entry(1, "http://x/", response_of(), 1 << 40, 0.0)
    for count, more in [(1023, True), (1024, True), (5000, True), (8192, False)]:
        entry.spans = Spans((start, start + BLOCK) for start in range(0, 2 * count * BLOCK, 2 * BLOCK))
        assert entry.accepts_span(1 << 39, (1 << 39) + BLOCK) is more
        assert entry.accepts_span(BLOCK, 2 * BLOCK)  # a gap


def test_there_is_an_end_to_checksums_until_they_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single bytes in order make one span with a checksum for each. In the next quiet moment one checksum replaces
    them."""
    monkeypatch.setattr(entry_module, "RUNS_MAX", 10)

    async def story(store: Store) -> None:
        summed: list[Entry] = []
        monkeypatch.setattr(store.verifier, "sum_soon", summed.append)
        entry = store.add_object("http://x/", response_of(), 1000)
        assert [await keep(store, entry, number, b"x") for number in range(12)] == [True] * 10 + [False] * 2
        assert summed == [entry]
        assert entry.spans == ((0, 10),)
        assert count_runs(entry.sums) == 10
        assert await store.verifier.verify(entry) is Verdict.UNKNOWN
        assert count_runs(entry.sums) == 1
        assert await keep(store, entry, 10, b"x")

    with_store(tmp_path, story)


def test_pieces_count_on_the_disk_and_in_memory(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        entry = store.add_object("http://x/", response_of(), 100_000)
        size, weight = store.size, store.index.weight
        for number in range(300):
            assert await keep(store, entry, 2 * number, b"x")
        assert entry.spans is not None
        sums = len(entry.sums)
        assert sums == 300 * 20
        assert store.size - size >= sums + 300 * SPAN_ROW
        assert store.index.weight - weight == sums + 300 * SPAN_MEMORY
        assert entry.size == store.size

    with_store(tmp_path, story)


def test_the_loop_does_not_look_at_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk, or a request that insists, leaves that work to a thread."""
    looked: list[threading.Thread] = []

    def noted(*arguments: Any) -> Any:
        looked.append(threading.current_thread())
        return blocks(*arguments)

    monkeypatch.setattr(verify, "blocks", noted)

    async def story(store: Store) -> None:
        entry = store.add_object("http://x/", response_of(), 1000)
        assert await keep(store, entry, 0, b"x")
        assert await store.verifier.verify(entry) is Verdict.GOOD
        assert looked
        assert threading.current_thread() not in looked

    with_store(tmp_path, story)


def test_a_removed_entry_is_not_checked_any_further(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        entry = store.add_object("http://x/", response_of(), 1000)
        assert await keep(store, entry, 0, b"x")
        checking = await begun(store.verifier.verify(entry))
        store.remove(entry)
        assert await checking is Verdict.GONE

    with_store(tmp_path, story)
