"""Reading a stored response that has gaps, which are filled on the way.

A reader goes from what is in the file to what a running fill is bringing, and where there is neither it starts a fill
for the span that is missing. So no byte is fetched twice at a time, however the ranges of many readers overlap. One
span is asked for ahead of the reader, no more: a client that stops reading does not make the origin send it all.
"""

from __future__ import annotations

from .answers import Exchange, Seekable
from .fill_table import FillTable
from .fills import FillRequest
from .limiter import Overloaded
from .origin_response import OriginError
from .parts import Part
from .semantics import ranges
from .semantics.ranges import RangeSpec, is_same_representation, requested
from .semantics.signatures import signed_fields
from .semantics.spans import Span
from .semantics.validation import CONDITIONAL
from .store.body import BodyError, Reader
from .store.files import READ_SIZE, OpenBody
from .store.index import Entry
from .waiter import ClientGone, FillHead, SentOn, Waiter


class GapReader:
    """Reads spans of an entry's body for one exchange; a :class:`~.answers.Source`."""

    __slots__ = (
        "_ahead", "_closed", "_exchange", "_file", "_piece", "_table", "_waiter", "_whole", "entry", "offset", "stop",
    )  # fmt: skip

    def __init__(self, table: FillTable, exchange: Exchange, entry: Entry, span: Span, *, whole: bool) -> None:
        self.entry = entry
        self.offset, self.stop = span
        self._table = table
        self._exchange = exchange
        self._whole = whole
        """Whether all of the body is wanted: gaps are then asked for in one piece each."""
        self._file: OpenBody | None = None
        self._waiter: Waiter | None = None
        self._piece: Reader | None = None
        self._ahead: Waiter | None = None
        self._closed = False

    # -- fills --------------------------------------------------------------------------------------------------

    def wait_for(self, offset: int, stop: int) -> tuple[Waiter, bool]:
        """A place with the fill that brings the byte at ``offset``, and whether it was there already.

        Raises :class:`Overloaded` if one has to be started and can't be.
        """
        exchange, entry = self._exchange, self.entry
        fill = self._table.bringing(entry, offset)
        if fill is not None:
            return fill.join(exchange.client, exchange.headers), True
        headers = exchange.headers.without(*CONDITIONAL, "range")
        signed = exact_range(exchange)
        if signed is not None:
            part = Part(signed, RangeSpec(offset, offset), entry, exchange.headers.get("range"))
        else:
            span = self._table.span_for(entry, offset, stop, whole=self._whole)
            need = RangeSpec(offset, min(stop, span.stop) - 1)
            part = Part(RangeSpec(span.start, span.stop - 1), need, entry)
        request = FillRequest(
            exchange.key, exchange.target, headers, exchange.client, policy=exchange.policy, part=part
        )
        return self._table.start(request), False

    def suits(self, head: FillHead) -> bool:
        """Whether the body under this head is, or has, a piece of ours."""
        if head.piece_of is not None:
            return head.piece_of is self.entry
        return (
            head.body is not None
            and head.length is None
            and head.response.status == 200
            and is_same_representation(self.entry.response.headers, head.response.headers)
        )

    def hold(self, waiter: Waiter, gap: int) -> None:
        """Have this waiter, whose head has arrived, for the piece that begins at, or before, ``gap``."""
        if self._ahead is not None:
            self._ahead.leave()
        self._ahead = waiter
        if waiter.reader is not None:
            waiter.reader.offset = gap

    def take(self, waiter: Waiter) -> None:
        """Go on with what this waiter gets; its head has arrived and suits."""
        if self._waiter is not None and self._waiter is not waiter:
            self._waiter.leave()
        self._waiter = waiter
        piece = self._piece = waiter.reader
        assert piece is not None
        body = waiter.fill.body
        piece.offset = self.offset
        piece.stop = self.stop if body is None or body.total is None else min(self.stop, body.total)
        self._look_ahead(piece.stop)

    def _look_ahead(self, offset: int) -> None:
        """Ask for the next gap while the piece before it is read."""
        entry = self.entry
        gap = entry.spans.first_missing(offset, self.stop) if entry.spans is not None else None
        if gap is None or exact_range(self._exchange) is not None:
            return
        if self._ahead is not None:
            if self._ahead.fill.brings(gap):
                return
            self._ahead.leave()
            self._ahead = None
        try:
            self._ahead, _ = self.wait_for(gap, self.stop)
        except Overloaded:
            return  # it will be asked for when it is needed

    async def _next_piece(self) -> None:
        """Get hold of the fill that brings the next byte. Raises :class:`BodyError` if there is none to be had: what
        the client has got so far is right, and the rest is not to be had now."""
        waiter, self._ahead = self._ahead, None
        if waiter is not None and not waiter.fill.brings(self.offset):
            waiter.leave()
            waiter = None
        try:
            if waiter is None:
                waiter, _ = self.wait_for(self.offset, self.stop)
            self._waiter = waiter
            head = await waiter.head()
        except (Overloaded, OriginError, SentOn, ClientGone) as error:
            raise BodyError(f"the next piece could not be fetched: {error}") from error
        if not self.suits(head):
            raise BodyError(f"the origin has no more of this version (status {head.response.status})")
        self.take(waiter)

    def _end_piece(self) -> None:
        self._piece = None
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.leave()

    # -- a source -----------------------------------------------------------------------------------------------

    def seek(self, start: int, stop: int) -> None:
        """Go on with another span."""
        self._end_piece()
        self.offset, self.stop = start, stop

    def read_now(self) -> bytes | None:
        if self._closed:
            raise BodyError("the reader was closed")
        if self.offset >= self.stop:
            return b""
        if self._piece is not None:
            data = self._piece.read_now()
            if data != b"":
                return self._took(data) if data is not None else None
            self._end_piece()
        size = self._size_here()
        if not size or self._file is None:
            return None
        try:
            return self._took(self._table.store.files.read_now(self._file.fd, size, self.offset))
        except OSError as error:
            raise self._torn(error) from error

    async def read(self) -> bytes:
        while True:
            data = self.read_now()
            if data is not None:
                return data
            if self._piece is not None:
                data = await self._piece.read()
                if data:
                    return self._took(data) or b""
                self._end_piece()
            elif self._size_here():
                if self._file is not None:
                    return await self._read_file(self._file)
                await self._open()
            else:
                await self._next_piece()

    def _size_here(self) -> int:
        """Bytes that can be read from the file, at once, from where we are."""
        spans = self.entry.spans
        span = Span(0, self.entry.length) if spans is None else spans.at(self.offset)
        return min(READ_SIZE, span.stop - self.offset, self.stop - self.offset) if span is not None else 0

    async def _open(self) -> None:
        store = self._table.store
        try:
            file = await store.files.open(self.entry.id, self.entry.length)
        except OSError as error:
            raise self._torn(error) from error
        if self._closed or self._file is not None:
            store.files.release(file)
        else:
            self._file = file

    async def _read_file(self, file: OpenBody) -> bytes:
        try:
            data = await self._table.store.files.read(file, self._size_here(), self.offset)
        except OSError as error:
            raise self._torn(error) from error
        if not data:
            raise self._torn(OSError("the body file is shorter than its entry"))
        return self._took(data) or b""

    def _took(self, data: bytes | None) -> bytes | None:
        if data is not None:
            self.offset += len(data)
        return data

    def _torn(self, error: OSError) -> BodyError:
        if self._table.store.holds(self.entry):
            self._table.store.drop_unreadable(self.entry, error)
        return BodyError(str(error))

    def close(self) -> None:
        """No more is wanted. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for waiter in (self._waiter, self._ahead):
            if waiter is not None:
                waiter.client_gone()  # ends a wait for its head as well
        if self._file is not None:
            file, self._file = self._file, None
            self._table.store.files.release(file)


def first_part(exchange: Exchange, table: FillTable) -> Part | None:
    """What to ask for, when a range is wanted of what isn't stored; ``None``: all of it.

    The block around the first range. Of the end of what is of unknown length no block can be named, but the last so
    many bytes can.
    """
    specs = requested(exchange.headers)
    if specs is None or table.spans.fetches_whole(table.length_of(exchange.key)):
        return None
    exact = exact_range(exchange)
    if exact is not None:
        return Part(exact, exact, None, exchange.headers.get("range"))
    first, last = specs[0]
    block, most = table.spans.block, table.spans.most
    if not block:
        return Part(specs[0], specs[0])
    if first is None:
        return Part(RangeSpec(None, -(-(last or 0) // block) * block or 1), specs[0])
    span = table.first_span(first, first + most if last is None else last + 1)
    ask = RangeSpec(span.start, span.stop - 1)
    return Part(ask, RangeSpec(first, first if last is None else min(last, span.stop - 1)))


def exact_range(exchange: Exchange) -> RangeSpec | None:
    """The range of a request that is signed for just this range; ``None`` if another may be asked for."""
    specs = requested(exchange.headers)
    if specs is None or len(specs) != 1 or "range" not in signed_fields(exchange.headers, exchange.target.path):
        return None
    return specs[0]


def is_bound(exchange: Exchange) -> bool:
    """Whether a request cannot be asked in any other way than it came: its signature covers conditions, or several
    ranges."""
    signed = signed_fields(exchange.headers, exchange.target.path)
    if not signed or signed.isdisjoint({"range", *CONDITIONAL}):
        return False
    if any(name in exchange.headers for name in signed & CONDITIONAL):
        return True
    return "range" in signed and "range" in exchange.headers and exact_range(exchange) is None


class MultipartReader:
    """Reads several spans through one source, as the body of a multipart/byteranges response (RFC 9110 §14.6)."""

    __slots__ = ("_end", "_parts", "_source", "_started")

    def __init__(self, source: Seekable, parts: list[ranges.Part], end: bytes) -> None:
        self._source = source
        self._parts = parts[::-1]
        self._end = end
        self._started = False

    def read_now(self) -> bytes | None:
        data = self._source.read_now() if self._started else b""
        return self._next() if data == b"" else data

    async def read(self) -> bytes:
        data = await self._source.read() if self._started else b""
        return data or self._next()

    def _next(self) -> bytes:
        if self._parts:
            part = self._parts.pop()
            self._source.seek(*part.span)
            self._started = True
            return part.head
        end, self._end = self._end, b""
        return end

    def close(self) -> None:
        self._source.close()
