"""RFC 9111 over the wire: what an operator sees of it between a real mitmdump and a real origin.

A case is a script: what the origin answers, what is asked one after the other, and where each answer has to come from.
Time is not waited for: a response is made old by an Age or a Date.
"""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from typing import Any

import http_sf
import pytest

from tests.support.agents import Response
from tests.support.content import content
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy

Field = tuple[str, str]
SIZE = 700
DAY = 86400
"""Seconds: the tables are made when the file is imported, and the last of a long run of tests is still before that."""
ANY = "*"
"""A value that a field has to have, whatever it is."""


def date(seconds: float = 0.0) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


def cc(value: str) -> Field:
    return ("Cache-Control", value)


@dataclass(frozen=True)
class Ask:
    """One request and what becomes of it."""

    expect: str
    """``hit``: from the cache, the origin hears nothing. ``fetch``: the origin's answer. ``validated``: the origin says
    304, the client gets the stored body. ``stale``: stored, although the origin was asked or should have been."""
    headers: tuple[Field, ...] = ()
    method: str = "GET"
    status: int = 200
    body: int | None = None
    """The number of the origin's answer whose body it has to be; by default that of the last ``fetch``."""
    sent: tuple[Field, ...] = ()
    """Fields that the origin has to see, with these values (an empty one: not at all)."""
    has: tuple[Field, ...] = ()
    """The same for the fields that the client gets."""
    fwd: str = ""
    """The reason that Cache-Status gives."""


@dataclass(frozen=True)
class Case:
    section: str
    name: str
    replies: tuple[Reply, ...]
    asks: tuple[Ask, ...]

    @property
    def id(self) -> str:
        return f"{self.section} {self.name}"


def reply(*headers: Field, **options: Any) -> Reply:
    return Reply(size=SIZE, headers=headers, **options)


def simple(section: str, name: str, second: str, *headers: Field, request: tuple[Field, ...] = ()) -> Case:
    """A response with these headers is asked for twice; ``second`` says what the second time is."""
    return Case(section, name, (reply(*headers),), (Ask("fetch"), Ask(second, request)))


def status_case(section: str, status: int, second: str, *headers: Field) -> Case:
    """The same for a status other than 200."""
    name = f"{status}, {'explicit' if FRESH in headers else 'heuristic'}"
    return Case(
        section, name, (reply(*headers, status=status),), (Ask("fetch", status=status), Ask(second, status=status))
    )


HIT, FETCH, VALIDATED = "hit", "fetch", "validated"
ETAG: Field = ("ETag", '"v1"')
FRESH = cc("max-age=3600")
OLD: Field = ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
STALE = (cc("max-age=60"), ("Age", "100"))

