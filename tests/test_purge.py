"""Purging: what is dropped or made stale on an operator's word, and what happens to those who wait for it just then."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import interception_of
from tests.support.agents import Response, results
from tests.support.api import TOKEN, call, token_file
from tests.support.certificates import server_context
from tests.support.content import content
from tests.support.intercepted import intercepted
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

LONG = (("Cache-Control", "max-age=86400"), ("ETag", '"v1"'))


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    """One for all tests that need no options of their own."""
    folder = tmp_path_factory.mktemp("proxy")
    with Proxy(folder, fast_lane=fast_lane, admin_token_file=token_file(folder)) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Proxy:
    """With nothing stored, and a token that is known."""
    shared_proxy.wait_until_idle()
    purge(shared_proxy, all=True)
    return shared_proxy


@pytest.fixture
def guarded(start_proxy: Callable[..., Proxy], tmp_path: Path) -> Callable[..., Proxy]:
    """Start a proxy whose token is known."""
    return lambda **options: start_proxy(admin_token_file=token_file(tmp_path), **options)


def purge(proxy: Proxy, **body: Any) -> dict[str, int]:
    answer = call(proxy, "POST", "/api/v1/purge", body, token=TOKEN)
    assert answer.status == 200, answer.body
    found: dict[str, int] = answer.json
    return found


def version(name: str, size: int = 1000, *, tags: str = "", **more: Any) -> Reply:
    headers = [("Cache-Control", "max-age=86400"), ("ETag", f'"{name}"')]
    if tags:
        headers.append(("Surrogate-Key", tags))
    return Reply(size=size, seed=name, headers=tuple(headers), **more)


def stored(proxy: Proxy, origin: Origin, path: str, reply: Reply | None = None) -> str:
    """A URL whose response is stored, and a hit."""
    url = origin.serve(path, reply or version("old"))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    assert proxy.get(url).hit
    return url


# -- what is purged ----------------------------------------------------------------------------------------------


def test_a_url_is_gone_with_all_its_variants(proxy: Proxy, origin: Origin) -> None:
    varied = Reply(size=500, headers=(*LONG, ("Vary", "Accept")), seed_by="accept")
    url = origin.serve("/varied", varied)
    for kind in ("text/html", "text/plain"):
        proxy.get(url, headers=[("Accept", kind)])
    other = stored(proxy, origin, "/other")
    found = purge(proxy, url=url)
    assert (found["purged"], found["fills"]) == (2, 0)
    assert found["bytes"] >= 1000
    assert not proxy.get(url, headers=[("Accept", "text/html")]).hit
    assert not proxy.get(url, headers=[("Accept", "text/plain")]).hit
    assert proxy.get(other).hit
    assert purge(proxy, url=origin.url("/never"))["purged"] == 0


def test_the_age_in_a_list_is_the_time_since_it_was_stored(proxy: Proxy, origin: Origin) -> None:
    """As for ``older_than``: neither what an ``Age`` of the origin's adds to it, nor what a soft purge does."""
    url = stored(proxy, origin, "/aged", Reply(size=10, headers=(("Cache-Control", "max-age=86400"), ("Age", "7200"))))
    path = "/api/v1/entries?newer_than=1h"
    for state in ("fresh", "stale"):
        (entry,) = call(proxy, "GET", path).json["entries"]
        assert (entry["state"], entry["age_seconds"] < 3600) == (state, True)
        purge(proxy, url=url, soft=True)


@pytest.mark.parametrize("size", [1000, 100_000, 3_000_000], ids=["segment", "file", "large"])
def test_bodies_are_freed(size: int, proxy: Proxy, origin: Origin) -> None:
    url = stored(proxy, origin, "/body", version("old", size))
    purge(proxy, url=url)
    proxy.eventually(lambda: proxy.stored(), lambda bodies: not any(bodies), told="the bodies on the disk")
    status = proxy.status()["store"]
    assert (status["entries"], status["size_bytes"]) == (0, 0)


def test_what_is_named_goes_and_nothing_else(proxy: Proxy, origin: Origin) -> None:
    host = f"127.0.0.1:{origin.port}"
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"match": f"http://{host}/a/*"}, {"/a/1", "/a/2?x=1"}),
        ({"match": f"{host}/*1"}, {"/a/1", "/b/1", "/a/2?x=1"}),
        ({"match": f"*{host}/a/2?x=*"}, {"/a/2?x=1"}),
        ({"tag": "red"}, {"/a/1", "/b/1"}),
        ({"host": host}, {"/a/1", "/a/2?x=1", "/b/1"}),
        ({"host": "127.0.0.1"}, {"/a/1", "/a/2?x=1", "/b/1"}),
        ({"host": "other.example"}, set()),
        ({"all": True}, {"/a/1", "/a/2?x=1", "/b/1"}),
    ]
    tags = {"/a/1": "red round", "/a/2?x=1": "reddish", "/b/1": "blue red"}
    for body, named in cases:
        for path in tags:
            origin.serve(path, version("old", tags=tags[path]))
            assert proxy.get(origin.url(path)).ok
        proxy.wait_until_idle()
        assert purge(proxy, **body)["purged"] == len(named), body
        assert {path for path in tags if not proxy.get(origin.url(path)).hit} == named, body


