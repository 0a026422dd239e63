"""A name server on loopback: A and AAAA records of the names that a test gives it, over UDP and TCP."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

A, AAAA = 1, 28
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3
UDP_MAX = 512
"""Bytes of an answer without EDNS (RFC 1035 §4.2.1)."""


class DnsServer:
    """Change :attr:`records` and :attr:`status` at any time."""

    def __init__(self, address: str = "127.0.0.1", port: int = 53) -> None:
        self.records: dict[str, list[str]] = {}
        """Addresses by name, without a dot at the end. Other names don't exist."""
        self.status = NO_ERROR
        """Another one is the answer to everything."""
        self.is_silent = False
        self.queries: list[tuple[str, int, str]] = []
        """Name, type, and ``udp`` or ``tcp``."""
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._udp.bind((address, port))
        self._tcp.bind((address, self._udp.getsockname()[1]))
        self._tcp.listen()
        self._threads = [self._start(self._serve_udp), self._start(self._serve_tcp)]

    def __enter__(self) -> DnsServer:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes the thread
            one.close()
        for thread in self._threads:
            thread.join(10)

    @staticmethod
    def _start(work: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        return thread

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._udp.recvfrom(4096)
                if not query:
                    return
                answer = self._answer(query, "udp")
                if answer is not None:
                    if len(answer) > UDP_MAX:
                        # Only the question, and the bit that says so: ask again by TCP.
                        question = _question_end(query)
                        answer = answer[:2] + struct.pack("!HHHHH", 0x8780, 1, 0, 0, 0) + query[12:question]
                    self._udp.sendto(answer, client)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve_connection, self._tcp.accept()[0])

    def _serve_connection(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while len(prefix := stream.read(2)) == 2:
                answer = self._answer(stream.read(int.from_bytes(prefix)), "tcp")
                if answer is not None:
                    connection.sendall(len(answer).to_bytes(2) + answer)

    def _answer(self, query: bytes, transport: str) -> bytes | None:
        end = _question_end(query)
        name = _name(query)
        (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
        self.queries.append((name, kind, transport))
        if self.is_silent:
            return None
        addresses = self.records.get(name)
        status = self.status or (NO_SUCH_NAME if addresses is None else NO_ERROR)
        packed = [ipaddress.ip_address(one).packed for one in addresses or [] if not status]
        found = [one for one in packed if len(one) == {A: 4, AAAA: 16}.get(kind)]
        # The name of each record is the one at byte 12 of the message (RFC 1035 §4.1.4); its time to live is 0.
        records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(one)) + one for one in found)
        return query[:2] + struct.pack("!HHHHH", 0x8580 | status, 1, len(found), 0, 0) + query[12:end] + records


def _name(query: bytes) -> str:
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower()


def _question_end(query: bytes) -> int:
    return query.index(0, 12) + 5  # no label has a zero byte here
