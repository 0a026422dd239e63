"""A request is accounted for alike, whichever way it takes: in the fast lane, as a flow of mitmproxy's with another
addon beside us, as a flow whose hooks are called directly, and forwarded past the cache.

Each case is one request and all that is told of it: to its client, in the access log, by the metrics. Its row is the
cache's. That of what is forwarded follows from it: it differs in its source, in why it was not answered from the store,
and in that no fill is counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.support.agents import Fetch, Wire, parse_head
from tests.support.origin import Gate, Origin, Reply, bind_new_port
from tests.support.proxy import Metrics, Proxy

from .test_access_log import LINE, Line

FRESH = ("Cache-Control", "max-age=3600")
ETAG = ("ETag", '"v1"')
CACHED = ("lane", "flows", "direct")
UNCACHED = ("forwarded", "posted")
"""A GET for a host that is not to be cached, and a POST with a body."""
ALL = (*CACHED, *UNCACHED)
GETS = (*CACHED, "forwarded")
OPTIONS: dict[str, Any] = {
    "origin_retries": 0, "origin_max_in_flight": 1, "origin_queue_max": 1, "quick_abort_max": 0, "control": True,
}  # fmt: skip
LEFT = "(client disconnected)"
BROKEN = "(response broke off after {} bytes: {})"


class Way:
    """One way that a request can take, through a proxy in which it takes that."""

    def __init__(self, name: str, proxy: Proxy, origin: Origin, case: str) -> None:
        self.name = name
        self.proxy = proxy
        self.origin = origin
        self.path = f"/{case}/{name}"
        self.method = "POST" if name == "posted" else "GET"
        self.answer: bytes | None = None
        """All that the client was sent, where it has stayed."""
        self.lines_before = 0
        self.has_held = False
        """Whether another request had the slot when counting began."""
        self._before: Metrics | None = None

    # -- what a case does ------------------------------------------------------------------------------------

    def serve(self, *replies: Reply) -> str:
        return self.origin.serve(self.path, *(replace(reply, seed="x") for reply in replies))

    def prime(self, url: str) -> None:
        """Have it stored, where anything is, and its body file open."""
        for _ in range(2):
            assert self.proxy.get(url).ok
            self.proxy.wait_until_idle()
            self.lines_before += 1

    def measure(self, *, while_idle: bool = True) -> None:
        """From here on it counts."""
        self._before = self.proxy.settled() if while_idle else self.proxy.metrics()

    def request(self, *fields: str, url: str = "", method: str = "", version: str = "1.1", last: bool = True) -> bytes:
        self.method = method = method or self.method
        own = ["Content-Length: 1"] if method == "POST" else []
        if last and version == "1.1":
            own.append("Connection: close")
        lines = [f"{method} {url or self.origin.url(self.path)} HTTP/{version}", "Host: x", *fields, *own]
        return "\r\n".join([*lines, "", "x" if method == "POST" else ""]).encode()

    def ask(self, *fields: str, gate: Gate | None = None, gate_at: int = 0, **how: Any) -> bytes:
        """All that the proxy answers, until it closes. The gate is opened once the head and ``gate_at`` bytes are here
        (of a body that has no chunks)."""
        with Wire(self.proxy.address) as wire:
            wire.send(self.request(*fields, **how))
            self.answer = b""
            if gate is not None:
                self.answer = wire.until(b"\r\n\r\n") + wire.exactly(gate_at)
                gate.open()
            self.answer += wire.rest()
        return self.answer

    def start(self, url: str) -> Fetch:
        fetch: Fetch = self.proxy.start_request(self.method, url, body=b"x" if self.method == "POST" else b"")
        return fetch

    def hold_the_slot(self) -> Callable[[], None]:
        """Have another request take it, and count from there. Returns what ends that."""
        gate = Gate()
        first = self.proxy.start_get(self.origin.serve(f"{self.path}/first", Reply(gate=gate, headers=(FRESH,))))
        self.origin.wait_for(f"{self.path}/first")
        self.measure(while_idle=False)
        self.has_held = True

        def end() -> None:
            gate.open()
            assert first.result().ok

        return end

    # -- what there is to see --------------------------------------------------------------------------------

    def lines(self, count: int = 1) -> list[Line]:
        """Those of the log about this case's path."""

        def found() -> list[Line]:
            lines = [Line(match) for text in self.proxy.log if (match := LINE.fullmatch(text))]
            return [line for line in lines if line.url.endswith(self.path)][self.lines_before :]

        lines = self.proxy.eventually(found, lambda lines: len(lines) >= count, told=f"{count} lines of the log")
        assert isinstance(lines, list)
        assert len(lines) == count
        return lines

    def told(self, count: int) -> list[str]:
        """The lines in short, times left out."""
        texts = []
        for line in self.lines(count):
            keys = [f"{key}={value}" if key != "queued" else key for key, value in line.keys.items()]
            note = [f"({line.note})"] if line.note else []
            texts.append(" ".join([str(line.status), str(line.bytes), line.source, *keys, *note]))
        return sorted(texts)

    def counts(self, told: list[str]) -> str:
        """Every counter that has changed, and by how much, after these lines."""
        assert self._before is not None
        after = self.proxy.settled()
        check_what_follows(self, self._before, after, told)
        return " ".join(sorted(changes(self._before, after)))


