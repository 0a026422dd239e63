"""What a worker is told when it is started: which of how many it is, and how to reach the others."""

from __future__ import annotations

import hmac
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

VARIABLE: Final = "PROXY_CACHE_WORKER"
"""Of a worker's environment: the descriptor of its end of the channel, on which the first line is its role."""


@dataclass(frozen=True, slots=True)
class Role:
    """One worker's."""

    index: int
    """From 0."""
    count: int
    ports: tuple[int, ...]
    """Where each of them listens for the others, on 127.0.0.1."""
    folder: Path
    """For sockets, of nobody else's."""
    token: str = field(repr=False)
    """Workers prove to each other that they know it. Another one after each start of the parent."""
    listen_port: int = 0
    """The one that the first worker has got, if that was left to mitmproxy; 0: it was not, or there is none yet."""
    is_first: bool = False
    """Whether nobody is to listen yet where clients are served."""

    @property
    def port(self) -> int:
        return self.ports[self.index]

    @property
    def admin_socket(self) -> Path:
        return admin_socket(self.folder, self.index)

    @property
    def greeting(self) -> bytes:
        """What has to be sent first on a connection to a worker's port for the others, see :mod:`.door`."""
        return hmac.digest(self.token.encode(), b"from one worker to another", "sha256")

    def line(self) -> bytes:
        return json.dumps({**asdict(self), "folder": str(self.folder)}).encode() + b"\n"


def admin_socket(folder: Path, index: int) -> Path:
    """Where a worker answers what the metrics port is asked."""
    return folder / f"admin-{index}"


_taken: list[tuple[Role, socket.socket]] = []


def take_role(environment: Mapping[str, str]) -> tuple[Role, socket.socket]:
    """That of this process, which is a worker, and its end of the channel. (It is told once, and may be asked for
    again.)"""
    if not _taken:
        _taken.append(_read(int(environment[VARIABLE])))
    return _taken[0]


def _read(descriptor: int) -> tuple[Role, socket.socket]:
    os.set_inheritable(descriptor, False)
    end = socket.socket(fileno=descriptor)
    line = b""
    while not line.endswith(b"\n"):  # (byte by byte: what follows is the channel's)
        byte = end.recv(1)
        if not byte:
            raise EOFError("the parent has gone")
        line += byte
    told = json.loads(line)
    return Role(**{**told, "ports": tuple(told["ports"]), "folder": Path(told["folder"])}), end
