"""Requests that insist on a new answer (RFC 9111 §5.2.1), while the origin is asked already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.agents import results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
Field = tuple[str, str]
INSIST = [
    ("Cache-Control", "no-cache"),
    ("Pragma", "no-cache"),
    ("Cache-Control", "max-age=0"),
]
OLD, NEW = ("ETag", '"old"'), ("ETag", '"new"')


@pytest.mark.parametrize("said", ["no-cache", "max-age=0", "max-age=600"])
@pytest.mark.parametrize("field", INSIST, ids=lambda field: "-".join(field))
def test_a_push_in_between(proxy: Proxy, origin: Origin, field: Field, said: str) -> None:
    """The origin has read the old state for the first agent when somebody pushes. 20 agents that ask after that get the
    new one, from one request."""
    gate = Gate()
    target = f"/refs/{field[0]}/{field[1]}/{said}"
    control = ("Cache-Control", said)
    url = origin.serve(
        target, Reply(seed="old", headers=(control, OLD), gate=gate), Reply(seed="new", headers=(control, NEW))
    )
    first = proxy.start_get(url)
    origin.wait_for(target)
    later = [proxy.start_get(url, headers=[field]) for _ in range(20)]
    proxy.wait_for_waiters(21)
    gate.open()
    assert first.result().body == content("old", 1000)
    assert all(response.body == content("new", 1000) for response in results(later))
    assert origin.count(target) == 2


@pytest.mark.parametrize("size", [1000, 300_000])
def test_a_burst_costs_two(proxy: Proxy, origin: Origin, size: int) -> None:
    """25 agents run `apt update`. What the first has brought is validated for the others."""
    gate = Gate()
    target = f"/InRelease/{size}"
    reply = Reply(size=size, headers=(("Cache-Control", "max-age=600"), OLD), gate=gate)
    url = origin.serve(target, reply)
    field = ("Cache-Control", "max-age=0")
    fetches = [proxy.start_get(url, headers=[field], expect=(target, size))]
    origin.wait_for(target)
    fetches += [proxy.start_get(url, headers=[field], expect=(target, size)) for _ in range(24)]
    proxy.wait_for_waiters(25)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert [request.header("If-None-Match") for request in origin.seen(target)] == [None, '"old"']


def test_a_burst_on_what_is_stored(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    headers = (("Cache-Control", "max-age=600"), OLD)
    url = origin.serve("/stored", Reply(headers=headers), Reply(headers=headers, gate=gate))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    fetches = [proxy.start_get(url, headers=[INSIST[0]])]
    origin.wait_for("/stored", 2)
    fetches += [proxy.start_get(url, headers=[INSIST[0]]) for _ in range(20)]
    proxy.wait_for_waiters(21)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/stored") == 3


def test_what_still_queues_is_new_enough(start_proxy: Start, origin: Origin) -> None:
    """The origin has not been asked yet: whoever comes now may share it."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    blocker = proxy.start_get(origin.serve("/blocker", Reply(gate=gate)))
    origin.wait_for("/blocker")
    url = origin.serve("/refs")
    fetches = [proxy.start_get(url)]
    proxy.wait_for_metric("origin_fetches_queued", 1)
    fetches += [proxy.start_get(url, headers=[field]) for field in INSIST]
    proxy.wait_for_waiters(2 + len(INSIST))
    assert proxy.value("origin_fetches_queued") == 1
    gate.open()
    assert all(response.ok for response in results([blocker, *fetches]))
    assert origin.count("/refs") == 1


