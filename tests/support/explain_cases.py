"""What ``explain`` has to say, case by case: each names the line of docs/http-caching.md that it is about."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from typing import Any, Final

from tests.support.origin import Reply

Field = tuple[str, str]
SIZE: Final = 500
ROOM: Final = 2_900_000
"""Bytes of the largest response that is kept."""
MANY_BLOCKS: Final = 2_800_000
DAY: Final = 86400


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
PARTS: Field = ("Accept-Ranges", "bytes")
"""Without it the origin sends all of it, whatever is asked for."""
RANGE: Field = ("Range", "bytes=10-19")
SIGNED = "?Expires=2000000000&Signature=abcdefghijklmnop&Key-Pair-Id=APKAEXAMPLE"


def not_stored(row: str, name: str, word: str, *headers: Field, rfc: str = "", **options: Any) -> Case:
    """A response with these fields isn't stored, for this reason."""
    asked = options.pop("ask", Ask())
    case = {"path": options.pop("path", "/case/"), "query": options.pop("query", "")}
    return Case(
        row, name, (reply(*headers, **options),), "miss", rfc=rfc, not_stored=word, before=(asked,), ask=asked, **case
    )


def stored(row: str, name: str, *headers: Field, says: str = "fresh for another", **options: Any) -> Case:
    """A response with these fields is a hit."""
    asked, rule, rfc = options.pop("ask", Ask()), options.pop("rule", ""), options.pop("rfc", "")
    case = {"path": options.pop("path", "/case/"), "query": options.pop("query", "")}
    return Case(row, name, (reply(*headers, **options),), "hit", says, rfc, (asked,), asked, rule=rule, **case)


def used(row: str, name: str, verdict: str, says: str, rfc: str, *headers: Field, **options: Any) -> Case:
    """What is stored with these fields (and an entity tag) is used, or not, for this reason."""
    asked = options.pop("ask", Ask())
    again = options.pop("again", ())
    path = options.pop("path", "/case/")
    return Case(row, name, (reply(ETAG, *headers, **options), *again), verdict, says, rfc, ask=asked, path=path)


STORING = [
    not_stored("`Cache-Control: no-store`", "no-store", "no-store", cc("no-store"), rfc="RFC 9111 §5.2.2.5"),
    not_stored("`private`", "private", "private", cc("private, max-age=60"), rfc="RFC 9111 §5.2.2.7"),
    stored(
        '`private="X-User"`', "without the field", cc('max-age=3600, private="X-User"'), ("X-User", "me"),
        says="without x-user", rfc="RFC 9111 §5.2.2.7",
    ),
    not_stored('`private="X-User"`', "a field that matters", "private", cc('max-age=60, private="Content-Type"')),
    stored(
        '`no-cache="X-A"`', "without the field", cc('max-age=3600, no-cache="X-A"'), ("X-A", "1"),
        says="without x-a", rfc="RFC 9111 §5.2.2.7",
    ),
    stored(
        "`must-understand`", "overrides no-store", cc("must-understand, no-store, max-age=3600"),
        says="overrides its no-store", rfc="RFC 9111 §5.2.2.3",
    ),
    not_stored("`must-understand`", "an unknown status", "status", cc("must-understand, max-age=60"), status=299),
    not_stored("`Vary: *`", "*", "vary-star", FRESH, ("Vary", "*"), rfc="RFC 9111 §4.1"),
    not_stored("`Vary: *`", "33 names", "vary-star", FRESH, ("Vary", ", ".join(f"X-{n}" for n in range(33)))),
    not_stored("more than 8 kB", "of Cache-Control", "no-store", cc("max-age=60, x=" + "y" * 9000)),
    not_stored("`Set-Cookie`", "alone", "set-cookie", FRESH, ("Set-Cookie", "a=b"), rfc="RFC 9111 §7.3"),
    stored(
        "`Set-Cookie`", "public", cc("public, max-age=3600"), ("Set-Cookie", "a=b"), says="It sets a cookie, and",
        rfc="RFC 9111 §7.3",
    ),
    not_stored(
        "request with `Authorization`", "max-age", "authorization", FRESH, ask=get(LOGGED_IN), rfc="RFC 9111 §3.5"
    ),
    stored(
        "request with `Authorization`", "public", cc("public, max-age=3600"), ask=get(LOGGED_IN),
        says="It is for all", rfc="RFC 9111 §3.5",
    ),
    stored(
        "request with `Authorization`", "cache_ignore_authorization", FRESH, ask=get(LOGGED_IN), path="/open/",
        says="cache_ignore_authorization", rfc="RFC 9111 §3.5",
    ),
    not_stored("request with other", "Cookie, OLD", "credentials", OLD, ask=get(COOKIE), rfc="RFC 9111 §4.2.2"),
    not_stored("request with other", "a field of the operator's", "credentials", OLD, ask=get(("X-Build-User", "me"))),
    stored("request with other", "Cookie, max-age", FRESH, ask=get(COOKIE)),
    not_stored(
        "request with `no-store`", "no-store", "request-no-store", FRESH, ask=get(cc("no-store")),
        rfc="RFC 9111 §5.2.1.5",
    ),
    stored("request with `no-store`", "rule", FRESH, ask=get(cc("no-store")), path="/maven/"),
    not_stored("200, 203, 204", "404 without anything", "no-freshness", status=404, rfc="RFC 9111 §3"),
    stored(
        "200, 203, 204", "404 with Last-Modified", OLD, status=404, rule="A lifetime of 86400 s, a tenth",
        says="A lifetime of 86400 s, a tenth",
    ),
    stored("any other final status", "302 with max-age", FRESH, ("Location", "/a"), status=302),
    not_stored("any other final status", "302 without", "no-freshness", ("Location", "/a"), status=302),
    not_stored("any other final status", "299 without", "no-freshness", ETAG, status=299),
    not_stored(
        "206 to a request that went out as it came", "bytes 0-9", "partial", FRESH,
        ("Content-Range", f"bytes 0-{SIZE - 1}/9000"), status=206, rfc="RFC 9111 §3.3",
    ),
    not_stored("a URL with a [signature]", "max-age", "signed-url", FRESH, query=SIGNED),
    stored(
        "a URL with a [signature]", "immutable", cc("max-age=3600, immutable"), query=SIGNED,
        says="The URL is signed",
    ),
    stored("a URL with a [signature]", "cache_key_ignore_query", FRESH, query=SIGNED, path="/objects/"),
    not_stored("428, 429, 431, 511", "428", "status", FRESH, status=428),
    not_stored("401, 407, 408", "403 is something else", "no-freshness", status=403),
    not_stored("401, 407, 408", "503", "status", FRESH, status=503),
    Case(
        "5xx while validating", "what is stored stays", (reply(ETAG, cc("max-age=60"), AGED), reply(status=503)),
        "revalidate", "has been stale for", "RFC 9111 §4.2", (Ask(), Ask()), not_stored="status",
    ),
    not_stored("larger than the room", "cache_max_object_size", "store", FRESH, size=ROOM + 1),
]  # fmt: skip

