from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.directives import parse_cache_control
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.storing import judge

from . import given, h, http_date, odd_headers

FRESH = "Cache-Control: max-age=60"
MODIFIED = f"Last-Modified: {http_date(-9)}"


@pytest.mark.parametrize(
    ("status", "lines", "why_not"),
    [
        # RFC 9111 §3
        pytest.param(200, [FRESH], None, id="max-age"),
        pytest.param(200, ["Cache-Control: s-maxage=60"], None, id="s-maxage"),
        pytest.param(200, [f"Expires: {http_date(9)}"], None, id="Expires"),
        pytest.param(200, ["Cache-Control: max-age=0"], None, id="explicit, if only 0"),
        pytest.param(200, [f"Last-Modified: {http_date(-9)}"], None, id="heuristic"),
        pytest.param(200, ['ETag: "a"'], None, id="a validator"),
        pytest.param(200, ["Cache-Control: no-cache", 'ETag: "a"'], None, id="no-cache is for reuse"),
        pytest.param(200, [], "no-freshness", id="nothing at all"),
        pytest.param(200, ["Cache-Control: public"], "no-freshness", id="public, but nothing to use it by"),
        pytest.param(200, ["ETag: unquoted"], None, id="a validator without quotes"),
        pytest.param(200, ["ETag:"], "no-freshness", id="an empty validator"),
        pytest.param(200, ["ETag: a", "ETag: b"], "no-freshness", id="two validators"),
        pytest.param(404, [FRESH], None, id="404"),
        pytest.param(404, ['ETag: "a"'], None, id="404, heuristically cacheable"),
        pytest.param(302, [FRESH], None, id="302"),
        pytest.param(302, ['ETag: "a"'], "no-freshness", id="302, not heuristically cacheable"),
        pytest.param(302, ["Cache-Control: public", 'ETag: "a"'], None, id="302, public"),
        pytest.param(299, [FRESH], None, id="unknown status"),
        pytest.param(206, [FRESH], "partial", id="§3.3: partial"),
        pytest.param(304, [FRESH], "status", id="304"),
        pytest.param(103, [FRESH], "status", id="not final"),
        *[pytest.param(s, [FRESH], "status", id=f"{s}: of the moment") for s in (401, 407, 408, 421, 425)],
        *[pytest.param(s, [FRESH], "status", id=f"{s}: trouble") for s in (500, 502, 503, 504)],
        *[pytest.param(s, [FRESH], "status", id=f"RFC 6585: {s}") for s in (428, 429, 431, 511)],
        *[pytest.param(s, [FRESH], None, id=f"{s}, explicit") for s in (201, 303, 307, 400, 403, 499, 501, 505, 599)],
        *[
            pytest.param(s, [MODIFIED], "no-freshness", id=f"{s}, not heuristic")
            for s in (201, 202, 302, 403, 505, 599)
        ],
        *[
            pytest.param(s, [MODIFIED], None, id=f"RFC 9110 §15.1: {s}, heuristic")
            for s in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)
        ],
        *[
            pytest.param(s, [MODIFIED, "Cache-Control: public"], None, id=f"{s}, public")
            for s in (201, 302, 403, 505, 599)
        ],
        pytest.param(600, [FRESH], "status", id="RFC 9110 §15: no status"),
        # RFC 9111 §5.2.2
        pytest.param(200, ["Cache-Control: no-store, max-age=60"], "no-store", id="no-store"),
        pytest.param(200, [FRESH, "Cache-Control: NO-STORE"], "no-store", id="no-store, second line"),
        pytest.param(200, ["Cache-Control: private, max-age=60"], "private", id="private"),
        pytest.param(200, ['Cache-Control: private="x", max-age=60'], None, id="private fields"),
        pytest.param(200, ['Cache-Control: private="vary", max-age=60'], "private", id="of which one is needed"),
        pytest.param(200, ['Cache-Control: private="", max-age=60'], "private", id="private, no field"),
        pytest.param(200, ['Cache-Control: private="x y', "X: y"], "private", id="private, garbled"),
        pytest.param(200, ["Cache-Control: public, private, max-age=60"], "private", id="§4.2.1: most restrictive"),
        # RFC 9111 §5.2.2.3
        pytest.param(200, ["Cache-Control: must-understand, no-store, max-age=60"], None, id="understood"),
        pytest.param(299, ["Cache-Control: must-understand, max-age=60"], "status", id="not understood"),
        pytest.param(299, ["Cache-Control: must-understand, no-store, max-age=60"], "status", id="neither"),
        # RFC 9111 §4.1
        pytest.param(200, [FRESH, "Vary: *"], "vary-star", id="Vary: *"),
        pytest.param(200, [FRESH, "Vary: Accept, *"], "vary-star", id="Vary: * in a list"),
        pytest.param(200, [FRESH, "Vary: Accept"], None, id="Vary"),
        # RFC 9111 §7.3, and our policy
        pytest.param(200, [FRESH, "Set-Cookie: a=b"], "set-cookie", id="Set-Cookie"),
        pytest.param(200, [FRESH, "Cache-Control: public", "Set-Cookie: a=b"], None, id="Set-Cookie, public"),
        pytest.param(200, ["Cache-Control: s-maxage=5", "Set-Cookie: a=b"], None, id="Set-Cookie, s-maxage"),
        pytest.param(200, ['Cache-Control: max-age=5, private="set-cookie"', "Set-Cookie: a=b"], None, id="left out"),
        # a Connection that would like to change it
        pytest.param(
            200, ["Connection: cache-control", "Cache-Control: private, max-age=5"], "private", id="Connection"
        ),
    ],
)
def test_response(status: int, lines: list[str], why_not: str | None) -> None:
    assert judge(h(), status, h(*lines)).why_not == why_not