STORING = [
    simple("§3", "max-age", HIT, FRESH),
    simple("§3", "s-maxage", HIT, cc("s-maxage=3600")),
    simple("§3", "Expires", HIT, ("Expires", date(DAY))),
    simple("§3", "no-store", FETCH, cc("no-store, max-age=3600")),
    simple("§3", "no-store in the second line", FETCH, FRESH, cc("NO-STORE")),
    simple("§3", "private", FETCH, cc("private, max-age=3600")),
    simple("§3", "private wins over public", FETCH, cc("public, private, max-age=3600")),
    simple("§3.5", "Set-Cookie", FETCH, FRESH, ("Set-Cookie", "a=b")),
    simple("§3.5", "Set-Cookie, public", HIT, cc("public, max-age=3600"), ("Set-Cookie", "a=b")),
    Case(
        "§5.2.2.7", "private fields are not for the next one",
        (reply(cc('max-age=3600, private="X-User, Set-Cookie"'), ("X-User", "me"), ("Set-Cookie", "a=b"), ("X", "1")),),
        (
            Ask(FETCH, has=(("X-User", "me"), ("Set-Cookie", "a=b"))),
            Ask(HIT, has=(("X-User", ""), ("Set-Cookie", ""), ("X", "1"))),
        ),
    ),
    Case(
        "§5.2.2.4", "no-cache fields are left out",
        (reply(cc('max-age=3600, no-cache="X-A"'), ("X-A", "1"), ("X-B", "2")),),
        (Ask(FETCH, has=(("X-A", "1"),)), Ask(HIT, has=(("X-A", ""), ("X-B", "2")))),
    ),
    simple("§5.2.2.4", "no-cache", VALIDATED, cc("no-cache, max-age=3600"), ETAG),
    simple("§5.2.2.4", "no-cache, no validator", FETCH, cc("no-cache, max-age=3600")),
    simple("§5.2.2.3", "must-understand", HIT, cc("must-understand, no-store, max-age=3600")),
    Case(
        "§5.2.2.3", "must-understand of an unknown status",
        (reply(cc("must-understand, max-age=3600"), status=299),), (Ask(FETCH, status=299), Ask(FETCH, status=299)),
    ),
    *[
        status_case("§3", status, HIT, FRESH)
        for status in (
            203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 403, 404, 405, 410, 414, 451, 499, 501, 505, 599,
        )
    ],
    *[
        status_case("§4.2.2", status, HIT, OLD)
        for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)
    ],
    *[
        status_case("§4.2.2", status, FETCH, OLD)
        for status in (201, 202, 302, 303, 307, 400, 403, 499, 599)
    ],
    *[
        status_case("RFC 6585", status, FETCH, FRESH)
        for status in (428, 431, 511)
    ],
    Case(
        "§3.1", "hop-by-hop fields",
        (
            reply(
                FRESH, ("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "5"), ("Proxy-Authenticate", "x"),
                ("X", "1"),
            ),
        ),
        (Ask(FETCH), Ask(HIT, has=(("X-Hop", ""), ("Keep-Alive", ""), ("Proxy-Authenticate", ""), ("X", "1")))),
    ),
]  # fmt: skip

AUTHORIZED: tuple[Field, ...] = (("Authorization", "Bearer one"),)
AUTHORIZATION = [
    Case("§3.5", name, (reply(*headers),), (Ask(FETCH, AUTHORIZED), Ask(second, (("Authorization", "Bearer two"),))))
    for name, second, *headers in (
        ("max-age", FETCH, FRESH),
        ("public", HIT, cc("public, max-age=3600")),
        ("s-maxage", HIT, cc("s-maxage=3600")),
        ("must-revalidate", HIT, cc("must-revalidate, max-age=3600")),
        ("proxy-revalidate", FETCH, cc("proxy-revalidate, max-age=3600")),
        ("heuristic", FETCH, OLD),
    )
]

