"""``explain`` says beforehand what happens then: each case is explained, and then done, by a real mitmdump and a real
origin. There is one for each line of docs/http-caching.md that is about what is stored, for how long, and when it is
used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy_cache.store.recent_drops import PURGED_BY
from tests.support.agents import Response
from tests.support.api import call
from tests.support.explain_cases import (
    AGED,
    CASES,
    COOKIE,
    ETAG,
    FRESH,
    LOGGED_IN,
    NOT_TOLD,
    OLD,
    PARTS,
    RANGE,
    ROOM,
    TOLD_BY_TESTS,
    Ask,
    cc,
    get,
    reply,
)
from tests.support.origin import Gate, Origin
from tests.support.proxy import TO_LOOPBACK, Proxy

Found = dict[str, Any]
TOKEN = "a-token-for-tests-of-explain"
SLOW = 60
"""Seconds that a busy machine may take from an explanation to the request. No two lifetimes are as close."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "http-caching.md"
SECTIONS = (
    "Is it stored?", "For how long is it fresh?", "May it be used now?", "Validation", "Ranges and big objects",
)  # fmt: skip
"""What ``explain`` is about."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)
    rules = ["|~u /ttl/|2h", "|~u /forced/|2h|force", "|~u /asked/ & ~hq X-Long|2h"]
    with Proxy(
        tmp_path_factory.mktemp("explain"), control=True, cache_ttl=rules, cache_hosts=["127.0.0.1", "*.example"],
        cache_ignore_request_directives="~u /maven/", cache_ignore_authorization="~u /open/",
        cache_key_ignore_query=["|~u /objects/|Expires Signature Key-Pair-Id"],
        cache_targeted_fields="CDN-Cache-Control",
        cache_credential_fields="X-Build-User", cache_queue_timeout=["|~u /patient/|90", "|~u /impatient/|0"],
        cache_max_object_size=ROOM,
        access_destinations=["deny denied.example", *TO_LOOPBACK["access_destinations"]], access_connect_ports="443",
        origin_retries=0, admin_token_file=token_file, intercept_hosts="secure.example",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def explain(proxy: Proxy, url: str, ask: Ask) -> Found:
    query = urlencode([("url", url), ("method", ask.method), *(("header", f"{n}: {v}") for n, v in ask.headers)])
    status, body = proxy.admin(f"/api/v1/explain?{query}")
    assert status == 200, body
    found = json.loads(body)
    assert isinstance(found, dict)
    return found


def do(proxy: Proxy, url: str, ask: Ask) -> Response:
    response = proxy.request(ask.method, url, headers=ask.headers, body=ask.body)
    proxy.wait_until_idle()
    return response


def words(response: Response) -> dict[str, str]:
    """Our member of Cache-Status, the parameters by their names."""
    _, *parts = (response.header("Cache-Status") or "").rpartition(",")[2].split(";")
    return {name.strip(): value.strip('"') for name, _, value in (part.partition("=") for part in parts)}


def happened(origin: Origin, target: str, ask: Ask, before: int, response: Response, *, has_validator: bool) -> str:
    """What the request has turned out to be, in explain's words. ``has_validator``: what is stored has one, so that the
    condition that the origin sees is no client's own."""
    said = words(response)
    if response.status in (403, 502, 503, 504) and response.header("Proxy-Status") is not None:
        return "refused"
    if "hit" in said:
        return "stale" if said.get("detail") == "stale-while-revalidate" else "hit"
    match said.get("fwd"):
        case "partial":
            return "partial"
        case "method" | "bypass":
            return "bypass"
        case None:
            return "own"
    if ask.method == "HEAD":
        return "bypass"
    asked = origin.seen(target)[before]
    is_asked = any(asked.header(name) is not None for name in ("if-none-match", "if-modified-since"))
    return "revalidate" if is_asked and said["fwd"] in ("stale", "request") and has_validator else "miss"


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.id for case in CASES])
def test_what_is_explained_happens(proxy: Proxy, origin: Origin, number: int) -> None:
    case = CASES[number]
    target = f"{case.path}{number}{case.query}"
    url = origin.serve(target, *case.replies)
    last = [do(proxy, url, ask) for ask in case.before][-1:]

    found = explain(proxy, url, case.ask)

    assert found["verdict"] == case.verdict, found
    sentences = [one for one in found["sentences"] if case.says in one["text"]]
    assert sentences, json.dumps(found, indent=1)
    if case.says:
        assert sentences[0]["rfc"] == (case.rfc or None) or not case.rfc, found
    if case.not_stored:
        assert found["not_stored"]["reason"] == case.not_stored, found
        # That there is no room is known when the head has gone out already.
        assert case.not_stored == "store" or words(last[0])["detail"] == case.not_stored
        assert case.says or not case.rfc or found["not_stored"]["rfc"] == case.rfc, found
    elif case.before and case.verdict not in ("miss", "bypass"):
        assert found["not_stored"] is None
    if case.rule:
        assert any(one["freshness_rule"]["text"].startswith(case.rule) for one in found["stored"]), found

    comes_true(proxy, origin, target, found, case.ask)

    if case.not_stored:
        proxy.wait_for_log(rf"{re.escape(f'{case.path}{number}')}\S* .* not_stored={case.not_stored}\b")


