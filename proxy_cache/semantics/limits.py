"""How large the head of a message may be. What is larger is refused: a request with 431 or 414, a response with 502."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_AROUND = 4
"""Bytes of a field line that are neither name nor value: colon, space and CRLF."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What a request from a client, a response of an origin, and a trailer section may have at the most.

    RFC 9110 §5.4: "A server that receives a request header field line, field value, or set of fields larger than it
    wishes to process MUST respond with an appropriate 4xx (Client Error) status code". The defaults are about those of
    nginx (8 kB a line, 32 kB in all) and Squid (64 kB in all), and more fields than any browser or build tool sends.
    """

    total: int = 64 * 1024
    """Bytes of the whole head: first line, field lines, and the empty line."""
    fields: int = 256
    """Field lines."""
    line: int = 16 * 1024
    """Bytes of one line: the request line, the status line or a field line, line break included."""

    def why_too_large(self, fields: Iterable[tuple[bytes, bytes]], first_line: int = 0) -> str | None:
        """In words, which limit a head of these fields exceeds; ``None`` if it exceeds none.

        ``first_line``: bytes of the request line or the status line. For heads that didn't come as lines (HTTP/2), the
        size is that of the lines that they would be in HTTP/1.
        """
        if first_line > self.line:
            return f"a first line of more than {self.line} bytes"
        total = first_line + 2
        for count, (name, value) in enumerate(fields, 1):
            size = len(name) + len(value) + _AROUND
            total += size
            if size > self.line:
                return f"a field of more than {self.line} bytes"
            if count > self.fields:
                return f"more than {self.fields} fields"
            if total > self.total:
                return f"more than {self.total} bytes"
        return f"more than {self.total} bytes" if total > self.total else None


DEFAULT_HEAD_LIMITS = HeadLimits()
