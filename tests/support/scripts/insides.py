"""A mitmproxy script for tests: what there is in the process, beyond what the product tells about itself.

Listens on loopback, tells its port in the log, and answers each line with JSON: ``counts`` (asyncio tasks, objects
that the collector knows, what it has done), ``collect`` (the same after a full collection), ``types`` (how many objects
of which type there are), ``trace`` (begins to trace allocations, and tells the largest from the second time on).
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import tracemalloc
from collections import Counter
from typing import Any


class Insides:
    def __init__(self) -> None:
        self.server: asyncio.Server | None = None

    async def running(self) -> None:
        if self.server is None:
            self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
            logging.info("test insides on port %d", self.server.sockets[0].getsockname()[1])

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            writer.write(json.dumps(self.tell(line)).encode() + b"\n")
        writer.close()

    def tell(self, line: str) -> Any:
        if line == "collect":
            gc.collect()
        if line == "types":
            return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects()).most_common(
                40
            )
        if line == "trace":
            if not tracemalloc.is_tracing():
                tracemalloc.start(12)
                return []
            snapshot = tracemalloc.take_snapshot()
            return [str(one) for one in snapshot.statistics("lineno")[:40]]
        return {
            "tasks": len(asyncio.all_tasks()) - 1,  # without the one that asks
            "objects": [len(gc.get_objects(generation)) for generation in range(3)],
            "count": gc.get_count(),
            "collections": [one["collections"] for one in gc.get_stats()],
            "garbage": len(gc.garbage),
        }

    def done(self) -> None:
        if self.server is not None:
            self.server.close()


addons = [Insides()]
