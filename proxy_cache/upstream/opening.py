"""A connection that is being opened: nobody's yet."""

from __future__ import annotations

import asyncio

from ..wire.responses import OriginError


class Opening(asyncio.Protocol):
    """The protocol of a connection until its user sets another one."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self._has_ended = False
        self._more: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def read(self) -> bytes:
        """The received bytes, at least one."""
        while not self.received:
            if self._has_ended:
                raise OriginError("connection_terminated", "Server disconnected")
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        received, self.received = self.received, b""
        return received

    def handed_over(self) -> asyncio.Transport:
        """The transport, for its user. Raises :class:`OriginError`."""
        transport = self.transport
        assert transport is not None
        if self.received:
            transport.abort()
            raise OriginError("http_protocol_error", "the origin sent something before it was asked")
        if transport.is_closing():
            transport.abort()
            raise OriginError("connection_terminated", "the connection was closed before it was used")
        return transport
