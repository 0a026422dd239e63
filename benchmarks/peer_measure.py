"""The measurements of ``peers.py``: each puts its numbers, and what is wrong with them, into the results."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import load
from peer_clients import Download, download, first_byte, idle_connections
from peer_servers import Peer
from processes import SIZES, Origin, fetch, wait_until_idle
from report import Cell

HUGE = 1_000_000_000
IDLE = 1000
"""Connections that stay open and idle while a hit is timed."""
PROBES = 200
"""Hits timed in each run of that."""
SLOW_RUNS = 3
"""Runs at most of what takes long or, with 1 GB a miss, much room."""


@dataclass(slots=True)
class Results:
    """Cells by row and contender. A row's name is also its key in JSON."""

    cells: dict[str, dict[str, Cell]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Cell)))
    loop_lag: dict[str, dict[str, float]] = field(default_factory=dict)
    """What ``loop_lag.py`` wrote, by contender."""

    @contextlib.contextmanager
    def no_fetch(self, origin: Origin, peer: Peer, row: str) -> Iterator[None]:
        """A hit must not reach the origin."""
        before = origin.requests()
        yield
        if fetched := origin.requests() - before - 1:  # the count itself is a request
            self.trouble(row, peer.name, f"{fetched} requests reached the origin")

    def add(self, row: str, contender: str, value: float) -> None:
        self.cells[row][contender].rates.append(value)
        print(f"{row}: {contender} {value:.6g}", file=sys.stderr)

    def value(self, row: str, contender: str) -> float | None:
        """The median of the runs."""
        cell = self.cells.get(row, {}).get(contender)
        return cell.rate if cell and cell.rates else None

    def trouble(self, row: str, contender: str, text: str) -> None:
        self.cells[row][contender].troubles.append(text)
        print(f"{row}: {contender}: NOT CLEAN: {text}", file=sys.stderr)

    def raw(self) -> dict[str, object]:
        return {
            "measurements": {
                row: {name: {"values": cell.rates, "troubles": cell.troubles} for name, cell in cells.items()}
                for row, cells in self.cells.items()
            },
            "loop_lag": self.loop_lag,
        }


