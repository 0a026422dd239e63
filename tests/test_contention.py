"""Slots that others wait for: nobody holds one to no purpose, by leaving, by dawdling or by asking for too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.agents import Fetch, Wire, results
from tests.support.origin import Gate, Origin, Reply, Request
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
ONE_SLOT = {"origin_max_in_flight": 1, "origin_queue_timeout": 100}
"""Nobody in the queue is turned away in a test's lifetime: who gets an answer has got the slot."""
NO_STORE = (("Cache-Control", "no-store"),)
LARGE = 30_000_000


def holds_the_slot(proxy: Proxy) -> None:
    proxy.wait_for_metric("origin_fetches_in_flight", 1)


def with_the_slot_taken(start_proxy: Start, origin: Origin) -> tuple[Proxy, Gate, Fetch]:
    """A proxy whose one slot is held until the gate opens."""
    proxy = start_proxy(**ONE_SLOT)
    gate = Gate()
    held = proxy.start_get(origin.serve("/held", Reply(gate=gate)))
    holds_the_slot(proxy)
    return proxy, gate, held


# -- fills that nobody waits for --------------------------------------------------------------------------------------


def test_a_silent_origin_and_a_client_that_has_left(start_proxy: Start, origin: Origin) -> None:
    """Nobody knows how long that would take, and somebody else waits."""
    proxy = start_proxy(**ONE_SLOT)
    silent = origin.serve("/silent", Reply(gate=Gate()))
    gone = proxy.start_get(silent)
    origin.wait_for("/silent")
    gone.leave()
    proxy.wait_for_waiters(0)
    assert proxy.get(origin.serve("/other")).ok


def test_the_rest_of_a_block_is_kept_although_others_queue(start_proxy: Start, origin: Origin) -> None:
    """Whoever reads ranges has its bytes before the block is here, and leaves. What comes at once is worth having."""
    proxy = start_proxy(**ONE_SLOT, cache_block_size="64k", cache_fill_whole=0)
    headers = (("Cache-Control", "max-age=3600"), ("ETag", '"1"'), ("Accept-Ranges", "bytes"))
    urls = [origin.serve(f"/blocks/{n}", Reply(size=1_000_000, headers=headers)) for n in range(20)]
    fetches = [proxy.start_get(url, headers=[("Range", "bytes=0-9")]) for url in urls]
    assert {response.status for response in results(fetches)} == {206}
    assert proxy.settled().value("origin_fetches_total", outcome="stored") == 20


