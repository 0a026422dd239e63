"""Responses of origins, piece by piece: their end, their heads, and the fate of the connection (RFC 9112)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.limits import HeadLimits
from proxy_cache.upstream.connection import OriginConnection
from proxy_cache.upstream.origin import OriginClient, OriginError, OriginSettings
from proxy_cache.upstream.response import OriginResponse
from proxy_cache.wire.response_reader import MAX_INTERIM, MAX_LINE_BREAKS
from proxy_cache.wire.responses import parse_head
from tests.support.origin import PATIENCE
from tests.support.tasks import until

CLOSE = b"close"
"""In a list of pieces: the origin ends the connection."""
HOLD = b"hold"
"""The origin waits for ``go``: so later pieces are not read together with earlier ones."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class RawOrigin:
    """Responds to each request with the next list of pieces, which arrive one by one."""

    def __init__(self, answers: list[list[bytes]]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0
        """Connections that are still open."""
        self.ended = asyncio.Event()
        """Whether the client has closed a connection."""
        self.go = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.writers.append(writer)
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                for piece in self.answers.pop(0):
                    if piece is CLOSE:
                        writer.close()
                        return
                    if piece is HOLD:
                        await self.go.wait()
                        continue
                    writer.write(piece)
                    await writer.drain()
                    # So that it is mostly read before the next one is sent. No result depends on it.
                    for _ in range(3):
                        await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
            writer.close()
        finally:
            self.open -= 1


@contextlib.asynccontextmanager
async def clients(
    origin: RawOrigin, **settings: Any
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, OriginResponse]]]:
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    client = OriginClient(OriginSettings(**{"timeout": 20, "retries": 0, **settings}))
    target = Target.of("http", "127.0.0.1", server.sockets[0].getsockname()[1], "/x")
    interim: list[int] = []

    async def get() -> OriginResponse:
        return await client.get(target, Headers(), on_interim=lambda status, headers: interim.append(status))

    get.interim = interim  # type: ignore[attr-defined]
    get.client = client  # type: ignore[attr-defined]
    try:
        yield get
    finally:
        await client.close()
        server.close()
        for writer in origin.writers:
            writer.close()


def then(method: Callable[..., Any], also: Callable[[], object]) -> Callable[..., None]:
    """Call something right after a method, in the same turn of the loop."""

    def both(*arguments: Any) -> None:
        method(*arguments)
        also()

    return both


def first_of_all(method: Callable[..., Any], also: Callable[[], object]) -> Callable[..., None]:
    """Call something right before a method."""

    def both(*arguments: Any) -> None:
        also()
        method(*arguments)

    return both


async def body_of(response: OriginResponse) -> bytes:
    body = b""
    while chunk := await response.read():
        body += chunk
    return body


def answered(*answers: list[bytes], asks: int | None = None) -> tuple[list[tuple[int, bytes] | str], RawOrigin]:
    """Results of one GET for each response, or of ``asks``: status and body, or the name of the error."""

    async def run() -> tuple[list[tuple[int, bytes] | str], RawOrigin]:
        origin = RawOrigin(list(answers))
        results: list[tuple[int, bytes] | str] = []
        async with clients(origin) as get:
            for _ in range(len(answers) if asks is None else asks):
                try:
                    response = await get()
                    try:
                        results.append((response.status, await body_of(response)))
                    finally:
                        response.close()
                except OriginError as error:
                    results.append(error.error)
        return results, origin

    return asyncio.run(asyncio.wait_for(run(), PATIENCE))


def in_pieces(data: bytes) -> list[list[bytes]]:
    """In one piece, cut in two at every place, and byte by byte."""
    cuts = [[data[:at], data[at:]] for at in range(1, len(data))]
    return [[data], *cuts, [data[at : at + 1] for at in range(len(data))]]


