"""A client for what wrk can't measure: the first byte of an answer, one big body, idle connections."""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

BUFFER = memoryview(bytearray(1 << 20))
"""For what is read and thrown away: the client shares its core with the origin and must cost little."""
WATCH_EVERY = 64 << 20
"""Bytes between two calls of ``watch``."""
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Download:
    status: int
    bytes: int
    """Length of the body."""
    first_byte: float
    """Seconds from connecting (or from the request, on an open connection) to the first byte of the body."""
    seconds: float
    """The same to the last byte."""


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def download(port: int, target: str, watch: Callable[[], object] | None = None) -> Download:
    """One GET on a connection of its own. ``watch`` is called at the first byte and now and then while more come."""
    started = time.perf_counter()
    with connect(port) as connection:
        return ask(connection, target, started, watch)


def first_byte(port: int, target: str) -> float:
    """Seconds to the first byte of the body; the rest isn't waited for."""

    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    started = time.perf_counter()
    try:
        download(port, target, stop)
    except Enough:
        pass
    return time.perf_counter() - started


def ask(
    connection: socket.socket, target: str, started: float | None = None, watch: Callable[[], object] | None = None
) -> Download:
    """One GET on an open connection, which stays open. Raises ``OSError`` where the answer is cut or makes no sense."""
    started = started or time.perf_counter()
    host = urlsplit(target).netloc or "origin.example.com"
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        if not (piece := connection.recv(65536)):
            raise ConnectionError("closed before the head was complete")
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    length = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))["Content-Length"]
    if length is None or not length.isdecimal():
        raise ConnectionError(f"an answer without Content-Length: {head.decode('latin-1')}")
    got, watched = len(body), 0
    first_byte = 0.0
    if got:
        first_byte = time.perf_counter() - started
        if watch:
            watch()
            watched = WATCH_EVERY
    while got < int(length):
        count = connection.recv_into(BUFFER)
        if not count:
            raise ConnectionError(f"closed after {got} of {length} bytes")
        first_byte = first_byte or time.perf_counter() - started
        got += count
        if watch and got >= watched:
            watch()
            watched = got + WATCH_EVERY
    return Download(int(status.split()[1]), got, first_byte, time.perf_counter() - started)


@contextmanager
def idle_connections(port: int, target: str, count: int) -> Iterator[Callable[[], int]]:
    """That many connections that were used once and stay open. Yields a function that counts the open ones."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connections.append(stack.enter_context(connect(port)))
            ask(connections[-1], target)

        def still_open() -> int:
            return sum(_is_open(connection) for connection in connections)

        yield still_open


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
