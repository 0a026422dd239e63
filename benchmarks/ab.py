"""This checkout against another commit, in alternating runs: what a change costs a hit, a range hit and a miss.

    just bench-ab main                      about five minutes
    just bench-ab ../before --seconds 1     another checkout, and rougher
    just bench-ab main --set access_log_format=json    what an option costs, that only this checkout is started with

Both proxies run on the same core, one is asked at a time, nginx and wrk have another core. Each ratio is of two
neighbouring runs (new/old: requests a second, more is better; CPU time, less is better), and the medians are told.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import load
from processes import BIG, ROOT, SIZES, Mitmdump, Origin, wait_until_idle
from run import check_tools, names, positive

KINDS: dict[str, tuple[str, ...]] = {
    "hit": ("1 kB", "10 kB", "100 kB"), "range hit": ("1 kB", "10 kB", "100 kB"), "miss": ("10 kB", "1 MB"),
}  # fmt: skip
"""What is measured, and of which sizes unless told otherwise."""


def main() -> None:
    options = parse_arguments()
    check_tools()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = sorted(os.sched_getaffinity(0))
    proxy_core, other_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    print(f"{options.runs} pairs of runs of {options.seconds} s: this checkout (new) and {options.before} (old)")
    with tempfile.TemporaryDirectory(prefix="proxy-cache-bench-") as temporary:
        folder = Path(temporary)
        with checkout(options.before, folder / "before") as before, Origin(folder / "origin", other_core) as origin:
            origin.wait_until_listening()
            for name in options.sizes or sorted(
                {size for kind in options.kinds for size in KINDS[kind]}, key=SIZES.__getitem__
            ):
                kinds = [kind for kind in options.kinds if options.sizes or name in KINDS[kind]]
                compare(name, kinds, before, origin, folder, proxy_core, other_core, options)


@contextlib.contextmanager
def checkout(before: str, folder: Path) -> Iterator[Path]:
    """The folder of what is compared with: as it is, or a worktree of that commit for the time of the run."""
    if Path(before, "addons", "cache.py").is_file():
        yield Path(before).resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    made = subprocess.run([*git, "add", "--detach", str(folder), before], check=False, capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"bench-ab: {before} is neither a checkout nor a commit: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=False)


def compare(
    name: str,
    kinds: list[str],
    before: Path,
    origin: Origin,
    folder: Path,
    proxy_core: int | None,
    other_core: int | None,
    options: argparse.Namespace,
) -> None:
    """The rows of one size."""
    size = SIZES[name]
    url, big = origin.url(size), origin.url(BIG) + "/ranges"
    span = f"{BIG // 2}-{BIG // 2 + size - 1}"
    with contextlib.ExitStack() as stack:
        pair = {}
        for which, root in (("old", before), ("new", ROOT)):
            script, cache = root / "addons" / "cache.py", folder / f"cache-{which}-{size}"
            arguments = ["-s", str(script), "--set", f"cache_dir={cache}", "--set", "metrics_listen=127.0.0.1:0"]
            for option in options.set if which == "new" else ():
                arguments += ["--set", option]
            pair[which] = stack.enter_context(Mitmdump(which, arguments, folder / f"conf-{which}", proxy_core))
        for proxy in pair.values():
            proxy.wait_until_listening()
            proxy.check(url, origin.body(size))
            load.run(proxy.port, url, 1, other_core, f"warm-up-{proxy.name}")
            load.run(proxy.port, big, 1, other_core, span=span)
        for kind in kinds:
            rates, costs = [], []
            for run in range(options.runs):
                rate, cost = {}, {}
                for which in ("old", "new") if run % 2 else ("new", "old"):
                    proxy = pair[which]
                    wait_until_idle(list(pair.values()))
                    ticks = proxy.cpu_ticks()
                    if kind == "range hit":
                        result = load.run(proxy.port, big, options.seconds, other_core, span=span)
                    else:
                        distinct = f"{which}-{run}" if kind == "miss" else None
                        result = load.run(proxy.port, url, options.seconds, other_core, distinct)
                    if result.errors:
                        print(f"not clean: {kind}, {name}, {which}: {result.errors} errors of {result.requests}")
                    rate[which] = result.rate
                    cost[which] = (proxy.cpu_ticks() - ticks) * 10_000 / max(1, result.requests)
                rates.append((rate["new"] / rate["old"], rate["new"], rate["old"]))
                costs.append((cost["new"] / cost["old"], cost["new"], cost["old"]))
            ratio, new, old = (statistics.median(column) for column in zip(*rates, strict=True))
            cpu, new_cost, old_cost = (statistics.median(column) for column in zip(*costs, strict=True))
            print(
                f"{kind + ', ' + name:<20} {ratio:.3f} ({new:.0f} to {old:.0f} requests/s)"
                f"   CPU {cpu:.3f} ({new_cost:.1f} to {old_cost:.1f} µs each)",
                flush=True,
            )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just bench-ab", description="Compare this checkout with another one.")
    parser.add_argument("before", help="a commit, or the folder of another checkout")
    parser.add_argument("--runs", type=positive, default=7, help="pairs of measurements: the median counts (7)")
    parser.add_argument("--seconds", type=positive, default=2, help="length of one measurement (2)")
    parser.add_argument("--sizes", type=names(tuple(SIZES)), help=f"of {', '.join(SIZES)} (those that suit the kind)")
    parser.add_argument("--kinds", type=names(tuple(KINDS)), default=list(KINDS), help=f"of: {', '.join(KINDS)}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option that this checkout alone has"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
