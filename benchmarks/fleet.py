"""What a fleet costs, as ratios to one node without peers: a peer hit, a miss by way of its home, and what must cost
nothing: hits, and misses of keys whose home is the node itself.

    just bench-fleet            about five minutes
    just bench-fleet --quick    about two, and rougher

All nodes run from the beginning to the end of a size, and one kind of request is measured at all of them by turns. Each
ratio is of neighbouring runs, and the medians are told. Fleets have two nodes, a token, and each other for fixed peers:

- *started*: as it is for an hour after a start, when a home first asks others for what it doesn't have;
- *later*: after that hour (an_hour_later.py);
- *passing on*: later, and with ``cache_peer_keep=never``, so that each request for a key is another peer hit.

Which node is the home of a URL is known by the same ranking that the nodes use.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import load
from processes import ROOT, SIZES, Mitmdump, Origin, fetch, free_port, wait_until_idle
from report import Conditions
from run import check_tools, names, positive

sys.path.insert(0, str(ROOT))

from proxy_cache.upstream.peers.peer import Peer
from proxy_cache.upstream.peers.ranking import Ranking

LATER = ROOT / "benchmarks" / "an_hour_later.py"
PEER_HITS = 128
"""URLs that are asked for by turns. Two requests for the same one at a time would share one request to the home: there
are more of them than connections, by far."""
MISSES = 12_000
"""URLs for a second of misses: more than a core can do."""
CACHE_SIZE = "2g"


class Node(Mitmdump):
    """One of our proxies, and the URLs that are asked of it."""

    def __init__(self, name: str, folder: Path, core: int | None, port: int, more: Sequence[str] = ()) -> None:
        self.metrics_port = free_port()
        metrics = f"metrics_listen=127.0.0.1:{self.metrics_port}"
        arguments = ["-s", str(ROOT / "addons" / "cache.py"), *more]
        for option in (f"cache_dir={folder / name}", f"cache_max_size={CACHE_SIZE}", metrics):
            arguments += ["--set", option]
        super().__init__(name, arguments, folder / f"conf-{name}", core, port)

    def asked(self) -> Counter[str]:
        """How often it has asked a peer so far, by what came of it: ``hit``, ``miss``, ``timeout``, …"""
        text = fetch(self.metrics_port, "/metrics")[1].decode()
        counts = re.findall(r'^cache_proxy_peer_fetches_total\{outcome="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return Counter({outcome: round(float(count)) for outcome, count in counts})

    def left_alone(self) -> str:
        """Which peers it leaves alone now, and why."""
        peers = json.loads(fetch(self.metrics_port, "/status")[1]).get("peers", ())
        return ", ".join(f"{peer['url']} is {peer['state']}: {peer['reason']}" for peer in peers if peer["reason"])


class Fleet:
    """Two nodes: the one that clients ask, and the home of what they ask it for."""

    def __init__(self, name: str, folder: Path, cores: Cores, *, is_later: bool, keep: str = "always") -> None:
        self.name = name
        token = folder / f"token-{name}"
        token.write_text(secrets.token_hex(16))
        ports = free_port(), free_port()
        self.peers = [Peer("http", "127.0.0.1", port) for port in ports]
        more = ["-s", str(LATER)] if is_later else []
        options = [*(f"cache_peers={peer}" for peer in self.peers), f"cache_peer_token_file={token}"]
        for option in [*options, f"cache_peer_keep={keep}"]:
            more += ["--set", option]
        self.asking = Node(f"{name}-asking", folder, cores.proxy, ports[0], more)
        self.home = Node(f"{name}-home", folder, cores.home, ports[1], more)
        self._ranking = Ranking(self.peers)

    def with_home(self, urls: Iterator[str], node: Node) -> Iterator[str]:
        """Those of ``urls`` whose home it is."""
        return (url for url in urls if self._home(url).port == node.port)

    def _home(self, url: str) -> Peer:
        peer = self._ranking.home(url)
        assert peer is not None
        return peer


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the processes run; ``None``: anywhere."""

    count: int
    proxy: int | None
    """The node that is asked."""
    home: int | None
    other: int | None
    """The origin and the clients."""

    @classmethod
    def here(cls) -> Self:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return cls(1, None, None, None)
        return cls(len(cores), cores[0], cores[2] if len(cores) > 2 else cores[0], cores[1])

    def __str__(self) -> str:
        if self.count > 2:
            return "The home has a core of its own: the rate of peer hits is what the node that asks can do."
        return "The home has the same core as the node that asks: the rate of peer hits is that of both together."


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


