"""HTTP/1 heads as bytes: requests in, responses out. Pure functions, no I/O (RFC 9112).

Only for unambiguous requests: GETs without a body whose lines end in CRLF and whose fields follow the grammar. Others
are :data:`UNUSUAL` and left to mitmproxy, unread, so that nothing here depends on its treatment of malformed ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from ..semantics.directives import NOTHING, CacheControl, request_cache_control
from ..semantics.headers import Headers, connection_options, end_to_end
from ..semantics.keys import Target
from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..semantics.peer_fields import taken_off
from ..semantics.ranges import RangeSpec
from ..semantics.request_ids import FIELD
from ..semantics.targets import TargetError, absolute, is_host_field
from ..semantics.validation import is_conditional

UNUSUAL: Final = "unusual"
CLOSE: Final = b"Connection: close\r\n"
KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
_REMEMBER_LENGTH: Final = 2048
"""Bytes of field lines whose parse is cached."""

_LINE: Final = re.compile(rb"GET ([\x21-\x7e]++) HTTP/1\.([01])\r\n")
_FIELD: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_FIELDS: Final = re.compile(rb"(?:" + _FIELD + rb")++")
# A single range of bytes. Any other Range is left among the fields, for the general parser.
_RANGE: Final = re.compile(
    rb"^range:[\t ]*+(bytes=(?!-[\t \r])([0-9]{0,18}+)-([0-9]{0,18}+))[\t ]*+\r\n", re.IGNORECASE | re.MULTILINE
)
# As peers write it (the first one counts).
_PEER: Final = re.compile(rb"^Cache-Peer:[\t ]*+([\x21-\x7e]++)[\t ]*+\r\n", re.MULTILINE)
# With any of these it is not a plain GET.
_MORE_THAN_PLAIN: Final = ("transfer-encoding", "content-length", "upgrade", "expect", "http2-settings")


@dataclass(slots=True, eq=False)
class RequestFields:
    """The parsed field lines of a request. The parse is cached: an agent always sends the same lines to a host."""

    headers: Headers
    """The end-to-end fields without Host, for use in a fill."""
    directives: CacheControl
    plain: bool
    """No range, condition or directive: any fresh response will do."""
    unconditional: bool
    """No range and no condition, perhaps directives (which a rule may ignore)."""
    close: bool | None
    """Whether the connection ends with the response; ``None``: depends on the version (RFC 9112 §9.3)."""
    via: tuple[str, ...]
    is_untraced: bool = False
    """Whether it is known that they have no ``traceparent``. (Who traces finds out; nobody else asks.)"""
    _forward: Headers | None = None
    _for_peer: tuple[Headers, str, str | None] | None = None

    def for_peer(self) -> tuple[Headers, str, str | None]:
        """:func:`~..semantics.peer_fields.taken_off` of ``headers``."""
        if self._for_peer is None:
            self._for_peer = taken_off(self.headers)
        return self._for_peer

    def forward(self, via: str) -> Headers:
        """``headers`` with our Via (RFC 9110 §7.6.3), which is the same for the whole process."""
        forward = self._forward
        if forward is None:
            forward = self._forward = self.headers.add("Via", f"1.1 {via}")
        return forward


@dataclass(slots=True)
class Request:
    """One GET. ``size``: bytes of its head; ``close``: whether the connection ends with the response; ``persistence``:
    the response's Connection field line, if it needs one (RFC 9112 §9.3, §9.6)."""

    target: str
    http11: bool
    fields: RequestFields
    """Without the Range field if there is a ``range``: the other lines repeat from request to request."""
    size: int
    close: bool
    persistence: bytes
    lines: bytes
    """All field lines."""
    range: RangeSpec | None = None
    """The single requested range, of a request without a condition. It may be invalid."""
    range_value: str = ""
    """The Range field as received."""
    peer: str | None = None
    """Cache-Peer: a peer's proof that it is one, which is another one in each request."""
    user: str | None = None
    """Who has proven to have sent it, where clients have to."""
    id: str = ""
    """Its X-Request-Id, where requests have one, and"""
    id_line: bytes = b""
    """the field line that tells the client. ``persistence`` ends with it."""
    makes_id: bool = False
    """Whether its id is made here, and not its client's."""

    @property
    def comes_again(self) -> bool:
        """Whether the same bytes may: not with a peer's proof, or an id of the client's own."""
        return self.peer is None and (self.makes_id or not self.id)

    def headers(self, via: str) -> Headers:
        """The fields to forward, see :meth:`RequestFields.forward`."""
        headers = self.fields.forward(via)
        if self.id:
            headers = headers.without(FIELD.lower()).add(FIELD, self.id)
        return headers if self.range is None else headers.add("Range", self.range_value)


