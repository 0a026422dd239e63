"""Origins that answer ranges in odd ways: what goes out is more than a client wants, and that is our affair, not the
client's (RFC 9110 §14, §15.3.7). No wrong byte, nothing stored as the whole that isn't, and no slot left behind."""

from __future__ import annotations

import base64
import email
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.agents import Response, results
from tests.support.content import content
from tests.support.examples import examples
from tests.support.odd_origin import (
    ERRORS,
    ERRORS_PAST_THE_END,
    NO_VALIDATOR,
    STRONG,
    UNQUOTED,
    UNQUOTED_AND_DATE,
    WAYS,
    WEAK,
    Odd,
    OddOrigin,
)
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import need, run

Start = Callable[..., Proxy]
K = 1024
SIZE: Final = 500_000
MIB: Final = 1024 * K
FRESH = ("Cache-Control", "max-age=3600")
RANGES = ("Accept-Ranges", "bytes")
NOT_COMBINED = [pytest.param(WEAK, id="weak"), pytest.param(UNQUOTED, id="unquoted"), pytest.param((), id="none")]
numbers = count()


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    """Blocks of 64 kB, four of them at once; nothing is fetched whole, and three slots have to do."""
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        fast_lane=fast_lane,
        cache_block_size="64k",
        cache_max_span="256k",
        cache_fill_whole=0,
        origin_retries=0,
        origin_max_in_flight=3,
        origin_queue_timeout=100,
    ) as proxy:
        yield proxy


@pytest.fixture
def odd_origin() -> Iterator[OddOrigin]:
    with OddOrigin() as running:
        yield running


def ranged(proxy: Proxy, url: str, value: str, *headers: tuple[str, str]) -> Response:
    return proxy.get(url, headers=[("Range", f"bytes={value}"), *headers])


def asked(origin: Origin, target: str) -> list[str]:
    return [request.header("Range") or "all" for request in origin.seen(target, "GET")]


def nothing_is_left(proxy: Proxy) -> None:
    proxy.settled()
    assert proxy.value("origin_fetches_in_flight") == 0
    assert proxy.status()["fills"] == []


def part_of(odd: Odd, content_range: str) -> bytes:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", content_range)
    assert found is not None, content_range
    return odd.body[int(found[1]) : int(found[2]) + 1]


def is_right(response: Response, odd: Odd, value: str | None) -> None:
    """Right bytes, or an error that says so. ``value``: of the Range field."""
    if response.status not in (200, 206):
        assert response.status in {304, 400, 403, 404, 410, 416, 500, 501, 502, 503, 504}, response
        return
    said = response.header_values("Content-Range")
    if response.status == 200 and not said:
        expected = odd.body
    elif (response.header("Content-Type") or "").startswith("multipart/byteranges"):
        if response.complete:
            message = email.message_from_bytes(
                f"Content-Type: {response.header('Content-Type')}\r\n\r\n".encode() + response.body
            )
            for one in message.get_payload():
                assert one.get_payload(decode=True) == part_of(odd, one["Content-Range"])  # type: ignore[union-attr]
        return
    elif said:
        expected = part_of(odd, said[0])
    else:
        assert value is not None
        start, stop = wanted_of(value, odd.size)
        expected = odd.body[start:stop]
    if response.complete:
        assert response.body == expected
    else:
        assert expected.startswith(response.body)


def wanted_of(value: str, size: int) -> tuple[int, int]:
    first, _, last = value.partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


# -- the range that is asked for is not the client's ------------------------------------------------------------------


@pytest.mark.parametrize("way", [*ERRORS_PAST_THE_END, "unknown length", "half", "earlier", "longer", "chunked"])
@pytest.mark.parametrize("value", ["0-99", "499900-499999", "499900-", "-100", "100000-300000"])
def test_the_clients_own_range_would_have_worked(proxy: Proxy, odd_origin: OddOrigin, way: str, value: str) -> None:
    """RFC 9110 §14.1.2, §14.4, §15.3.7: a 206 says what it has, and may have less, or more, than was asked for."""
    odd = Odd(way, SIZE, way, STRONG)
    url = odd_origin.answer("/own", odd)
    start, stop = wanted_of(value, SIZE)
    answer = ranged(proxy, url, value)
    assert answer.status == 206, answer
    assert answer.complete
    is_right(answer, odd, value)
    if way in (*ERRORS_PAST_THE_END, "chunked"):
        assert answer.body == odd.body[start:stop]
    whole = proxy.get(url)
    assert (whole.status, whole.body) == (200, odd.body)
    nothing_is_left(proxy)


