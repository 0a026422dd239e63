"""Nothing that was said to one reaches another, whichever way the cache learns of it: 304, HEAD, 412, a race."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

FRESH = ("Cache-Control", "max-age=3600")
STALE = (("Cache-Control", "max-age=60"), ("Age", "100"))
ETAG = ("ETag", '"v1"')
ME = [("Authorization", "Bearer me")]
NOT_MODIFIED = Reply(status=304, headers=(FRESH, ETAG, ("X-User", "me")))


def test_a_304_for_one_user_freshens_nothing_for_others(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §3.5: without public, s-maxage or must-revalidate."""
    url = origin.serve("/a", Reply(headers=(*STALE, ETAG)), NOT_MODIFIED, Reply(status=401, headers=()))
    proxy.get(url)
    mine = proxy.get(url, headers=ME)
    assert (mine.status, mine.body) == (200, origin.body_of("/a", 1000))
    assert mine.header("X-User") == "me"
    other = proxy.get(url)
    assert other.status == 401
    assert other.header("X-User") is None
    assert origin.count("/a") == 3


def test_a_304_for_one_user_makes_no_variant_for_others(proxy: Proxy, origin: Origin) -> None:
    vary = ("Vary", "Accept")
    url = origin.serve("/b", Reply(headers=(FRESH, ETAG, vary)), NOT_MODIFIED, Reply(size=5, headers=(FRESH, vary)))
    proxy.get(url, headers=[("Accept", "text/a")])
    mine = proxy.get(url, headers=[*ME, ("Accept", "text/b")])
    assert mine.body == origin.body_of("/b", 1000)
    other = proxy.get(url, headers=[("Accept", "text/b")])
    assert other.header("X-User") is None
    assert len(other.body) == 5


def test_a_304_with_s_maxage_is_for_all(proxy: Proxy, origin: Origin) -> None:
    said = Reply(status=304, headers=(("Cache-Control", "s-maxage=3600"), ETAG))
    url = origin.serve("/c", Reply(headers=(*STALE, ETAG)), said)
    proxy.get(url)
    proxy.get(url, headers=ME)
    assert proxy.get(url).hit


