"""How long mitmproxy's own connections wait for an origin. Left to themselves they do for as long as the client stays.

As for fills: ``origin_timeout`` seconds to connect, with TLS and a parent proxy's tunnel, and as many without a byte of
a response (RFC 9110 §15.6.5). When they are over the task that reads the connection is cancelled, of which mitmproxy's
layers hear as they do of any end of a connection; why it ended is told here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from mitmproxy.connection import Client, Connection

from ...upstream.dial import NAMES_FIRST
from ..compat import TIMERS, io_of


class ConnectTimer:
    """Runs while a connection is opened, until it is ready for a request."""

    error: str | None = None
    """Why that was given up, with its proxy error type (RFC 9209 §2.3)."""

    def __init__(self, client: Client, connection: Connection, seconds: float) -> None:
        """``connection``: the one that is dialled. Looking up its name ends after ``seconds`` by itself."""
        self._client, self._connection, self._seconds = client, connection, seconds
        self._began = time.time()  # as mitmproxy notes it
        self._limit = seconds + NAMES_FIRST
        self._timer = asyncio.get_running_loop().call_later(self._limit, self._look)

    def _look(self) -> None:
        io = io_of(self._client, self._connection) if TIMERS.is_on else None
        if io is None or io.handler is None:
            return
        left = self._limit
        started = self._connection.timestamp_start
        is_in_hook = io.writer is not None and type(io.reader) is asyncio.StreamReader  # see hear_out()
        if started is not None and started >= self._began and not is_in_hook:
            left = min(left, started + self._limit - time.time())
        # Before and after dialling mitmproxy's task calls hooks, and waits while there are five connections to this
        # address: if it were cancelled there nobody would hear of it.
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)
            return
        self.error = f"connection_timeout: no connection within {self._seconds:g} s"
        io.handler.cancel(self.error)

    def end(self) -> str | None:
        """The attempt is over. Why it was ended here, if it was."""
        self._timer.cancel()
        return self.error


class SilenceTimer:
    """Runs while a response is waited for, or comes, over a connection of HTTP/1."""

    error: str | None = None
    """Why the connection was ended."""

    def __init__(self, client: Client, connection: Connection, seconds: Callable[[], float]) -> None:
        self._client, self._connection, self._seconds = client, connection, seconds
        self._limit = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.heard = 0.0
        """When a byte has come, on the monotonic clock."""

    def begin(self) -> None:
        """The request has been sent."""
        self.end()
        self._limit, self.heard = self._seconds(), time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(self._limit, self._look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        io = io_of(self._client, self._connection) if TIMERS.is_on else None
        if io is None or io.handler is None or io.writer is None:
            return
        now = time.monotonic()
        if _has_unread(io) or io.writer.transport.get_write_buffer_size():
            self.heard = now  # the client doesn't read, or the origin has not yet been sent all
        left = self.heard + self._limit - now
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)
            return
        self.error = f"nothing came for {self._limit:g} s"
        io.handler.cancel(self.error)


def _has_unread(io: Any) -> bool:
    return bool(getattr(io.reader, "_buffer", b""))