def test_a_client_leaves_while_others_queue(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(**ONE_SLOT)
    leaves = proxy.start_get(origin.serve("/body", Reply(size=500_000, body_gate=Gate(), gate_at=1000)))
    leaves.received(1000)
    queued = proxy.start_get(origin.serve("/other"))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    leaves.leave()
    assert queued.result().ok


def test_one_that_waits_elsewhere_is_helped_by_nobody(start_proxy: Start, origin: Origin) -> None:
    """The queue is for another host's slots: what nobody waits for may go on."""
    with Origin() as other:
        proxy = start_proxy(origin_max_in_flight_per_host=1, origin_queue_timeout=100, quick_abort_timeout=400)
        gate, held = Gate(), Gate()
        first = proxy.start_get(other.serve("/held", Reply(gate=held)))
        other.wait_for("/held")
        queued = proxy.start_get(other.serve("/queued"))
        proxy.wait_for_metric("origin_fetches_queued", 1)
        leaves = proxy.start_get(origin.serve("/body", Reply(size=500_000, body_gate=gate, gate_at=1000)))
        leaves.received(1000)
        leaves.leave()
        proxy.eventually(lambda: [fill["waiters"] for fill in proxy.status()["fills"]], lambda found: 0 in found)
        gate.open()
        origin.wait(lambda: origin.seen("/body")[0].answered, told="the rest of the body")
        held.open()
        assert all(response.ok for response in results([first, queued]))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_dripping_origin_and_a_client_that_has_left(start_proxy: Start, origin: Origin, chunked: bool) -> None:
    """Little is left, but it would take minutes: `quick_abort_timeout` says how long that may be."""
    proxy = start_proxy(quick_abort_timeout=2)
    gone = proxy.start_get(origin.serve("/drip", Reply(size=900_000, chunked=chunked, rate=2000)))
    gone.received(1000)
    gone.leave()
    request = origin.wait_for("/drip")
    origin.wait(lambda: request.aborted, told="the end of what nobody waits for")
    proxy.wait_until_idle()


def test_a_silent_origin_and_nobody_else(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(quick_abort_timeout=1)
    gone = proxy.start_get(origin.serve("/silent", Reply(gate=Gate())))
    request = origin.wait_for("/silent")
    gone.leave()
    origin.wait(lambda: request.aborted, told="the end of what nobody waits for")
    proxy.wait_until_idle()


def test_a_client_comes_back_in_time(start_proxy: Start, origin: Origin) -> None:
    """It finds the fill that its predecessor has left behind, and that goes on for as long as it stays."""
    proxy = start_proxy(quick_abort_timeout=400)
    gate = Gate()
    url = origin.serve("/back", Reply(size=200_000, body_gate=gate, gate_at=1000))
    first = proxy.start_get(url)
    first.received(1000)
    first.leave()
    proxy.wait_for_waiters(0)
    second = proxy.start_get(url, expect=200_000)
    second.received(1000)
    gate.open()
    assert second.result().ok
    assert origin.count("/back") == 1


def test_a_pace_below_the_minimum(start_proxy: Start, origin: Origin) -> None:
    """An option: some clients are glad of anything that comes."""
    proxy = start_proxy(origin_min_pace="100k", origin_timeout=1, origin_retries=0)
    url = origin.serve("/slow", Reply(size=400_000, rate=10_000))
    response = proxy.get(url)
    assert not response.complete
    assert 0 < response.received < 400_000
    assert proxy.get(origin.serve("/fast", Reply(size=4_000_000, headers=NO_STORE)), expect=4_000_000).ok


# -- clients that do not read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "options"),
    [
        (Reply(size=LARGE, headers=NO_STORE), {}),
        (Reply(size=LARGE, headers=NO_STORE, chunked=True), {}),
        (Reply(size=LARGE), {"cache_max_size": "10m"}),
    ],
    ids=["no-store", "no-store, chunked", "larger than the cache"],
)
def test_a_client_that_does_not_read_gives_the_slot_back(
    start_proxy: Start, origin: Origin, reply: Reply, options: dict[str, Any]
) -> None:
    """The origin's last byte gives the slot back. What the client has not read waits for it."""
    proxy = start_proxy(**ONE_SLOT, **options)
    stalled = proxy.start_get(origin.serve("/large", reply), paused=True, expect=LARGE)
    holds_the_slot(proxy)
    assert proxy.get(origin.serve("/other")).ok
    assert origin.seen("/large")[0].answered
    assert proxy.value("spilled_bytes") > 0
    stalled.resume()
    response = stalled.result()
    assert response.ok
    proxy.wait_for_metric("spilled_bytes", 0)
    assert not proxy.get(origin.url("/large"), expect=LARGE).hit


def test_somebody_joins_what_has_been_set_aside(start_proxy: Start, origin: Origin) -> None:
    """Whatever of it can still be had must be right; nobody is given a hole."""
    proxy = start_proxy(**ONE_SLOT, cache_max_size="10m")
    gate = Gate()
    url = origin.serve("/large", Reply(size=LARGE, body_gate=gate, gate_at=20_000_000))
    fast = proxy.start_get(url, expect=LARGE)
    stalled = proxy.start_get(url, paused=True, expect=LARGE)
    proxy.wait_for_waiters(2)
    queued = proxy.start_get(origin.serve("/other"))
    fast.received(20_000_000)
    late = proxy.start_get(url, expect=LARGE)
    gate.open()
    stalled.resume()
    for response in results([fast, stalled, queued, late]):
        assert response.ok


def test_there_is_no_room_to_set_anything_aside(start_proxy: Start, origin: Origin) -> None:
    """The reader that has stopped reading goes: it would keep everybody else waiting."""
    proxy = start_proxy(**ONE_SLOT, spill_max=0)
    stalled = proxy.start_get(origin.serve("/large", Reply(size=LARGE, headers=NO_STORE)), paused=True)
    holds_the_slot(proxy)
    assert proxy.get(origin.serve("/other")).ok
    proxy.wait_for_log("stopped reading was dropped")
    stalled.resume()
    assert not stalled.result().complete


def test_a_client_that_does_not_read_disturbs_nobody_where_nobody_waits(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=2, spill_max=0)
    stalled = proxy.start_get(origin.serve("/large", Reply(size=LARGE, headers=NO_STORE)), paused=True, expect=LARGE)
    holds_the_slot(proxy)
    assert proxy.get(origin.serve("/other")).ok
    stalled.resume()
    assert stalled.result().ok


# -- who gets a place in the queue ------------------------------------------------------------------------------------


def test_a_greedy_client_leaves_room_in_the_queue(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(**ONE_SLOT, origin_queue_max=20)
    gate = Gate()
    held = proxy.start_get(origin.serve("/held", Reply(gate=gate)))
    holds_the_slot(proxy)
    greedy = [proxy.start_get(origin.serve(f"/greedy/{n}"), source="127.0.0.2") for n in range(30)]
    proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 10, outcome="rejected")
    modest = [proxy.start_get(origin.serve(f"/modest/{n}"), source="127.0.0.3") for n in range(5)]
    proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 15, outcome="rejected")
    gate.open()
    assert held.result().ok
    assert all(response.ok for response in results(modest))
    statuses = [response.status for response in results(greedy)]
    assert statuses.count(200) == 15
    assert statuses.count(503) == 15