BY_REQUEST = (
    "request_duration_seconds", "time_to_first_byte_seconds", "miss_phase_seconds", "origin_bytes", "bytes_saved",
)  # fmt: skip
"""Counters that follow from the lines and from other counters: see :func:`check_what_follows`."""


def check_what_follows(way: Way, before: Metrics, after: Metrics, told: list[str]) -> None:
    """Each request has been timed once, by its path and how it ended, and bytes from origins are counted alike."""

    def by(name: str, *labels: str) -> Counter[tuple[str, ...]]:
        found: Counter[tuple[str, ...]] = Counter()
        for sample, has, value in after.samples:
            if sample == Metrics.PREFIX + name and (change := int(value - before.value(name, **has))):
                found[tuple(has[label] for label in labels)] += change
        return found

    in_lane = way.name == "lane" and way.method == "GET"
    ended = Counter(
        ("lane" if in_lane and "error=proxy_loop_detected" not in line else "flow", served_from(line)) for line in told
    )
    if way.has_held:
        ended["lane" if way.name in ("lane", "posted") else "flow", "miss"] += 1
    assert by("request_duration_seconds_count", "path", "served_from") == ended, way.name
    first_bytes = Counter((source,) for _, source in ended.elements())
    assert by("time_to_first_byte_seconds_count", "served_from") == first_bytes, way.name
    from_origins = by("fetched_bytes_total", "source")["origin",] + by("bytes_served_total", "source")["forwarded",]
    assert by("origin_bytes_total")[()] == from_origins, way.name


def served_from(line: str) -> str:
    """The label of a request with this line."""
    status, _, source, *keys = line.split(" ")
    if status == "499":
        return "canceled"
    return "absent" if status == "504" and "detail=only-if-cached" in keys else source


def changes(before: Metrics, after: Metrics) -> Iterator[str]:
    for name, labels, value in after.samples:
        if name.startswith(Metrics.PREFIX) and name.endswith(("_total", "_count")):
            change = value - before.value(name, **labels)
            label = f"{{{','.join(labels.values())}}}" if labels else ""
            if change and not name.removeprefix(Metrics.PREFIX).startswith(BY_REQUEST):
                yield f"{name.removeprefix(Metrics.PREFIX).removesuffix('_total')}{label}={change:.0f}"


@dataclass(frozen=True)
class Case:
    name: str
    play: Callable[[Way], object]
    lines: tuple[str, ...]
    """Of the log, in the cache's ways: ``STATUS BYTES SOURCE KEYS (NOTE)``, with ``*`` for other people's words."""
    counts: str
    """Counters that change in the cache's ways."""
    ways: tuple[str, ...]
    option: str
    """Set for this case alone."""
    is_forwarded: bool
    """Whether what is not for the cache goes to the origin in this case."""

    def expected(self, way: Way) -> tuple[list[str], str]:
        if way.name in CACHED:
            return sorted(self.lines), " ".join(sorted(self.counts.split()))
        status, size, source, *rest = self.lines[0].split(" ")
        keys = [one for one in rest if not one.startswith(("fwd=", "not_stored="))]
        if not self.is_forwarded:
            return list(self.lines), self.counts
        source = "error" if source == "error" else "forwarded"
        if status != "499":
            keys.insert(0, "fwd=bypass" if way.name == "forwarded" else "fwd=method")
        counts = [f"bytes_served{{{source}}}={size}"] if size != "0" else []
        counts.append(f"forward_requests{{{way.method}}}=1")
        return [" ".join([status, size, source, *keys])], " ".join(counts)


CASES: list[Case] = []


def case(
    *lines: str, counts: str = "", ways: tuple[str, ...] = ALL, option: str = "", is_forwarded: bool = True,
    name: str = "", **arguments: Any,
) -> Callable[[Any], Any]:  # fmt: skip
    """A function that plays a case with a :class:`Way`."""

    def add(play: Any) -> Any:
        name_of_case = name or play.__name__
        CASES.append(Case(name_of_case, lambda way: play(way, **arguments), lines, counts, ways, option, is_forwarded))
        return play

    return add