@pytest.mark.parametrize("way", ["416 past the end", "400 past the end"])
def test_what_came_of_the_exact_range_is_kept(proxy: Proxy, odd_origin: OddOrigin, way: str) -> None:
    url = odd_origin.answer("/kept", Odd(way, SIZE, way, STRONG))
    assert ranged(proxy, url, "499900-499999").status == 206
    proxy.wait_until_idle()
    assert asked(odd_origin, "/kept") == ["bytes=458752-524287", "bytes=499900-499999"]
    assert ranged(proxy, url, "499900-499999").hit
    assert ranged(proxy, url, "10-19").status == 206  # which is asked for as it is, for a while
    assert asked(odd_origin, "/kept")[2:] == ["bytes=10-19"]
    whole = proxy.get(url)
    assert (whole.status, whole.body) == (200, content(way, SIZE))


def test_a_short_object_behind_a_strict_origin(start_proxy: Start, odd_origin: OddOrigin) -> None:
    proxy = start_proxy()
    url = odd_origin.answer("/short", Odd("416 past the end", 300, "short", STRONG))
    answer = ranged(proxy, url, "0-99")
    assert (answer.status, answer.body) == (206, content("short", 300)[:100])
    assert answer.header("Content-Range") == "bytes 0-99/300"


def test_a_range_that_is_really_beyond_the_end_is_asked_for_once(proxy: Proxy, odd_origin: OddOrigin) -> None:
    """A 416 that says how long it is says enough."""
    url = odd_origin.answer("/beyond", Odd("right", SIZE, "beyond", STRONG))
    answer = ranged(proxy, url, "900000-900099")
    assert (answer.status, answer.header("Content-Range")) == (416, f"bytes */{SIZE}")
    assert odd_origin.count("/beyond") == 1


@pytest.mark.parametrize("way", ["unknown length", "multipart", "elsewhere", "no Content-Range", "earlier"])
def test_what_nothing_can_be_made_of_is_passed_on_and_not_stored(proxy: Proxy, odd_origin: OddOrigin, way: str) -> None:
    """As any proxy would: a 502 would say that it is no HTTP."""
    odd = Odd(way, SIZE, way, STRONG)
    url = odd_origin.answer("/odd", odd)
    for _ in range(2):
        answer = ranged(proxy, url, "70000-70099")
        assert (answer.status, answer.hit) == (206, False)
        is_right(answer, odd, "70000-70099")
    # What is known of it by then spares the origin the wider ones.
    assert asked(odd_origin, "/odd") == ["bytes=65536-131071", "bytes=70000-70099", "bytes=70000-70099"]
    whole = proxy.get(url)
    assert (whole.status, whole.body, whole.hit) == (200, odd.body, False)
    assert proxy.get(url).hit
    nothing_is_left(proxy)


@pytest.mark.parametrize("own", [True, False], ids=["just this range", "a wider one"])
def test_a_200_with_a_content_range_is_not_stored_as_the_whole(
    start_proxy: Start, odd_origin: OddOrigin, own: bool
) -> None:
    """RFC 9110 §14.4: no meaning is defined for it there, and nobody knows what the body is."""
    proxy = start_proxy(cache_block_size=0 if own else "64k", cache_fill_whole=0)
    odd = Odd("200 with Content-Range", SIZE, "200", STRONG)
    url = odd_origin.answer("/200", odd)
    answer = ranged(proxy, url, "1000-1099")
    assert (answer.status, answer.body) == (200, odd.body[1000:1100])
    assert odd_origin.seen("/200")[-1].header("Range") == "bytes=1000-1099"
    for hit in (False, True):
        whole = proxy.get(url)
        assert (whole.status, whole.body, whole.hit) == (200, odd.body, hit)


def test_a_200_with_a_content_range_that_may_not_be_stored_is_not_cut(proxy: Proxy, origin: Origin) -> None:
    """Its body is no whole that a range could be taken from."""
    headers = (("Cache-Control", "no-store"), ("Content-Range", "bytes 65536-66535/500000"))
    url = origin.serve("/no-store", Reply(size=1000, headers=headers))
    answer = ranged(proxy, url, "65600-65699")
    assert (answer.status, answer.body) == (200, origin.body_of("/no-store", 1000))
    assert origin.seen("/no-store")[-1].header("Range") == "bytes=65600-65699"


