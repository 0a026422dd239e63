"""Requests per second of this proxy, of a textbook mitmproxy addon and of plain mitmdump, side by side.

    just bench                  about five minutes
    just bench --quick          under a minute, and rougher
    just bench --write-readme   the same, with a shorter table put into the README

How it measures, and how to read it: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import load
from processes import BIG, ROOT, SIZES, Mitmdump, Origin, wait_until_idle
from report import Cell, Conditions, Row, for_readme, markdown, write_readme

CONTENDERS = ("ours", "textbook", "plain")
HIT, RULED, MISS, RANGE = "hit", "hits with five rules", "miss", "range hit"
FIVE_RULES = (
    "cache_ttl=/~d 127.0.0.1 & !~u \\.tmp$/1d",
    "cache_ttl=/~d packages.example & ~u \\.deb$/30d",
    "cache_ignore_request_directives=~d maven.example",
    "cache_ignore_authorization=~d registry.example & ~u /-/",
    "cache_key_ignore_query=/~d objects.example/X-Amz-*",
)
"""As an operator has them: for some mirrors, and none of them asks for more than the target."""
PAIRS = 4
"""Pairs of hits with and without them that are compared closely, for each run."""


def main() -> None:
    options = parse_arguments()
    check_tools()
    # So that `with` ends every process when we are told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    cores = sorted(os.sched_getaffinity(0))
    proxy_core, other_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="proxy-cache-bench-") as temporary:
        folder = Path(temporary)
        with Origin(folder / "origin", other_core) as origin:
            origin.wait_until_listening()
            for name in options.sizes:
                rows += measure(name, origin, folder, proxy_core, other_core, options)
    # It reads better with the hits first.
    rows.sort(key=lambda row: [HIT, RULED, RANGE, MISS].index(row[0].partition(",")[0]))

    command = shlex.join(["just", "bench", *(argument for argument in sys.argv[1:] if argument != "--write-readme")])
    conditions = Conditions(options.runs, options.seconds, len(cores), command)
    print(markdown(rows, conditions))
    if options.write_readme:
        write_readme(ROOT / "README.md", for_readme(rows, conditions))


def measure(
    name: str,
    origin: Origin,
    folder: Path,
    proxy_core: int | None,
    other_core: int | None,
    options: argparse.Namespace,
) -> list[Row]:
    """The rows of one size. The contenders start cold for each size, which also bounds what the caches hold."""
    size = SIZES[name]
    url = origin.url(size)
    cells: dict[str, dict[str, Cell]] = {kind: defaultdict(Cell) for kind in (HIT, RULED, MISS, RANGE)}
    # As many bytes out of the middle of a bigger object, of which no more than their block is stored.
    big, span = origin.url(BIG) + "/ranges", f"{BIG // 2}-{BIG // 2 + size - 1}"
    with contextlib.ExitStack() as stack:
        cache_dir = folder / "cache"
        stack.callback(shutil.rmtree, cache_dir, ignore_errors=True)
        stack.callback(shutil.rmtree, folder / "cache-ruled", ignore_errors=True)
        proxies = {
            contender: stack.enter_context(
                Mitmdump(contender, arguments(contender, cache_dir), folder / f"conf-{contender}", proxy_core)
            )
            for contender in options.contenders
        }
        if "ours" in proxies:
            ruled = [part for rule in FIVE_RULES for part in ("--set", rule)]
            proxies[RULED] = stack.enter_context(
                Mitmdump(RULED, [*arguments("ours", folder / "cache-ruled"), *ruled], folder / "conf-ruled", proxy_core)
            )
        # Plain mitmdump caches nothing: one number, for both rows.
        kinds: dict[str, tuple[str, ...]] = {
            "plain": (MISS,), "textbook": (HIT, MISS), "ours": (HIT, RULED, RANGE, MISS),
        }  # fmt: skip
        for proxy in proxies.values():
            proxy.wait_until_listening()
            proxy.check(url, origin.body(size))
            load.run(proxy.port, url, 1, other_core, "warm-up")
        if "ours" in proxies:
            load.run(proxies["ours"].port, big, 1, other_core, span=span)

        # Interleaved, and every run begins with another contender, so that a busy moment of the machine hits all alike.
        for run in range(options.runs):
            turn = run % len(options.contenders)
            for contender in [*options.contenders[turn:], *options.contenders[:turn]]:
                for kind in kinds[contender]:
                    proxy = proxies[RULED if kind == RULED else contender]
                    wait_until_idle(list(proxies.values()))
                    cell = cells[kind][contender]
                    distinct = f"{contender}-{run}" if kind == MISS else None
                    before, ticks = origin.requests(), proxy.cpu_ticks()
                    if kind == RANGE:
                        result = load.run(proxy.port, big, options.seconds, other_core, span=span)
                    else:
                        result = load.run(proxy.port, url, options.seconds, other_core, distinct)
                    cpu = (proxy.cpu_ticks() - ticks) * 10 / max(1, result.requests)
                    fetched = origin.requests() - before - 1  # the count itself is a request
                    cell.rates.append(result.rate)
                    if result.errors:
                        cell.troubles.append(f"{result.errors} errors in {result.requests} requests")
                    if result.bytes < result.requests * size:
                        cell.troubles.append(f"{result.bytes} bytes are not {result.requests} bodies")
                    if kind != MISS and fetched:
                        cell.troubles.append(f"{fetched} requests reached the origin")
                    if kind == MISS and fetched < result.requests:
                        cell.troubles.append(f"only {fetched} of {result.requests} requests reached the origin")
                    print(
                        f"{kind}, {name}, run {run + 1}: {contender} {result.rate:.0f}/s, {cpu:.2f} ms of CPU each",
                        file=sys.stderr,
                    )
        if "ours" in proxies:
            cells[RULED]["ours"].pairs = paired(proxies["ours"], proxies[RULED], url, PAIRS * options.runs, other_core)
    if "plain" in proxies:
        cells[HIT]["plain"] = Cell(cells[MISS]["plain"].rates)
    return [(f"{kind}, {name}", row) for kind, row in cells.items()]


def paired(free: Mitmdump, ruled: Mitmdump, url: str, count: int, core: int | None) -> list[float]:
    """Hits of ``ruled`` by those of ``free`` in runs of a second, one right after the other and every second pair the
    other way round: what is looked for is smaller than what the machine does between runs that lie apart."""
    ratios = []
    for number in range(count):
        rates = {}
        for proxy in (free, ruled) if number % 2 else (ruled, free):
            wait_until_idle([free, ruled])
            rates[proxy.name] = load.run(proxy.port, url, 1, core).rate
        ratios.append(rates[ruled.name] / rates[free.name])
    return ratios


def arguments(contender: str, cache_dir: Path) -> list[str]:
    """What makes a mitmdump this contender. All other options are defaults, logging included, for all of them."""
    match contender:
        case "ours":
            script = ROOT / "addons" / "cache.py"
            return ["-s", str(script), "--set", f"cache_dir={cache_dir}", "--set", "metrics_listen=127.0.0.1:0"]
        case "textbook":
            return ["-s", str(ROOT / "benchmarks" / "textbook_addon.py")]
        case _:
            return []


def check_tools() -> None:
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin"  # where Debian puts nginx
    if missing := [tool for tool in ("nginx", "wrk", "taskset") if not shutil.which(tool)]:
        raise SystemExit(f"{', '.join(missing)}: not found; on Debian: apt-get install nginx-light wrk util-linux")


def names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """An argument's type: names out of those known, with commas between."""

    def parse(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
        return chosen

    return parse


def positive(text: str) -> int:
    """An argument's type: 1, 2, 3, …"""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a whole number of 1 or more")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just bench", description="Compare this proxy with two others of its kind.")
    parser.add_argument("--runs", type=positive, help="measurements of everything, of which the median counts (3)")
    parser.add_argument("--seconds", type=positive, help="length of one measurement (4)")
    parser.add_argument("--quick", action="store_true", help="one run of 1 second")
    parser.add_argument("--sizes", type=names(tuple(SIZES)), default=list(SIZES), help=f"of: {', '.join(SIZES)}")
    parser.add_argument(
        "--contenders", type=names(CONTENDERS), default=list(CONTENDERS), help=f"of: {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--write-readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 3)
    options.seconds = options.seconds or (1 if options.quick else 4)
    return options


if __name__ == "__main__":
    main()
