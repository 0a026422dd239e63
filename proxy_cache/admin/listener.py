"""A listener for a port that has to answer when nothing else does.

When the process has no descriptor left, asyncio's listener stops for a second, and then fails again. This one keeps
some descriptors in reserve. It also limits its connections, and closes the oldest one for a new one, so that silent
clients can't keep an operator out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

CONNECTIONS_MAX: Final = 64
RESERVE: Final = 8
"""Descriptors kept in reserve."""
FOR_EACH: Final = 2
"""Reserved descriptors for one connection: its socket, and a file that the response may have to read."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Listener:
    """Listens on all addresses of a host. ``factory`` makes the protocol of each connection."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], connections_max: int = CONNECTIONS_MAX) -> None:
        self._factory = factory
        self._connections_max = connections_max
        self._sockets: list[socket.socket] = []
        self._reserve: list[int] = []
        self._open: dict[_Counted, asyncio.Transport] = {}
        """The connections, oldest first."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen. ``host`` may be the path of a Unix socket. Returns the first address. Raises ``OSError``."""
        if host.startswith("/"):
            self._open_unix(host)
            return host, 0
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(infos):
                self._listen(family, address)
        except OSError:
            self.close()
            raise
        self._begin()
        name = self._sockets[0].getsockname()
        return str(name[0]), int(name[1])

    def _open_unix(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        try:
            self._listen(socket.AF_UNIX, path)
        except OSError:
            self.close()
            raise
        self._begin()

    def _listen(self, family: int, address: Any) -> None:
        listening = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(listening)
        if family != socket.AF_UNIX:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(CONNECTIONS_MAX)

    def _begin(self) -> None:
        self._keep_reserve()
        for listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening.fileno(), self._accept, listening)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens on the network."""
        internet = (each for each in self._sockets if each.family != socket.AF_UNIX)
        return [(str(name[0]), int(name[1])) for name in (each.getsockname() for each in internet)]

    def close(self) -> None:
        """Accept no more. (Open connections are closed by the owner of their protocol.)"""
        sockets, self._sockets = self._sockets, []
        for listening in sockets:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(listening.fileno())
            listening.close()
        self._spend(RESERVE)

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED or not self._reserve:
                # The client has left already, or not even a reserved descriptor is left. The loop tries again in its
                # next turn, and closing the oldest connection frees descriptors.
                if error.errno in _EXHAUSTED:
                    self._drop_oldest()
                return
            self._spend(FOR_EACH)
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
        accepted.setblocking(False)
        while len(self._open) >= self._connections_max:
            self._drop_oldest()
        work = asyncio.get_running_loop().connect_accepted_socket(lambda: _Counted(self, self._factory()), accepted)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._accepted)

    def _accepted(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the connection is closed already: don't log that

    def _drop_oldest(self) -> None:
        for counted, transport in self._open.items():
            del self._open[counted]
            transport.abort()
            return

    def _spend(self, count: int) -> None:
        for _ in range(min(count, len(self._reserve))):
            os.close(self._reserve.pop())

    def _keep_reserve(self) -> None:
        try:
            while self._sockets and len(self._reserve) < RESERVE:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            pass  # later

    def connected(self, counted: _Counted, transport: asyncio.Transport) -> None:
        self._open[counted] = transport

    def disconnected(self, counted: _Counted) -> None:
        self._open.pop(counted, None)
        if len(self._reserve) < RESERVE:
            # After its socket is closed, before another one is accepted.
            asyncio.get_running_loop().call_soon(self._keep_reserve)


class _Counted(asyncio.Protocol):
    """Reports start and end of a connection to the listener, and forwards everything to the real protocol."""

    def __init__(self, listener: Listener, inner: Any) -> None:
        self._listener = listener
        self._inner = inner

    def connection_made(self, transport: Any) -> None:
        self._listener.connected(self, transport)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        result: bool | None = self._inner.eof_received()
        return result

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        try:
            self._inner.connection_lost(error)
        finally:
            self._listener.disconnected(self)