def test_a_limit_for_each_client(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(**ONE_SLOT, origin_queue_max_per_client=3)
    gate = Gate()
    held = proxy.start_get(origin.serve("/held", Reply(gate=gate)))
    holds_the_slot(proxy)
    fetches = [proxy.start_get(origin.serve(f"/mine/{n}"), source="127.0.0.2") for n in range(5)]
    proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 2, outcome="rejected")
    gate.open()
    assert held.result().ok
    assert sorted(response.status for response in results(fetches)) == [200, 200, 200, 503, 503]


# -- clients that leave without a word --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "finished"])
def test_a_client_leaves_with_more_sent_than_is_read(start_proxy: Start, origin: Origin, how: str) -> None:
    """Reading has stopped at the first 64 kB, so that the end of the connection is not read either."""
    proxy, gate, held = with_the_slot_taken(start_proxy, origin)
    url = origin.serve("/left")
    with Wire(proxy.address) as wire:
        wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        proxy.wait_for_metric("origin_fetches_queued", 1)
        wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nX: {'x' * 1000}\r\n\r\n" * 200)
        if how == "finished":
            wire.finish()
            proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 1, outcome="canceled")
    proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 1, outcome="canceled")
    gate.open()
    assert held.result().ok
    assert proxy.get(origin.serve("/other")).ok
    assert origin.count("/left") == 0


def test_a_client_leaves_mitmproxy_with_more_sent_than_is_read(start_proxy: Start, origin: Origin) -> None:
    """The same where mitmproxy reads the connection: a GET that no lane takes, queued, and bytes behind it."""
    proxy, gate, held = with_the_slot_taken(start_proxy, origin)
    url = origin.serve("/left")
    with Wire(proxy.address) as wire:
        wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: 0\r\n\r\n")
        proxy.wait_for_metric("origin_fetches_queued", 1)
        wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nX: {'x' * 1000}\r\n\r\n" * 800)
    proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 1, outcome="canceled")
    gate.open()
    assert held.result().ok
    assert proxy.get(origin.serve("/other")).ok
    assert origin.count("/left") == 0


# -- errors that are about one client ---------------------------------------------------------------------------------

ODD = ("X-Odd", "yes")
FRESH = ("Cache-Control", "max-age=3600")


@pytest.mark.parametrize("headers", [(), (FRESH,), NO_STORE, (("Set-Cookie", "a=b"),)], ids=["", "fresh", "ns", "sc"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 405, 406, 409, 413, 421, 422, 426, 431, 499])
def test_an_error_for_one_client_throws_nothing_out(
    proxy: Proxy, origin: Origin, status: int, headers: tuple[tuple[str, str], ...]
) -> None:
    path = f"/good/{status}/{len(headers)}/{headers[0][1] if headers else ''}".replace(" ", "")
    url = origin.serve(path, Reply(headers=(FRESH, ("ETag", '"1"'))))
    assert proxy.get(url).ok
    origin.serve(path, Reply(status=status, headers=headers))
    refused = proxy.get(url, headers=[ODD, ("Cache-Control", "no-cache")])
    assert refused.status == status
    after = proxy.get(url)
    assert after.ok
    assert after.hit


@pytest.mark.parametrize("status", [400, 401, 403, 406, 431])
def test_an_error_for_one_client_does_not_end_coalescing(proxy: Proxy, origin: Origin, status: int) -> None:
    gate = Gate()
    path = f"/herd/{status}"
    url = origin.serve(path, Reply(status=status, headers=()), Reply(gate=gate))
    assert proxy.get(url, headers=[ODD]).status == status
    fetches = [proxy.start_get(url) for _ in range(10)]
    proxy.wait_for_waiters(10)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count(path) == 2


