"""Agents that have an object already, and ask whether it has changed, of a cache that has none of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.agents import results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
Field = tuple[str, str]
SIZE = 50_000_000
FRESH = ("Cache-Control", "max-age=3600")
TAG = ("ETag", '"v1"')
SAME = ("If-None-Match", '"v1"')
OTHER = ("If-None-Match", '"v0"')
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


def body_bytes(origin: Origin, target: str) -> int:
    return sum(request.sent for request in origin.seen(target))


@pytest.mark.parametrize(
    ("validator", "condition"),
    [
        pytest.param(TAG, SAME, id="tag"),
        pytest.param(TAG, ("If-None-Match", '"v0", "v1"'), id="one of its tags"),
        pytest.param(("Last-Modified", DATE), ("If-Modified-Since", DATE), id="date"),
    ],
)
def test_50_agents_that_have_it(proxy: Proxy, origin: Origin, validator: Field, condition: Field) -> None:
    """The origin is asked once whether it has changed, and sends no body: neither to them, nor to who asks later."""
    gate = Gate()
    target = f"/have/{condition[1]}".replace(" ", "_").replace('"', "'")
    url = origin.serve(target, Reply(size=SIZE, headers=(FRESH, validator), gate=gate))
    fetches = [proxy.start_get(url, headers=[condition]) for _ in range(50)]
    origin.wait_for(target)
    proxy.wait_for_waiters(50)
    gate.open()
    assert {response.status for response in results(fetches)} == {304}
    for _ in range(5):
        again = proxy.get(url, headers=[condition])
        assert again.status == 304
        assert again.hit
        assert again.header(validator[0]) == validator[1]
    assert origin.count(target) == 1
    assert body_bytes(origin, target) == 0


def test_what_has_to_be_asked_for_each_time(proxy: Proxy, origin: Origin) -> None:
    """``no-cache``: each wave of agents is one question, and no body is begun for any of them."""
    headers = (("Cache-Control", "no-cache"), TAG)
    for wave in range(3):
        gate = Gate()
        url = origin.serve("/wave", Reply(size=SIZE, headers=headers, gate=gate))
        fetches = [proxy.start_get(url, headers=[SAME]) for _ in range(20)]
        origin.wait_for("/wave", wave + 1)
        proxy.wait_for_waiters(20)
        gate.open()
        assert {response.status for response in results(fetches)} == {304}
    assert origin.count("/wave") == 3
    assert body_bytes(origin, "/wave") == 0


@pytest.mark.parametrize("first", [SAME, OTHER, None], ids=["has it", "has another", "has none"])
def test_a_mixed_herd(proxy: Proxy, origin: Origin, first: Field | None) -> None:
    """Some have it, some have another version, some have none: the body is sent once, to those who need it."""
    size = 2_000_000
    gate = Gate()
    target = f"/mixed/{first[1][1:-1] if first else 'none'}"
    url = origin.serve(
        target, Reply(size=size, headers=(FRESH, TAG), gate=gate), Reply(size=size, headers=(FRESH, TAG))
    )
    leader = proxy.start_get(url, headers=[first] if first else [])
    origin.wait_for(target)
    have = [proxy.start_get(url, headers=[SAME]) for _ in range(10)]
    need = [proxy.start_get(url, headers=fields, expect=size) for fields in ([OTHER], [], [OTHER], [], [])]
    proxy.wait_for_waiters(16)
    gate.open()
    assert {response.status for response in results(have)} == {304}
    assert all(response.ok for response in results(need))
    assert leader.result().status == (304 if first == SAME else 200)
    assert origin.count(target) == (2 if first == SAME else 1)
    assert body_bytes(origin, target) == size
    proxy.wait_until_idle()
    assert proxy.get(url, expect=size).hit


@pytest.mark.parametrize("tag", ['"v1"', 'W/"v1"'], ids=["strong", "weak"])
def test_what_was_dropped_is_not_begun_anew_for_a_304(proxy: Proxy, origin: Origin, tag: str) -> None:
    """The agent that wanted the body leaves. The head that it has left answers those who only want to know."""
    gate = Gate()
    target = f"/dropped/{tag[0]}"
    headers = (FRESH, ("ETag", tag), ("Accept-Ranges", "bytes"))
    url = origin.serve(target, Reply(size=SIZE, headers=headers, body_gate=gate, gate_at=100_000))
    fetch = proxy.start_get(url)
    fetch.received(100_000)
    fetch.leave()
    origin.wait(lambda: origin.seen(target)[0].aborted, told="the end of the abandoned fill")
    proxy.wait_until_idle()
    for _ in range(10):
        answer = proxy.get(url, headers=[SAME])
        assert answer.status == 304
        assert answer.hit
    assert origin.count(target) == 1


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "stale"])
@pytest.mark.parametrize("tags", ['W/"v{}"', '"v{}"'], ids=["weak", "strong"])
def test_agents_that_have_the_next_version_already(proxy: Proxy, origin: Origin, tags: str, fresh: bool) -> None:
    """What is stored is stale, and older than what they have. Its body is begun for the first of them, and never again
    for a 304. Who has the old one, or none, gets the new one."""
    target = f"/next/{tags[0]}/{fresh}"
    old, new, newest = (("ETag", tags.format(number)) for number in (1, 2, 3))
    control = FRESH if fresh else ("Cache-Control", "max-age=0")
    url = origin.serve(target, Reply(seed="old", size=100_000, headers=(("Cache-Control", "max-age=0"), old)))
    assert proxy.get(url, expect=("old", 100_000)).ok
    proxy.wait_until_idle()
    gate = Gate()
    reply = Reply(seed="new", size=3_000_000, headers=(control, new), body_gate=gate, gate_at=10_000)
    origin.serve(target, reply)
    have = ("If-None-Match", new[1])
    for _ in range(10):
        assert proxy.get(url, headers=[have]).status == 304
        proxy.wait_until_idle()
    begun = [request for request in origin.seen(target)[1:] if request.sent]
    assert len(begun) == 1
    assert origin.count(target) == (2 if fresh else 11)
    gate.open()
    for headers in ([("If-None-Match", old[1])], []):
        assert proxy.get(url, headers=headers, expect=("new", 3_000_000)).ok
        proxy.wait_until_idle()
    origin.serve(target, Reply(seed="newest", headers=(control, newest)))
    answer = proxy.get(url, headers=[have, ("Cache-Control", "no-cache")])
    assert answer.body == content("newest", 1000)


def test_an_origin_that_takes_no_notice_of_conditions(proxy: Proxy, origin: Origin) -> None:
    """It sends all of it to who has it. That is not waited for, and not begun again for the next."""
    url = origin.serve("/deaf", Reply(size=SIZE, headers=(FRESH, ("ETag", 'W/"v1"'))))
    answers = results([proxy.start_get(url, headers=[SAME]) for _ in range(50)])
    answers += [proxy.get(url, headers=[SAME]) for _ in range(5)]
    assert {answer.status for answer in answers} == {304}
    proxy.wait_until_idle()
    assert origin.count("/deaf") == 1


def test_a_part_that_is_stored_answers_a_condition(proxy: Proxy, origin: Origin) -> None:
    headers = (FRESH, TAG, ("Accept-Ranges", "bytes"))
    url = origin.serve("/part", Reply(size=SIZE, headers=headers))
    assert proxy.get(url, headers=[("Range", "bytes=0-9")]).status == 206
    proxy.wait_until_idle()
    for condition in (SAME, ("If-None-Match", 'W/"v1"')):
        answer = proxy.get(url, headers=[condition])
        assert answer.status == 304
        assert answer.hit
    assert origin.count("/part") == 1


def test_a_stale_part_is_validated_and_not_completed(proxy: Proxy, origin: Origin) -> None:
    headers = (("Cache-Control", "max-age=0"), TAG, ("Accept-Ranges", "bytes"))
    url = origin.serve("/stale", Reply(size=SIZE, headers=headers))
    assert proxy.get(url, headers=[("Range", "bytes=0-9")]).status == 206
    proxy.wait_until_idle()
    assert proxy.get(url, headers=[SAME]).status == 304
    assert [request.header("If-None-Match") for request in origin.seen("/stale")] == [None, '"v1"']
    assert origin.count("/stale") == 2


def test_one_users_304_is_nobody_elses(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §3.5: without a word from the origin, what came with Authorization is for who sent it."""
    gate = Gate()
    url = origin.serve("/user", Reply(headers=(FRESH, TAG), gate=gate), Reply(headers=(FRESH, TAG)))
    first = proxy.start_get(url, headers=[SAME, ("Authorization", "Bearer alice")])
    origin.wait_for("/user")
    second = proxy.start_get(url, headers=[SAME, ("Authorization", "Bearer bob")])
    proxy.wait_for_waiters(2)
    gate.open()
    assert {response.status for response in results([first, second])} == {304}
    assert [request.header("Authorization") for request in origin.seen("/user")] == ["Bearer alice", "Bearer bob"]
    assert proxy.get(url, headers=[SAME]).status == 304
    assert origin.count("/user") == 3