@pytest.mark.parametrize(
    ("request_lines", "lines", "why_not"),
    [
        # RFC 9111 §3.5
        pytest.param(["Authorization: x"], [FRESH], "authorization", id="Authorization"),
        pytest.param(["Authorization: x"], [FRESH, "Cache-Control: public"], None, id="Authorization, public"),
        pytest.param(["Authorization: x"], ["Cache-Control: s-maxage=60"], None, id="Authorization, s-maxage"),
        pytest.param(["Authorization: x"], ["Cache-Control: must-revalidate, max-age=5"], None, id="must-revalidate"),
        pytest.param(
            ["Authorization: x"], ["Cache-Control: proxy-revalidate, max-age=5"], "authorization", id="not proxy-"
        ),
        # RFC 9111 §5.2.1.5
        pytest.param(["Cache-Control: no-store"], [FRESH], "request-no-store", id="no-store"),
        pytest.param(
            ["Cache-Control: no-store"], ["Cache-Control: no-store"], "no-store", id="the response says so too"
        ),
        pytest.param(["Cache-Control: no-cache"], [FRESH], None, id="no-cache is for reuse"),
        pytest.param(["Pragma: no-cache"], [FRESH], None, id="so is Pragma"),
        pytest.param(["Cookie: a=b"], [FRESH], None, id="Cookie says nothing"),
    ],
)
def test_request(request_lines: list[str], lines: list[str], why_not: str | None) -> None:
    assert judge(h(*request_lines), 200, h(*lines)).why_not == why_not


@given(odd_headers, st.integers(0, 999), odd_headers)
def test_any_exchange(request: Headers, status: int, response: Headers) -> None:
    why_not = judge(request, status, response).why_not
    directives = parse_cache_control(response.get_all("cache-control"))
    if why_not is None:
        assert 200 <= status < 600
        assert not directives.private
        assert not directives.no_store or directives.must_understand
        assert "authorization" not in request or (
            directives.public or directives.must_revalidate or directives.s_maxage is not None
        )


@given(odd_headers, st.integers(100, 599), odd_headers, st.sampled_from(["no-store", "private", 'private="etag"']))
def test_never_storable(request: Headers, status: int, response: Headers, directive: str) -> None:
    """Whatever else is said (but RFC 9111 §5.2.2.3, must-understand)."""
    response = response.add("Cache-Control", directive)
    if not parse_cache_control(response.get_all("cache-control")).must_understand:
        assert judge(request, status, response).why_not is not None


@given(odd_headers, odd_headers)
def test_request_no_store(request: Headers, response: Headers) -> None:
    assert judge(request.add("Cache-Control", "no-store"), 200, response).why_not is not None
