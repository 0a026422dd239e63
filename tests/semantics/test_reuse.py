from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.directives import request_cache_control
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.reuse import Reuse, decide, may_serve_stale
from proxy_cache.semantics.stored import StoredResponse

from . import NOW, given, h, odd_headers, stored

FRESH = (Reuse.FRESH, "")
MEANWHILE = (Reuse.STALE_WHILE_REVALIDATE, "stale")
STALE = (Reuse.VALIDATE, "stale")
REQUEST = (Reuse.VALIDATE, "request")


@pytest.mark.parametrize(
    ("response", "request_line", "age", "expected"),
    [
        # RFC 9111 §4.2
        pytest.param("max-age=60", "", 0, FRESH, id="fresh"),
        pytest.param("max-age=60", "", 59, FRESH, id="the last second"),
        pytest.param("max-age=60", "", 60, STALE, id="lifetime > age no more"),
        pytest.param("max-age=0", "", 0, STALE, id="never fresh"),
        # §5.2.2.4 response no-cache
        pytest.param("max-age=60, no-cache", "", 0, STALE, id="no-cache"),
        pytest.param('max-age=60, no-cache="x-a"', "", 0, FRESH, id="no-cache of a field, which is left out"),
        pytest.param('max-age=60, no-cache="content-type"', "", 0, STALE, id="of one that can't be left out"),
        pytest.param('max-age=60, no-cache=""', "", 0, STALE, id="of none"),
        pytest.param("max-age=60, no-cache", "max-stale", 0, STALE, id="no-cache, max-stale"),
        # §5.2.1.4 request no-cache, §5.4 Pragma
        pytest.param("max-age=60", "Cache-Control: no-cache", 0, REQUEST, id="reload"),
        pytest.param("max-age=60", "Pragma: no-cache", 0, REQUEST, id="Pragma"),
        pytest.param("max-age=60", "Pragma: foo", 0, FRESH, id="another pragma"),
        pytest.param("max-age=60", "Cache-Control: no-cache", 60, STALE, id="stale as well"),
        # §5.2.1.5 request no-store is about storing
        pytest.param("max-age=60", "Cache-Control: no-store", 0, FRESH, id="request no-store"),
        # §5.2.1.1 max-age
        pytest.param("max-age=60", "Cache-Control: max-age=10", 10, FRESH, id="age equal"),
        pytest.param("max-age=60", "Cache-Control: max-age=10", 11, REQUEST, id="age greater"),
        pytest.param("max-age=60", "Cache-Control: max-age=0", 0, REQUEST, id="max-age=0, in the same second"),
        pytest.param("max-age=60", "Cache-Control: max-age=0", 1, REQUEST, id="max-age=0"),
        pytest.param("max-age=60", "Cache-Control: max-age=x", 1, REQUEST, id="invalid"),
        # RFC 8246 §2.1 immutable
        pytest.param("max-age=60, immutable", "Cache-Control: max-age=0", 1, FRESH, id="immutable: reload"),
        pytest.param("max-age=60, immutable", "Cache-Control: no-cache", 1, REQUEST, id="immutable: forced reload"),
        pytest.param("max-age=60, immutable", "Cache-Control: max-age=0", 60, STALE, id="immutable only while fresh"),
        # §5.2.1.3 min-fresh
        pytest.param("max-age=60", "Cache-Control: min-fresh=20", 40, FRESH, id="fresh long enough"),
        pytest.param("max-age=60", "Cache-Control: min-fresh=20", 41, REQUEST, id="not fresh long enough"),
        pytest.param("max-age=60", "Cache-Control: min-fresh=20, max-stale", 60, STALE, id="min-fresh, stale"),
        # §5.2.1.2 max-stale
        pytest.param("max-age=60", "Cache-Control: max-stale=5", 65, FRESH, id="stale as allowed"),
        pytest.param("max-age=60", "Cache-Control: max-stale=5", 66, STALE, id="too stale"),
        pytest.param("max-age=60", "Cache-Control: max-stale", 9999, FRESH, id="any staleness"),
        pytest.param("max-age=60", "Cache-Control: max-stale, max-age=70", 70, FRESH, id="max-age and max-stale"),
        pytest.param("max-age=60", "Cache-Control: max-stale, max-age=70", 71, STALE, id="older than max-age"),
        # §4.2.4 prohibited
        pytest.param("max-age=60, must-revalidate", "Cache-Control: max-stale", 60, STALE, id="must-revalidate"),
        pytest.param("max-age=60, proxy-revalidate", "Cache-Control: max-stale", 60, STALE, id="proxy-revalidate"),
        pytest.param("s-maxage=60", "Cache-Control: max-stale", 60, STALE, id="§5.2.2.10 s-maxage"),
        # RFC 5861 §3
        pytest.param("max-age=60, stale-while-revalidate=30", "", 59, FRESH, id="swr: fresh"),
        pytest.param("max-age=60, stale-while-revalidate=30", "", 60, MEANWHILE, id="swr: from"),
        pytest.param("max-age=60, stale-while-revalidate=30", "", 90, MEANWHILE, id="swr: to"),
        pytest.param("max-age=60, stale-while-revalidate=30", "", 91, STALE, id="swr: over"),
        pytest.param("max-age=60, stale-while-revalidate=30", "Cache-Control: no-cache", 70, STALE, id="swr: no-cache"),
        pytest.param(
            "max-age=60, stale-while-revalidate=30", "Cache-Control: max-age=99", 70, STALE, id="swr: max-age"
        ),
        pytest.param(
            "max-age=60, stale-while-revalidate=30", "Cache-Control: no-store", 70, MEANWHILE, id="swr: no-store"
        ),
        pytest.param(
            "max-age=60, must-revalidate, stale-while-revalidate=30", "", 70, STALE, id="swr: must-revalidate"
        ),
        pytest.param("s-maxage=60, stale-while-revalidate=30", "", 70, STALE, id="swr: s-maxage"),
        # a 304 may have brought these
        pytest.param("max-age=60, no-store", "", 0, STALE, id="no-store"),
        pytest.param("max-age=60, private", "", 0, STALE, id="private"),
    ],
)
def test_decide(response: str, request_line: str, age: int, expected: tuple[Reuse, str]) -> None:
    request = h(*([request_line] if ":" in request_line else []))
    decision = decide(request_cache_control(request), stored(f"Cache-Control: {response}", "X-A: 1"), NOW + age)
    assert (decision.reuse, decision.reason) == expected