FRESHNESS = [
    # §4.2.1
    simple("§4.2.1", "s-maxage before max-age", VALIDATED, cc("s-maxage=0, max-age=3600"), ETAG),
    simple("§4.2.1", "max-age before Expires", HIT, FRESH, ("Expires", date(-100))),
    simple("§4.2.1", "max-age=0 before Expires", VALIDATED, cc("max-age=0"), ("Expires", date(DAY)), ETAG),
    simple("§4.2.1", "two max-age", VALIDATED, cc("max-age=3600, max-age=0"), ETAG),
    simple("§4.2.1", "invalid max-age", VALIDATED, cc("max-age=an hour"), ETAG),
    simple("§4.2.1", "max-age in a quoted extension", VALIDATED, cc('x="max-age=3600"'), ETAG),
    simple("§5.2", "case", HIT, cc("MaX-aGe=3600")),
    simple("§5.2", "quoted", HIT, cc('max-age="3600"')),
    simple("§5.2", "unknown directives, and garbage", HIT, cc(" ,, foo, bar=\"b,az\", =, max-age=3600 ,;")),
    simple("§5.2", "leading zeros", HIT, cc("max-age=0003600")),
    simple("§1.2.2", "overflow", HIT, cc("max-age=99999999999999999999")),
    simple("§1.2.2", "negative", VALIDATED, cc("max-age=-3600"), ETAG),
    simple("§1.2.2", "fraction", VALIDATED, cc("max-age=3600.5"), ETAG),
    simple("§5.3", "Expires 0", VALIDATED, ("Expires", "0"), ETAG),
    simple("§5.3", "Expires in the past", VALIDATED, ("Expires", date(-1)), ETAG),
    simple("§5.3", "Expires = Date", VALIDATED, ("Expires", date()), ("Date", date()), ETAG),
    simple("§5.3", "Expires by its Date", HIT, ("Expires", date(-100)), ("Date", date(-3700)), ("X-Odd", "1"))
    if False else simple("§5.3", "Expires, RFC 850", HIT, ("Expires", "Saturday, 01-Jan-50 00:00:00 GMT")),
    simple("§5.3", "Expires, asctime", HIT, ("Expires", "Sat Jan  1 00:00:00 2050")),
    simple("§5.3", "Expires, another zone", VALIDATED, ("Expires", "Sat, 01 Jan 2050 00:00:00 CET"), ETAG),
    simple("§5.3", "Expires, one-digit hour", VALIDATED, ("Expires", "Sat, 01 Jan 2050 0:00:00 GMT"), ETAG),
    simple("§5.3", "two Expires", VALIDATED, ("Expires", date(DAY)), ("Expires", date(-1)), ETAG),
    # §4.2.3
    simple("§4.2.3", "Age", VALIDATED, cc("max-age=60"), ("Age", "60"), ETAG),
    simple("§4.2.3", "an old Date", VALIDATED, cc("max-age=60"), ("Date", date(-61)), ETAG),
    simple("§5.1", "invalid Age", HIT, cc("max-age=60"), ("Age", "a while")),
    simple("§5.1", "negative Age", HIT, cc("max-age=60"), ("Age", "-100")),
    simple("§5.1", "Age with a parameter", HIT, cc("max-age=60"), ("Age", "100;foo=bar")),
    simple("§5.1", "huge Age", VALIDATED, cc("max-age=60"), ("Age", "2147483649"), ETAG),
    simple("§5.1", "first of several Ages", HIT, cc("max-age=60"), ("Age", "0, 100")),
    simple("§5.1", "first of several lines", VALIDATED, cc("max-age=60"), ("Age", "100"), ("Age", "0"), ETAG),
    Case("§4.2.3", "no Date", (reply(FRESH, dated=False),), (Ask(FETCH), Ask(HIT, has=(("Age", ANY),)))),
    # §4.2.2
    simple("§4.2.2", "Last-Modified long ago", HIT, OLD),
    simple("§4.2.2", "Last-Modified in the future", VALIDATED, ("Last-Modified", date(DAY))),
    simple("§4.2.2", "not next to an explicit time", VALIDATED, OLD, cc("max-age=0")),
    simple("§5.4", "Pragma in a response says nothing", HIT, FRESH, ("Pragma", "no-cache")),
]  # fmt: skip

REUSE = [
    simple("§5.2.1.4", "no-cache", VALIDATED, FRESH, ETAG, request=(cc("no-cache"),)),
    simple("§5.4", "Pragma", VALIDATED, FRESH, ETAG, request=(("Pragma", "no-cache"),)),
    simple("§5.4", "Pragma next to Cache-Control", HIT, FRESH, request=(("Pragma", "no-cache"), cc("max-stale"))),
    simple("§5.2.1.1", "max-age=0", VALIDATED, FRESH, ETAG, request=(cc("max-age=0"),)),
    simple("§5.2.1.1", "max-age below the age", VALIDATED, FRESH, ETAG, ("Age", "50"), request=(cc("max-age=40"),)),
    simple("§5.2.1.1", "max-age above the age", HIT, FRESH, ("Age", "50"), request=(cc("max-age=80"),)),
    simple("§5.2.1.3", "min-fresh that it has", HIT, FRESH, request=(cc("min-fresh=1000"),)),
    simple("§5.2.1.3", "min-fresh that it hasn't", VALIDATED, FRESH, ETAG, request=(cc("min-fresh=4000"),)),
    simple("§5.2.1.2", "max-stale", HIT, *STALE, request=(cc("max-stale=1000"),)),
    simple("§5.2.1.2", "too stale", VALIDATED, *STALE, ETAG, request=(cc("max-stale=10"),)),
    simple("§5.2.1.2", "max-stale of any age", HIT, *STALE, request=(cc("max-stale"),)),
    simple(
        "§5.2.2.2", "max-stale, must-revalidate", VALIDATED, cc("max-age=60, must-revalidate"), ("Age", "100"), ETAG,
        request=(cc("max-stale"),),
    ),
    simple("§5.2.1.5", "no-store of the request", HIT, FRESH, request=(cc("no-store"),)),
    Case("§5.2.1.5", "no-store is not stored", (reply(FRESH),), (Ask(FETCH, (cc("no-store"),)), Ask(FETCH), Ask(HIT))),
    Case("§5.2.1.7", "only-if-cached", (reply(FRESH),), (Ask("none", (cc("only-if-cached"),), status=504), Ask(FETCH))),
    simple("RFC 8246", "immutable, max-age=0", HIT, cc("max-age=3600, immutable"), request=(cc("max-age=0"),)),
    simple("RFC 8246", "immutable, reload", VALIDATED, cc("max-age=3600, immutable"), ETAG, request=(cc("no-cache"),)),
]  # fmt: skip

