from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.directives import MAX_DELTA
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.semantics.vary import NEVER

from . import NOW, given, h, http_date, odd_headers, stored

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("lines", "status", "lifetime"),
    [
        # RFC 9111 §4.2.1: the first match of
        pytest.param(["Cache-Control: s-maxage=1, max-age=2", f"Expires: {http_date(3)}"], 200, 1, id="s-maxage"),
        pytest.param(["Cache-Control: max-age=2", f"Expires: {http_date(3)}"], 200, 2, id="max-age"),
        pytest.param(["Cache-Control: public", f"Expires: {http_date(3)}"], 200, 3, id="Expires - Date"),
        pytest.param(["Cache-Control: max-age=x", f"Expires: {http_date(3)}"], 200, 0, id="invalid max-age is stale"),
        pytest.param(["Expires: 0"], 200, 0, id="§5.3: Expires 0"),
        pytest.param([f"Expires: {http_date(-3)}"], 200, 0, id="§5.3: Expires in the past"),
        pytest.param([f"Expires: {http_date(9)}", f"Expires: {http_date(5)}"], 200, 5, id="two Expires"),
        pytest.param([f"Expires: {http_date(9)}", "Expires: x"], 200, 0, id="two Expires, one invalid"),
        pytest.param(["Expires: Fri, 31 Dec 9999 23:59:59 GMT"], 200, MAX_DELTA, id="far"),
        # RFC 9111 §4.2.2: heuristic
        pytest.param([f"Last-Modified: {http_date(-10 * HOUR)}"], 200, HOUR, id="10 %"),
        pytest.param([f"Last-Modified: {http_date(-1000 * DAY)}"], 200, DAY, id="a day at most"),
        pytest.param([f"Last-Modified: {http_date(5)}"], 200, 0, id="modified in the future"),
        pytest.param(["Last-Modified: x"], 200, 0, id="invalid Last-Modified"),
        pytest.param([f"Last-Modified: {http_date(-10 * HOUR)}"], 404, HOUR, id="heuristically cacheable"),
        pytest.param([f"Last-Modified: {http_date(-10 * HOUR)}"], 302, 0, id="not heuristically cacheable"),
        pytest.param(["Cache-Control: public", f"Last-Modified: {http_date(-10 * HOUR)}"], 302, HOUR, id="but public"),
        pytest.param(['ETag: "a"'], 200, 0, id="nothing to go by"),
        pytest.param(["Expires: x", f"Last-Modified: {http_date(-10 * HOUR)}"], 200, 0, id="explicit, so no guess"),
    ],
)
def test_lifetime(lines: list[str], status: int, lifetime: int) -> None:
    response = stored(*lines, status=status)
    assert response.lifetime == lifetime
    assert response.heuristic is not any(word in " ".join(lines) for word in ("max-age", "s-maxage", "Expires"))


@pytest.mark.parametrize(
    ("lines", "delay", "age"),
    [
        # RFC 9111 §4.2.3
        pytest.param([f"Date: {http_date()}"], 0.0, 0, id="new"),
        pytest.param([f"Date: {http_date(-30)}"], 0.0, 30, id="apparent_age"),
        pytest.param([f"Date: {http_date(30)}"], 0.0, 0, id="apparent_age, never negative"),
        pytest.param([], 0.0, 0, id="no Date"),
        pytest.param(["Date: x"], 0.0, 0, id="invalid Date"),
        pytest.param(["Age: 20", f"Date: {http_date()}"], 0.0, 20, id="age_value"),
        pytest.param(["Age: 20", f"Date: {http_date()}"], 5.0, 25, id="response_delay"),
        pytest.param(["Age: 20", f"Date: {http_date(-30)}"], 5.0, 30, id="the greater of the two"),
        pytest.param([], -5.0, 0, id="clock went back meanwhile"),
        # RFC 9111 §5.1
        pytest.param(["Age: 20, 30"], 0.0, 20, id="first member"),
        pytest.param(["Age: 20", "Age: 30"], 0.0, 20, id="first line"),
        pytest.param(["Age: x"], 0.0, 0, id="invalid"),
        pytest.param(["Age: -1"], 0.0, 0, id="negative"),
        pytest.param(["Age: " + "9" * 5000], 0.0, MAX_DELTA, id="huge"),
    ],
)
def test_initial_age(lines: list[str], delay: float, age: int) -> None:
    response = stored(*lines, delay=delay, date=False)
    assert response.initial_age == response.age(NOW) == age
    assert response.age(NOW + 7.5) == age + 7
    assert response.age(NOW - 100) == age  # a clock that went back makes nothing younger


def test_what_is_kept() -> None:
    response = stored("Age: 3", "Connection: x-a", "X-A: 1", "Keep-Alive: x", 'ETag: W/"a"', "X-B: 2")
    assert response.headers.names == {"date", "etag", "x-b"}
    assert response.etag == 'W/"a"'
    assert response.date == NOW
    assert stored("ETag: unquoted").etag is None
    assert stored('ETag: "a"', 'ETag: "b"').etag is None


def test_from_its_parts() -> None:
    """What was kept on the disk makes the same response again."""
    one = stored("Age: 3", "Cache-Control: max-age=60", "Vary: Accept", request=["Accept: x"])
    again = StoredResponse(
        status=one.status, headers=one.headers, request_time=one.request_time, response_time=one.response_time,
        vary=one.vary, initial_age=one.initial_age,
    )  # fmt: skip
    assert again == one
    assert again.ttl(NOW + 10) == one.ttl(NOW + 10) == 47


