"""``explain`` says beforehand what happens then: each case is explained, and then done, by a real mitmdump and a real
origin. There is one for each line of docs/http-caching.md that is about what is stored, for how long, and when it is
used."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.agents import Response
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import TO_LOOPBACK, Proxy

Field = tuple[str, str]
Found = dict[str, Any]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "http-caching.md"
SIZE = 500
ROOM = 2_900_000
"""Bytes of the largest response that is kept."""
MANY_BLOCKS = 2_800_000
DAY = 86400


def cc(value: str) -> Field:
    return ("Cache-Control", value)


def date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


def reply(*headers: Field, **options: Any) -> Reply:
    return Reply(**{"size": SIZE, "headers": headers, **options})


@dataclass(frozen=True)
class Ask:
    headers: tuple[Field, ...] = ()
    method: str = "GET"
    body: bytes = b""


def get(*headers: Field) -> Ask:
    return Ask(headers)


@dataclass(frozen=True)
class Case:
    row: str
    """The beginning of the line of the page that it is about."""
    name: str
    replies: tuple[Reply, ...]
    verdict: str
    says: str = ""
    """A part of one of the sentences."""
    rfc: str = ""
    """The section that this sentence names."""
    before: tuple[Ask, ...] = (Ask(),)
    ask: Ask = Ask()
    not_stored: str = ""
    """Why what came before is not stored, as the log has it."""
    rule: str = ""
    """The beginning of what is said of the lifetime of what is stored, and the section."""
    path: str = "/case/"
    query: str = ""

    @property
    def id(self) -> str:
        return f"{self.row[:40]}: {self.name}"


ETAG: Field = ("ETag", '"v1"')
FRESH = cc("max-age=3600")
LOGGED_IN: Field = ("Authorization", "Bearer abcdefghijklmnop")
COOKIE: Field = ("Cookie", "session=abcdefghijkl")
OLD: Field = ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
AGED: Field = ("Age", "100")
RANGE: Field = ("Range", "bytes=10-19")
SIGNED = "?Expires=2000000000&Signature=abcdefghijklmnop&Key-Pair-Id=APKAEXAMPLE"


def not_stored(row: str, name: str, word: str, *headers: Field, rfc: str = "", **options: Any) -> Case:
    """A response with these fields isn't stored, for this reason."""
    asked = options.pop("ask", Ask())
    case = {"path": options.pop("path", "/case/"), "query": options.pop("query", "")}
    return Case(
        row, name, (reply(*headers, **options),), "miss", rfc=rfc, not_stored=word, before=(asked,), ask=asked, **case
    )


def stored(row: str, name: str, *headers: Field, rule: str = "", **options: Any) -> Case:
    """A response with these fields is a hit."""
    asked = options.pop("ask", Ask())
    case = {"path": options.pop("path", "/case/"), "query": options.pop("query", "")}
    return Case(
        row, name, (reply(*headers, **options),), "hit", "fresh for another", "RFC 9111 §4.2", (asked,), asked,
        rule=rule, **case,
    )  # fmt: skip


def used(row: str, name: str, verdict: str, says: str, rfc: str, *headers: Field, **options: Any) -> Case:
    """What is stored with these fields (and an entity tag) is used, or not, for this reason."""
    asked = options.pop("ask", Ask())
    again = options.pop("again", ())
    path = options.pop("path", "/case/")
    return Case(row, name, (reply(ETAG, *headers, **options), *again), verdict, says, rfc, ask=asked, path=path)


