"""Somebody downloads all of a big object slowly; somebody else wants bytes that are far from there yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.agents import Wire, results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import SCRIPTS, Proxy

Start = Callable[..., Proxy]
SIZE = 20_000_000
HERE = 1_000_000
"""Bytes after which the whole comes to a halt."""
OBJECT = (("Cache-Control", "max-age=3600"), ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))
TAIL = [("Range", "bytes=-10240")]


def ranges(origin: Origin, target: str) -> list[str]:
    return [value for request in origin.seen(target) if (value := request.header("Range")) is not None]


def slow_whole(
    proxy: Proxy, origin: Origin, target: str, *others: Reply, headers: tuple[tuple[str, str], ...] = OBJECT
) -> tuple[str, Gate, object]:
    """An agent that has the first bytes of a whole, which goes on when the gate opens."""
    gate = Gate()
    whole = Reply(size=SIZE, headers=headers, body_gate=gate, gate_at=HERE)
    url = origin.serve(target, whole, *(others or (Reply(size=SIZE, headers=headers),)))
    fetch = proxy.start_get(url, expect=SIZE)
    fetch.received(HERE)
    return url, gate, fetch


def test_the_tail_comes_before_the_whole(proxy: Proxy, origin: Origin) -> None:
    """Ten agents want the last 10 kB while another one's download stands still; they get it, from one request, and so
    does who comes later. The download goes on as if nothing had been."""
    url, gate, whole = slow_whole(proxy, origin, "/wheel")
    for answer in results([proxy.start_get(url, headers=TAIL) for _ in range(10)]):
        assert answer.status == 206
        assert answer.body == content("/wheel", 10_240, SIZE - 10_240)
        assert answer.header("Content-Range") == f"bytes {SIZE - 10_240}-{SIZE - 1}/{SIZE}"
    later = proxy.get(url, headers=[("Range", f"bytes={SIZE - 8}-{SIZE - 1}")])
    assert later.body == content("/wheel", 8, SIZE - 8)
    assert origin.count("/wheel") == 2
    assert origin.seen("/wheel")[1].header("If-Range") == '"v1"'
    gate.open()
    assert whole.result().ok  # type: ignore[attr-defined]
    proxy.wait_until_idle()
    assert proxy.get(url, expect=SIZE).hit
    assert proxy.get(url, headers=TAIL).hit
    assert origin.count("/wheel") == 2


def test_footer_first_then_row_groups(proxy: Proxy, origin: Origin) -> None:
    """A reader of Parquet that seeks, in one request and in several, beside a whole that stands still."""
    url, gate, whole = slow_whole(proxy, origin, "/parquet")
    for start, stop in ((SIZE - 8, SIZE), (SIZE - 40_000, SIZE - 8), (9_000_000, 9_200_000), (500, 900)):
        answer = proxy.get(url, headers=[("Range", f"bytes={start}-{stop - 1}")])
        assert answer.body == content("/parquet", stop - start, start)
    several = proxy.get(url, headers=[("Range", "bytes=100-199,12000000-12000099,-10")])
    assert several.status == 206
    for start, size in ((100, 100), (12_000_000, 100), (SIZE - 10, 10)):
        assert content("/parquet", size, start) in several.body
    # The last block (of 1 MiB) holds both reads of the end.
    assert len(ranges(origin, "/parquet")) == 3
    gate.open()
    assert whole.result().ok  # type: ignore[attr-defined]


def test_no_more_than_a_span_is_asked_for_twice(start_proxy: Start, origin: Origin) -> None:
    """What is longer is read from the whole, when that gets there."""
    most = 1 << 20
    proxy = start_proxy(cache_block_size="64k", cache_max_span="1m")
    url, gate, whole = slow_whole(proxy, origin, "/long")
    start, stop = 10_000_000, 15_000_000
    fetch = proxy.start_get(url, headers=[("Range", f"bytes={start}-{stop - 1}")])
    fetch.received(most - 65536)
    other = proxy.start_get(url, headers=TAIL)
    assert other.head().status == 206
    gate.open()
    assert fetch.result().body == content("/long", stop - start, start)
    assert other.result().body == content("/long", 10_240, SIZE - 10_240)
    assert whole.result().ok  # type: ignore[attr-defined]
    assert sum(request.sent for request in origin.seen("/long")) <= SIZE + most


def test_without_a_strong_validator_it_is_asked_for_alone(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §3.4: nothing can be put to it, so the range is an exchange of its own, as it came."""
    headers = (OBJECT[0], ("ETag", 'W/"v1"'), OBJECT[2])
    url, gate, whole = slow_whole(proxy, origin, "/weak", headers=headers)
    answer = proxy.get(url, headers=TAIL)
    assert answer.status == 206
    assert answer.body == content("/weak", 10_240, SIZE - 10_240)
    assert ranges(origin, "/weak") == ["bytes=-10240"]
    gate.open()
    assert whole.result().ok  # type: ignore[attr-defined]


