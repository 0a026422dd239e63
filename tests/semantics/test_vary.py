from __future__ import annotations

import pytest

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.vary import NEVER, matches, selecting_values, vary_names

from . import given, h, odd_headers


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
        pytest.param(["Accept: a, b"], ["Accept: b, a"], False, id="order may matter"),
        pytest.param(['Accept: a;x="b, c"'], ['Accept: a;x="b,c"'], False, id="white space in quotes"),
        pytest.param(["User-Agent: a, b"], ["User-Agent: a,b"], False, id="a comma in what is no list"),
        pytest.param(["Authorization: a"], ["Authorization: a"], True, id="same user"),
        pytest.param(["Authorization: a"], ["Authorization: b"], False, id="another user"),
    ],
)
def test_matches(first: list[str], second: list[str], same: bool) -> None:
    names = ("accept", "authorization", "user-agent")
    assert matches(selecting_values(names, h(*first)), h(*second)) is same
    assert matches(selecting_values(names, h(*second)), h(*first)) is same


def test_nothing_and_never() -> None:
    assert matches((), h("Accept: a"))
    assert not matches(NEVER, h())
    assert not matches(NEVER, h("*: x"))


def test_credentials_are_not_kept() -> None:
    values = selecting_values(("authorization", "cookie"), h("Authorization: Basic abc", "Cookie: id=abc"))
    assert "abc" not in repr(values)


@given(odd_headers, odd_headers)
def test_any_request(response: Headers, request: Headers) -> None:
    names = vary_names(response)
    if names is not None:
        assert list(names) == sorted(set(names))
        assert matches(selecting_values(names, request), request)
