"""Ranges over the wire (RFC 9110 §14, RFC 9111 §3.3 and §3.4): what is here is served, what is missing is fetched."""

from __future__ import annotations

import email
import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from tests.support.agents import Response, results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

K = 1024
BLOCK = 64 * K
FRESH = ("Cache-Control", "max-age=3600")
STALE = ("Cache-Control", "max-age=0")
TAG = ("ETag", '"v1"')
RANGES = ("Accept-Ranges", "bytes")
OBJECT = (FRESH, TAG, RANGES)


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Blocks of 64 kB, four of them at once, and nothing is fetched whole."""
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        cache_block_size="64k",
        cache_max_span="256k",
        cache_fill_whole=0,
    ) as proxy:
        yield proxy


def part(proxy: Proxy, url: str, value: str, *headers: tuple[str, str]) -> Response:
    return proxy.get(url, headers=[("Range", f"bytes={value}"), *headers])


def asked(origin: Origin, target: str) -> list[str]:
    return [request.header("Range") or "all" for request in origin.seen(target, "GET")]


def body_is(response: Response, origin: Origin, target: str, start: int, stop: int) -> None:
    assert response.status == 206, response
    assert response.body == origin.body_of(target, stop - start, start)
    assert response.header("Content-Length") == str(stop - start)
    assert (response.header("Content-Range") or "").startswith(f"bytes {start}-{stop - 1}/")


@pytest.mark.parametrize(
    ("value", "span", "ask"),
    [
        pytest.param("0-99", (0, 100), "bytes=0-65535", id="first bytes"),
        pytest.param("70000-70099", (70000, 70100), "bytes=65536-131071", id="inside the second block"),
        pytest.param("60000-70000", (60000, 70001), "bytes=0-131071", id="over two blocks"),
        pytest.param("999990-", (999990, 1000000), "bytes=983040-1245183", id="open-ended"),
        pytest.param("999990-2000000", (999990, 1000000), "bytes=983040-1245183", id="over the end"),
        pytest.param("-10", (999990, 1000000), "bytes=-65536", id="suffix"),
    ],
)
def test_single_range(proxy: Proxy, origin: Origin, value: str, span: tuple[int, int], ask: str) -> None:
    """RFC 9110 §14.1.2. The origin is asked for whole blocks, and the second time for nothing."""
    url = origin.serve("/one", Reply(size=1_000_000, headers=OBJECT))
    first = part(proxy, url, value)
    body_is(first, origin, "/one", *span)
    assert asked(origin, "/one") == [ask]
    assert "fwd=uri-miss" in (first.header("Cache-Status") or "")
    again = part(proxy, url, value)
    body_is(again, origin, "/one", *span)
    assert again.hit
    assert again.header("ETag") == '"v1"'
    assert origin.count("/one") == 1


def test_only_what_is_missing(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/gaps", Reply(size=1_000_000, headers=OBJECT))
    body_is(part(proxy, url, "100000-100009"), origin, "/gaps", 100000, 100010)  # block 1
    body_is(part(proxy, url, "200000-200009"), origin, "/gaps", 200000, 200010)  # block 3
    wide = part(proxy, url, "0-299999")  # blocks 0 to 4
    body_is(wide, origin, "/gaps", 0, 300000)
    assert "fwd=partial" in (wide.header("Cache-Status") or "")
    assert asked(origin, "/gaps") == [
        "bytes=65536-131071", "bytes=196608-262143", "bytes=0-65535", "bytes=131072-196607", "bytes=262144-327679",
    ]  # fmt: skip
    assert all(request.header("If-Range") == '"v1"' for request in origin.seen("/gaps")[2:])
    assert part(proxy, url, "5-299998").hit
    whole = proxy.get(url)
    assert (whole.status, whole.body) == (200, origin.body_of("/gaps", 1_000_000))
    assert asked(origin, "/gaps")[5:] == ["bytes=327680-999999"]
    assert proxy.get(url).hit
    assert part(proxy, url, "999999-").hit
    assert origin.count("/gaps") == 6


def test_long_ranges_take_several_requests(proxy: Proxy, origin: Origin) -> None:
    """cache_max_span is 256 kB."""
    url = origin.serve("/long", Reply(size=1_000_000, headers=OBJECT))
    body_is(part(proxy, url, "0-699999"), origin, "/long", 0, 700000)
    assert asked(origin, "/long") == ["bytes=0-262143", "bytes=262144-524287", "bytes=524288-720895"]


def test_head_of_a_part(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/head", Reply(size=1_000_000, headers=OBJECT))
    part(proxy, url, "0-0")
    answer = proxy.request("HEAD", url)
    assert (answer.status, answer.header("Content-Length")) == (200, "1000000")
    assert answer.hit
    assert proxy.request("HEAD", url, headers=[("Range", "bytes=0-1")]).status == 200
    assert origin.count("/head") == 1


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("value", ["1000000-", "2000000-2000001", "-0"])
def test_unsatisfiable(proxy: Proxy, origin: Origin, value: str, stored: bool) -> None:
    """RFC 9110 §15.5.17, §14.4: with the length that there is."""
    url = origin.serve("/416", Reply(size=1_000_000, headers=OBJECT))
    if stored:
        part(proxy, url, "0-0")
    answer = part(proxy, url, value)
    assert answer.status == 416
    assert answer.header("Content-Range") == "bytes */1000000"
    assert part(proxy, url, "5-6").status == 206


def multipart(response: Response) -> list[tuple[str, str, bytes]]:
    kind = response.header("Content-Type") or ""
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + response.body)
    assert message.is_multipart()
    return [
        (one["Content-Range"], one["Content-Type"], one.get_payload(decode=True))  # type: ignore[misc]
        for one in message.get_payload()
    ]


@pytest.mark.parametrize("stored", ["nothing", "some", "all"])
def test_several_ranges(proxy: Proxy, origin: Origin, stored: str) -> None:
    """RFC 9110 §14.6, §15.3.7.2"""
    url = origin.serve("/multi", Reply(size=1_000_000, headers=(*OBJECT, ("Content-Type", "text/x"))))
    if stored == "some":
        part(proxy, url, "500000-500001")
    elif stored == "all":
        proxy.get(url)
    answer = part(proxy, url, "500000-500099, 0-9,-5,7000000-")
    assert answer.status == 206
    assert answer.header("Content-Range") is None
    assert len(answer.body) == int(answer.header("Content-Length") or 0)
    body = origin.body_of("/multi", 1_000_000)
    assert [(where, kind) for where, kind, _ in multipart(answer)] == [
        ("bytes 500000-500099/1000000", "text/x"),
        ("bytes 0-9/1000000", "text/x"),
        ("bytes 999995-999999/1000000", "text/x"),
    ]
    assert [data for _, _, data in multipart(answer)] == [body[500000:500100], body[:10], body[-5:]]
    assert part(proxy, url, "0-9,20-29").hit


def test_one_of_several_ranges_is_satisfiable(proxy: Proxy, origin: Origin) -> None:
    """RFC 9110 §15.3.7.2"""
    url = origin.serve("/one-of", Reply(size=1000, headers=OBJECT))
    body_is(part(proxy, url, "0-9,5000-"), origin, "/one-of", 0, 10)


def test_too_many_ranges(proxy: Proxy, origin: Origin) -> None:
    """RFC 9110 §14.2: "ignore […] egregious range requests"."""
    url = origin.serve("/many", Reply(size=1000, headers=OBJECT))
    many = ",".join(f"{at}-{at}" for at in range(100))
    answer = part(proxy, url, many)
    assert (answer.status, answer.body) == (200, origin.body_of("/many", 1000))
    overlapping = part(proxy, url, ",".join(["0-900"] * 5))
    assert overlapping.status == 200


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("condition", "status"), [('"v1"', 206), ('"v0"', 200), ('W/"v1"', 200)])
def test_if_range(proxy: Proxy, origin: Origin, condition: str, status: int, stored: bool) -> None:
    """RFC 9110 §13.1.5"""
    url = origin.serve("/if-range", Reply(size=200_000, headers=OBJECT))
    if stored:
        part(proxy, url, "0-0")
    answer = part(proxy, url, "10-19", ("If-Range", condition))
    assert answer.status == status
    assert answer.body == origin.body_of("/if-range", 200_000)[slice(10, 20) if status == 206 else slice(None)]


def test_if_range_with_a_date(proxy: Proxy, origin: Origin) -> None:
    modified = "Sat, 01 Jan 2022 00:00:00 GMT"
    url = origin.serve("/if-date", Reply(size=200_000, headers=(FRESH, RANGES, ("Last-Modified", modified))))
    assert part(proxy, url, "10-19", ("If-Range", modified)).status == 206
    assert part(proxy, url, "10-19", ("If-Range", "Sat, 01 Jan 2022 00:00:01 GMT")).status == 200
    assert origin.seen("/if-date")[1].header("If-Range") == modified


@pytest.mark.parametrize("stored", [False, True])
def test_not_modified_before_range(proxy: Proxy, origin: Origin, stored: bool) -> None:
    """RFC 9110 §13.2.2"""
    url = origin.serve("/304", Reply(size=200_000, headers=OBJECT))
    if stored:
        part(proxy, url, "0-0")
    assert part(proxy, url, "0-9", ("If-None-Match", '"v1"')).status == 304
    assert part(proxy, url, "0-9", ("If-None-Match", '"v0"')).status == 206


def test_origin_that_knows_no_ranges(proxy: Proxy, origin: Origin) -> None:
    """RFC 9110 §14.2: a 200 fills the whole object, and the reader gets its part."""
    url = origin.serve("/no-ranges", Reply(size=500_000, headers=(FRESH, TAG)))
    body_is(part(proxy, url, "300000-300009"), origin, "/no-ranges", 300000, 300010)
    proxy.wait_until_idle()
    assert part(proxy, url, "-1").hit
    assert proxy.get(url).hit
    assert origin.count("/no-ranges") == 1


@pytest.mark.parametrize(
    "content_range",
    [
        pytest.param("bytes 65536-131071/1000000", id="another span"),
        pytest.param("bytes 0-9/1000000", id="less than is needed"),
        pytest.param("bytes 0-99999/1000000", id="more than was asked for"),
        pytest.param("bytes 0-65535/*", id="of unknown length"),
        pytest.param("bytes 9-1/100", id="backwards"),
        pytest.param("items 0-65535/1000000", id="another unit"),
        pytest.param("bytes */1000000", id="none"),
    ],
)
def test_origin_that_answers_something_else(proxy: Proxy, origin: Origin, content_range: str) -> None:
    """RFC 9110 §15.3.7: "the recipient MUST inspect the Content-Range field"."""
    reply = Reply(status=206, size=65536, headers=(*OBJECT, ("Content-Range", content_range)))
    url = origin.serve("/else", reply)
    answer = part(proxy, url, "0-99")
    # Asked for what the client has asked for, it gives the same: that is for the client, who has to inspect it.
    assert asked(origin, "/else") == ["bytes=0-65535", "bytes=0-99"]
    assert (answer.status, answer.header("Content-Range")) == (206, content_range)
    assert answer.body == origin.body_of("/else", 65536)
    origin.serve("/else", Reply(size=1_000_000, headers=OBJECT))
    body_is(part(proxy, url, "0-99"), origin, "/else", 0, 100)
    assert origin.count("/else") == 3  # nothing was stored


def test_another_version_drops_the_old_one(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §3.4: parts are combined under one strong validator only."""
    url = origin.serve("/versions", Reply(size=500_000, seed="old", headers=OBJECT))
    part(proxy, url, "0-9")
    origin.serve("/versions", Reply(size=600_000, seed="new", headers=(FRESH, ("ETag", '"v2"'), RANGES)))
    answer = part(proxy, url, "300000-300009")
    assert (answer.status, answer.body) == (206, content("new", 600_000)[300000:300010])
    assert answer.header("ETag") == '"v2"'
    first = part(proxy, url, "0-9")
    assert first.body == content("new", 600_000)[:10]


