"""Origins by hand: a thread for each connection, and every byte that is sent written down."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Self

from .origin import PATIENCE, bind_new_port

OK = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal"
HINTS = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"


class ThreadedOrigin:
    """Listens on a port of its own and talks with each connection in a thread of its own."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.connections = 0
        self._socket = bind_new_port()
        self._socket.listen(128)
        self.port = self._socket.getsockname()[1]
        self.netloc = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                connection.settimeout(PATIENCE)
                threading.Thread(target=self._begin, args=(connection,), daemon=True).start()

    def _begin(self, connection: socket.socket) -> None:
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
        self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        """All of one connection, and close it."""
        raise NotImplementedError


class Scripted(ThreadedOrigin):
    """An origin of which every byte is written down: the nth request of all gets the nth answer, the last one stays.
    An answer that ends in ``<close>`` ends the connection."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.answers: list[str] = [OK]
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.url = f"{'https' if tls else 'http'}://{self.netloc}/x"

    def fields(self, name: str, request: int = -1) -> list[str]:
        lines = (line.partition(":") for line in self.heads[request].split("\r\n")[1:])
        return [value.strip() for field, _, value in lines if field.lower() == name.lower()]

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
            while head := self.read_head(stream):
                lengths = [int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")]
                body = stream.read(lengths[0]) if lengths else b""
                if "transfer-encoding: chunked" in head.lower():
                    while size := int(stream.readline(), 16):
                        body += stream.read(size + 2)[:-2]
                    while stream.readline().strip():
                        body += b"[trailer]"
                self.heads.append(head)
                self.bodies.append(body)
                answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
                connection.sendall(answer.removesuffix("<close>").encode("latin-1"))
                if answer.endswith("<close>"):
                    return

    @staticmethod
    def read_head(stream: object) -> str:
        lines = []
        while (line := stream.readline()) and line != b"\r\n":  # type: ignore[attr-defined]
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        return "\r\n".join(lines)


def asks(scripted: Scripted, method: str = "POST", *fields: str, version: str = "1.1", host: str | None = None) -> str:
    body = "hello" if method == "POST" else ""
    lines = [f"{method} {scripted.url} HTTP/{version}", f"Host: {host or scripted.netloc}", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", body])
