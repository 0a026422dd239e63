"""Measures nodes of a fleet, and checks what the origin and the peers were asked meanwhile."""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import load
from fleet_nodes import Cores, Fleet, Node
from processes import SIZES, Origin, wait_until_idle


@dataclass(frozen=True, slots=True)
class Bench:
    """All that runs while one size is measured."""

    size: str
    origin: Origin
    folder: Path
    cores: Cores
    options: argparse.Namespace
    alone: Node
    started: Fleet
    later: Fleet
    passing_on: Fleet
    serial: Iterator[int] = field(default_factory=itertools.count)

    @property
    def fleets(self) -> tuple[Fleet, ...]:
        return self.started, self.later, self.passing_on

    @property
    def nodes(self) -> list[Node]:
        return [self.alone, *(node for fleet in self.fleets for node in (fleet.asking, fleet.home))]

    @property
    def url(self) -> str:
        return self.origin.url(SIZES[self.size])

    def new_urls(self) -> Iterator[str]:
        """That nobody has asked for, without end."""
        serial = next(self.serial)
        return (f"{self.url}/{serial}-{number}" for number in itertools.count())

    def listed(self, urls: Iterator[str], count: int) -> Path:
        """The first so many in a file, for wrk."""
        path = self.folder / f"urls-{next(self.serial)}"
        path.write_text("".join(f"{url}\n" for url in itertools.islice(urls, count)))
        return path


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is asked, for what."""

    name: str
    node: Node
    urls: Callable[[], Path] | None
    """A file with URLs for one run; ``None``: the one URL of the size, over and over."""
    peer: Node | None = None
    """The one that is asked by it."""
    asks_peers: str = ""
    """The outcome of asking a peer that each of the requests must have. Empty: the node asks none."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    what: str
    measured: str
    ratio: float
    fleet: float
    alone: float
    digits: int = 0

    def __str__(self) -> str:
        numbers = (f"{number:,.{self.digits}f}".replace(",", " ") for number in (self.fleet, self.alone))
        return f"| {self.what} | {self.measured} | {self.ratio:.3f} | {' | '.join(numbers)} |"


@dataclass(slots=True)
class Run:
    rate: float
    cpu: float
    """µs a request."""
    peer_cpu: float


class Troubles(list[str]):
    """What a measurement's own checks have found."""


def alternate(
    bench: Bench, kind: str, contenders: Sequence[Contender], troubles: Troubles, *, is_miss: bool
) -> list[Line]:
    """The first contender is what the others are compared with."""
    rounds: list[list[Run]] = []
    for number in range(bench.options.runs):
        runs: list[Run | None] = [None] * len(contenders)
        for turn in range(len(contenders)):
            one = (number + turn) % len(contenders)
            runs[one] = measure(bench, f"{kind}, {bench.size}", contenders[one], troubles, is_miss=is_miss)
        rounds.append([run for run in runs if run is not None])
    lines = []
    for one, contender in enumerate(contenders[1:], 1):
        what = f"{kind}, {bench.size}{contender.name}"
        measured: list[tuple[str, Callable[[Run], float]]] = [
            ("requests/s", lambda run: run.rate),
            ("CPU of the node that is asked, µs", lambda run: run.cpu),
        ]
        if contender.peer:
            measured.append(("CPU of its peer, µs", lambda run: run.peer_cpu))
        for name, of in measured:
            pairs = [(of(runs[one]), runs[0].rate if name == "requests/s" else runs[0].cpu) for runs in rounds]
            ratio = statistics.median(mine / alone if alone else 0 for mine, alone in pairs)
            mine, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
            lines.append(Line(what, name, ratio, mine, alone, 0 if name == "requests/s" else 1))
    return lines


def measure(bench: Bench, what: str, contender: Contender, troubles: Troubles, *, is_miss: bool) -> Run:
    """One run, with its checks: against errors, and for what the origin and the peers have been asked."""
    node, peer = contender.node, contender.peer
    urls = contender.urls() if contender.urls else None
    wait_until_idle(bench.nodes)
    fetched, asked = bench.origin.requests(), node.asked()
    ticks, peer_ticks = node.cpu_ticks(), peer.cpu_ticks() if peer else 0
    result = load.run(node.port, bench.url, bench.options.seconds, bench.cores.other, listed=urls)
    requests = max(1, result.requests)
    cpu, peer_cpu = (
        spent * 10_000 / requests for spent in (node.cpu_ticks() - ticks, peer.cpu_ticks() - peer_ticks if peer else 0)
    )
    fetched = bench.origin.requests() - fetched - 1  # the count itself is a request
    asked = node.asked() - asked
    name = f"{what}: {node.name}"
    print(
        f"{name}: {result.rate:.0f}/s, {cpu:.0f} µs of CPU each" + (f", peer {peer_cpu:.0f} µs" if peer else ""),
        file=sys.stderr,
    )
    if result.errors:
        troubles.append(f"{name}: {result.errors} errors in {result.requests} requests")
    if result.bytes < result.requests * SIZES[bench.size]:
        troubles.append(f"{name}: {result.bytes} bytes are not {result.requests} bodies")
    if is_miss and not result.requests <= fetched <= result.requests + load.CONNECTIONS:
        troubles.append(f"{name}: {fetched} requests at the origin for {result.requests} misses")
    if not is_miss and fetched:
        troubles.append(f"{name}: {fetched} requests reached the origin")
    expected = contender.asks_peers
    if (asked[expected] < result.requests or len(asked) > 1) if expected else asked:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in asked.items())
        troubles.append(f"{name}: {result.requests} requests, and peers' answers: {outcomes} {node.left_alone()}")
    return Run(result.rate, cpu, peer_cpu)
