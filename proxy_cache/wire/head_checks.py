"""Checks heads of HTTP/1 and 2 that are forwarded, in both directions.

mitmproxy forwards heads it doesn't understand: control characters, folded lines, versions other than the connection's.
The next recipient may read another message in them than we did. So malformed requests are refused, since clients can be
told, and responses are repaired as RFC 9110 §5.5 and RFC 9112 §5 say. (Requests to origins are checked once more, see
:mod:`.outgoing`.) Pure functions of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ..semantics.field_lines import UnclearLength, mended
from ..semantics.limits import HeadLimits
from ..semantics.targets import is_host_field
from ..semantics.texts import brief

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]++) HTTP/([0-9])\.([0-9])")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*+))?")
_METHOD: Final = re.compile(_TOKEN)
_PATH: Final = re.compile(rb"[/*][\x21-\x7e\x80-\xff]*+")
_NAME: Final = re.compile(_TOKEN)
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[\t\x20-\x7e\x80-\xff]*+")
_NAMED: Final = re.compile(rb"(" + _TOKEN + rb")([ \t]*+):")
_QUOTED: Final = re.compile(r":? b['\"].*+", re.DOTALL)
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"})
NAME_SHOWN: Final = 64
"""Characters of a field name in an error."""
LENGTH_DIGITS: Final = 18
"""Digits of a Content-Length: more don't fit into the 64 bits that others use."""
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_CODINGS: Final = frozenset({b"gzip,chunked", b"deflate,chunked", b"compress,chunked"})