def test_cache_tag_has_commas(proxy: Proxy, origin: Origin) -> None:
    url = stored(proxy, origin, "/tagged", Reply(headers=(*LONG, ("Cache-Tag", "one, two,three"))))
    assert proxy.get(url).header("Cache-Tag") == "one, two,three"
    assert purge(proxy, tag="tw")["purged"] == 0
    assert purge(proxy, tag="two")["purged"] == 1
    assert not proxy.get(url).hit


# -- soft --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["url", "match", "tag", "all"])
def test_a_soft_purge_has_the_next_request_validated(how: str, proxy: Proxy, origin: Origin) -> None:
    url = stored(proxy, origin, "/soft", version("same", 5000, tags="soft"))
    assert (
        purge(proxy, **{how: {"url": url, "match": "*/soft", "tag": "soft", "all": True}[how]}, soft=True)["purged"]
        == 1
    )
    again = proxy.get(url)
    assert again.ok
    assert "fwd=stale" in (again.header("Cache-Status") or "")
    assert origin.seen("/soft")[-1].header("If-None-Match") == '"same"'
    assert proxy.get(url).hit
    assert len(origin.seen("/soft")) == 2


def test_what_never_changes_is_validated_too(guarded: Callable[..., Proxy], origin: Origin) -> None:
    proxy = guarded(cache_ttl="/~u ruled/30d")
    for path, control in (("/immutable", "max-age=31536000, immutable"), ("/ruled", "max-age=1")):
        url = stored(proxy, origin, path, Reply(headers=(("Cache-Control", control), ("ETag", '"a"'))))
        assert purge(proxy, url=url, soft=True)["purged"] == 1
        assert "fwd=stale" in (proxy.get(url).header("Cache-Status") or "")
        assert proxy.get(url).hit


def test_a_softly_purged_response_may_be_served_stale_where_it_says_so(
    guarded: Callable[..., Proxy], origin: Origin
) -> None:
    """From the purge on, however old it was."""
    proxy = guarded(origin_retries=0)
    control = (("Cache-Control", "max-age=86400, stale-if-error=60"), ("Age", "50000"))
    url = stored(proxy, origin, "/soft", Reply(headers=control))
    purge(proxy, url=url, soft=True)
    origin.serve("/soft", Reply(status=503))
    assert proxy.get(url).ok
    purge(proxy, url=url)
    assert proxy.get(url).status == 503


# -- under way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, 40_000], ids=["before the head", "in the body"])
def test_a_fill_under_way_is_for_those_who_wait_for_it(at: int | None, proxy: Proxy, origin: Origin) -> None:
    ways: list[dict[str, Any]] = [{"host": "127.0.0.1"}, {"match": "*/held/*"}, {"tag": "t"}, {"all": True}, {}]
    for number, (way, soft) in enumerate(itertools.product(ways, (False, True))):
        path, gate = f"/held/{number}", Gate()
        held = {"gate": gate} if at is None else {"body_gate": gate, "gate_at": at}
        url = origin.serve(path, version("old", 80_000, tags="t", **held))
        fetches = [proxy.start_get(url) for _ in range(3)]
        origin.wait_for(path)
        proxy.wait_for_waiters(3)
        for fetch in fetches if at is not None else ():
            fetch.received(at)
        assert purge(proxy, **(way or {"url": url}), soft=soft)["fills"] == 1
        origin.serve(path, version("new", 80_000))
        assert proxy.get(url).body == content("new", 80_000)
        gate.open()
        for response in results(fetches):
            assert response.complete
            assert response.body == content("old", 80_000)
        proxy.wait_until_idle()
        again = proxy.get(url)
        assert again.hit
        assert again.body == content("new", 80_000)


