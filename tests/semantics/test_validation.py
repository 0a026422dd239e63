from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.entity_tags import strong_match, weak_match
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.validation import (
    CONDITIONAL,
    NOT_MODIFIED_FIELDS,
    accepted_codings,
    conditional_headers,
    is_conditional,
    may_stand_for,
    not_modified,
    not_modified_headers,
    selected_by_304,
)

from . import given, h, http_date, odd_headers, stored


@pytest.mark.parametrize(
    ("a", "b", "strong", "weak"),
    [  # the table of RFC 9110 §8.8.3.2
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', '"1"', True, True),
    ],
)
def test_comparison(a: str, b: str, strong: bool, weak: bool) -> None:
    assert strong_match(a, b) is strong_match(b, a) is strong
    assert weak_match(a, b) is weak_match(b, a) is weak


TAG, WEAK = 'ETag: "a"', 'ETag: W/"a"'
MODIFIED = f"Last-Modified: {http_date(-100)}"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # RFC 9111 §4.3.1
        pytest.param([], [], id="no validator"),
        pytest.param([TAG], [("If-None-Match", '"a"')], id="tag"),
        pytest.param([WEAK], [("If-None-Match", 'W/"a"')], id="weak tag"),
        pytest.param([MODIFIED], [("If-Modified-Since", http_date(-100))], id="date"),
        pytest.param([TAG, MODIFIED], [("If-None-Match", '"a"'), ("If-Modified-Since", http_date(-100))], id="both"),
        pytest.param(["ETag: a", "Last-Modified: x"], [("If-None-Match", "a")], id="no quotes: as it came"),
        pytest.param(
            ["ETag: a", MODIFIED], [("If-None-Match", "a"), ("If-Modified-Since", http_date(-100))], id="no quotes, 2"
        ),
        pytest.param(["ETag:", "Last-Modified: x"], [], id="empty"),
        pytest.param(["ETag: a", "ETag: b"], [], id="two"),
    ],
)
def test_conditions_to_send(lines: list[str], expected: list[tuple[str, str]]) -> None:
    assert conditional_headers([stored(*lines)]) == expected


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        # RFC 9111 §4.3.1: "MUST send the relevant entity tags […] for each stored response"
        pytest.param([[TAG], ['ETag: "b"']], [("If-None-Match", '"a", "b"')], id="both tags"),
        pytest.param([[TAG], [TAG]], [("If-None-Match", '"a"')], id="once"),
        pytest.param([[TAG, MODIFIED], ['ETag: "b"']], [("If-None-Match", '"a", "b"')], id="no date of several"),
        pytest.param([[MODIFIED], ['ETag: "b"']], [("If-None-Match", '"b"')], id="one without a tag"),
        pytest.param([[MODIFIED], [MODIFIED]], [], id="none with a tag"),
        pytest.param([[TAG], ["ETag: b"]], [("If-None-Match", '"a"')], id="one without quotes can't be in a list"),
        pytest.param([], [], id="none at all"),
    ],
)
def test_conditions_for_variants(variants: list[list[str]], expected: list[tuple[str, str]]) -> None:
    assert conditional_headers([stored(*lines) for lines in variants]) == expected


