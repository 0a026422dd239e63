"""What an operator may rule: lifetimes, requests and fields that count otherwise than the standard has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.content import content
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy for the file, whose options can be set from here."""
    with Proxy(tmp_path_factory.mktemp("proxy"), control=True) as proxy:
        yield proxy


FRESH = ("Cache-Control", "max-age=3600")
ETAG = ("ETag", '"v1"')
MAVEN = [("Cache-Control", "no-cache, no-store"), ("Pragma", "no-cache"), ("Expires", "0")]
BEARER = [("Authorization", "Bearer one")]


@pytest.mark.parametrize(
    ("rule", "reply", "second"),
    [
        ("/~u /files/30d", Reply(headers=(ETAG,)), "hit"),
        ("/~u /files/30d", Reply(headers=()), "hit"),
        ("/~u /files/30d", Reply(headers=(("Cache-Control", "max-age=0"),)), "hit"),
        ("/~u /files/30d", Reply(headers=(("Cache-Control", "no-cache"), ("Expires", "0"))), "hit"),
        ("/~u /other/30d", Reply(headers=(("Cache-Control", "max-age=0"),)), "miss"),
        ("|~u /files/.*\\.bin|30d", Reply(headers=(("Cache-Control", "max-age=0"),)), "hit"),
        ("/~t text/html/30d", Reply(headers=(("Content-Type", "text/html"), ("Cache-Control", "max-age=0"))), "hit"),
        ("/~t text/html/30d", Reply(headers=(("Content-Type", "text/plain"), ("Cache-Control", "max-age=0"))), "miss"),
        ("/30d", Reply(headers=(("Cache-Control", "max-age=0"),)), "hit"),
        ("/~u /files/0", Reply(headers=(FRESH,)), "miss"),
        # "Never against a response's no-store or private unless the rule says force."
        ("/~u /files/30d", Reply(headers=(("Cache-Control", "no-store"),)), "miss"),
        ("/~u /files/30d", Reply(headers=(("Cache-Control", "private, max-age=9"),)), "miss"),
        ("/~u /files/30d", Reply(headers=(FRESH, ("Set-Cookie", "a=b"))), "miss"),
        ("/~u /files/30d", Reply(headers=(FRESH, ("Vary", "*"))), "miss"),
        ("/~u /files/30d/force", Reply(headers=(("Cache-Control", "no-store"),)), "hit"),
        ("/~u /files/30d/force", Reply(headers=(("Cache-Control", "private"),)), "hit"),
        ("/~u /files/30d/force", Reply(headers=(FRESH, ("Set-Cookie", "a=b"))), "hit"),
        ("/~u /files/30d/force", Reply(headers=(FRESH, ("Vary", "*"))), "miss"),
        # negative caching, only where a rule asks for it
        ("/~u /files/30d", Reply(status=404, headers=()), "miss"),
        ("/~c 404/1m", Reply(status=404, headers=()), "hit"),
        ("/~u /files/ & ~c 410/1m", Reply(status=410, headers=()), "hit"),
        ("/~c 404/1m", Reply(status=410, headers=()), "miss"),
        ("/~c 404/1m", Reply(headers=(("Cache-Control", "max-age=0"),)), "miss"),
        ("/~c 404/1m", Reply(status=404, headers=(("Cache-Control", "no-store"),)), "miss"),
        ("/~u /files/30d", Reply(status=429, headers=(FRESH, ("Retry-After", "99"))), "miss"),
    ],
)
def test_a_lifetime_by_rule(proxy: Proxy, origin: Origin, rule: str, reply: Reply, second: str) -> None:
    url = origin.serve("/files/a.bin", reply)
    proxy.set_option("cache_ttl=")
    assert proxy.set_option(f"cache_ttl={rule}") == "ok"
    try:
        first = proxy.get(url)
        assert first.status == reply.status
        assert not first.hit
        proxy.wait_until_idle()
        again = proxy.get(url)
        assert again.status == reply.status
        assert again.hit is (second == "hit"), again
        assert again.body == content("/files/a.bin", 1000)
        if again.hit:
            assert again.header("Set-Cookie") is None
        assert first.header("Set-Cookie") == reply.header("Set-Cookie")
    finally:
        proxy.set_option("cache_ttl=")