# -- answered ---------------------------------------------------------------------------------------------------


def missed(way: Way, reply: Reply, *fields: str, method: str = "", version: str = "1.1") -> None:
    way.serve(reply)
    way.measure()
    way.ask(*fields, method=method, version=version)


STORED = "misses=1 origin_fetches{stored}=1"


def counted(served: int, fetched: int = 0) -> str:
    """A miss of so many bytes for the client, and from the origin."""
    return f"bytes_served{{miss}}={served} fetched_bytes{{origin}}={fetched or served} {STORED}"


FIRST = counted(1000)
"""Of :meth:`Way.hold_the_slot`."""
FIVE = Reply(headers=(FRESH, ETAG), size=5000)
case("200 5000 miss fwd=uri-miss", counts=counted(5000), name="miss", reply=FIVE)(missed)
case(
    "200 300000 miss fwd=uri-miss", counts=counted(300000), name="miss_chunked",
    reply=Reply(headers=(FRESH,), size=300_000, chunked=True),
)(missed)  # fmt: skip
case("200 0 miss fwd=uri-miss", counts=STORED, name="empty", reply=replace(FIVE, size=0))(missed)
case("204 0 miss fwd=uri-miss", counts=STORED, name="no_content", reply=replace(FIVE, status=204))(missed)
case("200 5000 miss fwd=uri-miss", counts=counted(5000), name="http10", reply=FIVE, version="1.0")(missed)
case(
    "200 5000 miss fwd=uri-miss not_stored=no-store", name="not_stored",
    reply=FIVE.with_headers(("Cache-Control", "no-store")),
    counts="bytes_served{miss}=5000 fetched_bytes{origin}=5000 misses=1 origin_fetches{not_stored}=1 "
    "origin_responses_not_stored{no-store}=1",
)(missed)  # fmt: skip
case(
    "500 100 miss fwd=uri-miss not_stored=status", name="status_500", reply=Reply(status=500, size=100),
    counts="bytes_served{miss}=100 fetched_bytes{origin}=100 misses=1 origin_fetches{not_stored}=1 "
    "origin_responses_not_stored{status}=1",
)(missed)  # fmt: skip
case(
    "304 0 miss fwd=uri-miss not_stored=status", name="not_modified_missed", ways=GETS, reply=FIVE,
    counts="misses=1 origin_fetches{not_modified}=1",
)(lambda way, reply: missed(way, reply, 'If-None-Match: "v1"'))  # fmt: skip
case(
    "206 100 miss fwd=uri-miss",
    counts=counted(100, 5000),
    name="range_missed",
    ways=CACHED,
    reply=FIVE,
)(lambda way, reply: missed(way, reply, "Range: bytes=10-109"))
case(
    "206 387 miss fwd=uri-miss",
    counts=counted(387, 5000),
    name="ranges_missed",
    ways=CACHED,
    reply=FIVE,
)(lambda way, reply: missed(way, reply, "Range: bytes=10-109,200-299"))
case(
    "416 0 miss fwd=uri-miss",
    counts=f"fetched_bytes{{origin}}=5000 {STORED}",
    name="unsatisfiable_missed",
    ways=CACHED,
    reply=FIVE,
    option="quick_abort_max=1m",
)(lambda way, reply: missed(way, reply, "Range: bytes=9999-"))
case(
    "200 0 forwarded fwd=uri-miss", counts="forward_requests{HEAD}=1", name="head_missed", ways=GETS, reply=FIVE,
    method="HEAD",
)(missed)  # fmt: skip
DENIED = "error fwd=uri-miss error=http_request_denied detail=only-if-cached"
case(f"504 58 {DENIED}", counts="bytes_served{error}=58", name="only_if_cached", ways=CACHED, reply=FIVE)(
    lambda way, reply: missed(way, reply, "Cache-Control: only-if-cached")
)
case(f"504 0 {DENIED}", name="only_if_cached_head", ways=CACHED, reply=FIVE)(
    lambda way, reply: missed(way, reply, "Cache-Control: only-if-cached", method="HEAD")
)


@case("200 300000 miss fwd=uri-miss", counts=counted(300000))
def http10_until_the_end_of_the_connection(way: Way) -> None:
    gate = Gate()
    way.serve(Reply(headers=(FRESH,), size=300_000, chunked=True, body_gate=gate, gate_at=1000))
    way.measure()
    way.ask(version="1.0", gate=gate)


