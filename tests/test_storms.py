"""Ten storms: all that a build farm does to a proxy at once, in plain text and in TLS that ends in the proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.agents import Response, results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
FRESH = ("Cache-Control", "max-age=3600")
EXPIRED = ("Cache-Control", "max-age=60"), ("Age", "100")
ETAG = ("ETag", '"v1"')
MANY = 60


def all_ok(fetches: Iterable[Any]) -> bool:
    wrong = [response for response in results(fetches) if not response.ok]
    assert not wrong, wrong[:3]
    return True


def calm(proxy: Proxy) -> None:
    """Nothing of the storm is left."""
    metrics = proxy.settled()
    for name in ("origin_fetches_in_flight", "origin_fetches_queued", "inflight_requests", "spilled_bytes"):
        assert metrics.value(name) == 0, name
    assert metrics.value("hook_errors_total") == 0
    assert proxy.status()["tunnels"] == 0


def assert_turned_away(response: Response) -> None:
    assert response.status == 503, response
    assert response.complete
    assert int(response.header("Retry-After") or 0) >= 1
    assert "proxy-cache" in (response.header("Proxy-Status") or "")


def test_200_clients_one_cold_key(start_proxy: Start, origin: Origin) -> None:
    """One GET, and all have the beginning while the origin holds the rest back."""
    proxy, gate, size = start_proxy(), Gate(), 200_000
    url = origin.serve("/image", Reply(size=size, body_gate=gate, gate_at=100_000))
    fetches = [proxy.start_get(url, expect=size) for _ in range(200)]
    for fetch in fetches:
        fetch.received(100_000)
    assert not any(fetch.ended for fetch in fetches)
    gate.open()
    assert all_ok(fetches)
    assert origin.count("/image") == 1
    calm(proxy)


def test_many_keys_and_few_slots_in_turn(start_proxy: Start, origin: Origin) -> None:
    """The limit holds, and who wants three things does not wait for all those of who wants sixty."""
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_timeout=60)
    gate = Gate()
    origin.serve_prefix("/", Reply(gate=gate))
    greedy = [proxy.start_get(origin.url(f"/greedy/{n}"), source="127.0.0.2", expect=1000) for n in range(MANY)]
    proxy.wait_for_metric("origin_fetches_queued", MANY - 2)
    modest = [proxy.start_get(origin.url(f"/modest/{n}"), source="127.0.0.3", expect=1000) for n in range(3)]
    proxy.wait_for_metric("origin_fetches_queued", MANY + 1)
    gate.open()
    assert all_ok([*greedy, *modest])
    assert origin.peak == 2
    order = [request.target for request in origin.seen()]
    assert len(order) == MANY + 3
    assert max(order.index(f"/modest/{n}") for n in range(3)) < 2 + 2 * 3 + 2  # in turn, two at a time
    calm(proxy)


def test_more_than_the_queue_takes(start_proxy: Start, origin: Origin) -> None:
    """The others are told at once, and when to come again; the origin hears of none of them."""
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_max=8, origin_queue_timeout=60)
    gate = Gate()
    origin.serve_prefix("/", Reply(gate=gate))
    fetches = [proxy.start_get(origin.url(f"/{n}")) for n in range(MANY)]
    proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", MANY - 10, outcome="rejected")
    gate.open()
    responses = results(fetches)
    assert sum(response.ok for response in responses) == 10
    for response in responses:
        if not response.ok:
            assert_turned_away(response)
    assert origin.count() == 10
    calm(proxy)


def test_clients_leave_the_queue(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    held = proxy.start_get(origin.serve("/held", Reply(gate=gate)))
    origin.wait_for("/held")
    queued = [proxy.start_get(origin.url(f"/{n}")) for n in range(MANY)]
    proxy.wait_for_metric("origin_fetches_queued", MANY)
    for fetch in queued[5:]:
        fetch.leave()
    proxy.wait_for_metric("origin_fetches_queued", 5)
    gate.open()
    assert all_ok([held, *queued[:5]])
    assert origin.count() == 6
    assert proxy.metrics().waits("canceled") == MANY - 5
    calm(proxy)


def test_clients_leave_in_the_middle_of_a_body(start_proxy: Start, origin: Origin) -> None:
    """The first of them, too. Those who stay have all of it, from the same GET."""
    proxy, gate, size = start_proxy(), Gate(), 2_000_000
    url = origin.serve("/image", Reply(size=size, body_gate=gate, gate_at=200_000))
    fetches = [proxy.start_get(url, expect=size) for _ in range(MANY)]
    for fetch in fetches:
        fetch.received(200_000)
    for fetch in fetches[:-10]:
        fetch.leave()
    proxy.wait_for_waiters(10)
    gate.open()
    assert all_ok(fetches[-10:])
    assert origin.count("/image") == 1
    assert proxy.get(url, expect=size).hit
    calm(proxy)


def test_clients_that_do_not_read(start_proxy: Start, origin: Origin) -> None:
    """They hold up neither the origin nor its slot nor anybody else, and have all of it when they do read."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    size = 6_000_000
    url = origin.serve("/image", Reply(size=size))
    stuck = [proxy.start_get(url, expect=size, paused=True) for _ in range(10)]
    for fetch in stuck:
        fetch.head()
    assert all_ok([proxy.start_get(url, expect=size), proxy.start_get(origin.serve("/other"), expect=1000)])
    assert not any(fetch.ended for fetch in stuck)
    for fetch in stuck:
        fetch.resume()
    assert all_ok(stuck)
    assert origin.count("/image") == 1
    calm(proxy)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(fail="reset"), 502),
        (Reply(status=500, headers=(FRESH,)), 500),
        (Reply(gate=Gate()), 504),  # which nobody opens
        (Reply(size=100_000, cut=50_000), 200),
    ],
    ids=["fails", "has an error", "is silent", "breaks off"],
)
def test_an_origin_in_trouble(start_proxy: Start, origin: Origin, reply: Reply, status: int) -> None:
    """It is asked few times and not once for each client; all are told; nothing of it is kept."""
    proxy = start_proxy(origin_retries=1, origin_timeout=1)
    url = origin.serve("/broken", reply)
    for response in results([proxy.start_get(url) for _ in range(MANY)]):
        assert response.status == status
        assert response.complete is (status != 200)
    assert origin.count("/broken") < 10
    calm(proxy)
    assert proxy.value("cache_entries") == 0
    origin.serve("/broken", Reply(size=5000))
    assert proxy.get(url, expect=5000).ok


