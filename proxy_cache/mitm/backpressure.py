"""How many bytes of a client may wait: behind a request that is being answered, or for a connection to be opened.

mitmproxy reads on and queues. (Where it writes it waits: it reads nothing more for a client while a connection that
belongs to it has more unsent than asyncio's mark, 64 kB.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from mitmproxy.connection import Connection

from ..runtime.loop import when_hung_up
from .compat import BACKPRESSURE, io_of

MAX_HELD: Final = 256 * 1024
"""Bytes of a client's that wait in mitmproxy before no more is read. asyncio and the kernel hold a little more."""


class GatedReader:
    """A reader of mitmproxy's with a gate in front. Behind a closed gate the end of the connection is noticed all the
    same."""

    def __init__(
        self, reader: asyncio.StreamReader, connection: Any, transport: Any, half_closed: Callable[[], bool]
    ) -> None:
        """``connection``: its socket. ``half_closed``: whether a client that has closed its side of the connection is
        to have its answers."""
        self.reader = reader
        self._connection = connection
        self._transport = transport
        self._half_closed = half_closed
        self._opened: asyncio.Future[None] | None = None
        self._has_left = False
        self._end_watch: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    async def read(self, size: int = -1) -> bytes:
        while self._opened is not None:
            try:
                await self._opened
            finally:
                self._end_watch()
        return b"" if self._has_left else await self.reader.read(size)

    def close_gate(self) -> None:
        if self._opened is None and not self._has_left:
            loop = asyncio.get_running_loop()
            self._opened = loop.create_future()
            if self._connection is not None and self._connection.fileno() >= 0:
                self._end_watch = when_hung_up(loop, self._connection, self._hung_up, reset=self._half_closed())

    def _hung_up(self) -> None:
        """The client has left, or has said that it sends no more. Nobody waits for an answer to requests that
        it has sent ahead; mitmproxy is told of the end now, and not when it has read all of them."""
        if self._opened is not None:
            self._has_left = True
            self.open_gate()

    def is_half_closed(self, when_gone: Callable[[], None]) -> bool:
        """Whether a connection that has sent a FIN has ended in one direction only; ``when_gone`` is called
        if that changes before our end is closed."""
        if not self._half_closed() or self._has_left or self._transport.is_closing() or self._connection.fileno() < 0:
            return False
        self._end_watch()
        self._end_watch = when_hung_up(asyncio.get_running_loop(), self._connection, when_gone, reset=True)
        return True

    def end_watch(self) -> None:
        self._end_watch()

    def open_gate(self) -> None:
        self._end_watch()
        opened, self._opened = self._opened, None
        if opened is not None and not opened.done():
            opened.set_result(None)


def with_gate(io: Any, half_closed: Callable[[], bool]) -> None:
    """``io``: mitmproxy's reader and writer of a connection that it has not started to read."""
    if BACKPRESSURE.is_on and isinstance(io.reader, asyncio.StreamReader):
        transport = io.writer.transport
        io.reader = GatedReader(io.reader, transport.get_extra_info("socket"), transport, half_closed)


def gate_of(client: Connection) -> GatedReader | None:
    io = io_of(client, client) if BACKPRESSURE.is_on else None
    return io.reader if io is not None and isinstance(io.reader, GatedReader) else None
