"""An agent asks for what another one has already fetched."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable

import pytest

from tests.support.agents import Wire
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import curl

FRESH = ("Cache-Control", "max-age=3600")
STALE = ("Cache-Control", "max-age=0")
ETAG = ("ETag", '"v1"')


def test_two_agents_one_origin_request_also_after_a_restart(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Two `curl -x` of one URL: the origin sees one, the second is a hit; after a restart it still is."""
    proxy = start_proxy()
    url = origin.serve("/wheel.whl", Reply(size=300_000))
    first = curl(proxy, url)
    second = curl(proxy, url)
    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body == content("/wheel.whl", 300_000)
    assert not first.hit
    assert second.hit, second
    assert int(second.header("Age") or "-1") >= 0
    proxy.restart()
    third = curl(proxy, url)
    assert third.hit, third
    assert third.body == first.body
    assert int(third.header("Age") or "-1") >= 0
    assert origin.count("/wheel.whl") == 1


def test_hits_and_misses_are_counted(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    url = origin.serve("/a", Reply(size=5000))
    for _ in range(4):
        assert proxy.get(url).ok
    metrics = proxy.settled()
    assert metrics.value("misses_total") == 1
    assert metrics.value("hits_total") == 3
    assert metrics.value("bytes_served_total") >= 4 * 5000
    assert metrics.value("cache_entries") == 1
    assert metrics.value("cache_size_bytes") >= 5000
    assert metrics.value("origin_fetches_total") == 1


def test_a_stale_entry_is_validated(proxy: Proxy, origin: Origin) -> None:
    """304 from the origin: the client gets the stored body, the origin sends none."""
    url = origin.serve("/index.json", Reply(headers=(STALE, ETAG), size=2000))
    first = proxy.get(url)
    proxy.wait_until_idle()
    second = proxy.get(url)
    assert second.ok
    assert second.body == first.body == content("/index.json", 2000)
    requests = origin.seen("/index.json")
    assert [request.header("If-None-Match") for request in requests] == [None, '"v1"']


def test_a_stale_entry_is_validated_by_its_date(proxy: Proxy, origin: Origin) -> None:
    modified = ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
    url = origin.serve("/Packages", Reply(headers=(STALE, modified), size=2000))
    first = proxy.get(url)
    proxy.wait_until_idle()
    second = proxy.get(url)
    assert second.ok
    assert second.body == first.body
    assert [request.header("If-Modified-Since") for request in origin.seen("/Packages")] == [None, modified[1]]


def test_a_validation_makes_the_entry_fresh_again(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve(
        "/index",
        Reply(headers=(STALE, ETAG, ("X-Version", "1"))),
        Reply(status=304, headers=(FRESH, ETAG, ("X-Version", "2"))),
        Reply(status=500),
    )
    proxy.get(url)
    proxy.wait_until_idle()
    assert proxy.get(url).ok
    third = proxy.get(url)
    assert third.ok
    assert third.hit
    assert third.body == content("/index", 1000)
    assert third.header("X-Version") == "2"
    assert origin.count("/index") == 2


def test_a_changed_resource_replaces_the_entry(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve(
        "/latest", Reply(headers=(STALE, ETAG), seed="old"), Reply(headers=(FRESH, ("ETag", '"v2"')), seed="new")
    )
    assert proxy.get(url).body == content("old", 1000)
    assert proxy.get(url).body == content("new", 1000)
    third = proxy.get(url)
    assert third.hit
    assert third.body == content("new", 1000)


def test_vary_keeps_variants_apart(proxy: Proxy, origin: Origin) -> None:
    """pip asks for JSON, an old pip for HTML: each gets its own, from one origin request each."""
    url = origin.serve("/simple/six/", Reply(headers=(FRESH, ("Vary", "Accept")), seed_by="Accept"))
    for _ in range(2):
        for accept in ("application/json", "text/html"):
            response = proxy.get(url, headers=[("Accept", accept)])
            assert response.ok
            assert response.body == content(f"/simple/six/|{accept}", 1000)
    assert origin.count("/simple/six/") == 2


def test_vary_star_is_never_a_hit(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/star", Reply(headers=(FRESH, ("Vary", "*"))))
    assert proxy.get(url).ok
    second = proxy.get(url)
    assert second.ok
    assert not second.hit
    assert origin.count("/star") == 2


@pytest.mark.parametrize("directive", ["no-store", "private", "private, max-age=3600", "no-store, max-age=3600"])
def test_what_may_not_be_shared_is_never_stored(
    start_proxy: Callable[..., Proxy], origin: Origin, directive: str
) -> None:
    proxy = start_proxy()
    url = origin.serve("/secret", Reply(headers=(("Cache-Control", directive),), size=100_000))
    for _ in range(2):
        response = proxy.get(url)
        assert response.ok
        assert not response.hit
        assert response.body == content("/secret", 100_000)
    assert origin.count("/secret") == 2
    proxy.wait_until_idle()
    assert proxy.value("cache_entries") == 0
    assert not proxy.body_files(content("/secret", 100_000))
    proxy.terminate()
    assert not proxy.body_files(content("/secret", 100_000))


def test_authenticated_answers_stay_with_their_user(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §3.5: what came for one user's Authorization is not for another."""
    url = origin.serve("/private.tgz", Reply(seed_by="Authorization"))
    for user in ("Basic YTph", "Basic Yjpi", "Basic YTph"):
        response = proxy.get(url, headers=[("Authorization", user)])
        assert response.ok
        assert not response.hit
        assert response.body == content(f"/private.tgz|{user}", 1000)
    anonymous = proxy.get(url)
    assert anonymous.body == content("/private.tgz|None", 1000)


def test_public_answers_to_authenticated_requests_are_shared(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/public.tgz", Reply(headers=(("Cache-Control", "public, max-age=3600"),)))
    assert proxy.get(url, headers=[("Authorization", "Basic YTph")]).ok
    second = proxy.get(url, headers=[("Authorization", "Basic Yjpi")])
    assert second.ok
    assert second.hit
    assert origin.count("/public.tgz") == 1


def test_the_key_is_the_request_target_never_the_host_header(proxy: Proxy, origin: Origin) -> None:
    """`GET http://a/` with `Host: b` goes to a, says Host a, and is nothing that anybody gets for b."""
    with Origin() as other:
        here = origin.serve("/pkg", Reply(seed="here"))
        there = other.serve("/pkg", Reply(seed="there"))
        first = proxy.get(here, host=other.netloc)
        assert first.ok
        assert first.body == content("here", 1000)
        assert [request.header_values("Host") for request in origin.seen("/pkg")] == [[origin.netloc]]
        second = proxy.get(there)
        assert second.body == content("there", 1000)
        assert not second.hit
        assert proxy.get(here).body == content("here", 1000)
        assert other.count("/pkg") == 1


def test_the_host_is_compared_without_case(proxy: Proxy, origin: Origin) -> None:
    origin.serve("/case")
    assert proxy.get(f"http://localhost:{origin.port}/case").ok
    assert proxy.get(f"http://LocalHost:{origin.port}/case").hit
    assert origin.count("/case") == 1


def test_the_target_arrives_as_it_was_sent(proxy: Proxy, origin: Origin) -> None:
    """Signed URLs break if anybody decodes, encodes or sorts anything."""
    target = "/a%2Fb/%7Euser/x+y%20z;v=1?b=2&a=%2F&a=1&empty=&sig=abc%3D%3d"
    url = origin.serve(target)
    assert proxy.get(url).ok
    assert origin.requests[-1].target == target
    assert proxy.get(url).hit
    assert not proxy.get(origin.url("/a%2Fb/~user/x+y%20z;v=1?a=1&a=%2F&b=2&empty=&sig=abc%3D%3D")).hit


def test_queries_are_part_of_the_key(proxy: Proxy, origin: Origin) -> None:
    for query in ("a=1", "a=2"):
        assert proxy.get(origin.url(f"/q?{query}")).body == content(f"/q?{query}", 1000)
    assert origin.count("/q?a=1") == origin.count("/q?a=2") == 1


def test_a_client_that_has_it_already_gets_304(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/crate", Reply(headers=(FRESH, ETAG)))
    proxy.get(url)
    same = proxy.get(url, headers=[("If-None-Match", '"v0", "v1"')])
    assert same.status == 304
    assert same.received == 0
    assert same.header("ETag") == '"v1"'
    other = proxy.get(url, headers=[("If-None-Match", '"v0"')])
    assert other.ok
    assert other.body == content("/crate", 1000)
    assert origin.count("/crate") == 1


def test_a_client_that_has_it_and_the_cache_not(proxy: Proxy, origin: Origin) -> None:
    """A conditional miss: the client gets an answer to its condition, the next one a whole body."""
    url = origin.serve("/crate2", Reply(headers=(FRESH, ETAG)))
    assert proxy.get(url, headers=[("If-None-Match", '"v1"')]).status == 304
    plain = proxy.get(url)
    assert plain.ok
    assert plain.body == content("/crate2", 1000)


def test_a_request_may_insist_on_the_origin(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/Release", Reply(headers=(FRESH, ETAG, ("Age", "10"))))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    assert proxy.get(url, headers=[("Cache-Control", "max-age=0")]).ok
    assert proxy.get(url, headers=[("Cache-Control", "no-cache")]).ok
    assert origin.count("/Release") == 3


def test_only_if_cached_never_asks_the_origin(proxy: Proxy, origin: Origin) -> None:
    """How a peer asks."""
    url = origin.serve("/peer")
    condition = [("Cache-Control", "only-if-cached")]
    assert proxy.get(url, headers=condition).status == 504
    assert origin.count("/peer") == 0
    proxy.get(url)
    proxy.wait_until_idle()
    assert proxy.get(url, headers=condition).hit
    assert origin.count("/peer") == 1


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_a_successful_unsafe_method_drops_the_entry(proxy: Proxy, origin: Origin, method: str) -> None:
    url = origin.serve("/thing")
    proxy.get(url)
    assert proxy.get(url).hit
    assert proxy.request(method, url, body=b"" if method == "DELETE" else b"new").ok
    after = proxy.get(url)
    assert after.ok
    assert not after.hit
    assert origin.count("/thing", "GET") == 2


def test_a_failed_unsafe_method_drops_nothing(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/thing", Reply(), Reply(status=403))
    proxy.get(url)
    assert proxy.request("PUT", url, body=b"new").status == 403
    assert proxy.get(url).hit


def test_head_is_answered_from_a_fresh_entry(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/parquet", Reply(size=4000, headers=(FRESH, ETAG)))
    proxy.get(url)
    proxy.wait_until_idle()
    head = proxy.request("HEAD", url)
    assert head.status == 200
    assert head.hit
    assert head.header("Content-Length") == "4000"
    assert head.received == 0
    assert origin.count("/parquet", "HEAD") == 0


def test_head_is_forwarded_otherwise(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/cold.parquet", Reply(size=4000))
    head = proxy.request("HEAD", url)
    assert head.status == 200
    assert head.header("Content-Length") == "4000"
    assert origin.count("/cold.parquet", "HEAD") == 1
    get = proxy.get(url)
    assert get.ok
    assert get.body == content("/cold.parquet", 4000)
    assert origin.count("/cold.parquet", "GET") == 1


HOP_REQUEST = [
    ("Connection", "keep-alive, X-Only-Here"),
    ("X-Only-Here", "1"),
    ("Proxy-Connection", "keep-alive"),
    ("Proxy-Authorization", "Basic c2VjcmV0"),
    ("Keep-Alive", "timeout=5"),
    ("TE", "trailers"),
    ("X-End-To-End", "yes"),
]
HOP_RESPONSE = (
    FRESH,
    ("Connection", "X-Origin-Only"),
    ("X-Origin-Only", "1"),
    ("Keep-Alive", "timeout=5"),
    ("X-End-To-End", "yes"),
)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_hop_by_hop_fields_end_here_and_via_is_added(proxy: Proxy, origin: Origin, method: str) -> None:
    url = origin.serve("/hop", Reply(headers=HOP_RESPONSE))
    response = proxy.request(method, url, headers=HOP_REQUEST, body=b"x" if method == "POST" else b"")
    assert response.status == 200
    request = origin.seen("/hop")[0]
    names = {name.lower() for name, _ in request.headers}
    assert not names & {"x-only-here", "proxy-connection", "proxy-authorization", "keep-alive", "te"}, names
    assert "x-only-here" not in (request.header("Connection") or "").lower()
    assert request.header("X-End-To-End") == "yes"
    assert request.header("Via")
    back = {name.lower() for name, _ in response.headers}
    assert not back & {"x-origin-only", "keep-alive"}, back
    assert response.header("X-End-To-End") == "yes"
    assert response.header("Via")
    if method == "GET":
        hit = proxy.get(url)
        assert hit.hit
        assert hit.header("Via")
        assert not {name.lower() for name, _ in hit.headers} & {"x-origin-only", "keep-alive"}


def test_header_fields_pass_unchanged(proxy: Proxy, origin: Origin) -> None:
    """Order and number of fields, their bytes, and an encoded body: nothing is touched on the way."""
    packed = gzip.compress(b"hello " * 1000, mtime=0)
    fields = (FRESH, ("Content-Encoding", "gzip"), ("X-A", "1"), ("X-B", "caf\xe9"), ("X-A", "2"), ("ETag", 'W/"x"'))
    url = origin.serve("/gz", Reply(headers=fields, body=packed))
    for _ in range(2):
        response = proxy.get(url, headers=[("Accept-Encoding", "gzip"), ("X-Tag", "a"), ("X-Tag", "b")])
        assert response.ok
        assert response.body == packed
        assert response.header("Content-Encoding") == "gzip"
        assert response.header_values("X-A") == ["1", "2"]
        assert response.header("X-B") == "caf\xe9"
        assert response.header("ETag") == 'W/"x"'
        assert response.header_values("Content-Length") == [str(len(packed))]
    request = origin.seen("/gz")[0]
    assert request.header_values("X-Tag") in (["a", "b"], ["a, b"])
    assert request.header("Accept-Encoding") == "gzip"
    assert request.header("User-Agent") is None


@pytest.mark.parametrize("status", [301, 302, 404, 410])
def test_other_statuses_pass_as_they_came(proxy: Proxy, origin: Origin, status: int) -> None:
    url = origin.serve("/gone", Reply(status=status, headers=(("Location", "/elsewhere"),)))
    response = proxy.get(url)
    assert response.status == status
    assert response.complete
    assert response.header("Location") == "/elsewhere"
    assert response.body == content("/gone", 1000)
    assert origin.count("/elsewhere") == 0


def test_a_get_with_a_body_bypasses_the_cache(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/search")
    for query in (b"one", b"two"):
        response = proxy.get(url, body=query)
        assert response.ok
        assert not response.hit
    assert [request.body for request in origin.seen("/search")] == [b"one", b"two"]


@pytest.mark.parametrize("warm", [True, False])
def test_ranges_have_the_right_bytes(proxy: Proxy, origin: Origin, warm: bool) -> None:
    """Resumed downloads: 206 with the bytes asked for, or the whole; never something else under either name."""
    url = origin.serve("/resume", Reply(size=100_000, headers=(FRESH, ETAG, ("Accept-Ranges", "bytes"))))
    whole = content("/resume", 100_000)
    if warm:
        assert proxy.get(url).ok
    part = proxy.get(url, headers=[("Range", "bytes=1000-1999")])
    assert part.complete
    assert part.status in (200, 206)
    if part.status == 206:
        assert part.header("Content-Range") == "bytes 1000-1999/100000"
        assert part.body == whole[1000:2000]
    else:
        assert part.body == whole
    after = proxy.get(url)
    assert after.ok
    assert after.body == whole


def test_one_connection_many_requests(proxy: Proxy, origin: Origin) -> None:
    """Hits, misses and other methods in turn on one keep-alive connection."""
    with Wire(proxy.address) as wire:
        for turn in range(3):
            for name in ("a", "b"):
                wire.send(f"GET {origin.url(f'/keep/{name}')} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
                response = wire.response()
                assert response.status == 200
                assert response.body == content(f"/keep/{name}", 1000)
                assert response.hit == (turn > 0)
            wire.send(f"POST {origin.url('/post')} HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: 2\r\n\r\nhi")
            assert wire.response().status == 200
    assert origin.count("/keep/a") == 1


def test_pipelined_requests_are_answered_in_order(proxy: Proxy, origin: Origin) -> None:
    names = ["x", "y", "x", "z", "y", "x"]
    requests = [f"GET {origin.url(f'/pipe/{name}')} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n" for name in names]
    with Wire(proxy.address) as wire:
        wire.send("".join(requests))
        for name in names:
            response = wire.response()
            assert response.status == 200
            assert response.body == content(f"/pipe/{name}", 1000)


def test_a_hit_of_a_large_body(proxy: Proxy, origin: Origin) -> None:
    size = 20 << 20
    url = origin.serve("/large", Reply(size=size))
    for turn in range(2):
        response = proxy.get(url, expect=size)
        assert response.ok
        assert response.hit == (turn == 1)
    assert origin.count("/large") == 1


def test_an_empty_body(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/empty", Reply(size=0))
    for turn in range(2):
        response = proxy.get(url)
        assert response.ok
        assert response.body == b""
        assert response.header("Content-Length") == "0"
        assert response.hit == (turn == 1)


def test_a_chunked_body_is_stored_whole(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/chunked", Reply(size=200_000, chunked=True))
    for _ in range(2):
        response = proxy.get(url)
        assert response.ok
        assert response.body == content("/chunked", 200_000)
    assert response.hit
    assert response.header("Content-Length") == "200000"
    assert origin.count("/chunked") == 1


def test_the_access_log_tells_what_happened_and_no_secrets(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """One line per request; what follows the question mark may be a token and stays out of the log."""
    proxy = start_proxy()
    url = origin.serve("/download/file.tgz?token=s3cr3t&sig=h1dden", Reply(size=1234))
    proxy.get(url)
    proxy.get(url)
    proxy.request("POST", origin.url("/upload?key=s3cr3t"), body=b"x")
    proxy.wait_for_log(r"POST .*/upload.* 200")
    lines = proxy.eventually(
        lambda: [line for line in proxy.log if "/download/file.tgz" in line], lambda lines: len(lines) == 2
    )
    assert "GET" in lines[0]
    assert "200" in lines[0]
    assert "1234" in lines[0]
    assert "miss" in lines[0].lower()
    assert "hit" in lines[1].lower()
    assert "s3cr3t" not in proxy.text()
    assert "h1dden" not in proxy.text()


@pytest.mark.parametrize("damage", ["truncate", "delete", "grow"])
def test_a_damaged_body_is_dropped_and_fetched_again(
    start_proxy: Callable[..., Proxy], origin: Origin, damage: str
) -> None:
    proxy = start_proxy()
    url = origin.serve("/broken", Reply(size=100_000))
    whole = content("/broken", 100_000)
    proxy.get(url)
    proxy.wait_until_idle()
    proxy.terminate()
    (file,) = proxy.body_files(whole)
    if damage == "truncate":
        os.truncate(file, 50_000)
    elif damage == "grow":
        with file.open("ab") as body:
            body.write(b"more")
    else:
        file.unlink()
    proxy.start()
    again = proxy.get(url)
    assert again.ok
    assert again.body == whole
    assert not again.hit
    assert origin.count("/broken") == 2
    last = proxy.get(url)
    assert last.hit
    assert last.body == whole


def test_a_body_damaged_while_in_use_is_never_passed_off_as_whole(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = start_proxy()
    url = origin.serve("/broken", Reply(size=400_000))
    whole = content("/broken", 400_000)
    proxy.get(url)
    proxy.get(url)
    proxy.wait_until_idle()
    (file,) = proxy.body_files(whole)
    os.truncate(file, 50_000)
    hurt = proxy.get(url)
    assert not hurt.complete or hurt.body == whole
    healed = proxy.get(url)
    assert healed.ok
    assert healed.body == whole


def test_a_change_while_it_is_being_fetched(proxy: Proxy, origin: Origin) -> None:
    """PUT succeeds while a GET is under way: what the GET brings is from before, and not kept (RFC 9111 §4.4)."""
    gate = Gate()
    url = origin.serve(
        "/race", Reply(size=50_000, seed="old", body_gate=gate, gate_at=10_000), Reply(), Reply(size=50_000, seed="new")
    )
    get = proxy.start_get(url)
    get.received(10_000)
    assert proxy.request("PUT", url, body=b"new").ok
    gate.open()
    assert get.result().body == content("old", 50_000)
    after = proxy.get(url)
    assert after.ok
    assert not after.hit
    assert after.body == content("new", 50_000)