STORING = [
    not_stored("`Cache-Control: no-store`", "no-store", "no-store", cc("no-store"), rfc="RFC 9111 §5.2.2.5"),
    not_stored("`private`", "private", "private", cc("private, max-age=60"), rfc="RFC 9111 §5.2.2.7"),
    stored('`private="X-User"`', "without the field", cc('max-age=3600, private="X-User"'), ("X-User", "me")),
    not_stored('`private="X-User"`', "a field that matters", "private", cc('max-age=60, private="Content-Type"')),
    stored('`no-cache="X-A"`', "without the field", cc('max-age=3600, no-cache="X-A"'), ("X-A", "1")),
    stored("`must-understand`", "overrides no-store", cc("must-understand, no-store, max-age=3600")),
    not_stored("`must-understand`", "an unknown status", "status", cc("must-understand, max-age=60"), status=299),
    not_stored("`Vary: *`", "*", "vary-star", FRESH, ("Vary", "*"), rfc="RFC 9111 §4.1"),
    not_stored("`Vary: *`", "33 names", "vary-star", FRESH, ("Vary", ", ".join(f"X-{n}" for n in range(33)))),
    not_stored("more than 8 kB", "of Cache-Control", "no-store", cc("max-age=60, x=" + "y" * 9000)),
    not_stored("`Set-Cookie`", "alone", "set-cookie", FRESH, ("Set-Cookie", "a=b"), rfc="RFC 9111 §7.3"),
    stored("`Set-Cookie`", "public", cc("public, max-age=3600"), ("Set-Cookie", "a=b")),
    not_stored(
        "request with `Authorization`", "max-age", "authorization", FRESH, ask=get(LOGGED_IN), rfc="RFC 9111 §3.5"
    ),
    stored("request with `Authorization`", "public", cc("public, max-age=3600"), ask=get(LOGGED_IN)),
    stored("request with `Authorization`", "cache_ignore_authorization", FRESH, ask=get(LOGGED_IN), path="/open/"),
    not_stored("request with other", "Cookie, OLD", "credentials", OLD, ask=get(COOKIE), rfc="RFC 9111 §4.2.2"),
    not_stored("request with other", "a field of the operator's", "credentials", OLD, ask=get(("X-Build-User", "me"))),
    stored("request with other", "Cookie, max-age", FRESH, ask=get(COOKIE)),
    not_stored(
        "request with `no-store`", "no-store", "request-no-store", FRESH, ask=get(cc("no-store")),
        rfc="RFC 9111 §5.2.1.5",
    ),
    stored("request with `no-store`", "rule", FRESH, ask=get(cc("no-store")), path="/maven/"),
    not_stored("200, 203, 204", "404 without anything", "no-freshness", status=404, rfc="RFC 9111 §3"),
    stored("200, 203, 204", "404 with Last-Modified", OLD, status=404, rule="A lifetime of 86400 s, a tenth"),
    stored("any other final status", "302 with max-age", FRESH, ("Location", "/a"), status=302),
    not_stored("any other final status", "302 without", "no-freshness", ("Location", "/a"), status=302),
    not_stored("any other final status", "299 without", "no-freshness", ETAG, status=299),
    not_stored(
        "206 to a request that went out as it came", "bytes 0-9", "partial", FRESH,
        ("Content-Range", f"bytes 0-{SIZE - 1}/9000"), status=206, rfc="RFC 9111 §3.3",
    ),
    not_stored("a URL with a [signature]", "max-age", "signed-url", FRESH, query=SIGNED),
    stored("a URL with a [signature]", "immutable", cc("max-age=3600, immutable"), query=SIGNED),
    stored("a URL with a [signature]", "cache_key_ignore_query", FRESH, query=SIGNED, path="/objects/"),
    not_stored("428, 429, 431, 511", "428", "status", FRESH, status=428),
    not_stored("401, 407, 408", "403 is something else", "no-freshness", status=403),
    not_stored("401, 407, 408", "503", "status", FRESH, status=503),
    not_stored("larger than the room", "cache_max_object_size", "store", FRESH, size=ROOM + 1),
]  # fmt: skip