VALIDATION = [
    Case(
        "§4.3.1", "strong tag", (reply(*STALE, ETAG),),
        (Ask(FETCH), Ask(VALIDATED, sent=(("If-None-Match", '"v1"'),))),
    ),
    Case(
        "§4.3.1", "weak tag", (reply(*STALE, ("ETag", 'W/"v1"')),),
        (Ask(FETCH), Ask(VALIDATED, sent=(("If-None-Match", 'W/"v1"'),))),
    ),
    Case("§4.3.1", "date", (reply(*STALE, OLD),), (Ask(FETCH), Ask(VALIDATED, sent=(("If-Modified-Since", OLD[1]),)))),
    Case(
        "§4.3.1", "both", (reply(*STALE, OLD, ETAG),),
        (Ask(FETCH), Ask(VALIDATED, sent=(("If-Modified-Since", OLD[1]), ("If-None-Match", '"v1"')))),
    ),
    Case(
        "§4.3.3", "another representation", (reply(*STALE, ETAG), reply(FRESH, ("ETag", '"v2"'), seed="new")),
        (Ask(FETCH), Ask(FETCH, fwd="stale"), Ask(HIT)),
    ),
    Case(
        "§4.3.4", "fields are updated, one by one",
        (
            reply(*STALE, ETAG, ("X-A", "1"), ("X-B", "1"), ("Content-Type", "a/b")),
            Reply(
                status=304,
                headers=(FRESH, ETAG, ("X-B", "2"), ("X-C", "3"), ("Content-Encoding", "br"), ("Set-Cookie", "a=b")),
            ),
        ),
        (
            Ask(FETCH),
            Ask(VALIDATED, has=(("X-B", "2"),)),
            Ask(
                HIT,
                has=(
                    ("X-A", "1"), ("X-B", "2"), ("X-C", "3"), ("Content-Type", "a/b"), ("Content-Encoding", ""),
                    ("Set-Cookie", ""), ("Content-Length", str(SIZE)),
                ),
            ),
        ),
    ),
    Case(
        "§4.3.4", "a 304 about something else is of no use",
        (reply(*STALE, ETAG), Reply(status=304, headers=(FRESH, ("ETag", '"v9"'))), reply(FRESH, ETAG, seed="new")),
        (Ask(FETCH), Ask(FETCH, body=2), Ask(HIT)),
    ),
    Case(
        "§4.3.4", "a 304 that makes it private",
        (
            reply(*STALE, ETAG), Reply(status=304, headers=(cc("private, max-age=60"), ETAG)),
            reply(cc("private"), seed="p"),
        ),
        (Ask(FETCH), Ask(FETCH, body=2), Ask(FETCH)),
    ),
    Case(
        "§4.3.2", "If-None-Match of the client", (reply(FRESH, ETAG),),
        (
            Ask(FETCH),
            Ask(HIT, (("If-None-Match", '"v1"'),), status=304, has=(ETAG, FRESH, ("Content-Type", ""))),
            Ask(HIT, (("If-None-Match", 'W/"v1"'),), status=304),
            Ask(HIT, (("If-None-Match", '"v0", "v1"'),), status=304),
            Ask(HIT, (("If-None-Match", "*"),), status=304),
            Ask(HIT, (("If-None-Match", '"v0"'),)),
        ),
    ),
    Case(
        "§4.3.2", "If-Modified-Since of the client", (reply(FRESH, OLD),),
        (
            Ask(FETCH),
            Ask(HIT, (("If-Modified-Since", OLD[1]),), status=304),
            Ask(HIT, (("If-Modified-Since", date()),), status=304),
            Ask(HIT, (("If-Modified-Since", "Sun, 31 Dec 2023 00:00:00 GMT"),)),
            Ask(HIT, (("If-Modified-Since", "the other day"),)),
        ),
    ),
    Case(
        "RFC 9110 §13.1.3", "If-None-Match before If-Modified-Since", (reply(FRESH, OLD, ETAG),),
        (Ask(FETCH), Ask(HIT, (("If-None-Match", '"v0"'), ("If-Modified-Since", date())))),
    ),
    Case(
        "§4.3.2", "passed on where nothing is stored; the 304 answers the next one", (reply(FRESH, ETAG),),
        (
            Ask("passed", (("If-None-Match", '"v1"'),), status=304, sent=(("If-None-Match", '"v1"'),), fwd="uri-miss"),
            Ask(HIT, (("If-None-Match", 'W/"v1"'),), status=304, has=(ETAG, FRESH)),
            Ask(FETCH, (("If-None-Match", '"v0"'),), sent=(("If-None-Match", ""),)),
            Ask(HIT),
        ),
    ),
    Case(
        "§4.3.2", "a stale 304 is asked for again", (reply(*STALE, ETAG),),
        (
            Ask("passed", (("If-None-Match", '"v1"'),), status=304, sent=(("If-None-Match", '"v1"'),)),
            Ask("passed", (("If-None-Match", '"v1"'),), status=304, sent=(("If-None-Match", '"v1"'),)),
            Ask(FETCH, sent=(("If-None-Match", ""),)),
        ),
    ),
    Case(
        "§4.3.2", "a 304 that names no validator is about the client's date", (Reply(status=304, headers=(FRESH,)),),
        (
            Ask("passed", (("If-Modified-Since", OLD[1]),), status=304),
            Ask(HIT, (("If-Modified-Since", date()),), status=304),
        ),
    ),
    Case(
        "§4.3.2", "passed on, and another representation comes back", (reply(FRESH, ETAG),),
        (Ask(FETCH, (("If-None-Match", '"v0"'),), sent=(("If-None-Match", '"v0"'),)), Ask(HIT)),
    ),
    Case(
        "§4.3.2", "If-Match is for the origin", (reply(FRESH, ETAG),),
        (Ask(FETCH, (("If-Match", '"v1"'),), sent=(("If-Match", '"v1"'),)), Ask(HIT)),
    ),
    Case(
        "§4.3.3", "an error while validating",
        (reply(*STALE, ETAG), Reply(status=404, headers=()), reply(FRESH, seed="back")),
        (Ask(FETCH), Ask(FETCH, status=404), Ask(FETCH, body=2)),
    ),
    Case(
        "§4.3.3", "5xx while validating is passed on, and what is stored stays",
        (reply(*STALE, ETAG), *[Reply(status=500, headers=(FRESH,))] * 4, reply(*STALE, ETAG)),
        (Ask(FETCH), Ask(FETCH, status=500), Ask(VALIDATED, body=0)),
    ),
    Case(
        "§4.3.5", "HEAD updates", (reply(*STALE, ETAG, ("X-A", "1")), reply(FRESH, ETAG, ("X-A", "2"))),
        (Ask(FETCH), Ask("passed", method="HEAD", fwd="stale"), Ask(HIT, has=(("X-A", "2"),), body=0)),
    ),
    Case(
        "§4.3.5", "HEAD tells of a change", (reply(*STALE, ETAG), reply(FRESH, ("ETag", '"v2"'), seed="new")),
        (Ask(FETCH), Ask("passed", method="HEAD"), Ask(FETCH, sent=(("If-None-Match", ""),))),
    ),
    Case(
        "§4.3.5", "HEAD without a validator", (reply(*STALE, ETAG), reply(FRESH, seed="new")),
        (Ask(FETCH), Ask("passed", method="HEAD", fwd="stale"), Ask(FETCH, sent=(("If-None-Match", '"v1"'),))),
    ),
    Case(
        "§4.3.5", "HEAD tells of another length", (reply(*STALE), Reply(headers=(FRESH,), size=SIZE + 1, seed="new")),
        (Ask(FETCH), Ask("passed", method="HEAD"), Ask(FETCH)),
    ),
    Case(
        "§4.3.5", "HEAD tells of another length, and of the same version",
        (reply(*STALE, ETAG), Reply(headers=(*STALE, ETAG), size=0), reply(*STALE, ETAG)),
        (Ask(FETCH), Ask("passed", method="HEAD"), Ask(VALIDATED, body=0, sent=(("If-None-Match", '"v1"'),))),
    ),
    Case(
        "§4.3.5", "HEAD tells of another length of what was fresh",
        (reply(FRESH, ETAG), Reply(headers=(FRESH,), size=0), reply(FRESH, ETAG)),
        (
            Ask(FETCH), Ask("passed", (("Cache-Control", "no-cache"),), method="HEAD"),
            Ask(VALIDATED, body=0, sent=(("If-None-Match", '"v1"'),)), Ask(HIT, body=0),
        ),
    ),
]  # fmt: skip

