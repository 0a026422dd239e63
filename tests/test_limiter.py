"""Many agents ask for different things at the same time, and the origin is to be spared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.agents import Wire, results
from tests.support.content import content
from tests.support.origin import Echo, Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
STALE = ("Cache-Control", "max-age=0")


def fill_slots(proxy: Proxy, origin: Origin, count: int, beside: int = 0) -> tuple[Gate, list[Any]]:
    """Occupy ``count`` slots, ``beside`` those taken already, with fills that the origin holds until the gate opens."""
    gate = Gate()
    origin.serve_prefix("/held/", Reply(gate=gate))
    fetches = [proxy.start_get(origin.url(f"/held/{number}")) for number in range(count)]
    origin.wait(lambda: origin.count("/held/*") == count, told=f"{count} held requests")
    proxy.wait_for_metric("origin_fetches_in_flight", count + beside)
    return gate, fetches


def assert_overloaded(response: Any) -> int:
    """503 as promised: whole seconds in Retry-After, and fields that say who and why. Returns the seconds."""
    assert response.status == 503, response
    assert response.complete
    seconds = response.header("Retry-After") or ""
    assert seconds.isdigit()
    assert 1 <= int(seconds) <= 10
    assert "proxy-cache" in (response.header("Cache-Status") or "")
    assert "proxy-cache" in (response.header("Proxy-Status") or "")
    assert 0 < len(response.body) < 1000
    assert (response.header("Content-Type") or "").startswith("text/plain")
    return int(seconds)


def test_400_distinct_misses(start_proxy: Start, origin: Origin) -> None:
    """Limit 8: the origin never sees more than 8 at once, and keeps busy."""
    proxy = start_proxy(origin_max_in_flight=8, origin_queue_timeout=100)
    gate = Gate()
    origin.serve_prefix("/pkg/", Reply(delay=0.05, gate=gate))
    fetches = [proxy.start_get(origin.url(f"/pkg/{n}"), expect=1000) for n in range(400)]
    proxy.wait_for_metric("origin_fetches_queued", 392)
    gate.open()
    responses = results(fetches, 100)
    assert all(response.ok for response in responses), [response for response in responses if not response.ok][:3]
    assert origin.peak == 8
    assert origin.count("/pkg/*") == 400
    metrics = proxy.metrics()
    assert metrics.waits("admitted") == 392
    assert metrics.value("origin_fetches_queued") == 0


def test_no_limit_by_default(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy()
    gate, fetches = fill_slots(proxy, origin, 200)
    assert proxy.value("origin_fetches_queued") == 0
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert proxy.metrics().waits("admitted") == 0


def test_what_needs_no_slot_does_not_wait_for_one(start_proxy: Start, origin: Origin, echo: Echo) -> None:
    """Limit 8, full, one more queued: hits, same-key waiters, a POST, a tunnel and a HEAD all go through."""
    proxy = start_proxy(origin_max_in_flight=8, origin_queue_timeout=60)
    stored = origin.serve("/stored")
    assert proxy.get(stored).ok
    proxy.wait_until_idle()
    shared = Gate()
    running = origin.serve("/running", Reply(size=50_000, body_gate=shared, gate_at=20_000))
    leader = proxy.start_get(running, expect=50_000)
    leader.received(20_000)
    gate, fetches = fill_slots(proxy, origin, 7, beside=1)
    queued = proxy.start_get(origin.url("/queued"))
    proxy.wait_for_metric("origin_fetches_queued", 1)

    hit = proxy.get(stored)
    assert hit.hit
    assert hit.body == content("/stored", 1000)
    waiter = proxy.start_get(running, expect=50_000)
    waiter.received(20_000)
    assert proxy.request("POST", origin.url("/post"), body=b"x").ok
    assert proxy.request("HEAD", origin.url("/head")).status == 200
    assert proxy.request("HEAD", stored).hit
    with Wire(proxy.address) as tunnel:
        tunnel.send(f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\n")
        assert tunnel.head()[0] == 200
        tunnel.send("ping")
        assert tunnel.exactly(4) == b"ping"
    assert proxy.value("origin_fetches_in_flight") == 8
    assert proxy.value("origin_fetches_queued") == 1
    assert origin.count("/queued") == 0
    assert not queued.ended

    shared.open()
    gate.open()
    assert all(response.ok for response in results([leader, waiter, queued, *fetches]))


def test_queued_and_then_gone(start_proxy: Start, origin: Origin) -> None:
    """The agent's job is cancelled while its request queues: the origin never hears of it, and nothing is left."""
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_timeout=60, record=True)
    gate, fetches = fill_slots(proxy, origin, 2)
    before = proxy.metrics()
    gone = proxy.start_get(origin.url("/gone"))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    gone.leave()
    proxy.wait_for_metric("origin_fetches_queued", 0)
    proxy.wait_for_metric("origin_fetch_queue_wait_seconds_count", 1, outcome="canceled")
    seen = proxy.eventually(
        lambda: [flow for flow in proxy.flows() if flow["url"].endswith("/gone") and flow["status"] is not None]
    )
    assert {(flow["status"], flow["retry_after"]) for flow in seen} == {(503, "1")}
    assert proxy.value("origin_fetches_in_flight") == before.value("origin_fetches_in_flight") == 2
    gate.open()
    assert all(response.ok for response in results(fetches))
    proxy.wait_until_idle()
    assert origin.count("/gone") == 0
    assert proxy.value("cache_entries") == 2
    assert proxy.value("origin_fetches_total") == 2
    assert proxy.get(origin.url("/gone")).ok