@pytest.mark.parametrize(
    ("said", "stored"),
    [("bytes 0-999/5000", False), ("bytes 0-999/*", False), ("bytes 0-999/1000", True), ("nonsense", True)],
)
def test_a_200_with_a_content_range_that_nobody_asked_for(
    proxy: Proxy, origin: Origin, said: str, stored: bool
) -> None:
    """It is a 200, unless it says that there is more."""
    url = origin.serve("/unasked", Reply(size=1000, headers=(FRESH, ("Content-Range", said))))
    for answer in results([proxy.start_get(url) for _ in range(3)]):
        assert (answer.status, answer.body) == (200, origin.body_of("/unasked", 1000))
    proxy.wait_until_idle()
    assert proxy.get(url).hit is stored


@pytest.mark.parametrize("way", ERRORS)
def test_an_error_about_a_range_is_not_stored_for_the_url(proxy: Proxy, odd_origin: OddOrigin, way: str) -> None:
    odd = Odd(way, SIZE, way, STRONG)
    url = odd_origin.answer("/error", odd)
    for _ in range(2):
        answer = ranged(proxy, url, "1000-1099")
        assert (answer.status, answer.hit) == (ERRORS[way], False)
    whole = proxy.get(url)
    assert (whole.status, whole.body) == (200, odd.body)
    nothing_is_left(proxy)


@pytest.mark.parametrize("way", ["416 past the end", "unknown length", "404", "multipart", "cut"])
def test_several_clients_at_a_time_get_what_each_has_asked_for(proxy: Proxy, odd_origin: OddOrigin, way: str) -> None:
    gate = Gate()
    odd = Odd(way, SIZE, way, STRONG, gate)
    url = odd_origin.answer("/several", odd)
    values = [f"{SIZE - 1000 - at}-{SIZE - at - 1}" for at in range(10)] + [None, None]
    fetches = [
        proxy.start_get(url, headers=[("Range", f"bytes={value}")] if value is not None else []) for value in values
    ]
    proxy.wait_for_waiters(len(values))
    gate.open()
    for value, answer in zip(values, results(fetches), strict=True):
        is_right(answer, odd, value)
        if way == "cut":
            continue  # some are told that it broke off
        if value is None:
            assert (answer.status, answer.body) == (200, odd.body)
        elif way in ("416 past the end", "unknown length"):
            start, stop = wanted_of(value, SIZE)
            assert (answer.status, answer.body) == (206, odd.body[start:stop])
    nothing_is_left(proxy)


def test_a_response_that_has_begun_goes_on_where_blocks_are_refused(proxy: Proxy, odd_origin: OddOrigin) -> None:
    """Its head has been sent when the origin begins to be odd: what is lacking is asked for as it is."""
    odd = Odd("right", SIZE, "begun", STRONG)
    url = odd_origin.answer("/begun", odd)
    assert ranged(proxy, url, "0-9").status == 206
    proxy.wait_until_idle()
    odd.way = "half"
    answer = ranged(proxy, url, "5-400000")
    assert (answer.status, answer.body) == (206, odd.body[5:400_001])
    nothing_is_left(proxy)


def test_whoever_joined_for_bytes_that_do_not_come_is_not_left_waiting(proxy: Proxy, odd_origin: OddOrigin) -> None:
    """The origin sends less than it was asked for: enough for whoever had asked, and nothing for who waits along."""
    gate = Gate()
    odd = Odd("right", SIZE, "joined", STRONG)
    url = odd_origin.answer("/joined", odd)
    assert ranged(proxy, url, "0-9").status == 206
    proxy.wait_until_idle()
    odd.way, odd.gate = "tiny", gate
    first = proxy.start_get(url, headers=[("Range", "bytes=131072-131075")])
    odd_origin.wait_for("/joined", 2)
    second = proxy.start_get(url, headers=[("Range", "bytes=190000-190003")])
    proxy.wait_for_waiters(2)
    gate.open()
    assert first.result().body == odd.body[131072:131076]
    assert second.result().body == odd.body[190000:190004]
    nothing_is_left(proxy)


