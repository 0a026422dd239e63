"""Reading a stored response that has gaps, which are filled on the way, or one that goes while it is read.

A reader goes from what is in the file to what a running fill is bringing, and where there is neither it starts a fill
for the span that is missing. So no byte is fetched twice at a time, however the ranges of many readers overlap. One
span is asked for ahead of the reader, no more: a client that stops reading does not make the origin send it all.

An entry may be evicted, superseded, or turn out to be unreadable while a client is sent its body. What is open stays
readable; what isn't, is asked for again, under the entry's strong validator, and is then for this client alone:
nothing of it is kept, but the response goes on (see :func:`from_origin`).
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Final

from .ahead import LOOK, ahead_of, is_ahead, may_be_combined
from .answers import Exchange, Seekable, corrupt, cut_short
from .fill_table import FillTable
from .fills import FillRequest
from .limiter import Overloaded
from .origin_response import OriginError
from .parts import Part
from .semantics import ranges
from .semantics.ranges import RangeSpec, is_same_representation, requested, strong_validator
from .semantics.signatures import signed_fields
from .semantics.spans import Span, Spans
from .semantics.stored import StoredResponse
from .semantics.validation import CONDITIONAL
from .store.body import BodyError, BodyLost, Reader
from .store.files import READ_SIZE, OpenBody, TornFile
from .store.index import Entry
from .waiter import ClientGone, FillHead, SentOn, Waiter

PATIENCE: Final = 8
"""Places in a full queue that are asked for, one after the other, before a response that has begun is given up: its
client can't be told to come again later."""
PAUSE: Final = 1.0
"""Seconds between them."""
RESENT: Final = 2
"""Times that a response that has begun is sent on from what others have asked for."""
LOSSES: Final = 8
"""Times that what has just been fetched can't be read from the disk before the next byte could."""