# -- where a body ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", id="no reason"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, b"ok", id="bare line feeds"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\n\r\n\r\n\r\n", 200, b"\r\n\r\n", id="mixed line ends"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", id="204"),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n", 304, b"", id="304 with a length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            200, b"abc0123456789", id="chunks",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1 \r\na\r\n000\r\nX: trailer\r\nY: z\r\n\r\n",
            200, b"a", id="trailers",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b"", id="no chunk",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", id="one length",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked,\r\n\r\n%b2\r\nok\r\n%b\r\n\r\n" % (b"0" * 20, b"0" * 20),
            200, b"ok", id="leading zeros of chunks",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 20 + b"2\r\n\r\nok", 200, b"ok", id="leading zeros",
        ),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok", id="1xx",
        ),
    ],
)  # fmt: skip
def test_where_a_body_ends(answer: bytes, status: int, body: bytes) -> None:
    """However it is cut; and the same connection serves the next request."""
    cuts = in_pieces(answer)
    results, origin = answered(*[pieces for cut in cuts for pieces in (cut, [OK])])
    assert results == [(status, body), (200, b"ok")] * len(cuts)
    assert origin.connections == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end", id="1.1"),
        pytest.param(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nx", b"x", id="1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nx", b"x", id="identity"),
    ],
)
def test_a_body_that_ends_with_its_connection(answer: bytes, body: bytes) -> None:
    cuts = in_pieces(answer)
    results, origin = answered(*[[*cut, CLOSE] for cut in cuts])
    assert results == [(200, body)] * len(cuts)
    assert origin.connections == len(cuts)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", id="no last chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\no", id="within a chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", id="within the trailers"),
    ],
)
def test_a_body_that_breaks_off(answer: bytes) -> None:
    results, _ = answered([answer, CLOSE])
    assert results == ["http_response_incomplete"]


def test_what_came_before_the_break_can_be_read() -> None:
    async def run() -> None:
        origin = RawOrigin([[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CLOSE]])
        async with clients(origin) as get:
            response = await get()
            await until(lambda: not get.client.connections)  # type: ignore[attr-defined]
            assert await response.read() == b"half"
            with pytest.raises(OriginError) as broken:
                await response.read()
            assert broken.value.error == "http_response_incomplete"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "http_protocol_error"),
        (b"HTTP/2 200\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\n\rContent-Length: 5\r\n\r\nhello", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length\0: 5\r\n\r\nhello", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length\r\n : 5\r\n\r\nhello", "http_protocol_error"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nanything", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\nhello", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nok", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nok", "http_protocol_error"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "http_response_transfer_coding",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "http_response_transfer_coding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "http_response_transfer_coding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;x\r\n\r\n", "http_protocol_error"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n",
            "http_protocol_error",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", "http_response_header_size"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 0123456789\r\n" * 30_000, "http_response_header_section_size"),
    ],
)
def test_what_is_no_response(answer: bytes, error: str) -> None:
    """It is reported at once, though the origin keeps the connection open."""
    assert answered([answer])[0] == [error]


@pytest.mark.parametrize(
    ("rest", "error"),
    [
        (b"A:\r\n" * 100, None),
        (b"A:\r\n" * 101, "http_response_header_section_size"),
        (b"A: " + b"a" * 995 + b"\r\n", None),
        (b"A: " + b"a" * 996 + b"\r\n", "http_response_header_size"),
        (b"A: " + b"a" * 600 + b"\r\n " + b"a" * 600 + b"\r\n", "http_response_header_size"),
        ((b"A: " + b"a" * 393 + b"\r\n") * 4, None),
        ((b"A: " + b"a" * 395 + b"\r\n") * 5, "http_response_header_section_size"),
    ],
    ids=["fields", "a field too many", "a line", "a line too long", "folded", "a head", "a head too long"],
)
@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early\r\n"])
def test_heads_at_their_limits(first: bytes, rest: bytes, error: str | None) -> None:
    limits = HeadLimits(total=2000, fields=100, line=1000)
    data = first + rest + b"\r\n"
    if error is None:
        head = parse_head(data, limits)
        assert head is not None
        assert head.size == len(data)
    else:
        with pytest.raises(OriginError, match=error):
            parse_head(data, limits)


@pytest.mark.parametrize(
    "limit", [b"a" * 1000, b"HTTP/1.1 200 " + b"a" * 1000, b"HTTP/1.1 200 " + b"a" * 1000 + b"\r\n"]
)
def test_a_status_line_that_does_not_end_is_not_waited_for(limit: bytes) -> None:
    with pytest.raises(OriginError):
        parse_head(limit + b"a", HeadLimits(total=2000, fields=100, line=1000))


