"""What is remembered of keys takes a bounded amount of memory, whatever requests and responses are made of."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_cache.caching.fills import known_heads
from proxy_cache.caching.fills.known_heads import HEAD_LARGEST, KnownHeads
from proxy_cache.caching.fills.known_keys import FIELD_OVERHEAD, MARK_MAX
from proxy_cache.caching.fills.request import FillRequest
from proxy_cache.caching.fills.table import FillTable
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.semantics.vary import in_short, matches, selecting_values

from .test_fills import with_table

LONG = "v" * 15_900


def request(number: int, fields: list[tuple[str, str]], path: str = "") -> FillRequest:
    headers = Headers([(name.encode(), value.encode()) for name, value in fields])
    target = Target.of("http", "packages.example", 80, f"/{number}{path}")
    return FillRequest(target.key, target, headers, "agent")


def response(vary: str) -> Headers:
    return Headers([(b"Cache-Control", b"no-store"), (b"Vary", vary.encode())])


def bytes_kept(remember: Callable[[int], None], count: int) -> float:
    """Bytes a call, of which the objects that it makes are still there."""
    remember(0)
    tracemalloc.start()
    try:
        for number in range(1, count + 1):
            remember(number)
        return tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("names", "path"),
    [
        pytest.param(["x-a", "x-b", "x-c"], "", id="values"),
        pytest.param([f"x-{letter * 5000}" for letter in "abc"], "", id="names"),
        pytest.param([], "/" + "k" * 15_000, id="keys"),
        pytest.param(["authorization", "x-a"], "/" + "k" * 15_000, id="keys and values"),
    ],
)
def test_a_mark_is_small(tmp_path: Path, names: list[str], path: str) -> None:
    async def story(table: FillTable) -> None:
        def remember(number: int) -> None:
            fields = [(name, f"{number:06}{LONG}") for name in names]
            table.keys.remember(request(number, fields, path), response(", ".join(names)), "no-store")

        assert bytes_kept(remember, 200) < 5000

    with_table(tmp_path, story)


def test_a_mark_with_long_values_is_about_who_sends_the_same(tmp_path: Path) -> None:
    async def story(table: FillTable) -> None:
        one, other = (request(1, [("X-A", LONG + end)], "/" + "k" * 1000) for end in "ab")
        table.keys.remember(one, response("X-A"), "no-store")
        assert table.has_history(one.key)
        assert table.keys.is_uncacheable(one.key, one.headers)
        assert not table.keys.is_uncacheable(one.key, other.headers)
        assert not table.keys.is_uncacheable(one.key, Headers())
        table.keys.remember(one, Headers(), None)
        assert not table.has_history(one.key)

    with_table(tmp_path, story)


def test_what_is_too_much_to_be_remembered_is_not(tmp_path: Path) -> None:
    """It takes the mark of before along, which was about another response."""

    async def story(table: FillTable) -> None:
        names = [f"x-{number:02}" for number in range(30)]
        asked = request(1, [(name, "v" * 128) for name in names])
        table.keys.remember(asked, response("x-00"), "no-store")
        assert table.keys.is_uncacheable(asked.key, asked.headers)
        table.keys.remember(asked, response(", ".join(names)), "no-store")
        assert not table.has_history(asked.key)
        # What was about everybody stays so.
        table.keys.remember(asked, Headers([(b"Cache-Control", b"no-store")]), "no-store")
        table.keys.remember(asked, response(", ".join(names)), "no-store")
        assert table.keys.is_uncacheable(asked.key, Headers())

    assert 30 * (128 + FIELD_OVERHEAD) > MARK_MAX
    with_table(tmp_path, story)


@pytest.mark.parametrize("size", [0, 1, 128, 129, 300, 3000])
def test_in_short_values_match_as_they_do_in_full(size: int) -> None:
    one, other = (Headers([(b"Accept", f"{'a' * size}{end}".encode())]) for end in "xy")
    values = in_short(selecting_values(["accept", "x-none"], one), one)
    assert matches(values, one)
    assert not matches(values, other)
    assert sum(len(value or "") for _, value in values) <= 128


def test_known_heads_are_counted_with_what_they_were_selected_by() -> None:
    heads = KnownHeads()
    headers = Headers([(b"ETag", b'"x"'), (b"Vary", b"X-A")])
    for size in (100, HEAD_LARGEST):
        heads.tell(f"key {size}", StoredResponse(200, headers, 0.0, 0.0, vary=(("x-a", "v" * size),)))
    assert len(heads) == 1
    assert "key 100" in heads
    assert known_heads.HEADS_MAX * HEAD_LARGEST <= 16 << 20
