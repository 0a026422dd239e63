from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.directives import (
    MAX_DELTA,
    NOTHING,
    CacheControl,
    parse_cache_control,
    parse_delta_seconds,
    request_cache_control,
)
from proxy_cache.semantics.headers import Headers

from . import given, h, odd_headers


def names(*fields: str) -> frozenset[str]:
    return frozenset(fields)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 9111 §5.2: syntax
        pytest.param("", {}, id="empty"),
        pytest.param("no-store", {"no_store": True}, id="one"),
        pytest.param("No-Store, MAX-AGE=5", {"no_store": True, "max_age": 5}, id="any case"),
        pytest.param(" ,, public ,\t, max-age=5 ,", {"public": True, "max_age": 5}, id="empty members and space"),
        pytest.param("max-age = 5, s-maxage =5", {"max_age": 0, "s_maxage": 0}, id="space around = is no argument"),
        pytest.param("private = x, no-store = x", {"private": True, "no_store": True}, id="what forbids counts"),
        pytest.param('max-age="5"', {"max_age": 5}, id="both forms of argument"),
        pytest.param("foo, bar=1, max-age=5", {"max_age": 5}, id="§5.2.3: unknown directives"),
        pytest.param('foo="a, no-store, b", max-age=5', {"max_age": 5}, id="comma in quotes"),
        pytest.param(r'foo="a\", no-store", max-age=5', {"max_age": 5}, id="quote in quotes"),
        pytest.param(r'foo="a\\", no-store', {"no_store": True}, id="backslash in quotes"),
        pytest.param('foo="a, no-store, max-age=5', {"no_store": True, "max_age": 5}, id="quote left open"),
        pytest.param(r"foo=\", no-store", {"no_store": True}, id="backslash outside of quotes"),
        pytest.param('@!(, "x", =5, no-store', {"no_store": True}, id="garbage"),
        pytest.param("no-store foo", {"no_store": True}, id="garbage after a restriction"),
        pytest.param("no-store; max-age=5", {"no_store": True}, id="semicolon after a restriction"),
        pytest.param("no-store=1, no-transform=x", {"no_store": True, "no_transform": True}, id="needless argument"),
        pytest.param("public=1, must-understand=1", {}, id="what permits is taken as specified"),
        pytest.param("immutable=1", {"immutable": True}, id="RFC 8246 §2: arguments ignored"),
        # RFC 9111 §1.2.2, §4.2.1: numbers
        pytest.param("max-age=007", {"max_age": 7}, id="leading zeros"),
        pytest.param("max-age=2147483649", {"max_age": MAX_DELTA}, id="overflow of 32 bits"),
        pytest.param("max-age=" + "9" * 5000, {"max_age": MAX_DELTA}, id="overflow of int()"),
        pytest.param("max-age=-1", {"max_age": 0}, id="negative"),
        pytest.param("max-age=1.5", {"max_age": 0}, id="fraction"),
        pytest.param("max-age=60abc", {"max_age": 0}, id="not a number"),
        pytest.param("max-age=٣", {"max_age": 0}, id="other digits"),
        pytest.param("max-age='60'", {"max_age": 0}, id="single quotes"),
        pytest.param("max-age", {"max_age": 0}, id="no argument"),
        pytest.param("s-maxage=", {"s_maxage": 0}, id="empty argument"),
        pytest.param("stale-if-error=x, stale-while-revalidate, min-fresh=y", {}, id="invalid permission"),
        pytest.param("max-age=5, max-age=3", {"max_age": 3}, id="the smallest of several"),
        pytest.param("max-age=5, max-age=x", {"max_age": 0}, id="an invalid one of several"),
        pytest.param("min-fresh=5, min-fresh=3", {"min_fresh": 5}, id="the strictest min-fresh"),
        pytest.param("max-stale", {"max_stale": MAX_DELTA}, id="§5.2.1.2: max-stale of any age"),
        pytest.param("max-stale=3, max-stale", {"max_stale": 3}, id="the strictest max-stale"),
        # RFC 9111 §5.2.2.4, §5.2.2.7: lists of fields
        pytest.param("no-cache", {"no_cache": True}, id="no-cache"),
        pytest.param('no-cache="Set-Cookie"', {"no_cache_fields": names("set-cookie")}, id="qualified"),
        pytest.param('private="a, B"', {"private_fields": names("a", "b")}, id="two fields"),
        pytest.param("private=a", {"private_fields": names("a")}, id="token form"),
        pytest.param('no-cache=""', {"no_cache": True}, id="no field named"),
        pytest.param('no-cache="a", no-cache', {"no_cache": True, "no_cache_fields": names("a")}, id="both"),
        pytest.param('private="a', {"private": True}, id="what is not understood is all"),
        # all of them
        pytest.param(
            "public, proxy-revalidate, must-understand, no-transform, only-if-cached, s-maxage=1, max-stale=2,"
            "min-fresh=3, stale-while-revalidate=4, stale-if-error=5",
            {
                "public": True, "proxy_revalidate": True, "must_understand": True, "no_transform": True,
                "only_if_cached": True, "s_maxage": 1, "max_stale": 2, "min_fresh": 3, "stale_while_revalidate": 4,
                "stale_if_error": 5,
            },
            id="the others",
        ),
    ],
)  # fmt: skip
def test_parse(value: str, expected: dict[str, Any]) -> None:
    assert parse_cache_control([value]) == CacheControl(**expected)
    # What is too long to be remembered is read the same.
    assert parse_cache_control([value, "x" * 600]) == CacheControl(**expected)


def test_several_lines() -> None:
    assert parse_cache_control(["max-age=5", "no-store"]) == CacheControl(max_age=5, no_store=True)
    assert parse_cache_control(['foo="', "no-store", 'bar="']).no_store  # a quote doesn't reach over lines
    assert parse_cache_control([]) is NOTHING


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], NOTHING, id="nothing"),
        pytest.param(["Cache-Control: no-cache"], CacheControl(no_cache=True), id="no-cache"),
        pytest.param(["Pragma: no-cache"], CacheControl(no_cache=True), id="RFC 9111 §5.4: Pragma"),
        pytest.param(["Pragma: x, No-Cache"], CacheControl(no_cache=True), id="Pragma, a list"),
        pytest.param(["Pragma: x=no-cache"], NOTHING, id="another pragma"),
        pytest.param(["Pragma: no-cache", "Cache-Control: max-age=5"], CacheControl(max_age=5), id="RFC 7234 §5.4"),
    ],
)
def test_request(lines: list[str], expected: CacheControl) -> None:
    assert request_cache_control(h(*lines)) == expected


@given(st.lists(st.text(), max_size=4))
def test_any_text(values: list[str]) -> None:
    parse_cache_control(values)


@given(odd_headers)
def test_any_request(headers: Headers) -> None:
    directives = request_cache_control(headers)
    for seconds in (directives.max_age, directives.s_maxage, directives.max_stale, directives.min_fresh):
        assert seconds is None or 0 <= seconds <= MAX_DELTA


@given(st.lists(st.text(alphabet='abc=",\\ -1', max_size=8), max_size=3), st.sampled_from(["no-store", "private"]))
def test_a_restriction_on_its_own_line_is_seen(garbage: list[str], directive: str) -> None:
    directives = parse_cache_control([*garbage, directive, *garbage])
    assert directives.no_store or directives.private


@given(st.text(max_size=30))
def test_delta_seconds(text: str) -> None:
    seconds = parse_delta_seconds(text)
    assert seconds is None or 0 <= seconds <= MAX_DELTA