class RefusedHead(ValueError):
    """A head that is not forwarded. ``status``: for the client; ``error``: the proxy error type (RFC 9209)."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        self.status = status
        self.error = error
        self.detail = brief(detail)
        super().__init__(f"{error}: {self.detail}")


# -- HTTP/1, as it comes -------------------------------------------------------------------------------------------


def checked_request(lines: Sequence[bytes], limits: HeadLimits) -> None:
    """Raises :class:`RefusedHead` unless the lines are the head of an unambiguous HTTP/1 request."""
    first = lines[0]
    if len(first) + 2 > limits.line:
        raise RefusedHead(414, "http_request_error", f"a request line of more than {limits.line} bytes")
    too_large = _why_too_large(lines, limits)
    if too_large is not None:
        raise RefusedHead(431, "http_request_error", too_large[1])
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise RefusedHead(400, "http_request_error", _why_no_request_line(first))
    method, version = line[1], (line[3], line[4])
    if version not in ((b"1", b"1"), (b"1", b"0")):
        # RFC 9110 §15.6.6. An HTTP/1.2 request SHOULD be processed as HTTP/1.1 (§6.2), but there is no HTTP/1.2; and
        # HTTP/2.0 in a request line is an attempt to be forwarded as such.
        raise RefusedHead(505, "http_request_error", "only HTTP/1.0 and HTTP/1.1 on this connection")
    if method != method.upper():
        # RFC 9110 §9.1: "The method token is case-sensitive". mitmproxy reads "head" as HEAD, an origin does not: they
        # disagree about the end of the response. No registered method has small letters.
        raise RefusedHead(501, "http_request_error", "methods are case-sensitive")
    hosts = []
    for number, text in enumerate(lines[1:], 2):
        field = _FIELD.fullmatch(text)
        if field is None:
            if text[:1] in (b" ", b"\t"):
                # RFC 9112 §5.2: a server MUST "either reject the message by sending a 400 (Bad Request) […] or replace
                # each received obs-fold". Honest clients have sent none for decades.
                raise RefusedHead(400, "http_request_error", "a folded header line")
            raise RefusedHead(400, "http_request_error", _why_no_field(text, number))
        name = field[1].lower()
        if name == b"content-length" and len(text.partition(b":")[2].strip(b" \t")) > LENGTH_DIGITS:
            raise RefusedHead(400, "http_request_error", "a Content-Length that is no length")
        if name == b"transfer-encoding":
            coding = b",".join([part.strip(b" \t") for part in text.partition(b":")[2].lower().split(b",")])
            if coding in _CODINGS:  # (mitmproxy refuses other malformed values)
                raise RefusedHead(501, "http_request_error", "no transfer coding but chunked is known")
        if name == b"host":
            hosts.append(text.partition(b":")[2].strip(b" \t").decode("latin-1"))
    # RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
    # lacks a Host header field and to any request message that contains more than one Host header field line or a Host
    # header field with an invalid field value", whatever its target says.
    if len(hosts) > 1 or (not hosts and version == (b"1", b"1")):
        raise RefusedHead(400, "http_request_error", "more than one Host" if hosts else "no Host")
    if hosts and not is_host_field(hosts[0]):
        raise RefusedHead(400, "http_request_error", "an invalid Host")


def _why_no_request_line(line: bytes) -> str:
    """The reason, without a quote: it is logged, and a target may contain a password, or the line may be part of a
    body."""
    method, _, rest = line.partition(b" ")
    target, space, version = rest.rpartition(b" ")
    if _METHOD.fullmatch(method) is None:
        return "not a request line: no method at its beginning"
    if not space or not target or _VERSION.fullmatch(version) is None:
        wrong = "no target, or no version at its end"
    else:
        wrong = "white space or control characters in its target"
    known = f"{method.decode()} with " if method in _METHODS else ""
    return f"not a request line: {known}{wrong}"


def _why_no_field(line: bytes, number: int) -> str:
    """The same for a header line, of which only a field name is quoted. ``number``: counted from 1."""
    named = _NAMED.match(line)
    if named is None:
        return f"line {number} is not a header field: no name with a colon behind it"
    name = brief(named[1].decode("ascii"), NAME_SHOWN)
    if named[2]:
        return f"not a header field: white space between {name} and its colon"
    return f"not a header field: control characters in the value of {name}"


def cleaned_response(lines: Sequence[bytes], limits: HeadLimits) -> tuple[list[bytes], int]:
    """The lines of a response's head, repaired where RFC 9110 and 9112 require it of a proxy; and the number of lines
    that were skipped since they are not fields. Raises :class:`RefusedHead`."""
    too_large = _why_too_large(lines, limits)
    if too_large is not None:
        raise RefusedHead(502, *too_large)
    line = _STATUS_LINE.fullmatch(lines[0])
    if line is None:
        raise RefusedHead(502, "http_protocol_error", f"not the status line of HTTP/1: {lines[0][:40]!r}")
    # RFC 9110 §6.2: a higher minor version is processed as the highest known one.
    version = b"HTTP/1.0" if line[1] == b"0" else b"HTTP/1.1"
    try:
        fields, skipped = mended(lines[1:])
    except UnclearLength as error:
        raise RefusedHead(502, "http_protocol_error", str(error)) from error
    for name, value in fields:
        # mitmproxy treats VT and FF as white space, and would read a length or "chunked" after one.
        if name.lower() in _FRAMING and _VALUE.fullmatch(value) is None:
            raise RefusedHead(502, "http_protocol_error", f"control characters in {name.decode('ascii')}")
    if any(len(name) + len(value) > limits.line for name, value in fields):  # of folded lines
        raise RefusedHead(502, "http_response_header_size", f"a field of more than {limits.line} bytes")
    return [b"%b %b %b" % (version, line[2], line[3] or b""), *[b"%b: %b" % field for field in fields]], skipped


def _why_too_large(lines: Sequence[bytes], limits: HeadLimits) -> tuple[str, str] | None:
    """The proxy error type and the words for what exceeds a limit."""
    if len(lines) - 1 > limits.fields:
        return "http_response_header_section_size", f"more than {limits.fields} fields"
    if sum(map(len, lines)) + 2 * len(lines) + 2 > limits.total:
        return "http_response_header_section_size", f"more than {limits.total} bytes"
    if max(map(len, lines)) + 2 > limits.line:
        return "http_response_header_size", f"a field of more than {limits.line} bytes"
    return None


# -- HTTP/2 and 3, as they come --------------------------------------------------------------------------------------


def without_quotes(message: str) -> str:
    """An error message of h2's, cut off before its first quote of received bytes."""
    return _QUOTED.sub("", message)


def why_malformed(fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """RFC 9113 §8.2.1: "A field name MUST NOT contain characters in the ranges 0x00-0x20 […]", "A field value MUST NOT
    contain the zero value […], line feed […], or carriage return". h2 before 4.3 lets them pass (CVE-2025-57804)."""
    for name, value in fields:
        if _NAME.fullmatch(name) is None:
            return "an invalid field name"
        if _VALUE.fullmatch(value) is None:
            return f"control characters in the field {name[:100].decode('ascii')}"
    return None


def why_malformed_request(
    method: bytes, scheme: bytes, authority: bytes, path: bytes, fields: Iterable[tuple[bytes, bytes]]
) -> str | None:
    """The same for a request and its pseudo-header fields, which become a request line further on."""
    if _METHOD.fullmatch(method) is None or method != method.upper():
        return "an invalid :method"
    if scheme not in (b"http", b"https"):
        return "an invalid :scheme"
    if _PATH.fullmatch(path) is None:
        return "an invalid :path"
    if not is_host_field(authority.decode("latin-1")):
        return "an invalid :authority"
    return why_malformed(fields)


def why_malformed_response(status: int, fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The same for a response. RFC 9110 §15: "The status code of a response is a three-digit integer code". Interim
    ones don't come here, and 101 is none of HTTP/2 (RFC 9113 §8.6)."""
    if not 200 <= status <= 999:
        return "a :status outside 200 to 999"
    return why_malformed(fields)