def test_fifty_queue_and_go(start_proxy: Start, origin: Origin) -> None:
    """All at once, and no slot, place or number is left behind."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate, fetches = fill_slots(proxy, origin, 1)
    leavers = [proxy.start_get(origin.url(f"/leaver/{n}")) for n in range(50)]
    proxy.wait_for_metric("origin_fetches_queued", 50)
    for fetch in leavers:
        fetch.leave()
    proxy.wait_for_metric("origin_fetches_queued", 0)
    proxy.wait_for_metric("inflight_requests", 1)
    assert proxy.metrics().waits("canceled") == 50
    gate.open()
    assert fetches[0].result().ok
    assert origin.count("/leaver/*") == 0
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    assert proxy.get(origin.url("/after")).ok


def test_one_agent_cannot_starve_another(start_proxy: Start, origin: Origin) -> None:
    """127.0.0.2 queues 300 misses, then 127.0.0.3 wants one: it has the next turn, not the 301st."""
    proxy = start_proxy(origin_max_in_flight=8, origin_queue_timeout=60)
    gate = Gate()
    origin.serve_prefix("/greedy/", Reply(delay=0.05, gate=gate))
    greedy = [proxy.start_get(origin.url(f"/greedy/{n}"), source="127.0.0.2") for n in range(300)]
    proxy.wait_for_metric("origin_fetches_queued", 292)
    modest = proxy.start_get(origin.serve("/modest"), source="127.0.0.3")
    proxy.wait_for_metric("origin_fetches_queued", 293)
    gate.open()
    assert modest.result().ok
    ahead = next(number for number, request in enumerate(origin.seen()) if request.target == "/modest")
    assert ahead < 150, "a dozen: those that had a slot, and others that overtook it on the way"
    assert all(response.ok for response in results(greedy))


def test_turns_go_round(start_proxy: Start, origin: Origin) -> None:
    """One slot, three agents: their requests take turns, and each agent's own stay in their order."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate, fetches = fill_slots(proxy, origin, 1)
    for source, count in (("127.0.0.2", 4), ("127.0.0.3", 2), ("127.0.0.4", 1)):
        for number in range(count):
            queued = proxy.value("origin_fetches_queued")
            fetches.append(proxy.start_get(origin.url(f"/{source}/{number}"), source=source))
            proxy.wait_for_metric("origin_fetches_queued", queued + 1)
    status = proxy.status()["limiter"]
    assert status["queued_per_client"] == {"127.0.0.2": 4, "127.0.0.3": 2, "127.0.0.4": 1}
    gate.open()
    assert all(response.ok for response in results(fetches))
    order = [request.target for request in origin.seen()][1:]
    assert order == [
        "/127.0.0.2/0",
        "/127.0.0.3/0",
        "/127.0.0.4/0",
        "/127.0.0.2/1",
        "/127.0.0.3/1",
        "/127.0.0.2/2",
        "/127.0.0.2/3",
    ]


