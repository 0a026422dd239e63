from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.spans import Span, Spans, span_to_ask_for

from . import given

K = 1024


def test_spans() -> None:
    spans = Spans([(10, 20), (30, 40), (20, 25), (50, 50)])
    assert spans == ((10, 25), (30, 40))
    assert spans.length == 25
    assert spans.with_span(25, 30) == ((10, 40),)
    assert spans.span_with(10) == spans.span_with(24) == (10, 25)
    assert spans.span_with(9) is spans.span_with(25) is spans.span_with(40) is None
    assert spans.covers(12, 25)
    assert not spans.covers(12, 26)
    assert spans.covers(7, 7)
    assert spans.first_missing(10, 40) == 25
    assert spans.first_missing(30, 40) is None
    assert spans.around(27) == (25, 30)
    assert spans.around(3)[0] == 0
    assert spans.around(45)[0] == 40
    assert Spans().first_missing(0, 1) == 0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(0, 60), st.integers(0, 60))
def test_one_more_span_is_the_same_as_all_of_them_anew(spans: list[tuple[int, int]], start: int, stop: int) -> None:
    found = Spans(spans).with_span(start, stop)
    assert isinstance(found, Spans)
    assert found == Spans([*spans, (start, stop)])


@pytest.mark.parametrize(
    ("offset", "stop", "taken", "length", "block", "most", "expected"),
    [
        pytest.param(5, 6, [], 1000, 100, 400, (0, 100), id="the block around it"),
        pytest.param(150, 260, [], 1000, 100, 400, (100, 300), id="neighbours joined"),
        pytest.param(150, 900, [], 1000, 100, 400, (100, 500), id="no more than so many"),
        pytest.param(950, 999, [], 990, 100, 400, (900, 990), id="no more than there is"),
        pytest.param(950, 999, [], None, 100, 400, (900, 1000), id="unknown length"),
        pytest.param(150, 260, [(0, 120)], 1000, 100, 400, (120, 300), id="not what is here before"),
        pytest.param(150, 460, [(210, 300)], 1000, 100, 400, (100, 210), id="not what is here after"),
        pytest.param(5, 6, [], 1000, 0, 400, (5, 6), id="just what is wanted"),
        pytest.param(5, 900, [], 1000, 0, 400, (5, 405), id="just that, in pieces"),
        pytest.param(5, 900, [], 1000, 300, 100, (0, 300), id="one block at least"),
    ],
)
def test_what_to_ask_for(
    offset: int, stop: int, taken: list[tuple[int, int]], length: int | None, block: int, most: int, expected: Span
) -> None:
    assert span_to_ask_for(offset, stop, Spans(taken), length, block=block, max_size=most) == expected


def test_all_of_a_gap() -> None:
    taken = Spans([(0, 120), (800, 900)])
    assert span_to_ask_for(500, 501, taken, 1000, block=100, max_size=100, whole_gap=True) == (120, 800)


small = st.integers(0, 60)
pairs = st.lists(st.tuples(small, small), max_size=6)


@given(pairs, small, small)
def test_like_a_set_of_bytes(spans: list[tuple[int, int]], start: int, stop: int) -> None:
    model = {at for a, b in spans for at in range(a, b)}
    ours = Spans(spans)
    assert {at for a, b in ours for at in range(a, b)} == model
    assert ours.length == len(model)
    assert all(before.stop < after.start for before, after in itertools.pairwise(ours))
    missing = [at for at in range(start, stop) if at not in model]
    assert ours.first_missing(start, stop) == (missing[0] if missing else None)
    assert ours.covers(start, stop) is (not missing)
    if start not in model:
        gap = ours.around(start)
        assert gap.start <= start < gap.stop
        assert not model & set(range(gap.start, min(gap.stop, 100)))


@given(pairs, small, st.integers(1, 60), st.integers(0, 20), st.integers(1, 50), st.booleans())
def test_asks_for_what_is_missing(
    spans: list[tuple[int, int]], offset: int, size: int, block: int, most: int, whole: bool
) -> None:
    taken, length = Spans(spans), 130
    if taken.span_with(offset) is not None:
        return
    ask = span_to_ask_for(offset, offset + size, taken, length, block=block, max_size=most, whole_gap=whole)
    assert 0 <= ask.start <= offset < ask.stop <= length
    assert all(taken.span_with(at) is None for at in range(*ask))
    if not whole:
        assert ask.stop - offset <= max(most, block)
        assert ask.stop <= offset + size + block
