"""What answers say of themselves, what they invalidate, and who waits for whom: RFC 9111 in the company of others."""

from __future__ import annotations

from collections.abc import Callable

import http_sf
import pytest

from tests.support.agents import Response, Wire
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import nobody_listens

FRESH = ("Cache-Control", "max-age=3600")
STALE = (("Cache-Control", "max-age=60"), ("Age", "100"))
MEANWHILE = (("Cache-Control", "max-age=60, stale-while-revalidate=600"), ("Age", "100"))
ETAG = ("ETag", '"v1"')


def said(response: Response) -> dict[str, object]:
    """The last member of Cache-Status, read by a parser that is not ours."""
    members = http_sf.parse((response.header("Cache-Status") or "").encode(), tltype="list")
    name, parameters = members[-1]
    assert name == "proxy-cache"
    return {key: value if not isinstance(value, http_sf.Token) else str(value) for key, value in parameters.items()}


# -- Cache-Status (RFC 9211) and Proxy-Status (RFC 9209) -------------------------------------------------------------


def test_every_answer_says_where_it_is_from(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/a", Reply(headers=(FRESH, ETAG)))
    ttl = 3600
    miss = said(proxy.get(url))
    assert abs(int(str(miss.pop("ttl"))) - ttl) <= 100
    assert miss == {"fwd": "uri-miss", "fwd-status": 200, "stored": True}
    proxy.wait_until_idle()
    hit = said(proxy.get(url))
    assert abs(int(str(hit.pop("ttl"))) - ttl) <= 200
    assert hit == {"hit": True}
    forced = said(proxy.get(url, headers=[("Cache-Control", "no-cache")]))
    assert (forced["fwd"], forced["fwd-status"]) == ("request", 304)
    head = said(proxy.request("HEAD", url))
    assert head["hit"] is True
    conditional = said(proxy.get(url, headers=[("If-None-Match", '"v1"')]))
    assert conditional["hit"] is True


@pytest.mark.parametrize(
    ("method", "headers", "reply", "expected"),
    [
        ("POST", [], Reply(headers=()), {"fwd": "method", "fwd-status": 200}),
        ("OPTIONS", [], Reply(headers=()), {"fwd": "method", "fwd-status": 200}),
        ("HEAD", [], Reply(headers=()), {"fwd": "uri-miss", "fwd-status": 200}),
        ("GET", [("Upgrade", "x"), ("Connection", "upgrade")], Reply(headers=()), {"fwd": "bypass", "fwd-status": 200}),
        (
            "GET", [], Reply(headers=(("Cache-Control", "no-store"),)),
            {"fwd": "uri-miss", "fwd-status": 200, "detail": "no-store"},
        ),
        (
            "GET", [], Reply(headers=(("Cache-Control", "private"),)),
            {"fwd": "uri-miss", "fwd-status": 200, "detail": "private"},
        ),
        (
            "GET", [], Reply(headers=(FRESH, ("Vary", "*"))),
            {"fwd": "uri-miss", "fwd-status": 200, "detail": "vary-star"},
        ),
        ("GET", [], Reply(status=404, headers=()), {"fwd": "uri-miss", "fwd-status": 404, "detail": "no-freshness"}),
        (
            "GET", [("Authorization", "x")], Reply(headers=(FRESH,)),
            {"fwd": "uri-miss", "fwd-status": 200, "detail": "authorization"},
        ),
        ("GET", [("Cache-Control", "only-if-cached")], Reply(), {"fwd": "uri-miss", "detail": "only-if-cached"}),
        (
            "GET", [("Cache-Control", "no-store")], Reply(),
            {"fwd": "uri-miss", "fwd-status": 200, "detail": "request-no-store"},
        ),
    ],
)  # fmt: skip
def test_why_it_was_forwarded(
    proxy: Proxy, origin: Origin, method: str, headers: list[tuple[str, str]], reply: Reply, expected: dict[str, object]
) -> None:
    url = origin.serve("/x", reply)
    assert said(proxy.request(method, url, headers=headers)) == expected


def test_who_shared_a_fill_is_told(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/shared", Reply(headers=(FRESH,), gate=gate))
    first = proxy.start_get(url)
    origin.wait_for("/shared")
    others = [proxy.start_get(url) for _ in range(5)]
    proxy.wait_for_waiters(6)
    gate.open()
    assert "collapsed" not in said(first.result())
    for other in others:
        answer = said(other.result())
        assert (answer["collapsed"], answer["fwd"]) == (True, "uri-miss")
    assert origin.count("/shared") == 1


def test_the_status_of_another_cache_is_kept_before_ours(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/a", Reply(headers=(FRESH, ("Cache-Status", "far; hit; ttl=9"))))
    proxy.get(url)
    proxy.wait_until_idle()
    values = proxy.get(url).header_values("Cache-Status")
    assert values[0] == "far; hit; ttl=9"
    assert values[1].startswith("proxy-cache; hit")


def test_our_errors_say_what_went_wrong(proxy: Proxy, origin: Origin) -> None:
    """Proxy-Status on whatever is of our making, also where mitmproxy itself would answer."""
    for method, body in (("GET", b""), ("POST", b"x"), ("HEAD", b""), ("PUT", b"x" * 100_000)):
        with nobody_listens() as nobody:
            response = proxy.request(method, f"http://{nobody}/gone", body=body)
        assert response.status == 502, (method, response)
        (name, parameters), *_ = http_sf.parse((response.header("Proxy-Status") or "").encode(), tltype="list")
        assert name == "proxy-cache"
        assert parameters["error"] == "connection_refused", (method, parameters)
        assert response.header("Cache-Status")
        assert response.header("Via")
    url = origin.serve("/cut", Reply(fail="close"))
    response = proxy.request("POST", url, body=b"x")
    assert response.status == 502
    assert "connection_terminated" in (response.header("Proxy-Status") or "")


def test_a_connection_goes_on_after_an_error(proxy: Proxy, origin: Origin) -> None:
    """Our 502 for a forwarded request has a length: the next request on the connection is answered."""
    url = origin.serve("/a")
    with nobody_listens() as nobody, Wire(proxy.address) as wire:
        wire.send(f"DELETE http://{nobody}/gone HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.response().status == 502
        wire.send(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.response().status == 200


# -- interim responses (RFC 9110 §15.2) ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_interim_responses_reach_those_who_wait(proxy: Proxy, origin: Origin, version: str) -> None:
    gate = Gate()
    early = ((103, (("Link", "</style.css>"),)), (102, ()))
    url = origin.serve("/early", Reply(headers=(FRESH,), interim=early, gate=gate))
    with Wire(proxy.address) as first, Wire(proxy.address) as second:
        for wire in (first, second):
            wire.send(f"GET {url} HTTP/{version}\r\nHost: x\r\n\r\n")
        origin.wait_for("/early")
        proxy.wait_for_waiters(2)
        gate.open()
        for wire in (first, second):
            if version == "1.1":
                status, headers = wire.head()
                assert (status, headers) == (103, [("Link", "</style.css>")])
                assert wire.head()[0] == 102
            response = wire.response()
            assert response.status == 200
            assert response.header("Link") is None
    again = proxy.get(url)
    assert again.hit
    assert again.header("Link") is None


def test_an_upload_that_waits_for_100_gets_it(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/up", Reply(headers=()))
    with Wire(proxy.address) as wire:
        wire.send(f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert wire.head()[0] == 100
        wire.send("abc")
        assert wire.response().status == 200
    assert origin.seen("/up")[0].body == b"abc"


# -- invalidation (RFC 9111 §4.4) ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
@pytest.mark.parametrize("status", [200, 201, 204, 303])
def test_what_an_unsafe_method_names_is_out_of_date(proxy: Proxy, origin: Origin, field: str, status: int) -> None:
    for value in ("/list?page=1", origin.url("/list?page=1"), "list?page=1"):
        url = origin.serve("/list?page=1")
        proxy.get(url)
        proxy.wait_until_idle()
        assert proxy.get(url).hit
        post = origin.serve("/post", Reply(status=status, headers=((field, value),)))
        assert proxy.request("POST", post, body=b"x").status == status
        assert not proxy.get(url).hit, value


def test_nobody_invalidates_for_others(proxy: Proxy, origin: Origin) -> None:
    """ "A cache MUST NOT trigger an invalidation […] if the origin […] differs"."""
    url = origin.serve("/mine")
    proxy.get(url)
    proxy.wait_until_idle()
    with Origin() as other:
        other.serve("/attack", Reply(headers=(("Location", url), ("Content-Location", url.replace("http", "https")))))
        assert proxy.request("POST", other.url("/attack"), body=b"x").ok
    assert proxy.get(url).hit


@pytest.mark.parametrize(("status", "kept"), [(200, False), (302, False), (400, True), (404, True), (500, True)])
def test_only_answers_without_error_invalidate(proxy: Proxy, origin: Origin, status: int, kept: bool) -> None:
    """Any method that is not known to be safe, every variant of the URL."""
    url = origin.serve("/v", Reply(headers=(FRESH, ("Vary", "X-V"))))
    for value in ("1", "2"):
        proxy.get(url, headers=[("X-V", value)])
    proxy.wait_until_idle()
    origin.serve("/v", Reply(status=status, headers=(FRESH, ("Vary", "X-V"))))
    assert proxy.request("M-SEARCH", url, body=b"x").status == status
    for value in ("1", "2"):
        assert proxy.get(url, headers=[("X-V", value)]).hit is kept


def test_safe_methods_change_nothing(proxy: Proxy, origin: Origin) -> None:
    """Those that are registered as such, with a body or without. What nobody knows may change something."""
    url = origin.serve("/dav", Reply())
    proxy.get(url)
    proxy.wait_until_idle()
    origin.serve("/dav", Reply(status=207, headers=(("Location", url), ("Content-Location", url))))
    for method, body in (
        ("PROPFIND", b""),
        ("PROPFIND", b"<a/>"),
        ("REPORT", b"<a/>"),
        ("SEARCH", b"x"),
        ("QUERY", b"x"),
    ):
        assert proxy.request(method, url, body=body, headers=[("Depth", "0")]).status == 207
        assert proxy.get(url).hit, method
    for method in ("PROPPATCH", "MKCOL", "LOCK", "QUERIES"):
        origin.serve("/dav", Reply())
        proxy.get(url)
        proxy.wait_until_idle()
        assert proxy.get(url).hit
        assert proxy.request(method, url, body=b"x").ok
        assert not proxy.get(url).hit, method


# -- one validation for many -----------------------------------------------------------------------------------------


def test_one_validation_for_all_who_wait(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve(
        "/index", Reply(headers=(*STALE, ETAG)), Reply(status=304, headers=(FRESH, ETAG), gate=gate), Reply(status=500)
    )
    proxy.get(url)
    proxy.wait_until_idle()
    fetches = [proxy.start_get(url) for _ in range(30)]
    origin.wait_for("/index", 2)
    proxy.wait_for_waiters(30)
    gate.open()
    for fetch in fetches:
        response = fetch.result()
        assert response.ok
        assert response.body == content("/index", 1000)
        assert (said(response)["fwd"], said(response)["fwd-status"]) == ("stale", 304)
    assert origin.count("/index") == 2
    assert proxy.get(url).hit


def test_what_was_validated_is_gone_when_the_answer_comes(proxy: Proxy, origin: Origin) -> None:
    """A 304 for an entry that another request has thrown out meanwhile: it is fetched, in the same slot."""
    gate = Gate()
    url = origin.serve(
        "/index", Reply(headers=(*STALE, ETAG)), Reply(status=304, headers=(FRESH, ETAG), gate=gate),
        Reply(headers=(), size=0), Reply(headers=(FRESH,), seed="new"),
    )  # fmt: skip
    proxy.get(url)
    proxy.wait_until_idle()
    fetch = proxy.start_get(url)
    origin.wait_for("/index", 2)
    assert proxy.request("PUT", url, body=b"new").ok
    gate.open()
    response = fetch.result()
    assert response.status == 200
    assert response.body == content("new", 1000)
    assert origin.count("/index") == 4


def test_a_variant_that_was_confirmed_lives_on_without_the_other(proxy: Proxy, origin: Origin) -> None:
    """Two entries with one body: when one goes, the other stays readable, also after a restart."""
    vary = ("Vary", "X-V")
    url = origin.serve(
        "/two", Reply(headers=(FRESH, vary, ETAG), seed="a", size=5000), Reply(status=304, headers=(FRESH, vary, ETAG)),
        Reply(headers=(("Cache-Control", "no-store"), vary), seed="other"),
    )  # fmt: skip
    proxy.get(url, headers=[("X-V", "1")])
    proxy.wait_until_idle()
    assert proxy.get(url, headers=[("X-V", "2")]).body == content("a", 5000)
    # The first is fetched anew, and may not be stored: its entry is of no more use.
    assert proxy.get(url, headers=[("X-V", "1"), ("Cache-Control", "no-cache")]).body == content("other", 1000)
    proxy.restart()
    again = proxy.get(url, headers=[("X-V", "2")])
    assert again.hit
    assert again.body == content("a", 5000)


def test_the_variants_of_a_key_are_bounded(proxy: Proxy, origin: Origin) -> None:
    """An agent that sends something new each time fills no index; the variants in use stay."""
    url = origin.serve("/many", Reply(headers=(FRESH, ("Vary", "X-V")), seed_by="X-V"))
    before = proxy.settled().value("cache_entries")
    for number in range(60):
        assert proxy.get(url, headers=[("X-V", str(number))]).body == content(f"/many|{number}", 1000)
        if number:
            assert proxy.get(url, headers=[("X-V", "0")]).hit
    proxy.wait_until_idle()
    assert proxy.value("cache_entries") - before == 32


# -- stale (RFC 5861) ------------------------------------------------------------------------------------------------


def test_stale_while_it_is_validated(proxy: Proxy, origin: Origin) -> None:
    """Everybody gets the stale response at once; the origin is asked once, in the background."""
    gate = Gate()
    url = origin.serve(
        "/swr", Reply(headers=(*MEANWHILE, ETAG)), Reply(headers=(FRESH, ("ETag", '"v2"')), seed="new", gate=gate)
    )
    proxy.get(url)
    proxy.wait_until_idle()
    for _ in range(10):
        response = proxy.get(url)
        assert response.body == content("/swr", 1000)
        assert (said(response)["hit"], said(response)["detail"]) == (True, "stale-while-revalidate")
        assert int(str(said(response)["ttl"])) < 0
    origin.wait_for("/swr", 2)
    gate.open()
    proxy.wait_until_idle()
    after = proxy.get(url)
    assert after.hit
    assert after.body == content("new", 1000)
    assert origin.count("/swr") == 2


def test_background_validation_takes_a_slot_and_no_place_of_others(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    """The queue is full: the stale response is served, and the origin is left alone."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_max=1, origin_queue_timeout=60)
    url = origin.serve("/swr", Reply(headers=(*MEANWHILE, ETAG)))
    proxy.get(url)
    proxy.wait_until_idle()
    gate = Gate()
    busy = [proxy.start_get(origin.serve(f"/busy/{number}", Reply(gate=gate))) for number in range(2)]
    proxy.wait_for_metric("origin_fetches_queued", 1)
    assert said(proxy.get(url))["detail"] == "stale-while-revalidate"
    assert origin.count("/swr") == 1
    gate.open()
    for fetch in busy:
        assert fetch.result().ok
    proxy.wait_until_idle()
    assert said(proxy.get(url))["detail"] == "stale-while-revalidate"
    origin.wait_for("/swr", 2)
    assert origin.peak == 1


def test_stale_if_error_keeps_nobody_waiting(proxy: Proxy, origin: Origin) -> None:
    """A stale response may stand in: the origin is asked once, not four times."""
    headers = (("Cache-Control", "max-age=60, stale-if-error=600"), ("Age", "100"), ETAG)
    url = origin.serve("/sie", Reply(headers=headers), Reply(status=503, headers=()))
    proxy.get(url)
    proxy.wait_until_idle()
    response = proxy.get(url)
    assert response.body == content("/sie", 1000)
    assert (said(response)["fwd"], said(response)["fwd-status"]) == ("stale", 503)
    assert origin.count("/sie") == 2


def test_age_counts_the_time_on_the_way_and_in_the_cache(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/aged", Reply(headers=(FRESH, ("Age", "100"))))
    assert int(proxy.get(url).header("Age") or 0) >= 100
    proxy.wait_until_idle()
    ages = [int(proxy.get(url).header("Age") or 0) for _ in range(5)]
    assert ages == sorted(ages)
    assert 100 <= ages[0] <= 300