@pytest.mark.parametrize("way", ["half", "cut"])
def test_what_broke_off_is_gone_on_with_in_as_many_parts_as_come(
    start_proxy: Start, odd_origin: OddOrigin, way: str
) -> None:
    proxy = start_proxy(origin_retries=12)
    odd = Odd("cut", SIZE, way, STRONG)
    url = odd_origin.answer("/breaks", odd)
    fetch = proxy.start_get(url, headers=[("Range", f"bytes=0-{SIZE - 1}")])
    odd_origin.wait_for("/breaks", 2)
    odd.way = way
    odd_origin.wait_for("/breaks", 5)
    odd.way = "right"
    answer = fetch.result()
    assert (answer.status, answer.body) == (206, odd.body)


# -- what can't be put together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", NOT_COMBINED)
@pytest.mark.parametrize("value", ["0-", "100000-450000", "-400000", "0-9,400000-400009"])
def test_a_long_range_without_a_strong_validator(
    proxy: Proxy, origin: Origin, headers: tuple[tuple[str, str], ...], value: str
) -> None:
    """RFC 9111 §3.4: in one piece, since two can't be put together."""
    odd = Odd("right", SIZE, "/long")
    url = origin.serve("/long", Reply(size=SIZE, headers=(FRESH, RANGES, *headers)))
    for _ in range(2):
        answer = ranged(proxy, url, value)
        assert answer.complete
        is_right(answer, odd, value)
        if "," not in value:
            start, stop = wanted_of(value, SIZE)
            assert (answer.status, answer.body) == (206, odd.body[start:stop])
    nothing_is_left(proxy)


@pytest.mark.parametrize("headers", NOT_COMBINED)
def test_a_whole_get_beside_another_clients_range(
    proxy: Proxy, origin: Origin, headers: tuple[tuple[str, str], ...]
) -> None:
    gate = Gate()
    url = origin.serve(
        "/beside",
        Reply(size=SIZE, headers=(FRESH, RANGES, *headers), gate=gate),
        Reply(size=SIZE, headers=(FRESH, RANGES, *headers)),
    )
    other = proxy.start_get(url, headers=[("Range", "bytes=0-199999")])
    origin.wait_for("/beside")
    wholes = [proxy.start_get(url) for _ in range(3)]
    proxy.wait_for_waiters(4)
    gate.open()
    body = origin.body_of("/beside", SIZE)
    assert all(whole.ok and whole.body == body for whole in results(wholes))
    assert other.result().body == body[:200_000]
    assert asked(origin, "/beside").count("all") == 1
    assert proxy.get(url).hit
    nothing_is_left(proxy)


@pytest.mark.parametrize("headers", NOT_COMBINED)
def test_two_ranges_at_a_time_leave_no_slot_taken(
    start_proxy: Start, origin: Origin, headers: tuple[tuple[str, str], ...]
) -> None:
    """The second waits for the first, whose bytes are not its own: it has to let go of them."""
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_timeout=100)
    for number in range(3):
        gate, target = Gate(), f"/two/{number}"
        reply = Reply(size=24 * MIB, headers=(FRESH, RANGES, *headers))
        url = origin.serve(target, replace(reply, gate=gate), reply)
        fetches = [
            proxy.start_get(url, headers=[("Range", f"bytes={at * 8 * MIB}-{at * 8 * MIB + 4 * MIB - 1}")])
            for at in (0, 1)
        ]
        proxy.wait_for_waiters(2)
        gate.open()
        for at, answer in enumerate(results(fetches)):
            assert answer.complete
            assert answer.body == origin.body_of(target, 4 * MIB, at * 8 * MIB)
        nothing_is_left(proxy)


@pytest.mark.parametrize("headers", NOT_COMBINED)
def test_small_ranges_cost_what_they_are(
    start_proxy: Start, origin: Origin, headers: tuple[tuple[str, str], ...]
) -> None:
    """Once it is known that blocks would share nothing, and by a HEAD before that."""
    proxy = start_proxy()
    url = origin.serve("/small", Reply(size=20_000_000, headers=(FRESH, RANGES, *headers)))
    for first in (0, 10_000_000, 15_000_000):
        assert ranged(proxy, url, f"{first}-{first + 99}").body == origin.body_of("/small", 100, first)
    assert asked(origin, "/small") == ["bytes=0-1048575", "bytes=10000000-10000099", "bytes=15000000-15000099"]
    assert ranged(proxy, url, "500-599").hit
    other = origin.serve("/told", Reply(size=20_000_000, headers=(FRESH, RANGES, *headers)))
    assert proxy.request("HEAD", other).status == 200
    assert ranged(proxy, other, "-100").body == origin.body_of("/told", 100, 20_000_000 - 100)
    assert asked(origin, "/told") == ["bytes=-100"]


