"""What a fleet costs, as ratios to one node without peers: a peer hit, a miss by way of its home, and what must cost
nothing: hits, and misses of keys whose home is the node itself.

    just bench-fleet            about five minutes
    just bench-fleet --quick    about two, and rougher

All nodes run from the beginning to the end of a size, and one kind of request is measured at all of them by turns. Each
ratio is of neighbouring runs, and the medians are told. Fleets have two nodes, a token, and each other for fixed peers:

- *started*: as it is for an hour after a start, when a home first asks others for what it doesn't have;
- *later*: after that hour (an_hour_later.py);
- *passing on*: later, and with ``cache_peer_keep=never``, so that each request for a key is another peer hit.

- *writing*: one node without peers, with a bucket behind it, that is written to after each miss.

Which node is the home of a URL is known by the same ranking that the nodes use.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import load
from fleet_measure import Bench, Contender, Line, Troubles, alternate
from fleet_nodes import Bucket, Client, Cores, Fleet, Node
from processes import SIZES, Origin, free_port, wait_until_idle
from report import Conditions
from run import check_tools, names, positive

PEER_HITS = 128
"""URLs that are asked for by turns. Two requests for the same one at a time would share one request to the home: there
are more of them than connections, by far."""
MISSES = 12_000
"""URLs for a second of misses: more than a core can do."""
UPLOADS_TIMEOUT = 120.0
"""Seconds in which all is written."""

# -- the parts -----------------------------------------------------------------------------------------------------
# Each returns its lines.


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


def uploads(bench: Bench, troubles: Troubles) -> list[Line]:
    """The CPU time of a miss that is written to a bucket behind, to the end of that, against one that isn't. One after
    the other, and no more than wait for their turn at once."""
    size, count = SIZES[bench.size], bench.options.requests
    cores = bench.cores
    spent: list[list[float]] = [[], []]
    with contextlib.ExitStack() as stack:
        bucket = stack.enter_context(Bucket(cores.other))
        bucket.wait_until_listening()
        bucket.create()
        more = ["--set", f"cache_shared=s3://{Bucket.NAME}/bench", "--set", "cache_shared_write=all"]
        node = Node("writing", bench.folder, cores.proxy, free_port(), more, bucket.credentials)
        stack.enter_context(node)
        node.wait_until_listening()
        nodes = bench.alone, node
        clients = [stack.enter_context(Client(one.port)) for one in nodes]
        for turn in range(2 * bench.options.runs):
            one = turn % 2
            urls = itertools.islice(bench.new_urls(), count)
            wait_until_idle(nodes)
            before, ticks = node.uploads(), nodes[one].cpu_ticks()
            for url in urls:
                clients[one].first_byte(url, size)
            wait_until_idle(nodes, UPLOADS_TIMEOUT)
            spent[one].append((nodes[one].cpu_ticks() - ticks) * 10_000 / count)
            written = node.uploads() - before
            if written != Counter(stored=count if nodes[one] is node else 0) - Counter():
                troubles.append(f"uploads, {bench.size}: {dict(written)} of {count} misses")
    ratio = statistics.median(mine / alone if alone else 0 for alone, mine in zip(*spent, strict=True))
    alone, mine = map(statistics.median, spent)
    return [Line(f"miss that is uploaded, {bench.size}", "CPU of the node, µs", ratio, mine, alone, 1)]


PARTS: dict[str, Callable[[Bench, Troubles], list[Line]]] = {
    "peer-hit": peer_hits, "hit": own_hits, "miss": own_misses, "hop": hop_latency,
    "upload": uploads,
}  # fmt: skip
"""In this order: misses may evict what is hit."""


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