STALE_ONES = [
    Case(
        "RFC 5861 §4", "stale-if-error, 503",
        (reply(cc("max-age=60, stale-if-error=600"), ("Age", "100"), ETAG), Reply(status=503, headers=())),
        (Ask(FETCH), Ask("stale", fwd="stale", has=(("Cache-Status", "fwd-status=503"),))),
    ),
    Case(
        "RFC 5861 §4", "stale-if-error, exceeded",
        (reply(cc("max-age=60, stale-if-error=10"), ("Age", "100"), ETAG), Reply(status=500, headers=(FRESH,))),
        (Ask(FETCH), Ask(FETCH, status=500)),
    ),
    Case(
        "§4.2.4", "no answer", (reply(*STALE, ETAG), Reply(fail="reset")),
        (Ask(FETCH), Ask("stale", fwd="stale")),
    ),
    Case(
        "§5.2.2.2", "no answer, must-revalidate",
        (reply(cc("max-age=60, must-revalidate"), ("Age", "100"), ETAG), Reply(fail="reset")),
        (Ask(FETCH), Ask("none", status=502, fwd="stale", has=(("Proxy-Status", "error=connection_terminated"),))),
    ),
    Case(
        "§5.2.2.8", "no answer, proxy-revalidate",
        (reply(cc("max-age=60, proxy-revalidate"), ("Age", "100"), ETAG), Reply(fail="reset")),
        (Ask(FETCH), Ask("none", status=502)),
    ),
    Case(
        "§5.2.2.10", "no answer, s-maxage", (reply(cc("s-maxage=60"), ("Age", "100"), ETAG), Reply(fail="reset")),
        (Ask(FETCH), Ask("none", status=502)),
    ),
]  # fmt: skip

