"""Storing: responses that are complete, ranges of bigger ones, variants and updates.

A body is written first: complete in ``tmp/``, then renamed into ``bodies/``, then added to the index. A body that is
all in memory when it is complete is added at once, and the writer's thread writes it, small ones together to a segment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from ..semantics.spans import Spans
from ..semantics.stored import StoredResponse
from .body import TAIL_LIMIT, Body
from .body_file import BodyFile
from .checksums import count_runs
from .clock import ClockWatch
from .entry import HEAD_MAX, KEY_MAX, ROW, Entry, footprint, head_size
from .eviction import Evictor
from .index import Index
from .memory import MemoryTier
from .pending import Pending
from .pipes import Pipes
from .spill import Spill
from .stored_bodies import StoredBodies
from .trouble import Trouble

MAX_VARIANTS = 32
"""Variants kept of one key; a new one replaces the least recently used."""
UNWRITTEN_MAX = 64 << 20
"""Bytes that may wait to be written. While a disk is that far behind, nothing else is stored."""


class Additions:
    """Everything that adds entries to the index. ``clock`` is asked before each addition, so that no response is stored
    by a clock that was set back unnoticed; then ``on_clock_set_back(seconds)`` is called. ``sum_soon(entry)`` is called
    for bodies that were stored without checksums."""

    def __init__(
        self,
        index: Index,
        bodies: StoredBodies,
        memory: MemoryTier,
        pending: Pending,
        pipes: Pipes,
        spill: Spill,
        evictor: Evictor,
        trouble: Trouble,
        clock: ClockWatch,
        on_clock_set_back: Callable[[float], None],
        sum_soon: Callable[[Entry], None],
    ) -> None:
        self._index = index
        self._bodies = bodies
        self._files = bodies.files
        self._memory = memory
        self._pending = pending
        self._pipes = pipes
        self._spill = spill
        self._evictor = evictor
        self._trouble = trouble
        self._clock = clock
        self._on_clock_set_back = on_clock_set_back
        self._sum_soon = sum_soon
        self.copies_nothing = False
        """Whether no body is stored a second time now: it may be purged before long."""

    # -- bodies to fill -----------------------------------------------------------------------------------------

    def body(self, total: int | None, *, keep: bool, start: int = 0, volatile: bool = False) -> Body:
        """A body to be filled. If it does not fit it is delivered all the same, but not kept. ``volatile``: no byte of
        it may be written to a disk."""
        reserved: int | None = None
        if keep and not self._falls_behind() and self._evictor.allows(footprint(total or 0)):
            # Room for a long body is made as it arrives: not every announced byte arrives.
            size = footprint(total) if total is not None and total <= TAIL_LIMIT else 0
            reserved = size if self._evictor.reserve(size) else None
        return self._new_body(self._index.new_id(), total, reserved, start=start, volatile=volatile)

    def piece(self, entry: Entry, start: int, stop: int) -> Body:
        """A range of an entry with gaps, to be filled. Of an object that exceeds the limit for one entry, ranges are
        kept up to that limit."""
        size, reserved = stop - start, None
        is_stored = entry in self._index
        if is_stored and self._accepts_piece(entry, start, stop) and self._evictor.allows(entry.size + size):
            self._bodies.touch(entry)  # it must not be evicted for its own range
            size = size if size <= TAIL_LIMIT else 0
            reserved = size if self._evictor.reserve(size) else None
        return self._new_body(entry.id, stop, reserved, start=start, partial_entry=entry)

    def _new_body(
        self,
        entry_id: int,
        total: int | None,
        reserved: int | None,
        *,
        start: int,
        partial_entry: Entry | None = None,
        volatile: bool = False,
    ) -> Body:
        file = BodyFile(self._bodies, self._index, self._pipes, entry_id, partial_entry)
        return Body(
            file, self._files, self._spill, self._evictor, self._trouble, total,
            reserved=reserved, start=start, volatile=volatile,
        )  # fmt: skip

    # -- limits -------------------------------------------------------------------------------------------------

    def accepts(self, key: str, response: StoredResponse) -> bool:
        """Whether key and head are within their limits."""
        if len(key) <= KEY_MAX and head_size(response) <= HEAD_MAX:
            return True
        self._trouble.count("too_large")
        return False

    def _accepts_piece(self, entry: Entry, start: int, stop: int) -> bool:
        if entry.accepts_span(start, stop):
            return True
        self._trouble.count("too_many_pieces")
        return False

    def _falls_behind(self) -> bool:
        """Whether the disk is too slow for any further response to wait for it."""
        if self._pending.size <= UNWRITTEN_MAX:
            return False
        self._trouble.count("busy")
        return True

    # -- whole responses ----------------------------------------------------------------------------------------

    def put(self, key: str, response: StoredResponse, data: bytes) -> Entry | None:
        """Store a response whose body is complete. ``None`` if it is not kept."""
        if self._pending.size > UNWRITTEN_MAX and self._falls_behind():
            return None
        entry = Entry(self._index.new_id(), key, response, len(data), time.time())
        if entry.head > KEY_MAX and not self.accepts(key, response):
            return None
        size = entry.size
        if not self._evictor.reserve(size):
            return None
        self._evictor.spend(size)
        return self._add_unwritten(entry, data)

    def _add_unwritten(self, entry: Entry, data: bytes) -> Entry:
        """Add an entry whose body is read from memory until it is written. If that fails the entry is removed."""
        entry.unwritten = data
        self._add(entry, saved=True)
        self._pending.write(entry, data, partial(self._written, entry))
        return entry

    def _written(self, entry: Entry, error: OSError | None) -> None:
        entry.unwritten = None
        entry.response.headers.pack()
        if error is not None:
            self._trouble.write_failed(error)
            self._bodies.remove(entry)
        elif entry.row:
            self._index.set_location(entry)
        else:
            self._drop_written(entry)

    def _drop_written(self, entry: Entry) -> None:
        """The entry was removed before its body was written."""
        dropped = [(entry.id, entry.location)]
        self._index.delete_rows(dropped)
        self._bodies.delete(dropped)

    async def commit(self, body: Body, key: str, response: StoredResponse) -> Entry | None:
        """Store a complete body, or the bytes so far of one that broke off. ``None`` if it could not be stored; its
        readers do not notice."""
        try:
            return await self._commit(body, key, response)
        except OSError as error:
            self._trouble.write_failed(error)
            return None
        finally:
            if not body.stored:
                body.stop_keeping()
            body.close_if_unused()

    async def _commit(self, body: Body, key: str, response: StoredResponse) -> Entry | None:
        chunks, offset = await body.unflushed()
        file = body.file
        if file.partial_entry is not None:
            return await self._commit_piece(body, file.partial_entry, chunks, offset)
        total = None if body.complete else body.total
        length = body.length
        size = footprint(length, len(key) + head_size(response))
        if (total is not None and length > total) or not body.kept or not body.reserve(size):
            return None
        if file.open_body is None and body.complete:
            self._stored(body)
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            return self._add_unwritten(Entry(file.entry_id, key, response, length, time.time()), data)
        spans = None if total is None else Spans([(0, length)])
        entry = Entry(file.entry_id, key, response, length if total is None else total, time.time(), spans)
        if not file.in_place or chunks or total is not None:
            await file.finish(chunks, offset, length, total)
        assert file.open_body is not None
        self._files.register(file.open_body)
        self._stored(body)
        entry.sums = file.sums.packed()
        if len(entry.sums) > ROW:
            entry.measure()
        self._add(entry)
        if file.was_spliced:
            self._sum_soon(entry)
        return entry

    def _stored(self, body: Body) -> None:
        """All of it is on the disk, or about to be."""
        body.stored = True
        body.drop_tail()
        self._evictor.spend(body.reserved)
        body.reserved = 0

    # -- responses in ranges ------------------------------------------------------------------------------------

    def add_object(self, key: str, response: StoredResponse, length: int) -> Entry:
        """Add an entry without a byte of its body: ranges of it follow."""
        entry = Entry(self._index.new_id(), key, response, length, time.time(), Spans())
        self._add(entry)
        return entry

    def keep_object(self, entry: Entry) -> None:
        """Add such an entry again, if it was removed before it had any byte."""
        if entry not in self._index and not entry.spans:
            self._add(entry)

    async def _commit_piece(self, body: Body, entry: Entry, chunks: list[bytes], offset: int) -> Entry | None:
        if not body.kept or entry not in self._index or not body.reserve(body.length - body.start):
            return None
        if not self._accepts_piece(entry, body.start, body.length):  # of several ranges at a time
            return None
        if chunks:
            await body.file.write(chunks, offset)
        if body.length == body.start:
            return None
        self._stored(body)
        before = count_runs(entry.sums)
        self._index.add_span(entry, body.start, body.length, time.time(), body.file.sums.packed())
        if before < entry.runs_max // 2 <= count_runs(entry.sums):
            self._sum_soon(entry)  # one checksum for each span, in place of one for each range
        return entry

    # -- variants and updates -----------------------------------------------------------------------------------

    async def add_variant(self, entry: Entry, response: StoredResponse) -> Entry | None:
        """Add a variant with the same body: the origin has confirmed it (RFC 9111 §4.3.4). ``None`` if it could not be
        stored."""
        size = entry.size
        if self.copies_nothing or entry.spans is not None or not self.accepts(entry.key, response):
            return None
        if not self._evictor.reserve(size):
            return None
        is_copied = entry.location != 0 or entry.unwritten is not None
        written = None if is_copied else entry.written
        new = Entry(self._index.new_id(), entry.key, response, entry.length, time.time(), written=written)
        try:
            if is_copied:
                body = await self._bodies.open(entry)
                if not isinstance(body, bytes):
                    return None
                await self._write_whole(new, body, lambda: self._is_purged(entry, response))
            else:
                await self._link(entry, new)
                new.sums = entry.sums
                new.measure()
        except OSError as error:
            self._trouble.write_failed(error)
            return None
        finally:
            self._evictor.unreserve(size)
        if self._is_purged(entry, response):
            if not is_copied:
                self._bodies.delete([(new.id, 0)])
            self._bodies.remove(new)
            return None
        if not is_copied:
            self._add(new)
        if entry.memory is not None:
            self._memory.put(new, entry.memory)
        return new

    def _is_purged(self, entry: Entry, response: StoredResponse) -> bool:
        """Whether an entry was purged after ``response`` was asked for. (A time in the future is meaningless: the clock
        was set back since.)"""
        return response.request_time < entry.purged <= time.time()

    async def _write_whole(self, entry: Entry, data: bytes, is_useless: Callable[[], bool]) -> None:
        """Write a body, then add its entry, if that isn't useless by then. Raises ``OSError``. Leaves nothing behind if
        the caller is cancelled."""
        waiting: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

        def written(error: OSError | None) -> None:
            if not waiting.done():
                try:
                    if error is None and is_useless():
                        self._drop_written(entry)
                    elif error is None:
                        self._add(entry, saved=True)
                finally:
                    waiting.set_result(error)
            elif error is None:
                self._drop_written(entry)

        self._pending.write(entry, data, written)
        error = await waiting
        if error is not None:
            raise error

    async def _link(self, entry: Entry, new: Entry) -> None:
        """Make a second link to a body file. Leaves nothing behind if the caller is cancelled."""
        files = self._files
        work = asyncio.get_running_loop().run_in_executor(files.pool, files.link, entry.id, new.id)
        await files.undone_if_cancelled(work, lambda _: files.start(files.unlink, [new.id]))

    def update(self, entry: Entry, response: StoredResponse) -> None:
        """Set new header fields for a stored body (a 304, RFC 9111 §4.3.4). If that makes the head too long to be
        stored, the entry is removed: keeping the old head is not allowed either."""
        if by := self._clock.set_back_by():
            self._on_clock_set_back(by)
        if entry.purged and self._is_purged(entry, response):
            return
        if self.accepts(entry.key, response):
            self._index.replace_response(entry, response)
        else:
            self._bodies.remove(entry)

    def expire(self, entry: Entry, now: float) -> None:
        """Make an entry stale; answers to what was asked before don't change that."""
        entry.purged = now
        self._index.replace_response(entry, entry.response.expired(now))

    # -- the index ----------------------------------------------------------------------------------------------

    def _add(self, entry: Entry, *, saved: bool = False) -> None:
        """Add an entry in place of the ones it replaces."""
        if by := self._clock.set_back_by():
            self._on_clock_set_back(by)
        self._index.add(entry, saved=saved)
        self.drop_superseded(entry.key)

    def drop_superseded(self, key: str) -> None:
        """Keep the newest of the entries that the same requests select, and at most :data:`MAX_VARIANTS`. (Of a key
        that isn't loaded this is done when it is.)"""
        variants = self._index.get(key)
        if len(variants) < 2:
            return
        newest = {entry.response.vary: entry for entry in variants}
        for entry in variants:
            if newest[entry.response.vary] is not entry:
                self._bodies.remove(entry)
        variants = self._index.get(key)
        if len(variants) > MAX_VARIANTS:
            for entry in sorted(variants[:-1], key=lambda variant: variant.used)[: len(variants) - MAX_VARIANTS]:
                self._bodies.remove(entry)
