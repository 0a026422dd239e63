"""Reading a stored response with gaps, which are filled on the way, or one that disappears while it is read.

A reader reads from the file, then from the running fill that covers the next byte, and where there is neither it starts
a fill for the missing span. So no byte is fetched twice at a time, however the ranges of many readers overlap. One span
is asked for ahead of the reader, no more: a client that stops reading does not make the origin send all.

An entry may be evicted, superseded, or turn out to be unreadable while a client is sent its body. An open file stays
readable. The rest is asked for again under the entry's strong validator, for this client alone: it is not stored, but
the response goes on (see :mod:`.lost_body`).
"""

from __future__ import annotations

import asyncio
import errno
from typing import Final, NoReturn

from ...semantics.ranges import RangeSpec, is_same_representation, strong_validator
from ...semantics.spans import Span
from ...semantics.validation import CONDITIONAL
from ...store.body import BodyError, BodyLost, Reader
from ...store.files import READ_SIZE, OpenBody, TornFile
from ...store.index import Entry
from ...wire.responses import OriginError
from ..answers import Exchange, corrupt, cut_short
from ..fills.fill import Waiter
from ..fills.head import ClientGone, FillHead, NotShareable
from ..fills.pace import LOOK
from ..fills.range_fetch import RangeFetch
from ..fills.request import FillRequest
from ..fills.table import FillTable
from ..limiter import Overloaded
from .ahead import ahead_of, is_ahead, may_be_combined

PATIENCE: Final = 8
"""Tries to get into a full queue before a response that has started is given up: its client can't be told to come again
later."""
PAUSE: Final = 1.0
"""Seconds between two of these tries."""
RESENT: Final = 2
"""Fills of others that a response that has started may join in vain."""
LOSSES: Final = 8
"""Times in a row that a piece that was just fetched can't be read from the disk, or has nothing of what is missing."""


