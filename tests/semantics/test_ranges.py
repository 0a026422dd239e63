from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.ranges import (
    RANGES_MAX,
    RangeSpec,
    content_range,
    is_same_representation,
    multipart,
    parse_content_range,
    requested,
    select,
    strong_validator,
)
from proxy_cache.semantics.spans import Span

from . import given, h, http_date, odd_headers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 9110 §14.1.2, of 10000 bytes
        pytest.param("bytes=0-499", (0, 500), id="the first 500"),
        pytest.param("bytes=500-999", (500, 1000), id="the second 500"),
        pytest.param("bytes=9500-", (9500, 10000), id="from an offset"),
        pytest.param("bytes=-500", (9500, 10000), id="the last 500"),
        pytest.param("bytes=0-0", (0, 1), id="one byte"),
        pytest.param("bytes=0-", (0, 10000), id="all"),
        pytest.param("bytes=9999-99999", (9999, 10000), id="over the end"),
        pytest.param("bytes=-20000", (0, 10000), id="suffix longer than all"),
        pytest.param("bytes=10000-", "unsatisfiable", id="after the end"),
        pytest.param("bytes=10000-10001", "unsatisfiable", id="after the end, closed"),
        pytest.param("bytes=-0", "unsatisfiable", id="suffix of nothing"),
        pytest.param("bytes=" + "9" * 5000 + "-", "unsatisfiable", id="huge offset"),
        pytest.param("bytes=0-" + "9" * 5000, (0, 10000), id="huge end"),
        pytest.param("bytes=-" + "9" * 5000, (0, 10000), id="huge suffix"),
        pytest.param("bytes=007-008", (7, 9), id="leading zeros"),
        # RFC 9110 §14.1, §5.6.1.2
        pytest.param("Bytes=0-1", (0, 2), id="unit in any case"),
        pytest.param("bytes=, 0-1 ,", (0, 2), id="empty members"),
        pytest.param("bytes=-5,20000-", (9995, 10000), id="one that is satisfiable"),
        pytest.param("bytes=10000-,-0", "unsatisfiable", id="none that is"),
        # RFC 9110 §14.2: ignored
        pytest.param("bytes=0-8000,5-", None, id="more than there is, as they overlap"),
        pytest.param("items=0-1", None, id="other unit"),
        pytest.param("bytes=5-1", None, id="§14.1.1: last before first"),
        pytest.param("bytes=" + "9" * 50 + "-1", None, id="last before huge first"),
        pytest.param("bytes=-", None, id="neither"),
        pytest.param("bytes=", None, id="nothing"),
        pytest.param("bytes", None, id="no ranges"),
        pytest.param("bytes=a-b", None, id="no numbers"),
        pytest.param("bytes=1 - 2", None, id="space inside"),
        pytest.param("bytes=+1-2", None, id="sign"),
        pytest.param("bytes=1-2-3", None, id="three"),
        pytest.param("bytes=٣-", None, id="other digits"),
    ],
)
def test_range(value: str, expected: tuple[int, int] | str | None) -> None:
    request = Headers([(b"Range", value.encode())])
    assert select(request, h(), 10000) == ([expected] if isinstance(expected, tuple) else expected)


def test_no_range() -> None:
    assert select(h(), h(), 10) is None
    assert select(h("Range: bytes=0-1", "Range: bytes=0-1"), h(), 10) is None


def test_nothing_to_select_from() -> None:
    assert select(h("Range: bytes=0-"), h(), 0) == "unsatisfiable"
    assert select(h("Range: bytes=-5"), h(), 0) is None


def test_several() -> None:
    """RFC 9110 §15.3.7.2: in the order in which they were asked for."""
    assert select(h("Range: bytes=500-, 0-9,-5"), h(), 1000) == [(500, 1000), (0, 10), (995, 1000)]
    assert select(h("Range: bytes=0-1,3000-"), h(), 1000) == [(0, 2)]
    assert requested(h("Range: bytes=" + ",".join(["0-1"] * RANGES_MAX))) == (RangeSpec(0, 1),) * RANGES_MAX
    assert requested(h("Range: bytes=" + ",".join(["0-1"] * (RANGES_MAX + 1)))) is None
    assert requested(h("Range: bytes=0-1,x")) is None
    assert requested(h("Range: bytes=" + "," * 100_000)) is None


MODIFIED = f"Last-Modified: {http_date(-100)}"
DATE = f"Date: {http_date()}"


@pytest.mark.parametrize(
    ("value", "lines", "partial"),
    [
        # RFC 9110 §13.1.5
        pytest.param('"a"', ['ETag: "a"'], True, id="tag"),
        pytest.param('"b"', ['ETag: "a"'], False, id="another tag"),
        pytest.param('W/"a"', ['ETag: W/"a"'], False, id="weak tags never match"),
        pytest.param('"a"', ['ETag: W/"a"'], False, id="weak tag here"),
        pytest.param('"a"', [MODIFIED, DATE], False, id="no tag"),
        pytest.param('"a", "b"', ['ETag: "a"'], False, id="a list"),
        pytest.param(http_date(-100), [MODIFIED, DATE], True, id="date"),
        pytest.param(http_date(-99), [MODIFIED, DATE], False, id="later date is not exact"),
        pytest.param(http_date(-101), [MODIFIED, DATE], False, id="earlier date"),
        pytest.param(http_date(-100), [DATE], False, id="no Last-Modified"),
        pytest.param("a", ['ETag: "a"'], False, id="garbage"),
        # RFC 9110 §8.8.2.2: is the date a strong validator?
        pytest.param(http_date(-100), [MODIFIED], False, id="no Date"),
        pytest.param(http_date(-100), [MODIFIED, f"Date: {http_date(-100)}"], False, id="same second"),
        pytest.param(http_date(-100), [MODIFIED, f"Date: {http_date(-99)}"], True, id="a second later"),
    ],
)
def test_if_range(value: str, lines: list[str], partial: bool) -> None:
    request = h("Range: bytes=0-1", f"If-Range: {value}")
    assert (select(request, h(*lines), 10) is not None) is partial