def test_the_head_of_one_user_changes_nothing_for_others(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §3.5, §4.3.5"""
    url = origin.serve("/d", Reply(headers=(*STALE, ETAG)), Reply(headers=(FRESH, ETAG, ("X-User", "me"))))
    proxy.get(url)
    proxy.request("HEAD", url, headers=ME)
    other = proxy.get(url)
    assert "X-User" not in dict(other.headers) or not other.hit
    assert origin.count("/d") == 3


def test_nothing_of_an_answer_to_no_store_is_kept(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §5.2.1.5: "MUST NOT store any part of […] any response to it"."""
    url = origin.serve("/e", Reply(headers=(*STALE, ETAG)), NOT_MODIFIED, Reply(size=5, headers=(FRESH,)))
    proxy.get(url)
    mine = proxy.get(url, headers=[("Cache-Control", "no-store")])
    assert mine.body == origin.body_of("/e", 1000)
    assert mine.header("X-User") == "me"
    assert len(proxy.get(url).body) == 5


def test_fields_of_a_304_for_the_asker_alone(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §5.2.2.7"""
    said = Reply(
        status=304,
        headers=(("Cache-Control", 'max-age=600, private="X-User"'), ETAG, ("X-User", "me"), ("Set-Cookie", "a=b")),
    )
    url = origin.serve("/f", Reply(headers=(*STALE, ETAG)), said)
    proxy.get(url)
    first, second = proxy.get(url), proxy.get(url)
    assert (first.header("X-User"), first.header("Set-Cookie")) == ("me", "a=b")
    assert second.hit
    assert second.header("X-User") is second.header("Set-Cookie") is None


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("condition", ["If-Match", "If-Unmodified-Since"])
def test_a_412_is_for_whoever_set_the_condition(proxy: Proxy, origin: Origin, condition: str, stored: bool) -> None:
    """RFC 9110 §15.5.13"""
    good = Reply(headers=(*STALE, ETAG))
    url = origin.serve("/g", *([good] if stored else []), Reply(status=412, headers=(FRESH,)), good)
    if stored:
        proxy.get(url)
    assert proxy.get(url, headers=[(condition, '"x"')]).status == 412
    assert proxy.get(url).status == 200


@pytest.mark.parametrize("headers", [[], [("If-Match", '"v1"')]])
def test_what_is_under_way_when_it_is_changed_is_not_stored(
    proxy: Proxy, origin: Origin, headers: list[tuple[str, str]]
) -> None:
    """RFC 9111 §4.4, also for fills that nobody can join."""
    gate = Gate()
    url = origin.serve("/h", Reply(headers=(FRESH, ETAG), gate=gate))
    slow = proxy.start_get(url, headers=headers)
    origin.wait_for("/h")
    origin.serve("/h", Reply(size=5, headers=(FRESH,)))
    assert proxy.request("POST", url, body=b"x").status == 200
    gate.open()
    assert len(slow.result().body) == 1000
    assert len(proxy.get(url).body) == 5


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(size=5, headers=(("Cache-Control", "no-store"),)), id="no-store"),
        pytest.param(Reply(size=5, headers=(("Cache-Control", "private"),)), id="private"),
        pytest.param(Reply(size=5, headers=(FRESH, ("Set-Cookie", "a=b"))), id="set-cookie"),
        pytest.param(Reply(status=404, size=5, headers=(("Cache-Control", "no-store"),)), id="404"),
    ],
)
@pytest.mark.parametrize("stored", [Reply(headers=(FRESH, ETAG)), Reply(headers=(*STALE, ETAG))])
def test_an_answer_that_is_not_stored_supersedes_what_is(
    proxy: Proxy, origin: Origin, stored: Reply, reply: Reply
) -> None:
    """RFC 9111 §4.3.3: the full response answers the request, and what was validated is out of date."""
    url = origin.serve("/i", stored, reply)
    proxy.get(url)
    assert len(proxy.get(url, headers=[("Cache-Control", "no-cache")]).body) == 5
    assert len(proxy.get(url).body) == 5


def test_a_targeted_field_alone_says_something(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """RFC 9213 §2.2; there is nothing to guess."""
    proxy = start_proxy(cache_targeted_fields="CDN-Cache-Control")
    url = origin.serve("/j", Reply(headers=(("CDN-Cache-Control", "no-cache"),)))
    pragma = origin.serve("/k", Reply(headers=(("Pragma", "no-cache"),)))
    for _ in range(2):
        assert not proxy.get(url).hit
        assert not proxy.get(pragma).hit


def test_the_head_of_another_version(proxy: Proxy, origin: Origin) -> None:
    """RFC 9111 §4.3.5"""
    url = origin.serve("/l", Reply(headers=(*STALE, ("Last-Modified", "Sat, 01 Jan 2022 00:00:00 GMT"))))
    proxy.get(url)
    origin.serve("/l", Reply(headers=(FRESH, ("Last-Modified", "Sun, 02 Jan 2022 00:00:00 GMT"))))
    proxy.request("HEAD", url)
    assert not proxy.get(url).hit


CREDENTIALS = ["X-Api-Key", "PRIVATE-TOKEN", "JOB-TOKEN", "X-JFrog-Art-Api", "X-Auth-Token", "Cookie", "X-Acme-Token"]


@pytest.mark.parametrize("field", CREDENTIALS)
@pytest.mark.parametrize(
    "says",
    [(), (("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),), (ETAG,)],
    ids=["nothing", "Last-Modified", "ETag"],
)
def test_what_says_nothing_of_caching_is_for_its_asker_alone(
    proxy: Proxy, origin: Origin, field: str, says: tuple[tuple[str, str], ...]
) -> None:
    """No lifetime is made up for an answer to somebody's key, whatever the field is called."""
    url = origin.serve("/key", Reply(headers=says, seed="mine"), Reply(status=401, headers=()))
    assert proxy.get(url, headers=[(field, "me")]).status == 200
    proxy.wait_until_idle()
    assert proxy.get(url).status == 401
    assert origin.count("/key") == 2


def test_a_field_that_the_operator_names_is_a_credential(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(cache_credential_fields="X-Tenant, X-Team")
    url = origin.serve("/team", Reply(headers=(ETAG,), seed="mine"), Reply(status=401, headers=()))
    assert proxy.get(url, headers=[("X-Team", "me")]).status == 200
    proxy.wait_until_idle()
    assert proxy.get(url).status == 401


def test_who_joined_the_request_of_somebody_with_a_key_asks_again(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    mine = Reply(headers=(ETAG, ("X-For", "leader")), seed="mine", gate=gate)
    url = origin.serve("/joined", mine, Reply(status=401, headers=()))
    leader = proxy.start_get(url, headers=[("X-Api-Key", "me")])
    origin.wait_for("/joined")
    joiner = proxy.start_get(url)
    proxy.wait_for_waiters(2)
    gate.open()
    assert leader.result().header("X-For") == "leader"
    assert joiner.result().status == 401
