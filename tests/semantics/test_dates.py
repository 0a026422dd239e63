from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.dates import format_http_date, parse_http_date

from . import given

MOMENT = 784111777.0  # the example of RFC 9110 §5.6.7


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", MOMENT, id="IMF-fixdate"),
        pytest.param("Sunday, 06-Nov-94 08:49:37 GMT", MOMENT, id="RFC 850"),
        pytest.param("Sun Nov  6 08:49:37 1994", MOMENT, id="asctime"),
        pytest.param("Sun Nov 16 08:49:37 1994", MOMENT + 864000, id="asctime, two digits"),
        pytest.param("sun, 06 NOV 1994 08:49:37 gmt", MOMENT, id="RFC 9111 §4.2: any case"),
        pytest.param(" Sun, 06 Nov 1994 08:49:37 GMT\t", MOMENT, id="white space around"),
        pytest.param("Sun, 31 Dec 1995 23:59:60 GMT", 820454400.0, id="leap second"),
        pytest.param("Thursday, 01-Jan-70 00:00:00 GMT", 0.0, id="long expired"),
        pytest.param("Wednesday, 01-Jan-20 00:00:00 GMT", 1577836800.0, id="two digits, this century"),
        pytest.param("Wed, 31 Dec 1969 23:59:59 GMT", -1.0, id="before 1970"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799.0, id="the end"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 UTC", None, id="RFC 9111 §4.2: not GMT"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 +0000", None, id="offset"),
        pytest.param("Sun, 06 Nov 1994 08:49:37", None, id="no zone"),
        pytest.param("Sun, 6 Nov 1994 08:49:37 GMT", None, id="one digit"),
        pytest.param("Sun, 31 Feb 1994 08:49:37 GMT", None, id="no such day"),
        pytest.param("Sun, 06 Foo 1994 08:49:37 GMT", None, id="no such month"),
        pytest.param("Sun, 06 Nov 1994 24:00:00 GMT", None, id="no such hour"),
        pytest.param("Sun, 06 Nov 1994 08:49:61 GMT", None, id="no such second"),
        pytest.param("Sun, 06 Nov 0000 08:49:37 GMT", None, id="no such year"),
        pytest.param("Sun, 0६ Nov 1994 08:49:37 GMT", None, id="other digits"),
        pytest.param("0", None, id="zero"),
        pytest.param("-1", None, id="minus one"),
        pytest.param("", None, id="nothing"),
        pytest.param("784111777", None, id="unix time"),
    ],
)
def test_parse(value: str, expected: float | None) -> None:
    assert parse_http_date(value) == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (MOMENT, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (MOMENT + 0.9, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (-5.0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (float("inf"), "Fri, 31 Dec 9999 23:59:59 GMT"),
        (float("nan"), "Thu, 01 Jan 1970 00:00:00 GMT"),
    ],
)
def test_format(moment: float, expected: str) -> None:
    assert format_http_date(moment) == expected


@given(st.integers(0, 253402300799))
def test_round_trip(moment: int) -> None:
    assert parse_http_date(format_http_date(moment)) == moment


@given(st.text())
def test_any_text(value: str) -> None:
    parse_http_date(value)


@given(st.from_regex(r"[A-Za-z]{3,9}, ?\d\d[ -][A-Z][a-z]{2}[ -]\d{2,4} \d\d:\d\d:\d\d GMT"))
def test_nearly_a_date(value: str) -> None:
    parse_http_date(value)
