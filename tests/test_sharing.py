"""Who may be given what was fetched for somebody else, and what of it may be stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.agents import Wire, results
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


@pytest.mark.parametrize("said", ["no-cache", "must-revalidate"])
def test_what_is_not_there_may_be_there_next_time(proxy: Proxy, origin: Origin, said: str) -> None:
    """A 404 with `no-cache` and no validator: nothing of it is stored, and 20 agents that waited are one request."""
    gate = Gate()
    path = f"/nothing/{said}"
    url = origin.serve(path, Reply(status=404, headers=(("Cache-Control", said),), gate=gate))
    fetches = [proxy.start_get(url)]
    origin.wait_for(path)
    fetches += [proxy.start_get(url) for _ in range(19)]
    proxy.wait_for_waiters(20)
    gate.open()
    assert {response.status for response in results(fetches)} == {404}
    assert origin.count(path) == 1
    assert not proxy.get(url).hit
    assert origin.count(path) == 2


@pytest.mark.parametrize(
    ("field", "headers"),
    [(ALICE, (FRESH, ETAG)), (("Cookie", "sid=1"), (ETAG,)), (ALICE, (("Cache-Control", "no-store"), ETAG))],
    ids=["authorization", "cookie", "no-store"],
)
@pytest.mark.parametrize("asked_for", [200, 304, 404])
def test_what_is_for_who_has_logged_in_says_nothing_to_the_others(
    proxy: Proxy, origin: Origin, field: Field, headers: tuple[Field, ...], asked_for: int
) -> None:
    """They waited for it together, and they ask together. Those who have logged in, too, ask each for itself."""
    gate, again = Gate(), Gate()
    path = f"/personal/{field[0]}/{headers[0][1]}/{asked_for}"
    public = Reply(headers=PUBLIC, gate=again)
    status = 404 if asked_for == 404 else 200
    url = origin.serve(path, Reply(status=status, headers=headers, gate=gate), public, public, public)
    condition = [("If-None-Match", '"v1"')] if asked_for == 304 else []
    fetches = [proxy.start_get(url, headers=[field, *condition])]
    origin.wait_for(path)
    fetches += [proxy.start_get(url, headers=condition) for _ in range(10)]
    others = [proxy.start_get(url, headers=[(field[0], "other"), *condition]) for _ in range(2)]
    proxy.wait_for_waiters(13)
    gate.open()
    origin.wait_for(path, 4)
    proxy.wait_for_waiters(12)
    again.open()
    assert {response.status for response in results([*fetches[1:], *others])} == {304 if condition else 200}
    assert fetches[0].result().status == asked_for
    assert origin.count(path) == 4


def test_a_redirect_to_the_login_is_not_for_those_who_wait_logged_in(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    login = Reply(status=302, headers=(("Location", "/login"), ("Cache-Control", "no-store")), gate=gate)
    url = origin.serve("/waits", login, Reply(headers=PUBLIC))
    first = proxy.start_get(url)
    origin.wait_for("/waits")
    others = [proxy.start_get(url, headers=[ALICE]) for _ in range(10)]
    proxy.wait_for_waiters(11)
    gate.open()
    assert first.result().status == 302
    assert all(response.ok for response in results(others))
    assert origin.count("/waits") == 2


def test_a_range_of_what_is_not_there_is_asked_for_once(proxy: Proxy, origin: Origin) -> None:
    """The error may be about the range, so it isn't stored; who waits with the same range has had it asked. The first
    request is for a block."""
    first, second = Gate(), Gate()
    url = origin.serve(
        "/gone", *[Reply(status=404, headers=(("Cache-Control", "max-age=60"),), gate=gate) for gate in (first, second)]
    )
    fetches = [proxy.start_get(url, headers=[("Range", "bytes=0-99")]) for _ in range(20)]
    origin.wait_for("/gone")
    proxy.wait_for_waiters(20)
    first.open()
    origin.wait_for("/gone", 2)
    proxy.wait_for_waiters(20)
    other = proxy.start_get(url, headers=[("Range", "bytes=500-")])
    proxy.wait_for_waiters(21)
    origin.serve("/gone", Reply(headers=(*PUBLIC, ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))))
    second.open()
    assert {response.status for response in results(fetches)} == {404}
    assert other.result().status == 206
    assert origin.count("/gone") == 3


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


# -- failures that one request has provoked ----------------------------------------------------------------------------

ODD = ("X-Odd", "<script>")
ONCE_ASKED = {"origin_retries": 0}


def failed_and_asked_again(
    proxy: Proxy, origin: Origin, failure: Reply, *, source: str, others: list[list[Field]], then: Reply
) -> tuple[int, list[int], int]:
    """The origin answers an odd request so, while others wait for it, and the next one as ``then`` says. The statuses,
    and how often it was asked."""
    gate = Gate()
    url = origin.serve("/provoked", replace(failure, gate=gate), then)
    odd = proxy.start_get(url, headers=[ODD])
    origin.wait_for("/provoked")
    waiting = [proxy.start_get(url, headers=headers, source=source) for headers in others]
    proxy.wait_for_waiters(1 + len(waiting))
    gate.open()
    return odd.result(60).status, [fetch.result(60).status for fetch in waiting], origin.count("/provoked")


@pytest.mark.parametrize("failure", [Reply(status=500), Reply(status=501), Reply(fail="reset"), Reply(fail="garbage")])
def test_what_cuts_off_one_request_does_not_fail_the_others(start_proxy: Start, origin: Origin, failure: Reply) -> None:
    """A firewall that takes a field for an attack, and says so by 500 or a reset. The others ask again, together."""
    proxy = start_proxy(**ONCE_ASKED)
    status, others, asked = failed_and_asked_again(
        proxy, origin, failure, source="127.0.0.1", others=[[]] * 10, then=Reply(headers=(FRESH,))
    )
    assert status == (failure.status if not failure.fail else 502)
    assert others == [200] * 10
    assert asked == 2


def test_an_origin_in_trouble_is_not_asked_by_one_after_the_other(start_proxy: Start, origin: Origin) -> None:
    """Once two clients have seen it fail, it is not their requests."""
    proxy = start_proxy(**ONCE_ASKED)
    others = [[("X-Agent", str(number))] for number in range(10)]
    trouble = Reply(status=503)
    assert failed_and_asked_again(proxy, origin, trouble, source="127.0.0.2", others=others, then=trouble) == (
        503, [503] * 10, 2,
    )  # fmt: skip


def test_the_same_request_shares_its_failure(start_proxy: Start, origin: Origin) -> None:
    """Whatever it says to caches."""
    proxy = start_proxy(**ONCE_ASKED)
    same: list[list[Field]] = [[ODD], [("x-odd", ODD[1]), ("Cache-Control", "max-stale")]]
    answer = failed_and_asked_again(
        proxy, origin, Reply(fail="reset"), source="127.0.0.1", others=same, then=Reply(headers=(FRESH,))
    )
    assert answer == (502, [502, 502], 1)


@pytest.mark.parametrize("status", [400, 403, 405, 413])
def test_an_error_about_one_request_is_stored_for_its_like(proxy: Proxy, origin: Origin, status: int) -> None:
    """Many servers put a lifetime on every answer. What X-Odd has brought is not what others get."""
    refused = Reply(status=status, headers=(FRESH,), seed="refused")
    url = origin.serve(f"/{status}", refused, Reply(headers=(FRESH,)))
    assert proxy.get(url, headers=[ODD]).status == status
    proxy.wait_until_idle()
    again = proxy.get(url, headers=[ODD])
    assert (again.status, again.hit) == (status, True)
    assert proxy.get(url).status == 200
    proxy.wait_until_idle()
    assert proxy.get(url).hit
    assert origin.count(f"/{status}") == 2


def test_an_interim_response_to_a_user_is_the_users(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    hints = ((103, (("Link", "</mine>"), ("Set-Cookie", "session=1"))),)
    url = origin.serve("/hints", Reply(headers=(FRESH,), interim=hints, gate=gate), Reply(headers=(FRESH,)))
    host = origin.netloc
    with Wire(proxy.address) as user, Wire(proxy.address) as other:
        user.send(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer x\r\n\r\n")
        origin.wait_for("/hints")
        other.send(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n")
        proxy.wait_for_waiters(2)
        gate.open()
        status, fields = user.head()
        assert status == 103
        assert dict(fields)["Set-Cookie"] == "session=1"
        assert other.head()[0] == 200


def test_an_interim_response_is_without_a_session_for_others(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    hints = ((103, (("Link", "</a>"), ("Set-Cookie", "session=1"))),)
    url = origin.serve("/session", Reply(headers=(FRESH,), interim=hints, gate=gate))
    with Wire(proxy.address) as first, Wire(proxy.address) as other:
        first.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        origin.wait_for("/session")
        other.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        proxy.wait_for_waiters(2)
        gate.open()
        assert "Set-Cookie" in dict(first.head()[1])
        status, fields = other.head()
        assert status == 103
        assert dict(fields)["Link"] == "</a>"
        assert "Set-Cookie" not in dict(fields)
