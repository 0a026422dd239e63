from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.ranges import ByteRange, content_range, single_range

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
        # RFC 9110 §14.2: ignored
        pytest.param("bytes=0-1,5-6", None, id="several"),
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
    if isinstance(expected, tuple):
        assert single_range(request, h(), 10000) == ByteRange(*expected)
    else:
        assert single_range(request, h(), 10000) == expected


def test_no_range() -> None:
    assert single_range(h(), h(), 10) is None
    assert single_range(h("Range: bytes=0-1", "Range: bytes=0-1"), h(), 10) is None


def test_nothing_to_select_from() -> None:
    assert single_range(h("Range: bytes=0-"), h(), 0) == "unsatisfiable"
    assert single_range(h("Range: bytes=-5"), h(), 0) is None


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
    assert (single_range(request, h(*lines), 10) is not None) is partial


def test_content_range() -> None:
    """RFC 9110 §14.4"""
    assert content_range(ByteRange(42, 1234), 1234) == "bytes 42-1233/1234"


@given(odd_headers, odd_headers, st.integers(0, 100))
def test_any_request(request: Headers, response: Headers, length: int) -> None:
    found = single_range(request, response, length)
    if isinstance(found, ByteRange):
        assert 0 <= found.start < found.stop <= length


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_a_range_is_a_slice(first: int, last: int, length: int) -> None:
    body = bytes(range(length))
    found = single_range(h(f"Range: bytes={first}-{last}"), h(), length)
    if first > last:
        assert found is None
    elif first >= length:
        assert found == "unsatisfiable"
    else:
        assert isinstance(found, ByteRange)
        assert body[found.start : found.stop] == body[first : last + 1]