def test_parts_are_put_together_by_date_where_the_tag_has_no_quotes(proxy: Proxy, origin: Origin) -> None:
    """RFC 9110 §8.8.2.2: Last-Modified is strong, and what is no entity tag doesn't speak against it."""
    url = origin.serve("/date", Reply(size=SIZE, headers=(FRESH, RANGES, *UNQUOTED_AND_DATE)))
    assert ranged(proxy, url, "0-9").status == 206
    whole = proxy.get(url)
    assert (whole.status, whole.body) == (200, origin.body_of("/date", SIZE))
    assert asked(origin, "/date") == ["bytes=0-65535", "bytes=65536-499999"]
    assert origin.seen("/date")[-1].header("If-Range") == "Mon, 05 Jan 2026 10:00:00 GMT"


def test_parts_are_put_together_by_a_date_that_is_not_told_again(proxy: Proxy, odd_origin: OddOrigin) -> None:
    """RFC 9110 §15.3.7: to a request with If-Range a 206 "SHOULD NOT generate other representation header fields beyond
    those required", and Last-Modified isn't."""
    odd = Odd("no date again", SIZE, "seed", (("Last-Modified", "Mon, 05 Jan 2026 10:00:00 GMT"),))
    url = odd_origin.answer("/dated", odd)
    answer = ranged(proxy, url, "0-400000")
    assert (answer.status, answer.body == odd.body[:400_001]) == (206, True)
    proxy.wait_until_idle()
    assert ranged(proxy, url, "450000-450009").body == odd.body[450_000:450_010]
    assert asked(odd_origin, "/dated") == ["bytes=0-262143", "bytes=262144-458751"]
    for value, span in (("0-9", (0, 10)), ("300000-300009", (300_000, 300_010))):
        assert ranged(proxy, url, value).body == odd.body[slice(*span)]
    assert proxy.get(url).body == odd.body
    assert odd_origin.count("/dated") == 3


def test_mirrors_with_a_tag_of_their_own(proxy: Proxy, odd_origin: OddOrigin) -> None:
    """A long response breaks off where the next part is another version. The second try gets all of it."""
    odd = Odd("another tag each time", 8_000_000, "seed", STRONG)
    url = odd_origin.answer("/mirrors", odd)
    assert not ranged(proxy, url, "0-4000000").complete
    proxy.wait_until_idle()
    answer = ranged(proxy, url, "0-4000000")
    assert (answer.status, answer.body == odd.body[:4_000_001]) == (206, True)


@pytest.mark.parametrize("headers", [UNQUOTED_AND_DATE, UNQUOTED], ids=["with a date", "without"])
def test_a_tag_without_quotes_validates(proxy: Proxy, origin: Origin, headers: tuple[tuple[str, str], ...]) -> None:
    """RFC 9111 §4.3.1: it goes back as it came, and a 304 with the same one makes the body good."""
    url = origin.serve("/validate", Reply(size=1000, headers=(("Cache-Control", "no-cache"), *headers)))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    again = proxy.get(url)
    assert (again.status, again.body) == (200, origin.body_of("/validate", 1000))
    assert origin.seen("/validate")[1].header("If-None-Match") == "21293ded"
    assert "fwd-status=304" in (again.header("Cache-Status") or "")
    assert proxy.get(url, headers=[("If-None-Match", "21293ded")]).status == 304


