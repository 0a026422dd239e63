"""The body of an answer on its way to a client.

To a plain socket a sender writes by itself, as fast as the client takes it: a fill's body chunk by chunk, a stored file
by way of one buffer that all connections share, which is empty again (the kernel has its bytes) before anything else
runs. (Reading into a warm buffer and sending that is faster than sending a memory map, whose pages the kernel has
to map one by one: 3.8 against 2.0 GB/s, measured. And a file that is cut short meanwhile is an error, not a signal.)
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from typing import Any

from ..caching.answers import BodySource, StoredReader
from ..store.body import BodyError, Reader
from .tls import AT_ONCE, TlsTransport

CONGESTED = 64 * 1024
"""Unsent bytes of a client connection at which no more is read for it."""
STALLED = 300.0
"""Seconds after which a client that takes nothing is given up."""
BREATHE = 1024 * 1024
"""Bytes after which a sender lets others run, however fast its client is."""
BUFFER_SIZE = 512 * 1024
"""Bytes of a file that are sent at once."""
SMALL = 16 * 1024
"""Bytes of it that the transport is given to wait with, when a client takes no more."""

_buffer = memoryview(bytearray(BUFFER_SIZE))


class BodySender:
    """The body of one answer on its way to one client."""

    def __init__(self, source: BodySource, length: int | None, *, chunked: bool) -> None:
        self.source = source
        self.length = length
        self.chunked = chunked
        self.direct = False
        """Whether bytes go straight to the socket (plain TCP, HTTP/1)."""
        self.sent = 0
        """Body bytes that were handed to the connection."""
        self.ended = False
        self.is_begun = False
        """Whether the head before it has been sent."""
        self.begun_at = 0.0
        """When that was (monotonic clock)."""
        self.error: Exception | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._chunk: bytes | None = None

    def __call__(self, data: bytes) -> bytes:  # pragma: no cover - mitmproxy never calls it on an addon's response
        raise NotImplementedError("a sender is sent by CacheStream")

    def attach(self, writer: Any, *, direct: bool) -> None:
        """Begin. ``writer``: of the client's socket, if it has one that is asyncio's."""
        if writer is None:
            self.error = ConnectionResetError("client disconnected")
        self.is_begun = writer is not None
        self.begun_at = time.monotonic()
        self._writer = writer if isinstance(writer, asyncio.StreamWriter) else None
        self.direct = direct and self._writer is not None

    def next_now(self) -> bytes | None:
        """The next chunk if it can be had and sent without waiting; ``b""`` at the end; ``None`` to wait first."""
        if self._chunk is not None:
            chunk, self._chunk = self._chunk, None
            return chunk
        if self.ended or self.sent == self.length:
            return b""
        if self._writer is not None:
            transport = self._writer.transport
            if transport.is_closing():  # it would take all of the body, and have nothing to wait for
                self.error = ConnectionResetError("client disconnected")
                return None
            if transport.get_write_buffer_size() > CONGESTED:
                return None
        try:
            data = self.source.read_now()
            return self.checked(data) if data is not None else None
        except (BodyError, OSError) as error:
            self.error = error
            return None

    def checked(self, chunk: bytes) -> bytes:
        """``chunk``, which the source has just given, ``b""`` at its end.

        Raises :class:`BodyError` if the head has told another length: whatever the reason, a client that waits for the
        rest would take the next response for it (RFC 9112 §6.3)."""
        left = len(chunk) if self.length is None else self.length - self.sent
        if len(chunk) > left or (left and not chunk):
            raise BodyError(f"the body is not as long as its head has told, {self.length} bytes")
        return chunk

    async def wait(self) -> None:
        """Until there is a next chunk and room for it; in direct mode, until all has been written. Never raises:
        what goes wrong is left in ``error``."""
        try:
            await self._drain()
            if not self.direct:
                self._chunk = self.checked(await self.source.read())
            else:
                await self._write_all()
        except Exception as error:
            self.error = error

    async def _write_all(self) -> None:
        writer, source = self._writer, self.source
        assert writer is not None
        file = source if isinstance(source, (StoredReader, Reader)) and not self.chunked else None
        if file is not None:
            # Drained then means empty: bytes that were written before go first.
            writer.transport.set_write_buffer_limits(0)
        unbroken = 0
        try:
            while True:
                if await self._drain():
                    unbroken = 0
                elif unbroken >= BREATHE:
                    unbroken = 0
                    await asyncio.sleep(0)
                count = self._write_from(file, writer) if file is not None and self.sent != self.length else 0
                if not count:
                    chunk = source.read_now()
                    if chunk is None:
                        unbroken = 0
                        if isinstance(source, Reader) and source.is_ahead:
                            await source.arrival()
                            continue
                        chunk = await source.read()
                    if not self.checked(chunk):
                        self.ended = True
                        return
                    if self.chunked:
                        writer.write(as_chunk(chunk))
                    else:
                        writer.write(chunk)
                    count = len(chunk)
                self.sent += count
                unbroken += count
        finally:
            if file is not None:
                writer.transport.set_write_buffer_limits()

    def _write_from(self, file: StoredReader | Reader, writer: asyncio.StreamWriter) -> int:
        """From the page cache to the socket, how much; 0 if it isn't there."""
        if isinstance(writer.transport, TlsTransport):
            return self._encrypt_from(file, writer)
        descriptor = writer.get_extra_info("socket").fileno()
        limit = BREATHE if self.length is None else min(BREATHE, self.length - self.sent)
        if isinstance(file, Reader) and (place := file.in_file(limit)):
            try:
                count = os.sendfile(descriptor, *place)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return 0  # the disk's: who reads it sees to that
            else:
                file.skip(count)
                return count
        found = file.read_into(_buffer[:limit])
        if found is None:
            return 0
        try:
            count = os.write(descriptor, _buffer[:found])
        except BlockingIOError:
            # The transport waits for the client with a little of it. The rest is read anew when there is room.
            count = min(found, SMALL)
            writer.write(bytes(_buffer[:count]))
        file.skip(count)
        return count

    def _encrypt_from(self, file: StoredReader | Reader, writer: asyncio.StreamWriter) -> int:
        """The same through TLS, by way of the buffer: the kernel can't encrypt."""
        limit = AT_ONCE if self.length is None else min(AT_ONCE, self.length - self.sent)
        found = file.read_into(_buffer[:limit])
        if found is None:
            return 0
        writer.write(_buffer[:found])
        file.skip(found)
        return found

    async def _drain(self) -> bool:
        """Wait until the client has taken what was written. Whether there was anything to wait for."""
        writer = self._writer
        if writer is None:
            return False
        if writer.transport.is_closing():
            raise ConnectionResetError("client disconnected")
        transport: Any = writer.transport
        if transport.get_write_buffer_size() <= transport.get_write_buffer_limits()[1]:
            return False
        async with asyncio.timeout(STALLED):
            await writer.drain()
        return True

    def break_off(self, *, to_the_end: bool) -> None:
        """There is no more, and the connection is going to be closed. Where its end would be that of the body
        (``to_the_end``), nothing but a reset can tell the client that this is not all of it (RFC 9112 §8)."""
        if to_the_end:
            reset_at_close(self._writer)

    def close(self) -> None:
        self.source.close()


def as_chunk(data: bytes) -> bytes:
    """A chunk of a chunked body (RFC 9112 §7.1). In one piece: ``writelines`` of Python 3.12 and 3.13 doesn't tell
    anybody that a client has stopped reading, and takes megabytes for it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def reset_at_close(writer: Any) -> None:
    """``writer``: of a client's socket, if it has one that is asyncio's."""
    if isinstance(writer, asyncio.StreamWriter) and isinstance(writer.transport, TlsTransport):
        writer.transport.is_cut = True
    connection = writer.get_extra_info("socket") if isinstance(writer, asyncio.StreamWriter) else None
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
