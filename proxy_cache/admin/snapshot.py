"""``/api/v1/status``: the status with what takes longer to find out, which URLs and hosts are asked for most.

That is counted over the entries in memory, the ones that were used last, in slices between which the loop goes on, and
only when somebody asks.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from operator import itemgetter
from typing import Any, Final

from aiohttp import web

from ..semantics.redaction import redacted
from ..store.index import Entry, Index
from .endpoint import Endpoint, json_response
from .proxy import Proxy
from .status import status
from .status_schema import STATUS

TOP: Final = 10
"""URLs and hosts that are told."""
TOP_INTERVAL: Final = 2.0
"""Seconds for which a count is good."""
SLICE: Final = 500
"""Entries that are counted in one turn of the loop: about half a millisecond."""


class Snapshots:
    """Reads the status, for whoever asks by whatever way."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._top: dict[str, Any] = {"keys": [], "hosts": []}
        self._counted_at: float | None = None
        self._counting = asyncio.Lock()

    def endpoint(self) -> Endpoint:
        async def handle(request: web.Request) -> web.Response:
            return json_response(await self.read())

        return Endpoint(
            "GET",
            "/status",
            handle,
            "What the proxy is doing now, and what it has done since its start.",
            answer=STATUS,
        )

    async def read(self) -> dict[str, Any]:
        """A moment of the proxy, as JSON."""
        store = self._proxy.store
        if store is not None:
            async with self._counting:
                now = time.monotonic()
                if self._counted_at is None or now - self._counted_at >= TOP_INTERVAL:
                    self._top, self._counted_at = await top(store.index), now
        return {**status(self._proxy), "top": self._top}


async def top(index: Index) -> dict[str, Any]:
    """The entries with the most uses, and the hosts with the sums of theirs. ``bytes``: of the bodies, as far as they
    are stored."""
    entries = index.in_memory()
    keys: list[tuple[int, Entry]] = []
    hosts: dict[str, list[int]] = {}
    for start in range(0, len(entries), SLICE):
        counted = [(index.hits(entry), entry) for entry in entries[start : start + SLICE]]
        keys = heapq.nlargest(TOP, (*keys, *counted), key=itemgetter(0))
        for hits, entry in counted:
            sums = hosts.setdefault(host_of(entry.key), [0, 0])
            sums[0] += hits
            sums[1] += entry.present
        await asyncio.sleep(0)
    most = heapq.nlargest(TOP, hosts.items(), key=itemgetter(1))
    return {
        "keys": [{"url": redacted(one.key), "hits": hits, "bytes": one.present} for hits, one in keys if hits],
        "hosts": [{"host": redacted(host), "hits": hits, "bytes": size} for host, (hits, size) in most if hits],
    }


def host_of(key: str) -> str:
    """Host and port of a key, which is a URL."""
    return key.split("/", 3)[2]
