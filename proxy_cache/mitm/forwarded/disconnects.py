"""What an origin had said before its connection broke.

An origin that refuses an upload answers (401, 413, 417, …) and closes, and what is still on its way to it is answered
by a reset. asyncio gives up a connection as soon as a write fails, with the response in it that has come and that
nobody has read yet; mitmproxy does the same a second time. RFC 9112 §9.5: "A client sending a message body SHOULD
monitor the network connection for an error status code while it is transmitting the message".
"""

from __future__ import annotations

import asyncio
import os
import select
from typing import Any, Final

from mitmproxy.connection import Connection

from ..compat import HEARING, io_of

READ_MAX: Final = 256 * 1024
"""Bytes that are read of what came before the connection broke."""


class HeardOut:
    """What mitmproxy writes to a connection with. That writing has failed is told by the end of what can be read, and
    not before that has been read."""

    def __init__(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self._writer, self._reader = writer, reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    async def drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError:
            if self._reader.at_eof():
                raise
            # mitmproxy would cancel whoever reads


class HeardReader(asyncio.StreamReader):
    """What mitmproxy reads a connection from. Whatever ends it, all that has come is read first."""

    was_reset = False

    def set_exception(self, error: BaseException) -> None:
        """asyncio has lost the connection, and would forget what has come. The socket is still open."""
        self.was_reset = True
        transport: Any = getattr(self, "_transport", None)
        shared = transport.get_extra_info("socket") if transport is not None else None
        left = READ_MAX
        try:
            while shared is not None and left > 0 and (data := os.read(shared.fileno(), left)):
                self.feed_data(data)
                left -= len(data)
        except OSError:
            pass
        self.feed_eof()


def hear_out(client: Connection, connection: Connection) -> None:
    """Have all that came over a connection read, however it ends. For one that has just been opened."""
    io = io_of(client, connection) if HEARING.is_on else None
    if io is not None and type(io.reader) is asyncio.StreamReader and isinstance(io.writer, asyncio.StreamWriter):
        io.reader.__class__ = HeardReader  # asyncio's protocol has it already
        io.writer = HeardOut(io.writer, io.reader)


def was_reset(client: Connection, connection: Connection) -> bool:
    """Whether a connection ended with an error, and not in good order."""
    return HEARING.is_on and bool(getattr(getattr(io_of(client, connection), "reader", None), "was_reset", False))


def has_ended(client: Connection, connection: Connection) -> bool:
    """Whether an idle connection is known to have ended, though mitmproxy has not heard of it yet. (What it sends while
    nobody has asked ends it as well.)"""
    io = io_of(client, connection) if HEARING.is_on else None
    if io is None or io.writer is None:
        return False
    if io.writer.is_closing():
        return True
    shared = io.writer.get_extra_info("socket")
    descriptor = shared.fileno() if shared is not None else -1
    return descriptor >= 0 and _is_readable(descriptor)


def _is_readable(descriptor: int) -> bool:
    looking = select.poll()
    looking.register(descriptor, select.POLLIN)
    return bool(looking.poll(0))