def test_those_who_waited_for_what_was_refused_ask_again_together(proxy: Proxy, origin: Origin) -> None:
    gate, second = Gate(), Gate()
    url = origin.serve("/waf", Reply(status=403, headers=(), gate=gate), Reply(gate=second))
    refused = proxy.start_get(url, headers=[ODD])
    origin.wait_for("/waf")
    fetches = [proxy.start_get(url) for _ in range(10)]
    proxy.wait_for_waiters(11)
    gate.open()
    assert refused.result().status == 403
    origin.wait_for("/waf", 2)
    proxy.wait_for_waiters(10)
    second.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/waf") == 2


def test_a_response_that_has_begun_goes_on_where_another_client_is_refused(start_proxy: Start, origin: Origin) -> None:
    """The block that it needs next was asked for on behalf of somebody whom the origin refuses."""
    proxy = start_proxy(cache_block_size="64k", cache_max_span="64k", cache_fill_whole=0)
    size, block, gate = 1_000_000, 65536, Gate()
    good = Reply(size=size, headers=(FRESH, ("ETag", '"1"'), ("Accept-Ranges", "bytes")))
    url = origin.serve("/blocks", good, Reply(status=403, headers=(), gate=gate), good)
    assert proxy.get(url, headers=[("Range", f"bytes=0-{block - 1}")]).status == 206
    proxy.wait_until_idle()
    refused = proxy.start_get(url, headers=[ODD, ("Range", f"bytes={2 * block}-{3 * block - 1}")])
    origin.wait_for("/blocks", 2)
    reader = proxy.start_get(url, headers=[("Range", f"bytes=0-{3 * block - 1}")])
    reader.received(2 * block)
    proxy.wait_for_waiters(2)
    gate.open()
    assert refused.result().status == 403
    response = reader.result()
    assert response.complete
    assert response.body == origin.body_of("/blocks", 3 * block)


def test_where_all_are_refused_they_are_not_refused_one_by_one(proxy: Proxy, origin: Origin) -> None:
    """Some rounds together, in case it was one odd client's doing; then each for itself."""
    gates = [Gate() for _ in range(4)]
    url = origin.serve("/all", *[Reply(status=401, headers=(), gate=gate) for gate in gates])
    fetches = [proxy.start_get(url) for _ in range(10)]
    for round_number, gate in enumerate(gates[:3], 1):
        origin.wait_for("/all", round_number)
        proxy.wait_for_waiters(11 - round_number)
        gate.open()
    origin.wait(lambda: origin.in_flight == 7, told="7 requests at once")
    gates[3].open()
    assert {response.status for response in results(fetches)} == {401}
    assert origin.count("/all") == 10


def test_what_one_who_has_logged_in_gets_is_not_held_against_others(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/mine", Reply(headers=(FRESH, ("ETag", '"1"'))))
    assert proxy.get(url).ok
    origin.serve("/mine", Reply(headers=(("Cache-Control", "private"),)))
    assert not proxy.get(url, headers=[("Cookie", "session=1"), ("Cache-Control", "no-cache")]).hit
    assert proxy.get(url).hit
    # And where nothing was stored, the others still share.
    url = origin.serve("/shared", Reply(headers=(("Cache-Control", "private"),)), Reply(gate=gate, headers=(FRESH,)))
    assert proxy.get(url, headers=[("Cookie", "session=1")]).ok
    fetches = [proxy.start_get(url) for _ in range(5)]
    proxy.wait_for_waiters(5)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/shared") == 2


# -- refreshes in the background --------------------------------------------------------------------------------------

STALE = (("Cache-Control", "max-age=60, stale-while-revalidate=600"), ("Age", "100"))


def with_an_endless_refresh(proxy: Proxy, origin: Origin, rate: int) -> Request:
    """A stale hit has had the origin asked for more than it will ever send."""
    endless = Reply(size=1 << 40, headers=STALE, chunked=True, rate=rate)
    url = origin.serve("/endless", Reply(size=100, headers=STALE), endless)
    assert proxy.get(url).ok
    proxy.settled()
    assert proxy.get(url).hit
    return origin.wait_for("/endless", count=2)


def test_a_refresh_does_not_hold_a_slot_for_ever_that_others_wait_for(start_proxy: Start, origin: Origin) -> None:
    """However well it comes: nobody wants it now, and they do."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=100, quick_abort_timeout=1)
    with_an_endless_refresh(proxy, origin, 100_000)
    holds_the_slot(proxy)
    assert proxy.get(origin.serve("/other")).ok


def test_a_refresh_that_has_become_too_long_to_be_kept_ends(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_max_object_size="1m")
    request = with_an_endless_refresh(proxy, origin, 4_000_000)
    origin.wait(lambda: request.aborted, told="the end of what nobody can get")
    proxy.wait_until_idle()
