"""A bucket behind several proxies: what one has fetched, the others needn't ask the origin for."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.buckets import BUCKET, Bucket
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import SCRIPT, START_TIMEOUT, Proxy

pytest.importorskip("moto.server")
pytest.importorskip("obstore")

FOR_EVER = ("Cache-Control", "public, max-age=31536000, immutable")
ETAG = ("ETag", '"v1"')
LONG = 3_000_000
START_AS_USUAL = """
import runpy

addons = runpy.run_path(sys.argv[0])["addons"]
"""

Start = Callable[..., Proxy]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with Bucket() as running:
        yield running


@pytest.fixture
def start(tmp_path: Path, bucket: Bucket) -> Iterator[Start]:
    """Proxies with caches of their own, and the bucket for all."""
    running: list[Proxy] = []

    def begin(**options: Any) -> Proxy:
        folder = tmp_path / f"proxy{len(running)}"
        folder.mkdir()
        options = {"cache_shared": f"s3://{BUCKET}/a/prefix", "environment": bucket.environment, **options}
        proxy = Proxy(folder, **options).start()
        running.append(proxy)
        return proxy

    yield begin
    for proxy in running:
        proxy.close()
    for proxy in running:
        proxy.check_log()


def written(proxy: Proxy, count: int = 1) -> None:
    proxy.wait_for_metric("shared_writes_total", count, outcome="stored")


def test_what_one_proxy_has_fetched_the_next_has_from_the_bucket(start: Start, origin: Origin, bucket: Bucket) -> None:
    sizes = {"/empty": 0, "/small": 3000, "/block": 262_144, "/long": LONG, "/parts": 20_000_000}
    urls = {path: origin.serve(path, Reply(size=size, headers=(FOR_EVER, ETAG))) for path, size in sizes.items()}
    one = start()
    for path, url in urls.items():
        assert one.get(url).body == content(path, sizes[path])
    written(one, len(sizes))
    bucket.requests.clear()
    two = start()
    for path, url in urls.items():
        answer = two.get(url)
        assert (answer.status, answer.body) == (200, content(path, sizes[path])), path
        assert int(answer.header("Age") or "-1") >= 0
        assert answer.header("Cache-Control") == FOR_EVER[1]
        assert origin.count(path) == 1, path
    assert bucket.asked("GET") == len(sizes)
    assert bucket.requests[-1][0] == "GET", "nothing is written that came from there"
    two.wait_until_idle()
    assert two.get(urls["/long"]).hit
    assert two.value("shared_fetches_total", outcome="hit") == len(sizes)
    assert two.value("shared_bytes_total", direction="read") == sum(sizes.values())
    assert two.value("fetched_bytes_total", source="shared") == sum(sizes.values())
    assert two.value("origin_fetches_total", outcome="stored") == 0
    assert two.status()["shared"]["reading"] == "ok"
    assert all(name.startswith("a/prefix/v1/") for name in bucket.names())


def test_a_fresh_object_takes_no_slot(start: Start, origin: Origin) -> None:
    url = origin.serve("/x", Reply(headers=(FOR_EVER,)))
    one = start()
    one.get(url)
    written(one)
    two = start(origin_max_in_flight=1, origin_queue_max=0)
    gate = Gate()
    busy = two.start_get(origin.serve("/busy", Reply(gate=gate)))
    two.wait_for_metric("origin_fetches_in_flight", 1)
    try:
        assert two.get(url).status == 200
    finally:
        gate.open()
    assert busy.result().ok


def test_a_stale_object_is_validated_and_its_body_comes_from_the_bucket(start: Start, origin: Origin) -> None:
    headers = (("Cache-Control", "max-age=0"), ETAG)
    urls = [origin.serve(path, Reply(size=size, headers=headers)) for path, size in (("/s", 2000), ("/l", LONG))]
    one = start(cache_shared_write="all")
    for url in urls:
        one.get(url)
    written(one, 2)
    two = start(cache_shared_write="all", origin_max_in_flight=1)
    for url, path, size in zip(urls, ("/s", "/l"), (2000, LONG), strict=True):
        assert two.get(url).body == content(path, size)
        asked = origin.seen(path)
        assert len(asked) == 2
        assert asked[1].header("If-None-Match") == '"v1"'
    two.wait_until_idle()
    assert two.value("shared_fetches_total", outcome="validated") == 2
    assert two.value("origin_fetches_in_flight") == 0


def test_an_origin_that_is_down_leaves_the_stale_object(start: Start, origin: Origin) -> None:
    reply = Reply(headers=(("Cache-Control", "max-age=0, stale-if-error=600"), ETAG))
    urls = [origin.serve(path, reply) for path in ("/x", "/y")]
    one = start(cache_shared_write="all")
    for url in urls:
        one.get(url)
    written(one, 2)
    two = start(origin_retries=0, origin_max_in_flight=1)
    origin.serve("/x", Reply(fail="reset"))
    origin.serve("/y", Reply(status=500))
    for url, path in zip(urls, ("/x", "/y"), strict=True):
        assert two.get(url).body == content(path, 1000)
    two.wait_until_idle()
    assert two.value("shared_fetches_total", outcome="stale_used") == 2
    assert two.value("origin_fetches_in_flight") == 0


def test_another_version_at_the_origin_replaces_the_one_in_the_bucket(
    start: Start, origin: Origin, bucket: Bucket
) -> None:
    url = origin.serve("/x", Reply(headers=(("Cache-Control", "max-age=0"), ETAG)))
    one = start(cache_shared_write="all")
    one.get(url)
    written(one)
    origin.serve("/x", Reply(seed="new", headers=(("Cache-Control", "max-age=600"), ("ETag", '"v2"'))))
    two = start(cache_shared_write="all")
    assert two.get(url).body == content("new", 1000)
    two.wait_for_metric("shared_writes_total", 1, outcome="stored")
    assert start().get(url).body == content("new", 1000)
    assert origin.count("/x") == 2


def test_ranges_come_from_the_bucket_without_the_whole(start: Start, origin: Origin, bucket: Bucket) -> None:
    size = 12_000_000
    url = origin.serve("/x", Reply(size=size, headers=(FOR_EVER, ETAG)))
    one = start()
    one.get(url)
    written(one)
    bucket.requests.clear()
    two = start()
    for first, last in ((0, 99), (5_000_000, 5_300_000), (size - 10, size - 1)):
        answer = two.get(url, headers=[("Range", f"bytes={first}-{last}")])
        assert answer.status == 206
        assert answer.body == content("/x", size)[first : last + 1]
        assert answer.header("Content-Range") == f"bytes {first}-{last}/{size}"
    assert origin.count("/x") == 1
    assert bucket.asked("GET") == 4, "the head once, and each range"
    assert all(one[2] for one in bucket.requests)
    two.wait_until_idle()
    assert two.get(url).body == content("/x", size)
    assert origin.count("/x") == 1


def test_variants(start: Start, origin: Origin, bucket: Bucket) -> None:
    reply = Reply(headers=(FOR_EVER, ("Vary", "Accept")), seed_by="Accept")
    url = origin.serve("/x", reply)
    one = start()
    for kind in ("text/html", "application/json"):
        one.get(url, headers=[("Accept", kind)])
    written(one, 2)
    two = start()
    for kind in ("application/json", "text/html"):
        assert two.get(url, headers=[("Accept", kind)]).body == content(f"/x|{kind}", 1000)
    assert origin.count("/x") == 2
    assert two.get(url, headers=[("Accept", "text/plain")]).body == content("/x|text/plain", 1000)
    assert origin.count("/x") == 3
    written(two)
    assert len(bucket.names()) == 3


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ((("Cache-Control", "no-store"),), ()),
        ((("Cache-Control", "private, max-age=31536000, immutable"),), ()),
        ((FOR_EVER, ("Set-Cookie", "a=b")), ()),
        ((FOR_EVER,), (("Authorization", "Basic eDp5"),)),
        ((FOR_EVER,), (("Cookie", "a=b"),)),
        ((FOR_EVER, ("Vary", "Cookie")), ()),
        ((FOR_EVER,), (("Cache-Control", "no-store"),)),
        ((("Cache-Control", "max-age=600"),), ()),
    ],
)
def test_what_may_be_somebodys_own_or_change_is_not_written(
    start: Start, origin: Origin, bucket: Bucket, fields: tuple[Any, ...], asks: tuple[Any, ...]
) -> None:
    one = start()
    url, other = origin.serve("/x", Reply(headers=fields)), origin.serve("/y", Reply(headers=(FOR_EVER,)))
    one.get(url, headers=list(asks))
    one.get(other)
    written(one)
    one.wait_for_metric("shared_queued", 0)
    assert len(bucket.names()) == 1


def test_a_request_with_credentials_or_that_insists_goes_to_the_origin(
    start: Start, origin: Origin, bucket: Bucket
) -> None:
    url = origin.serve("/x", Reply(headers=(FOR_EVER, ETAG)))
    one = start()
    one.get(url)
    written(one)
    bucket.requests.clear()
    two = start()
    assert two.get(url, headers=[("Authorization", "Basic eDp5")]).ok
    assert origin.count("/x") == 2
    assert not bucket.requests
    three = start()
    assert three.get(url, headers=[("Cache-Control", "no-cache")]).body == content("/x", 1000)
    assert origin.count("/x") == 3
    assert origin.seen("/x")[-1].header("If-None-Match") == '"v1"'


def test_a_rule_that_opens_what_one_has_logged_in_for_does_so_for_those_who_have_it(
    start: Start, origin: Origin, bucket: Bucket
) -> None:
    """What a proxy with ``cache_ignore_authorization`` writes is found by those with the same rule alone."""
    url = origin.serve("/x", Reply(headers=(FOR_EVER,)))
    rule = {"cache_ignore_authorization": "~u /x"}
    one = start(**rule)
    one.get(url, headers=[("Authorization", "Basic eDp5")])
    written(one)
    assert start(**rule).get(url).ok
    assert origin.count("/x") == 1
    assert start().get(url).ok
    assert origin.count("/x") == 2


@pytest.mark.parametrize("size", [2000, LONG])
def test_a_changed_byte_is_caught_and_reaches_nobody(start: Start, origin: Origin, bucket: Bucket, size: int) -> None:
    """Of a long body what is good goes out, and the rest comes from the origin."""
    url = origin.serve("/x", Reply(size=size, headers=(FOR_EVER, ETAG, ("Accept-Ranges", "bytes"))))
    one = start()
    one.get(url)
    written(one)
    (name,) = bucket.names()
    bucket.flip(name, -1)
    two = start()
    answer = two.get(url)
    assert answer.ok, answer
    assert answer.body == content("/x", size)
    asked = origin.seen("/x")
    assert len(asked) == 2
    assert asked[1].header("Range") == (None if size < 10_000 else f"bytes={size - size % 262_144}-{size - 1}")
    two.wait_for_metric("shared_fetches_total", 1, outcome="corrupt")
    two.wait_for_metric("shared_writes_total", lambda value: value >= 1, outcome="deleted")
    two.wait_until_idle()
    assert two.get(url).body == content("/x", size)
    assert origin.count("/x") == 2


@pytest.mark.parametrize("now", ["/x", "/y"])
def test_what_the_origin_cannot_continue_is_asked_for_whole_and_has_to_begin_alike(
    start: Start, origin: Origin, bucket: Bucket, now: str
) -> None:
    """After a changed byte. Else the response breaks off."""
    url = origin.serve("/x", Reply(size=LONG, headers=(FOR_EVER,)))
    one = start()
    one.get(url)
    written(one)
    (name,) = bucket.names()
    bucket.flip(name, -1)
    origin.serve("/x", Reply(size=LONG, headers=(FOR_EVER,), seed=now))
    two = start()
    answer = two.get(url)
    assert answer.complete == (now == "/x")
    assert content("/x", LONG).startswith(answer.body)
    two.wait_until_idle()
    assert two.get(url).body == content(now, LONG)


def test_a_changed_head_is_caught(start: Start, origin: Origin, bucket: Bucket) -> None:
    url = origin.serve("/x", Reply(headers=(FOR_EVER,)))
    one = start()
    one.get(url)
    written(one)
    (name,) = bucket.names()
    bucket.flip(name, 300)
    assert start().get(url).body == content("/x", 1000)
    assert origin.count("/x") == 2


def test_an_object_of_another_key_is_not_served(start: Start, origin: Origin, bucket: Bucket) -> None:
    urls = [origin.serve(path, Reply(headers=(FOR_EVER,))) for path in ("/x", "/y")]
    one = start()
    one.get(urls[0])
    written(one)
    (name,) = bucket.names()
    one.get(urls[1])
    written(one, 2)
    (other,) = set(bucket.names()) - {name}
    bucket.write(other, bucket.read(name))
    assert start().get(urls[1]).body == content("/y", 1000)
    assert origin.count("/y") == 2


def test_without_the_bucket_requests_go_on_from_the_origin(start: Start, origin: Origin, bucket: Bucket) -> None:
    urls = [origin.serve(f"/{number}", Reply(headers=(FOR_EVER,))) for number in range(6)]
    one, two = start(), start()
    for url in urls[:3]:
        one.get(url)
    written(one, 3)
    assert two.get(urls[0]).ok
    bucket.stop()
    for url in urls[1:]:
        assert two.get(url, timeout=10).ok
    assert [origin.count(f"/{number}") for number in range(6)] == [1, 2, 2, 1, 1, 1]
    assert two.text().count("fails, and is left alone") <= 2, "one line each for reading and writing"
    assert two.status()["shared"]["reading"].startswith("left alone")
    assert two.value("shared_up") == 0
    bucket.start()
    # What isn't in the bucket is answered by it, too: it works again.
    fresh = iter(range(1000))

    def works() -> float:
        two.get(origin.serve(f"/again{next(fresh)}", Reply()))
        return two.value("shared_up")

    two.eventually(works)
    assert two.text().count("works again") >= 1


def test_a_silent_bucket_costs_a_request_no_more_than_the_deadline(
    start: Start, origin: Origin, bucket: Bucket
) -> None:
    two = start()
    bucket.talks.clear()
    answer = two.get(origin.serve("/x", Reply(headers=(FOR_EVER,))), timeout=20)
    assert answer.ok
    assert two.value("shared_fetches_total", outcome="timeout") == 1
    before = len(bucket.requests)
    assert two.get(origin.serve("/y", Reply())).ok
    assert len(bucket.requests) == before or two.value("shared_fetches_total", outcome="timeout") > 1
    bucket.talks.set()


def test_a_bucket_that_falls_silent_in_a_body_is_left_and_the_origin_has_the_rest(
    start: Start, origin: Origin, bucket: Bucket
) -> None:
    url = origin.serve("/x", Reply(size=LONG, headers=(FOR_EVER, ETAG, ("Accept-Ranges", "bytes"))))
    one = start()
    one.get(url)
    written(one)
    bucket.silent_at = 1_000_000
    two = start()
    answer = two.get(url)
    assert answer.ok
    assert answer.body == content("/x", LONG)
    assert [request.header("Range") for request in origin.seen("/x")] == [None, f"bytes=786432-{LONG - 1}"]


def test_who_insists_does_not_share_what_came_from_the_bucket(start: Start, origin: Origin, bucket: Bucket) -> None:
    """It joins a fill that asks the bucket, whose answer may be old."""
    url = origin.serve("/x", Reply(headers=(FOR_EVER, ETAG)))
    one = start()
    one.get(url)
    written(one)
    origin.serve("/x", Reply(seed="new", headers=(FOR_EVER, ("ETag", '"v2"'))))
    two = start()
    bucket.talks.clear()
    content_with_it = two.start_get(url)
    two.wait_for_waiters(1)
    insists = two.start_get(url, headers=[("Cache-Control", "no-cache")])
    two.wait_for_waiters(2)
    bucket.talks.set()
    assert insists.result().body == content("new", 1000)
    assert content_with_it.result().ok


def test_local_caches_deleted_the_bucket_has_it_all(start: Start, origin: Origin) -> None:
    urls = [origin.serve(f"/{number}", Reply(headers=(FOR_EVER,), size=20_000)) for number in range(40)]
    one = start()
    for url in urls:
        one.get(url)
    written(one, len(urls))
    one.close()
    two = start()
    for number, fetch in enumerate([two.start_get(url) for url in urls]):
        assert fetch.result().body == content(f"/{number}", 20_000)
    assert all(origin.count(f"/{number}") == 1 for number in range(40))


def test_nothing_is_written_twice(start: Start, origin: Origin, bucket: Bucket) -> None:
    """Two proxies miss at the same time, and each has it from the origin: the second finds that it is there."""
    gate = Gate()
    sizes = {"/short": 1000, "/long": 20_000_000}
    urls = [origin.serve(path, Reply(headers=(FOR_EVER, ETAG), size=size, gate=gate)) for path, size in sizes.items()]
    one, two = start(), start()
    fetches = [proxy.start_get(url) for proxy in (one, two) for url in urls]
    for path in sizes:
        origin.wait_for(path, 2)
    bucket.talks.clear()
    gate.open()
    assert all(fetch.result().ok for fetch in fetches)
    bucket.talks.set()
    for proxy in (one, two):
        proxy.eventually(
            lambda proxy=proxy: sum(
                proxy.value("shared_writes_total", outcome=outcome) for outcome in ("stored", "exists", "replaced")
            ),
            lambda count: count == 2,
        )
    assert one.value("shared_writes_total", outcome="replaced") == two.value("shared_writes_total", outcome="replaced")
    assert len(bucket.names()) == 2
    kept = {name: bucket.tag(name) for name in bucket.names()}
    three = start()
    for url in urls:
        assert three.get(url, headers=[("Cache-Control", "no-cache"), ("If-None-Match", '"other"')]).ok
    three.eventually(lambda: three.value("shared_writes_total", outcome="exists"), lambda count: count == 2)
    assert {name: bucket.tag(name) for name in bucket.names()} == kept


def test_a_store_that_knows_no_conditions_is_written_all_the_same(start: Start, origin: Origin, bucket: Bucket) -> None:
    bucket.refuses_conditions = True
    one = start()
    urls = [origin.serve(f"/{number}", Reply(headers=(FOR_EVER,))) for number in range(3)]
    for url in urls:
        one.get(url)
    written(one, 3)
    two = start()
    for url in urls:
        two.get(url)
    assert [origin.count(f"/{number}") for number in range(3)] == [1, 1, 1]


def test_an_unsafe_method_deletes_what_is_in_the_bucket(start: Start, origin: Origin, bucket: Bucket) -> None:
    url = origin.serve("/x", Reply(headers=(FOR_EVER,)))
    one = start()
    one.get(url)
    written(one)
    assert one.request("POST", url, body=b"new").ok
    one.eventually(bucket.names, lambda names: not names)
    assert one.get(url).ok
    assert origin.count("/x", "GET") == 2


def test_what_is_queued_is_written_before_the_end(start: Start, origin: Origin, bucket: Bucket) -> None:
    one = start(shutdown_grace=30)
    urls = [origin.serve(f"/{number}", Reply(headers=(FOR_EVER,))) for number in range(20)]
    for fetch in [one.start_get(url) for url in urls]:
        assert fetch.result().ok
    one.signal(signal.SIGTERM)
    assert one.wait() == 0
    assert len(bucket.names()) == 20


def test_a_silent_bucket_does_not_hold_up_the_end(start: Start, origin: Origin, bucket: Bucket) -> None:
    one = start(shutdown_grace=1)
    urls = [origin.serve(f"/{number}", Reply(headers=(FOR_EVER,))) for number in range(3)]
    assert one.get(urls[0]).ok
    written(one)
    bucket.status = "404 Not Found"
    bucket.talks.clear()
    fetches = [one.start_get(url) for url in urls[1:]]
    for fetch in fetches:
        assert fetch.result(20).ok
    one.signal(signal.SIGTERM)
    assert one.wait(20) == 0


def refused(folder: Path, url: str, **options: Any) -> str:
    """The one line of a start that fails."""
    proxy = Proxy(folder, cache_shared=url, **options)
    proxy.launch()
    try:
        assert proxy.wait(START_TIMEOUT)
    finally:
        proxy.close()
    proxy.check_log()
    (line,) = [line for line in proxy.log if "cache_shared" in line]
    return line


def test_a_store_that_cannot_be_opened_is_one_line_at_the_start(tmp_path: Path) -> None:
    assert "Account" in refused(tmp_path, "az://container/prefix")


def test_without_the_package_one_line_says_so(tmp_path: Path) -> None:
    script = tmp_path / "cache.py"
    script.write_text(f"import sys\nsys.modules['obstore'] = None\nsys.argv[0] = {str(SCRIPT)!r}\n" + START_AS_USUAL)
    line = refused(tmp_path, f"s3://{BUCKET}", script=script)
    assert "needs the package obstore: pip install '.[shared]'" in line


def test_read_only(start: Start, origin: Origin, bucket: Bucket) -> None:
    url = origin.serve("/x", Reply(headers=(FOR_EVER,)))
    one = start(cache_shared_write="off")
    assert one.get(url).ok
    one.wait_until_idle()
    assert not bucket.names()
    assert {method for method, *_ in bucket.requests} == {"GET"}


def test_a_folder_is_a_store_too(start: Start, origin: Origin, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    where = "file://" + str(folder).replace(" ", "%20")
    urls = {path: origin.serve(path, Reply(size=size, headers=(FOR_EVER, ETAG))) for path, size in
            (("/s", 500), ("/l", 20_000_000))}  # fmt: skip
    one = start(cache_shared=where)
    for url in urls.values():
        one.get(url)
    written(one, 2)
    two = start(cache_shared=where)
    assert (
        two.get(urls["/l"], headers=[("Range", "bytes=10000000-10000099")]).body
        == content("/l", 20_000_000)[10_000_000:10_000_100]
    )
    assert two.get(urls["/s"]).body == content("/s", 500)
    assert [origin.count(path) for path in urls] == [1, 1]