def test_vary() -> None:
    assert stored("Vary: B, a", request=["A: 1"]).vary == (("a", "1"), ("b", None))
    assert stored("Vary: *").vary == NEVER
    assert stored().vary == ()


# -- freshening (RFC 9111 §4.3.4, §3.2) ---------------------------------------------------------------------------


def test_update() -> None:
    old = stored(
        'ETag: "a"',
        "Cache-Control: max-age=10",
        "Content-Length: 5",
        "Content-Type: text/plain",
        "X-Old: 1",
        "X-Two: 1",
    )
    later = NOW + 100
    new = old.updated_by(
        h(
            'ETag: "a"', f"Date: {http_date(99)}", "Cache-Control: max-age=20", "Content-Length: 0", "X-Two: 2",
            "X-Two: 3",
            "Content-Encoding: br", "Content-Range: bytes 0-0/1", "Set-Cookie: a=b", "Connection: x-hop", "X-Hop: 1",
            "Age: 7", "Content-Type: text/html",
        ),
        later - 2,
        later,
    )  # fmt: skip
    assert new.status == 200
    assert new.headers.get("content-length") == "5"
    assert new.headers.get("x-old") == "1"
    assert new.headers.get_all("x-two") == ("2", "3")
    # §3.2: "the Content-* prefix is not a signal that a header field is omitted from update"
    assert new.headers.get("content-type") == "text/html"
    assert not new.headers.names & {"content-encoding", "content-range", "set-cookie", "x-hop", "age"}
    assert (new.lifetime, new.initial_age, new.age(later + 1)) == (20, 9, 10)
    assert (new.request_time, new.response_time, new.date) == (later - 2, later, NOW + 99)


def test_update_without_date() -> None:
    """RFC 9110 §6.6.1: received now. By the old Date it would be as old as before."""
    new = stored("Cache-Control: max-age=10").updated_by(h(), NOW + 100, NOW + 100)
    assert new.headers.get("date") == http_date(100)
    assert new.ttl(NOW + 100) == 10


LM, LM2 = f"Last-Modified: {http_date(-100)}", f"Last-Modified: {http_date(-50)}"


@pytest.mark.parametrize(
    ("old", "new", "updated"),
    [
        pytest.param(['ETag: "a"'], ['ETag: "a"'], True, id="same tag"),
        pytest.param(['ETag: "a"'], ['ETag: "b"'], False, id="another tag"),
        pytest.param(['ETag: "a"'], [], True, id="304 without a tag"),
        pytest.param([LM], ['ETag: "a"'], False, id="tag that we don't have"),
        pytest.param(['ETag: W/"a"'], ['ETag: "a"'], True, id="weakened on the way"),
        pytest.param([LM], [LM], True, id="same date"),
        pytest.param([LM], [LM2], False, id="another date"),
        pytest.param(['ETag: "a"', LM], ['ETag: "a"', LM2], True, id="the tag counts"),
        pytest.param([], [], True, id="no validators"),
    ],
)
def test_which_response_a_304_is_about(old: list[str], new: list[str], updated: bool) -> None:
    """RFC 9111 §4.3.4: else it "MUST NOT use the new response to update"."""
    before = stored(*old, "X: 1")
    after = before.updated_by(h(*new, "X: 2"), NOW + 1, NOW + 1)
    assert (after.headers.get("x") == "2") is updated
    assert (after is before) is not updated
    assert after.etag == before.etag


@pytest.mark.parametrize(
    ("vary", "after"),
    [
        pytest.param([], (("x-a", "x"),), id="absent"),
        pytest.param(["Vary: X-A"], (("x-a", "x"),), id="same"),
        pytest.param(["Vary: X-A, Origin"], NEVER, id="more: the values were not kept"),
        pytest.param(["Vary: *"], NEVER, id="star"),
    ],
)
def test_vary_of_a_304(vary: list[str], after: object) -> None:
    before = stored("Vary: X-A", request=["X-A: x"])
    assert before.updated_by(h(*vary), NOW, NOW).vary == after


# -- properties ---------------------------------------------------------------------------------------------------

times = st.floats(NOW - 1e6, NOW + 1e6)


@given(odd_headers, odd_headers, odd_headers, st.integers(100, 599), times, times)
def test_any_response(
    headers: Headers, request: Headers, update: Headers, status: int, asked: float, received: float
) -> None:
    response = StoredResponse.of(status, headers, request, asked, received)
    again = response.updated_by(update, asked, received)
    for one in (response, again):
        assert 0 <= one.lifetime <= MAX_DELTA
        assert 0 <= one.initial_age <= MAX_DELTA
        assert "age" not in one.headers
    assert again.headers.get("content-length") == response.headers.get("content-length")


@given(odd_headers, times, times, times)
def test_age_only_grows(headers: Headers, received: float, one: float, other: float) -> None:
    response = StoredResponse.of(200, headers, Headers(), received, received)
    earlier, later = sorted((one, other))
    assert 0 <= response.age(earlier) <= response.age(later)
    assert response.ttl(earlier) >= response.ttl(later)
    assert response.ttl(later) == response.lifetime - response.age(later)


@given(odd_headers, times, st.floats(-1e6, 1e10))
def test_fresh_until_is_the_rule(headers: Headers, received: float, after: float) -> None:
    """RFC 9111 §4.2: "response_is_fresh = (freshness_lifetime > current_age)"."""
    response = StoredResponse.of(200, headers, Headers(), received, received)
    now = received + after
    assert (now < response.fresh_until) is (response.lifetime > response.age(now) and not response.always_validate)