@dataclass(slots=True)
class Bench:
    origin: Origin
    peers: Sequence[Peer]
    runs: int
    seconds: int
    core: int | None
    """Of the clients and the origin."""
    results: Results = field(default_factory=Results)

    def everything(self) -> None:
        """Hits before misses: what the misses fill the caches with would evict what the hits ask for."""
        huge = self.origin.folder / "files" / str(HUGE)
        huge.touch()
        os.truncate(huge, HUGE)  # sparse: it costs no disk
        with huge.open("rb", buffering=0) as file:  # else the first proxy would pay for bringing it to the page cache
            while file.read(1 << 20):
                pass
        for peer in self.peers:
            self.note_memory("at the start", peer)
        for size in SIZES.values():
            for peer in self.peers:
                peer.check(peer.target(self.origin.url(size)), self.origin.body(size))
                load.run(peer.port, self.origin.url(size), 1, self.core, origin_form=peer.contender.reverse)
        for name, size in SIZES.items():
            self.each(self.runs, f"hit, {name}", partial(self.hits, size=size))
        runs = min(self.runs, SLOW_RUNS)
        self.each(runs, f"first byte of a hit, {IDLE} idle connections", self.first_byte_among_idle)
        for peer in self.peers:
            self.note_memory("after the hits", peer)
        self.each(runs, "first byte of a miss, 1 GB", self.huge_miss)
        self.each(runs, "hit, 1 GB", partial(self.huge_hit, last=runs - 1))
        for name in ("10 kB", "1 MB"):
            self.each(self.runs, f"miss, {name}", partial(self.misses, size=SIZES[name]))
        wait_until_idle(self.peers)
        for peer in self.peers:
            self.note_memory("at the end", peer)

    def each(self, runs: int, row: str, measure: Callable[[Peer, int, str], None]) -> None:
        """The contenders by turns within each run, every run beginning with another one: what disturbs the machine for
        a while disturbs all of them."""
        for run in range(runs):
            turn = run % len(self.peers)
            for peer in [*self.peers[turn:], *self.peers[:turn]]:
                wait_until_idle(self.peers, patience=0.5)
                peer.lag_switch.touch()
                try:
                    measure(peer, run, row)
                except (OSError, http.client.HTTPException, load.LoadFailed) as error:
                    # One that fails here may do well elsewhere, and the others shall not wait for nothing.
                    self.results.trouble(row, peer.name, f"{type(error).__name__}: {error}")
                finally:
                    peer.lag_switch.unlink()

    def hits(self, peer: Peer, run: int, row: str, size: int) -> None:
        url = self.origin.url(size)
        fetch(peer.port, peer.target(url))  # should it have been evicted
        with self.results.no_fetch(self.origin, peer, row):
            self.load(peer, row, size)

    def misses(self, peer: Peer, run: int, row: str, size: int) -> None:
        before = self.origin.requests()
        requests = self.load(peer, row, size, f"{peer.name}-{run}")
        fetched = self.origin.requests() - before - 1
        if fetched < requests:
            self.results.trouble(row, peer.name, f"only {fetched} of {requests} requests reached the origin")

    def load(self, peer: Peer, row: str, size: int, distinct: str | None = None) -> int:
        """Run wrk, and return the number of requests."""
        ticks = peer.cpu_ticks()
        url, reverse = self.origin.url(size), peer.contender.reverse
        result = load.run(peer.port, url, self.seconds, self.core, distinct, origin_form=reverse)
        self.results.add(row, peer.name, result.rate)
        if result.requests:
            self.results.add(f"p99, {row}", peer.name, result.p99 * 1000)
            # For the raw results: it suffers less from the machine's other users than the rate does.
            cpu = (peer.cpu_ticks() - ticks) * 10 / result.requests
            self.results.add(f"CPU of each, {row}", peer.name, cpu)
        if result.errors:
            self.results.trouble(row, peer.name, f"{result.errors} errors in {result.requests} requests")
        if result.bytes < result.requests * size or not result.requests:
            self.results.trouble(row, peer.name, f"{result.bytes} bytes are not {result.requests} bodies")
        return result.requests

    def first_byte_among_idle(self, peer: Peer, run: int, row: str) -> None:
        """Each probe is a connection of its own: what many open ones cost the one that comes next."""
        target = peer.target(self.origin.url(SIZES["10 kB"]))
        fetch(peer.port, target)
        times = []
        with self.results.no_fetch(self.origin, peer, row), idle_connections(peer.port, target, IDLE) as still_open:
            for _ in range(PROBES):
                answer = download(peer.port, target)
                self.check_body(peer, row, answer, SIZES["10 kB"])
                times.append(answer.first_byte)
            if (found := still_open()) < IDLE:
                self.results.trouble(row, peer.name, f"only {found} of {IDLE} connections stayed open")
            self.note_memory(f"with {IDLE} idle connections", peer)
        self.results.add(row, peer.name, statistics.median(times) * 1000)
        self.results.add(f"p99, {row}", peer.name, sorted(times)[len(times) * 99 // 100] * 1000)

    def huge_url(self, peer: Peer, run: int) -> str:
        return f"{self.origin.url(HUGE)}/{peer.name}-{run}"

    def huge_miss(self, peer: Peer, run: int, row: str) -> None:
        """What the contender adds to the origin's own time to the first byte, which is measured right before."""
        direct = statistics.median(first_byte(self.origin.port, f"/{HUGE}") for _ in range(9))
        before = self.origin.requests()
        answer = download(peer.port, peer.target(self.huge_url(peer, run)))
        if (fetched := self.origin.requests() - before - 1) != 1:
            self.results.trouble(row, peer.name, f"{fetched} requests reached the origin")
        self.check_body(peer, row, answer, HUGE)
        self.results.add(row, peer.name, (answer.first_byte - direct) * 1000)
        self.results.add("miss, 1 GB", peer.name, answer.bytes / answer.seconds / 1e9)

    def huge_hit(self, peer: Peer, run: int, row: str, last: int) -> None:
        """Of the object that came last, which no cache has evicted yet."""
        with self.results.no_fetch(self.origin, peer, row):
            samples = [peer.memory()["RssAnon"]]
            answer = download(
                peer.port,
                peer.target(self.huge_url(peer, last)),
                lambda: samples.append(peer.memory()["RssAnon"]),
            )
        samples.append(peer.memory()["RssAnon"])
        self.check_body(peer, row, answer, HUGE)
        self.results.add(row, peer.name, answer.bytes / answer.seconds / 1e9)
        self.results.add("RssAnon before a hit of 1 GB", peer.name, samples[0])
        self.results.add("RssAnon after a hit of 1 GB", peer.name, samples[-1])
        self.results.add("RssAnon added by a hit of 1 GB", peer.name, max(samples) - samples[0])

    def check_body(self, peer: Peer, row: str, answer: Download, size: int) -> None:
        if (answer.status, answer.bytes) != (200, size):
            self.results.trouble(row, peer.name, f"status {answer.status} and {answer.bytes} bytes")

    def note_memory(self, when: str, peer: Peer) -> None:
        for name, megabytes in peer.memory().items():
            self.results.add(f"{name} {when}", peer.name, megabytes)

    def collect_loop_lag(self) -> None:
        """Once the contenders have ended, and written their last."""
        for peer in self.peers:
            if peer.lag_file.exists():
                self.results.loop_lag[peer.name] = json.loads(peer.lag_file.read_text())


def wait_until_ready(peer: Peer, origin: Origin, patience: float = 20.0) -> None:
    """Listening is not yet serving: Traffic Server, for one, opens its port before its cache."""
    peer.wait_until_listening()
    deadline = time.monotonic() + patience
    status = 0
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = fetch(peer.port, peer.target(f"{origin.url(SIZES['1 kB'])}/start"))
            before = origin.requests()
            fetch(peer.port, peer.target(f"{origin.url(SIZES['1 kB'])}/start"))
            if status == 200 and origin.requests() == before + 1:
                return
        time.sleep(0.1)
    raise SystemExit(f"{peer.name} does not cache (status {status}); its command: {' '.join(peer.command)}")
