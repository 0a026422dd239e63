"""How an answer is framed, how it goes to a client's socket, and how it shows that it has broken off.

A flow's answer is framed here too (:func:`framed`) and read by the same :class:`.body_sender.BodySender`; its bytes go
into mitmproxy's stream in place of the socket (:mod:`mitm.layers`).
"""

from __future__ import annotations

import asyncio
from http.client import responses

from ..caching.answers import Answer, BodySource
from ..semantics.headers import Headers, end_to_end
from ..store.body import BodyError
from ..wire.requests import CLOSE, Request, response_head, with_line
from .body_sender import BodySender, as_chunk
from .outcome import NO_STATUS
from .records import RequestRecord

READ_AHEAD = 64 * 1024
"""Bytes of a body that are sent together with its head, and of further requests that are taken while one is answered;
then the client has to wait."""


def has_content(status: int) -> bool:
    """Whether a body follows the head, unless the request was a HEAD (RFC 9112 §6.3)."""
    return status not in (204, 304)


def framed(answer: Answer, *, http11: bool, head: bool = False) -> tuple[Headers, bool, bool]:
    """The header as it goes to the client, whether the body is chunked, and whether the end of the connection is the
    body's end (RFC 9112 §6.3). ``head``: to a HEAD."""
    headers, chunked = answer.framed(http11=http11, head=head)
    return headers, chunked, answer.length is None and not chunked and not head and has_content(answer.status)


def _head(request: Request, answer: Answer) -> tuple[bytes, bool, bool]:
    """The head in bytes, whether the body is chunked, and whether the connection ends with it (RFC 9112 §9.6)."""
    headers, chunked, to_the_end = framed(answer, http11=request.http11)
    head = response_head(answer.status, answer.reason_phrase, headers)
    persistence = CLOSE + request.id_line if to_the_end else request.persistence
    return with_line(head, persistence) if persistence else head, chunked, request.close or to_the_end


def immediate(request: Request, answer: Answer, record: RequestRecord) -> tuple[bytes, bytes, bool] | None:
    """Head and body of an answer that can be had without waiting, and whether the connection ends with it."""
    body = answer.body
    if isinstance(body, bytes):
        content = answer.content()
        assert content is not None
    elif answer.length is None or answer.length > READ_AHEAD:
        return None
    else:
        read = _read_now(body)
        if read is None or len(read) != answer.length:
            record.first = read or None  # to be sent first: the rest of it takes waiting
            return None
        content = read
    record.size = len(content)
    head, _, close = _head(request, answer)
    return head, content if has_content(answer.status) else b"", close


async def send(writer: asyncio.StreamWriter, request: Request, record: RequestRecord, answer: Answer) -> bool:
    """Head and body to the client's socket, as fast as the client takes them; nothing (``NO_STATUS``) if it has left.
    Whether the connection ends with it. What has gone wrong with the body is left in its sender; raises ``OSError`` for
    the client's connection."""
    if writer.transport.is_closing():
        record.status = NO_STATUS
        return True
    head, chunked, close = _head(request, answer)
    content = answer.content()
    if content is not None:
        writer.write(head + content if has_content(answer.status) else head)
        record.size = len(content)
        await writer.drain()
        return close
    assert not isinstance(answer.body, bytes)
    record.sender = sender = BodySender(answer.body, answer.length, chunked=chunked)
    sender.attach(writer, direct=True)
    first = record.first if record.first is not None else _read_now(answer.body)
    if not first:
        writer.write(head)
    else:
        sender.checked(first)
        first_sent = as_chunk(first) if chunked else first
        if len(first) <= READ_AHEAD:
            writer.write(head + first_sent)
        else:
            writer.write(head)
            writer.write(first_sent)
        sender.sent = len(first)
    if sender.sent != answer.length or answer.length is None:
        await sender.wait()
    if sender.error is not None:
        sender.break_off(to_the_end=answer.length is None and not chunked)
        return True
    if chunked:
        writer.write(b"0\r\n\r\n")
    return close


def _read_now(body: BodySource) -> bytes | None:
    """The next bytes, if they are here. An error is met again, and told, where the rest is waited for."""
    try:
        return body.read_now()
    except (BodyError, OSError):
        return None


def interim_head(status: int, reason: str, headers: Headers) -> bytes:
    """A 1xx as it goes on to a client (RFC 9110 §15.2)."""
    return response_head(status, reason, end_to_end(headers))


def send_interim(transport: asyncio.WriteTransport, status: int, headers: Headers) -> None:
    """A 1xx to a client of HTTP/1.1, while its answer is waited for. Nobody needs one (RFC 9110 §15.2): it is dropped
    for a client with unsent bytes before it."""
    if not transport.is_closing() and not transport.get_write_buffer_size():
        transport.write(interim_head(status, responses.get(status, ""), headers))