def test_another_version_in_the_middle_of_a_response(proxy: Proxy, origin: Origin) -> None:
    """Whoever has bytes of the old one gets an error, and never a mixture."""
    url = origin.serve("/mixed", Reply(size=1_000_000, seed="old", headers=OBJECT))
    gate = Gate()
    origin.serve(
        "/mixed",
        Reply(size=1_000_000, seed="old", headers=OBJECT, body_gate=gate, gate_at=1000),
        Reply(size=1_000_000, seed="new", headers=(FRESH, ("ETag", '"v2"'), RANGES)),
    )
    fetch = proxy.start_get(url, headers=[("Range", "bytes=0-999999")])
    fetch.received(1000)
    origin.wait_for("/mixed", 2)
    gate.open()
    answer = fetch.result()
    assert not answer.ok
    assert content("old", 1_000_000).startswith(answer.body)
    assert proxy.get(url).body == content("new", 1_000_000)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((FRESH, RANGES), id="no validator"),
        pytest.param((FRESH, RANGES, ("ETag", 'W/"a"')), id="weak"),
    ],
)
def test_nothing_is_combined_without_a_strong_validator(
    proxy: Proxy, origin: Origin, headers: tuple[tuple[str, str], ...]
) -> None:
    """RFC 9111 §3.4"""
    url = origin.serve("/weak", Reply(size=500_000, headers=headers))
    body_is(part(proxy, url, "0-9"), origin, "/weak", 0, 10)
    assert part(proxy, url, "20-29").hit
    body_is(part(proxy, url, "100000-100009"), origin, "/weak", 100000, 100010)
    body_is(part(proxy, url, "0-9"), origin, "/weak", 0, 10)
    assert proxy.get(url).body == origin.body_of("/weak", 500_000)
    assert all(request.header("If-Range") is None for request in origin.seen("/weak"))
    assert "all" in asked(origin, "/weak")