@pytest.mark.parametrize(
    ("response", "request_line", "age", "on_error", "disconnected"),
    [
        # RFC 9111 §4.2.4
        pytest.param("max-age=60", "", 70, False, True, id="disconnected"),
        pytest.param("max-age=60, must-revalidate", "", 70, False, False, id="must-revalidate"),
        pytest.param("max-age=60, proxy-revalidate", "", 70, False, False, id="proxy-revalidate"),
        pytest.param("s-maxage=60", "", 70, False, False, id="s-maxage"),
        pytest.param("max-age=60, no-cache", "", 0, False, False, id="no-cache"),
        pytest.param("max-age=60, private", "", 0, False, False, id="private, by a 304"),
        # RFC 5861 §4
        pytest.param("max-age=60, stale-if-error=30", "", 90, True, True, id="stale-if-error"),
        pytest.param("max-age=60, stale-if-error=30", "", 91, False, False, id="its limit is for both"),
        pytest.param("max-age=60, stale-if-error=30, must-revalidate", "", 70, False, False, id="but must-revalidate"),
        pytest.param("max-age=60", "Cache-Control: stale-if-error=30", 90, True, True, id="of the request"),
        pytest.param(
            "max-age=60", "Cache-Control: max-age=0, stale-if-error=30", 90, True, True, id="regardless of others"
        ),
        # the request
        pytest.param("max-age=60, stale-if-error=30", "Cache-Control: no-cache", 70, False, False, id="no-cache"),
        pytest.param("max-age=60, stale-if-error=30", "Pragma: no-cache", 70, False, False, id="Pragma"),
        pytest.param(
            "max-age=60, stale-if-error=30", "Cache-Control: max-age=80", 70, False, False, id="§5.2.1.1 max-age"
        ),
        pytest.param("max-age=60, stale-if-error=30", "Cache-Control: min-fresh=1", 70, False, False, id="min-fresh"),
        pytest.param("max-age=60", "Cache-Control: max-stale=20", 70, True, True, id="max-stale"),
        pytest.param("max-age=60", "Cache-Control: max-stale=20", 90, False, False, id="more than max-stale"),
        pytest.param("max-age=60", "Cache-Control: max-stale, max-age=65", 70, False, False, id="older than max-age"),
        pytest.param("max-age=60", "Cache-Control: max-age=5", 20, False, False, id="fresh, but older than max-age"),
        pytest.param("max-age=60", "Cache-Control: no-store", 20, True, True, id="fresh"),
    ],
)
def test_may_serve_stale(response: str, request_line: str, age: int, on_error: bool, disconnected: bool) -> None:
    request = h(*([request_line] if request_line else []))
    one = stored(f"Cache-Control: {response}")
    assert may_serve_stale(request_cache_control(request), one, NOW + age, disconnected=False) is on_error
    assert may_serve_stale(request_cache_control(request), one, NOW + age, disconnected=True) is disconnected


ages = st.floats(0, 1e7)


@given(odd_headers, odd_headers, ages, st.booleans())
def test_any_request(request: Headers, response: Headers, age: float, disconnected: bool) -> None:
    one = StoredResponse.of(200, response, request, NOW, NOW)
    decision = decide(request_cache_control(request), one, NOW + age)
    stale = may_serve_stale(request_cache_control(request), one, NOW + age, disconnected=disconnected)
    if one.always_validate:
        assert decision.reuse is Reuse.VALIDATE
    if one.never_stale and one.ttl(NOW + age) <= 0:
        assert decision.reuse is Reuse.VALIDATE
        assert not stale
    assert decision.reason in ("", "stale", "request")
    assert (decision.reason == "") is (decision.reuse is Reuse.FRESH)


@given(odd_headers, ages)
def test_plain_requests_follow_the_lifetime(response: Headers, age: float) -> None:
    one = StoredResponse.of(200, response, Headers(), NOW, NOW)
    fresh = one.ttl(NOW + age) > 0 and not one.always_validate
    assert (decide(request_cache_control(h("Accept: x")), one, NOW + age).reuse is Reuse.FRESH) is fresh


@given(odd_headers, ages)
def test_no_cache_always_validates(response: Headers, age: float) -> None:
    one = StoredResponse.of(200, response, Headers(), NOW, NOW)
    assert decide(request_cache_control(h("Cache-Control: no-cache")), one, NOW + age).reuse is Reuse.VALIDATE