def test_an_upload_makes_a_known_head_void(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §4.4"""
    url = origin.serve("/put", Reply(headers=(FRESH, TAG)))
    assert proxy.get(url, headers=[SAME]).status == 304
    assert proxy.get(url, headers=[SAME]).hit
    assert proxy.request("PUT", url, body=b"x").status == 200
    assert not proxy.get(url, headers=[SAME]).hit
    assert origin.count("/put", "GET") == 2


def test_a_304_is_one_variants(proxy: Proxy, origin: Origin) -> None:
    headers = (FRESH, TAG, ("Vary", "Accept-Encoding"))
    url = origin.serve("/vary", Reply(headers=headers))
    gzip, plain = ("Accept-Encoding", "gzip"), ("Accept-Encoding", "br")
    assert proxy.get(url, headers=[SAME, gzip]).status == 304
    assert proxy.get(url, headers=[SAME, gzip]).hit
    assert not proxy.get(url, headers=[SAME, plain]).hit
    assert origin.count("/vary") == 2


@pytest.mark.parametrize("asks", ["all", "bytes=2000000-2000999", "bytes=2500000-"])
def test_a_new_version_in_place_of_a_gap_is_begun_once(proxy: Proxy, origin: Origin, asks: str) -> None:
    """The origin answers 200 to the If-Range for what is lacking: that is what the client gets."""
    target, size = f"/gap/{asks}", 3_000_000
    headers = (FRESH, ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))
    url = origin.serve(target, Reply(seed="old", size=size, headers=headers))
    assert proxy.get(url, headers=[("Range", "bytes=0-9")]).status == 206
    proxy.wait_until_idle()
    origin.serve(target, Reply(seed="new", size=size, headers=(headers[0], ("ETag", '"v2"'), headers[2])))
    first, _, last = asks.removeprefix("bytes=").partition("-")
    answer = proxy.get(url, headers=[("Range", asks)] if asks != "all" else [])
    if asks == "all":
        assert (answer.status, answer.body) == (200, content("new", size))
    else:
        stop = int(last) + 1 if last else size
        assert (answer.status, answer.body) == (206, content("new", stop - int(first), int(first)))
    proxy.wait_until_idle()
    assert origin.count(target) == 2