FRESHNESS = [
    stored(
        "a `cache_ttl` rule", "in place of max-age", cc("max-age=5"), path="/ttl/",
        rule="A lifetime of 7200 s, by a rule of cache_ttl",
    ),
    stored(
        "a `cache_ttl` rule", "force", cc("no-store"), path="/forced/",
        rule="A lifetime of 7200 s, by a rule of cache_ttl",
    ),
    stored(
        "a targeted field", "CDN-Cache-Control", cc("no-store"), ("CDN-Cache-Control", "max-age=600"),
        rule="A lifetime of 600 s, by max-age of cdn-cache-control",
    ),
    stored("`s-maxage`", "before max-age", cc("max-age=5, s-maxage=900"), rule="A lifetime of 900 s, by s-maxage."),
    stored("`max-age`", "before Expires", FRESH, ("Expires", date(5)), rule="A lifetime of 3600 s, by max-age."),
    stored("`Expires`", "and Date", ("Date", date(0)), ("Expires", date(DAY)), rule="A lifetime of 86"),
    stored("`Last-Modified`, and", "years ago", OLD, rule="A lifetime of 86400 s, a tenth of the time"),
    stored("a plain 200 that says nothing", "at all", rule="A lifetime of 120 s, by cache_default_ttl"),
    Case("else", "an entity tag alone", (reply(ETAG),), "revalidate", "stale for", rule="No lifetime"),
    stored("`max-age`", "501, a minute at most", FRESH, status=501, rule="A lifetime of 60 s, by max-age. As an error"),
]  # fmt: skip

REQUESTS = [
    used("nothing", "fresh", "hit", "fresh for another", "RFC 9111 §4.2", FRESH),
    used("nothing", "stale", "revalidate", "has been stale for", "RFC 9111 §4.2", cc("max-age=60"), AGED),
    used(
        "`no-cache`, `Pragma: no-cache`", "no-cache", "revalidate", "says no-cache", "RFC 9111 §5.2.1.4", FRESH,
        ask=get(cc("no-cache")),
    ),
    used(
        "`no-cache`, `Pragma: no-cache`", "Pragma", "revalidate", "says no-cache", "RFC 9111 §5.2.1.4", FRESH,
        ask=get(("Pragma", "no-cache")),
    ),
    used(
        "`max-age=n`", "older", "revalidate", "The request's max-age", "RFC 9111 §5.2.1.1", FRESH, AGED,
        ask=get(cc("max-age=50")),
    ),
    used(
        "`max-age=n`", "0", "revalidate", "The request's max-age", "RFC 9111 §5.2.1.1", FRESH,
        ask=get(cc("max-age=0")),
    ),
    used(
        "`max-age=n`", "immutable", "hit", "immutable", "RFC 8246 §2.1", cc("max-age=3600, immutable"),
        ask=get(cc("max-age=0")),
    ),
    used("`max-age=n`", "younger", "hit", "fresh for another", "RFC 9111 §4.2", FRESH, ask=get(cc("max-age=50"))),
    used(
        "`min-fresh=n`", "more than is left", "revalidate", "min-fresh", "RFC 9111 §5.2.1.3", FRESH, AGED,
        ask=get(cc("min-fresh=3590")),
    ),
    used(
        "`max-stale[=n]`", "accepts it", "hit", "max-stale accepts", "RFC 9111 §5.2.1.2", cc("max-age=60"), AGED,
        ask=get(cc("max-stale=1000")),
    ),
    used(
        "`max-stale[=n]`", "too stale", "revalidate", "more than the request's max-stale", "RFC 9111 §5.2.1.2",
        cc("max-age=60"), AGED, ask=get(cc("max-stale=10")),
    ),
    Case(
        "`only-if-cached`", "nothing stored", (reply(FRESH),), "refused", "only-if-cached", "RFC 9111 §5.2.1.7", (),
        get(cc("only-if-cached")),
    ),
    Case(
        "`only-if-cached`", "HEAD", (reply(FRESH),), "refused", "only-if-cached", "RFC 9111 §5.2.1.7", (),
        Ask((cc("only-if-cached"),), "HEAD"),
    ),
    used(
        "`no-store`", "what is stored is used", "hit", "fresh for another", "RFC 9111 §4.2", FRESH,
        ask=get(cc("no-store")),
    ),
    used(
        "a filter in", "Maven", "hit", "cache_ignore_request_directives", "RFC 9111 §5.2.1", FRESH,
        ask=get(cc("no-cache, no-store")), path="/maven/",
    ),
]  # fmt: skip

