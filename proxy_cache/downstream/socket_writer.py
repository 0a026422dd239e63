"""Small answers straight to a client's socket: in one system call, past asyncio's transport, which gets only the rest
that the socket did not take."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from .tls import TlsTransport

MSG_MORE = getattr(socket, "MSG_MORE", 0)


class SocketWriter:
    """Writes to the socket of one connection."""

    __slots__ = ("_descriptor", "_socket", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        shared = transport.get_extra_info("socket")
        self._descriptor = shared.fileno()
        # asyncio's wrapper of the socket cannot send. Without the socket itself a body is sent from memory.
        self._socket: Any = getattr(shared, "_sock", None) if MSG_MORE else None

    def send(self, head: bytes, body: bytes | bytearray | memoryview, file: int | None) -> bool:
        """Hand head and body to the client's connection; whether some of it is still to be sent. ``file``: the
        descriptor of a file with the same body, if sending that is faster."""
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size():  # the descriptor may be somebody else's by now
            transport.write(head)
            transport.write(body)
            return True
        sent = 0
        try:
            if file is None or self._socket is None:
                sent = os.writev(self._descriptor, (head, body))
            else:
                sent = self._socket.send(head, MSG_MORE)
                if sent == len(head):
                    sent += os.sendfile(self._descriptor, file, 0, len(body))
        except OSError:  # it is full, or closed: the transport finds out
            pass
        if sent == len(head) + len(body):
            return False
        if sent < len(head):
            transport.write(head[sent:])
            sent = len(head)
        transport.write(memoryview(body)[sent - len(head) :])
        return True


def sender_of(transport: Any) -> Callable[[bytes, bytes | bytearray | memoryview, int | None], bool]:
    """:meth:`SocketWriter.send`, or what does the same through TLS."""
    return transport.send if isinstance(transport, TlsTransport) else SocketWriter(transport).send