def comes_true(proxy: Proxy, origin: Origin, target: str, found: Found, ask: Ask) -> Response:
    """Do what was explained, and compare."""
    before = origin.count(target)
    response = proxy.request(ask.method, origin.url(target), headers=ask.headers, body=ask.body)
    verdict, said = found["verdict"], words(response)
    told = json.dumps(found, indent=1), ask, response
    has_validator = any(one["etag"] or one["last_modified"] for one in found["stored"])
    assert happened(origin, target, ask, before, response, has_validator=has_validator) == verdict, told
    assert said.get("fwd") == found["fwd"] or verdict == "refused", told
    if found["status"] is not None:
        assert response.status == found["status"], told
    if verdict in ("hit", "stale"):
        assert origin.count(target) == before or verdict == "stale", told
        ttls = [one["ttl_seconds"] for one in found["stored"]]
        assert not ttls or any(0 <= ttl - int(said["ttl"]) <= SLOW for ttl in ttls), told
    return response


RESPONSES = {
    "fresh and old": (FRESH, ETAG, AGED),
    "immutable": (cc("max-age=3600, immutable"), ETAG),
    "stale": (cc("max-age=60"), ETAG, AGED),
    "stale-while-revalidate": (cc("max-age=60, stale-while-revalidate=600"), ETAG, AGED),
    "stale, no validator": (cc("max-age=60"), AGED),
    "must-revalidate": (cc("max-age=60, must-revalidate"), ETAG, AGED),
    "no-cache": (cc("no-cache"), ETAG),
    "no-store": (cc("no-store"),),
    "private": (cc("private, max-age=60"), ETAG),
    "public": (cc("public, max-age=600"), ETAG),
    "varies": (FRESH, ETAG, ("Vary", "Accept-Language")),
    "nothing": (),
    "by its date": (OLD,),
}
REQUESTS = (
    (), (cc("no-cache"),), (cc("no-store"),), (cc("max-age=0"),), (cc("max-age=90"),), (cc("min-fresh=3510"),),
    (cc("max-stale"),), (cc("max-stale=10"),), (cc("only-if-cached"),), (cc("max-age=1000, max-stale=1000"),),
    (("Pragma", "no-cache"),), (("If-None-Match", '"v1"'),), (("If-None-Match", '"v2"'),),
    (("If-Modified-Since", "Mon, 01 Jan 2024 00:00:00 GMT"),), (("If-Match", '"v1"'),), (RANGE,),
    (RANGE, ("If-Range", '"v1"')), (LOGGED_IN,), (COOKIE,), (("Accept-Language", "fr"),),
)  # fmt: skip


@pytest.mark.parametrize("kind", RESPONSES)
def test_any_request_after_any_response(proxy: Proxy, origin: Origin, kind: str) -> None:
    """Each request of :data:`REQUESTS`, and every second one as a HEAD, after a plain one: also where nobody has
    thought of a reason."""
    asks = [Ask(headers) for headers in REQUESTS] + [Ask(headers, "HEAD") for headers in REQUESTS[::2]]
    targets = [f"/any/{kind.replace(' ', '-')}/{number}" for number in range(len(asks))]
    for target in targets:
        proxy.get(origin.serve(target, reply(*RESPONSES[kind], PARTS)))
    proxy.wait_until_idle()
    for target, ask in zip(targets, asks, strict=True):
        comes_true(proxy, origin, target, explain(proxy, origin.url(target), ask), ask)


def lines_of_the_page() -> list[str]:
    """The first cells of the tables in :data:`SECTIONS`, without the heads of tables."""
    found = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        if title in SECTIONS:
            rows = re.findall(r"^\| *(.*?) *\|", text, re.MULTILINE)
            found += [
                row for row, below in zip(rows, [*rows[1:], ""], strict=True) if row.strip("-") and below[:3] != "---"
            ]
    return found


