"""A soak: everything at once, for ten minutes, or for as long as `just soak SECONDS` says.

Clients that leave, read slowly, ask for ranges and on conditions; an origin that fails in every way; limits that are
reached, and a cache that is too small, so that it evicts all the time. Every byte of every response is compared with
what the origin has for that version. Afterwards everything is back where it was.

``SOAK_SECONDS`` and ``SOAK_CLIENTS`` say how long and how many (600, 24).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.origin import PATIENCE
from tests.support.proxy import SCRIPTS, Proxy
from tests.support.soak_clients import Clients, report
from tests.support.soak_origin import SoakOriginProcess

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CLIENTS = int(os.environ.get("SOAK_CLIENTS", "24"))
WARM_UP = 10.0
"""Seconds of load before what there is is noted."""
LOOK_EVERY = 20.0
SETTLED = 120.0
"""Seconds that things may take to come back."""
MEMORY_TIER = 32 << 20
MAY_GROW = 64 << 20
"""Bytes of memory, beyond what bodies may take of it, by which the process may be larger afterwards: there is an index
of thousands of entries, and the allocator keeps what it has had."""
SIZES = (0, 1, 900, 5_000, 63_000, 70_000, 300_000, 1_200_000, 5_000_000, 18_000_000)
KINDS = ("plain", "plain", "odd", "nostore", "short", "chunked", "changing", "odd,short", "odd,chunked", "odd,nostore")
TARGETS = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 600)]


class Looks:
    """What a process has, and whether it has it still."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.port = int(proxy.wait_for_log(r"test insides on port (\d+)")[1])

    def ask(self, line: str) -> Any:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(line.encode() + b"\n")
            with connection.makefile() as answer:
                return json.loads(answer.readline())

    def sockets(self) -> int:
        return len([one for one in self.proxy.open_files() if one.startswith("socket:")])

    def deleted(self) -> list[str]:
        return [one for one in self.proxy.open_files() if one.endswith("(deleted)")]

    def line(self) -> str:
        metrics, counts = self.proxy.metrics(), self.ask("counts")
        memory = self.proxy.anonymous_memory() / 1e6
        return (
            f"anonymous memory {memory:.0f} MB, {len(self.proxy.open_files())} descriptors ({self.sockets()} sockets), "
            f"{counts['tasks']} tasks, objects {counts['objects']}, "
            f"{metrics.value('origin_fetches_in_flight'):.0f} in flight, {metrics.value('origin_fetches_queued'):.0f} "
            f"queued, {metrics.value('cache_entries'):.0f} entries, {metrics.value('evictions_total'):.0f} evicted, "
            f"collections {counts['collections']}"
        )


class Load(threading.Thread):
    """Clients on a loop of their own."""

    def __init__(self, clients: Clients, count: int) -> None:
        super().__init__(name="soak", daemon=True)
        self.clients, self.count = clients, count
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self.clients.run(self.count))
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.clients.over = True
        self.join(SETTLED)
        assert not self.is_alive(), "a client hangs"
        if self.error is not None:
            raise self.error


def targets() -> list[str]:
    chance = random.Random(1)
    return [f"/s{chance.choice(SIZES)}/{chance.choice(KINDS)}/{number}" for number in range(TARGETS)]


def idle(proxy: Proxy) -> None:
    """No request, no fill, nothing queued or to be written."""
    metrics = proxy.settled(SETTLED)
    for name in ("origin_fetches_in_flight", "origin_fetches_queued", "inflight_requests", "tunnels_active"):
        proxy.wait_for_metric(name, 0.0, SETTLED)
    proxy.wait_for_metric("spilled_bytes", 0.0, SETTLED)
    assert metrics.value("hook_errors_total") == 0


def test_everything_at_once_and_afterwards_all_is_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n{time.monotonic() - began:6.0f} s: {text}", end="", flush=True)

    began = time.monotonic()
    proxy = Proxy(
        tmp_path,
        scripts=[SCRIPTS / "insides.py"],
        execute=True,  # its memory is measured
        cache_max_size="300m",
        cache_memory=MEMORY_TIER,
        cache_max_object_size="100%",
        origin_max_in_flight=8,
        origin_queue_max=64,
        origin_queue_timeout=4,
        origin_timeout=5,
        spill_max="64m",
        access_log=False,
    )
    with SoakOriginProcess() as origin, proxy:
        looks = Looks(proxy)
        sockets = looks.sockets()
        for seconds in (WARM_UP, SECONDS):
            clients = Clients(proxy.address, origin.url(""), targets())
            load = Load(clients, CLIENTS)
            load.start()
            started = time.monotonic()
            while (left := started + seconds - time.monotonic()) > 0 and load.is_alive():
                load.join(min(left, LOOK_EVERY))
                tell(f"{report(clients, time.monotonic() - started)}; {looks.line()}")
            load.end()
            for wrong in clients.wrong:
                tell(f"WRONG: {wrong}")
            if clients.wrong:
                tell(f"{proxy.status()}\n{proxy.text()[-4000:]}\n")
            assert clients.wrong == []
            idle(proxy)
            counts = looks.ask("collect")
            if seconds == WARM_UP:
                memory, tasks = proxy.anonymous_memory(), counts["tasks"]
                tell(f"warm: {looks.line()}")
        tell(f"responses: {dict(clients.counts.most_common())}")
        tell(f"broken off: {dict(clients.broken.most_common())}")
        most = memory + MEMORY_TIER + MAY_GROW
        proxy.eventually(lambda: looks.ask("collect")["tasks"], lambda now: now <= tasks, SETTLED, "tasks")
        proxy.eventually(proxy.anonymous_memory, lambda now: now <= most, SETTLED, "anonymous memory")
        origin.stop()
        proxy.eventually(looks.sockets, lambda now: now <= sockets, SETTLED, "sockets")
        proxy.eventually(looks.deleted, lambda now: not now, SETTLED, "files that are deleted and open")
        proxy.eventually(lambda: proxy.value("corrupt_entries_total"), lambda now: now == 0, 1.0, "corrupt entries")
        assert not list(proxy.cache_dir.glob("tmp/*/*"))
        tell(f"afterwards: {looks.line()}; {proxy.status()['store']}")
        tell(f"memory: {memory / 1e6:.0f} MB before, {proxy.anonymous_memory() / 1e6:.0f} MB after\n")
