"""The phases of a miss: those of the fill, and those that a request sees of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.caching.answers import VISITS_MAX, Exchange
from proxy_cache.caching.fills.fill import Waiter
from proxy_cache.caching.fills.request import FillRequest
from proxy_cache.caching.fills.table import FillTable
from proxy_cache.caching.fills.visit import fetched_for, phases_of, seconds_by_name
from proxy_cache.caching.limiter import Limits, OriginLimiter
from proxy_cache.observe.metrics import MISS_PHASES, Metrics
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.store.eviction import Quota
from proxy_cache.store.store import Store
from proxy_cache.upstream.origin import OriginClient, OriginSettings
from proxy_cache.upstream.source import OriginSource, Sources
from proxy_cache.upstream.stopwatch import BODY, LAPS_MAX, PEER, PHASES, QUEUE, Stopwatch
from proxy_cache.wire.responses import OriginError
from tests.support.tasks import until

from .test_origin_connection import HOLD, RawOrigin

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60\r\n\r\nhello"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nCache-Control: max-age=60\r\n\r\nhello"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


def test_the_metric_has_a_series_for_each_phase() -> None:
    assert MISS_PHASES == PHASES


def test_a_lap_ends_with_what_ended_it() -> None:
    watch = Stopwatch()
    with pytest.raises(OriginError), watch.begin(PEER, "http://peer.example:8080"):
        raise OriginError("connection_refused", "")
    with pytest.raises(asyncio.CancelledError), watch.begin(QUEUE):
        raise asyncio.CancelledError
    with watch.begin(BODY) as lap:
        lap.outcome = "http_response_incomplete"
    assert [(phase.name, phase.source, phase.outcome) for phase in watch.phases()] == [
        (PEER, "http://peer.example:8080", "connection_refused"),
        (QUEUE, "origin", "canceled"),
        (BODY, "origin", "http_response_incomplete"),
    ]


def test_who_joins_late_sees_what_is_left() -> None:
    watch = Stopwatch()
    for name, started, ended in (("queue", 10.0, 12.0), ("first_byte", 12.0, 13.0), ("body", 13.0, 20.0)):
        lap = watch.begin(name, at=started)
        lap.ended = ended
    assert [phase[:3] for phase in watch.phases(12.5, 15.0)] == [("first_byte", 12.5, 13.0), ("body", 13.0, 15.0)]


def test_a_stopped_watch_adds_tries_up() -> None:
    watch = Stopwatch()
    for started in (1.0, 5.0):
        watch.begin("first_byte", at=started).ended = started + 2
    watch.begin("body", at=9.0)
    seconds = watch.stop()
    assert seconds["first_byte"] == 4
    assert watch.phases()[-1].outcome == "abandoned"


def test_a_body_that_breaks_off_again_and_again_does_not_fill_the_memory() -> None:
    watch = Stopwatch()
    for _ in range(2 * LAPS_MAX):
        watch.begin("body").end()
    assert len(watch.laps) == LAPS_MAX


def of_fills(folder: Path, story: Any, *answers: list[bytes], slots: int = 1) -> None:
    """Run ``story(table, exchange, origin)`` with an origin that gives ``answers``; ``exchange()`` makes a request."""

    async def run() -> None:
        store = Store(folder, Quota(1 << 30, 0))
        await store.open()
        origin = OriginClient(OriginSettings(retries=1))
        table = FillTable(store, OriginLimiter(Limits(slots)), Sources(OriginSource(origin)), Metrics())
        server = RawOrigin(list(answers))
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)

        def exchange(path: str = "/x") -> Exchange:
            port = listening.sockets[0].getsockname()[1]
            return Exchange(Target.of("http", "127.0.0.1", port, path), Headers(), "agent")

        try:
            await story(table, exchange, server)
        finally:
            await table.close()
            await origin.close()
            await store.close()
            listening.close()
            for writer in server.writers:
                writer.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def start(table: FillTable, exchange: Exchange) -> Waiter:
    return exchange.visit(table.start(FillRequest(exchange.key, exchange.target, Headers(), exchange.client)))


def names(exchange: Exchange) -> list[str]:
    return [phase.name for phase in phases_of(exchange.visits, 0.0)]


def test_both_engines_lap(tmp_path: Path) -> None:
    """A task for the first fill, which has to connect; callbacks for the second."""

    async def story(table: FillTable, exchange: Any, origin: RawOrigin) -> None:
        for expected in (["lookup", "connect", "first_byte", "body"], ["lookup", "first_byte", "body"]):
            asked = exchange(f"/{len(expected)}")
            waiter = start(table, asked)
            await waiter.head()
            await waiter.fill.ending()
            phases = phases_of(asked.visits, asked.visits[0].joined - 1.0)
            assert [phase.name for phase in phases] == expected
            assert phases[0].ended - phases[0].started == pytest.approx(1.0)
            assert all(phase.started <= phase.ended for phase in phases)
            assert [phase.outcome for phase in phases if phase.name == "first_byte"] == ["200"]
            assert (phases[-1].source, phases[-1].size) == ("origin", 5)
            assert fetched_for(asked.visits) == 5
            waiter.leave()

    of_fills(tmp_path, story, [OK], [OK])


def test_each_try_is_told(tmp_path: Path) -> None:
    async def story(table: FillTable, exchange: Any, origin: RawOrigin) -> None:
        asked = exchange()
        waiter = start(table, asked)
        await waiter.head()
        await waiter.fill.ending()
        assert names(asked) == ["lookup", "connect", "first_byte", "backoff", "first_byte", "body"]
        outcomes = [phase.outcome for phase in phases_of(asked.visits, 0.0) if phase.name == "first_byte"]
        assert outcomes == ["503", "200"]
        assert list(seconds_by_name(phases_of(asked.visits, 0.0))) == [
            "lookup", "connect", "first_byte", "backoff", "body",
        ]  # fmt: skip
        waiter.leave()

    of_fills(tmp_path, story, [BUSY], [OK])


def test_who_queues_and_who_joins(tmp_path: Path) -> None:
    async def story(table: FillTable, exchange: Any, origin: RawOrigin) -> None:
        first, late, queued = exchange("/1"), exchange("/1"), exchange("/2")
        leader = start(table, first)
        await leader.head()
        joined = late.visit(leader.fill.join("other", Headers()))
        behind = start(table, queued)
        await until(lambda: table.context.limiter.queued == 1)
        assert fetched_for(first.visits) is None  # it still comes
        assert fetched_for(late.visits) == 0
        origin.go.set()
        await behind.head()
        await behind.fill.ending()
        assert names(first) == ["lookup", "connect", "first_byte", "body"]
        assert names(late) == ["lookup", "body"]
        assert names(queued) == ["lookup", "queue", "first_byte", "body"]
        assert (fetched_for(first.visits), fetched_for(late.visits)) == (10, 0)
        for waiter in (leader, joined, behind):
            waiter.leave()

    of_fills(tmp_path, story, [HEAD, HOLD, b"world"], [OK])


def test_who_leaves_sees_no_more(tmp_path: Path) -> None:
    async def story(table: FillTable, exchange: Any, origin: RawOrigin) -> None:
        staying, leaving = exchange(), exchange()
        leader = start(table, staying)
        gone = leaving.visit(leader.fill.join("other", Headers()))
        await until(lambda: bool(origin.requests))
        gone.client_gone()
        origin.go.set()
        await leader.head()
        await leader.fill.ending()
        assert names(leaving)[-1] == "first_byte"
        assert max(phase.ended for phase in phases_of(leaving.visits, 0.0)) == leaving.visits[0].left
        assert names(staying)[-1] == "body"
        leader.leave()

    of_fills(tmp_path, story, [HOLD, OK])


def test_visits_of_one_request_are_bounded(tmp_path: Path) -> None:
    async def story(table: FillTable, exchange: Any, origin: RawOrigin) -> None:
        asked = exchange()
        waiter = start(table, asked)
        for _ in range(2 * VISITS_MAX):
            asked.visit(waiter.fill.join("other", Headers()))
        assert len(asked.visits) == VISITS_MAX

    of_fills(tmp_path, story, [HOLD])