@pytest.mark.parametrize("line", lines_of_the_page())
def test_each_line_of_the_page_has_a_case(line: str) -> None:
    told = {*(case.row for case in CASES), *TOLD_BY_TESTS, *NOT_TOLD}
    assert any(line.startswith(row) for row in told)
    assert all(name in globals() for name in TOLD_BY_TESTS.values())
    told_to_people = (PAGE.parent / "explain.md").read_text()
    assert re.sub(r"\(\S*#", "(#", line) in re.sub(r"\(\S*#", "(#", told_to_people)


# -- what takes more than one request ---------------------------------------------------------------------------------


def test_a_running_fill_is_joined(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/joined", reply(FRESH, gate=gate))
    first = proxy.start_get(url)
    origin.wait_for("/joined")

    found = explain(proxy, url, Ask())

    assert found["verdict"] == "join"
    assert origin.count("/joined") == 1
    second = proxy.start_get(url)
    proxy.wait_for_waiters(2)
    gate.open()
    assert first.result().ok
    assert "collapsed" in words(second.result())
    assert origin.count("/joined") == 1


def test_who_insists_waits_for_the_running_fill(proxy: Proxy, origin: Origin) -> None:
    """`no-cache` while the origin is being asked: the next request is shared, after this one."""
    gate = Gate()
    url = origin.serve("/insists", reply(FRESH, ETAG, gate=gate))
    first = proxy.start_get(url)
    origin.wait_for("/insists")

    assert explain(proxy, url, get(cc("no-cache")))["verdict"] == "wait"

    second = proxy.start_get(url, headers=[cc("no-cache")])
    proxy.wait_for_waiters(2)
    gate.open()
    assert first.result().ok
    assert words(second.result())["fwd-status"] == "304"


def test_the_limiter(proxy: Proxy, origin: Origin) -> None:
    """A free slot, the queue, a full queue, and stale in its place."""
    gate = Gate()
    slow, url = origin.serve("/slow", reply(FRESH, gate=gate)), origin.serve("/limited", reply(FRESH))
    stale = origin.serve("/overloaded", reply(ETAG, cc("max-age=60"), AGED))
    do(proxy, stale, Ask())
    try:
        proxy.set_option("origin_max_in_flight=1")
        assert "There is a slot" in texts(explain(proxy, url, Ask()))
        first = proxy.start_get(slow)
        origin.wait_for("/slow")

        found = explain(proxy, url, Ask())
        assert (found["verdict"], "it waits in the queue" in texts(found)) == ("miss", True)

        impatient = origin.serve("/impatient/a", reply(FRESH))
        found = explain(proxy, impatient, Ask())
        assert (found["verdict"], "it may not wait for one" in texts(found)) == ("refused", True)
        response = proxy.get(impatient)
        assert (response.status, words(response)["detail"]) == (503, "timeout")
        assert reasons(explain(proxy, impatient, Ask()))[0] == ("overloaded", "timeout")

        proxy.set_option("origin_queue_max=0")
        found = explain(proxy, url, Ask())
        assert (found["verdict"], found["status"]) == ("refused", 503)
        assert "no place in the queue" in texts(found)
        response = proxy.get(url)
        assert (response.status, words(response)["detail"]) == (503, "rejected")
        assert reasons(explain(proxy, url, Ask()))[0] == ("overloaded", "rejected")

        assert explain(proxy, stale, Ask())["verdict"] == "refused"
        assert proxy.get(stale).status == 503
        proxy.set_option("origin_serve_stale_on_overload=true")
        assert explain(proxy, stale, Ask())["verdict"] == "stale"
        response = proxy.get(stale)
        assert (response.status, words(response)["detail"]) == (200, "overload")
    finally:
        gate.open()
        proxy.set_option("origin_serve_stale_on_overload=false")
        proxy.set_option("origin_queue_max=1024")
        proxy.set_option("origin_max_in_flight=0")
    assert first.result().ok


def test_who_may_go_where(proxy: Proxy, origin: Origin) -> None:
    url = "http://denied.example/a"
    found = explain(proxy, url, Ask())
    assert (found["verdict"], found["status"]) == ("refused", 403)
    assert "deny denied.example" in texts(found)
    assert proxy.get(url).status == 403


def test_a_host_that_is_not_cached(proxy: Proxy, origin: Origin) -> None:
    origin.serve("/elsewhere", reply(FRESH))
    url = f"http://localhost:{origin.port}/elsewhere"
    found = explain(proxy, url, Ask())
    assert (found["verdict"], found["fwd"], "cache_hosts" in texts(found)) == ("bypass", "bypass", True)
    assert words(proxy.get(url))["fwd"] == "bypass"


def test_a_loop(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/loop", reply(FRESH))
    via = proxy.get(url).header("Via") or ""
    ask = get(("Via", via))
    found = explain(proxy, url, ask)
    assert (found["verdict"], found["status"]) == ("refused", 502)
    assert proxy.get(url, headers=ask.headers).status == 502


def test_tunnels(proxy: Proxy, origin: Origin) -> None:
    """What is in a tunnel is seen by nobody; a host of intercept_hosts is cached like the rest; other ports are 403."""
    assert explain(proxy, "https://127.0.0.1/a", Ask())["verdict"] == "tunnel"
    found = explain(proxy, "https://secure.example/a", Ask())
    assert (found["verdict"], "TLS ends in this proxy" in texts(found)) == ("miss", True)
    assert explain(proxy, "https://secure.example/a", Ask(method="CONNECT"))["verdict"] == "tunnel"
    found = explain(proxy, f"https://127.0.0.1:{origin.port}/a", Ask())
    assert (found["verdict"], found["status"], "access_connect_ports" in texts(found)) == ("refused", 403, True)
    refused = proxy.request("CONNECT", origin.base, target=origin.netloc)
    assert refused.status == 403


def test_the_home_of_a_key_is_named(tmp_path: Path) -> None:
    with Proxy(tmp_path, cache_peers="http://127.0.0.1:9") as proxy:
        assert "The peer 127.0.0.1:9 is asked first" in texts(explain(proxy, "http://packages.example/a", Ask()))


def test_errors_of_an_origin_are_remembered(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/broken", reply(fail="reset"))
    for _ in range(3):
        assert proxy.get(url).status == 502
    found = explain(proxy, url, Ask())
    assert found["recent"][0]["kind"] == "error"
    assert found["recent"][0]["times"] == 3
    assert found["recent"][0]["rfc"] == "RFC 9209 §2.3"


def test_clients_that_leave_are_a_reason(proxy: Proxy, origin: Origin) -> None:
    gate = Gate()
    url = origin.serve("/left", reply(cc("no-cache"), chunked=True, size=ROOM, body_gate=gate, gate_at=1000))
    leaver = proxy.start_get(url)
    leaver.received(1000)
    leaver.leave()
    proxy.wait_for_log(r"/left .* cut=client")
    gate.open()
    proxy.wait_until_idle()
    found = explain(proxy, url, Ask())
    assert not found["stored"]
    assert reasons(found)[0] == ("not-stored", "abandoned")


def test_an_unsafe_method_is_a_reason(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/put", reply(FRESH))
    do(proxy, url, Ask())
    found = explain(proxy, url, Ask(method="PUT"))
    assert (found["verdict"], "what is stored for the URL is dropped" in texts(found)) == ("bypass", True)
    do(proxy, url, Ask(method="PUT", body=b"x"))
    found = explain(proxy, url, Ask())
    assert (found["stored"], reasons(found)[0]) == ([], ("dropped", "unsafe-method"))


def test_a_purge_is_a_reason(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/purged", reply(FRESH, ETAG))
    assert explain(proxy, url, Ask(method="PURGE"))["verdict"] == "own"
    for fields, verdict, word in (((("Fastly-Soft-Purge", "1"),), "revalidate", "soft-purge"), ((), "miss", "purge")):
        do(proxy, url, Ask())
        proxy.request("PURGE", url, headers=[("Authorization", f"Bearer {TOKEN}"), *fields])
        found = explain(proxy, url, Ask())
        assert (found["verdict"], reasons(found)[0]) == (verdict, ("dropped", word))
        comes_true(proxy, origin, "/purged", found, Ask())


@pytest.mark.parametrize("by", PURGED_BY)
def test_a_purge_of_many_is_a_reason(proxy: Proxy, origin: Origin, by: str) -> None:
    """Also of what has been stored and purged again and again."""
    target = f"/purged/by-{by}"
    url = origin.serve(target, reply(FRESH, ETAG, ("Surrogate-Key", "many")))
    body = {by: {"host": f"127.0.0.1:{origin.port}", "match": f"*{target}", "tag": "many", "all": True}[by]}
    for soft, verdict in ((True, "revalidate"), (False, "miss"), (False, "miss")):
        do(proxy, url, Ask())
        assert call(proxy, "POST", "/api/v1/purge", {**body, "soft": soft}, token=TOKEN).status == 200
        found = explain(proxy, url, Ask())
        word = f"soft-purge-{by}" if soft else f"purge-{by}"
        assert (found["verdict"], reasons(found)[0]) == (verdict, ("dropped", word))
        assert ("It was dropped: somebody has purged" in texts(found)) is not soft
    assert [one["times"] for one in found["recent"] if one["reason"] == f"purge-{by}"] == [2]


def test_an_eviction_is_a_reason(proxy: Proxy, origin: Origin) -> None:
    """Also of an entry whose key is not in memory, as most are that are evicted."""
    kept, url = (origin.serve(f"/evicted/{name}", reply(FRESH, ETAG, size=6000)) for name in ("kept", "gone"))
    for one in (url, kept):
        do(proxy, one, Ask())
        proxy.wait_until_idle()
    try:
        assert proxy.set_option("cache_max_size=8192") == "ok"
        proxy.get(origin.serve("/evicted/new", reply(FRESH, size=6000)))
        found = proxy.eventually(lambda: explain(proxy, url, Ask()), lambda found: not found["stored"])
    finally:
        assert proxy.set_option("cache_max_size=50%") == "ok"
    assert reasons(found)[0] == ("dropped", "evicted")
    assert f"That was at {found['recent'][0]['at']}." in texts(found)
    do(proxy, url, Ask())
    found = explain(proxy, url, Ask())
    assert (found["verdict"], "evicted" in texts(found), reasons(found)[0]) == ("hit", False, ("dropped", "evicted"))


def test_a_body_that_is_gone_is_a_reason(tmp_path: Path, origin: Origin) -> None:
    url = origin.serve("/lost", reply(FRESH, size=100_000))
    with Proxy(tmp_path) as proxy:
        do(proxy, url, Ask())
    (body,) = proxy.files()
    body.unlink()
    with Proxy(tmp_path) as proxy:
        assert not proxy.get(url).hit
        assert ("dropped", "unreadable") in reasons(explain(proxy, url, Ask()))


# -- what asking does not do ------------------------------------------------------------------------------------------


def test_asking_changes_nothing(proxy: Proxy, origin: Origin) -> None:
    """No request to an origin, no hit or miss, no fill, not even in the background."""
    stale = origin.serve("/untouched/stale", reply(ETAG, cc("max-age=60, stale-while-revalidate=600"), AGED))
    fresh = origin.serve("/untouched/fresh", reply(FRESH))
    for url in (stale, fresh):
        do(proxy, url, Ask())
    missing = origin.serve("/untouched/missing", reply(FRESH))
    names = ("hits_total", "misses_total", "coalesced_total", "cache_entries", "origin_fetches_in_flight")
    before = [proxy.value(name) for name in names], len(origin.seen())
    for url in (stale, fresh, missing):
        for ask in (Ask(), get(RANGE), get(cc("no-cache")), Ask(method="HEAD"), Ask(method="POST")):
            explain(proxy, url, ask)
    assert ([proxy.value(name) for name in names], len(origin.seen())) == before


def test_no_secrets(proxy: Proxy, origin: Origin) -> None:
    secret = "s3cr3tS3cr3ts3cr3t"
    url = origin.serve(f"/secret?token={secret}", reply(cc("public, max-age=60"), ("Vary", "Authorization, X-Api-Key")))
    ask = get(("Authorization", f"Bearer {secret}"), ("X-Api-Key", secret))
    do(proxy, url, ask)
    found = explain(proxy, url, ask)
    assert found["verdict"] == "hit"
    assert found["stored"][0]["variant"] == {"authorization": "***", "x-api-key": "***"}
    assert secret not in json.dumps(found)


@pytest.mark.parametrize(
    ("parameter", "query"),
    [
        ("url", [("url", "ftp://a.example/")]),
        ("url", [("url", "http://user@a.example/")]),
        ("url", [("url", "http://a.example/ b")]),
        ("header", [("url", "http://a.example/"), ("header", "no colon")]),
        ("header", [("url", "http://a.example/"), ("header", "A: b\r\nC: d")]),
        ("header", [("url", "http://a.example/"), *(("header", f"A{n}: b") for n in range(101))]),
        ("method", [("url", "http://a.example/"), ("method", "GET /")]),
    ],
)  # fmt: skip
def test_a_question_that_makes_no_request(proxy: Proxy, parameter: str, query: list[tuple[str, str]]) -> None:
    status, body = proxy.admin(f"/api/v1/explain?{urlencode(query)}")
    assert status == 400
    assert json.loads(body)["detail"].startswith(f"{parameter}: ")


def texts(found: Found) -> str:
    return " ".join(one["text"] for one in found["sentences"])


def reasons(found: Found) -> list[tuple[str, str]]:
    return [(one["kind"], one["reason"]) for one in found["recent"]]