# -- the parts -----------------------------------------------------------------------------------------------------
# Each returns its lines. What the shared store costs (its upload, behind a miss) is to be a part of its own: a function
# here, a fleet or a node with that option in `bench`, and its name in PARTS.


def peer_hits(bench: Bench, troubles: Troubles) -> list[Line]:
    """Hits at the home, on behalf of a client of the other node, against hits of the same URLs at one node."""
    fleet = bench.passing_on
    file = bench.listed(fleet.with_home(bench.new_urls(), fleet.home), PEER_HITS)
    for url in file.read_text().split():
        for node in (bench.alone, fleet.asking):
            node.check(url, bench.origin.body(SIZES[bench.size]))  # stored at the one, and at the home of the other
    contenders = [
        Contender("", bench.alone, lambda: file),
        Contender("", fleet.asking, lambda: file, fleet.home, asks_peers="hit"),
    ]
    return alternate(bench, "peer hit", contenders, troubles, is_miss=False)


def own_hits(bench: Bench, troubles: Troubles) -> list[Line]:
    """Hits, with peers and without: no peer hears of one."""
    nodes = bench.alone, bench.started.asking
    for node in nodes:
        node.check(bench.url, bench.origin.body(SIZES[bench.size]))
    return alternate(bench, "local hit", [Contender("", node, None) for node in nodes], troubles, is_miss=False)


def own_misses(bench: Bench, troubles: Troubles) -> list[Line]:
    """Misses of keys whose home is the node that is asked. Before the hour is over, it asks the other one first."""
    count = MISSES * bench.options.seconds

    def at_home(fleet: Fleet) -> Path:
        return bench.listed(fleet.with_home(bench.new_urls(), fleet.asking), count)

    started, later = bench.started, bench.later
    contenders = [
        Contender("", bench.alone, lambda: bench.listed(bench.new_urls(), count)),
        Contender(", started", started.asking, lambda: at_home(started), started.home, asks_peers="miss"),
        Contender(", later", later.asking, lambda: at_home(later)),
    ]
    return alternate(bench, "miss at its home", contenders, troubles, is_miss=True)


def hop_latency(bench: Bench, troubles: Troubles) -> list[Line]:
    """The time to the first byte of a miss by way of its home, one request after the other, against one node's."""
    size = SIZES[bench.size]
    asked: list[tuple[str, Node, Iterator[str]]] = [("", bench.alone, bench.new_urls())]
    for fleet in (bench.started, bench.later):
        asked.append((f", {fleet.name}", fleet.asking, fleet.with_home(bench.new_urls(), fleet.home)))
    seconds: list[list[float]] = [[] for _ in asked]
    wait_until_idle(bench.nodes)
    before, asked_before = bench.origin.requests(), [node.asked() for _, node, _ in asked]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(node.port)) for _, node, _ in asked]
        for (_, _, urls), client in zip(asked, clients, strict=True):
            for url in itertools.islice(urls, 20):  # connections on the whole way are open
                client.first_byte(url, size)
        for number in range(bench.options.requests):
            for turn in range(len(asked)):
                one = (number + turn) % len(asked)
                seconds[one].append(clients[one].first_byte(next(asked[one][2]), size))
    expected = (bench.options.requests + 20) * len(asked)
    if (fetched := bench.origin.requests() - before - 1) != expected:
        troubles.append(f"first bytes, {bench.size}: {fetched} requests at the origin for {expected} misses")
    for (_, node, _), count in list(zip(asked, asked_before, strict=True))[1:]:
        if (answers := node.asked() - count) != Counter(miss=bench.options.requests + 20):
            troubles.append(f"first bytes, {bench.size}: {node.name}: peers' answers: {dict(answers)}")
    alone, *others = (statistics.median(times) * 1000 for times in seconds)
    return [
        Line(f"miss by way of its home, {bench.size}{name}", what, value / alone, value, alone, 2)
        for (name, _, _), median in zip(asked[1:], others, strict=True)
        for what, value in (("first byte, ms", median), ("added by the hop, ms", median - alone))
    ]