def test_a_validation_under_way_does_not_make_it_fresh_again(proxy: Proxy, origin: Origin) -> None:
    url = stored(proxy, origin, "/validated", version("old"))
    for soft in (True, False):
        gate = Gate()
        origin.serve("/validated", version("old", gate=gate))
        asked = len(origin.seen("/validated"))
        fetch = proxy.start_get(url, headers=[("Cache-Control", "no-cache")])
        origin.wait_for("/validated", asked + 1)
        assert purge(proxy, url=url, soft=soft)["fills"] == 1
        origin.serve("/validated", version("new"))
        gate.open()
        assert fetch.result().complete
        proxy.wait_until_idle()
        assert proxy.get(url).body == content("new", 1000)
        stored(proxy, origin, "/validated", version("old"))


def test_a_fill_that_has_asked_nobody_goes_on(guarded: Callable[..., Proxy], origin: Origin) -> None:
    """What it brings is from after the purge."""
    proxy = guarded(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    first = proxy.start_get(origin.serve("/first", version("first", gate=gate)))
    origin.wait_for("/first")
    queued = proxy.start_get(origin.serve("/queued", version("queued")))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    assert purge(proxy, all=True) == {"purged": 0, "bytes": 0, "fills": 1}
    gate.open()
    assert all(response.ok for response in results([first, queued]))
    proxy.wait_until_idle()
    assert proxy.get(origin.url("/queued")).hit
    assert not proxy.get(origin.url("/first")).hit


# -- the method PURGE --------------------------------------------------------------------------------------------

BEARER = ("Authorization", f"Bearer {TOKEN}")


def test_the_method_purges_one_url(proxy: Proxy, origin: Origin) -> None:
    url, other = stored(proxy, origin, "/one"), stored(proxy, origin, "/two")
    before = proxy.settled()
    answer = proxy.request("PURGE", url, headers=[BEARER])
    assert answer.status == 200
    found = json.loads(answer.body)
    assert (found["purged"], found["fills"]) == (1, 0)
    assert not proxy.get(url).hit
    assert proxy.get(other).hit
    assert proxy.request("PURGE", origin.url("/nothing"), headers=[BEARER]).status == 404
    proxy.wait_until_idle()
    softly = proxy.request("PURGE", url, headers=[BEARER, ("Fastly-Soft-Purge", "1")])
    assert softly.status == 200
    assert "fwd=stale" in (proxy.get(url).header("Cache-Status") or "")
    assert origin.count(method="PURGE") == 0
    assert (proxy.settled() - before).value("forward_requests_total") == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([("Authorization", "Bearer another-token-than-that-one")], 401),
        ([("Proxy-Authorization", f"Bearer {TOKEN}")], 401),
        ([("Authorization", f"Basic {TOKEN}")], 401),
        ([BEARER, ("Content-Length", "5")], 400),
    ],
)
def test_whoever_may_not_purges_nothing(
    headers: list[tuple[str, str]], status: int, proxy: Proxy, origin: Origin
) -> None:
    url = stored(proxy, origin, "/one")
    answer = proxy.request("PURGE", url, headers=headers, body=b"hello" if status == 400 else b"")
    assert answer.status == status
    assert (answer.header("WWW-Authenticate") == "Bearer") == (status == 401)
    if status == 401:
        assert answer.body.startswith(b"401 Unauthorized: ")
        assert (answer.header("Cache-Status") or "").endswith("; detail=http_request_denied"), "a word, as in the log"
    assert proxy.get(url).hit
    assert origin.count(method="PURGE") == 0