def stored(way: Way, *fields: str, size: int = 5000, method: str = "") -> None:
    way.prime(way.serve(replace(FIVE, size=size)))
    way.measure()
    way.ask(*fields, method=method)


for _name, _line, _fields in (
    ("hit", "200 5000 hit", ()),
    ("range", "206 100 hit", ("Range: bytes=10-109",)),
    ("ranges", "206 387 hit", ("Range: bytes=10-109,200-299",)),
    ("range_unsatisfiable", "416 0 hit", ("Range: bytes=9999-",)),
    ("not_modified", "304 0 hit", ('If-None-Match: "v1"',)),
    ("not_modified_and_a_range", "304 0 hit", ('If-None-Match: "v1"', "Range: bytes=0-1")),
):
    _size = _line.split()[1]
    case(
        _line, name=_name, counts=f"{f'bytes_served{{hit}}={_size}' if _size != '0' else ''} hits=1",
        ways=GETS if _name == "hit" else CACHED, fields=_fields,
    )(lambda way, fields: stored(way, *fields))  # fmt: skip
case(
    "200 3000000 hit", counts="bytes_served{hit}=3000000 hits=1", ways=GETS,
    name="hit_large", size=3_000_000,
)(stored)  # fmt: skip
case("206 1000000 hit", counts="bytes_served{hit}=1000000 hits=1", ways=CACHED, name="range_large", size=3_000_000)(
    lambda way, size: stored(way, "Range: bytes=10-1000009", size=size)
)
case("200 0 hit", counts="hits=1", ways=GETS, name="head", method="HEAD")(stored)


def aged(way: Way, control: str, again: Reply) -> None:
    """Asked for again, when it is not fresh any more."""
    reply = Reply(headers=(("Cache-Control", control), ETAG), size=5000)
    way.prime(way.serve(reply))
    way.serve(*[again] * 3)
    way.measure()
    way.ask()


case(
    "200 5000 revalidated fwd=stale", name="revalidated", ways=CACHED, control="max-age=0", again=FIVE,
    counts="bytes_served{revalidated}=5000 hits=1 origin_fetches{not_modified}=1",
)(aged)  # fmt: skip
case(
    "200 5000 stale fwd=stale detail=origin-error", name="stale_if_error", ways=CACHED,
    control="max-age=0, stale-if-error=600", again=Reply(fail="reset"),
    counts="bytes_served{stale}=5000 hits=1 origin_fetches{connection_terminated}=1",
)(aged)  # fmt: skip
case(
    "502 78 error fwd=stale error=connection_terminated (*)", name="revalidation_fails", ways=CACHED,
    control="max-age=0, must-revalidate", again=Reply(fail="reset"),
    counts="bytes_served{error}=78 origin_fetches{connection_terminated}=1",
)(aged)  # fmt: skip


@case("200 5000 hit", counts="bytes_served{hit}=5000 hits=1", ways=GETS)
def second_hit_of_a_connection(way: Way) -> None:
    way.prime(way.serve(FIVE))
    with Wire(way.proxy.address) as wire:
        wire.send(way.request(last=False))
        wire.response()
        way.lines_before += 1
        way.measure()
        wire.send(way.request())
        way.answer = wire.rest()


@case("200 5000 miss fwd=uri-miss", counts=counted(5000))
def second_miss_of_a_connection(way: Way) -> None:
    with Wire(way.proxy.address) as wire:
        wire.send(way.request(last=False, url=way.origin.serve(f"{way.path}/first", FIVE)))
        wire.response()
        way.serve(FIVE)
        way.measure()
        wire.send(way.request())
        way.answer = wire.rest()


# -- clients that leave -------------------------------------------------------------------------------------------


@case(
    f"499 0 error queued cut=client {LEFT}", ways=CACHED,
    counts=f"origin_fetch_queue_wait_seconds_count{{canceled}}=1 {FIRST}",
)  # fmt: skip
def a_client_that_leaves_the_queue(way: Way) -> None:
    end = way.hold_the_slot()
    fetch = way.start(way.serve(Reply()))
    way.proxy.wait_for_metric("origin_fetches_queued", 1)
    fetch.leave()
    way.lines()
    end()


@case(f"499 0 error cut=client {LEFT}", counts="origin_fetches{abandoned}=1")
def a_client_that_leaves_before_the_head(way: Way) -> None:
    gate = Gate()
    url = way.serve(Reply(gate=gate))
    way.measure()
    fetch = way.start(url)
    way.origin.wait_for(way.path)
    fetch.leave()
    way.lines()
    gate.open()


