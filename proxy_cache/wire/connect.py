"""The head of a CONNECT as bytes (RFC 9110 §9.3.6). Pure, no I/O.

Only for unambiguous ones, as :mod:`.requests` reads GETs; others are left to mitmproxy, unread.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from .requests import UNUSUAL, exceeds

_START: Final = b"CONNECT "
_LINE: Final = re.compile(
    rb"CONNECT (\[[0-9A-Fa-f:.]{2,45}\]|(?=[^:]{1,254}:)[0-9A-Za-z_-]{1,63}(?:\.[0-9A-Za-z_-]{1,63})*+\.?)"
    rb":([0-9]{1,5}) HTTP/1\.[01]\r\n"
)
_FIELDS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+")
_WITH_BODY: Final = re.compile(rb"^(?:content-length|transfer-encoding|expect|upgrade):", re.IGNORECASE | re.MULTILINE)
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Connect:
    """``host``: in lower case, an IPv6 address without its brackets. ``lines``: all field lines. ``size``: bytes of the
    head."""

    host: str
    port: int
    lines: bytes
    size: int

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_connect(data: bytes, limits: HeadLimits = DEFAULT_HEAD_LIMITS) -> Connect | Literal["unusual"] | None:
    """The CONNECT at the start of ``data``; ``None`` if its end hasn't arrived; unusual if it is anything else."""
    if not (data.startswith(_START) or _START.startswith(data)):
        return UNUSUAL
    end = data.find(b"\r\n\r\n")
    if end < 0:
        unfinished = len(data) < limits.total and b"\n\n" not in data and b"\n\r\n" not in data
        return None if unfinished else UNUSUAL
    line = _LINE.match(data)
    if line is None:
        return UNUSUAL
    lines = data[line.end() : end + 2]
    if end + 4 > limits.short and exceeds(limits, line.end(), lines):
        return UNUSUAL
    port = int(line[2])
    if _FIELDS.fullmatch(lines) is None or _WITH_BODY.search(lines) is not None or not 0 < port < 65536:
        return UNUSUAL
    host = line[1].decode("ascii").lower()
    if not _is_sound(host):
        return UNUSUAL
    return Connect(host.strip("[]"), port, lines, end + 4)


def _is_sound(host: str) -> bool:
    """Whether what looks like an address or a name of IDNA is one. mitmproxy has no request of others."""
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif "xn--" in host:
            host.encode("ascii").decode("idna")
    except ValueError:
        return False
    return True