def test_the_first_rule_that_matches_counts_also_after_a_restart(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = start_proxy(cache_ttl=["/~u /short/0", "/~d 127.0.0.1/30d"])
    short = origin.serve("/short/a", Reply(headers=(ETAG,)))
    long = origin.serve("/long/a", Reply(headers=(("Cache-Control", "max-age=0"), ETAG)))
    for url in (short, long):
        assert proxy.get(url).ok
    proxy.restart()
    assert not proxy.get(short).hit
    kept = proxy.get(long)
    assert kept.hit
    assert 2_500_000 < int((kept.header("Cache-Status") or "").partition("ttl=")[2]) <= 30 * 86400
    assert origin.count("/long/a") == 1


def test_an_entry_that_is_ruled_may_not_be_stale_forever(proxy: Proxy, origin: Origin) -> None:
    """A 304 is judged by the rule that is in force when it comes."""
    url = origin.serve("/a", Reply(headers=(("Cache-Control", "max-age=0"), ETAG)))
    proxy.get(url)
    proxy.wait_until_idle()
    proxy.set_option("cache_ttl=/~u /a/1h")
    try:
        assert "fwd-status=304" in (proxy.get(url).header("Cache-Status") or "")
        assert proxy.get(url).hit
    finally:
        proxy.set_option("cache_ttl=")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("cache_ttl", "30d", "no rule"),
        ("cache_ttl", "/~d a", "no time"),
        ("cache_ttl", "/~d a/soon", "no time"),
        ("cache_ttl", "/~d a/30d/please", "no time"),
        ("cache_ttl", "/~nothing a/30d", "no filter expression"),
        ("cache_ttl", "x", "no rule"),
        ("cache_ignore_request_directives", "~nothing", "no filter expression"),
        ("cache_ignore_authorization", "~d (", "no filter expression"),
        ("cache_targeted_fields", "Cache-Control", "no name of a targeted field"),
        ("cache_targeted_fields", "what:ever", "no name of a targeted field"),
    ],
)
def test_a_bad_rule_is_refused(proxy: Proxy, option: str, value: str, reason: str) -> None:
    told = proxy.set_option(f"{option}={value}")
    try:
        assert reason in told
        if reason:
            assert option in told
            assert (value.split("/")[1] if value.startswith("/~n") else value) in told
    finally:
        proxy.set_option(f"{option}=")


