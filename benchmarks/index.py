"""The index with many entries: how long it takes to open, what it costs in memory, what a lookup and an eviction cost.

    python -m benchmarks.index [--entries 1000000] [--folder DIR]

Makes a cache folder with that many entries (no bodies: a folder that was closed cleanly is not searched for them),
and opens it in a fresh process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store.entry import Entry
from proxy_cache.store.rows import INSERT_ENTRY, INSERT_HEAD, META, connect, entry_row, head_row, upgrade
from proxy_cache.store.segments import location_of
from proxy_cache.store.store import Quota, Store

LENGTH = 10_000
"""Bytes of every body."""
A_SEGMENT = 5_461
"""Such bodies, of three blocks each, in a segment."""
EVICTED = 10_000


def key_of(number: int) -> str:
    return f"http://packages.example.org/pool/main/{number % 997:x}/package-{number}_1.2.3-4_amd64.deb"


def entry_of(number: int, now: float) -> Entry:
    """Like what an origin of files sends."""
    fields = (
        (b"Server", b"nginx/1.22.1"),
        (b"Date", b"Mon, 06 Jan 2025 10:00:00 GMT"),
        (b"Content-Type", b"application/octet-stream"),
        (b"Content-Length", str(LENGTH).encode()),
        (b"Last-Modified", b"Sun, 05 Jan 2025 10:00:00 GMT"),
        (b"ETag", b'"%x-%x"' % (number, LENGTH)),
        (b"Cache-Control", b"public, max-age=31536000"),
        (b"Accept-Ranges", b"bytes"),
    )
    response = StoredResponse(200, Headers(fields), now - 1, now, initial_age=0)
    return Entry(number, key_of(number), response, LENGTH, now)


def build(folder: Path, entries: int) -> None:
    """With uses in random order, as they are after a while."""
    folder.mkdir(parents=True, exist_ok=True)
    database = connect(folder / "index.sqlite")
    upgrade(database)
    now = time.time()
    chance = random.Random(1)
    for first in range(1, entries + 1, 10_000):
        heads, rows = [], []
        entry = entry_of(1, now)
        for number in range(first, min(first + 10_000, entries + 1)):
            entry.id, entry.key, entry.used = number, key_of(number), now - chance.random() * 1e6
            entry.location = location_of(1 + number // A_SEGMENT, number % A_SEGMENT * 3, 3)
            rows.append(entry_row(entry))
            heads.append(head_row(entry))
        database.execute("BEGIN")
        database.executemany(INSERT_ENTRY, rows)
        database.executemany(INSERT_HEAD, heads)
        database.execute("COMMIT")
    database.execute(META, ("clean", "1"))
    database.close()


def memory() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def each(function: Callable[[str], object], keys: list[str]) -> float:
    """Microseconds a call."""
    start = time.perf_counter()
    for key in keys:
        function(key)
    return (time.perf_counter() - start) / len(keys) * 1e6


async def longest_block(during: Callable[[], bool], evicted: list[int], wanted: int) -> float:
    """Milliseconds that the loop was away at a time, from the call of ``during`` to the last eviction."""
    longest = 0.0
    before = time.perf_counter()
    assert during()
    while sum(evicted) < wanted:
        await asyncio.sleep(0.005)
        now = time.perf_counter()
        longest = max(longest, now - before - 0.005)
        before = now
    return longest * 1e3


async def measure(folder: Path, entries: int) -> dict[str, float]:
    """In a process of its own."""
    evicted: list[int] = []
    footprint = entry_of(1, 0.0).size
    before = memory()
    store = Store(folder, Quota(entries * footprint, 0), on_eviction=evicted.append)
    store.verifier.rate = 0  # it would drop what has no body
    start = time.perf_counter()
    await store.open()
    figures = {"open s": time.perf_counter() - start}
    figures["RSS bytes an entry"] = (memory() - before) / entries
    assert len(store.index) == entries, len(store.index)
    chance = random.Random(2)
    keys = [key_of(number) for number in chance.sample(range(1, entries + 1), min(entries, 2000))]
    unloaded = []
    for key in keys:
        start = time.perf_counter()
        await store.load(key)
        unloaded.append(time.perf_counter() - start)
    assert all(store.lookup(key)[0].length == LENGTH for key in keys)
    figures["load us, median"] = statistics.median(unloaded) * 1e6
    figures["load us, 99 %"] = statistics.quantiles(unloaded, n=100)[-1] * 1e6
    figures["lookup us, loaded"] = each(store.lookup, keys)
    figures["is_loaded us, absent"] = each(store.is_loaded, [f"{key}?" for key in keys])
    touched = [store.lookup(key)[0] for key in keys]
    start = time.perf_counter()
    for entry in touched:
        store.touch(entry)
    figures["touch us"] = (time.perf_counter() - start) / len(touched) * 1e6
    if entries > 2 * EVICTED:
        reserve = lambda: store.evictor.reserve(EVICTED * footprint)  # noqa: E731
        start = time.perf_counter()
        figures["loop block ms, longest"] = await longest_block(reserve, evicted, EVICTED)
        figures["eviction s"] = time.perf_counter() - start
        assert sum(evicted) == EVICTED, evicted
        store.evictor.unreserve(EVICTED * footprint)
    await store.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to put the cache (default: a temporary one)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(asyncio.run(measure(options.measure, options.entries))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for entries in (1000, options.entries):
            cache = Path(folder) / str(entries)
            start = time.perf_counter()
            build(cache, entries)
            size = (cache / "index.sqlite").stat().st_size
            print(f"{entries} entries (made in {time.perf_counter() - start:.1f} s, {size / entries:.0f} bytes each)")
            command = [sys.executable, "-m", "benchmarks.index", "--measure", str(cache), "--entries", str(entries)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for name, figure in json.loads(output).items():
                print(f"  {name:24} {figure:10.2f}")


if __name__ == "__main__":
    main()
