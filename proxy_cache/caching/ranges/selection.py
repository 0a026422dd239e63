"""The spans of a body that a request selects, and the answer with them (RFC 9110 §14)."""

from __future__ import annotations

import secrets
from typing import Final, Literal, TypeAlias

from ...semantics import ranges
from ...semantics.headers import Headers
from ...semantics.spans import Span, Spans
from ...semantics.stored import StoredResponse
from ...store.index import Entry
from ..answers import Answer, Exchange, Seekable
from ..headers import Heads, conditionally, put
from .multipart import MultipartReader

Selected: TypeAlias = list[Span] | Literal["unsatisfiable"] | None
"""Spans of a body; ``None``: all of it."""
_OF_A_BODY: Final = ("content-length", "content-type", "content-encoding", "etag", "last-modified")


def selected(exchange: Exchange, response: StoredResponse, length: int) -> Selected:
    """The spans that a request selects of a body of this length; ``None``: all of it."""
    if response.status != 200 or "range" not in exchange.headers:
        return None  # before its requirements are made: most misses need none
    asked = exchange.requirements.ranges
    if asked is None or not ranges.if_range_holds(exchange.headers, response.headers):
        return None
    return ranges.spans_of(asked, length)


def first_gap(entry: Entry, spans: Selected, here: Spans | None = None) -> int | None:
    """The first selected byte that is not in the file (or in ``here``)."""
    here = entry.spans if here is None else here
    if here is None or spans == "unsatisfiable":
        return None
    for start, stop in spans or [Span(0, entry.length)]:
        gap = here.first_missing(start, stop)
        if gap is not None:
            return gap
    return None


def has_it_all(exchange: Exchange, entry: Entry) -> bool:
    """Whether all selected bytes of an entry are in the file."""
    return entry.spans is None or (first_gap(entry, selected(exchange, entry.response, entry.length)) is None)


def answer_with(
    heads: Heads,
    exchange: Exchange,
    headers: Headers,
    response: StoredResponse,
    source: Seekable,
    length: int | None,
    spans: Selected,
    status: str,
    served_from: str,
    reason: str = "",
) -> Answer:
    """200 with all that ``source`` has, or the part of it that was asked for (RFC 9110 §15.3.7)."""
    code = response.status
    if code == 200 and length is not None and "accept-ranges" not in headers:
        headers = headers.add("Accept-Ranges", "bytes")
    if spans == "unsatisfiable":
        exchange.close()
        exchange.source = None
        headers = put(headers, "Content-Range", f"bytes */{length}")
        headers = ranges.without_digests(headers).without(*_OF_A_BODY)
        answer = Answer(416, "", heads.own(headers, response, status), b"", 0, served_from)
        return conditionally(exchange, answer)
    if spans is not None and length is not None:
        code, reason = 206, ""
        headers = ranges.without_digests(headers)  # a digest is about the whole, or another part
        if len(spans) == 1:
            headers = put(headers, "Content-Range", ranges.content_range(spans[0], length))
            source.seek(*spans[0])
            length = spans[0].length
        else:
            boundary = secrets.token_hex(16)
            parts, end, length = ranges.multipart(spans, length, headers.get("content-type"), boundary)
            headers = put(headers, "Content-Type", f"multipart/byteranges; boundary={boundary}")
            exchange.source = MultipartReader(source, parts, end)
    assert exchange.source is not None
    answer = Answer(code, reason, heads.own(headers, response, status), exchange.source, length, served_from)
    return conditionally(exchange, answer)


def is_within(spans: Selected, start: int, stop: int) -> bool:
    """Whether a piece has all selected bytes."""
    return isinstance(spans, list) and all(start <= span.start and span.stop <= stop for span in spans)