def test_what_is_stored_bridges_an_outage(start_proxy: Start, origin: Origin) -> None:
    proxy, gate = start_proxy(origin_retries=1), Gate()
    stale = ("Cache-Control", "max-age=60, stale-if-error=600"), ("Age", "100"), ETAG
    url = origin.serve("/index", Reply(size=20_000, headers=stale), Reply(status=500, gate=gate))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    fetches = [proxy.start_get(url, expect=20_000) for _ in range(MANY)]
    proxy.wait_for_waiters(MANY)
    gate.open()
    assert all_ok(fetches)
    assert origin.count("/index") == 2  # one validation for all
    calm(proxy)


def test_ranges_of_one_large_object(start_proxy: Start, origin: Origin) -> None:
    """They overlap, and no byte is fetched twice."""
    proxy, size, length = start_proxy(cache_fill_whole=0), 6_000_000, 200_000
    url = origin.serve("/data", Reply(size=size, headers=(FRESH, ETAG, ("Accept-Ranges", "bytes"))))
    firsts = [number * (size - length) // MANY for number in range(MANY)]
    fetches = [proxy.start_get(url, headers=[("Range", f"bytes={first}-{first + length - 1}")]) for first in firsts]
    for first, response in zip(firsts, results(fetches), strict=True):
        assert response.status == 206
        assert response.body == content("/data", length, first)
    assert sum(request.sent for request in origin.seen("/data")) <= size
    calm(proxy)


@pytest.mark.parametrize("changed", [False, True])
def test_all_want_what_has_expired(start_proxy: Start, origin: Origin, changed: bool) -> None:
    """One validation for all. Who has the same version gets a 304."""
    proxy, gate = start_proxy(), Gate()
    url = origin.serve("/index", Reply(size=20_000, headers=(*EXPIRED, ETAG)))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    new = Reply(size=20_000, gate=gate, seed="new", headers=(FRESH, ("ETag", '"v2"')))
    origin.serve("/index", new if changed else Reply(size=20_000, gate=gate, headers=(FRESH, ETAG)))
    expect = ("new" if changed else "/index", 20_000)
    without = [proxy.start_get(url, expect=expect) for _ in range(MANY // 2)]
    having = [
        proxy.start_get(url, headers=[("If-None-Match", '"v2"' if changed else '"v1"')]) for _ in range(MANY // 2)
    ]
    proxy.wait_for_waiters(MANY)
    gate.open()
    assert all_ok(without)
    assert {response.status for response in results(having)} == {304}
    assert [request.header("If-None-Match") for request in origin.seen("/index")] == [None, '"v1"']
    calm(proxy)