def test_content_range() -> None:
    """RFC 9110 §14.4"""
    assert content_range(Span(42, 1234), 1234) == "bytes 42-1233/1234"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 9110 §14.4
        pytest.param("bytes 42-1233/1234", ((42, 1234), 1234), id="all known"),
        pytest.param("bytes 42-1233/*", ((42, 1234), None), id="length unknown"),
        pytest.param("Bytes 0-0/1", ((0, 1), 1), id="case"),
        pytest.param("bytes 5-4/10", None, id="last before first"),
        pytest.param("bytes 5-10/10", None, id="length not more than last"),
        pytest.param("bytes */10", None, id="unsatisfied"),
        pytest.param("items 0-1/2", None, id="other unit"),
        pytest.param("bytes 0-1", None, id="no length"),
        pytest.param("bytes=0-1/2", None, id="equals"),
        pytest.param("bytes 0-" + "9" * 40 + "/*", None, id="huge"),
        pytest.param("", None, id="empty"),
    ],
)
def test_parse_content_range(value: str, expected: object) -> None:
    assert parse_content_range(h(f"Content-Range: {value}")) == expected


def test_two_content_ranges() -> None:
    assert parse_content_range(h("Content-Range: bytes 0-1/2", "Content-Range: bytes 0-1/2")) is None
    assert parse_content_range(h()) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # RFC 9111 §3.4
        pytest.param(['ETag: "a"'], ['ETag: "a"'], True, id="strong tag"),
        pytest.param(['ETag: "a"'], ['ETag: "b"'], False, id="another tag"),
        pytest.param(['ETag: W/"a"'], ['ETag: W/"a"'], False, id="weak tag"),
        pytest.param(['ETag: "a"'], ['ETag: W/"a"'], False, id="weak there"),
        pytest.param(['ETag: "a"'], [], False, id="none there"),
        pytest.param([MODIFIED, DATE], [MODIFIED, DATE], True, id="a date that is strong"),
        pytest.param([MODIFIED, DATE], [MODIFIED], True, id="the first was strong"),
        pytest.param([MODIFIED], [MODIFIED], False, id="a date that is not"),
        pytest.param([MODIFIED, DATE], [f"Last-Modified: {http_date(-99)}", DATE], False, id="another date"),
        pytest.param([MODIFIED, DATE], [MODIFIED, 'ETag: "a"'], False, id="a tag there"),
        pytest.param(["ETag: a", MODIFIED, DATE], ["ETag: a", MODIFIED, DATE], True, id="no entity tag, but a date"),
        pytest.param(["ETag: a", MODIFIED, DATE], ["ETag: b", MODIFIED, DATE], False, id="others that are no tags"),
        pytest.param(["ETag: a", MODIFIED, DATE], ['ETag: "a"', MODIFIED, DATE], False, id="quoted there"),
        pytest.param(["ETag: a"], ["ETag: a"], False, id="no entity tag, no date"),
        pytest.param(["ETag: a", MODIFIED], ["ETag: a", MODIFIED], False, id="no entity tag, a weak date"),
        pytest.param(['ETag: W/"a"', MODIFIED, DATE], ['ETag: W/"a"', MODIFIED, DATE], False, id="weak tag, a date"),
        pytest.param(["ETag: a", "ETag: b", MODIFIED, DATE], [MODIFIED, DATE], False, id="two tags"),
        pytest.param([], [], False, id="nothing"),
    ],
)
def test_same_representation(one: list[str], other: list[str], same: bool) -> None:
    assert is_same_representation(h(*one), h(*other)) is same
    assert not same or strong_validator(h(*one)) is not None


def test_multipart() -> None:
    """RFC 9110 §14.6"""
    body = b"0123456789"
    parts, end, length = multipart([Span(0, 2), Span(8, 10)], 10, "text/x", "b")
    whole = b"".join(part.head + body[part.span.start : part.span.stop] for part in parts) + end
    assert whole == (
        b"--b\r\nContent-Type: text/x\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--b\r\nContent-Type: text/x\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n--b--\r\n"
    )
    assert length == len(whole)


@given(odd_headers, odd_headers, st.integers(0, 100))
def test_any_request(request: Headers, response: Headers, length: int) -> None:
    parse_content_range(response)
    is_same_representation(request, response)
    found = select(request, response, length)
    for span in found if isinstance(found, list) else ():
        assert 0 <= span.start < span.stop <= length


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_a_range_is_a_slice(first: int, last: int, length: int) -> None:
    body = bytes(range(length))
    found = select(h(f"Range: bytes={first}-{last}"), h(), length)
    if first > last:
        assert found is None
    elif first >= length:
        assert found == "unsatisfiable"
    else:
        assert isinstance(found, list)
        assert body[slice(*found[0])] == body[first : last + 1]