STALE = [
    used(
        "`stale-while-revalidate=n`", "within", "stale", "validated in the background", "RFC 5861 §3",
        cc("max-age=60, stale-while-revalidate=600"), AGED,
    ),
    used(
        "`stale-while-revalidate=n`", "exceeded", "revalidate", "has been stale for", "RFC 9111 §4.2",
        cc("max-age=60, stale-while-revalidate=6"), AGED,
    ),
    used(
        "the origin answers 5xx", "stale-if-error", "revalidate", "If the origin answers 5xx, or not at all",
        "RFC 5861 §4",
        cc("max-age=60, stale-if-error=600"), AGED, again=(reply(status=503),),
    ),
    used(
        "the origin gives no answer", "reset", "revalidate", "If the origin gives no answer", "RFC 9111 §4.2.4",
        cc("max-age=60"), AGED, again=(reply(fail="reset"),),
    ),
    *(
        used("`must-revalidate`, `proxy", directive, "revalidate", says, rfc, cc(f"max-age=60, {directive}"), AGED)
        for directive, says, rfc in (
            ("must-revalidate", "says must-revalidate", "RFC 9111 §5.2.2.2"),
            ("proxy-revalidate", "says proxy-revalidate", "RFC 9111 §5.2.2.8"),
            ("s-maxage=60", "s-maxage forbids", "RFC 9111 §5.2.2.10"),
            ("no-cache", "the response says no-cache", "RFC 9111 §5.2.2.4"),
        )
    ),
]  # fmt: skip

VALIDATION = [
    used(
        "what is sent", "tag and date", "revalidate", "by If-None-Match and If-Modified-Since", "RFC 9111 §4.3.1",
        cc("no-cache"), OLD,
    ),
    Case("what is sent", "no validator", (reply(cc("max-age=60"), AGED),), "miss", "no validator", "RFC 9111 §4.3.1"),
    Case(
        "several variants", "another language", (reply(FRESH, ETAG, ("Vary", "Accept-Language")),), "miss",
        "other values of accept-language", "RFC 9111 §4.1", (get(("Accept-Language", "de")),),
        get(("Accept-Language", "fr")),
    ),
    Case(
        "several variants", "the same in other words", (reply(FRESH, ("Vary", "Accept-Encoding")),), "hit",
        "fresh for another", "RFC 9111 §4.2", (get(("Accept-Encoding", "gzip, br")),), get(("Accept-Encoding",
        "br,gzip")),
    ),
    used(
        "304", "the client's own", "hit", "The request's condition holds: 304", "RFC 9110 §13.2.2", FRESH,
        ask=get(("If-None-Match", '"v1"')),
    ),
    Case(
        "304", "on a miss", (reply(FRESH, ETAG),), "miss", "the origin is asked it", "RFC 9111 §4.3.2", (),
        get(("If-None-Match", '"v1"')),
    ),
    Case(
        "304", "by a head alone", (reply(FRESH, ETAG),), "hit", "by a head that is fresh", "RFC 9111 §4.3.2",
        (get(("If-None-Match", '"v1"')),), get(("If-None-Match", '"v1"')),
    ),
    Case(
        "304", "If-Match goes to the origin", (reply(FRESH, ETAG),), "miss", "are for the origin", "RFC 9111 §4.3.2",
        (), get(("If-Match", '"v1"')),
    ),
    used(
        "304", "If-Match of another version", "miss", "another version than the one", "RFC 9110 §13.1.1", FRESH,
        ask=get(("If-Match", '"v2"')),
    ),
    not_stored(
        "304", "If-Match and a range", "bypass", FRESH, ask=get(("If-Match", '"v1"'), RANGE), status=404,
        rfc="RFC 9111 §4.3.2",
    ),
    used(
        "304 to a request with `Authorization`", "goes forward", "revalidate", "The request has Authorization",
        "RFC 9111 §3.5",
        cc("max-age=60"), AGED, ask=get(LOGGED_IN),
    ),
    not_stored(
        "400, 401, 403, 406, 431", "403 with max-age is for the same fields", "private", cc("private"), status=403,
    ),
    Case(
        "400, 401, 403, 406, 431", "something better is stored", (reply(ETAG, cc("no-cache")), reply(FRESH,
        status=403)),
        "revalidate", "the response says no-cache", "RFC 9111 §5.2.2.4", (Ask(), Ask()),
        not_stored="status",
    ),
    Case(
        "2xx, redirects, 404, 410, 451", "one that may not be stored drops the entry",
        (reply(ETAG, cc("max-age=60"), AGED), reply(cc("no-store"))), "miss", "Nothing is stored", "RFC 9111 §4",
        (Ask(), Ask()), not_stored="no-store",
    ),
    used("HEAD", "fresh", "hit", "fresh for another", "RFC 9111 §4.2", FRESH, ask=Ask(method="HEAD")),
    used(
        "HEAD", "stale", "bypass", "goes to its origin", "RFC 9111 §4.3.5", cc("max-age=60"), AGED,
        ask=Ask(method="HEAD"),
    ),
    Case(
        "HEAD", "nothing stored", (reply(FRESH),), "bypass", "goes to its origin", "RFC 9111 §4.3.5", (),
        Ask(method="HEAD"),
    ),
]  # fmt: skip