@pytest.mark.parametrize(
    ("trailers", "error"),
    [
        (b"A: b\r\n" * 256, None),
        (b"A: b\r\n" * 257, "http_response_trailer_section_size"),
        ((b"A: " + b"b" * 1000 + b"\r\n") * 70, "http_response_trailer_section_size"),
        (b"A: " + b"b" * 16_382 + b"\r\n", "http_response_trailer_size"),
    ],
    ids=["fields", "a field too many", "too long", "a line too long"],
)
def test_trailers_at_their_limits(trailers: bytes, error: str | None) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + trailers + b"\r\n"
    assert answered([answer])[0] == [(200, b"ok") if error is None else error]


# -- what a head says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (b"A: b\r\n", ((b"A", b"b"),)),
        (b"A:b\r\nc:\r\nD: \t \r\n", ((b"A", b"b"), (b"c", b""), (b"D", b""))),
        (b"A :  b c\t \r\n", ((b"A", b"b c"),)),
        (b"A: b: c\r\nA: \xff\x80\r\n", ((b"A", b"b: c"), (b"A", b"\xff\x80"))),
        (b"A: b\r\n  c\r\n\td \r\nE: f\r\n", ((b"A", b"b c d"), (b"E", b"f"))),
        (b"A: b\0c\r\n", ((b"A", b"b c"),)),
        (b"A: b\rC: d\r\n", ((b"A", b"b C: d"),)),
        (b"no field\r\nA: b\r\nb@d: x\r\n: x\r\n", ((b"A", b"b"),)),
        (b" folded: before the first\r\nA: b\r\n", ((b"A", b"b"),)),
        (b"", ()),
    ],
)
def test_fields(lines: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    head = parse_head(b"HTTP/1.1 418 I'm a teapot \xe9\r\n" + lines + b"\r\n")
    assert head is not None
    assert head.headers.fields == fields
    assert (head.status, head.reason, head.http11) == (418, "I'm a teapot \xe9", True)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"A:" + b" " * 200_000 + b"\rx\r\n", id="a bare CR"),
        pytest.param(b"A:" + b" " * 200_000 + b"\0\r\n", id="NUL"),
        pytest.param(b"A: x" + b" " * 200_000 + b"y\r\n z\r\n", id="folded"),
        pytest.param(b"A: x\r\n" + b" y\r\n" * 50_000, id="folded often"),
    ],
)
def test_no_head_takes_long(lines: bytes) -> None:
    """Origins are untrusted. A parser that backtracks over spaces would exceed the suite's time limit for a test here.
    (Growth of the time: tests/semantics/test_growth.py.)"""
    with contextlib.suppress(OriginError):
        parse_head(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")


# -- the connection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="1.0"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", id="more than was asked for"
        ),
    ],
)
def test_a_connection_that_is_not_used_again(answer: bytes) -> None:
    results, origin = answered([answer], [OK])
    assert results == [(200, b"ok")] * 2
    assert origin.connections == 2