def leaves_in_the_body(way: Way, chunked: bool = False) -> None:
    gate = Gate()
    url = way.serve(Reply(size=300_000, chunked=chunked, body_gate=gate, gate_at=100_000, headers=(FRESH,)))
    way.measure()
    fetch = way.start(url)
    fetch.received(100_000)
    fetch.leave()
    way.lines()
    gate.open()


for _chunked in (False, True):
    case(
        f"200 100000 miss fwd=uri-miss cut=client {BROKEN.format(100000, 'client disconnected')}",
        counts="bytes_served{miss}=100000 fetched_bytes{origin}=100000 misses=1 origin_fetches{abandoned}=1",
        name=f"a_client_that_leaves_in_the_body{'_chunked' if _chunked else ''}", chunked=_chunked,
    )(leaves_in_the_body)  # fmt: skip


@case(
    f"499 0 error cut=client {LEFT}", "200 1000 miss fwd=uri-miss", ways=CACHED,
    counts=counted(1000),
)  # fmt: skip
def a_client_that_leaves_a_fill_it_has_joined(way: Way) -> None:
    gate = Gate()
    url = way.serve(Reply(gate=gate, headers=(FRESH,)))
    way.measure()
    first = way.start(url)
    way.origin.wait_for(way.path)
    second = way.start(url)
    way.proxy.wait_for_waiters(2)
    second.leave()
    way.lines()
    gate.open()
    assert first.result().ok


@case(
    f"200 100000 coalesced fwd=uri-miss cut=client {BROKEN.format(100000, 'client disconnected')}",
    "200 300000 miss fwd=uri-miss", ways=CACHED,
    counts="bytes_served{coalesced}=100000 bytes_served{miss}=300000 coalesced=1 "
    "fetched_bytes{origin}=300000 misses=2 origin_fetches{stored}=1",
)  # fmt: skip
def a_client_that_leaves_the_body_of_a_fill_it_has_joined(way: Way) -> None:
    gate = Gate()
    url = way.serve(Reply(size=300_000, body_gate=gate, gate_at=100_000, headers=(FRESH,)))
    way.measure()
    first = way.start(url)
    first.received(100_000)
    second = way.start(url)
    second.received(100_000)
    second.leave()
    way.lines()
    gate.open()
    assert first.result().ok


@case(
    f"200 100000 miss fwd=uri-miss cut=client {BROKEN.format(100000, 'client disconnected')}",
    "200 300000 coalesced fwd=uri-miss", ways=CACHED,
    counts="bytes_served{coalesced}=300000 bytes_served{miss}=100000 coalesced=1 "
    "fetched_bytes{origin}=300000 misses=2 origin_fetches{stored}=1",
)  # fmt: skip
def a_client_that_leaves_the_fill_it_has_started(way: Way) -> None:
    gate = Gate()
    url = way.serve(Reply(size=300_000, body_gate=gate, gate_at=100_000, headers=(FRESH,)))
    way.measure()
    first = way.start(url)
    first.received(100_000)
    second = way.start(url)
    second.received(100_000)
    first.leave()
    way.lines()
    gate.open()
    assert second.result().ok


# -- errors -------------------------------------------------------------------------------------------------------

OVERLOADED = "fwd=uri-miss error=connection_limit_reached"


def overloaded(way: Way) -> None:
    end = way.hold_the_slot()
    way.serve(Reply())
    way.ask()
    end()


case(
    f"503 60 error queued {OVERLOADED} detail=timeout", ways=CACHED, name="queue_timeout",
    option="origin_queue_timeout=1",
    counts=f"bytes_served{{error}}=60 origin_fetch_queue_wait_seconds_count{{timeout}}=1 {FIRST}",
)(overloaded)  # fmt: skip
case(
    f"503 61 error {OVERLOADED} detail=rejected", ways=CACHED, option="origin_queue_max=0", name="queue_full",
    counts=f"bytes_served{{error}}=61 origin_fetch_queue_wait_seconds_count{{rejected}}=1 {FIRST}",
)(overloaded)  # fmt: skip


def refused(way: Way, method: str = "") -> None:
    way.measure()
    with bind_new_port() as nobody:
        way.ask(url=f"http://127.0.0.1:{nobody.getsockname()[1]}{way.path}", method=method)


case(
    "502 ? error fwd=uri-miss error=connection_refused (*)", name="refused",
    counts="bytes_served{error}=? origin_fetches{connection_refused}=1",
)(refused)  # fmt: skip
case(
    "502 0 error fwd=uri-miss error=connection_refused (*)", name="refused_head", ways=GETS, method="HEAD",
    counts="forward_requests{HEAD}=1",
)(refused)  # fmt: skip