Parser: TypeAlias = Callable[[bytes, HeadLimits], Request | Literal["unusual"] | None]
"""Like :func:`parse_request`."""


def parse_request(data: bytes, limits: HeadLimits = DEFAULT_HEAD_LIMITS) -> Request | Literal["unusual"] | None:
    """The request at the start of ``data``; ``None`` if its end hasn't arrived. One that exceeds a limit is unusual,
    and refused on mitmproxy's path."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        # A head that ends in bare line feeds is complete for some parsers: don't wait for more of it.
        if len(data) >= limits.total or not (data.startswith(b"GET ") or b"GET ".startswith(data)):
            return UNUSUAL
        return UNUSUAL if b"\n\n" in data or b"\n\r\n" in data else None
    line = _LINE.match(data)
    if line is None:
        return UNUSUAL
    lines = data[line.end() : end + 2]
    if end + 4 > limits.short and _exceeds(limits, line.end(), lines):
        return UNUSUAL
    fields = part = peer = None
    if b"Cache-Peer:" in lines and (peer := _PEER.search(lines)) is not None:
        lines = lines[: peer.start()] + lines[peer.end() :]
    if b"ytes=" in lines and (part := _RANGE.search(lines)) is not None:
        fields = _fields_of(lines[: part.start()] + lines[part.end() :])
        if fields is None or not fields.unconditional:
            part = None  # another Range, or a condition
    if part is None:
        fields = _fields_of(lines)
    if fields is None:
        return UNUSUAL
    http11 = line[2] == b"1"
    close = not http11 if fields.close is None else fields.close
    persistence = CLOSE if close else b"" if http11 else KEEP_ALIVE
    request = Request(line[1].decode("ascii"), http11, fields, end + 4, close, persistence, lines)
    if peer is not None:
        request.peer = peer[1].decode("ascii")
    if part is not None:
        first, last = int(part[2]) if part[2] else None, int(part[3]) if part[3] else None
        request.range, request.range_value = RangeSpec(first, last), part[1].decode("ascii")
    return request


def _exceeds(limits: HeadLimits, first: int, lines: bytes) -> bool:
    """Whether the head or one of its lines is too long, or has too many fields. ``first``: bytes of the request
    line."""
    return (
        first + len(lines) + 2 > limits.total
        or first > limits.line
        or lines.count(b"\n") > limits.fields
        or max(map(len, lines.split(b"\n")), default=0) >= limits.line
    )


def _fields(lines: bytes) -> RequestFields | None:
    """``None`` if anything is unusual."""
    if _FIELDS.fullmatch(lines) is None:
        return None
    pairs = []
    for line in lines[:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        pairs.append((name, value.strip(b" \t")))
    headers = Headers(pairs)
    hosts = headers.get_all("host")
    if len(hosts) != 1 or not is_host_field(hosts[0]) or any(name in headers for name in _MORE_THAN_PLAIN):
        return None
    connection = headers.get_all("connection")
    options = connection_options(connection)
    # mitmproxy may treat non-ASCII characters as white space.
    if "upgrade" in options or not all(map(str.isascii, connection)):
        return None
    close = True if "close" in options else False if "keep-alive" in options else None
    headers = repeatable(headers)
    directives = request_cache_control(headers)
    unconditional = "range" not in headers and not is_conditional(headers)
    plain = unconditional and directives is NOTHING
    return RequestFields(headers, directives, plain, unconditional, close, headers.get_all("via"))


def repeatable(headers: Headers) -> Headers:
    """What of a request's header a fill repeats: without Host, which is made from the target (RFC 9112 §3.2.2), and
    without what speaks of a body of its own, or waits to send one."""
    return end_to_end(headers).without("host", "content-length", "expect")


_remembered = lru_cache(maxsize=4096)(_fields)


def _fields_of(lines: bytes) -> RequestFields | None:
    return _remembered(lines) if len(lines) <= _REMEMBER_LENGTH else _fields(lines)


def absolute_target(text: str) -> Target | None:
    """The target of a request to a forward proxy (RFC 9112 §3.2.2); ``None`` for anything but a valid http URL, which
    mitmproxy's path handles or refuses."""
    try:
        target = absolute(text)
    except TargetError:
        return None
    return target if target.scheme == "http" else None


def with_line(head: bytes, line: bytes) -> bytes:
    """A head with one more field line, or more than one."""
    return b"%b%b\r\n" % (head[:-2], line)


def response_head(status: int, reason: str, headers: Headers) -> bytes:
    """A status line and field lines, with the empty line at the end (RFC 9112 §4)."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason.encode("latin-1", "replace"))]
    lines += [name + b": " + value for name, value in headers.fields]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)