def test_nobody_waits_longer_than_the_time_limit(start_proxy: Start, origin: Origin) -> None:
    """Limit 8, 200 misses, an origin that does not answer, queue timeout 3 s: a verdict for everybody that waits, and
    not before its time; and spread retries."""
    proxy = start_proxy(origin_max_in_flight=8, origin_queue_timeout=3, origin_timeout=300)
    gate = Gate()
    origin.serve_prefix("/slow/", Reply(gate=gate))
    fetches = [proxy.start_get(origin.url(f"/slow/{n}")) for n in range(200)]
    metrics = proxy.eventually(proxy.metrics, lambda metrics: metrics.waits("timeout") == 192, told="192 timeouts")
    assert metrics.value("origin_fetch_queue_wait_seconds_sum", outcome="timeout") >= 192 * 3
    gate.open()
    responses = results(fetches)
    turned_away = [response for response in responses if response.status != 200]
    assert len(turned_away) == 192
    verdicts = {assert_overloaded(response) for response in turned_away}
    assert len(verdicts) >= 4
    assert all(response.ok for response in responses if response not in turned_away)
    assert origin.count("/slow/*") == origin.peak == 8


def test_a_full_queue_turns_away_at_once(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_max=2, origin_queue_timeout=60)
    gate, fetches = fill_slots(proxy, origin, 1)
    queued = [proxy.start_get(origin.url(f"/queued/{n}")) for n in range(2)]
    proxy.wait_for_metric("origin_fetches_queued", 2)
    # The slot is held until the gate opens, so an answer now is one that did not wait.
    for number in range(5):
        assert_overloaded(proxy.get(origin.url(f"/rejected/{number}")))
    joined = proxy.start_get(origin.url("/queued/0"), expect=1000)
    proxy.wait_for_metric("inflight_requests", 4)
    assert proxy.metrics().waits("rejected") == 5
    assert proxy.value("origin_fetches_queued") == 2
    gate.open()
    assert all(response.ok for response in results([*fetches, *queued, joined]))
    assert origin.count("/rejected/*") == 0
    assert origin.count("/queued/0") == 1


