"""Parses heads of responses (RFC 9112).

The expressions accept the grammar, and deviations for which RFC 9112 gives a repair; anything ambiguous is an error.
None of them backtracks, since the input is untrusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ..semantics.field_lines import UnclearLength, mended
from ..semantics.headers import Headers, Line, connection_options, field_line
from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..semantics.status_fields import PROXY_ERRORS
from ..semantics.texts import brief

_USUAL_MAX: Final = 16 * 1024
_ALL_DIFFERENT: Final = frozenset({"age", "content-length", "etag", "last-modified"})
"""Fields whose lines are not cached, since their values hardly ever repeat."""

_STATUS_LINE: Final = rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*+))?"
_STATUS: Final = re.compile(_STATUS_LINE + rb"\r?\n")
_USUAL_STATUS: Final = re.compile(_STATUS_LINE)
_FIELD: Final = rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]*+:[ \t]*+([^\r\n\0]*+)"
_USUAL_FIELD: Final = re.compile(_FIELD)
FIELD: Final = re.compile(rb"^" + _FIELD + rb"\r?\n", re.MULTILINE)
"""A field line. (RFC 9112 §5.1: a proxy has to remove white space before the colon in a response.)"""


class OriginError(Exception):
    """No usable response. ``error``: the proxy error type (RFC 9209 §2.3), which determines ``status``."""

    def __init__(self, error: str, detail: str) -> None:
        detail = brief(detail)
        super().__init__(f"{error}: {detail}")
        self.error = error
        self.detail = detail
        self.status = status_of(error)


def status_of(error: str) -> int:
    """The status for a proxy error type: 502 or 504, as usual for gateways (RFC 9110 §15.6.3, §15.6.5), also where RFC
    9209 recommends 503 or 500; 403 where it is a rule of ours that says no."""
    if error in ("destination_ip_prohibited", "http_request_denied"):
        return 403
    return 504 if PROXY_ERRORS.get(error) == 504 else 502


@dataclass(slots=True)
class ResponseHead:
    """The parsed head of a response. ``size``: its bytes."""

    status: int
    reason: str
    headers: Headers
    """The end-to-end fields."""
    hop: dict[str, str]
    """The hop-by-hop fields, combined."""
    http11: bool
    size: int
    skipped: int = 0
    """Lines that are not fields."""


def parse_head(data: bytes, limits: HeadLimits = DEFAULT_HEAD_LIMITS) -> ResponseHead | None:
    """The head at the start of ``data``; ``None`` if its end hasn't arrived. Raises :class:`OriginError`."""
    end = data.find(b"\r\n\r\n")
    # If the whole head is within the limit of a line, so is every line.
    usual = 0 <= end <= _USUAL_MAX and end + 4 <= limits.line and end + 4 <= limits.total
    return (_usual_head(data, end, limits.fields) if usual else None) or _any_head(data, limits)


def _usual_head(data: bytes, end: int, fields_max: int) -> ResponseHead | None:
    """A head like nearly all, up to ``end``: valid lines that end in CRLF. Most lines repeat from earlier responses,
    and their parse is cached."""
    first, *rest = data[:end].split(b"\r\n")
    status = _status_of(first) if len(first) <= 256 else None
    if status is None or len(rest) > fields_max:
        return None
    lines = []
    for line in rest:
        known = _lines.get(line) or _parsed(line)
        if known is None:
            return None
        lines.append(known)
    headers, hop = Headers.received(lines)
    return ResponseHead(status[0], status[1], headers, hop, status[2], end + 4)


@lru_cache(maxsize=256)
def _status_of(line: bytes) -> tuple[int, str, bool] | None:
    found = _USUAL_STATUS.fullmatch(line)
    return (int(found[2]), (found[3] or b"").decode("latin-1"), found[1] != b"0") if found else None