def fails(way: Way, fail: str, method: str = "") -> None:
    way.serve(*[Reply(fail=fail)] * 3)
    way.measure()
    way.ask(method=method)


for _fail, _error in (
    ("reset", "connection_terminated"),
    ("close", "connection_terminated"),
    ("garbage", "http_protocol_error"),
):
    case(
        f"502 ? error fwd=uri-miss error={_error} (*)", name=f"{_fail}_in_the_head", fail=_fail,
        counts=f"bytes_served{{error}}=? origin_fetches{{{_error}}}=1",
    )(fails)  # fmt: skip
case(
    "502 0 error fwd=uri-miss error=connection_terminated (*)", name="reset_in_the_head_of_a_head", ways=GETS,
    fail="reset", method="HEAD", counts="forward_requests{HEAD}=1",
)(fails)  # fmt: skip


@case(
    "504 66 error fwd=uri-miss error=http_response_timeout (nothing came for 1 s)",
    counts="bytes_served{error}=66 origin_fetches{http_response_timeout}=1",
    ways=GETS, option="origin_timeout=1",
)  # fmt: skip
def silent_origin(way: Way) -> None:
    gate = Gate()
    way.serve(Reply(gate=gate))
    way.measure()
    way.ask()
    gate.open()


def cut_off(way: Way, chunked: bool = False, version: str = "1.1", at: int = 100_000) -> None:
    """The origin goes away once the client has what there is."""
    gate = Gate()
    way.serve(Reply(size=300_000, chunked=chunked, cut=at, body_gate=gate, gate_at=at, headers=(FRESH,)))
    way.measure()
    way.ask(version=version, gate=gate, gate_at=0 if chunked and version == "1.1" else at)


CUT = "error=http_response_incomplete cut=origin"
for _name, _how in {
    "cut_off": {},
    "cut_off_chunked": {"chunked": True},
    "cut_off_until_the_end_of_the_connection": {"chunked": True, "version": "1.0"},
    "cut_off_behind_the_head": {"at": 0},
    "cut_off_behind_the_head_chunked": {"chunked": True, "at": 0},
}.items():
    _at = _how.get("at", 100000)
    case(
        f"200 {_at} miss fwd=uri-miss {CUT} {BROKEN.format(_at, '*')}", name=_name, **_how,
        counts=f"{f'bytes_served{{miss}}={_at} fetched_bytes{{origin}}={_at}' if _at else ''} misses=1 "
        "origin_fetches{http_response_incomplete}=1",
    )(cut_off)  # fmt: skip


@case(
    f"200 100000 miss fwd=uri-miss error=connection_read_timeout cut=origin "
    f"{BROKEN.format(100000, 'connection_read_timeout: nothing came for 1 s')}",
    counts="bytes_served{miss}=100000 fetched_bytes{origin}=100000 misses=1 origin_fetches{connection_read_timeout}=1",
    ways=GETS, option="origin_timeout=1",
)  # fmt: skip
def silent_in_the_body(way: Way) -> None:
    gate = Gate()
    way.serve(Reply(size=300_000, body_gate=gate, gate_at=100_000, headers=(FRESH,)))
    way.measure()
    way.ask()
    gate.open()


@case("502 37 error fwd=bypass error=proxy_loop_detected", counts="bytes_served{error}=37", is_forwarded=False)
def loop(way: Way) -> None:
    first = way.ask(url=way.origin.serve(f"{way.path}/first", Reply(headers=(FRESH,))))
    found = re.search(rb"(?i)via: 1.1 (proxy-cache-\w+)", first)
    assert found is not None
    way.serve(Reply())
    way.measure()
    way.ask(f"Via: 1.1 {found[1].decode()}")


# -- the test -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """One for each way; the POSTs are forwarded by the one with the fast lane."""
    with ExitStack() as stack:

        def start(name: str, **options: Any) -> Proxy:
            return stack.enter_context(Proxy(tmp_path_factory.mktemp(name), **OPTIONS, **options))

        lane = start("lane")
        yield {
            "lane": lane, "posted": lane, "flows": start("flows", record=True),
            "direct": start("direct", fast_lane=False), "forwarded": start("forwarded", cache_hosts="nothing.example"),
        }  # fmt: skip


@dataclass
class Seen:
    lines: list[str]
    counts: str
    answer: bytes | None
    expected: tuple[list[str], str]


