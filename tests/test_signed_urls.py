"""Redirects to object stores and CDNs, whose URLs are signed anew for each pull."""

from __future__ import annotations

from collections.abc import Callable

import http_sf
import pytest

from tests.support.agents import Response, results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
FRESH = ("Cache-Control", "max-age=3600")
SIGNED = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=60&X-Amz-Signature=0a"
QUERIES = [
    SIGNED,
    "X-Goog-Algorithm=GOOG4-RSA-SHA256&x-goog-signature=0a",
    "sv=2024-01-01&se=2026-01-01&sr=b&sig=0a%3D",
    "Expires=1700000000&Signature=0a~&Key-Pair-Id=K1",
    "AWSAccessKeyId=A&Expires=1700000000&Signature=0a%3D",
    "expires=1700000000&signature=0a&version=3",
    "verify=1700000000-AAAAAAAAAAAAAAAAAAAAAAAA",
]


def detail(response: Response) -> object:
    members = http_sf.parse((response.header("Cache-Status") or "").encode(), tltype="list")
    return members[-1][1].get("detail")


@pytest.mark.parametrize("query", QUERIES)
def test_a_signed_url_is_not_stored(proxy: Proxy, origin: Origin, query: str) -> None:
    target = f"/blob?{query}"
    url = origin.serve(target, Reply(headers=(FRESH, ("ETag", '"v1"'))))
    for number in range(2):
        response = proxy.get(url, expect=(target, 1000))
        assert response.ok
        assert not response.hit
        assert str(detail(response)) == "signed-url"
        assert origin.count(target) == number + 1


@pytest.mark.parametrize("said", ["public, max-age=60", "max-age=60, immutable", "s-maxage=60"])
def test_unless_the_origin_has_shared_caches_in_mind(proxy: Proxy, origin: Origin, said: str) -> None:
    url = origin.serve(f"/blob/{said.replace(' ', '')}?{SIGNED}", Reply(headers=(("Cache-Control", said),)))
    assert not proxy.get(url).hit
    assert proxy.get(url).hit


@pytest.mark.parametrize(
    "rule",
    [
        {"cache_ttl": "/~u blob/1d"},
        {"cache_key_ignore_query": "/~u blob/X-Amz-*"},
        {"cache_ignore_authorization": "~u blob"},
    ],
    ids=lambda rule: next(iter(rule)),
)
def test_or_a_rule_names_it(start_proxy: Start, origin: Origin, rule: dict[str, str]) -> None:
    proxy = start_proxy(**rule)
    url = origin.serve(f"/blob?{SIGNED}", Reply(headers=(FRESH,)))
    assert not proxy.get(url).hit
    assert proxy.get(url).hit


def test_two_signatures_are_one_object_by_a_rule(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_key_ignore_query="/~u blob/X-Amz-*")
    for number in range(3):
        target = f"/blob?X-Amz-Date={number}&X-Amz-Signature={number}"
        origin.serve(target, Reply(seed="blob", headers=(FRESH,)))
        response = proxy.get(origin.url(target), expect=("blob", 1000))
        assert response.ok
        assert response.hit is (number > 0)


@pytest.mark.parametrize("ignored", ["utm_*", "X-Amz-Date", "Expires"])
def test_a_rule_that_leaves_the_signature(start_proxy: Start, origin: Origin, ignored: str) -> None:
    """Each signature would still be an object of its own."""
    proxy = start_proxy(cache_key_ignore_query=f"/~all/{ignored}")
    for query in ("X-Amz-Date=1&X-Amz-Signature=0a", "Expires=1700000000&Signature=0a&Key-Pair-Id=K1&utm_source=x"):
        url = origin.serve(f"/left?{query}", Reply(headers=(FRESH, ("ETag", '"v1"'))))
        for _ in range(2):
            response = proxy.get(url)
            assert not response.hit
            assert str(detail(response)) == "signed-url"
    proxy.wait_until_idle()


@pytest.mark.parametrize("query", ["signature=5", "sig=1", "expires=1700000000", "verify=yes", "X-Amz-Signature="])
def test_what_only_looks_like_one(proxy: Proxy, origin: Origin, query: str) -> None:
    url = origin.serve(f"/plain?{query}", Reply(headers=(FRESH,)))
    assert not proxy.get(url).hit
    assert proxy.get(url).hit


def test_those_with_the_same_url_share_it(proxy: Proxy, origin: Origin) -> None:
    """Also who comes while it is sent, as long as its beginning is here; and one that doesn't read holds nobody up."""
    size = 8_000_000
    gate, body = Gate(), Gate()
    target = f"/shared?{SIGNED}"
    url = origin.serve(target, Reply(size=size, headers=(FRESH,), gate=gate, body_gate=body, gate_at=1000))
    fetches = [proxy.start_get(url, expect=(target, size)) for _ in range(5)]
    origin.wait_for(target)
    stalled = proxy.start_get(url, expect=(target, size), paused=True)
    proxy.wait_for_waiters(6)
    gate.open()
    for fetch in fetches:
        fetch.received(1000)
    fetches.append(proxy.start_get(url, expect=(target, size)))
    proxy.wait_for_waiters(7)
    body.open()
    assert all(response.ok for response in results(fetches))
    stalled.resume()
    assert stalled.result().ok
    assert origin.count(target) == 1
    proxy.wait_until_idle()
    assert not proxy.get(url).hit


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=403, headers=()), Reply(status=404, headers=()), Reply(status=400, headers=()),
        Reply(status=416, headers=()), Reply(status=206, headers=(("Content-Range", "bytes 1000-1999/*"),)),
    ],
    ids=lambda reply: str(reply.status),
)  # fmt: skip
def test_what_a_range_of_one_is_answered_with(proxy: Proxy, origin: Origin, reply: Reply) -> None:
    """It was the client's own range: the answer is for the client as it came, and there is no less to be asked for."""
    target = f"/odd/{reply.status}?{SIGNED}"
    answer = proxy.get(origin.serve(target, reply), headers=[("Range", "bytes=1000-1999")])
    assert (answer.status, answer.body) == (reply.status, content(target, 1000))
    assert [request.header("Range") for request in origin.seen(target)] == ["bytes=1000-1999"]


def test_a_range_of_one_is_asked_for_as_it_is(proxy: Proxy, origin: Origin) -> None:
    """Most of a block would be for nobody, as it is not kept."""
    target = f"/range?{SIGNED}"
    url = origin.serve(target, Reply(size=20_000_000, headers=(FRESH, ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))))
    asked = ["bytes=5000000-5000099", "bytes=-100", "bytes=19999000-"]
    for value in asked:
        assert proxy.get(url, headers=[("Range", value)]).status == 206
    assert [request.header("Range") for request in origin.seen(target)] == asked
    assert proxy.get(url, headers=[("Range", asked[0])]).body == content(target, 100, 5_000_000)