class GapReader:
    """Reads spans of an entry's body for one exchange; a :class:`~.answers.Source`."""

    __slots__ = (
        "_ahead", "_closed", "_exchange", "_file", "_is_lost", "_losses", "_piece", "_slow", "_table", "_waiter",
        "_whole", "entry", "offset", "stop",
    )  # fmt: skip

    def __init__(
        self,
        table: FillTable,
        exchange: Exchange,
        entry: Entry,
        span: Span,
        *,
        whole: bool,
        file: OpenBody | None = None,
        is_lost: bool = False,
    ) -> None:
        """``file``: of the entry, which is kept open from here on. ``is_lost``: nothing of it can be read."""
        self.entry = entry
        self.offset, self.stop = span
        self._table = table
        self._exchange = exchange
        self._whole = whole
        """Whether all of the body is wanted: gaps are then asked for in one piece each."""
        self._file = file
        self._is_lost = is_lost
        """Whether nothing can be read from the file, whatever the entry says."""
        self._losses = 0
        self._waiter: Waiter | None = None
        self._piece: Reader | None = None
        self._ahead: Waiter | None = None
        self._slow: Waiter | None = None
        """Of a fill that is far behind what is being read (see :mod:`.ahead`)."""
        self._closed = False

    # -- fills --------------------------------------------------------------------------------------------------

    def wait_for(self, offset: int, stop: int) -> tuple[Waiter, bool]:
        """A place with the fill that brings the byte at ``offset``, and whether it was there already.

        Raises :class:`Overloaded` if one has to be started and can't be, and :class:`SentOn` where nothing can be put
        to what is here, for want of a strong validator (RFC 9111 §3.4).
        """
        exchange, entry = self._exchange, self.entry
        fill = self._table.bringing(entry, offset)
        if fill is not None:
            return self._on_behalf(fill.join(exchange.client, exchange.headers, exchange.policy.patience)), True
        if strong_validator(entry.response.headers) is None:
            raise SentOn(alone="range" in exchange.headers)
        signed = exact_range(exchange)
        if signed is None and exchange.key in self._table.unusable:
            return self._wait_for_whole()
        if signed is not None:
            part = Part(signed, RangeSpec(offset, offset), entry, exchange.headers.get("range"), is_exact=True)
        elif self._is_lost:
            # Not all at once: what isn't kept comes no faster than this client reads, and holds a slot as long.
            span = Span(offset, min(stop, offset + self._table.spans.most))
            need = ask = RangeSpec(span.start, span.stop - 1)
            part = Part(ask, need, entry, is_exact=True)
        else:
            span = self._table.span_for(entry, offset, stop, whole=self._whole)
            need = RangeSpec(offset, min(stop, span.stop) - 1)
            ask = RangeSpec(span.start, span.stop - 1)
            part = Part(ask, need, entry, is_exact=ask == need)
        return self._start(part), False

    def _start(self, part: Part | None, *, beside: bool = False) -> Waiter:
        exchange = self._exchange
        headers = exchange.headers.without(*CONDITIONAL, "range")
        request = FillRequest(
            exchange.key, exchange.target, headers, exchange.client,
            policy=exchange.policy, keep=not exchange.wanted.no_store, part=part,
            whole=self._whole and not beside, beside=beside,
        )  # fmt: skip
        return self._on_behalf(self._table.start(request))

    def _on_behalf(self, waiter: Waiter) -> Waiter:
        waiter.asker = self._exchange
        return waiter

    def _wait_for_whole(self) -> tuple[Waiter, bool]:
        """The origin makes nothing useful of ranges: what is lacking is read from a whole, if it is the same one."""
        exchange = self._exchange
        headers = exchange.headers.without(*CONDITIONAL, "range")
        fill = self._table.find(exchange.key, headers, lambda response: True)
        if fill is not None and fill.request.part is None:
            return self._on_behalf(fill.join(exchange.client, headers, exchange.policy.patience)), True
        return self._start(None), False

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
        waiter.hand_on()
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
        if self._slow is not None or not self._table.store.holds(entry):
            return  # what isn't kept is to come when it is read: it holds a slot until then
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
        except (Overloaded, SentOn):
            return  # it will be asked for when it is needed

    async def _next_piece(self) -> None:
        """Get hold of the fill that brings the next byte. Raises :class:`BodyError` if there is none to be had: what
        the client has got so far is right, and the rest is not to be had now."""
        if self._slow is not None and (self._ahead is None or not await self._is_beside(self._ahead)):
            if self._ahead is not None:
                self._ahead.leave()
            self._ahead, self._slow = self._slow, None
        if self._ahead is not None and (self._ahead.asker is None or not self._ahead.fill.brings(self.offset)):
            self._ahead.leave()  # it may have been dropped since it held others up
            self._ahead = None
        for turn in range(PATIENCE):
            if self._closed:
                # Meanwhile, or while a head was waited for that had just come: nobody would leave what is joined now.
                raise BodyError("the reader was closed")
            waiter, self._ahead = self._ahead, None
            try:
                if waiter is None:
                    waiter, _ = self.wait_for(self.offset, self.stop)
                with waiter:
                    self._waiter = waiter
                    head = await waiter.head()
                    self._check(head)
                    if self.is_within(waiter, head, self.offset):
                        waiter.hand_on()
                        self.take(waiter)
                        return
                self._waiter = None  # it brings less than it was to bring, and not this: that is asked for
            except Overloaded as error:
                self._waiter = None
                if turn == PATIENCE - 1:
                    raise BodyError(f"the next piece could not be fetched: {error}") from error
                await asyncio.sleep(PAUSE)
            except SentOn as error:
                # What others have asked for was for them alone, an error that was meant for them, or another version:
                # whichever it was, asking for it oneself tells.
                self._waiter = None
                if turn >= RESENT:
                    raise BodyError(f"the next piece could not be fetched: {error}") from error
            except (OriginError, ClientGone) as error:
                raise BodyError(f"the next piece could not be fetched: {error}") from error
        raise BodyError("the next piece could not be fetched: the origin sends others")

    @staticmethod
    def is_within(waiter: Waiter, head: FillHead, offset: int) -> bool:
        """Whether the byte at ``offset`` is in what has begun to come. An origin may send less than it was asked for,
        and who has joined for the rest would wait for it for ever."""
        if head.piece_of is None:
            return True
        span = waiter.fill.span
        return span.start <= offset < span.stop

    def _check(self, head: FillHead) -> None:
        if not self.suits(head):
            why = f"the origin has no more of this version (status {head.response.status})"
            raise BodyError(why) from OriginError("http_response_incomplete", why)

    # -- beside a fill that is far behind -------------------------------------------------------------------------

    async def _is_far(self, piece: Reader) -> bool:
        """Whether what this piece is to bring next was found to be far away, and comes from elsewhere now."""
        waiter, exchange = self._waiter, self._exchange
        if waiter is None or self._is_lost or not may_be_combined(waiter.fill) or exact_range(exchange) is not None:
            return False
        fill, entry = waiter.fill, self.entry
        if not is_ahead(fill, self.offset):
            return False
        ahead = ahead_of(self._table, fill, entry)
        if ahead is None or ahead.entry is not entry or fill.body is None or not fill.body.kept:
            return False  # the writer of what isn't kept would wait for this reader, once it got there
        if not self._size_here():
            if not await ahead.is_far(piece, self.stop):
                return False
            if self._piece is not piece:
                return True  # it was told to read something else meanwhile
            other = self._table.bringing(entry, self.offset)
            try:
                if other is not None and other is not fill:
                    beside = self._on_behalf(other.join(exchange.client, exchange.headers, exchange.policy.patience))
                elif (span := ahead.span_for(self.offset, self.stop)) is not None:
                    need = RangeSpec(self.offset, min(self.stop, span.stop) - 1)
                    beside = self._start(Part(RangeSpec(span.start, span.stop - 1), need, entry), beside=True)
                    ahead.count(span)
                else:
                    return False
            except Overloaded:
                return False
            if self._ahead is not None:
                self._ahead.leave()
            self._ahead = beside
        self._set_slow()
        return True

    def _set_slow(self) -> None:
        """Keep the place with the fill that is read now, to come back to it."""
        if self._slow is not None:
            self._slow.leave()
        self._slow, self._waiter, self._piece = self._waiter, None, None

    async def _is_beside(self, waiter: Waiter) -> bool:
        """Wait for the head of what was asked for beside the slow fill; False if it is no good, or if that one has got
        there before."""
        assert self._slow is not None
        slow = self._slow.reader
        answer = asyncio.ensure_future(waiter.head())
        try:
            while not answer.done():
                if slow is not None and not slow.is_ahead:
                    return False
                await asyncio.wait({answer}, timeout=LOOK)
            if answer.result().piece_of is self.entry:
                return True
        except (OriginError, SentOn):
            pass
        except (Overloaded, ClientGone):
            return False
        finally:
            answer.cancel()
        ahead = self._slow.fill.ahead
        if ahead is not None:
            ahead.refused = True
        return False

    def _end_piece(self) -> None:
        self._piece = None
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.leave()

    # -- a source -----------------------------------------------------------------------------------------------

    def seek(self, start: int, stop: int) -> None:
        """Go on with another span."""
        if self._waiter is not None and self._waiter.fill.ahead is not None:
            self._set_slow()
        self._end_piece()
        self.offset, self.stop = start, stop

    def read_now(self) -> bytes | None:
        if self._closed:
            raise BodyError("the reader was closed")
        if self.offset >= self.stop:
            return b""
        if self._piece is not None:
            try:
                data = self._piece.read_now()
            except BodyLost as error:
                self._piece_lost(error)
                return None
            if data != b"":
                return self._took(data) if data is not None else None
            self._end_piece()
        size = self._size_here()
        if not size or self._file is None:
            return None
        if self._file.is_bad:
            self._lost(corrupt())
            return None
        try:
            data = self._table.store.files.read_now(self._file.fd, size, self.offset)
        except OSError as error:
            self._lost(error)
            return None
        if data == b"":
            self._lost(cut_short())
            return None
        return self._took(data)

    async def read(self) -> bytes:
        while True:
            data = self.read_now()
            if data is not None:
                return data
            if self._piece is not None:
                piece = self._piece
                if piece.is_ahead and await self._is_far(piece):
                    continue
                try:
                    data = await piece.read()
                except BodyLost as error:
                    self._piece_lost(error)
                    continue
                if data:
                    return self._took(data) or b""
                self._end_piece()
            elif size := self._size_here():
                if self._file is None:
                    await self._open()
                elif data := await self._read_file(self._file, size):
                    return self._took(data) or b""
            else:
                await self._next_piece()

    def _size_here(self) -> int:
        """Bytes that can be read from the file, at once, from where we are."""
        if self._is_lost:
            return 0
        spans = self.entry.spans
        span = Span(0, self.entry.length) if spans is None else spans.at(self.offset)
        return min(READ_SIZE, span.stop - self.offset, self.stop - self.offset) if span is not None else 0

    async def _open(self) -> None:
        store = self._table.store
        try:
            file = await store.open_file(self.entry)
        except OSError as error:
            self._lost(error)
            return
        if self._closed or self._file is not None:
            store.files.release(file)
        else:
            self._file = file

    async def _read_file(self, file: OpenBody, size: int) -> bytes:
        """``b""``: it can't be read."""
        try:
            data = await self._table.store.files.read(file, size, self.offset)
        except OSError as error:
            self._lost(error)
            return b""
        if not data:
            self._lost(cut_short())
        return data

    def _took(self, data: bytes | None) -> bytes | None:
        if data is not None:
            self.offset += len(data)
            self._losses = 0
        return data

    def _lost(self, error: OSError) -> None:
        """The file is gone, or can't be read: all that is still wanted is asked for again.

        Raises :class:`BodyLost` if nothing says that it is the same then (RFC 9111 §3.4).
        """
        if self._table.store.holds(self.entry):
            self._table.store.drop_unreadable(self.entry, error)
        if strong_validator(self.entry.response.headers) is None:
            raise BodyLost(str(error)) from error
        self._is_lost = True

    def _piece_lost(self, error: BodyLost) -> None:
        """What a fill has brought can't be read: another one is to bring it."""
        self._losses += 1
        if self._losses > LOSSES:
            raise error
        self._end_piece()
        self._lost(TornFile(errno.EIO, str(error)))

    def close(self) -> None:
        """No more is wanted. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for waiter in (self._waiter, self._ahead, self._slow):
            if waiter is not None:
                waiter.client_gone()  # ends a wait for its head as well
        if self._file is not None:
            file, self._file = self._file, None
            self._table.store.files.release(file)


def from_origin(
    table: FillTable,
    exchange: Exchange,
    entry: Entry | None,
    response: StoredResponse,
    start: int,
    stop: int,
    length: int,
) -> GapReader | None:
    """The bytes from ``start`` up to ``stop`` of a response that has begun, and whose body of ``length`` bytes can't be
    read any more. ``None`` if the origin can't be asked for just these (RFC 9110 §13.1.5, RFC 9111 §3.4).

    ``entry``: what they were read from, if it was stored. Those who lose the same entry share what is fetched.
    """
    if response.status != 200 or strong_validator(response.headers) is None or is_bound(exchange):
        return None
    if entry is None:
        entry = Entry(table.store.index.new_id(), exchange.key, response, length, time.time(), Spans())
    return GapReader(table, exchange, entry, Span(start, stop), whole=True, is_lost=True)


def first_part(exchange: Exchange, table: FillTable) -> Part | None:
    """What to ask for, when a range is wanted of what isn't stored; ``None``: all of it.

    The block around the first range. Of the end of what is of unknown length no block can be named, but the last so
    many bytes can.
    """
    specs = requested(exchange.headers)
    if specs is None or is_taken_for_short(exchange, table):
        return None
    exact = exact_range(exchange)
    is_single, is_own = len(specs) == 1, "if-range" not in exchange.headers
    if exact is not None:
        return Part(exact, exact, None, exchange.headers.get("range"), is_exact=True, is_own=is_own)
    need = ask = specs[0]
    block, most = table.spans.block, table.spans.most
    if block and not (is_single and (exchange.key in table.exact or exchange.key in table.weak)):
        first, last = ask
        if first is None:
            ask = RangeSpec(None, -(-(last or 0) // block) * block or 1)
        else:
            span = table.first_span(first, first + most if last is None else last + 1)
            ask = RangeSpec(span.start, span.stop - 1)
            need = RangeSpec(first, first if last is None else min(last, span.stop - 1))
    is_exact = is_single and ask == specs[0]
    return Part(ask, need, is_exact=is_exact, is_own=is_exact and is_own)


def is_taken_for_short(exchange: Exchange, table: FillTable) -> bool:
    """Whether a range is wanted of what a HEAD has said is short enough to be fetched whole."""
    length = table.length_of(exchange.key)
    return length is not None and table.spans.fetches_whole(length) and requested(exchange.headers) is not None


def is_for_its_client(exchange: Exchange, table: FillTable) -> bool:
    """Whether a range is to be asked for as it came, and the answer passed on as it comes: its origin has just shown
    that nothing can be made of what it answers, or not of several ranges."""
    key, specs = exchange.key, requested(exchange.headers)
    if specs is None or is_taken_for_short(exchange, table):
        return False
    return key in table.unusable or (len(specs) > 1 and (key in table.exact or key in table.weak))


def exact_part(exchange: Exchange) -> Part | None:
    """Just the first range that is wanted, of what is probably not going to be stored; ``None``: all of it."""
    specs = requested(exchange.headers)
    if specs is None:
        return None
    first, last = specs[0]
    need = specs[0] if first is None or last is not None else RangeSpec(first, first)
    is_exact = len(specs) == 1
    return Part(specs[0], need, is_exact=is_exact, is_own=is_exact and "if-range" not in exchange.headers)


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
