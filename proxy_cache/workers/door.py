"""The port of a worker for the other workers. It is on loopback, where everybody on the machine may connect: whoever
doesn't begin with the workers' greeting is cut off before anybody else sees a byte of it."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable
from typing import Any, Final

ADDRESS: Final = "127.0.0.1"
BACKLOG: Final = 4096
PATIENCE: Final = 5.0
"""Seconds for the greeting to come."""


class Doorkeeper(asyncio.Protocol):
    """The first protocol of a connection. ``factory`` makes the one that it has after the greeting."""

    def __init__(self, greeting: bytes, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._greeting, self._factory = greeting, factory
        self._received = b""
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < len(self._greeting):
            return
        self._stop_timer()
        told, rest = self._received[: len(self._greeting)], self._received[len(self._greeting) :]
        if not hmac.compare_digest(told, self._greeting):
            self._transport.abort()
            return
        inner: Any = self._factory()
        self._transport.set_protocol(inner)
        inner.connection_made(self._transport)
        if rest:
            self._transport.get_protocol().data_received(rest)  # (it may have set another one)

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def open_door(port: int, greeting: bytes, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.Server:
    """Listen for the other workers. Raises ``OSError``."""
    listening = reserve(port)
    try:
        return await asyncio.get_running_loop().create_server(
            lambda: Doorkeeper(greeting, factory), sock=listening, backlog=BACKLOG
        )
    except BaseException:
        listening.close()
        raise


def reserve(port: int = 0) -> socket.socket:
    """A socket at a port on loopback. It doesn't listen, so that whoever connects is refused at once as long as nobody
    else does: a port stays with its worker while that is started again, and nobody else's processes can have it."""
    end = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        end.bind((ADDRESS, port))
    except BaseException:
        end.close()
        raise
    return end