@pytest.mark.parametrize("program", ["curl", "wget"])
@pytest.mark.parametrize("headers", NOT_COMBINED)
def test_resuming_what_has_no_strong_validator(
    proxy: Proxy, origin: Origin, tmp_path: Path, headers: tuple[tuple[str, str], ...], program: str
) -> None:
    size = 3_000_000
    url = origin.serve("/resumed", Reply(size=size, headers=(FRESH, RANGES, *headers)))
    file = tmp_path / "resumed"
    file.write_bytes(origin.body_of("/resumed", 1_000_000))
    if program == "curl":
        done = run([need("curl"), "-sS", "-f", "-C", "-", "-o", str(file), "-x", proxy.url, url])
    else:
        done = run([need("wget"), "-q", "-c", "-t", "1", url], http_proxy=proxy.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == origin.body_of("/resumed", size)


# -- what a HEAD says, and digests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["0", "5", "3000000"])
def test_a_wrong_length_of_a_head_costs_no_whole_fetch(start_proxy: Start, origin: Origin, told: str) -> None:
    """RFC 9110 §9.3.2 makes the HEAD wrong, and not the GET."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=100)
    size, gate = 60_000_000, Gate()
    # A HEAD is answered with the length of what is served then.
    url = origin.serve("/head", Reply(size=int(told), headers=(FRESH, RANGES, *STRONG)))
    assert proxy.request("HEAD", url).header("Content-Length") == told
    whole = Reply(size=size, headers=(FRESH, RANGES, *STRONG), body_gate=gate, gate_at=2_000_000)
    origin.serve("/head", whole)
    answer = ranged(proxy, url, "-1000")
    assert (answer.status, answer.body) == (206, origin.body_of("/head", 1000, size - 1000))
    assert asked(origin, "/head") == (["bytes=-1048576"] if told == "0" else ["all", "bytes=-1048576"])
    assert sum(request.sent for request in origin.seen("/head")) < 4_000_000
    gate.open()
    nothing_is_left(proxy)


def test_a_head_tells_a_length_and_the_get_tells_none(start_proxy: Start, origin: Origin) -> None:
    """A page that is made anew each time: the GET comes in chunks, and they are many."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=100)
    size, gate = 60_000_000, Gate()
    url = origin.serve("/told", Reply(size=20, headers=(FRESH, RANGES, *STRONG)))
    assert proxy.request("HEAD", url).header("Content-Length") == "20"
    chunked = Reply(size=size, headers=(FRESH, RANGES, *STRONG), chunked=True, body_gate=gate, gate_at=2_000_000)
    origin.serve("/told", chunked)
    answer = ranged(proxy, url, "-1000")
    assert (answer.status, answer.body) == (206, origin.body_of("/told", 1000, size - 1000))
    assert asked(origin, "/told") == ["all", "bytes=-1048576"]
    gate.open()
    nothing_is_left(proxy)


@pytest.mark.parametrize(
    "condition", [("If-Range", '"v1"'), ("If-None-Match", '"other"'), ("If-Range", '"other"')], ids=" ".join
)
def test_ranges_with_a_condition_of_what_a_head_has_told_about(
    start_proxy: Start, origin: Origin, condition: tuple[str, str]
) -> None:
    """It is short, and fetched whole: the range is not the origin's to answer, nor whether it still fits."""
    proxy = start_proxy()
    path, size = f"/told/{condition[0]}/{condition[1][1:-1]}", 100_000
    url = origin.serve(path, Reply(size=size, headers=(FRESH, RANGES, ("ETag", '"v1"'))))
    assert proxy.request("HEAD", url).status == 200
    gate = Gate()
    origin.serve(path, Reply(size=size, headers=(FRESH, RANGES, ("ETag", '"v1"')), gate=gate))
    fetches = [proxy.start_get(url, headers=[("Range", "bytes=1000-1999"), condition]) for _ in range(10)]
    proxy.wait_for_waiters(10)
    gate.open()
    whole = condition == ("If-Range", '"other"')
    expected = origin.body_of(path, size) if whole else origin.body_of(path, 1000, 1000)
    assert {(answer.status, answer.body) for answer in results(fetches)} == {(200 if whole else 206, expected)}
    proxy.wait_until_idle()
    assert proxy.get(url, headers=[("Range", "bytes=5-9"), condition]).hit
    assert asked(origin, path) == ["all"]


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_a_digest_of_a_part_does_not_go_out_with_others(proxy: Proxy, origin: Origin) -> None:
    """RFC 9530 §2, §3: Content-Digest is about this message's content, Repr-Digest about the whole."""
    body = origin.body_of("/digest", SIZE)
    digests = (
        ("Repr-Digest", digest(body)), ("Content-MD5", base64.b64encode(hashlib.md5(body[:65536]).digest()).decode()),
        ("Digest", "sha-256=AAAA"), ("x-ms-content-crc64", "AAAA"), ("x-amz-checksum-sha256", "AAAA"),
    )  # fmt: skip
    headers = (FRESH, RANGES, *STRONG, *digests)
    url = origin.serve("/digest", Reply(size=SIZE, headers=(*headers, ("Content-Digest", digest(body[:65536])))))
    answers = [(ranged(proxy, url, "10-19"), body[10:20])]
    proxy.wait_until_idle()
    rest = Reply(size=SIZE, headers=(*headers, ("Content-Digest", digest(body[65536:]))))
    origin.serve("/digest", rest)
    answers += [(proxy.get(url), body), (ranged(proxy, url, "7-9"), body[7:10]), (ranged(proxy, url, "-5"), body[-5:])]
    for answer, expected in answers:
        assert answer.body == expected
        assert answer.header("Repr-Digest") == digest(body)
        assert answer.header("Content-Digest") in (None, digest(expected))
        for name in ("Content-MD5", "Digest", "x-ms-content-crc64", "x-amz-checksum-sha256"):
            assert answer.header(name) is None


def test_a_digest_of_the_whole_stays_with_the_whole(proxy: Proxy, origin: Origin) -> None:
    body = origin.body_of("/whole", 1000)
    url = origin.serve("/whole", Reply(headers=(FRESH, ("Content-Digest", digest(body)))))
    for _ in range(2):
        assert proxy.get(url).header("Content-Digest") == digest(body)
    assert ranged(proxy, url, "0-9").header("Content-Digest") is None
    assert ranged(proxy, url, "0-9,20-29").header("Content-Digest") is None


@pytest.mark.parametrize("way", ["another length each time", "another length, in chunks"])
def test_what_is_not_there_is_not_asked_for_again_and_again(proxy: Proxy, odd_origin: OddOrigin, way: str) -> None:
    """Its origin says that it is longer than it is, to several clients at the same time."""
    for _ in range(3):
        target = f"/longer/{next(numbers)}"
        odd = Odd("503", 3_000_000, target, UNQUOTED_AND_DATE)
        url = odd_origin.answer(target, odd)
        for odd.way in ("503", way):
            fetches = [proxy.start_get(url, headers=[("Range", f"bytes={value}")]) for value in ("0-", "-1", "-100")]
            proxy.start_get(url, headers=[("Range", "bytes=-100")]).leave()
            for value, answer in zip(("0-", "-1", "-100"), results(fetches), strict=True):
                is_right(answer, odd, value)
        assert len(odd_origin.seen(target)) < 30
        nothing_is_left(proxy)


# -- any of them ------------------------------------------------------------------------------------------------------

LARGE: Final = 3_000_000
"""More than the window of a body that isn't kept: whoever is forgotten holds it up."""
offsets = st.sampled_from([0, 1, 65535, 65536, 200_000, 1_500_000, LARGE - 70_000, LARGE - 100, LARGE - 1])
lengths = st.sampled_from([1, 100, 65536, 100_000, 300_000, 2_000_000])
singles = st.one_of(
    st.builds(lambda first, length: f"{first}-{first + length - 1}", offsets, lengths),
    offsets.map(lambda first: f"{first}-"),
    lengths.map(lambda length: f"-{length}"),
)
values = st.one_of(st.none(), singles, singles, singles, st.lists(singles, min_size=2, max_size=2).map(",".join))
steps = st.lists(
    st.tuples(st.sampled_from(WAYS), st.lists(values, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=4
)
validators = st.sampled_from([STRONG, STRONG, WEAK, UNQUOTED, UNQUOTED_AND_DATE, NO_VALIDATOR])


@hypothesis.settings(
    max_examples=examples(60),
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(validators, steps)
@pytest.mark.timeout(900)
def test_right_bytes_or_an_honest_error(
    proxy: Proxy,
    odd_origin: OddOrigin,
    headers: tuple[tuple[str, str], ...],
    sequence: list[tuple[str, list[str | None], bool]],
) -> None:
    """However its origin answers ranges, which of its clients leave, and what comes at the same time."""
    target = f"/any/{next(numbers)}"
    odd = Odd("right", LARGE, target, headers)
    url = odd_origin.answer(target, odd)
    for way, wanted, leaves in sequence:
        odd.way = way
        fetches = [
            proxy.start_get(url, headers=[("Range", f"bytes={value}")] if value is not None else []) for value in wanted
        ]
        if leaves and len(fetches) > 1:
            wanted = wanted[:-1]
            fetches.pop().leave()
        for value, answer in zip(wanted, results(fetches), strict=True):
            is_right(answer, odd, value)
    odd.way = "right"
    whole = proxy.get(url)
    if whole.status == 200:
        is_right(whole, odd, None)
    nothing_is_left(proxy)