def test_a_connection_of_1_0_that_is_kept() -> None:
    results, origin = answered([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\nok"], [OK])
    assert results == [(200, b"ok")] * 2
    assert origin.connections == 1


@pytest.mark.parametrize(("count", "result"), [(MAX_INTERIM, (200, b"ok")), (MAX_INTERIM + 1, "http_protocol_error")])
@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing"])
def test_interim_responses_do_not_hold_a_slot_for_ever(status: bytes, count: int, result: Any) -> None:
    """The limit is for one response: the next one may have as many again."""
    pieces = [b"HTTP/1.1 %b\r\n\r\n" % status] * count
    results, _ = answered([*pieces, OK], [*pieces, OK])
    assert results == [result, result]


@pytest.mark.parametrize(("count", "result"), [(MAX_LINE_BREAKS // 2, (200, b"ok")), (1000, "http_protocol_error")])
def test_line_breaks_do_not_hold_a_slot_for_ever(count: int, result: Any) -> None:
    """A few of them are ignored (RFC 9112 §2.2)."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    results, _ = answered([*[b"\r\n"] * count, answer])
    assert results == [result]


def test_interim_responses_are_told() -> None:
    async def run() -> None:
        origin = RawOrigin([[b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", OK]])
        async with clients(origin) as get:
            assert await body_of(await get()) == b"ok"
            assert get.interim == [103]  # type: ignore[attr-defined]

    asyncio.run(run())


def test_an_idle_connection_that_has_ended_costs_no_try() -> None:
    """RFC 9112 §9.3.1. Without retries; the origin closes the connection when it gets the next request."""
    results, origin = answered([OK], [CLOSE], [OK], asks=2)
    assert results == [(200, b"ok")] * 2
    assert origin.connections == 2
    assert len(origin.requests) == 3


def test_a_new_connection_that_ends_is_an_error() -> None:
    assert answered([CLOSE])[0] == ["connection_terminated"]


def test_half_an_answer_is_not_asked_for_again() -> None:
    results, origin = answered([OK], [b"HTTP/1.1 200", CLOSE])
    assert results == [(200, b"ok"), "connection_terminated"]
    assert len(origin.requests) == 2


def test_what_nobody_has_asked_for_ends_an_idle_connection() -> None:
    async def run() -> None:
        origin = RawOrigin([[OK], [OK]])
        async with clients(origin) as get:
            assert await body_of(await get()) == b"ok"
            origin.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            await origin.ended.wait()
            assert await body_of(await get()) == b"ok"
            assert origin.connections == 2

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_who_is_cancelled_takes_nobody_else_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response is complete, and the connection in the pool, before the caller runs again and is cancelled."""

    async def run() -> None:
        origin = RawOrigin([[OK], [OK], [OK]])
        async with clients(origin) as get:
            await body_of(await get())
            first = asyncio.create_task(get())
            with monkeypatch.context() as patched:
                patched.setattr(OriginConnection, "data_received", then(OriginConnection.data_received, first.cancel))
                with pytest.raises(asyncio.CancelledError):
                    await first
            assert get.client.idle == 1  # type: ignore[attr-defined]
            assert await body_of(await get()) == b"ok"
            assert origin.connections == 1

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_who_is_cancelled_while_it_waits_ends_the_connection() -> None:
    async def run() -> None:
        origin = RawOrigin([[], [OK]])
        async with clients(origin) as get:
            first = asyncio.create_task(get())
            await until(lambda: bool(origin.requests))
            first.cancel()
            await origin.ended.wait()
            assert await body_of(await get()) == b"ok"
            assert origin.connections == 2

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.mark.parametrize(("body", "left"), [(b"ab", 0), (b"abc", 1)])
def test_who_is_cancelled_as_the_answer_comes_leaves_no_body_behind(
    monkeypatch: pytest.MonkeyPatch, body: bytes, left: int
) -> None:
    """In one turn of the loop, so that the caller has not run yet. The connection is kept only if the response is
    complete."""

    async def run() -> None:
        origin = RawOrigin([[b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body]])
        async with clients(origin) as get:
            task = asyncio.create_task(get())
            monkeypatch.setattr(
                OriginConnection, "data_received", first_of_all(OriginConnection.data_received, task.cancel)
            )
            with pytest.raises(asyncio.CancelledError):
                await task
            assert get.client.connections == get.client.idle == left  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("announced", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("interim", [False, True])
def test_what_announces_a_body_that_it_can_not_have_ends_its_connection(
    status: int, announced: bytes, interim: bool
) -> None:
    """If it arrived later, it would be read as the next response."""
    answer = b"HTTP/1.1 %d So\r\n%b\r\n\r\n" % (status, announced)
    if interim:
        answer = b"HTTP/1.1 103 So\r\n%b\r\n\r\nHTTP/1.1 %d So\r\n\r\n" % (announced, status)
    results, origin = answered([answer], [OK])
    assert results == [(status, b""), (200, b"ok")]
    assert origin.connections == 2


@pytest.mark.parametrize("stray", [b"<html>not modified</html>", b"0\r\n\r\n", b"HTTP\r\n"])
def test_what_is_left_over_from_the_response_before_is_not_the_next_ones(stray: bytes) -> None:
    """It arrives with the next response, whose request is sent again over a new connection."""
    results, origin = answered([b"HTTP/1.1 304 Not Modified\r\n\r\n"], [stray + OK], [OK], asks=2)
    assert results == [(304, b""), (200, b"ok")]
    assert origin.connections == 2
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert answered([OK], [interim + stray], asks=2)[0] == [(200, b"ok"), "http_protocol_error"]
    assert answered([stray])[0] == ["http_protocol_error"]


def test_after_a_line_that_is_no_field_a_connection_is_not_used_again() -> None:
    results, origin = answered([b"HTTP/1.1 200 OK\r\nno field\r\nContent-Length: 2\r\n\r\nok"], [OK])
    assert results == [(200, b"ok"), (200, b"ok")]
    assert origin.connections == 2


def test_a_slow_reader_makes_the_origin_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ahead is bounded, and nothing is lost or stuck."""
    size = 8_000_000
    come = 0
    put = OriginResponse.put

    def counted(response: OriginResponse, chunk: bytes) -> bool:
        nonlocal come
        come += len(chunk)
        return put(response, chunk)

    monkeypatch.setattr(OriginResponse, "put", counted)

    async def run() -> None:
        origin = RawOrigin([[b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, bytes(size)], [OK]])
        async with clients(origin) as get:
            response = await get()
            most = received = 0
            while chunk := await response.read():
                received += len(chunk)
                await asyncio.sleep(0)  # slowly: more has arrived meanwhile
                most = max(most, come - received)
            assert received == size
            assert most <= 768 * 1024
            assert await body_of(await get()) == b"ok"
            assert origin.connections == 1

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_an_origin_that_says_nothing() -> None:
    async def run() -> None:
        origin = RawOrigin([[], [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"]])
        async with clients(origin, timeout=1) as get:
            with pytest.raises(OriginError) as error:
                await get()
            assert error.value.error == "http_response_timeout"
            response = await get()
            with pytest.raises(OriginError) as error:
                await body_of(response)
            assert error.value.error == "connection_read_timeout"
            assert not get.client.connections  # type: ignore[attr-defined]
            await until(lambda: not origin.open)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def dripped(piece: bytes, *, first: bytes = b"", last: bytes = b"", count: int = 10_000, timeout: float = 0.5) -> Any:
    """The result of a response that arrives piece by piece, every tenth of a second: status and body, or the error."""

    async def run() -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(first)
                for _ in range(count):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.1)
                writer.write(last)
                await reader.read()
            writer.close()

        origin = RawOrigin([])
        origin.serve = serve  # type: ignore[method-assign]
        async with clients(origin, timeout=timeout) as get:
            try:
                response = await get()
                return response.status, await body_of(response)
            except OriginError as error:
                return error.error, error.detail

    return asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.mark.parametrize("piece", [b"a", b"\r\nX: y"])
def test_a_head_that_has_begun_has_to_come_to_its_end(piece: bytes) -> None:
    """A byte now and then does not extend the time."""
    error, why = dripped(piece, first=b"HTTP/1.1 200 OK\r\nX: ")
    assert (error, why) == ("http_response_timeout", "a head took more than 0.5 s")


def test_line_breaks_now_and_then_are_no_sign_of_life() -> None:
    assert dripped(b"\r\n")[1] == "a head took more than 0.5 s"


def test_interim_responses_put_an_answer_off_for_a_while() -> None:
    piece = b"HTTP/1.1 102 Processing\r\n\r\n"
    # (A second: on a busy machine the tenth between two of them has been half a one.)
    assert dripped(piece, count=20, last=OK, timeout=1) == (200, b"ok")  # twice the timeout
    assert dripped(piece, timeout=1) == ("http_response_timeout", "no more than interim responses came for 4 s")


def test_an_interim_response_that_does_not_end() -> None:
    whole = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert dripped(b"a", first=whole + whole[:-2] + b"X: ")[1] == "a head took more than 0.5 s"


def test_idle_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy_cache.upstream.pool.KEPT_FOR", 0.05)

    async def run() -> None:
        origin = RawOrigin([[OK]])
        async with clients(origin) as get:
            await body_of(await get())
            await origin.ended.wait()
            assert get.client.connections == get.client.idle == 0  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_other_settings_mean_other_connections() -> None:
    async def run() -> None:
        origin = RawOrigin([[OK], [OK]])
        async with clients(origin) as get:
            await body_of(await get())
            get.client.configure(OriginSettings(timeout=10))  # type: ignore[attr-defined]
            await body_of(await get())
            assert origin.connections == 2

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
