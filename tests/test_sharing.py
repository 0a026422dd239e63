"""Who may be given what was fetched for somebody else, and what of it may be stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.agents import results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
Field = tuple[str, str]
FRESH = ("Cache-Control", "max-age=600")
ETAG = ("ETag", '"v1"')
RANGES = ("Accept-Ranges", "bytes")
ALICE, BOB = ("Authorization", "Bearer alice"), ("Authorization", "Bearer bob")


@pytest.mark.parametrize(
    ("asks", "headers"),
    [
        (ALICE, (("Cache-Control", "private"), ("Set-Cookie", "sid=ALICE"))),
        (ALICE, (FRESH,)),
        (("X-Any", "x"), (("Cache-Control", "no-store"),)),
        (("Accept-Encoding", "gzip"), (FRESH, ("Vary", "Accept-Encoding"))),
    ],
    ids=["private", "authorization", "no-store", "vary"],
)
@pytest.mark.parametrize("size", [1000, 2_000_000])
def test_who_joined_gets_nothing_of_a_leader_that_left(
    proxy: Proxy, origin: Origin, asks: Field, headers: tuple[Field, ...], size: int
) -> None:
    gate = Gate()
    path = f"/left/{asks[0]}/{headers[0][1]}/{size}"
    reply = Reply(size=size, headers=(*headers, ("X-For", "leader")), seed="leader", gate=gate)
    own = Reply(size=size, headers=(("Cache-Control", "no-store"), ("X-For", "joiner")), seed="joiner")
    url = origin.serve(path, reply, own)
    leader = proxy.start_get(url, headers=[asks])
    origin.wait_for(path)
    joiners = [proxy.start_get(url) for _ in range(2)]
    proxy.wait_for_waiters(3)
    leader.leave()
    proxy.wait_for_waiters(2)
    gate.open()
    for response in results(joiners):
        assert response.status == 200
        assert response.complete
        assert response.header("X-For") == "joiner"
        assert response.header("Set-Cookie") is None
        assert response.body == content("joiner", size)
    proxy.wait_until_idle()


def test_a_session_in_an_error_is_one_clients(proxy: Proxy, origin: Origin) -> None:
    """The others get the error, so that an origin in trouble is not asked by everybody, but nobody else's session."""
    gate = Gate()
    url = origin.serve("/down", Reply(status=404, headers=(FRESH,)))
    for status in (429, 500):
        path = f"/down/{status}"
        headers = (("Set-Cookie", "session=leader"), ("X-Seen", "yes"), ("Retry-After", "3600"))
        url = origin.serve(path, Reply(status=status, headers=headers, gate=gate))
        fetches = [proxy.start_get(url)]
        origin.wait_for(path)
        fetches += [proxy.start_get(url) for _ in range(3)]
        proxy.wait_for_waiters(4)
        gate.open()
        first, *others = results(fetches)
        assert first.status == status
        assert first.header("Set-Cookie") == "session=leader"
        for other in others:
            assert other.status == status
            assert other.header("Set-Cookie") is None
            assert other.header("X-Seen") == "yes"
        gate = Gate()


@pytest.mark.parametrize(
    ("field", "first"),
    [
        (ALICE, Reply(headers=(FRESH,))),
        (("If-Match", '"nope"'), Reply(status=412, headers=())),
    ],
    ids=["authorization", "if-match"],
)
def test_one_odd_request_does_not_end_coalescing(proxy: Proxy, origin: Origin, field: Field, first: Reply) -> None:
    gate = Gate()
    path = f"/odd/{field[0]}"
    url = origin.serve(path, first, Reply(headers=(FRESH,), gate=gate))
    proxy.get(url, headers=[field])
    fetches = [proxy.start_get(url) for _ in range(10)]
    proxy.wait_for_waiters(10)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count(path) == 2