def test_maven_hits_once_the_rule_is_set(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """`no-cache, no-store` on every request: never a hit by the book, a hit by the rule, for the hosts it names."""
    proxy = start_proxy(control=True)
    url = origin.serve("/maven2/a.jar", Reply(headers=(FRESH, ETAG)))
    for _ in range(3):
        assert not proxy.get(url, headers=MAVEN).hit
    assert proxy.set_option("cache_ignore_request_directives=~u /maven2/") == "ok"
    before = origin.count("/maven2/a.jar")
    assert not proxy.get(url, headers=MAVEN).hit
    proxy.wait_until_idle()
    for _ in range(3):
        assert proxy.get(url, headers=MAVEN).hit
    assert origin.count("/maven2/a.jar") == before + 1
    # Directives that are not obeyed are still passed on (RFC 9111 §5.2).
    assert origin.seen("/maven2/a.jar")[-1].header("Cache-Control") == "no-cache, no-store"
    elsewhere = origin.serve("/npm/a.tgz", Reply(headers=(FRESH, ETAG)))
    for _ in range(2):
        assert not proxy.get(elsewhere, headers=MAVEN).hit
    # A cache that asks only for what is here still does.
    cold = origin.serve("/maven2/cold.jar")
    assert proxy.get(cold, headers=[("Cache-Control", "only-if-cached")]).status == 504


def test_npm_with_a_token_follows_the_book_and_the_rule(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """RFC 9111 §3.5: what came with Authorization is stored only if it says so; by the rule it is shared."""
    proxy = start_proxy(cache_ignore_authorization="~u /-/")
    closed = origin.serve("/@scope/pkg", Reply(headers=(FRESH, ETAG), seed_by="Authorization"))
    public = origin.serve("/public", Reply(headers=(("Cache-Control", "public, max-age=3600"),)))
    ruled = origin.serve("/pkg/-/pkg-1.0.tgz", Reply(headers=(FRESH, ETAG)))
    other = [("Authorization", "Bearer two")]
    for headers in (BEARER, other):
        response = proxy.get(closed, headers=headers)
        assert not response.hit
        assert response.body == content(f"/@scope/pkg|{headers[0][1]}", 1000)
    for url in (public, ruled):
        assert not proxy.get(url, headers=BEARER).hit
        proxy.wait_until_idle()
        assert proxy.get(url, headers=other).hit
        assert proxy.get(url).hit
    assert origin.seen("/pkg/-/pkg-1.0.tgz")[0].header("Authorization") == "Bearer one"


def test_a_forced_rule_does_not_open_what_is_authorized(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(cache_ttl=["/30d/force"])
    url = origin.serve("/secret", Reply(headers=(FRESH,), seed_by="Authorization"))
    for user in ("one", "two"):
        response = proxy.get(url, headers=[("Authorization", user)])
        assert response.body == content(f"/secret|{user}", 1000)


def test_nobody_chooses_rules_by_the_host_he_writes(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """The Host field is a client's to write. What one user has logged in for is not shared because of it."""
    proxy = start_proxy(cache_ignore_authorization="~d registry.example", cache_ttl=["/~d registry.example/30d/force"])
    url = origin.serve("/secret", Reply(headers=(("Cache-Control", "max-age=60"),), seed_by="Authorization"))
    for user in ("one", "two"):
        response = proxy.get(url, host="registry.example", headers=[("Authorization", user)])
        assert response.body == content(f"/secret|{user}", 1000)
        proxy.wait_until_idle()
    private = origin.serve("/private", Reply(headers=(("Cache-Control", "private"),)))
    for _ in range(2):
        assert not proxy.get(private, host="registry.example").hit
        proxy.wait_until_idle()


@pytest.mark.parametrize("looks_at", ["~d 127.0.0.1", "~u /blobs/", "~d 127 & ~hq pip", "~hq pip", "~d 127 & ~src 127"])
def test_a_key_by_rule_makes_hits_whatever_the_rule_looks_at(
    start_proxy: Callable[..., Proxy], origin: Origin, looks_at: str
) -> None:
    """From the first hit to those that are known by their bytes, and until the rule is changed."""
    proxy = start_proxy(control=True, cache_key_ignore_query=[f"/{looks_at}/sig"])
    origin.serve_prefix("/blobs/a", Reply(headers=(FRESH,), seed="a"))
    pip = [("User-Agent", "pip/24")]
    for number in (1, 1, 2, 2, 2, 3):
        assert proxy.get(origin.url(f"/blobs/a?sig={number}"), headers=pip).body == content("a", 1000)
        proxy.wait_until_idle()
    assert origin.count() == 1
    assert proxy.set_option("cache_key_ignore_query=") == "ok"
    for number in (1, 2, 1, 2):
        assert proxy.get(origin.url(f"/blobs/a?sig={number}"), headers=pip).ok
        proxy.wait_until_idle()
    assert origin.count() == 3


def test_a_rule_for_one_client_is_for_no_other_that_sends_the_same_bytes(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = start_proxy(cache_key_ignore_query=["/~src ^127.0.0.2/sig"])
    origin.serve_prefix("/a", Reply(headers=(FRESH,)))
    for _ in range(3):
        for source in ("127.0.0.1", "127.0.0.2"):
            assert proxy.get(origin.url("/a?sig=1"), source=source).ok
            proxy.wait_until_idle()
    assert origin.count() == 2
    assert proxy.value("cache_entries") == 2


def test_a_put_drops_what_gets_are_stored_under(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """The key of a URL is that of its GETs, whatever the method that changes it."""
    proxy = start_proxy(cache_key_ignore_query=["/~m GET & ~u /a/sig"])
    origin.serve_prefix("/a", Reply(headers=(FRESH,)))
    for _ in range(2):
        assert proxy.get(origin.url("/a?sig=1")).ok
        proxy.wait_until_idle()
    assert origin.count(method="GET") == 1
    assert proxy.request("PUT", origin.url("/a?sig=2"), body=b"x").ok
    assert not proxy.get(origin.url("/a?sig=3")).hit


def test_a_head_finds_what_gets_are_stored_under(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Whatever the rule says of methods."""
    proxy = start_proxy(cache_key_ignore_query=["/~m GET & ~u /a/sig"])
    origin.serve_prefix("/a", Reply(headers=(FRESH,)))
    assert proxy.get(origin.url("/a?sig=1")).ok
    proxy.wait_until_idle()
    assert proxy.request("HEAD", origin.url("/a?sig=2")).hit
    assert origin.count() == 1


def test_targeted_fields_count_where_they_are_named(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """RFC 9213: CDN-Cache-Control in place of Cache-Control and Expires; invalid, it is not there."""
    proxy = start_proxy(control=True)
    short = ("Cache-Control", "max-age=0")
    url = origin.serve("/off", Reply(headers=(short, ("CDN-Cache-Control", "max-age=600"))))
    for _ in range(2):
        assert not proxy.get(url).hit
    assert proxy.set_option("cache_targeted_fields=My-Cache-Control, CDN-Cache-Control") == "ok"
    for name, hit, *headers in (
        ("/longer", True, short, ("CDN-Cache-Control", "max-age=600")),
        ("/shorter", False, FRESH, ("CDN-Cache-Control", "max-age=0")),
        ("/not-stored", False, FRESH, ("CDN-Cache-Control", "no-store")),
        ("/stored", True, ("Cache-Control", "no-store"), ("CDN-Cache-Control", "max-age=600")),
        ("/no-expires", False, ("Expires", "Fri, 01 Jan 2100 00:00:00 GMT"), ("CDN-Cache-Control", "public"), ETAG),
        ("/first", True, ("CDN-Cache-Control", "no-store"), ("My-Cache-Control", "max-age=600")),
        ("/invalid", True, FRESH, ("CDN-Cache-Control", "max-age=, no-store")),
        ("/empty", True, FRESH, ("CDN-Cache-Control", "")),
        ("/parameters", True, short, ("CDN-Cache-Control", "max-age=600;x=1")),
    ):
        url = origin.serve(name, Reply(headers=tuple(headers)))
        assert proxy.get(url).ok
        proxy.wait_until_idle()
        again = proxy.get(url)
        assert again.hit is hit, name
        for field, value in headers:
            assert again.header(field) == value  # they are for the next cache as well


def test_a_pip_index_by_accept_is_kept_apart(proxy: Proxy, origin: Origin) -> None:
    """JSON and HTML of one page, asked for by pips of different age, also at the same time."""
    json_ = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
    url = origin.serve("/simple/six/", Reply(headers=(FRESH, ("Vary", "Accept")), seed_by="Accept"))
    fetches = [
        (accept, proxy.start_get(url, headers=[("Accept", accept)])) for accept in (json_, "text/html", "*/*") * 4
    ]
    for accept, fetch in fetches:
        assert fetch.result().body == content(f"/simple/six/|{accept}", 1000)
    for accept in (json_, json_.replace("; ", ";"), "text/html", "TEXT/HTML", "*/*"):
        again = proxy.get(url, headers=[("Accept", accept)])
        assert again.hit, accept
    assert origin.count("/simple/six/") == 3


def test_apt_validates_an_index_with_one_conditional_request(proxy: Proxy, origin: Origin) -> None:
    """`max-age=0`, at once, from many machines at the same time, and again in the same second."""
    modified = ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
    url = origin.serve("/dists/stable/InRelease", Reply(headers=(modified, ETAG), size=5000))
    apt = [("Cache-Control", "max-age=0")]
    assert proxy.get(url, headers=apt).ok
    proxy.wait_until_idle()
    for _ in range(2):
        before = origin.count("/dists/stable/InRelease")
        response = proxy.get(url, headers=apt)
        assert response.ok
        assert "fwd=request; fwd-status=304" in (response.header("Cache-Status") or "")
        asked = origin.seen("/dists/stable/InRelease")[before:]
        assert [(r.header("If-None-Match"), r.header("If-Modified-Since")) for r in asked] == [('"v1"', modified[1])]