PARTS: dict[str, Callable[[Bench, Troubles], list[Line]]] = {
    "peer-hit": peer_hits, "hit": own_hits, "miss": own_misses, "hop": hop_latency,
}  # fmt: skip
"""In this order: misses may evict what is hit."""


# -- measuring -----------------------------------------------------------------------------------------------------


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


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def first_byte(self, url: str, size: int) -> float:
        """Seconds to the first byte of a response, which must be 200 with ``size`` bytes. It is read to its end."""
        request = f"GET {url} HTTP/1.1\r\nHost: {url.split('/')[2]}\r\n\r\n".encode()
        started = time.perf_counter()
        self._socket.sendall(request)
        received = self._socket.recv(65536)
        seconds = time.perf_counter() - started
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{url}: {head[:100]!r}")
        left = size - len(body)
        while left > 0:
            left -= len(self._more())
        return seconds

    def _more(self) -> bytes:
        received = self._socket.recv(262144)
        if not received:
            raise SystemExit("a response broke off")
        return received


# -- all together --------------------------------------------------------------------------------------------------


def main() -> None:
    options = parse_arguments()
    check_tools()
    # So that `with` ends every process when we are told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = Cores.here()
    if cores.other is not None:
        os.sched_setaffinity(0, {cores.other})  # the client of the first bytes is this process
    lines: list[Line] = []
    troubles = Troubles()
    with tempfile.TemporaryDirectory(prefix="proxy-cache-bench-") as temporary:
        folder = Path(temporary)
        with Origin(folder / "origin", cores.other) as origin:
            origin.wait_until_listening()
            for size in options.sizes:
                lines += measure_size(size, origin, folder / size.replace(" ", ""), cores, options, troubles)
    command = shlex.join(["just", "bench-fleet", *sys.argv[1:]])
    print(f"{Conditions(options.runs, options.seconds, cores.count, command)} {cores}\n")
    print("| | measured | ratio | fleet | one node |\n|---|---|---:|---:|---:|")
    print("\n".join(map(str, lines)))
    if troubles:
        print("\nNot clean:\n\n" + "\n".join(f"- {trouble}" for trouble in troubles))


def measure_size(
    size: str, origin: Origin, folder: Path, cores: Cores, options: argparse.Namespace, troubles: Troubles
) -> list[Line]:
    """The lines of one size. All nodes start cold for it, which also bounds what the caches hold."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        bench = Bench(
            size, origin, folder, cores, options, Node("alone", folder, cores.proxy, free_port()),
            Fleet("started", folder, cores, is_later=False), Fleet("later", folder, cores, is_later=True),
            Fleet("passing-on", folder, cores, is_later=True, keep="never"),
        )  # fmt: skip
        for node in bench.nodes:  # one at a time: they share a core, and a busy machine has little of it
            stack.enter_context(node)
            node.wait_until_listening()
        for node in bench.nodes:  # code is warm, and connections to the origin and to peers are open
            load.run(node.port, bench.url, 1, cores.other, listed=bench.listed(bench.new_urls(), MISSES))
        return [line for part, measure in PARTS.items() if part in options.parts for line in measure(bench, troubles)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just bench-fleet", description="What peers cost, by one node without any.")
    parser.add_argument("--runs", type=positive, help="measurements of everything, of which the median counts (5)")
    parser.add_argument("--seconds", type=positive, help="length of one measurement (2)")
    parser.add_argument("--requests", type=positive, help="misses of which the first byte is timed (400)")
    parser.add_argument("--quick", action="store_true", help="one run of 1 second, 100 first bytes")
    parser.add_argument("--sizes", type=names(tuple(SIZES)), default=["10 kB", "1 MB"], help=f"of: {', '.join(SIZES)}")
    parser.add_argument("--parts", type=names(tuple(PARTS)), default=list(PARTS), help=f"of: {', '.join(PARTS)}")
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 2)
    options.requests = options.requests or (100 if options.quick else 400)
    return options


if __name__ == "__main__":
    main()