@pytest.mark.parametrize("directive", ["no-store", "private"])
def test_what_may_not_be_stored(proxy: Proxy, origin: Origin, directive: str) -> None:
    url = origin.serve("/secret", Reply(size=500_000, headers=(("Cache-Control", directive), TAG, RANGES)))
    for _ in range(3):
        answer = part(proxy, url, "100-199")
        body_is(answer, origin, "/secret", 100, 200)
        assert not answer.hit
    body_is(part(proxy, url, "0-400000"), origin, "/secret", 0, 400001)
    assert asked(origin, "/secret")[1:] == ["bytes=100-199", "bytes=100-199", "bytes=0-400000"]


def test_a_long_range_of_what_may_not_be_stored(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/secret2", Reply(size=500_000, headers=(("Cache-Control", "no-store"), TAG, RANGES)))
    body_is(part(proxy, url, "0-400000"), origin, "/secret2", 0, 400001)


@pytest.mark.parametrize("changed", [False, True])
def test_stale_parts_are_validated(proxy: Proxy, origin: Origin, changed: bool) -> None:
    """RFC 9111 §4.3: one request, with the span in it in case the answer is not 304."""
    url = origin.serve("/stale", Reply(size=500_000, headers=(STALE, TAG, RANGES)))
    part(proxy, url, "0-9")
    if changed:
        origin.serve("/stale", Reply(size=500_000, seed="new", headers=(STALE, ("ETag", '"v2"'), RANGES)))
    answer = part(proxy, url, "10-19")
    assert answer.body == content("new" if changed else "/stale", 500_000)[10:20]
    last = origin.seen("/stale")[-1]
    assert last.header("If-None-Match") == '"v1"'
    assert last.header("Range") == "bytes=0-65535"
    assert origin.count("/stale") == 2
    wide = part(proxy, url, "0-100000")
    assert wide.body == content("new" if changed else "/stale", 500_000)[:100001]


def test_invalidated_while_it_is_read(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §4.4"""
    url = origin.serve("/put", Reply(size=1_000_000, seed="old", headers=OBJECT))
    part(proxy, url, "0-9")
    proxy.request("PUT", url, body=b"x")
    origin.serve("/put", Reply(size=1_000_000, seed="new", headers=OBJECT))
    assert part(proxy, url, "0-9").body == content("new", 10)


# -- coalescing ---------------------------------------------------------------------------------------------------


def test_overlapping_ranges_are_fetched_once(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    reply = Reply(size=1_000_000, headers=OBJECT, gate=gate)
    url = origin.serve("/overlap", Reply(size=1_000_000, headers=OBJECT), reply)
    part(proxy, url, "0-0")
    wanted = [(70000 + 1000 * at, 130000 + 2000 * at) for at in range(20)]
    fetches = [proxy.start_get(url, headers=[("Range", f"bytes={a}-{b - 1}")]) for a, b in wanted]
    proxy.wait_for_waiters(20)
    gate.open()
    for (start, stop), answer in zip(wanted, results(fetches), strict=True):
        body_is(answer, origin, "/overlap", start, stop)
    fetched = sorted(tuple(map(int, one[len("bytes=") :].split("-"))) for one in asked(origin, "/overlap")[1:])
    assert all(before[1] < after[0] for before, after in itertools.pairwise(fetched)), fetched


def test_cold_readers_wait_for_one_head(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/cold", Reply(size=1_000_000, headers=OBJECT, gate=gate), Reply(size=1_000_000, headers=OBJECT))
    wanted = [(at * 50000, at * 50000 + 40000) for at in range(20)]
    fetches = [proxy.start_get(url, headers=[("Range", f"bytes={a}-{b - 1}")]) for a, b in wanted]
    origin.wait_for("/cold")
    whole = proxy.start_get(url)
    proxy.wait_for_waiters(21)
    assert origin.count("/cold") == 1
    gate.open()
    for (start, stop), answer in zip(wanted, results(fetches), strict=True):
        body_is(answer, origin, "/cold", start, stop)
    assert whole.result().body == origin.body_of("/cold", 1_000_000)
    fetched = sorted(tuple(map(int, one[len("bytes=") :].split("-"))) for one in asked(origin, "/cold"))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(fetched)), fetched


def test_the_first_bytes_do_not_wait_for_the_last(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/first", Reply(size=1_000_000, headers=OBJECT, body_gate=gate, gate_at=2000))
    fetch = proxy.start_get(url, headers=[("Range", "bytes=100-200000")])
    fetch.received(1900)
    gate.open()
    body_is(fetch.result(), origin, "/first", 100, 200001)


def test_a_range_of_what_is_being_fetched_whole(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/running", Reply(size=1_000_000, headers=OBJECT, body_gate=gate, gate_at=100_000))
    whole = proxy.start_get(url)
    whole.received(100_000)
    body_is(part(proxy, url, "5000-5999"), origin, "/running", 5000, 6000)
    late = proxy.start_get(url, headers=[("Range", "bytes=-5")])
    proxy.wait_for_waiters(2)
    gate.open()
    body_is(late.result(), origin, "/running", 999995, 1000000)
    assert whole.result().ok
    assert origin.count("/running") == 1


# -- what broke off -----------------------------------------------------------------------------------------------


def test_a_broken_body_is_continued(proxy: Proxy, origin: Origin) -> None:
    """RFC 9110 §14.2, §13.1.5: the rest, if it is still the same."""
    url = origin.serve(
        "/continue", Reply(size=1_000_000, headers=OBJECT, cut=300_000), Reply(size=1_000_000, headers=OBJECT)
    )
    answer = proxy.get(url)
    assert answer.ok
    assert answer.body == origin.body_of("/continue", 1_000_000)
    first, second = origin.seen("/continue")
    assert (first.header("Range"), second.header("Range")) == (None, "bytes=300000-999999")
    assert second.header("If-Range") == '"v1"'
    assert proxy.get(url).hit


def test_a_broken_span_is_continued(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve(
        "/continue2", Reply(size=1_000_000, headers=OBJECT, cut=30_000), Reply(size=1_000_000, headers=OBJECT)
    )
    body_is(part(proxy, url, "100000-150000"), origin, "/continue2", 100000, 150001)
    assert asked(origin, "/continue2") == ["bytes=65536-196607", "bytes=95536-196607"]


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(Reply(size=1_000_000, seed="new", headers=(FRESH, ("ETag", '"v2"'), RANGES)), id="changed"),
        pytest.param(Reply(status=404, size=10, headers=()), id="gone"),
        pytest.param(Reply(status=403, size=10, headers=()), id="forbidden"),
    ],
)
def test_a_broken_body_that_cannot_be_continued(proxy: Proxy, origin: Origin, then: Reply) -> None:
    url = origin.serve("/broken", Reply(size=1_000_000, seed="old", headers=OBJECT, cut=300_000), then)
    answer = proxy.get(url)
    assert not answer.ok
    assert content("old", 1_000_000).startswith(answer.body)
    again = proxy.get(url)
    if then.status == 200:
        assert again.body == content("new", 1_000_000)
    else:
        assert again.status == then.status


def test_what_has_come_is_kept(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """RFC 9111 §3.3: an incomplete response, completed by a range request."""
    proxy = start_proxy(origin_retries=0)
    url = origin.serve(
        "/kept", Reply(size=1_000_000, headers=OBJECT, cut=300_000), Reply(size=1_000_000, headers=OBJECT)
    )
    assert not proxy.get(url).ok
    proxy.wait_until_idle()
    assert part(proxy, url, "0-299999").hit
    answer = proxy.get(url)
    assert answer.body == origin.body_of("/kept", 1_000_000)
    assert asked(origin, "/kept") == ["all", "bytes=300000-999999"]
    assert proxy.get(url).hit


def test_a_client_that_leaves_and_comes_back(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve(
        "/leave",
        Reply(size=6_000_000, headers=OBJECT, body_gate=gate, gate_at=3_000_000),
        Reply(size=6_000_000, headers=OBJECT),
    )
    fetch = proxy.start_get(url)
    fetch.received(3_000_000)
    fetch.leave()
    origin.wait(lambda: origin.seen("/leave")[0].aborted, told="the first request to end")
    proxy.wait_until_idle()
    resumed = part(proxy, url, "3000000-")
    gate.open()
    body_is(resumed, origin, "/leave", 3_000_000, 6_000_000)
    first = int(asked(origin, "/leave")[1][len("bytes=") :].split("-")[0])
    assert 3_000_000 - 70_000 <= first <= 3_000_000
    again = proxy.get(url)
    assert again.body == origin.body_of("/leave", 6_000_000)
    assert "all" not in asked(origin, "/leave")[1:]


def test_spans_survive_a_restart(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(cache_block_size="64k", cache_fill_whole=0)
    url = origin.serve("/restart", Reply(size=1_000_000, headers=OBJECT))
    part(proxy, url, "0-9")
    part(proxy, url, "-9")
    proxy.wait_until_idle()
    for end in (proxy.terminate, proxy.kill9):
        end()
        proxy.restart()
        assert part(proxy, url, "5-65535").hit
        assert part(proxy, url, "999999-").hit
        missing = proxy.get(url)
        assert missing.body == origin.body_of("/restart", 1_000_000)
        assert "all" not in asked(origin, "/restart")


# -- small objects, signatures, keys ------------------------------------------------------------------------------


def test_small_objects_are_fetched_whole(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """By default those known to be at most four blocks long."""
    proxy = start_proxy()
    url = origin.serve("/small", Reply(size=3_000_000, headers=OBJECT))
    part(proxy, url, "0-9")
    part(proxy, url, "2900000-2900009")
    assert asked(origin, "/small") == ["bytes=0-1048575", "bytes=1048576-2999999"]
    other = origin.serve("/told", Reply(size=3_000_000, headers=OBJECT))
    proxy.request("HEAD", other)
    body_is(part(proxy, other, "0-9"), origin, "/told", 0, 10)
    assert asked(origin, "/told") == ["all"]


def sigv4(*fields: str) -> tuple[str, str]:
    return (
        "Authorization",
        f"AWS4-HMAC-SHA256 Credential=k/20260101/x/s3/aws4_request, SignedHeaders={';'.join(fields)}, Signature=0a",
    )


def test_signed_ranges_go_out_as_they_are(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(cache_ttl="/~all/1d", cache_ignore_authorization="~all", cache_fill_whole=0)
    url = origin.serve("/signed", Reply(size=5_000_000, headers=(TAG, RANGES)))
    bound, free = sigv4("host", "range", "x-amz-date"), sigv4("host", "x-amz-date")
    body_is(part(proxy, url, "100-199", bound), origin, "/signed", 100, 200)
    assert part(proxy, url, "100-199", bound).hit
    assert part(proxy, url, "110-119", free).hit
    body_is(part(proxy, url, "150-249", bound), origin, "/signed", 150, 250)
    assert asked(origin, "/signed") == ["bytes=100-199", "bytes=150-249"]
    body_is(part(proxy, url, "2000000-2000009", free), origin, "/signed", 2000000, 2000010)
    assert asked(origin, "/signed")[-1] == "bytes=1048576-2097151"
    origin.serve("/signed", Reply(status=206, body=b"parts", headers=(("Content-Type", "multipart/byteranges"),)))
    assert part(proxy, url, "4000000-4000001,0-9", bound).body == b"parts"
    assert asked(origin, "/signed")[-1] == "bytes=4000000-4000001,0-9"


def test_presigned_ranges_go_out_as_they_are(proxy: Proxy, origin: Origin) -> None:
    target = "/presigned?X-Amz-SignedHeaders=host%3Brange&X-Amz-Signature=1"
    url = origin.serve(target, Reply(size=5_000_000, headers=OBJECT))
    body_is(part(proxy, url, "100-199"), origin, target, 100, 200)
    assert asked(origin, target) == ["bytes=100-199"]


def test_parameters_that_only_sign(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(cache_key_ignore_query="/~u data/X-Amz-*")
    targets = "/data?part=1&X-Amz-Signature=1&X-Amz-Date=2", "/data?X-Amz-Date=3&part=1&x-amz-signature=4"
    for target in targets:
        origin.serve(target, Reply(size=500, seed="data", headers=OBJECT))
    first, second = map(origin.url, targets)
    assert not proxy.get(first).hit
    assert proxy.get(second).hit
    other = origin.serve("/data?part=2&X-Amz-Signature=1", Reply(size=500, headers=OBJECT))
    assert not proxy.get(other).hit
    plain = origin.serve("/other?part=1&X-Amz-Signature=1", Reply(size=500, headers=OBJECT))
    assert not proxy.get(plain).hit
    unsigned = origin.serve("/other?part=1", Reply(size=500, headers=OBJECT))
    assert not proxy.get(unsigned).hit
    proxy.request("PUT", first, body=b"x")
    assert not proxy.get(second).hit


# -- many readers -------------------------------------------------------------------------------------------------


def test_many_readers_of_one_cold_object(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """50 at once, random overlapping ranges: right bytes, and hardly any of them fetched twice."""
    # Small enough that no byte is seconds away on a busy machine: what is, is asked for beside its fill.
    size, block, most = 10_000_000, 64 << 10, 1 << 20
    proxy = start_proxy(cache_block_size="64k", cache_max_span="1m", cache_fill_whole=0)
    url = origin.serve("/big", Reply(size=size, headers=OBJECT))
    chance = random.Random(4)
    wanted = [
        (start, min(size, start + chance.randrange(1, 600_000)))
        for start in (chance.randrange(size) for _ in range(50))
    ]
    fetches = [proxy.start_get(url, headers=[("Range", f"bytes={a}-{b - 1}")]) for a, b in wanted]
    for (start, stop), answer in zip(wanted, results(fetches, 120), strict=True):
        body_is(answer, origin, "/big", start, stop)
    sent = sum(request.sent for request in origin.seen("/big"))
    assert sent <= -(-size // block) * block + most
    fetched = sorted(tuple(map(int, one[len("bytes=") :].split("-"))) for one in asked(origin, "/big"))
    # Once, but for what readers have not waited for on a busy machine: of each fill no more than ``most``.
    assert sum(max(0, before[1] + 1 - after[0]) for before, after in itertools.pairwise(fetched)) <= size // 4


def test_spans_take_slots(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Each request for a span is a fill. One client's many do not starve another's one."""
    proxy = start_proxy(origin_max_in_flight=1, cache_block_size="64k", cache_fill_whole=0, origin_queue_timeout=60)
    gate = Gate()
    held = origin.serve("/held", Reply(gate=gate, headers=OBJECT))
    holder = proxy.start_get(held, source="127.0.0.1")
    origin.wait_for("/held")
    urls = [origin.serve(f"/span{n}", Reply(size=1_000_000, headers=OBJECT)) for n in range(30)]
    greedy = [proxy.start_get(url, source="127.0.0.2", headers=[("Range", "bytes=0-9")]) for url in urls]
    proxy.wait_for_waiters(31)
    modest = proxy.start_get(urls[0] + "?other", source="127.0.0.3", headers=[("Range", "bytes=0-9")])
    origin.serve("/span0?other", Reply(size=1_000_000, headers=OBJECT))
    proxy.wait_for_waiters(32)
    gate.open()
    assert modest.result().status == 206
    assert all(answer.status == 206 for answer in results(greedy))
    assert holder.result().ok
    order = [request.target for request in origin.seen()]
    assert order.index("/span0?other") <= 3
    proxy.wait_until_idle()
    assert proxy.metrics().value("origin_fetches_total", outcome="stored") == 32