def _parsed(line: bytes) -> Line | None:
    found = _USUAL_FIELD.fullmatch(line)
    if found is None:
        return None
    known = field_line(found[1], found[2].rstrip(b" \t"))
    if known[1] not in _ALL_DIFFERENT and len(line) <= 256:
        if len(_lines) >= 1024:
            _lines.clear()
        _lines[line] = known
    return known


_lines: Final[dict[bytes, Line]] = {}
"""Cache of parsed field lines."""


def _any_head(data: bytes, limits: HeadLimits) -> ResponseHead | None:
    crlf = data.find(b"\n\r\n")
    # RFC 9112 §2.2: "a recipient MAY recognize a single LF as a line terminator and ignore any preceding CR".
    bare = data.find(b"\n\n", 0, crlf + 1 if crlf >= 0 else len(data))
    end = bare + 2 if bare >= 0 else crlf + 3 if crlf >= 0 else 0
    if (end or len(data)) > limits.total:
        raise OriginError("http_response_header_section_size", f"more than {limits.total} bytes")
    line = _STATUS.match(data)
    if line is None:
        if data[:5] != b"HTTP/"[: len(data)] or data.find(b"\n", 0, limits.line) >= 0:
            raise OriginError("http_protocol_error", f"not the status line of HTTP/1: {data[:40]!r}")
        if len(data) > limits.line:
            raise OriginError("http_response_header_size", f"a status line of more than {limits.line} bytes")
        return None
    start = line.end()
    if start > limits.line:
        raise OriginError("http_response_header_size", f"a status line of more than {limits.line} bytes")
    if not end:
        return None
    fields, skipped = _fields_of(data[start:end], limits) if end - start > 2 else ([], 0)
    headers, hop = Headers.received(field_line(*field) for field in fields)
    return ResponseHead(int(line[2]), (line[3] or b"").decode("latin-1"), headers, hop, line[1] != b"0", end, skipped)


def _fields_of(lines: bytes, limits: HeadLimits) -> tuple[list[tuple[bytes, bytes]], int]:
    """The fields in lines that end with an empty one, and the number of lines that are not fields."""
    if lines.count(b"\n") - 1 > limits.fields:
        raise OriginError("http_response_header_section_size", f"more than {limits.fields} fields")
    if len(lines) > limits.line and max(map(len, lines.split(b"\n"))) >= limits.line:
        raise OriginError("http_response_header_size", f"a field of more than {limits.line} bytes")
    fields: list[tuple[bytes, bytes]] = FIELD.findall(lines)
    skipped = 0
    if len(fields) != lines.count(b"\n") - 1:
        try:
            fields, skipped = mended(line.removesuffix(b"\r") for line in lines.split(b"\n")[:-2])
        except UnclearLength as error:
            raise OriginError("http_protocol_error", str(error)) from error
    elif b" \r" in lines or b" \n" in lines or b"\t\r" in lines or b"\t\n" in lines:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    # Folded lines (obs-fold) make one field.
    if len(lines) > limits.line and any(len(name) + len(value) > limits.line for name, value in fields):
        raise OriginError("http_response_header_size", f"a field of more than {limits.line} bytes")
    return fields, skipped


def content_length(headers: Headers) -> int | None:
    """RFC 9112 §6.3: several values have to be the same."""
    value = headers.get("content-length")
    if value is None:
        return None
    if not value.isdigit():
        values = {part.strip(" \t") for part in value.split(",")}
        value = values.pop() if len(values) == 1 else ""
    if not (value.isdigit() and value.isascii()) or len(value.lstrip("0")) > 18:
        raise OriginError("http_protocol_error", f"Content-Length: {(headers.get('content-length') or '')[:40]!r}")
    return int(value)


def persistence(connection: str) -> str | None:
    """``close`` or ``keep-alive``, if a Connection header says so (RFC 9112 §9.3)."""
    return _remembered(connection) if len(connection) <= 64 else _persistence(connection)


def _persistence(connection: str) -> str | None:
    options = connection_options((connection,))
    return "close" if "close" in options else "keep-alive" if "keep-alive" in options else None


_remembered = lru_cache(maxsize=256)(_persistence)