def test_who_will_have_it_a_minute_old_joins(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/minute", Reply(gate=gate))
    fetches = [proxy.start_get(url)]
    origin.wait_for("/minute")
    fetches += [proxy.start_get(url, headers=[("Cache-Control", "max-age=60")]) for _ in range(5)]
    proxy.wait_for_waiters(6)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/minute") == 1


@pytest.mark.parametrize(("lifetime", "asked"), [(600, 1), (2, 2)])
def test_who_wants_it_fresh_for_longer(proxy: Proxy, origin: Origin, lifetime: int, asked: int) -> None:
    """``min-fresh``: only the head tells how long it is fresh."""
    gate = Gate()
    target = f"/min-fresh/{lifetime}"
    url = origin.serve(target, Reply(headers=(("Cache-Control", f"max-age={lifetime}"), OLD), gate=gate))
    fetches = [proxy.start_get(url)]
    origin.wait_for(target)
    fetches += [proxy.start_get(url, headers=[("Cache-Control", "min-fresh=5")]) for _ in range(5)]
    proxy.wait_for_waiters(6)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count(target) == asked


def test_a_rule_that_takes_no_notice_of_directives(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_ignore_request_directives="~all")
    gate = Gate()
    url = origin.serve("/maven", Reply(gate=gate))
    fetches = [proxy.start_get(url, headers=[INSIST[0]])]
    origin.wait_for("/maven")
    fetches += [proxy.start_get(url, headers=[field]) for field in INSIST]
    proxy.wait_for_waiters(1 + len(INSIST))
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/maven") == 1


@pytest.mark.parametrize("first", ["fails", "leaves"])
def test_the_first_brings_nothing(start_proxy: Start, origin: Origin, first: str) -> None:
    proxy = start_proxy(origin_retries=0)
    gate = Gate()
    url = origin.serve("/first", Reply(fail="close" if first == "fails" else "", gate=gate), Reply(seed="new"))
    leader = proxy.start_get(url)
    origin.wait_for("/first")
    later = [proxy.start_get(url, headers=[INSIST[0]]) for _ in range(10)]
    proxy.wait_for_waiters(11)
    if first == "leaves":
        leader.leave()
        proxy.wait_for_waiters(10)
    gate.open()
    assert all(response.body == content("new", 1000) for response in results(later))
    assert origin.count("/first") == 2


def test_an_answer_that_hangs_is_not_waited_for_for_ever(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/hangs", Reply(gate=gate), Reply(seed="new"))
    hangs = proxy.start_get(url)
    origin.wait_for("/hangs")
    later = [proxy.start_get(url, headers=[INSIST[0]]) for _ in range(10)]
    assert all(response.body == content("new", 1000) for response in results(later))
    assert origin.count("/hangs") <= 3
    gate.open()
    assert hangs.result().ok


def test_what_may_not_be_shared_is_asked_for_at_once(proxy: Proxy, origin: Origin) -> None:
    """Nobody waits for anybody once the first answer has turned out to be `no-store`."""
    first, rest = Gate(), Gate()
    headers = (("Cache-Control", "no-store"),)
    url = origin.serve("/token", Reply(headers=headers, gate=first), Reply(headers=headers, gate=rest))
    fetches = [proxy.start_get(url)]
    origin.wait_for("/token")
    fetches += [proxy.start_get(url, headers=[INSIST[0]]) for _ in range(10)]
    proxy.wait_for_waiters(11)
    first.open()
    origin.wait(lambda: origin.in_flight == 10, told="10 requests at once")
    rest.open()
    assert all(response.ok for response in results(fetches))


def test_the_next_one_queues_and_may_time_out(start_proxy: Start, origin: Origin) -> None:
    """It takes its place like any; if there is no slot in time, all who wait for it hear of that."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=5)
    gate, hold = Gate(), Gate()
    url = origin.serve("/slot", Reply(gate=gate))
    first = proxy.start_get(url)
    origin.wait_for("/slot")
    later = [proxy.start_get(url, headers=[INSIST[0]]) for _ in range(5)]
    proxy.wait_for_waiters(6)
    other = proxy.start_get(origin.serve("/other", Reply(gate=hold)))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    gate.open()
    answers = results(later)
    assert {answer.status for answer in answers} == {503}
    assert all(answer.header("Retry-After") for answer in answers)
    hold.open()
    assert all(response.ok for response in results([first, other]))
    assert origin.count("/slot") == 1


def test_who_waits_for_the_next_one_may_leave(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/leave", Reply(gate=gate), Reply(seed="new"))
    first = proxy.start_get(url)
    origin.wait_for("/leave")
    later = [proxy.start_get(url, headers=[INSIST[0]]) for _ in range(3)]
    proxy.wait_for_waiters(4)
    for fetch in later:
        fetch.leave()
    proxy.wait_for_waiters(1)
    gate.open()
    assert first.result().ok
    proxy.wait_until_idle()
    assert origin.count("/leave") == 1
    assert proxy.status()["requests_in_flight"] == 0


# -- while the body is on its way --------------------------------------------------------------------------------------

LONG = 3_000_000


def begun(proxy: Proxy, origin: Origin, target: str, *headers: Field) -> tuple[Any, str, Gate]:
    """An agent that has the beginning of a body whose rest comes when the gate opens."""
    gate = Gate()
    url = origin.serve(target, Reply(seed="old", size=LONG, headers=headers, body_gate=gate, gate_at=100_000))
    first = proxy.start_get(url, expect=("old", LONG))
    first.received(100_000)
    return first, url, gate


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        *[([field], "max-age=600") for field in INSIST],
        ([("Cache-Control", "min-fresh=900")], "max-age=600"),
        ([], "no-cache"),
        ([], "max-age=0"),
        ([("Cache-Control", "max-age=60")], "no-cache"),
    ],
)
def test_who_comes_while_the_body_runs(proxy: Proxy, origin: Origin, asks: list[Field], says: str) -> None:
    """One `apt update` after the other, and the first is still at it: a body and a 304. So it is if they say nothing,
    and the answer is `no-cache`."""
    target = f"/Packages/{asks[0][1] if asks else ''}/{says}"
    first, url, gate = begun(proxy, origin, target, ("Cache-Control", says), OLD)
    later = []
    for number in range(12):
        later.append(proxy.start_get(url, headers=asks, expect=("old", LONG)))
        proxy.wait_for_waiters(2 + number)
    gate.open()
    assert all(response.ok for response in results([first, *later]))
    assert [request.header("If-None-Match") for request in origin.seen(target)] == [None, '"old"']


def test_bodies_without_a_validator_are_two(proxy: Proxy, origin: Origin) -> None:
    first, url, gate = begun(proxy, origin, "/bare", ("Cache-Control", "max-age=600"))
    later = [proxy.start_get(url, headers=[INSIST[2]]) for _ in range(12)]
    proxy.wait_for_waiters(13)
    origin.serve("/bare", Reply(seed="new"))
    gate.open()
    assert first.result().ok
    assert all(response.body == content("new", 1000) for response in results(later))
    assert origin.count("/bare") == 2


def test_a_new_version_is_on_its_way(proxy: Proxy, origin: Origin) -> None:
    """Nobody validates the stale one meanwhile, only to begin with the new one as well."""
    url = origin.serve("/version", Reply(headers=(("Cache-Control", "max-age=600"), ("ETag", '"older"'))))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    gate = Gate()
    reply = Reply(
        seed="old", size=LONG, headers=(("Cache-Control", "max-age=600"), OLD), body_gate=gate, gate_at=100_000
    )
    origin.serve("/version", reply)
    first = proxy.start_get(url, headers=[INSIST[0]], expect=("old", LONG))
    first.received(100_000)
    later = [proxy.start_get(url, headers=[INSIST[2]], expect=("old", LONG)) for _ in range(12)]
    proxy.wait_for_waiters(13)
    gate.open()
    assert all(response.ok for response in results([first, *later]))
    tags = [request.header("If-None-Match") for request in origin.seen("/version")]
    assert tags == [None, '"older"', '"old"']


@pytest.mark.parametrize("says", ["max-age=600", "no-cache"])
def test_a_long_body_is_not_waited_for_for_ever(proxy: Proxy, origin: Origin, says: str) -> None:
    """After ten seconds one more is begun, and all who came before that share it."""
    target = f"/long/{says}"
    first, url, gate = begun(proxy, origin, target, ("Cache-Control", says), OLD)
    asks = [INSIST[0]] if says != "no-cache" else []
    body = Gate()
    new = Reply(seed="new", size=LONG, headers=(("Cache-Control", says), NEW), body_gate=body, gate_at=100_000)
    origin.serve(target, new)
    later = [proxy.start_get(url, headers=asks, expect=("new", LONG)) for _ in range(10)]
    proxy.wait_for_waiters(11)
    for fetch in later:
        fetch.received(100_000)
    body.open()
    assert all(response.ok for response in results(later))
    gate.open()
    assert first.result().ok
    assert origin.count(target) == 2


def test_a_condition_that_holds_waits_for_no_body(proxy: Proxy, origin: Origin) -> None:
    first, url, gate = begun(proxy, origin, "/condition", ("Cache-Control", "max-age=600"), OLD)
    for _ in range(2):
        assert proxy.get(url, headers=[INSIST[2], ("If-None-Match", '"old"')]).status == 304
    gate.open()
    assert first.result().ok
    assert origin.count("/condition") == 3


def test_who_waits_for_a_body_may_leave(proxy: Proxy, origin: Origin) -> None:
    first, url, gate = begun(proxy, origin, "/leaves", ("Cache-Control", "max-age=600"), OLD)
    later = [proxy.start_get(url, headers=[INSIST[0]]) for _ in range(3)]
    proxy.wait_for_waiters(4)
    for fetch in later:
        fetch.leave()
    proxy.wait_for_waiters(1)
    proxy.eventually(lambda: proxy.status()["requests_in_flight"], lambda left: left == 1)
    gate.open()
    assert first.result().ok
    proxy.wait_until_idle()
    assert origin.count("/leaves") == 1


def test_the_first_leaves_while_others_wait_for_the_body(proxy: Proxy, origin: Origin) -> None:
    """What it wanted is what they want to be stored."""
    first, url, gate = begun(proxy, origin, "/first-leaves", ("Cache-Control", "max-age=600"), OLD)
    later = [proxy.start_get(url, headers=[INSIST[0]], expect=("old", LONG)) for _ in range(3)]
    proxy.wait_for_waiters(4)
    first.leave()
    proxy.wait_for_waiters(3)
    gate.open()
    assert all(response.ok for response in results(later))
    assert [request.header("If-None-Match") for request in origin.seen("/first-leaves")] == [None, '"old"']