def test_who_has_logged_in_asks_alone(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §3.5: the answer may be for that client only. It keeps nobody else from the tail."""
    url, gate, whole = slow_whole(proxy, origin, "/login")
    token = ("Authorization", "Bearer alice")
    for fields in ([token], []):
        answer = proxy.get(url, headers=[*TAIL, *fields])
        assert answer.body == content("/login", 10_240, SIZE - 10_240)
    alone, shared = origin.seen("/login")[1:]
    assert (alone.header("Authorization"), alone.header("Range")) == (token[1], "bytes=-10240")
    assert shared.header("If-Range") == '"v1"'
    gate.open()
    assert whole.result().ok  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(Reply(size=SIZE, headers=OBJECT[:2]), id="no ranges"),
        pytest.param(
            Reply(size=SIZE, seed="new", headers=(OBJECT[0], ("ETag", '"v2"'), OBJECT[2])), id="another version"
        ),
        pytest.param(Reply(status=403, headers=()), id="refused"),
        pytest.param(Reply(fail="close"), id="dead"),
    ],
)
def test_an_origin_that_does_not_play_along(proxy: Proxy, origin: Origin, second: Reply) -> None:
    """The range waits for the whole then. The origin is not asked again and again, and never is there a mixture."""
    asked = 5 if second.fail else 2  # with its retries
    url, gate, whole = slow_whole(proxy, origin, "/odd", second)
    fetch = proxy.start_get(url, headers=TAIL)
    origin.wait_for("/odd", asked)
    origin.wait(lambda: origin.in_flight == 1, told="the end of the second request")
    gate.open()
    assert fetch.result().body == content("/odd", 10_240, SIZE - 10_240)
    assert whole.result().ok  # type: ignore[attr-defined]
    assert origin.count("/odd") == asked


def test_an_origin_that_says_it_sends_no_ranges(proxy: Proxy, origin: Origin) -> None:
    headers = (*OBJECT[:2], ("Accept-Ranges", "none"))
    url, gate, whole = slow_whole(proxy, origin, "/none", headers=headers)
    fetch = proxy.start_get(url, headers=TAIL)
    assert fetch.head().status == 206
    gate.open()
    assert fetch.result().body == content("/none", 10_240, SIZE - 10_240)
    assert whole.result().ok  # type: ignore[attr-defined]
    assert origin.count("/none") == 1


def test_behind_the_rest_of_what_is_stored_in_part(proxy: Proxy, origin: Origin) -> None:
    """The first bytes are stored. Somebody fetches all the rest in one piece, slowly."""
    gate = Gate()
    part = Reply(size=SIZE, headers=OBJECT)
    url = origin.serve("/part", part, Reply(size=SIZE, headers=OBJECT, body_gate=gate, gate_at=HERE), part)
    assert proxy.get(url, headers=[("Range", "bytes=0-9")]).status == 206
    proxy.wait_until_idle()
    whole = proxy.start_get(url, expect=SIZE)
    whole.received(HERE)
    for answer in results([proxy.start_get(url, headers=TAIL) for _ in range(5)]):
        assert answer.body == content("/part", 10_240, SIZE - 10_240)
    assert origin.count("/part") == 3
    gate.open()
    assert whole.result().ok
    proxy.wait_until_idle()
    assert proxy.get(url, expect=SIZE).hit


def test_behind_a_long_range(proxy: Proxy, origin: Origin) -> None:
    """A download with Range: bytes=0-, as curl and browsers resume, is no nearer than one of all."""
    gate, part = Gate(), Reply(size=SIZE, headers=OBJECT)
    url = origin.serve("/from", Reply(size=SIZE, headers=OBJECT, body_gate=gate, gate_at=HERE), part)
    long = proxy.start_get(url, headers=[("Range", "bytes=0-")])
    long.received(HERE)
    for answer in results([proxy.start_get(url, headers=[("Range", "bytes=15000000-15000999")]) for _ in range(5)]):
        assert answer.body == content("/from", 1000, 15_000_000)
    assert ranges(origin, "/from").count("bytes=14680064-15728639") == 1
    gate.open()
    assert long.result().body == content("/from", SIZE)


def test_a_range_beside_a_whole_of_unknown_length(proxy: Proxy, origin: Origin) -> None:
    """No part can be given of that, and all of it is not what was asked for."""
    headers = (OBJECT[0], OBJECT[1], OBJECT[2])
    gate = Gate()
    whole = Reply(size=SIZE, headers=headers, chunked=True, body_gate=gate, gate_at=HERE)
    url = origin.serve("/chunked", whole, Reply(size=SIZE, headers=headers))
    fetch = proxy.start_get(url, expect=SIZE)
    fetch.received(HERE)
    answer = proxy.get(url, headers=TAIL)
    assert (answer.status, answer.body) == (206, content("/chunked", 10_240, SIZE - 10_240))
    gate.open()
    assert fetch.result().ok
    proxy.wait_until_idle()
    assert proxy.get(url, expect=SIZE).hit


def test_with_one_slot_the_range_waits_its_turn(start_proxy: Start, origin: Origin) -> None:
    """What is asked for beside a fill takes a slot like any. If the fill gets there before, it is not asked for."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    url, gate, whole = slow_whole(proxy, origin, "/slot")
    fetch = proxy.start_get(url, headers=TAIL)
    proxy.wait_for_metric("origin_fetches_queued", 1)
    gate.open()
    assert fetch.result().body == content("/slot", 10_240, SIZE - 10_240)
    assert whole.result().ok  # type: ignore[attr-defined]
    proxy.wait_until_idle()
    assert proxy.value("origin_fetches_in_flight") == 0


def test_who_waits_for_the_tail_leaves(proxy: Proxy, origin: Origin) -> None:
    """What was asked for on its behalf alone ends with it, and nothing is left that holds a slot."""
    gate = Gate()
    url, held, whole = slow_whole(proxy, origin, "/gone", Reply(size=SIZE, headers=OBJECT, gate=gate))
    fetch = proxy.start_get(url, headers=TAIL)
    origin.wait_for("/gone", 2)
    fetch.leave()
    proxy.eventually(lambda: len(proxy.status()["fills"]), lambda count: count == 1)
    assert proxy.waiters() == 1
    gate.open()
    held.open()
    assert whole.result().ok  # type: ignore[attr-defined]
    proxy.wait_until_idle()
    assert proxy.value("origin_fetches_in_flight") == 0


def test_the_download_ends_while_the_tail_is_read(proxy: Proxy, origin: Origin) -> None:
    """The agent with the whole leaves, so that is dropped; who reads the tail beside it gets all of it."""
    gate = Gate()
    tail = Reply(size=SIZE, headers=OBJECT, body_gate=gate, gate_at=1000)
    url, held, whole = slow_whole(proxy, origin, "/left", tail, Reply(size=SIZE, headers=OBJECT))
    fetch = proxy.start_get(url, headers=[("Range", "bytes=-5000000")])
    origin.wait_for("/left", 2)
    whole.leave()  # type: ignore[attr-defined]
    held.open()
    gate.open()
    assert fetch.result().body == content("/left", 5_000_000, SIZE - 5_000_000)
    proxy.wait_until_idle()


@pytest.mark.parametrize("signature", ["", "?X-Amz-Signature=0a"])
def test_several_ranges_of_what_is_not_kept(start_proxy: Start, origin: Origin, signature: str) -> None:
    """What is not kept passes once, and the last range soon comes by: whoever has looked out for it there can't have
    the first any more from that. Its connection is used again, and stays in step."""
    proxy = start_proxy(cache_max_object_size="1g" if signature else "1m")
    target, gate = f"/passes{signature}", Gate()
    url = origin.serve(target, Reply(size=SIZE, headers=OBJECT, gate=gate), Reply(size=SIZE, headers=OBJECT[:2]))
    whole = proxy.start_get(url, expect=SIZE)
    origin.wait_for(target)
    with Wire(proxy.address) as wire:
        wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nRange: bytes=3000000-3000099,100-199\r\n\r\n")
        proxy.wait_for_waiters(2)
        gate.open()
        answer = wire.response()
        assert (answer.status, answer.body == content(target, SIZE)) == (200, True)
        wire.send(f"GET {origin.serve('/next', Reply())} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        assert wire.response().body == content("/next", 1000)
    assert whole.result().ok


def test_what_is_near_is_not_asked_for_twice(start_proxy: Start, origin: Origin) -> None:
    """A download that comes fast enough."""
    proxy = start_proxy(scripts=[SCRIPTS / "near.py"])
    url = origin.serve("/fast", Reply(size=SIZE, headers=OBJECT, rate=40_000_000))
    whole = proxy.start_get(url, expect=SIZE)
    whole.received(1)
    near = proxy.get(url, headers=[("Range", "bytes=300000-300099")])
    assert near.body == content("/fast", 100, 300_000)
    assert whole.result().ok
    assert origin.count("/fast") == 1
