"""Limits of heads where mitmproxy has none: the lines of HTTP/1, and what h2 takes."""

from __future__ import annotations

import logging
from typing import Any

from h11._receivebuffer import ReceiveBuffer

from ...semantics.limits import HeadLimits
from ...wire.head_checks import RefusedHead, without_quotes
from ..compat import HTTP2_LIMITS

logger = logging.getLogger(__name__)


def line_break(data: bytearray, at: int) -> int:
    """Bytes of the line break at this place, if there is one."""
    return 1 if data[at : at + 1] == b"\n" else 2 if data[at : at + 2] == b"\r\n" else 0


def lines_of(buf: ReceiveBuffer, limits: HeadLimits, status: int, error: str) -> list[bytes] | None:
    """The lines of the head that ``buf`` begins with. Raises :class:`RefusedHead` if it gets too long before its end.
    A search goes on where the last one ended: the head may come byte by byte."""
    lines = buf.maybe_extract_lines()
    if lines is not None:
        return [bytes(line) for line in lines] or [b""]
    if len(buf) > limits.line and status == 431 and b"\n" not in buf._data[: limits.line]:
        raise RefusedHead(414, error, f"a request line of more than {limits.line} bytes")
    if len(buf) > limits.total:
        raise RefusedHead(status, error, f"more than {limits.total} bytes")
    return None


def limit_http2(connection: Any, limits: HeadLimits) -> None:
    """Fields of more than this in all end the connection (RFC 9113 §10.5.1); h2 bounds the frames that they come in.
    And what h2 finds wrong is told without the field's value, which it quotes: it may be a credential."""

    def limit() -> None:
        connection.h2_conn.decoder.max_header_list_size = limits.total
        end = connection.protocol_error
        connection.protocol_error = lambda message, *code: end(without_quotes(message), *code)

    HTTP2_LIMITS.guard(logger, limit)
