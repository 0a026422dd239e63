from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.directives import parse_cache_control
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.policy import Policy
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.semantics.storing import judge
from proxy_cache.semantics.targeted import parse_targeted, response_directives

from . import NOW, given, h, http_date


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        # RFC 9213 §2.1: a Dictionary (RFC 9651 §3.2)
        pytest.param("max-age=60", "max-age=60", id="integer"),
        pytest.param("max-age=60, must-revalidate", "max-age=60, must-revalidate", id="two"),
        pytest.param("no-store", "no-store", id="boolean"),
        pytest.param("no-store=?1", "no-store", id="explicit true"),
        pytest.param("no-store=?0, max-age=5", "max-age=5", id="explicit false"),
        pytest.param("max-age=1, max-age=9", "max-age=9", id="RFC 9651 §4.2.2: the last of two counts"),
        pytest.param("max-age=60;a=b", "max-age=60", id="parameters are ignored"),
        pytest.param("no-store;max-age=60", "no-store", id="a parameter is no directive"),
        pytest.param('private="x"', 'private="x"', id="a string"),
        pytest.param("unknown=7, max-age=5", "unknown=7, max-age=5", id="unknown directive"),
        pytest.param("max-age=-5", "max-age=0", id="negative"),
        pytest.param("max-age=1.5", "max-age=", id="no Integer: says nothing that can be used"),
        pytest.param("max-age=(1 2)", "max-age=", id="inner list"),
    ],
)
def test_parse(value: str, same_as: str) -> None:
    assert parse_targeted(value) == parse_cache_control([same_as])


@pytest.mark.parametrize(
    "value",
    [
        # RFC 9213 §2.1: "If a targeted field in a given response is empty, or a parsing error is encountered, that
        # field MUST be ignored by the cache".
        pytest.param("", id="empty"),
        pytest.param("  ", id="blank"),
        pytest.param("max-age=", id="no value"),
        pytest.param("MAX-AGE=60", id="keys are lower-case"),
        pytest.param("max-age=60,", id="trailing comma"),
        pytest.param("max-age=60 no-store", id="no comma"),
        pytest.param("max-age = 60", id="space"),
        pytest.param("max-age=1234567890123456", id="RFC 9651 §3.3.1: sixteen digits"),
        pytest.param("max-age=60, &", id="garbage"),
        pytest.param("\xe9", id="not ASCII"),
    ],
)
def test_ignored(value: str) -> None:
    assert parse_targeted(value) is None


CDN, MINE = "CDN-Cache-Control: max-age=10", "My-Cache-Control: max-age=20"
BOTH = ("my-cache-control", "cdn-cache-control")


@pytest.mark.parametrize(
    ("lines", "obeyed", "max_age", "field"),
    [
        # RFC 9213 §2.2
        pytest.param(["Cache-Control: max-age=5", CDN], (), 5, None, id="not asked for"),
        pytest.param(["Cache-Control: max-age=5", CDN], BOTH, 10, "cdn-cache-control", id="in place of Cache-Control"),
        pytest.param(["Cache-Control: no-store", CDN], BOTH, 10, "cdn-cache-control", id="also of its no-store"),
        pytest.param([CDN, MINE], BOTH, 20, "my-cache-control", id="the first of the list"),
        pytest.param([CDN, "My-Cache-Control: &"], BOTH, 10, "cdn-cache-control", id="the first that parses"),
        pytest.param(["Cache-Control: max-age=5", "CDN-Cache-Control: &"], BOTH, 5, None, id="none parses"),
        pytest.param(["Cache-Control: max-age=5"], BOTH, 5, None, id="none there"),
        pytest.param([CDN, "CDN-Cache-Control: max-age=30"], BOTH, 30, "cdn-cache-control", id="two lines are one"),
    ],
)
def test_which_field_counts(lines: list[str], obeyed: tuple[str, ...], max_age: int, field: str | None) -> None:
    directives, used = response_directives(h(*lines), obeyed)
    assert (directives.max_age, used) == (max_age, field)


def test_in_place_of_expires() -> None:
    """RFC 9213 §2.2: "the cache MUST […] ignore the Cache-Control and Expires header fields"."""
    response = h(
        "CDN-Cache-Control: must-revalidate", f"Expires: {http_date(100)}", 'ETag: "a"', f"Date: {http_date()}"
    )
    verdict = judge(h(), 200, response, Policy(targeted=BOTH))
    assert verdict.targeted == "cdn-cache-control"
    stored = StoredResponse.of(200, response, h(), NOW, NOW, verdict)
    assert stored.lifetime == 0
    assert stored.never_stale
    assert stored.headers.get("expires")  # for whoever comes after us


@given(st.binary(max_size=40))
def test_any_value(value: bytes) -> None:
    headers = Headers([(b"cdn-cache-control", value), (b"cache-control", b"max-age=5")])
    directives, used = response_directives(headers, BOTH)
    assert used == "cdn-cache-control" or directives.max_age == 5