def seen(proxy: Proxy, origin: Origin, case: Case, name: str) -> Seen:
    way = Way(name, proxy, origin, case.name)
    option = case.option.partition("=")[0]
    if case.option:
        before = json.loads(proxy.set_option(f"={option}"))
        assert proxy.set_option(case.option) == "ok"
    try:
        case.play(way)
        lines = way.told(len(case.lines) if name in CACHED else 1)
        counts = way.counts(lines)
    finally:
        if case.option:
            assert proxy.set_option(f"{option}={before}") == "ok"
    return Seen(lines, counts, way.answer, case.expected(way))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_ways_account_alike(proxies: dict[str, Proxy], origin: Origin, case: Case) -> None:
    at_once = [name for name in case.ways if name != "posted"]  # which shares a proxy with another
    with ThreadPoolExecutor() as pool:
        found = dict(zip(at_once, pool.map(lambda name: seen(proxies[name], origin, case, name), at_once), strict=True))
    if "posted" in case.ways:
        found["posted"] = seen(proxies["posted"], origin, case, "posted")
    for name, what in found.items():
        lines, counts = what.expected
        body = len(message(what.answer)[2]) if what.answer is not None else 0
        assert alike(what.lines, [line.replace("?", str(body), 1) for line in lines]), (name, what.lines, lines)
        assert what.counts == counts.replace("?", str(body)), name
    answers = {name: message(what.answer) for name, what in found.items() if what.answer is not None}
    for name, (status, fields, body) in answers.items():
        own_words = "(*)" in case.lines[0]  # of whoever talks to the origin
        assert status == answers[case.ways[0]][0], name
        if name in CACHED:
            assert own_words or (fields, body) == answers["lane"][1:], name
        elif not own_words:
            assert body == answers["lane"][2], name


def alike(lines: list[str], patterns: list[str]) -> bool:
    return len(lines) == len(patterns) and all(map(fnmatchcase, lines, (re.sub(r"\[", "[[]", one) for one in patterns)))


NOISE = ("date", "age", "retry-after", "via")


def message(raw: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, fields and body of an answer, chunks put together, without what differs from one second to the next."""
    head, _, body = raw.partition(b"\r\n\r\n")
    _, status, fields = parse_head(head + b"\r\n\r\n")
    if ("Transfer-Encoding", "chunked") in fields:
        chunks, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            chunks += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        body = chunks
    body = re.sub(rb"(?m)^--[0-9a-f]{32}", b"--boundary", body)
    text = re.compile(r"(boundary|ttl)=-?\w+")
    fields = [(name, text.sub(r"\1=", value)) for name, value in fields if name.lower() not in NOISE]
    return status, sorted(fields), body


# -- what no way of the cache's leads to --------------------------------------------------------------------------

ANSWERS = """
from mitmproxy import http

def responseheaders(flow):
    if flow.response.status_code == 200 and "in-our-place" in flow.request.path:
        flow.response = http.Response.make(418, b"I'm a teapot")

def request(flow):
    if "by-a-script" in flow.request.path:
        flow.response = http.Response.make(418, b"I'm a teapot")
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that wants a password, with a script that answers some requests."""
    folder = tmp_path_factory.mktemp("guarded")
    script = folder / "answers.py"
    script.write_text(ANSWERS)
    with Proxy(folder, proxyauth="user:secret", scripts=[script], origin_retries=0) as proxy:
        yield proxy


ALLOWED = "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ="
BODY = "Content-Length: 1"


@pytest.mark.parametrize(
    ("method", "fields", "told"),
    [
        ("GET", (), "407 addon"),
        ("HEAD", (), "407 addon"),
        ("POST", (BODY,), "407 addon"),
        ("CONNECT", (), "407 addon"),
        ("GET", ("bad line",), "400 error"),
        ("TRACE", (ALLOWED, "Max-Forwards: 0"), "200 own"),
        ("OPTIONS", (ALLOWED, "Max-Forwards: 0"), "200 own"),
        ("OPTIONS", (ALLOWED, "Max-Forwards: 0", BODY), "200 own"),
        ("by-a-script", (ALLOWED,), "418 addon"),
        ("by-a-script", (ALLOWED, BODY), "200 forwarded"),  # it has been passed on before
        ("in-our-place", (ALLOWED,), "418 addon"),
    ],
)
def test_bytes_are_counted_under_the_source_of_their_line(
    guarded: Proxy, origin: Origin, method: str, fields: tuple[str, ...], told: str
) -> None:
    """And are those that the client was sent, whoever has answered."""
    path = f"/{method}/{len(fields)}"
    url = origin.serve(path, Reply(headers=(FRESH,)))
    verb = method if method.isupper() else "POST" if BODY in fields else "GET"
    target = origin.netloc if verb == "CONNECT" else url
    before, mark = guarded.settled(), len(guarded.log)
    with Wire(guarded.address) as wire:
        lines = [f"{verb} {target} HTTP/1.1", "Host: x", "Connection: close", *fields]
        wire.send("\r\n".join([*lines, "", "x" if BODY in fields else ""]))
        _, _, body = wire.rest().partition(b"\r\n\r\n")
    shown = "-" if "bad line" in fields else target.rpartition("//")[2]

    def found() -> list[Line]:
        matches = [LINE.fullmatch(text) for text in guarded.log[mark:]]
        return [Line(match) for match in matches if match and match["url"].endswith(shown)]

    (line,) = guarded.eventually(found, told="the line of the log")
    assert f"{line.status} {line.source}" == told
    assert line.bytes == len(body)
    counted = [change for change in changes(before, guarded.settled()) if change.startswith("bytes_served")]
    assert counted == ([f"bytes_served{{{line.source}}}={line.bytes}"] if line.bytes else [])


# -- users --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Proxy]]:
    """Two proxies that want to know who asks: one with the fast lane, one without."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Proxy(tmp_path_factory.mktemp("users"), proxyauth="alice:secret", fast_lane=lane, origin_retries=0)
            )
            for lane in (True, False)
        ]