@pytest.mark.parametrize(
    ("variants", "answer", "at"),
    [
        # RFC 9111 §4.3.4
        pytest.param([[TAG], ['ETag: "b"']], ['ETag: "b"'], 1, id="by its tag"),
        pytest.param([[TAG], ['ETag: "b"']], ['ETag: "c"'], None, id="a tag of none"),
        pytest.param([[TAG], ['ETag: "b"']], [], None, id="no tag: which one?"),
        pytest.param([[TAG], ['ETag: "b"']], ["ETag: b"], None, id="malformed"),
        pytest.param([[TAG, "Date: x"], [TAG]], [TAG], 0, id="the selected one first"),
        pytest.param(
            [[MODIFIED], [TAG, f"Date: {http_date(-9)}"], [TAG, f"Date: {http_date(-5)}"]],
            [TAG],
            2,
            id="the most recent",
        ),
        pytest.param([[MODIFIED], [WEAK], [TAG, f"Date: {http_date(-5)}"]], [TAG], 2, id="the very tag first"),
        pytest.param([[TAG]], [], 0, id="one, no tag"),
        pytest.param([[MODIFIED]], [MODIFIED], 0, id="one, by date"),
        pytest.param([[TAG]], ['ETag: "b"'], None, id="one, another tag"),
        pytest.param([["ETag: b"]], ["ETag: b"], 0, id="one, no quotes"),
        pytest.param([["ETag: b", MODIFIED]], ["ETag: c", MODIFIED], None, id="one, others without quotes"),
        pytest.param([["ETag: b"]], ['ETag: "b"'], None, id="one, quotes in one of them only"),
        pytest.param([["ETag: b", MODIFIED]], [MODIFIED], 0, id="one without quotes, by date"),
    ],
)
def test_which_one_a_304_selects(variants: list[list[str]], answer: list[str], at: int | None) -> None:
    responses = [stored(*lines, date=not any("Date:" in line for line in lines)) for lines in variants]
    assert selected_by_304(responses, h(*answer)) == at


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 9110 §12.5.3
        pytest.param("gzip, br", {"gzip", "br"}, id="two"),
        pytest.param("GZIP;q=0.5 , br ; q=1", {"gzip", "br"}, id="weights, case, space"),
        pytest.param("gzip;q=0, br;q=0.000, zstd", {"zstd"}, id="q=0: not acceptable"),
        pytest.param("identity, *", set(), id="nothing named"),
        pytest.param("", set(), id="empty"),
        pytest.param(",, gzip,", {"gzip"}, id="empty members"),
    ],
)
def test_accepted_codings(value: str, expected: set[str]) -> None:
    assert accepted_codings(h(f"Accept-Encoding: {value}")) == expected


@pytest.mark.parametrize(
    ("request_lines", "lines", "status", "may"),
    [
        pytest.param([], [TAG], 200, True, id="strong"),
        pytest.param([], [WEAK], 200, False, id="weak"),
        pytest.param([], [MODIFIED], 200, False, id="no tag"),
        pytest.param([], [TAG], 404, False, id="not a 200"),
        pytest.param(["Accept-Encoding: gzip"], [TAG, "Content-Encoding: gzip"], 200, True, id="accepted"),
        pytest.param(["Accept-Encoding: br"], [TAG, "Content-Encoding: gzip"], 200, False, id="not accepted"),
        pytest.param([], [TAG, "Content-Encoding: gzip"], 200, False, id="none accepted"),
        pytest.param(["Accept-Encoding: gzip"], [TAG], 200, False, id="would be coded"),
    ],
)
def test_may_stand_for(request_lines: list[str], lines: list[str], status: int, may: bool) -> None:
    assert may_stand_for(h(*request_lines), stored(*lines, status=status)) is may


@pytest.mark.parametrize("name", sorted(CONDITIONAL))
def test_is_conditional(name: str) -> None:
    assert is_conditional(h(f"{name.title()}: x"))
    assert not is_conditional(h("Range: bytes=0-"))


