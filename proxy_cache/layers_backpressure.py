"""How much of what a client sends may wait: behind a request that is being answered, or for a connection to be opened.

mitmproxy reads on and queues. (Where it writes it waits: it reads nothing more for a client while a connection that
belongs to it has more unsent than asyncio's mark, 64 kB.)
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from mitmproxy import ctx
from mitmproxy.connection import Connection

HELD_MOST: Final = 256 * 1024
"""Bytes of a client's that wait in mitmproxy before no more is read. asyncio and the kernel hold a little more."""


class GatedReader:
    """What mitmproxy reads a connection from, with a gate in front."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader
        self._opened: asyncio.Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    async def read(self, most: int = -1) -> bytes:
        while self._opened is not None:
            await self._opened
        return await self.reader.read(most)

    def close_gate(self) -> None:
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()

    def open_gate(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and not opened.done():
            opened.set_result(None)


def with_gate(io: Any) -> None:
    """``io``: mitmproxy's reader and writer of a connection that it has not begun to read."""
    if isinstance(io.reader, asyncio.StreamReader):
        io.reader = GatedReader(io.reader)


def gate_of(client: Connection) -> GatedReader | None:
    handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
    io = handler.transports.get(client) if handler is not None else None
    return io.reader if io is not None and isinstance(io.reader, GatedReader) else None
