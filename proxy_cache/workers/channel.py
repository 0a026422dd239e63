"""Messages between the parent and one worker: JSON arrays, a line each, over a pair of connected sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any


class Channel(asyncio.Protocol):
    """One end. ``on_lost`` is called when the other one has gone, once."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.handlers: dict[str, Callable[..., None]] = {}
        """What is called for a message, by its first word, with the rest of it."""
        self._on_lost = on_lost
        self._transport: asyncio.WriteTransport | None = None
        self._early = bytearray()
        """What was to be sent before it was open."""
        self._rest = b""
        self._unhandled: list[list[Any]] = []

    def handle(self, handlers: Mapping[str, Callable[..., None]]) -> None:
        """From now on, and for those that have come before there was a handler for them."""
        self.handlers |= handlers
        waiting, self._unhandled = self._unhandled, []
        for message in waiting:
            self._handle(message)

    def _handle(self, message: list[Any]) -> None:
        handler = self.handlers.get(message[0])
        if handler is None:
            self._unhandled.append(message)
        else:
            handler(*message[1:])

    async def open(self, end: socket.socket) -> None:
        """Begin. The socket is closed with the channel."""
        end.setblocking(False)
        # A pair of sockets is connected from the start: to asyncio that is as good as one that was accepted.
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self, end)

    def send(self, *message: Any) -> None:
        """Nothing, if the other end has gone."""
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if self._transport is None:
            self._early += data
        elif not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._handle(json.loads(line))

    def connection_lost(self, error: Exception | None) -> None:
        self._on_lost()