def test_without_a_token_file_nobody_may(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    url = stored(proxy, origin, "/one")
    answer = proxy.request("PURGE", url, headers=[BEARER])
    assert answer.status == 403
    assert "admin_token_file" in (answer.header("Proxy-Status") or "")
    assert proxy.get(url).hit
    assert origin.count(method="PURGE") == 0


def test_the_method_within_tls(guarded: Callable[..., Proxy], origin_certificate: Path) -> None:
    """In an intercepted CONNECT: of what the client asks for there, and on a connection that goes on."""
    with Origin(tls=server_context(origin_certificate)) as secure:
        proxy = guarded(**interception_of(origin_certificate))
        secure.serve("/one", version("old"))
        with intercepted(proxy, secure) as wire:

            def ask(method: str, *fields: tuple[str, str], body: str = "", target: str = "/one") -> Response:
                lines = "".join(f"{name}: {value}\r\n" for name, value in (("Host", secure.netloc), *fields))
                wire.send(f"{method} {target} HTTP/1.1\r\n{lines}\r\n{body}")
                return wire.response()

            def is_hit() -> bool:
                proxy.wait_until_idle()
                return ask("GET").hit

            assert (is_hit(), is_hit()) == (False, True)
            for fields in ((), (("Authorization", "Bearer another-token-than-that-one"),)):
                refused = ask("PURGE", *fields)
                assert (refused.status, refused.header("WWW-Authenticate"), is_hit()) == (401, "Bearer", True)
            assert (ask("PURGE", BEARER, ("Content-Length", "2"), body="hi").status, is_hit()) == (400, True)
            assert ask("PURGE", BEARER, target="/never").status == 404
            purged = ask("PURGE", BEARER)
            assert (purged.status, json.loads(purged.body)["purged"], is_hit(), is_hit()) == (200, 1, False, True)
            assert ask("PURGE", BEARER, ("Fastly-Soft-Purge", "1")).status == 200
            assert "fwd=stale" in (ask("GET").header("Cache-Status") or "")
        assert proxy.request("PURGE", secure.url("/one"), headers=[BEARER]).status == 200, "by its URL in the clear"
        proxy.wait_for_log(rf"PURGE https://{secure.netloc}/one 200 .* own")
        assert secure.count(method="PURGE") == 0


def test_the_method_within_tls_without_a_token_file(
    start_proxy: Callable[..., Proxy], origin_certificate: Path
) -> None:
    with Origin(tls=server_context(origin_certificate)) as secure:
        proxy = start_proxy(**interception_of(origin_certificate))
        with intercepted(proxy, secure) as wire:
            wire.send(f"PURGE /one HTTP/1.1\r\nHost: {secure.netloc}\r\n{BEARER[0]}: {BEARER[1]}\r\n\r\n")
            assert wire.response().status == 403
        assert not secure.seen()


# -- under load, and after a crash -------------------------------------------------------------------------------


def test_nothing_purged_is_served_under_load(guarded: Callable[..., Proxy], origin: Origin) -> None:
    """Agents ask all the time, while the origin's responses change and are purged. What they ask for after the answer
    is of the version that the origin had by then, or of a later one."""
    proxy = guarded(origin_max_in_flight=8, origin_queue_timeout=60)
    paths = [f"/load/{number}" for number in range(12)]
    ways: list[list[dict[str, Any]]] = [
        [{"url": origin.url(path)} for path in paths],
        [{"host": "127.0.0.1"}],
        [{"match": "*/load/*"}],
        [{"tag": "load"}],
        [{"all": True}],
    ]
    stop, wrong = threading.Event(), list[tuple[str, Response, int]]()
    served = purged = 0

    def release(number: int) -> None:
        for path in paths:
            origin.serve(path, version(f"{number:03}", 3000, tags="load"))

    def ask(path: str) -> None:
        nonlocal served
        while not stop.is_set():
            least = purged
            response = proxy.get(origin.url(path))
            served += 1
            found = (response.header("ETag") or '"0"').strip('"')
            if not response.ok or response.body != content(found, 3000) or int(found) < least:
                wrong.append((path, response, least))

    release(0)
    agents = [threading.Thread(target=ask, args=(path,)) for path in paths[:6] * 2]
    for agent in agents:
        agent.start()
    try:
        for number, bodies in enumerate(ways * 3, 1):
            release(number)
            for body in bodies:
                purge(proxy, **body)
            purged, before = number, served
            proxy.eventually(lambda before=before: served - before >= 40 or wrong, told="requests between purges")
    finally:
        stop.set()
        for agent in agents:
            agent.join()
    assert not wrong
    assert proxy.value("hits_total") > 0


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_purge_outlives_a_crash_right_after_its_answer(
    soft: bool, guarded: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = guarded()
    sizes = {"/small": 1000, "/file": 100_000, "/large": 3_000_000, "/kept": 1000}
    for path, size in sizes.items():
        stored(proxy, origin, path, version("old", size, tags="gone" if path != "/kept" else ""))
    assert purge(proxy, tag="gone", soft=soft)["purged"] == 3
    proxy.kill9()
    proxy.start()
    for path, size in sizes.items():
        response = proxy.get(origin.url(path))
        assert response.body == content("old", size)
        status = response.header("Cache-Status") or ""
        assert ("hit" if path == "/kept" else "fwd=stale" if soft else "fwd=uri-miss") in status


def test_entries_that_are_not_in_memory_are_found(guarded: Callable[..., Proxy], origin: Origin) -> None:
    proxy = guarded()
    for number in range(300):
        assert proxy.get(origin.serve(f"/many/{number}", version("old", 100, tags="odd" if number % 2 else "even"))).ok
    proxy.wait_until_idle()
    proxy.restart()
    assert purge(proxy, tag="odd", soft=True)["purged"] == 150
    assert purge(proxy, match="*/many/1*")["purged"] == 111
    assert purge(proxy, host="127.0.0.1")["purged"] == 189
    assert proxy.status()["store"]["entries"] == 0
