"""ClientHellos as programs of all kinds send them, recorded byte by byte, and what may become of them on the way.

They are in ``hellos.txt``: the program and its TLS library, and what it sent for ``a.example``. More of them:

    python -m tests.support.hellos          # a proxy that prints the hello of every CONNECT, for five minutes
"""

from __future__ import annotations

import base64
import random
import socket
import time
from pathlib import Path

NAME = b"a.example"
"""Whom they ask for: as long as ``localhost``."""
_FILE = Path(__file__).with_name("hellos.txt")
NASTY = (
    b"\x00",
    b"\xff",
    b"\x16\x03\x01",
    b"\x15\x03\x03\x00\x02\x01\x00",
    b"\x01",
    b"\x00\x00",
    b"\x7f\xff",
    b"\x00\x10",
)


def recorded(name: str = "a.example") -> dict[str, bytes]:
    """By who sent it. ``name``: of as many characters, in the place of the one that was asked for."""
    assert len(name) == len(NAME)
    found = {}
    for line in _FILE.read_text().splitlines():
        if line and not line.startswith("#"):
            program, data = line.rsplit(": ", 1)
            found[program] = base64.b64decode(data).replace(NAME, name.encode())
    return found


def message_of(hello: bytes) -> bytes:
    """What is in its records."""
    message, position = b"", 0
    while position < len(hello):
        length = int.from_bytes(hello[position + 3 : position + 5], "big")
        message += hello[position + 5 : position + 5 + length]
        position += 5 + length
    return message


def in_records(message: bytes, size: int) -> bytes:
    """In records of ``size`` bytes."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def mutated(chance: random.Random, hellos: list[bytes]) -> bytes:
    """One of them, with something changed."""
    hello = chance.choice(hellos)
    if chance.random() < 0.2:
        hello = in_records(message_of(hello), chance.choice((1, 4, 50, 300)))
    data = bytearray(hello)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(data))
        match chance.randrange(8):
            case 0 | 1:
                data[at] = chance.randrange(256)
            case 2:
                data[at] ^= 1 << chance.randrange(8)
            case 3:
                data[at : at + chance.choice((1, 2, 4))] = b""
            case 4:
                data[at:at] = chance.choice(NASTY)
            case 5:  # a length, most probably
                at = chance.randrange(min(12, len(data)))
                data[at] = max(0, min(255, data[at] + chance.choice((-1, 1))))
            case 6:  # the rest of another one
                other = chance.choice(hellos)
                data[at:] = other[min(at, len(other)) :]
            case _:  # something twice
                data[at:at] = data[at : at + chance.randrange(1, 60)]
        if not data:
            return b"\x16"
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    """In pieces, as a network may deliver them."""
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 0, 1, 3))))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


def record(seconds: float = 300.0) -> None:
    """Answer each CONNECT, and print what is said next."""
    end = time.monotonic() + seconds
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"# the proxy to use: http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        while (left := end - time.monotonic()) > 0:
            listening.settimeout(left)
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += connection.recv(65536) or b"\r\n\r\n"
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    hello = b""
                    while len(hello) < 5 or len(hello) < 5 + int.from_bytes(hello[3:5], "big"):
                        data = connection.recv(65536)
                        if not data:
                            break
                        hello += data
                    print(f"PROGRAM: {base64.b64encode(hello).decode()}", flush=True)
                except OSError as error:
                    print(f"# {error}", flush=True)


if __name__ == "__main__":
    record()