def test_a_queue_of_none(start_proxy: Start, origin: Origin) -> None:
    """`origin_queue_max=0`: a slot or a 503."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_max=0)
    gate, fetches = fill_slots(proxy, origin, 1)
    assert_overloaded(proxy.get(origin.url("/other")))
    gate.open()
    assert fetches[0].result().ok
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    assert proxy.get(origin.url("/other")).ok


def test_the_gauges_and_the_status_tell_the_queue(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_timeout=60)
    gate, fetches = fill_slots(proxy, origin, 2)
    fetches += [proxy.start_get(origin.url(f"/queued/{n}")) for n in range(3)]
    proxy.wait_for_metric("origin_fetches_queued", 3)
    assert proxy.value("origin_fetches_in_flight") == 2
    limiter = proxy.status()["limiter"]
    assert limiter["max_in_flight"] == 2
    assert limiter["in_flight"] == 2
    assert limiter["queued"] == 3
    assert limiter["queued_per_client"] == {"127.0.0.1": 3}
    assert proxy.eventually(lambda: proxy.status()["limiter"]["oldest_wait_seconds"], lambda wait: wait > 0) < 60
    gate.open()
    assert all(response.ok for response in results(fetches))
    metrics = proxy.metrics()
    assert metrics.waits("admitted") == 3
    assert metrics.value("origin_fetches_queued") == 0
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    assert metrics.value("origin_fetch_queue_wait_seconds_sum", outcome="admitted") > 0


def test_hosts_have_limits_of_their_own(start_proxy: Start, origin: Origin) -> None:
    """A slow origin fills its own share; another origin is served meanwhile."""
    proxy = start_proxy(origin_max_in_flight=8, origin_max_in_flight_per_host=2, origin_queue_timeout=60)
    with Origin() as other:
        gate, fetches = fill_slots(proxy, origin, 2)
        fetches += [proxy.start_get(origin.url(f"/queued/{n}")) for n in range(5)]
        proxy.wait_for_metric("origin_fetches_queued", 5)
        for number in range(4):
            assert proxy.get(other.url(f"/quick/{number}")).ok
        assert origin.peak == 2
        gate.open()
        assert all(response.ok for response in results(fetches))
        assert origin.peak == 2


# -- changes while running -----------------------------------------------------------------------------------


def test_raising_the_limit_lets_queued_fills_run(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_timeout=60, control=True)
    gate, fetches = fill_slots(proxy, origin, 2)
    fetches += [proxy.start_get(origin.url(f"/held/more{n}")) for n in range(6)]
    proxy.wait_for_metric("origin_fetches_queued", 6)
    assert proxy.set_option("origin_max_in_flight=5") == "ok"
    origin.wait(lambda: origin.in_flight == 5, told="5 at once")
    assert proxy.value("origin_fetches_queued") == 3
    assert proxy.set_option("origin_max_in_flight=0") == "ok"
    origin.wait(lambda: origin.in_flight == 8, told="all at once")
    gate.open()
    assert all(response.ok for response in results(fetches))


def test_lowering_the_limit_lets_running_fills_finish(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=5, origin_queue_timeout=60, control=True)
    gate, fetches = fill_slots(proxy, origin, 5)
    origin.serve_prefix("/after/", Reply(delay=0.02))
    fetches += [proxy.start_get(origin.url(f"/after/{n}")) for n in range(10)]
    proxy.wait_for_metric("origin_fetches_queued", 10)
    assert proxy.set_option("origin_max_in_flight=1") == "ok"
    assert proxy.value("origin_fetches_in_flight") == 5
    gate.open()
    assert all(response.ok for response in results(fetches))
    after = origin.seen("/after/*")
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(after)]
    assert min(gaps) >= 0.015, "two ran at once"


def test_a_limit_set_while_running_counts_what_runs(start_proxy: Start, origin: Origin) -> None:
    """From off to on: fills that started without a limit occupy slots too."""
    proxy = start_proxy(control=True, origin_queue_timeout=60)
    gate, fetches = fill_slots(proxy, origin, 3)
    assert proxy.set_option("origin_max_in_flight=3") == "ok"
    fetches.append(proxy.start_get(origin.url("/next")))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.peak == 3


def test_a_shorter_time_limit_is_for_the_queue_at_hand(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=600, control=True)
    gate, fetches = fill_slots(proxy, origin, 1)
    queued = [proxy.start_get(origin.url(f"/queued/{n}")) for n in range(3)]
    proxy.wait_for_metric("origin_fetches_queued", 3)
    assert proxy.set_option("origin_queue_timeout=1") == "ok"
    for response in results(queued):
        assert_overloaded(response)
    gate.open()
    assert fetches[0].result().ok


def test_a_shorter_queue_is_for_the_queue_at_hand(start_proxy: Start, origin: Origin) -> None:
    """The last to come are the ones turned away."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=600, control=True)
    gate, fetches = fill_slots(proxy, origin, 1)
    queued = []
    for number in range(3):
        queued.append(proxy.start_get(origin.url(f"/queued/{number}"), expect=1000))
        proxy.wait_for_metric("origin_fetches_queued", number + 1)
    assert proxy.set_option("origin_queue_max=1") == "ok"
    for response in results(queued[1:]):
        assert response.status == 503
    gate.open()
    assert all(response.ok for response in results([*fetches, queued[0]]))


@pytest.mark.parametrize("spec", ["origin_max_in_flight=-1", "origin_queue_max=-5", "cache_max_size=foo"])
def test_a_bad_value_while_running_changes_nothing(start_proxy: Start, origin: Origin, spec: str) -> None:
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_timeout=60, control=True)
    answer = proxy.set_option(spec)
    assert answer != "ok"
    assert spec.partition("=")[0] in answer
    gate, fetches = fill_slots(proxy, origin, 2)
    fetches.append(proxy.start_get(origin.url("/queued")))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    gate.open()
    assert all(response.ok for response in results(fetches))


# -- what becomes of slots -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=404),
        Reply(status=500),
        Reply(fail="reset"),
        Reply(fail="close"),
        Reply(fail="garbage"),
        Reply(size=100_000, cut=5000),
        Reply(size=100_000, cut=5000, chunked=True),
        Reply(headers=(("Cache-Control", "no-store"),)),
        Reply(size=0),
    ],
    ids=["404", "500", "reset", "close", "garbage", "cut", "cut-chunked", "no-store", "empty"],
)
def test_the_slot_comes_back_however_a_fill_ends(start_proxy: Start, origin: Origin, reply: Reply) -> None:
    proxy = start_proxy(origin_max_in_flight=1)
    origin.serve_prefix("/bad/", reply)
    for number in range(3):
        proxy.get(origin.url(f"/bad/{number}"))
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    assert proxy.get(origin.url("/good")).ok