RANGES = [
    used(
        "what is asked for", "a range of what is stored", "hit", "cut out of it: 206", "RFC 9110 §15.3.7", FRESH,
        ask=get(RANGE),
    ),
    Case(
        "206 to a range we asked for", "of nothing stored", (reply(FRESH, ETAG, size=MANY_BLOCKS),), "miss",
        "widened to whole blocks", "RFC 9110 §14.2", (), get(RANGE),
    ),
    Case(
        "206 to a range we asked for", "is stored", (reply(FRESH, ETAG, size=MANY_BLOCKS),), "hit",
        "cut out of it: 206", "RFC 9110 §15.3.7", (get(RANGE),), get(("Range", "bytes=100-199")),
    ),
    Case(
        "putting parts together", "a gap", (reply(FRESH, ETAG, size=MANY_BLOCKS),), "partial",
        "under the strong validator", "RFC 9111 §3.4", (get(RANGE),), get(("Range", "bytes=2200000-2200010")),
    ),
    Case(
        "what can't be put together", "a weak tag", (reply(FRESH, ("ETag", 'W/"v1"'), size=MANY_BLOCKS),), "miss",
        "can't be answered by filling its gaps", "RFC 9111 §3.4", (get(RANGE),), get(("Range",
        "bytes=2200000-2200010")),
    ),
    used(
        "416", "beyond the end", "hit", "beyond the 500 bytes: 416", "RFC 9110 §15.5.17", FRESH, ask=get(("Range",
        "bytes=9000-")),
    ),
    used(
        "ranges that are too much", "all of it", "hit", "fresh for another", "RFC 9111 §4.2", FRESH,
        ask=get(("Range", "bytes=" + ",".join(f"{n}-{n}" for n in range(70)))),
    ),
    used(
        "what is asked for", "If-Range with another tag", "hit", "fresh for another", "RFC 9111 §4.2", FRESH,
        ask=get(RANGE, ("If-Range", '"v2"')),
    ),
]  # fmt: skip

