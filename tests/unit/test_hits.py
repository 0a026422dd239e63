"""Hits of lanes, which are accounted for many at a time as they would be one by one."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from proxy_cache.downstream.hits import MOST, Hit, HitNotes, trace_hits
from proxy_cache.observe.log_clock import Clock, IsoClock, UnixClock
from proxy_cache.observe.log_formats import FORMATS, LoggedRequest
from proxy_cache.observe.trace_sampling import HeadSampling
from proxy_cache.semantics.keys import Target
from proxy_cache.wire.requests import Request, parse_request
from tests.support.tasks import until

HOST = "packages.example"
PLAIN = f"GET http://{HOST}/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
SAMPLED = PLAIN.replace("\r\n\r\n", f"\r\ntraceparent: 00-{1:032x}-{1:016x}-01\r\n\r\n")


def hit(number: int = 0, head: str = PLAIN, seconds: float = 0.001, request_id: str = "") -> Hit:
    request = parse_request(head.encode())
    assert isinstance(request, Request)
    target = Target.of("http", HOST, 80, f"/{number}")
    return target, 200, 1000 + number, float(number), number + seconds, "10.0.0.1", request_id, request


@pytest.mark.parametrize("request_id", ["", "some-id"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_line_is_like_any_other(name: str, request_id: str) -> None:
    one, many = FORMATS[name]
    hits = [hit(number, seconds=number / 30_000, request_id=request_id) for number in range(20)]
    hits.append((Target.of("http", HOST, 81, '/\u00fc?a="b'), 404, 0, 0.0, 2.5, "agent \u00fc", request_id, object()))  # type: ignore[arg-type]
    expected = [
        one(
            str(number),
            LoggedRequest(
                "GET", target.shown, status, size, ended - started, "hit", 0.0, client, request_id=request_id
            ),
        )
        for number, (target, status, size, started, ended, client, _, _) in enumerate(hits)
    ]
    assert many(map(str, range(len(hits))), hits) == expected


@pytest.mark.parametrize("kind", [IsoClock, UnixClock])
def test_times_are_the_same_one_by_one(kind: type[Clock]) -> None:
    times = [1_700_000_000 + number * 0.000_37 for number in range(5_000)]
    assert kind().texts(times) == [kind().text(now) for now in times]
    clock = kind()
    assert [*clock.texts(times[2_000:]), *clock.texts(times[:2_000])] == [
        kind().text(now) for now in times[2_000:] + times[:2_000]
    ]


class CountingTracer:
    """Notes which requests begin a trace, and when these end."""

    def __init__(self, ratio: float) -> None:
        self.sampling = HeadSampling(ratio, parent_based=True)
        self.ended: list[tuple[Any, ...]] = []

    def begin(self, headers: Any, **_: Any) -> Any:
        if "traceparent" not in headers and not self.sampling.begins():
            return None
        return SimpleNamespace(ended=lambda *told, at: self.ended.append((told[1], at)), ids=(str(len(self.ended)), ""))


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.3, 1.0])
def test_the_same_hits_are_traced_in_batches_and_one_by_one(ratio: float) -> None:
    hits = [hit(number, SAMPLED if number % 50 == 0 else PLAIN) for number in range(600)]
    traced = []
    for size in (1, 7, 256):
        random.seed(5)
        tracer = CountingTracer(ratio)
        for start in range(0, len(hits), size):
            batch, before = hits[start : start + size], len(tracer.ended)
            places = trace_hits(tracer, batch, pytest.fail)
            assert [batch[place][0].shown for place in places] == [url for url, _ in tracer.ended[before:]]
        traced.append(tracer.ended)
    assert traced[0] == traced[1] == traced[2]
    assert {0.001, 50.001} <= {ended for _, ended in traced[0]}
    assert len(traced[0]) == {0.0: 12, 1.0: 600}.get(ratio, len(traced[0]))


def test_a_trace_that_fails_costs_no_other() -> None:
    class Fails(CountingTracer):
        def begin(self, headers: Any, **more: Any) -> Any:
            trace = super().begin(headers, **more)
            if more["started"] == 3.0:
                raise RuntimeError("on purpose")
            return trace

    tracer, failures = Fails(1.0), list[Exception]()
    assert list(trace_hits(tracer, [hit(number) for number in range(6)], failures.append)) == [0, 1, 2, 4, 5]
    assert [type(failure) for failure in failures] == [RuntimeError]


def test_what_fails_is_told_and_later_hits_are_accounted_for() -> None:
    failures: list[Exception] = []
    accounted: list[Hit] = []

    def account(hits: list[Hit]) -> None:
        if not failures:
            raise RuntimeError("on purpose")
        accounted.extend(hits)

    async def note() -> None:
        notes = HitNotes(account, failures.append)
        notes.flush()
        assert not failures
        for number in range(3):
            notes.begin()
            notes.hits.append(hit(number))
            notes.flush()
            assert not notes.hits
        notes.begin()
        notes.hits.append(hit(MOST))
        await until(lambda: not notes.hits)  # by its timer

    asyncio.run(note())
    assert [type(failure) for failure in failures] == [RuntimeError]
    assert [size for _, _, size, *_ in accounted] == [1001, 1002, 1000 + MOST]