VARY: Field = ("Vary", "X-V")
VARIANTS = [
    Case(
        "§4.1", "kept apart", (reply(FRESH, VARY, seed="a"), reply(FRESH, VARY, seed="b")),
        (
            Ask(FETCH, (("X-V", "a"),)), Ask(FETCH, (("X-V", "b"),), fwd="vary-miss"),
            Ask(HIT, (("X-V", "a"),), body=0), Ask(HIT, (("X-V", "b"),), body=1),
        ),
    ),
    Case(
        "§4.1", "absent is not present", (reply(FRESH, VARY), reply(FRESH, VARY, seed="b")),
        (Ask(FETCH), Ask(FETCH, (("X-V", ""),))),
    ),
    Case("§4.1", "star", (reply(FRESH, ("Vary", "*")),), (Ask(FETCH), Ask(FETCH))),
    Case("§4.1", "star in a list", (reply(FRESH, ("Vary", "X-V, *")),), (Ask(FETCH), Ask(FETCH))),
    Case(
        "§4.1", "white space and weights", (reply(FRESH, ("Vary", "Accept-Encoding")),),
        (Ask(FETCH, (("Accept-Encoding", "gzip, br;q=0.5"),)), Ask(HIT, (("Accept-Encoding", "GZIP ,br; q=0.50"),))),
    ),
    Case(
        "§4.3.1", "a new variant is validated with all tags",
        (
            reply(FRESH, VARY, ("ETag", '"a"'), seed="a"), reply(FRESH, VARY, ("ETag", '"b"'), seed="b"),
            Reply(status=304, headers=(FRESH, VARY, ("ETag", '"a"'))),
        ),
        (
            Ask(FETCH, (("X-V", "a"),)), Ask(FETCH, (("X-V", "b"),), sent=(("If-None-Match", '"a"'),)),
            Ask(VALIDATED, (("X-V", "c"),), body=0, sent=(("If-None-Match", '"a", "b"'),), fwd="vary-miss"),
            Ask(HIT, (("X-V", "c"),), body=0), Ask(HIT, (("X-V", "b"),), body=1), Ask(HIT, (("X-V", "a"),), body=0),
        ),
    ),
    Case(
        "§4.3.4", "a 304 that doesn't say which of them",
        (
            reply(FRESH, VARY, ("ETag", '"a"'), seed="a"), reply(FRESH, VARY, ("ETag", '"b"'), seed="b"),
            Reply(status=304, headers=(FRESH, VARY)), reply(FRESH, VARY, seed="c"),
        ),
        (Ask(FETCH, (("X-V", "a"),)), Ask(FETCH, (("X-V", "b"),)), Ask(FETCH, (("X-V", "c"),), body=3)),
    ),
]  # fmt: skip

