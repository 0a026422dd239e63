"""What ``/api/v1/status`` has at hand: everything that ``/status`` has, and more for people to look at."""

from __future__ import annotations

import heapq
import importlib.metadata
import platform
import time
from collections import Counter
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

from .. import __version__
from ..caching.fills.fill import Fill
from ..caching.fills.request import FillState
from ..caching.limiter import OriginLimiter
from .proxy import Proxy
from .totals import totals

VERSIONS: Final = {
    "version": __version__, "python": platform.python_version(), "mitmproxy": importlib.metadata.version("mitmproxy"),
}  # fmt: skip

FILLS_MAX: Final = 100
"""Fills that are listed, the oldest ones; ``fills_running`` counts all of them."""


def status(proxy: Proxy) -> dict[str, Any]:
    """A moment of the proxy, as JSON."""
    found = {
        **VERSIONS,
        "started_at": datetime.fromtimestamp(proxy.started_at, UTC).isoformat(timespec="seconds"),
        "uptime_seconds": round(max(time.time() - proxy.started_at, 0), 3),
        **proxy.status(),
        "totals": totals(proxy.metrics),
    }
    if proxy.fills is not None and proxy.store is not None:
        fills, store = proxy.fills.fills(), proxy.store
        found["fills"] = [shown(fill) for fill in heapq.nsmallest(FILLS_MAX, fills, key=attrgetter("started"))]
        found["fills_running"] = len(fills)
        found["limiter"] = limiter(proxy.limiter, fills)
        found["store"] = {**found["store"], "disk_free_bytes": store.evictor.disk_free}
    return found


def limiter(limiter: OriginLimiter, fills: list[Fill]) -> dict[str, Any]:
    """With the slots and the queue of each client."""
    snapshot = limiter.snapshot()
    queued = snapshot["queued_per_client"]
    in_flight = Counter(fill.request.client for fill in fills if fill.slot.is_held)
    clients = [
        {"client": client, "queued": queued.get(client, 0), "in_flight": in_flight[client]}
        for client in dict.fromkeys((*queued, *in_flight))
    ]
    return {**snapshot, "clients": clients}


def shown(fill: Fill) -> dict[str, Any]:
    """One fill. ``client``: who has asked first; ``seconds`` since then."""
    body = fill.body
    state = fill.state.value
    if fill.state is FillState.RUNNING and fill.head is None:
        state = "connecting"
    return {
        "url": fill.request.target.shown,
        "client": fill.request.client,
        "waiters": len(fill.waiters),
        "bytes": fill.arrived,
        "total": body.total if body is not None else None,
        "state": state,
        "seconds": round(time.monotonic() - fill.started, 3),
        "source": "peer" if fill.asks_peer else "origin" if fill.slot.asked is not None else None,
    }