def test_a_hit_on_head_changes_nothing(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/head", Reply(headers=(FRESH, ETAG)))
    assert proxy.get(url).ok
    for _ in range(3):
        assert proxy.request("HEAD", url).hit
    response = proxy.get(url)
    assert response.hit
    for name in ("Via", "Cache-Status", "Age"):
        assert len(response.header_values(name)) == 1, name


@pytest.mark.parametrize(
    "second",
    [("Cache-Control", "no-store"), ("Cache-Control", "private"), ("Set-Cookie", "a=b")],
    ids=["no-store", "private", "set-cookie"],
)
def test_what_is_not_to_be_stored_ends_a_refresh_behind(start_proxy: Start, origin: Origin, second: Field) -> None:
    """Nobody reads what a refresh in the background brings. It gives its slot back, and keeps no file."""
    proxy = start_proxy(origin_max_in_flight=1)
    stale = (("Cache-Control", "max-age=1, stale-while-revalidate=600"), ("Age", "100"))
    url = origin.serve("/swr", Reply(headers=stale), Reply(headers=(second,), size=5_000_000))
    assert proxy.get(url).ok
    assert proxy.get(url).hit
    origin.wait_for("/swr", 2)
    proxy.wait_until_idle()
    assert proxy.get(origin.serve("/other", Reply())).ok


def test_refreshing_behind_leaves_no_files_open(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy()
    stale = (("Cache-Control", "max-age=1, stale-while-revalidate=600"), ("Age", "100"))
    replies = [Reply(headers=stale, size=2_000_000, seed=str(number)) for number in range(8)]
    url = origin.serve("/swr", *replies)
    assert proxy.get(url).ok
    for number in range(1, 8):
        assert proxy.get(url).hit
        origin.wait_for("/swr", number + 1)
        proxy.wait_until_idle()

    def deleted() -> list[str]:
        return [target for target in proxy.open_files() if "(deleted)" in target]

    proxy.eventually(deleted, lambda found: len(found) <= 1)


PIECES = {"cache_block_size": "1000", "cache_fill_whole": 0}


@pytest.mark.parametrize("said", ["no-store", "private", "max-age=600, private"])
def test_a_piece_that_is_not_to_be_stored(start_proxy: Start, origin: Origin, said: str) -> None:
    """RFC 9111 §5.2.2.5: "MUST NOT store any part"; what there was of it is not good for others any more either."""
    proxy = start_proxy(**PIECES)
    whole = Reply(size=10_000, headers=(FRESH, ETAG, RANGES))
    url = origin.serve("/piece", whole, whole.with_headers(("Cache-Control", said), ETAG, RANGES))
    first = proxy.get(url, headers=[("Range", "bytes=0-10")])
    assert first.status == 206
    proxy.wait_until_idle()
    for span in ("3000-3010", "3000-3010", "0-10"):
        start = int(span.split("-")[0])
        response = proxy.get(url, headers=[("Range", f"bytes={span}")])
        assert response.status == 206
        assert not response.hit
        assert response.header("Cache-Control") == said
        assert response.body == content("/piece", 11, start)
        proxy.wait_until_idle()


def test_a_piece_for_one_user(start_proxy: Start, origin: Origin) -> None:
    """RFC 9111 §3.5: what Authorization has brought is stored only if the response says so; nor is its header."""
    proxy = start_proxy(**PIECES)
    whole = Reply(size=10_000, headers=(FRESH, ETAG, RANGES))
    his = whole.with_headers(FRESH, ETAG, RANGES, ("X-User", "bob"))
    url = origin.serve("/his", whole, his, whole)
    assert proxy.get(url, headers=[("Range", "bytes=0-10")]).status == 206
    proxy.wait_until_idle()
    mine = proxy.get(url, headers=[("Range", "bytes=3000-3010"), BOB])
    assert mine.status == 206
    assert mine.header("X-User") == "bob"
    proxy.wait_until_idle()
    for span in ("3000-3010", "0-10"):
        response = proxy.get(url, headers=[("Range", f"bytes={span}")])
        assert response.status == 206
        assert response.header("X-User") is None
    assert [request.header("Authorization") for request in origin.seen("/his")] == [None, BOB[1], None]


def test_a_piece_that_all_may_have(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(**PIECES)
    public = Reply(size=10_000, headers=(("Cache-Control", "public, max-age=600"), ETAG, RANGES))
    url = origin.serve("/all", public)
    assert proxy.get(url, headers=[("Range", "bytes=0-10"), ALICE]).status == 206
    proxy.wait_until_idle()
    assert proxy.get(url, headers=[("Range", "bytes=3000-3010"), BOB]).status == 206
    proxy.wait_until_idle()
    assert proxy.get(url, headers=[("Range", "bytes=3000-3010")]).hit


def test_the_rest_of_what_broke_off_may_not_be_stored(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy()
    whole = Reply(size=500_000, headers=(FRESH, ETAG, RANGES))
    cut = Reply(size=500_000, headers=(FRESH, ETAG, RANGES), cut=200_000)
    url = origin.serve("/rest", cut, whole.with_headers(("Cache-Control", "no-store"), ETAG, RANGES), whole)
    response = proxy.get(url, expect=500_000)
    assert response.ok
    proxy.wait_until_idle()
    assert not proxy.get(url).hit
    assert origin.count("/rest") == 3


@pytest.mark.parametrize(
    ("field", "hit"),
    [
        (("If-Match", '"v1"'), True),
        (("If-Match", '"v0", "v1"'), True),
        (("If-Match", "*"), True),
        (("If-Match", '"v2"'), False),
        (("If-Match", 'W/"v1"'), False),
        (("If-Unmodified-Since", "Wed, 01 Jan 2025 00:00:00 GMT"), True),
        (("If-Unmodified-Since", "Sun, 01 Jan 2023 00:00:00 GMT"), False),
        (("If-Unmodified-Since", "some day"), True),
    ],
)
@pytest.mark.parametrize("span", [None, "bytes=2-4"])
def test_the_version_that_a_client_insists_on(
    proxy: Proxy, origin: Origin, field: Field, hit: bool, span: str | None
) -> None:
    """RFC 9110 §13.1.1 lets a cache ignore If-Match; a reader of ranges would mix two versions then."""
    path = f"/version/{field[1]}/{span}".replace(" ", "_").replace('"', "'")
    url = origin.serve(path, Reply(headers=(FRESH, ETAG, ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"))))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    response = proxy.get(url, headers=[field, *([("Range", span)] if span else [])])
    assert response.hit is hit
    assert origin.count(path) == (1 if hit else 2)
    if not hit:
        assert origin.seen(path)[1].header(field[0]) == field[1]


PUBLIC = (("Cache-Control", "public, max-age=600"), ETAG)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        *[(status, ()) for status in (301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 429, 451, 500, 503)],
        (401, (("Cache-Control", "no-store"),)),
        (404, (("Cache-Control", "no-store"),)),
        (404, (("Cache-Control", "private"), ("Set-Cookie", "a=b"))),
        (410, (("Vary", "*"),)),
    ],
)
def test_an_error_does_not_end_coalescing(
    proxy: Proxy, origin: Origin, status: int, headers: tuple[Field, ...]
) -> None:
    """One agent was too early, or had not logged in. When the thing is there, 20 agents are one request."""
    gate = Gate()
    tries = 4 if status in (429, 500, 503) else 1
    errors = [Reply(status=status, headers=headers)] * (2 * tries)
    url = origin.serve("/later", *errors, Reply(headers=PUBLIC, gate=gate))
    for _ in range(2):
        assert proxy.get(url).status == status
    assert origin.count("/later") == len(errors)
    fetches = [proxy.start_get(url, headers=[ALICE]) for _ in range(20)]
    proxy.wait_for_waiters(20)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/later") == len(errors) + 1


def test_a_redirect_to_the_login_is_for_who_has_not_logged_in(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    login = Reply(status=302, headers=(("Location", "/login"), ("Cache-Control", "no-store")))
    url = origin.serve("/dance", login, Reply(headers=PUBLIC, gate=gate))
    assert proxy.get(url).status == 302
    fetches = [proxy.start_get(url, headers=[ALICE]) for _ in range(20)]
    proxy.wait_for_waiters(20)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/dance") == 2


def test_what_is_not_there_is_asked_for_once_by_all_who_wait(proxy: Proxy, origin: Origin) -> None:
    """A 404 that says nothing of caching is for everybody who asked meanwhile, and not stored. But not for who has
    logged in: many services say 404 to those who haven't."""
    gate = Gate()
    url = origin.serve("/nothing", Reply(status=404, headers=(), gate=gate), Reply(headers=PUBLIC))
    fetches = [proxy.start_get(url)]
    origin.wait_for("/nothing")
    fetches += [proxy.start_get(url) for _ in range(19)]
    known = [proxy.start_get(url, headers=[ALICE]) for _ in range(5)]
    proxy.wait_for_waiters(25)
    gate.open()
    assert {response.status for response in results(fetches)} == {404}
    assert {response.status for response in results(known)} == {200}
    assert origin.count("/nothing") == 2


def test_redirects_that_may_not_be_stored_are_not_waited_for(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    reply = Reply(status=307, headers=(("Location", "/x"), ("Cache-Control", "no-store")))
    url = origin.serve("/moves", reply, reply, Reply(status=307, headers=reply.headers, gate=gate))
    for _ in range(2):
        assert proxy.get(url).status == 307
    fetches = [proxy.start_get(url) for _ in range(10)]
    origin.wait(lambda: origin.in_flight == 10, told="10 requests at once")
    gate.open()
    assert {response.status for response in results(fetches)} == {307}