OTHERS = [
    Case(
        "`fwd=method`", "POST", (reply(),), "bypass", "POST goes to its origin", "RFC 9111 §3", (),
        Ask(method="POST", body=b"x"),
    ),
    Case(
        "`fwd=method`", "OPTIONS", (reply(),), "bypass", "OPTIONS goes to its origin", "RFC 9111 §3", (),
        Ask(method="OPTIONS"),
    ),
    Case(
        "`fwd=method`", "a GET with a body", (reply(FRESH),), "bypass", "A GET with a body", "RFC 9110 §9.3.1", (),
        Ask((("Content-Length", "1"),), body=b"x"),
    ),
    Case(
        "`Max-Forwards`", "0", (reply(),), "own", "answered here", "RFC 9110 §7.6.2", (), Ask((("Max-Forwards",
        "0"),), "OPTIONS"),
    ),
    Case(
        "invalidation", "PUT", (reply(FRESH),), "miss", "Nothing is stored", "RFC 9111 §4", (Ask(), Ask(method="PUT",
        body=b"x")),
    ),
    Case(
        "Object stores", "two signatures, one key", (reply(FRESH),), "hit", "cache_key_ignore_query", "",
        query=SIGNED, path="/objects/",
    ),
    Case(
        "Rules", "cache_queue_timeout", (reply(FRESH),), "miss", "for 90 s, by cache_queue_timeout", "", (),
        path="/patient/",
    ),
    Case(
        "Rules", "a filter that asks for a field", (reply(cc("max-age=5")),), "hit", "fresh for another",
        "RFC 9111 §4.2", (get(("X-Long", "yes")),), get(("X-Long", "yes")), rule="A lifetime of 7200 s, by a rule",
        path="/asked/",
    ),
]  # fmt: skip

CASES = [*STORING, *FRESHNESS, *REQUESTS, *STALE, *VALIDATION, *RANGES, *OTHERS]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    rules = ["|~u /ttl/|2h", "|~u /forced/|2h|force", "|~u /asked/ & ~hq X-Long|2h"]
    with Proxy(
        tmp_path_factory.mktemp("explain"), control=True, cache_ttl=rules, cache_hosts=["127.0.0.1", "*.example"],
        cache_ignore_request_directives="~u /maven/", cache_ignore_authorization="~u /open/",
        cache_key_ignore_query=["|~u /objects/|Expires Signature Key-Pair-Id"],
        cache_targeted_fields="CDN-Cache-Control",
        cache_credential_fields="X-Build-User", cache_queue_timeout=["|~u /patient/|90"], cache_max_object_size=ROOM,
        access_destinations=["deny denied.example", *TO_LOOPBACK["access_destinations"]], access_connect_ports="443",
        origin_retries=0, intercept_hosts="secure.example",
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


def happened(origin: Origin, target: str, ask: Ask, before: int, response: Response) -> str:
    """What the request has turned out to be, in explain's words."""
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
    own = {name.lower() for name, _ in ask.headers}
    names = ("if-none-match", "if-modified-since")
    is_asked = any(asked.header(name) is not None and name not in own for name in names)
    return "revalidate" if is_asked and said["fwd"] != "vary-miss" else "miss"


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

    before = origin.count(target)
    response = do(proxy, url, case.ask)

    assert happened(origin, target, case.ask, before, response) == case.verdict, (found, response)
    said = words(response)
    assert said.get("fwd") == found["fwd"] or case.verdict == "refused", (found, response)
    if found["status"] is not None:
        assert response.status == found["status"], (found, response)
    if case.verdict in ("hit", "stale"):
        assert origin.count(target) == before or case.verdict == "stale"
        ttls = [one["ttl_seconds"] for one in found["stored"]]
        assert not ttls or any(abs(int(said["ttl"]) - ttl) <= 2 for ttl in ttls), (found, response)
    if case.not_stored:
        proxy.wait_for_log(rf"{re.escape(f'{case.path}{number}')}\S* .* not_stored={case.not_stored}\b")


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