@pytest.mark.parametrize(
    ("request_lines", "lines", "expected"),
    [
        pytest.param([], [TAG], False, id="no condition"),
        # RFC 9110 §13.1.2
        pytest.param(['If-None-Match: "a"'], [TAG], True, id="tag"),
        pytest.param(['If-None-Match: "b"'], [TAG], False, id="another tag"),
        pytest.param(['If-None-Match: W/"a"'], [TAG], True, id="weak comparison"),
        pytest.param(['If-None-Match: "a"'], [WEAK], True, id="weak comparison, other way"),
        pytest.param(['If-None-Match: "b", W/"c" ,"a"'], [TAG], True, id="list"),
        pytest.param(['If-None-Match: "b"', 'If-None-Match: "a"'], [TAG], True, id="two lines"),
        pytest.param(['If-None-Match: "b,a", "a,b"'], ['ETag: "a,b"'], True, id="comma in a tag"),
        pytest.param(["If-None-Match: *"], [TAG], True, id="star"),
        pytest.param(["If-None-Match: *"], [], True, id="star, no tag"),
        pytest.param(['If-None-Match: "a"'], [], False, id="no tag"),
        pytest.param(["If-None-Match: a"], [TAG], False, id="unquoted"),
        pytest.param(["If-None-Match: a"], ["ETag: a"], True, id="both unquoted"),
        pytest.param(["If-None-Match: b, a"], ["ETag: a"], True, id="unquoted in a list"),
        pytest.param(["If-None-Match: a,b"], ["ETag: a,b"], True, id="unquoted, with a comma in it"),
        pytest.param(['If-None-Match: "a"'], ["ETag: a"], False, id="quotes in one of them only"),
        pytest.param(["If-None-Match: W/a"], ["ETag: a"], False, id="opaque, to the byte"),
        pytest.param(['If-None-Match: x"a"'], [TAG], False, id="not a tag"),
        # RFC 9110 §13.1.3
        pytest.param([f"If-Modified-Since: {http_date(-100)}"], [MODIFIED], True, id="same date"),
        pytest.param([f"If-Modified-Since: {http_date(-99)}"], [MODIFIED], True, id="later date"),
        pytest.param([f"If-Modified-Since: {http_date(-101)}"], [MODIFIED], False, id="earlier date"),
        pytest.param(["If-Modified-Since: yesterday"], [MODIFIED], False, id="invalid date"),
        pytest.param([f"If-Modified-Since: {http_date(-100)}"] * 2, [MODIFIED], False, id="two dates"),
        pytest.param([f"If-Modified-Since: {http_date()}"], [TAG], False, id="nothing to compare with"),
        # RFC 9111 §4.3.2
        pytest.param([f"If-Modified-Since: {http_date(5)}"], [f"Date: {http_date(4)}"], True, id="Date instead"),
        pytest.param(
            [f"If-Modified-Since: {http_date(3)}"], [f"Date: {http_date(4)}"], False, id="Date instead, later"
        ),
        pytest.param(['If-Match: "b"'], [TAG], False, id="If-Match is not for caches"),
        pytest.param([f"If-Unmodified-Since: {http_date()}"], [MODIFIED], False, id="nor is If-Unmodified-Since"),
        # RFC 9110 §13.2.2
        pytest.param(
            ['If-None-Match: "b"', f"If-Modified-Since: {http_date()}"],
            [TAG, MODIFIED],
            False,
            id="tag before date: no",
        ),
        pytest.param(
            ['If-None-Match: "a"', f"If-Modified-Since: {http_date(-999)}"], [TAG, MODIFIED], True, id="tag before date"
        ),
        pytest.param(
            ['If-None-Match: "a"', f"If-Modified-Since: {http_date()}"],
            [MODIFIED],
            False,
            id="also where there is none",
        ),
    ],
)
def test_not_modified(request_lines: list[str], lines: list[str], expected: bool) -> None:
    assert not_modified(h(*request_lines), 200, h(*lines)) is expected
    # RFC 9110 §13.2.1: only where the answer without the condition were a 2xx
    assert not_modified(h(*request_lines), 203, h(*lines)) is expected
    assert not not_modified(h(*request_lines), 302, h(*lines))
    assert not not_modified(h(*request_lines), 404, h(*lines))


def test_head_of_a_304() -> None:
    """RFC 9110 §15.4.5"""
    every = ["Cache-Control: a", "Content-Location: b", "Date: c", "Expires: e", "Vary: f"]
    others = ["Content-Type: g", "Content-Length: 1", "X-A: 1", "Set-Cookie: a=b"]
    assert not_modified_headers(h(*every, TAG, MODIFIED, *others)) == h(*every, TAG)
    assert not_modified_headers(h(MODIFIED, *others)) == h(MODIFIED)
    assert {line.split(":")[0].lower() for line in (*every, TAG)} == NOT_MODIFIED_FIELDS


@given(odd_headers, odd_headers)
def test_any_request(request: Headers, response: Headers) -> None:
    not_modified(request, 200, response)
    assert set(not_modified_headers(response)) <= set(response)


@given(st.text(alphabet='W/"a, *\\', max_size=30))
def test_a_304_needs_the_very_tag(wanted: str) -> None:
    if not_modified(Headers().add("if-none-match", wanted), 200, h(TAG)):
        assert '"a"' in wanted or wanted.strip(" ") == "*"
