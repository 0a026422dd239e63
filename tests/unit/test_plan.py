"""What is to be done with a GET, by tables: what is stored, what the request says, and what comes next."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.caching.answers import Exchange
from proxy_cache.caching.fills.request import FillRequest
from proxy_cache.caching.fills.table import FillTable
from proxy_cache.caching.plan import (
    Fetch,
    Join,
    Plan,
    Planner,
    Progress,
    Refuse,
    Serve,
    Settle,
    Unchanged,
    WaitFor,
)
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.reuse import Reuse
from proxy_cache.semantics.spans import Span, Spans
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store.index import Entry

from .test_fills import with_table

TARGET = Target.of("http", "127.0.0.1", 9, "/x")
LENGTH = 10_000_000
HERE = Spans([Span(0, 1000)])
"""What is there of an entry with gaps."""


def fields(lines: tuple[str, ...] | str) -> Headers:
    headers = Headers()
    for line in (lines,) if isinstance(lines, str) else lines:
        name, _, value = line.partition(": ")
        headers = headers.add(name, value)
    return headers


def put(table: FillTable, lines: tuple[str, ...], spans: Spans | None = None) -> Entry:
    now = time.time()
    response = StoredResponse(200, fields(lines), now, now)
    entry = Entry(table.store.index.new_id(), TARGET.key, response, LENGTH, now, spans)
    table.store.index.add(entry)
    return entry


def plan(table: FillTable, *lines: str, **progress: Any) -> Plan:
    exchange = Exchange(TARGET, fields(lines), "agent")
    planner = Planner(table.store, table)
    return planner.plan(exchange, Progress(time.monotonic(), **progress), time.time())


FRESH = ("Cache-Control: max-age=1000", 'ETag: "1"')
STALE = ("Cache-Control: max-age=0", 'ETag: "1"')
REFRESHING = ("Cache-Control: max-age=0, stale-while-revalidate=100", 'ETag: "1"')
WEAK = ("Cache-Control: max-age=1000", 'ETag: W/"1"')


@pytest.mark.parametrize(
    ("stored", "request_lines", "action", "fwd"),
    [
        (None, (), Fetch, "uri-miss"),
        (None, ("Cache-Control: only-if-cached",), Refuse, "uri-miss"),
        (FRESH, (), Serve, "partial"),
        (FRESH, ("Range: bytes=5-9",), Serve, "partial"),
        (FRESH, ("If-None-Match: \"1\"",), Serve, "partial"),
        (FRESH, ("Cache-Control: no-cache",), Fetch, "request"),
        (FRESH, ("Cache-Control: max-age=0",), Fetch, "request"),
        (FRESH, ("Cache-Control: no-store",), Serve, "partial"),
        (FRESH, ("Cache-Control: only-if-cached",), Serve, "partial"),
        (STALE, (), Fetch, "stale"),
        (STALE, ("Cache-Control: max-stale=60",), Serve, "partial"),
        (STALE, ("Cache-Control: only-if-cached",), Refuse, "stale"),
        (REFRESHING, (), Serve, "stale"),
        ((*FRESH, "Vary: Accept"), ("Accept: text/html",), Fetch, "vary-miss"),
    ],
)  # fmt: skip
def test_what_is_stored_whole(
    tmp_path: Path, stored: tuple[str, ...] | None, request_lines: tuple[str, ...], action: type, fwd: str
) -> None:
    async def story(table: FillTable) -> None:
        if stored is not None:
            entry = put(table, stored)
            if "Vary: Accept" in stored:
                entry.response = StoredResponse(200, fields(stored), time.time(), time.time(), (("accept", "x"),))
        found = plan(table, *request_lines)
        assert type(found.action) is action
        assert found.fwd == fwd

    with_table(tmp_path, story)


@pytest.mark.parametrize(
    ("stored", "request_lines", "action", "alone"),
    [
        (FRESH, ("Range: bytes=0-999",), Serve, False),
        (FRESH, ("Range: bytes=0-1000",), Serve, False),  # the gap is filled on the way
        (FRESH, (), Serve, False),
        (FRESH, ("Range: bytes=0-1000", "Cache-Control: no-store"), Fetch, True),
        (FRESH, ('If-None-Match: "1"',), Unchanged, False),
        (FRESH, ('If-None-Match: "2"',), Serve, False),
        (FRESH, ('If-Match: "1"',), Fetch, False),
        (WEAK, ("Range: bytes=0-999",), Serve, False),
        (WEAK, ("Range: bytes=0-1000",), Fetch, True),  # nothing can be put to it
        (WEAK, (), Fetch, False),
        (WEAK, ("Range: bytes=20000000-",), Serve, False),  # 416
    ],
)
def test_what_is_stored_in_part(
    tmp_path: Path, stored: tuple[str, ...], request_lines: tuple[str, ...], action: type, alone: bool
) -> None:
    async def story(table: FillTable) -> None:
        put(table, stored, HERE)
        found = plan(table, *request_lines)
        assert type(found.action) is action
        assert found.alone is alone

    with_table(tmp_path, story)


def test_an_entry_of_which_there_is_nothing_and_to_which_nothing_can_be_put_is_dropped(tmp_path: Path) -> None:
    async def story(table: FillTable) -> None:
        entry = put(table, WEAK, Spans())
        found = plan(table, "Range: bytes=5-9")
        assert found.drops is entry
        assert isinstance(found.action, Fetch)
        assert (found.fwd, found.alone) == ("uri-miss", False)

    with_table(tmp_path, story)


def test_a_stale_entry_is_validated_and_stands_in(tmp_path: Path) -> None:
    async def story(table: FillTable) -> None:
        entry = put(table, STALE)
        found = plan(table)
        assert isinstance(found.action, Fetch)
        assert found.action.request.candidates == (entry,)
        assert found.stale is entry

    with_table(tmp_path, story)


def test_stale_while_revalidate_is_served_and_refreshed(tmp_path: Path) -> None:
    async def story(table: FillTable) -> None:
        put(table, REFRESHING)
        found = plan(table).action
        assert isinstance(found, Serve)
        assert found.decision.reuse is Reuse.STALE_WHILE_REVALIDATE

    with_table(tmp_path, story)


@pytest.mark.parametrize(
    ("lines", "private", "keep", "asks"),
    [
        ((), False, True, None),
        (("Range: bytes=5-9",), False, True, (0, (1 << 20) - 1)),
        (("Range: bytes=-9",), False, True, (None, 1 << 20)),
        (("Range: bytes=5-9", "Cache-Control: no-store"), True, False, None),
        (('If-Match: "1"',), True, True, None),
        (('If-None-Match: "1"',), False, True, None),
    ],
)
def test_what_is_asked_for(
    tmp_path: Path, lines: tuple[str, ...], private: bool, keep: bool, asks: tuple[int | None, int] | None
) -> None:
    async def story(table: FillTable) -> None:
        found = plan(table, *lines).action
        assert isinstance(found, Fetch)
        request = found.request
        assert (request.private, request.keep) == (private, keep)
        assert (request.range_fetch and tuple(request.range_fetch.ask)) == asks
        if not private:
            assert "range" not in request.headers

    with_table(tmp_path, story)


@pytest.mark.parametrize(
    ("lines", "progress", "joins"),
    [
        ((), {}, True),
        (("Range: bytes=5-9",), {}, True),
        (("Cache-Control: no-store",), {}, False),
        (('If-Match: "1"',), {}, False),
        ((), {"alone": True}, False),
    ],
)
def test_a_fill_that_waits_for_its_slot_is_joined(
    tmp_path: Path, lines: tuple[str, ...], progress: dict[str, Any], joins: bool
) -> None:
    async def story(table: FillTable) -> None:
        waiter = table.start(FillRequest(TARGET.key, TARGET, Headers(), "agent"))
        found = plan(table, *lines, **progress).action
        assert isinstance(found, Join if joins else Fetch)
        if isinstance(found, Join):
            assert found.fill is waiter.fill
        waiter.leave()

    with_table(tmp_path, story)


def test_a_client_that_is_refused_again_and_again_asks_alone() -> None:
    progress = Progress(0.0)
    for expected in (False, False, True):
        progress.not_shareable(alone=False, refused=True)
        assert progress.alone is expected
    progress = Progress(0.0)
    progress.not_shareable(alone=True, refused=False)
    assert progress.alone


def test_nothing_is_changed_by_planning(tmp_path: Path) -> None:
    async def story(table: FillTable) -> None:
        entry = put(table, WEAK, Spans())
        for lines in ((), ("Range: bytes=5-9",), ("Cache-Control: no-cache",), ("Cache-Control: only-if-cached",)):
            assert not isinstance(plan(table, *lines).action, (Settle, WaitFor))
        assert table.store.holds(entry)
        assert not table.running

    with_table(tmp_path, story)