ALICE = "Proxy-Authorization: Basic YWxpY2U6c2VjcmV0"


@pytest.mark.parametrize(
    ("method", "fields", "told"),
    [
        ("GET", (ALICE,), ["200 miss alice", "200 hit alice"]),
        ("GET", (ALICE, "Range: bytes=0-3"), ["206 miss alice", "206 hit alice"]),
        ("GET", (ALICE, "Connection: Proxy-Authorization"), ["200 miss alice", "200 hit alice"]),
        ("GET", (ALICE.replace(": Basic ", ":  bASIC  ").lower().replace("ywxpy2u6c2vjcmv0", "YWxpY2U6c2VjcmV0"),),
         ["200 miss alice", "200 hit alice"]),
        ("HEAD", (ALICE,), ["200 forwarded alice", "200 forwarded alice"]),
        ("POST", (ALICE, BODY), ["200 forwarded alice", "200 forwarded alice"]),
        ("GET", (), ["407 addon 127.0.0.1", "407 addon 127.0.0.1"]),
        ("GET", (ALICE, ALICE), ["407 addon 127.0.0.1", "407 addon 127.0.0.1"]),
        ("GET", (f"{ALICE} x",), ["407 addon 127.0.0.1", "407 addon 127.0.0.1"]),
        ("GET", ("Proxy-Authorization: Basic YWxpY2U6d3Jvbmc=",), ["407 addon 127.0.0.1", "407 addon 127.0.0.1"]),
        ("GET", ("Proxy-Authorization: Bearer YWxpY2U6c2VjcmV0",), ["407 addon 127.0.0.1", "407 addon 127.0.0.1"]),
        ("GET", (ALICE.replace("Proxy-", ""),), ["407 addon 127.0.0.1", "407 addon 127.0.0.1"]),
    ],
)  # fmt: skip
def test_a_user_is_told_alike(
    with_users: list[Proxy], origin: Origin, method: str, fields: tuple[str, ...], told: list[str]
) -> None:
    """In the log and the metrics, and to its client: twice the same request, on both ways."""
    seen = []
    for number, proxy in enumerate(with_users):
        path = f"/users/{number}"
        url = origin.serve(path, Reply(headers=(FRESH, ETAG, ("Accept-Ranges", "bytes")), size=100, seed="x"))
        before, mark, answers = proxy.settled(), len(proxy.log), []
        for count in range(2):
            with Wire(proxy.address) as wire:
                lines = [f"{method} {url} HTTP/1.1", "Host: x", "Connection: close", *fields]
                wire.send("\r\n".join([*lines, "", "x" if BODY in fields else ""]))
                answers.append(message(wire.rest()))

            def found(proxy: Proxy = proxy, mark: int = mark, path: str = path) -> list[Line]:
                matches = [LINE.fullmatch(text) for text in proxy.log[mark:]]
                return [Line(match) for match in matches if match and match["url"].endswith(path)]

            proxy.eventually(found, lambda lines, count=count: len(lines) > count, told="the line of the log")
        shown = [f"{line.status} {line.source} {line.client}" for line in found()]
        assert shown == told
        seen.append((answers, [(line.short, line.bytes) for line in found()], list(changes(before, proxy.settled()))))
        for request in origin.seen(path):
            assert request.header("Proxy-Authorization") is None
    assert seen[0] == seen[1]
