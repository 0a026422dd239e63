from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.vary import NEVER, matches, normalised, selecting_values, vary_names

from . import given, h, odd_headers

MANY = tuple(f"x{number}" for number in range(10, 43))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # RFC 9110 §12.5.5
        pytest.param([], (), id="absent"),
        pytest.param(["Vary:"], (), id="empty"),
        pytest.param(["Vary: Accept"], ("accept",), id="one"),
        pytest.param(["Vary: B, a ,, B"], ("a", "b"), id="sorted, unique"),
        pytest.param(["Vary: b", "vary: a"], ("a", "b"), id="two lines"),
        pytest.param(["Vary: *"], None, id="star"),
        pytest.param(["Vary: a, *"], None, id="star among others"),
        pytest.param(["Vary: a b"], None, id="no field name"),
        pytest.param(["Vary: a b", "Vary: c"], None, id="no field name in one of two lines"),
        pytest.param([f"Vary: {', '.join(MANY[:32])}"], MANY[:32], id="many"),
        pytest.param([f"Vary: {', '.join(MANY)}"], None, id="too many"),
        pytest.param([f"Vary: {name}" for name in MANY], None, id="too many lines"),
        pytest.param(["Vary: a" + ", a" * 40], ("a",), id="one many times"),
        pytest.param(["Vary: a" + ", a" * 30_000], None, id="one too many times"),
    ],
)
def test_names(lines: list[str], expected: tuple[str, ...] | None) -> None:
    assert vary_names(h(*lines)) == expected


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        # RFC 9111 §4.1
        pytest.param([], [], True, id="absent from both"),
        pytest.param(["Accept: a"], [], False, id="absent from one"),
        pytest.param(["Accept:"], [], False, id="empty is not absent"),
        pytest.param(["Accept: a"], ["accept: a"], True, id="equal"),
        pytest.param(["Accept: a"], ["Accept: b"], False, id="different"),
        pytest.param(["Accept: a,b"], ["Accept: a \t, b"], True, id="white space"),
        pytest.param(["Accept: a", "Accept: b"], ["Accept: a, b"], True, id="lines combined"),
        pytest.param(["Accept: a, b"], ["Accept: b, a"], False, id="RFC 9110 §12.5.4: order may matter"),
        pytest.param(["Accept: a;q=0.5, b"], ["Accept: b,a;q=0.50"], True, id="§12.4.2: weights say the order"),
        pytest.param(["Accept: a;q=0.5, b"], ["Accept: b;q=0.5, a"], False, id="other weights"),
        pytest.param(["Accept: a; q=1, b"], ["Accept: a,b"], True, id="§12.4.2: a weight of 1 says nothing"),
        pytest.param(["Accept: Text/HTML"], ["Accept: text/html"], True, id="§8.3.1: types without case"),
        pytest.param(["Accept: a;V=X"], ["Accept: a;V=x"], False, id="§8.3.1: values of parameters have theirs"),
        pytest.param(["Accept: a,,b,"], ["Accept: a, b"], True, id="§5.6.1: empty members"),
        pytest.param(["Accept-Encoding: br, gzip"], ["Accept-Encoding: GZIP,br"], True, id="§12.5.3: codings"),
        pytest.param(["Accept-Encoding: br"], ["Accept-Encoding: gzip"], False, id="another coding"),
        pytest.param(["Accept-Encoding: br"], ["Accept-Encoding: br;q=0"], False, id="§12.4.2: not acceptable"),
        pytest.param(["Accept-Encoding: br"], [], False, id="§12.5.3: none is not any"),
        pytest.param(["Accept-Language: de, en;q=0.5"], ["Accept-Language: EN;q=0.5 , DE"], True, id="languages"),
        pytest.param(["Accept-Language: de, en"], ["Accept-Language: en, de"], False, id="§12.5.4: by order"),
        pytest.param(["Accept-Charset: UTF-8, a"], ["Accept-Charset: a, utf-8"], True, id="§12.5.2: charsets"),
        pytest.param(['Accept: a;x="b, c"'], ['Accept: a;x="b,c"'], False, id="white space in quotes"),
        pytest.param(["User-Agent: a, b"], ["User-Agent: a,b"], False, id="a comma in what is no list"),
        pytest.param(["Authorization: a"], ["Authorization: a"], True, id="same user"),
        pytest.param(["Authorization: a"], ["Authorization: b"], False, id="another user"),
    ],
)
def test_matches(first: list[str], second: list[str], same: bool) -> None:
    names = ("accept", "accept-charset", "accept-encoding", "accept-language", "authorization", "user-agent")
    assert matches(selecting_values(names, h(*first)), h(*second)) is same
    assert matches(selecting_values(names, h(*second)), h(*first)) is same


def test_an_entry_from_before_the_limit_is_not_compared() -> None:
    assert not matches(tuple((name, None) for name in MANY), h())


def test_long_values_are_compared_as_they_are() -> None:
    long = ", ".join(["gzip", "br"] * 1000)
    assert normalised("accept-encoding", long) == long
    assert normalised("accept-encoding", long[:60]) == "br,gzip"


def test_nothing_and_never() -> None:
    assert matches((), h("Accept: a"))
    assert not matches(NEVER, h())
    assert not matches(NEVER, h("*: x"))


def test_credentials_are_not_kept() -> None:
    values = selecting_values(("authorization", "cookie"), h("Authorization: Basic abc", "Cookie: id=abc"))
    assert "abc" not in repr(values)


@given(odd_headers, st.sampled_from(["accept", "accept-encoding", "accept-language", "prefer", "x-a"]))
def test_one_spelling(request: Headers, name: str) -> None:
    """What is kept on the disk is normalised once more when it is read."""
    value = request.get("accept")
    once = normalised(name, value)
    assert normalised(name, once) == once


@given(odd_headers, odd_headers)
def test_any_request(response: Headers, request: Headers) -> None:
    names = vary_names(response)
    if names is not None:
        assert list(names) == sorted(set(names))
        assert matches(selecting_values(names, request), request)
