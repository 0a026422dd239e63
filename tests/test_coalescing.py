"""Many agents ask for the same thing at the same time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.agents import results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

FRESH = ("Cache-Control", "max-age=3600")
NO_STORE = (("Cache-Control", "no-store"),)


def test_200_agents_one_cold_object(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """200 agents, one object of 8 MB that the origin sends at 8 MB/s: one GET, and all have half of it before the
    origin sends the rest."""
    proxy = start_proxy()
    gate = Gate()
    size, half = 8_000_000, 4_000_000
    url = origin.serve("/image.tar", Reply(size=size, rate=8_000_000, body_gate=gate, gate_at=half))
    fetches = [proxy.start_get(url, expect=size) for _ in range(200)]
    for fetch in fetches:
        fetch.received(half)
    gate.open()
    responses = results(fetches, 90)
    assert all(response.ok for response in responses), [response for response in responses if not response.ok][:3]
    assert origin.count("/image.tar") == 1


def test_everybody_reads_along(proxy: Proxy, origin: Origin) -> None:
    """While the origin holds the rest back, all agents, the late one too, have what there is."""
    gate = Gate()
    size, half = 1_000_000, 500_000
    url = origin.serve("/slow", Reply(size=size, body_gate=gate, gate_at=half))
    early = [proxy.start_get(url, expect=size) for _ in range(10)]
    for fetch in early:
        fetch.received(half)
    late = proxy.start_get(url, expect=size)
    late.received(half)
    assert proxy.waiters() == 11
    gate.open()
    assert all(response.ok for response in results([*early, late]))
    assert origin.count("/slow") == 1


def test_of_unknown_length_everybody_reads_along(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/slow", Reply(size=300_000, chunked=True, body_gate=gate, gate_at=100_000))
    fetches = [proxy.start_get(url, expect=300_000) for _ in range(5)]
    for fetch in fetches:
        fetch.received(100_000)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/slow") == 1
    assert proxy.get(url).hit


def test_a_running_leader_leaves(proxy: Proxy, origin: Origin) -> None:
    """The first agent's job is cancelled in the middle of the download; the other 20 finish, from the same GET."""
    gate = Gate()
    size = 3_000_000
    url = origin.serve("/wheel", Reply(size=size, body_gate=gate, gate_at=1_000_000))
    leader = proxy.start_get(url)
    leader.received(1_000_000)
    others = [proxy.start_get(url, expect=size) for _ in range(20)]
    proxy.wait_for_waiters(21)
    leader.leave()
    proxy.wait_for_waiters(20)
    gate.open()
    assert all(response.ok for response in results(others))
    assert origin.count("/wheel") == 1
    assert not origin.seen("/wheel")[0].aborted
    assert proxy.get(url, expect=size).hit


