"""Limits of the head of a message. Larger requests are refused with 431 or 414, larger responses with 502."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_AROUND = 4
"""Bytes of a field line besides name and value: colon, space and CRLF."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Limits of a request, a response, and a trailer section.

    RFC 9110 §5.4: "A server that receives a request header field line, field value, or set of fields larger than it
    wishes to process MUST respond with an appropriate 4xx (Client Error) status code". The defaults are close to those
    of nginx (8 kB a line, 32 kB in all) and Squid (64 kB in all), with more fields than any browser or build tool
    sends.
    """

    total: int = 64 * 1024
    """Bytes of the whole head: first line, field lines, and the empty line."""
    fields: int = 256
    """Field lines."""
    line: int = 16 * 1024
    """Bytes of one line: the request line, the status line or a field line, line break included."""
    short: int = field(init=False, repr=False, compare=False)
    """Bytes of a head that can't exceed any limit: a field takes at least four, with its line break."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "short", min(self.total, self.line, 4 * self.fields))

    def why_too_large(self, fields: Iterable[tuple[bytes, bytes]], first_line: int = 0) -> str | None:
        """The exceeded limit in words; ``None`` if there is none.

        ``first_line``: bytes of the request line or the status line. A head without lines (HTTP/2) has the size of its
        lines in HTTP/1.
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
