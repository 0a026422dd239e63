"""The head of a CONNECT as bytes (RFC 9110 §9.3.6). Pure, no I/O.

Only for unambiguous ones, as :mod:`.requests` reads GETs; others are left to mitmproxy, unread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..semantics.targets import TargetError, of_connect
from .head_checks import RefusedHead, checked_request
from .requests import UNUSUAL

_START: Final = b"CONNECT "
_LINE: Final = re.compile(rb"CONNECT ([][0-9A-Za-z._:-]{1,300}) HTTP/1\.[01]\r\n")
_WITH_BODY: Final = re.compile(rb"^(?:content-length|transfer-encoding|expect|upgrade):", re.IGNORECASE | re.MULTILINE)
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Connect:
    """``host``: in lower case, an IPv6 address without its brackets. ``size``: bytes of the head."""

    host: str
    port: int
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
    if _WITH_BODY.search(data[line.end() : end + 2]) is not None:
        return UNUSUAL
    try:  # what mitmproxy's way refuses (400, 414, 431) is its to refuse
        checked_request(data[:end].split(b"\r\n"), limits)
        host, port = of_connect(line[1].decode("ascii"))
        if "xn--" in host:
            host.encode("ascii").decode("idna")  # mitmproxy has no request of what is none
    except (RefusedHead, TargetError, UnicodeError):
        return UNUSUAL
    return Connect(host, port, end + 4)
