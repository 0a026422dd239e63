"""Two workers beside one: hits and misses of a size a second, and what CPU they take.

    just bench-workers                      about three minutes
    just bench-workers --runs 1 --seconds 2

Both run from the beginning to the end, and are measured by turns: the one that is idle takes nothing. A ratio is one
of neighbouring runs, and the median is told. One worker has the first core; N have the first N; the client (wrk, one
thread) and the origin (nginx) have the last one, which on a machine with as many cores as workers is a worker's, too.
So the rate is told, and what does not depend on that: requests for each second of CPU that all processes of the proxy,
the parent among them, have taken. Where every worker has a core of its own and the client is fast enough, the rate is
what that allows.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import load
from processes import ROOT, SIZES, Origin, Server, free_port, to_loopback, wait_until_idle
from report import Conditions
from run import check_tools, positive

HZ = os.sysconf("SC_CLK_TCK")
HITS = 64
"""URLs that are asked for by turns, so that every worker has some that are at home elsewhere."""


class Workers(Server):
    """The proxy with so many workers, on so many cores."""

    def __init__(self, count: int, folder: Path, cores: list[int]) -> None:
        port = free_port()
        self.count = count
        command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "proxy_cache.cli", "run"]
        command += ["--workers", str(count), "--listen-host", "127.0.0.1", "--listen-port", str(port)]
        for option in (
            f"confdir={folder / 'conf'}", f"cache_dir={folder / f'cache-{count}'}", "metrics_listen=127.0.0.1:0",
            "cache_max_size=4g",
        ):  # fmt: skip
            command += ["--set", option]
        command += to_loopback(ROOT / "addons" / "cache.py")
        super().__init__(f"{count} workers", command, port, {"PYTHONPATH": str(ROOT)})

    def cpu_ticks(self) -> int:
        """Of all its processes."""
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return sum(map(_ticks, [str(parent), *children]))

    def wait_until_ready(self) -> None:
        self.wait_until_listening()
        wait_until_idle([self], 20)


def _ticks(pid: str) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    rate: float
    cpu: float
    """Seconds of CPU for a second."""
    errors: int

    @property
    def for_cpu(self) -> float:
        """Requests for a second of CPU."""
        return self.rate / self.cpu if self.cpu else 0.0


class Bench:
    """All that runs."""

    def __init__(self, options: argparse.Namespace, origin: Origin, folder: Path, contenders: list[Workers]) -> None:
        self.options, self.origin, self.folder, self.contenders = options, origin, folder, contenders
        self._serial = itertools.count()

    def measure(self, proxy: Workers, size: str, kind: str, seconds: int) -> Measured:
        url = self.origin.url(SIZES[size])
        core = max(os.sched_getaffinity(0))
        wait_until_idle(self.contenders)
        before = proxy.cpu_ticks()
        if kind == "hit":
            file = self.folder / "hits"
            file.write_text("".join(f"{url}/hit-{number}\n" for number in range(HITS)))
            result = load.run(proxy.port, url, seconds, core, listed=file)
        else:
            result = load.run(proxy.port, url, seconds, core, distinct=f"{proxy.count}-{next(self._serial)}")
        cpu = (proxy.cpu_ticks() - before) / HZ / result.seconds
        return Measured(result.rate, cpu, result.errors)

    def rows(self) -> Iterator[str]:
        yield f"| | size | 1 worker | CPU | {self.contenders[1].count} workers | CPU | rate | for a second of CPU |"
        yield "|---|---|---|---|---|---|---|---|"
        for size, kind in itertools.product(self.options.sizes, ("hit", "miss")):
            for proxy in self.contenders:
                self.measure(proxy, size, kind, 2)  # warm: copies are kept from the second request on
            runs: list[tuple[Measured, Measured]] = []
            for number in range(self.options.runs):
                order = self.contenders[:: 1 if number % 2 == 0 else -1]
                found = {proxy.count: self.measure(proxy, size, kind, self.options.seconds) for proxy in order}
                runs.append((found[1], found[self.contenders[1].count]))
            yield _row(kind, size, runs)


def _row(kind: str, size: str, runs: list[tuple[Measured, Measured]]) -> str:
    cells = [kind, size]
    for side in (0, 1):
        cells.append(f"{statistics.median(pair[side].rate for pair in runs):,.0f}/s")
        cells.append(f"{statistics.median(pair[side].cpu for pair in runs):.2f}")
    cells.append(f"× {statistics.median(pair[1].rate / pair[0].rate for pair in runs):.2f}")
    cells.append(f"× {statistics.median(pair[1].for_cpu / pair[0].for_cpu for pair in runs):.2f}")
    if errors := sum(one.errors for pair in runs for one in pair):
        cells[-1] += f" ({errors} errors)"
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--runs", type=positive, default=5)
    parser.add_argument("--seconds", type=positive, default=4)
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=["10 kB"], help=", ".join(SIZES))
    options = parser.parse_args()
    check_tools()
    cores = sorted(os.sched_getaffinity(0))
    folder = Path(tempfile.mkdtemp(prefix="bench-workers-"))
    try:
        (folder / "conf").mkdir()
        one = Workers(1, folder, cores[:1])
        several = Workers(options.workers, folder, cores[: options.workers])
        with Origin(folder / "origin", cores[-1]) as origin, one, several:
            origin.wait_until_listening()
            one.wait_until_ready()
            several.wait_until_ready()
            conditions = Conditions(
                options.runs, options.seconds, len(cores), f"just bench-workers {' '.join(sys.argv[1:])}"
            )
            print(f"{conditions}\n\nThe client and the origin have core {cores[-1]}.\n")
            for row in Bench(options, origin, folder, [one, several]).rows():
                print(row, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
