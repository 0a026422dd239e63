"""What we make of bytes, in the terms of :mod:`.h11_reads`."""

from __future__ import annotations

from collections.abc import Iterable

from proxy_cache.semantics.limits import HeadLimits
from proxy_cache.wire.chunks import ChunkDecoder, ChunkError
from proxy_cache.wire.response_reader import ResponseReader
from proxy_cache.wire.responses import OriginError, ResponseHead

from .h11_reads import Head, Reading

LIMITS = HeadLimits(total=1 << 20, fields=1 << 16, line=1 << 20)


def response(pieces: Iterable[bytes], *, eof: bool, limits: HeadLimits = LIMITS) -> Reading:
    reader, reading = ResponseReader(limits), Reading()
    try:
        for piece in pieces:
            _feed(reader, reading, piece)
    except OriginError as error:
        reading.refused = str(error)
        return reading
    if eof and not reading.is_over:
        if reading.head is not None and reader.ends_with_connection:
            reading.is_over = True
        else:
            reading.refused = "closed"
    return reading


def _feed(reader: ResponseReader, reading: Reading, piece: bytes) -> None:
    if reading.is_over:
        reading.has_more = reading.has_more or bool(piece)
        return
    while reading.head is None:
        head = reader.head(piece)
        if head is None:
            return
        told = Head((head.status, head.reason.encode("latin-1")), head.http11, _fields(head))
        if head.status >= 200:
            reading.head = told
        else:
            reading.interims.append(told)
        piece = b""
    held, reader.held = reader.held, b""
    piece = held or piece
    if not reader.is_over and piece:
        reading.body += reader.body(piece)
    reading.is_over = reader.is_over
    reading.has_more = reader.is_over and reader.has_more
    reading.keep_alive = reader.keep_alive


def chunks(pieces: Iterable[bytes], *, of_response: bool, limits: HeadLimits = LIMITS) -> Reading:
    decoder, reading = ChunkDecoder(limits, of_response=of_response), Reading()
    for piece in pieces:
        if decoder.is_over:
            reading.rest += piece
            continue
        try:
            reading.body += decoder.feed(piece)
        except ChunkError as error:
            reading.refused = error.detail
            return reading
        reading.rest = decoder.rest
    reading.is_over = decoder.is_over
    reading.has_more = bool(reading.rest)
    return reading


def _fields(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    return list(head.headers.fields)