def test_the_slot_comes_back_when_a_running_fill_is_dropped(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    fetch = proxy.start_get(origin.serve("/iso", Reply(size=50_000_000, body_gate=gate, gate_at=100_000)))
    fetch.received(100_000)
    queued = proxy.start_get(origin.url("/next"))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    fetch.leave()
    assert queued.result().ok


# -- stale answers rather than none --------------------------------------------------------------------------


def overloaded_with_stale_entry(start_proxy: Start, origin: Origin, cache_control: str, **options: Any) -> Any:
    """What an agent gets for a stale entry when no slot is to be had."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_max=0, **options)
    url = origin.serve("/index", Reply(headers=(("Cache-Control", cache_control), ("ETag", '"v1"'))))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    gate, fetches = fill_slots(proxy, origin, 1)
    response = proxy.get(url)
    gate.open()
    assert fetches[0].result().ok
    assert origin.count("/index") == 1
    return response


def test_stale_is_served_on_overload_if_the_operator_says_so(start_proxy: Start, origin: Origin) -> None:
    response = overloaded_with_stale_entry(start_proxy, origin, "max-age=0", origin_serve_stale_on_overload=True)
    assert response.ok
    assert response.body == content("/index", 1000)
    assert response.header("Cache-Status")


def test_stale_is_served_on_overload_if_the_origin_says_so(start_proxy: Start, origin: Origin) -> None:
    response = overloaded_with_stale_entry(start_proxy, origin, "max-age=0, stale-if-error=600")
    assert response.ok
    assert response.body == content("/index", 1000)


@pytest.mark.parametrize("directive", ["must-revalidate", "no-cache", "proxy-revalidate"])
def test_stale_is_not_served_where_that_is_forbidden(start_proxy: Start, origin: Origin, directive: str) -> None:
    response = overloaded_with_stale_entry(
        start_proxy, origin, f"max-age=0, {directive}", origin_serve_stale_on_overload=True
    )
    assert_overloaded(response)


def test_stale_is_not_served_by_default(start_proxy: Start, origin: Origin) -> None:
    assert_overloaded(overloaded_with_stale_entry(start_proxy, origin, "max-age=0"))


# -- how long who may wait -----------------------------------------------------------------------------------


def test_a_rule_says_who_may_wait_for_how_long(start_proxy: Start, origin: Origin) -> None:
    """One kind of URL is answered at once, the other waits for as long as it takes; no rule: as long as all."""
    proxy = start_proxy(
        origin_max_in_flight=1,
        origin_queue_timeout=600,
        cache_queue_timeout=["/~u /impatient/0", "/~d 127.0.0.1 & ~u soon/1s"],
    )
    gate, fetches = fill_slots(proxy, origin, 1)
    assert_overloaded(proxy.get(origin.serve("/impatient", Reply())))
    patient = proxy.start_get(origin.serve("/patient", Reply()))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    assert_overloaded(proxy.get(origin.serve("/soon", Reply())))
    assert proxy.value("origin_fetches_queued") == 1
    gate.open()
    assert patient.result().ok
    assert results(fetches)[0].ok
    assert not origin.count("/impatient")


def test_a_rule_is_for_whom_it_names_and_not_for_who_waits_for_the_same_fill(
    start_proxy: Start, origin: Origin
) -> None:
    """apt may wait for minutes, the others for no longer than they do: one fill, and each its own time, whoever came
    first."""
    proxy = start_proxy(
        origin_max_in_flight=1,
        origin_queue_timeout=600,
        cache_queue_timeout=["/~hq 'User-Agent: apt'/10m"],
        control=True,
    )
    apt = [("User-Agent", "apt")]
    gate, fetches = fill_slots(proxy, origin, 1)
    leads = proxy.start_get(origin.serve("/one", Reply()), headers=apt)
    proxy.wait_for_metric("origin_fetches_queued", 1)
    others = [proxy.start_get(origin.url("/one")), proxy.start_get(origin.serve("/two", Reply()))]
    proxy.wait_for_metric("origin_fetches_queued", 2)
    joins = proxy.start_get(origin.url("/two"), headers=apt)
    proxy.wait_for_waiters(5)
    assert proxy.set_option("origin_queue_timeout=0") == "ok"
    for other in others:
        assert_overloaded(other.result())
    assert proxy.value("origin_fetches_queued") == 2
    gate.open()
    assert leads.result().ok
    assert joins.result().ok
    assert results(fetches)[0].ok
    assert origin.count("/one") == origin.count("/two") == 1