FRESHNESS = [
    stored(
        "a `cache_ttl` rule", "in place of max-age", cc("max-age=5"), path="/ttl/",
        rule="A lifetime of 7200 s, by a rule of cache_ttl", says="A lifetime of 7200 s, by a rule of cache_ttl",
    ),
    stored(
        "a `cache_ttl` rule", "force", cc("no-store"), path="/forced/",
        rule="A lifetime of 7200 s, by a rule of cache_ttl", says="A lifetime of 7200 s, by a rule of cache_ttl",
    ),
    stored(
        "a targeted field", "CDN-Cache-Control", cc("no-store"), ("CDN-Cache-Control", "max-age=600"),
        rule="A lifetime of 600 s, by max-age of cdn-cache-control",
        says="A lifetime of 600 s, by max-age of cdn-cache-control",
    ),
    stored(
        "`s-maxage`", "before max-age", cc("max-age=5, s-maxage=900"), rule="A lifetime of 900 s, by s-maxage.",
        says="A lifetime of 900 s, by s-maxage.",
    ),
    stored(
        "`max-age`", "before Expires", FRESH, ("Expires", date(5)), rule="A lifetime of 3600 s, by max-age.",
        says="A lifetime of 3600 s, by max-age.",
    ),
    stored(
        "`Expires`", "and Date", ("Date", date(0)), ("Expires", date(DAY)), rule="A lifetime of 86",
        says="A lifetime of 86",
    ),
    stored(
        "`Last-Modified`, and", "years ago", OLD, rule="A lifetime of 86400 s, a tenth of the time",
        says="A lifetime of 86400 s, a tenth of the time",
    ),
    stored(
        "a plain 200 that says nothing", "at all", rule="A lifetime of 120 s, by cache_default_ttl",
        says="A lifetime of 120 s, by cache_default_ttl",
    ),
    Case(
        "else", "an entity tag alone", (reply(ETAG),), "revalidate", "No lifetime", "RFC 9111 §4.2.1",
        rule="No lifetime",
    ),
    stored(
        "`max-age`", "501, a minute at most", FRESH, status=501, rule="A lifetime of 60 s, by max-age. As an error",
        says="A lifetime of 60 s, by max-age. As an error",
    ),
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
        ask=get(cc("max-age=90")),
    ),
    used(
        "`max-age=n`", "0", "revalidate", "The request's max-age", "RFC 9111 §5.2.1.1", FRESH,
        ask=get(cc("max-age=0")),
    ),
    used(
        "`max-age=n`", "immutable", "hit", "immutable", "RFC 8246 §2.1", cc("max-age=3600, immutable"),
        ask=get(cc("max-age=0")),
    ),
    used("`max-age=n`", "younger", "hit", "fresh for another", "RFC 9111 §4.2", FRESH, ask=get(cc("max-age=90"))),
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
        "400, 401, 403, 406, 431", "for just the same fields", (reply(FRESH, status=403), reply(FRESH)), "miss",
        "an error (403), for requests with just the same fields: other are x-a", "RFC 9111 §4.1", (get(("X-A", "1")),),
        get(("X-A", "2")),
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
    Case(
        "an answer that may not be stored", "says nothing about the stored one",
        (reply(ETAG, cc("max-age=60"), AGED), reply(cc("no-store")), reply(ETAG, cc("max-age=60"), AGED)),
        "revalidate", "has been stale for", "RFC 9111 §4.2", (Ask(), get(COOKIE)), not_stored="no-store",
    ),
    Case(
        "HEAD", "of what is stored in part", (reply(FRESH, ETAG, PARTS, size=MANY_BLOCKS),), "hit", "fresh for another",
        "RFC 9111 §4.2", (get(RANGE),), Ask(method="HEAD"),
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
    Case(
        "small objects", "a HEAD has told the length", (reply(FRESH, ETAG),), "miss", "and the range cut out of that",
        "RFC 9111 §3.3", (Ask(method="HEAD"),), get(RANGE),
    ),
    Case(
        "it answers 200", "all of it is stored", (reply(FRESH, ETAG),), "hit", "cut out of it: 206",
        "RFC 9110 §15.3.7", (get(RANGE),), get(("Range", "bytes=100-199")),
    ),
    not_stored("an error about a range", "404", "partial", FRESH, ETAG, status=404, ask=get(RANGE)),
    Case(
        "and is given up", "what has come is kept",
        (reply(FRESH, ETAG, PARTS, size=MANY_BLOCKS, cut=1_500_000), reply(FRESH, ETAG, PARTS, size=MANY_BLOCKS)),
        "partial",
        f"of {MANY_BLOCKS} bytes", "RFC 9111 §3.3",
    ),
    used(
        "what is asked for", "a range of what is stored", "hit", "cut out of it: 206", "RFC 9110 §15.3.7", FRESH,
        ask=get(RANGE),
    ),
    Case(
        "206 to a range we asked for", "of nothing stored", (reply(FRESH, ETAG, PARTS, size=MANY_BLOCKS),), "miss",
        "widened to whole blocks", "RFC 9110 §14.2", (), get(RANGE),
    ),
    Case(
        "206 to a range we asked for", "is stored", (reply(FRESH, ETAG, PARTS, size=MANY_BLOCKS),), "hit",
        "cut out of it: 206", "RFC 9110 §15.3.7", (get(RANGE),), get(("Range", "bytes=100-199")),
    ),
    Case(
        "putting parts together", "a gap", (reply(FRESH, ETAG, PARTS, size=MANY_BLOCKS),), "partial",
        "under the strong validator", "RFC 9111 §3.4", (get(RANGE),), get(("Range", "bytes=2200000-2200010")),
    ),
    Case(
        "what can't be put together", "a weak tag", (reply(FRESH, PARTS, ("ETag", 'W/"v1"'), size=MANY_BLOCKS),),
        "miss",
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


TOLD_BY_TESTS: Final = {
    "`no-cache`, `max-age=n`, `min-fresh=n` while": "test_who_insists_waits_for_the_running_fill",
    "nothing, while the origin is being asked": "test_a_running_fill_is_joined",
    "many waiters": "test_a_running_fill_is_joined",
    "[rules of access]": "test_who_may_go_where",
    "the limiter gives no slot in time": "test_the_limiter",
    "at the same time": "test_a_running_fill_is_joined",
}
"""Lines that take more than one request at a time."""
NOT_TOLD: Final = {
    "304, and the stored bytes": "the body is compared when the 304 is here",
    "far ahead of a running fill": "the pace is measured by who reads",
    "the origin has another version": "the origin says so when it is asked",
    "very many pieces": "the piece that is too many is known when it comes",
    "it answers less": "the origin says so when it is asked",
    "it makes something odd of a range": "the same",
    "and of the client's own range, too": "the same",
    "a body breaks off": "the same",
    "digests": "they are fields of what is sent, not of what is decided",
    "a restart": "what is stored is told by what it is then",
}
"""Lines that nobody can tell before the origin is asked, or that decide nothing."""
