"""Parts of the workers alone: shares, sums, and the limiter of the machine with workers that are as near as a call."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.caching.limiter import Limits, Overloaded, Place, Ticket, TicketState
from proxy_cache.caching.purge import Everything, Tag, Url, Where
from proxy_cache.cli.main import main
from proxy_cache.semantics.url_patterns import HostPattern, UrlPattern
from proxy_cache.store.eviction import Quota
from proxy_cache.upstream.peers.settings import FleetSettings
from proxy_cache.workers.exposition import Summed
from proxy_cache.workers.limiter import WorkerLimiter
from proxy_cache.workers.purging import as_message, from_message
from proxy_cache.workers.role import Role
from proxy_cache.workers.share import problem_with, share_of
from proxy_cache.workers.slots import MachineSlots, WorkerSlots
from proxy_cache.workers.statuses import merged
from tests.support.origin import PATIENCE
from tests.support.proxy import ROOT
from tests.support.settings import settings


def roles(count: int) -> list[Role]:
    return [Role(index, count, tuple(range(1, count + 1)), Path("/run"), "secret") for index in range(count)]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_what_is_divided_is_all_there(count: int) -> None:
    whole = settings(
        cache_dir=Path("/cache"), quota=Quota(1_000_003, 0.05, 0.1), memory=101, verify_rate=16, spill_max=5
    )
    shares = [share_of(whole, role) for role in roles(count)]
    assert sum(share.quota.max_size for share in shares) == 1_000_003
    assert sum(share.memory for share in shares) == 101
    assert sum(share.verify_rate for share in shares) == 16
    assert sum(share.spill_max for share in shares) == 5
    assert [share.cache_dir.name for share in shares] == [f"worker-{index}" for index in range(count)]
    assert all(share.limits == whole.limits and share.quota.min_free == 0.05 for share in shares)
    assert all(share.quota.max_object == pytest.approx(min(1.0, 0.1 * count)) for share in shares)
    by_share = [share_of(settings(quota=Quota(0.8, 0, 1.0)), role).quota for role in roles(count)]
    assert sum(quota.max_size for quota in by_share) == pytest.approx(0.8)
    assert all(quota.users == count for quota in by_share)


def test_a_fleet_of_workers_is_in_no_other() -> None:
    assert problem_with(settings()) == ""
    assert problem_with(settings(fleet=FleetSettings(("http://10.0.0.1:8080",)))).startswith("cache_peers: ")


@pytest.mark.parametrize(
    "what",
    [
        Url(frozenset({"http://a/1", "http://a/1?x"})), Where(HostPattern("*.example.com")),
        Where(UrlPattern("http://a/*")), Tag("tag"), Everything(),
    ],
)  # fmt: skip
def test_a_purge_is_told_as_it_is(what: Any) -> None:
    assert from_message(json.loads(json.dumps(as_message(what)))) == what


# -- metrics and status ----------------------------------------------------------------------------------------------


def text(hits: int, entries: int, started: float = 100.0) -> str:
    return (
        "# TYPE cache_proxy_hits_total counter\n"
        f"cache_proxy_hits_total {hits}\n"
        "# TYPE cache_proxy_cache_entries gauge\n"
        f"cache_proxy_cache_entries {entries}\n"
        "# TYPE process_start_time_seconds gauge\n"
        f"process_start_time_seconds {started}\n"
        "# TYPE cache_proxy_peers gauge\n"
        "cache_proxy_peers 2\n"
    )


def values(summed: Summed) -> dict[str, float]:
    return {sample.name: sample.value for family in summed.collect() for sample in family.samples}


def test_counters_never_fall_when_a_worker_dies() -> None:
    summed = Summed()
    summed.told(0, text(10, 3, 100))
    summed.told(1, text(5, 4, 50))
    assert values(summed) == {
        "cache_proxy_hits_total": 15, "cache_proxy_cache_entries": 7, "process_start_time_seconds": 50,
        "cache_proxy_peers": 2,
    }  # fmt: skip
    summed.is_silent(1)
    assert values(summed)["cache_proxy_hits_total"] == 15
    assert values(summed)["cache_proxy_cache_entries"] == 3
    summed.has_died(1)
    assert values(summed)["cache_proxy_hits_total"] == 15
    summed.told(1, text(1, 4, 200))
    assert values(summed)["cache_proxy_hits_total"] == 16
    assert values(summed)["process_start_time_seconds"] == 100


def test_without_a_worker_that_answers_there_is_a_status() -> None:
    known = [{"worker": 0, "ready": False}, {"worker": 1, "ready": True}]
    assert merged({}, known) == {"ready": False, "workers": known}
    assert merged({1: {"ready": True}}, known)["ready"] is False


# -- the limiter of the machine --------------------------------------------------------------------------------------


class Machine:
    """Workers whose messages arrive in the next turn of the loop, as JSON."""

    def __init__(self, workers: int, **limits: Any) -> None:
        self.slots = MachineSlots()
        self.observed: list[str] = []
        self.ends: list[WorkerSlots] = []
        self.workers: list[WorkerLimiter] = []
        for _ in range(workers):
            self._add()
        self.configure(**limits)

    def _add(self) -> None:
        loop = asyncio.get_running_loop()

        def to_worker(*message: Any) -> None:
            loop.call_soon(handle, limiter.messages, json.dumps(message))

        def to_parent(*message: Any) -> None:
            loop.call_soon(handle, end.messages, json.dumps(message))

        def handle(handlers: dict[str, Callable[..., None]], message: str) -> None:
            word, *arguments = json.loads(message)
            handlers[word](*arguments)

        limiter = WorkerLimiter(lambda outcome, seconds: self.observed.append(outcome), to_parent)
        end = self.slots.worker(to_worker)
        self.workers.append(limiter)
        self.ends.append(end)

    def configure(self, **limits: Any) -> None:
        for worker in self.workers:
            worker.configure(Limits(**limits))

    async def enter(self, worker: int, client: str, host: str = "h", patience: float | None = None) -> Claim:
        claim = Claim()
        claim.ticket, claim.place = self.workers[worker].enter(host, client, claim.over, patience)
        await settled()
        return claim


class Claim:
    ticket: Ticket
    place: Place | None

    def __init__(self) -> None:
        self.outcome = ""

    def over(self, overloaded: Overloaded) -> None:
        self.outcome = overloaded.outcome

    @property
    def is_held(self) -> bool:
        return self.ticket.state is TicketState.ACTIVE

    async def end(self) -> None:
        self.ticket.end()
        await settled()


async def settled() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), PATIENCE))


def test_slots_are_the_machines_and_turns_are_the_clients() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight=1)
        first = await machine.enter(0, "greedy")
        greedy = [await machine.enter(0, "greedy") for _ in range(3)]
        modest = await machine.enter(1, "modest")
        assert first.is_held
        assert [worker.queued for worker in machine.workers] == [3, 1]
        await first.end()
        await greedy[0].end()
        assert modest.is_held, "at another worker, after one of the greedy client's"
        assert not greedy[1].is_held
        await modest.end()
        assert greedy[1].is_held
        assert machine.observed == ["admitted"] * 3, "the first one has found a slot"

    run(story)


def test_a_worker_that_dies_holds_no_slot() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight=2)
        lost = [await machine.enter(1, "a") for _ in range(3)]
        waiting = await machine.enter(0, "b")
        assert [claim.is_held for claim in (*lost, waiting)] == [True, True, False, False]
        machine.slots.lost(machine.ends[1])
        await settled()
        assert waiting.is_held
        assert machine.slots.limiter.in_flight == 1
        assert machine.slots.limiter.queued == 0

    run(story)


def test_a_full_queue_is_the_machines() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight=1, queue_max=1)
        held, queued = await machine.enter(0, "a"), await machine.enter(0, "b")
        refused = await machine.enter(1, "c")
        assert (held.is_held, queued.outcome, refused.outcome) == (True, "", "rejected")
        assert refused.ticket.state is TicketState.ENDED
        assert machine.observed == ["rejected"]

    run(story)


def test_a_slot_at_once_or_none_at_all() -> None:
    """``cache_queue_timeout`` of 0."""

    async def story() -> None:
        machine = Machine(2, max_in_flight=1)
        held = await machine.enter(0, "a", patience=0)
        assert held.is_held
        refused = await machine.enter(1, "b", patience=0)
        await asyncio.sleep(0.02)
        await settled()
        assert refused.outcome == "timeout"

    run(story)


def test_who_leaves_while_the_answer_is_under_way_holds_nothing() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight=1)
        claim = Claim()
        claim.ticket, claim.place = machine.workers[0].enter("h", "a", claim.over)
        assert claim.place is not None
        claim.place.leave()
        ended = Claim()
        ended.ticket, ended.place = machine.workers[0].enter("h", "a", ended.over)
        ended.ticket.end()
        await settled()
        assert machine.slots.limiter.in_flight == 0
        assert (await machine.enter(1, "b")).is_held
        assert machine.observed == []

    run(story)


def test_a_limit_that_is_set_later_counts_what_runs() -> None:
    async def story() -> None:
        machine = Machine(2)
        running = [await machine.enter(worker, "a") for worker in (0, 1, 1)]
        assert all(claim.is_held for claim in running)
        machine.configure(max_in_flight=3)
        await settled()
        waiting = await machine.enter(0, "b")
        assert not waiting.is_held
        await running[1].end()
        assert waiting.is_held
        machine.configure()
        await settled()
        assert (await machine.enter(0, "b")).is_held

    run(story)


def test_who_joins_what_is_just_turned_away_is_told_so_as_well() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight=1, queue_max=0)
        held = await machine.enter(0, "a")
        first, joined = Claim(), Claim()
        first.ticket, first.place = machine.workers[0].enter("h", "b", first.over)
        joined.place = first.ticket.join("c", joined.over, None)
        await settled()
        assert (first.outcome, joined.outcome) == ("rejected", "rejected")
        assert first.ticket.state is TicketState.ENDED
        await held.end()
        assert machine.slots.limiter.in_flight == 0

    run(story)


def test_a_limit_that_is_lifted_and_set_again_counts_what_runs_once() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight=2)
        running = await machine.enter(0, "a")
        for limits in ({}, {"max_in_flight": 2}):
            machine.configure(**limits)
            await settled()
        assert machine.slots.limiter.in_flight == 1
        await running.end()
        assert machine.slots.limiter.in_flight == 0

    run(story)


def test_a_queue_that_is_over_at_once_is_none() -> None:
    """Fills give way to what waits: nobody does."""

    async def story() -> None:
        machine = Machine(2, max_in_flight=1)
        held = await machine.enter(0, "a")
        left = await machine.enter(0, "b")
        assert left.place is not None
        left.place.leave()
        await asyncio.sleep(0.03)
        await settled()
        assert not machine.workers[0].has_queue
        assert not machine.workers[0].is_waited_for(held.ticket)

    run(story)


def test_hosts_have_their_own_limit() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight_per_host=1)
        one, other = await machine.enter(0, "a", "h1"), await machine.enter(1, "a", "h1")
        assert (one.is_held, other.is_held) == (True, False)
        assert (await machine.enter(1, "a", "h2")).is_held
        await asyncio.sleep(0.03)
        await settled()
        assert machine.workers[0].is_waited_for(one.ticket), "by the other worker's"
        await one.end()
        assert other.is_held

    run(story)


def test_those_who_join_a_queued_fill_share_its_turn() -> None:
    async def story() -> None:
        machine = Machine(2, max_in_flight=1)
        held = await machine.enter(0, "x")
        claim, joined = await machine.enter(1, "a"), Claim()
        joined.place = claim.ticket.join("b", joined.over)
        await settled()
        assert claim.place is not None
        claim.place.leave()
        await settled()
        assert claim.ticket.state is TicketState.QUEUED
        await held.end()
        assert claim.is_held
        assert not claim.ticket.places

    run(story)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--workers", "0"], ["--workers=65"], ["--workers"], ["--quiet", "--workers=two"]])
def test_a_number_of_workers_is_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *words]) == 2
    assert "--workers: a number from 1 to 64 is needed" in capsys.readouterr().err


def test_one_process_imports_nothing_of_it() -> None:
    code = (
        "import sys, proxy_cache.mitm.addon, proxy_cache.cli.main\n"
        "print([name for name in sys.modules if name.startswith(('proxy_cache.workers', 'proxy_cache.mitm.worker'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"
