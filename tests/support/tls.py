"""An origin in TLS of which every byte is written down, and how it ends: asyncio's and Python's own servers always end
in the proper way."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

from .scripted import ThreadedOrigin

CLOSE, CUT, GARBAGE = "close", "cut", "garbage"
"""Ends of a connection: with TLS' closing alert, without (a FIN alone), and with a FIN after what is no TLS."""


class TlsOrigin(ThreadedOrigin):
    """The nth request for a target gets the nth answer: bytes, and how the connection ends then, ``""`` if it does not.
    The last one stays."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.heads: list[bytes] = []
        self._answers: dict[str, list[tuple[bytes, str]]] = {}
        self._context = context

    def serve(self, target: str, *answers: tuple[bytes, str]) -> str:
        self._answers[target] = list(answers)
        return target

    def count(self, target: str) -> int:
        return sum(head.split()[1].decode() == target for head in self.heads)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            tls = self._context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True)
            with tls:
                self._talk(tls)

    def _talk(self, tls: ssl.SSLSocket) -> None:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                data = tls.recv(65536)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            self.heads.append(head)
            answers = self._answers[head.split()[1].decode()]
            answer, end = answers[0] if len(answers) == 1 else answers.pop(0)
            tls.sendall(answer)
            if end:
                self._end(tls, end)
                return

    @staticmethod
    def _end(tls: ssl.SSLSocket, end: str) -> None:
        if end == CLOSE:
            with contextlib.suppress(OSError):
                tls.unwrap()
            return
        with socket.socket(fileno=os.dup(tls.fileno())) as raw:
            if end == GARBAGE:
                raw.sendall(b"\x17\x03\x03\x00\x20" + 32 * b"x")
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while raw.recv(65536):  # until the other side has seen it, so that no reset comes of what is unread
                    pass