def test_a_leader_leaves_before_the_head(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/wheel", Reply(size=200_000, gate=gate))
    leader = proxy.start_get(url)
    origin.wait_for("/wheel")
    others = [proxy.start_get(url, expect=200_000) for _ in range(20)]
    proxy.wait_for_waiters(21)
    leader.leave()
    proxy.wait_for_waiters(20)
    gate.open()
    assert all(response.ok for response in results(others))
    assert origin.count("/wheel") == 1


def test_a_queued_leader_leaves(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """With ten waiters behind it: they get 200, from one origin GET."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    blocker = proxy.start_get(origin.serve("/blocker", Reply(gate=gate)))
    origin.wait_for("/blocker")
    url = origin.serve("/wheel", Reply(size=200_000))
    leader = proxy.start_get(url)
    proxy.wait_for_metric("origin_fetches_queued", 1)
    others = [proxy.start_get(url, expect=200_000) for _ in range(10)]
    proxy.eventually(proxy.waiters, lambda count: count == 12)
    assert proxy.value("origin_fetches_queued") == 1
    leader.leave()
    proxy.eventually(proxy.waiters, lambda count: count == 11)
    assert proxy.value("origin_fetches_queued") == 1
    gate.open()
    assert all(response.ok for response in results(others))
    assert blocker.result().ok
    assert origin.count("/wheel") == 1


def test_a_waiter_leaves_alone(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/wheel", Reply(size=200_000, body_gate=gate, gate_at=1000))
    fetches = [proxy.start_get(url, expect=200_000) for _ in range(3)]
    for fetch in fetches:
        fetch.received(1000)
    fetches[1].leave()
    proxy.wait_for_waiters(2)
    gate.open()
    assert all(response.ok for response in results([fetches[0], fetches[2]]))
    assert origin.count("/wheel") == 1


def test_all_leave_and_much_is_left(proxy: Proxy, origin: Origin) -> None:
    """Nobody wants it any more and most of it is still to come: the origin is let go, nothing is stored."""
    gate = Gate()
    url = origin.serve("/iso", Reply(size=50_000_000, body_gate=gate, gate_at=100_000))
    fetches = [proxy.start_get(url) for _ in range(3)]
    for fetch in fetches:
        fetch.received(100_000)
    for fetch in fetches:
        fetch.leave()
    request = origin.seen("/iso")[0]
    origin.wait(lambda: request.aborted, told="the end of the abandoned fill")
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    origin.serve("/iso", Reply(size=1000))
    again = proxy.get(url)
    assert again.ok
    assert not again.hit


def test_all_leave_and_little_is_left(proxy: Proxy, origin: Origin) -> None:
    """Almost done: it is finished for the next agent."""
    gate = Gate()
    url = origin.serve("/small", Reply(size=200_000, body_gate=gate, gate_at=100_000))
    fetch = proxy.start_get(url)
    fetch.received(100_000)
    fetch.leave()
    proxy.wait_for_waiters(0)
    gate.open()
    origin.wait(lambda: origin.seen("/small")[0].answered, told="the rest of the fill")
    proxy.wait_until_idle()
    again = proxy.get(url, expect=200_000)
    assert again.ok
    assert again.hit
    assert origin.count("/small") == 1


def test_uncacheable_answers_are_fetched_in_parallel(proxy: Proxy, origin: Origin) -> None:
    """60 agents wait for what turns out to be `no-store`: one gets it, the others go to the origin, all at once."""
    first, rest = Gate(), Gate()
    url = origin.serve("/token", Reply(headers=NO_STORE, gate=first), Reply(headers=NO_STORE, gate=rest))
    fetches = [proxy.start_get(url, expect=1000) for _ in range(60)]
    origin.wait_for("/token")
    proxy.wait_for_waiters(60)
    first.open()
    origin.wait(lambda: origin.in_flight == 59, told="59 requests at once")
    rest.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/token") == 60
    # From now on nobody waits for anybody.
    held = Gate()
    origin.serve("/token", Reply(headers=NO_STORE, gate=held))
    again = [proxy.start_get(url, expect=1000) for _ in range(60)]
    origin.wait(lambda: origin.in_flight == 60, told="60 requests at once")
    held.open()
    assert all(response.ok for response in results(again))
    proxy.wait_until_idle()
    assert not proxy.body_files(content("/token", 1000))


@pytest.mark.parametrize("chunked", [False, True])
def test_the_origin_dies_in_the_middle(start_proxy: Callable[..., Proxy], origin: Origin, chunked: bool) -> None:
    """Five agents read along when the origin goes away: none takes what it has for all, and nothing is kept."""
    proxy = start_proxy()
    gate = Gate()
    size = 1_000_000
    url = origin.serve("/torn", Reply(size=size, chunked=chunked, cut=400_000, body_gate=gate, gate_at=200_000))
    fetches = [proxy.start_get(url) for _ in range(5)]
    for fetch in fetches:
        fetch.received(200_000)
    gate.open()
    for response in results(fetches):
        assert response.status == 200
        assert not response.complete, response
    asked = origin.count("/torn")
    proxy.wait_until_idle()
    assert proxy.value("cache_entries") == 0
    origin.serve("/torn", Reply(size=size))
    again = proxy.get(url, expect=size)
    assert again.ok
    assert not again.hit
    assert origin.count("/torn") == asked + 1
    assert proxy.get(url, expect=size).hit


def test_the_origin_dies_before_the_agents_have_a_byte(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/dead", Reply(fail="close", gate=gate))
    fetches = [proxy.start_get(url) for _ in range(5)]
    origin.wait_for("/dead")
    proxy.wait_for_waiters(5)
    gate.open()
    for response in results(fetches):
        assert response.status == 502
        assert response.complete
        assert "proxy-cache" in (response.header("Proxy-Status") or "")
    assert origin.count("/dead") <= 4


def test_an_error_reaches_every_waiter_as_it_came(proxy: Proxy, origin: Origin) -> None:
    """20 agents, an origin in trouble: four tries in all, and its own last answer for everybody."""
    gate = Gate()
    url = origin.serve(
        "/trouble", Reply(status=503, gate=gate, headers=(("Cache-Control", "max-age=3600"), ("X-Reason", "backup")))
    )
    fetches = [proxy.start_get(url) for _ in range(20)]
    origin.wait_for("/trouble")
    proxy.wait_for_waiters(20)
    gate.open()
    for response in results(fetches):
        assert response.status == 503
        assert response.complete
        assert response.header("X-Reason") == "backup"
        assert response.body == content("/trouble", 1000)
    assert origin.count("/trouble") == 4
    origin.serve("/trouble")
    again = proxy.get(url)
    assert again.ok
    assert not again.hit


def test_not_found_reaches_every_waiter(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/missing", Reply(status=404, gate=gate, headers=(FRESH,)))
    fetches = [proxy.start_get(url) for _ in range(10)]
    origin.wait_for("/missing")
    proxy.wait_for_waiters(10)
    gate.open()
    assert {response.status for response in results(fetches)} == {404}
    assert origin.count("/missing") == 1


def test_waiters_for_another_variant_get_theirs(proxy: Proxy, origin: Origin) -> None:
    """While nobody knows yet that the answer varies, both kinds wait for one fill; each gets what it asked for."""
    gate = Gate()
    url = origin.serve("/simple/", Reply(headers=(FRESH, ("Vary", "Accept")), seed_by="Accept", gate=gate))
    kinds = ["application/json", "text/html"] * 5
    fetches = [proxy.start_get(url, headers=[("Accept", kind)], expect=(f"/simple/|{kind}", 1000)) for kind in kinds]
    origin.wait_for("/simple/")
    proxy.wait_for_waiters(10)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/simple/") == 2


def test_users_do_not_get_each_others_answers(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/me", Reply(seed_by="Authorization", gate=gate))
    users = [f"Bearer {number}" for number in range(5)]
    fetches = [proxy.start_get(url, headers=[("Authorization", user)], expect=(f"/me|{user}", 1000)) for user in users]
    origin.wait_for("/me")
    proxy.wait_for_metric("inflight_requests", 5)
    gate.open()
    assert all(response.ok for response in results(fetches))


def test_a_body_that_ends_with_the_connection(proxy: Proxy, origin: Origin) -> None:
    """HTTP/1.0 style: neither length nor chunks."""
    url = origin.serve("/old", Reply(size=100_000, until_close=True))
    fetches = [proxy.start_get(url, expect=100_000) for _ in range(3)]
    assert all(response.ok for response in results(fetches))


def test_a_validation_is_shared(proxy: Proxy, origin: Origin) -> None:
    """A stale entry and ten agents: the origin is asked once whether it is still good."""
    gate = Gate()
    stale = (("Cache-Control", "max-age=0"), ("ETag", '"v1"'))
    url = origin.serve("/index", Reply(headers=stale), Reply(headers=stale, gate=gate))
    proxy.get(url)
    proxy.wait_until_idle()
    fetches = [proxy.start_get(url, expect=1000) for _ in range(10)]
    origin.wait_for("/index", 2)
    proxy.wait_for_waiters(10)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert [request.header("If-None-Match") for request in origin.seen("/index")] == [None, '"v1"']
