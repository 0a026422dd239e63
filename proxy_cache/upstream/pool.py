"""Open connections to origins, and the idle ones among them."""

from __future__ import annotations

import asyncio
import time

from .connection import OriginConnection

KEPT_FOR = 15.0
"""Seconds for which an idle connection stays open."""


class Pool:
    """Shared by all fills."""

    def __init__(self) -> None:
        self.generation = 0
        """Connections of an earlier generation were opened with other settings, and are not reused."""
        self.is_closed = False
        self._idle: dict[tuple[str, str], list[OriginConnection]] = {}
        """By scheme and authority, the most recently used last."""
        self._open: set[OriginConnection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> int:
        return sum(map(len, self._idle.values()))

    def reuse_idle(self, scheme: str, authority: str) -> OriginConnection | None:
        """The most recently used idle connection, which is most likely still open; ``None`` if there is none."""
        idle = self._idle.get((scheme, authority))
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.generation == self.generation:
                return connection
            connection.close()
        return None

    def add(self, connection: OriginConnection) -> None:
        """Add a new connection, in use."""
        self._open.add(connection)

    def put_back(self, connection: OriginConnection) -> None:
        """A connection became idle."""
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(KEPT_FOR, self._sweep)

    def remove(self, connection: OriginConnection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        """Close all connections, idle or not."""
        self.is_closed = True
        for connection in list(self._open):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _sweep(self) -> None:
        """Close connections that were idle for long."""
        self._sweeper = None
        before = time.monotonic() - KEPT_FOR
        for origin, idle in list(self._idle.items()):
            for connection in [one for one in idle if one.idle_since <= before]:
                connection.close()
            if not self._idle[origin]:
                del self._idle[origin]
        if self._idle:
            self._sweeper = asyncio.get_running_loop().call_later(KEPT_FOR / 2, self._sweep)
