"""The fast lane as its clients share it: whether it is open, and which connections have one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from mitmproxy import ctx

from ..app import App
from ..caching.cache import Cache
from ..downstream.host import Host
from ..downstream.lane import Lane
from . import compat
from .observers import FlowObservers
from .targets import Targets

SWEEPS = 4
"""Looks at idle connections within the time that they may be idle."""

logger = logging.getLogger(__name__)


class Lanes:
    """All connections that have a lane, and what their lanes share."""

    def __init__(self, app: App, observers: FlowObservers) -> None:
        self.app = app
        self.targets = Targets()
        self.layers: dict[str, Any] = {}
        """Our HTTP layers, by the ids of their clients."""
        self.take_connect: Callable[[Any, Lane, Any, bytes], bool | None] = lambda *_: False
        """Takes a connection from a host and its lane at the CONNECT to a host that is intercepted."""
        self._observers = observers
        self._why_closed: str | None = "not asked yet"
        self._open: dict[Host, Lane] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def configure(self) -> None:
        """An option has changed."""
        self.targets.forget()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self.sweep()

    def cache(self) -> Cache | None:
        """The cache, while plain GETs may be answered without a flow. Says in the log when that changes, and why."""
        app = self.app
        if app.settings is None or app.cache is None or app.is_draining:
            return None
        why = self._observers.found() if app.settings.fast_lane else "option fast_lane is false"
        if why != self._why_closed:
            self._why_closed = why
            logger.info("proxy-cache: fast lane %s", "on" if why is None else f"off: {why}")
        return app.cache if why is None else None

    # -- as they come and go ------------------------------------------------------------------------------------

    def opened(self, host: Host, lane: Lane) -> None:
        self._open[host] = lane

    def lost(self, host: Host) -> None:
        self._open.pop(host, None)
        self.app.collector.connection_closed()

    def close_refused(self, serves: Callable[[str], bool]) -> None:
        """End the connections of clients that are not served any more."""
        for host, lane in list(self._open.items()):
            if not serves(host.address):
                lane.close()

    def users_changed(self) -> None:
        """Who clients are is asked for otherwise than before, or no longer."""
        self.targets.forget()
        for host, lane in list(self._open.items()):
            if not host.lane_users_changed(is_idle=lane.idle_since is not None):
                lane.close()

    def sweep(self) -> None:
        """Close connections that have been idle for longer than mitmproxy allows (its option ``tcp_timeout``)."""
        patience = float(
            getattr(ctx.options, "tcp_timeout", 0) or compat.find("mitmproxy.proxy.server:TCP_TIMEOUT") or 600
        )
        before = time.monotonic() - patience
        for lane in list(self._open.values()):
            if (since := lane.idle_since) is not None and since < before:
                lane.give_up()
        self._sweeper = asyncio.get_running_loop().call_later(patience / SWEEPS, self.sweep)

    async def close(self, deadline: float) -> None:
        """End those that mitmproxy does not know, and wait until they are gone, to the deadline (monotonic clock) at
        the most."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        ours = [lane for lane in self._open.values() if not lane.is_attached]
        for lane in reversed(ours):  # one in TLS before the one that had the connection before it
            lane.close()
        while not all(lane.lost for lane in ours) and time.monotonic() < deadline:  # noqa: ASYNC110 - at the end, once
            await asyncio.sleep(0.01)