class GapReader:
    """Reads spans of an entry's body for one exchange; a :class:`~.answers.BodySource`."""

    __slots__ = (
        "_ahead", "_closed", "_exchange", "_file", "_is_lost", "_losses", "_piece", "_slow", "_table", "_waiter",
        "_whole", "entry", "offset", "stop",
    )  # fmt: skip

    def __init__(
        self, table: FillTable, exchange: Exchange, entry: Entry, span: Span, *, whole: bool,
        file: OpenBody | None = None, is_lost: bool = False,
    ) -> None:  # fmt: skip
        """``file``: the entry's, which this reader releases. ``is_lost``: nothing of it can be read."""
        self.entry = entry
        self.offset, self.stop = span
        self._table = table
        self._exchange = exchange
        self._whole = whole
        """Whether all of the body is wanted: each gap is then asked for in one piece."""
        self._file = file
        self._is_lost = is_lost
        """Whether nothing can be read from the file, whatever the entry says."""
        self._losses = 0
        self._waiter: Waiter | None = None
        self._piece: Reader | None = None
        self._ahead: Waiter | None = None
        self._slow: Waiter | None = None
        """With a fill that is far behind this reader (see :mod:`.ahead`)."""
        self._closed = False

    # -- fills --------------------------------------------------------------------------------------------------

    def wait_for(self, offset: int, stop: int) -> tuple[Waiter, bool]:
        """A waiter with a fill that covers the byte at ``offset``, and whether the fill was running already.

        Raises :class:`Overloaded` if one has to be started and can't be, and :class:`NotShareable` where nothing can
        be combined with the entry, for want of a strong validator (RFC 9111 §3.4).
        """
        exchange, entry = self._exchange, self.entry
        fill = self._table.bringing(entry, offset, from_peer=exchange.peer is not None)
        if fill is not None:
            return self._exchange.visit(fill.join(exchange.client, exchange.headers, exchange.policy.patience)), True
        if strong_validator(entry.response.headers) is None:
            raise NotShareable(refetch_alone="range" in exchange.headers)
        signed = exchange.requirements.exact_range
        if signed is None and exchange.key in self._table.keys.unusable:
            return self._wait_for_whole()
        if signed is not None:
            part = RangeFetch(signed, RangeSpec(offset, offset), entry, exchange.headers.get("range"), is_exact=True)
        elif self._is_lost:
            # Not all at once: an unstored body arrives no faster than this client reads, and holds a slot as long.
            span = Span(offset, min(stop, offset + self._table.context.spans.most))
            need = ask = RangeSpec(span.start, span.stop - 1)
            part = RangeFetch(ask, need, entry, is_exact=True)
        else:
            span = self._table.span_for(entry, offset, stop, whole=self._whole)
            need = RangeSpec(offset, min(stop, span.stop) - 1)
            ask = RangeSpec(span.start, span.stop - 1)
            part = RangeFetch(ask, need, entry, is_exact=ask == need)
        return self._start(part), False

    def _start(self, part: RangeFetch | None, *, beside: bool = False) -> Waiter:
        exchange = self._exchange
        headers = exchange.headers.without(*CONDITIONAL, "range")
        request = FillRequest(
            exchange.key, exchange.target, headers, exchange.client,
            policy=exchange.policy, keep=not exchange.directives.no_store, range_fetch=part,
            for_whole=self._whole and not beside, beside=beside, from_peer=exchange.peer is not None,
            trace=exchange.trace,
        )  # fmt: skip
        return self._exchange.visit(self._table.start(request))

    def _wait_for_whole(self) -> tuple[Waiter, bool]:
        """The origin has no usable ranges: read the missing bytes from a whole, if it is the same version."""
        exchange = self._exchange
        headers = exchange.headers.without(*CONDITIONAL, "range")
        fill = self._table.find(exchange.key, headers, lambda response: True, from_peer=exchange.peer is not None)
        if fill is not None and fill.request.range_fetch is None:
            return self._exchange.visit(fill.join(exchange.client, headers, exchange.policy.patience)), True
        return self._start(None), False

    def suits(self, head: FillHead) -> bool:
        """Whether the body under this head has bytes of this entry."""
        if head.fills_gap_of is not None:
            return head.fills_gap_of is self.entry
        return (
            head.body is not None
            and head.length is None
            and head.response.status == 200
            and head.body.total in (None, self.entry.length)  # (one of them is wrong, if they differ)
            and is_same_representation(self.entry.response.headers, head.response.headers)
        )

    def hold(self, waiter: Waiter, gap: int) -> None:
        """Keep this waiter, whose head has arrived, for the piece with the byte at ``gap``."""
        waiter.hand_on()
        if self._ahead is not None:
            self._ahead.leave()
        self._ahead = waiter
        if waiter.reader is not None:
            waiter.reader.offset = gap

    def read_from(self, waiter: Waiter) -> None:
        """Go on with the body of this waiter, whose head has arrived and suits."""
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
            return  # an unstored body holds a slot until it is read: ask for it when it is needed
        gap = entry.spans.first_missing(offset, self.stop) if entry.spans is not None else None
        if gap is None or self._exchange.requirements.exact_range is not None:
            return
        if self._ahead is not None:
            if self._ahead.fill.covers(gap):
                return
            self._ahead.leave()
            self._ahead = None
        try:
            self._ahead, _ = self.wait_for(gap, self.stop)
        except (Overloaded, NotShareable):
            return  # ask again when it is needed

    async def _next_piece(self) -> None:
        """Find or start a fill that covers the next byte. Raises :class:`BodyError` if there can be none now; what the
        client has so far is right."""
        if self._slow is not None and (self._ahead is None or not await self._is_beside(self._ahead)):
            if self._ahead is not None:
                self._ahead.leave()
            self._ahead, self._slow = self._slow, None
        if self._ahead is not None and (self._ahead.asker is None or not self._ahead.fill.covers(self.offset)):
            self._ahead.leave()  # dropped since it held others up
            self._ahead = None
        for turn in range(PATIENCE):
            if self._closed:
                # Closed meanwhile: nobody would leave the next fill that is joined.
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
                        self.read_from(waiter)
                        return
                self._waiter = None  # shorter than what was asked for, and without this byte: ask for it
            except Overloaded as error:
                self._waiter = None
                if turn == PATIENCE - 1:
                    raise BodyError(f"the next piece could not be fetched: {error}") from error
                await asyncio.sleep(PAUSE)
            except NotShareable as error:
                # It was for others alone, an error about them, or another version: our own request tells which.
                self._waiter = None
                if turn >= RESENT:
                    raise BodyError(f"the next piece could not be fetched: {error}") from error
            except (OriginError, ClientGone) as error:
                raise BodyError(f"the next piece could not be fetched: {error}") from error
        raise BodyError("the next piece could not be fetched: the origin sends others")

    @staticmethod
    def is_within(waiter: Waiter, head: FillHead, offset: int) -> bool:
        """Whether the byte at ``offset`` is in the piece under this head. An origin may send less than it was asked
        for, and a reader that has joined for the rest would wait for ever."""
        if head.fills_gap_of is None:
            return True
        span = waiter.fill.span
        return span.start <= offset < span.stop

    def _check(self, head: FillHead) -> None:
        if not self.suits(head):
            _has_no_more(f"status {head.response.status}")

    # -- beside a fill that is far behind -------------------------------------------------------------------------

    async def _is_far(self, piece: Reader) -> bool:
        """Whether the next bytes of this piece are far away; they come from another fill now."""
        waiter, exchange = self._waiter, self._exchange
        if waiter is None or self._is_lost or exchange.requirements.exact_range is not None:
            return False
        fill, entry = waiter.fill, self.entry
        if not (may_be_combined(fill) and is_ahead(fill, self.offset)):
            return False
        ahead = ahead_of(self._table, fill, entry)
        if ahead is None or ahead.entry is not entry or fill.body is None or not fill.body.kept:
            return False  # the writer of an unstored body would wait for this reader
        if not self._size_here():
            if not await ahead.is_far(piece, self.stop):
                return False
            if self._piece is not piece:
                return True  # seek() was called meanwhile
            other = self._table.bringing(entry, self.offset, from_peer=exchange.peer is not None)
            try:
                if other is not None and other is not fill:
                    beside = exchange.visit(other.join(exchange.client, exchange.headers, exchange.policy.patience))
                elif (span := ahead.span_for(self.offset, self.stop)) is not None:
                    need = RangeSpec(self.offset, min(self.stop, span.stop) - 1)
                    beside = self._start(RangeFetch(RangeSpec(span.start, span.stop - 1), need, entry), beside=True)
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
        """Keep the present waiter, to come back to its fill."""
        if self._slow is not None:
            self._slow.leave()
        self._slow, self._waiter, self._piece = self._waiter, None, None

    async def _is_beside(self, waiter: Waiter) -> bool:
        """Wait for the head of the fill beside the slow one. False if that is no good, or the slow one has got there
        before."""
        assert self._slow is not None
        slow = self._slow.reader
        answer = asyncio.ensure_future(waiter.head())
        try:
            while not answer.done():
                if slow is not None and not slow.is_ahead:
                    return False
                await asyncio.wait({answer}, timeout=LOOK)
            if answer.result().fills_gap_of is self.entry:
                return True
        except (OriginError, NotShareable):
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

    def _piece_ended(self) -> None:
        """It has no more. Raises :class:`BodyError` if a further one would have none either."""
        is_whole = self._waiter is not None and self._waiter.fill.request.range_fetch is None
        self._end_piece()
        self._losses += 1
        if self.offset < self.stop and (is_whole or self._losses > LOSSES):
            _has_no_more(f"it ends at byte {self.offset}")

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
                return self._advanced(data) if data is not None else None
            self._piece_ended()
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
        return self._advanced(data)

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
                    return self._advanced(data) or b""
                self._piece_ended()
            elif size := self._size_here():
                if self._file is None:
                    await self._open()
                elif data := await self._read_file(self._file, size):
                    return self._advanced(data) or b""
            else:
                await self._next_piece()

    def _size_here(self) -> int:
        """Bytes from ``offset`` on that can be read from the file at once."""
        if self._is_lost:
            return 0
        spans = self.entry.spans
        span = Span(0, self.entry.length) if spans is None else spans.span_with(self.offset)
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

    def _advanced(self, data: bytes | None) -> bytes | None:
        if data is not None:
            self.offset += len(data)
            self._losses = 0
        return data

    def _lost(self, error: OSError) -> None:
        """The file is gone, or can't be read: ask for the rest again.

        Raises :class:`BodyLost` if no validator tells that it is the same version then (RFC 9111 §3.4).
        """
        if self._table.store.holds(self.entry):
            self._table.store.drop_unreadable(self.entry, error)
        if strong_validator(self.entry.response.headers) is None:
            raise BodyLost(str(error)) from error
        self._is_lost = True

    def _piece_lost(self, error: BodyLost) -> None:
        """The body of a fill can't be read: ask again."""
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


def _has_no_more(why: str) -> NoReturn:
    """Raises :class:`BodyError`."""
    why = f"the origin has no more of this version ({why})"
    raise BodyError(why) from OriginError("http_response_incomplete", why)