OTHERS = [
    Case(
        "RFC 9110 §15.2", "103 is passed and not stored",
        (reply(FRESH, ("X-A", "1"), interim=((103, (("Link", "</a>"), ("X-Early", "1"))), (102, ()))),),
        (Ask(FETCH, has=(("X-Early", ""),)), Ask(HIT, has=(("X-Early", ""), ("X-A", "1")))),
    ),
    Case(
        "§4", "the newest of those that match", (reply(FRESH, seed="a"), reply(FRESH, VARY, seed="b")),
        (Ask(FETCH), Ask(FETCH, (cc("no-cache"),)), Ask(HIT)),
    ),
]  # fmt: skip

CASES = [*STORING, *AUTHORIZATION, *FRESHNESS, *REUSE, *VALIDATION, *STALE_ONES, *VARIANTS, *OTHERS]


def status_of(response: Response) -> dict[str, Any]:
    """The parameters of our member of Cache-Status, by a parser that is not ours."""
    members = http_sf.parse((response.header("Cache-Status") or "").encode(), tltype="list")
    name, parameters = members[-1]
    assert name == "proxy-cache", members
    return dict(parameters)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(proxy: Proxy, origin: Origin, case: Case) -> None:
    url = origin.serve("/case", *case.replies)
    last = 0
    for number, ask in enumerate(case.asks):
        before = origin.count("/case")
        response = proxy.request(ask.method, url, headers=list(ask.headers))
        told = f"request {number + 1}: {response}, origin {origin.seen('/case')[before:]}"
        proxy.wait_until_idle()
        asked = origin.seen("/case")[before:]
        said = status_of(response)
        assert response.status == ask.status, told
        assert ("hit" in said) is (ask.expect == HIT), told
        assert bool(asked) is (ask.expect != HIT and said.get("detail") != "only-if-cached"), told
        if ask.expect == FETCH:
            last = min(origin.count("/case"), len(case.replies)) - 1
            assert "hit" not in said, told
        if ask.expect == VALIDATED:
            assert said["fwd-status"] == 304, told
        if ask.status not in (204, 304) and ask.expect in (HIT, FETCH, VALIDATED, "stale") and ask.method == "GET":
            source = case.replies[last if ask.body is None else ask.body]
            assert response.body == content(source.seed or "/case", source.size), told
        if ask.fwd:
            assert said["fwd"] == ask.fwd, told
        for name, value in ask.sent:
            assert (asked[0].header(name) or "") == value, told
        for name, value in ask.has:
            got = response.header(name) or ""
            assert (got if value == ANY else value in got) if value else not got, f"{name} in {told}"
