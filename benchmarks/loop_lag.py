"""How late a mitmdump's event loop is: a further script, ``mitmdump -s addons/cache.py -s benchmarks/loop_lag.py``.

A task sleeps 5 ms over and over and takes note of how much later it is woken. What holds up the loop (a long
computation, a blocking call) holds up every client, and shows here. A delay of up to 1 ms is asyncio's own rounding.

``LOOP_LAG_FILE`` in the environment names the file for the result, written every second and at the end: JSON with the
number of delays and their p50, p99, p99.9 and maximum in milliseconds.

``LOOP_LAG_WHILE`` names a file; delays only count while it exists. Without it all do. A proxy that shares its core with
others is late when these are busy, which says nothing about its own loop.

There must be no flow hook in here: with one, every request would have to become a mitmproxy flow for us to see.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import Counter
from pathlib import Path

PAUSE = 0.005
"""Seconds of each sleep."""
WHILE = os.environ.get("LOOP_LAG_WHILE")
GROWTH = math.log(1.02)
"""Delays are counted in buckets of 2 %: sorting all of them every second would itself hold up the loop."""


class LoopLag:
    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.longest = 0.0
        self.task: asyncio.Task[None] | None = None

    def running(self) -> None:
        self.task = asyncio.create_task(self.probe())

    def done(self) -> None:
        if self.task:
            self.task.cancel()
        self.write()

    async def probe(self) -> None:
        written = time.monotonic()
        while True:
            counts = not WHILE or os.path.exists(WHILE)  # noqa: ASYNC240 - in some microseconds
            asleep = time.perf_counter()
            await asyncio.sleep(PAUSE)
            if counts:
                self.record(time.perf_counter() - asleep - PAUSE)
            if time.monotonic() - written >= 1:
                self.write()
                written = time.monotonic()

    def record(self, delay: float) -> None:
        self.longest = max(self.longest, delay)
        self.buckets[math.ceil(math.log(max(delay, 1e-6)) / GROWTH)] += 1

    def percentile(self, share: float) -> float:
        """Seconds that this share of the delays stayed below, to 2 %."""
        left = share * self.buckets.total()
        for bucket, count in sorted(self.buckets.items()):
            left -= count
            if left <= 0:
                return min(math.exp(bucket * GROWTH), self.longest)
        return self.longest

    def write(self) -> None:
        if name := os.environ.get("LOOP_LAG_FILE"):
            result = {
                "count": self.buckets.total(),
                "p50": self.percentile(0.5) * 1000,
                "p99": self.percentile(0.99) * 1000,
                "p99.9": self.percentile(0.999) * 1000,
                "max": self.longest * 1000,
            }
            # A reader never finds half of it.
            unfinished = Path(name + ".tmp")
            unfinished.write_text(json.dumps(result))
            unfinished.replace(name)


addons = [LoopLag()]
