"""Every name under ``.test`` is this machine."""

from __future__ import annotations

import socket
from typing import Any

_really = socket.getaddrinfo


def _getaddrinfo(host: Any, *arguments: Any, **more: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    known = isinstance(name, str) and name.removesuffix(".").endswith(".test")
    return _really("127.0.0.1" if known else host, *arguments, **more)


socket.getaddrinfo = _getaddrinfo
