"""A body while it is received: one writer, any number of readers that read along.

Bytes that are not on disk yet are the *tail*, in memory. They are flushed in the background, a quarter of a megabyte at
a time, and the writer waits while the disk falls behind: a fill costs a bounded amount of memory, whatever its size.
Readers get their bytes from the tail or, further back, from the file.

A body may also be a range of a bigger one: ``start`` is then not 0, offsets are those of the whole, and the file is
that of the entry with gaps.

A body that must not or cannot be kept (``no-store``, no room, a failing disk) has no file from that point on. The tail
is then a window: the writer waits for the slowest reader, nothing is lost, and nothing is stored. If others wait for
the writer's slot, bytes that the slowest reader still needs are spilled instead (see :mod:`.spill`).
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from .body_file import BodyFile
from .body_reader import BodyError, BodyLost, Elsewhere, Reader, Rest
from .eviction import Evictor
from .files import BodyFiles, OpenBody, as_os_error, write_at
from .pipes import Pipe, Spliced
from .spill import Spill, SpillFile
from .tail import Tail
from .trouble import Trouble

__all__ = ["TAIL_LIMIT", "Body", "BodyError", "BodyLost", "Elsewhere", "Reader", "Rest"]

FLUSH_SIZE = 256 * 1024
"""Bytes of tail that are worth a flush."""
TAIL_LIMIT = 1024 * 1024
"""Bytes of tail at which the writer waits for the disk, or for the slowest reader if there is no file. A body known to
be no longer than this is written once, when complete."""


class Body:
    """The bytes of one response. ``start``, ``length`` and ``total`` are offsets in the whole: of the first byte, after
    the last byte so far, and after the last byte expected (``None``: unknown)."""

    def __init__(
        self,
        file: BodyFile,
        files: BodyFiles,
        spill: Spill,
        evictor: Evictor,
        trouble: Trouble,
        total: int | None,
        *,
        reserved: int | None,
        start: int = 0,
        volatile: bool = False,
    ) -> None:
        """``reserved``: bytes reserved for it, ``None`` if it is not to be kept. ``volatile``: no byte may be written
        to a disk (``no-store``)."""
        self.file = file
        self.files = files
        self.trouble = trouble
        self.total = total
        self.start = start
        self.length = start
        self.complete = False
        self.kept = reserved is not None
        """Whether the bytes go to a file. Turns false at most once, and never true again."""
        self.stored = False
        self.error: Exception | None = None
        self.reserved = reserved or 0
        self.tail = Tail(start)
        self._spill = spill
        self._evictor = evictor
        self._started = time.time()
        # Each flush is a change of threads: a body that may be in memory as a whole is written in one go.
        fits = total is not None and total - start <= TAIL_LIMIT
        self._flush_size = TAIL_LIMIT + 1 if fits else FLUSH_SIZE
        self._in_file = start
        """The file has all bytes before this offset."""
        self._readers: set[Reader] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._drained: asyncio.Future[None] | None = None
        self._flush: asyncio.Task[None] | None = None
        self._splicing = False
        self._closed = False
        self._volatile = volatile
        self._is_spilling = False
        self._spilled: SpillFile | None = None

    # -- the writer ---------------------------------------------------------------------------------------------

    def put(self, chunk: bytes) -> bool:
        """Append; readers see the bytes at once. ``False``: call :meth:`drain` before the next."""
        self.tail.chunks.append(chunk)
        self.length += len(chunk)
        if self._waiting:
            self._wake()
        return self.kept and self.length - self.tail.start < self._flush_size

    async def drain(self) -> None:
        """Wait until more may be put."""
        while self.kept and self.length - self.tail.start >= self._flush_size:
            if not self.flushing:
                self._flush = asyncio.get_running_loop().create_task(self._flush_tail())
                self._flush.add_done_callback(self._flush_done)
            if self.length - self.tail.start < TAIL_LIMIT:
                return
            await asyncio.shield(self._flush)  # type: ignore[arg-type]
        while not self.kept and self._trim() > TAIL_LIMIT:
            if self._is_spilling and await self._spill_tail():
                continue
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    async def splice(self, pipe: Pipe, count: int) -> None:
        """Append ``count`` bytes from a pipe by way of the file; readers see them when they are in it.

        The pipe is empty afterwards, even if the file failed. If this raises, the pipe is closed as soon as nothing
        uses it.
        """
        try:
            if self.flushing:
                await asyncio.shield(self._flush)  # type: ignore[arg-type]
        except BaseException:
            pipe.close()
            raise
        if self.kept and not self.reserve(self.length - self.start + count):
            self.stop_keeping()
        if not self.kept:
            self.put(pipe.read(count))
            return
        self._splicing = True
        spliced = self.file.splice(list(self.tail.chunks), self.tail.start, pipe, count)
        spliced.add_done_callback(partial(self._spliced, pipe, count))
        try:
            while self._splicing:
                await self.next_change()
        except BaseException:
            spliced.add_done_callback(lambda _: pipe.close())
            raise

    def _spliced(self, pipe: Pipe, count: int, future: asyncio.Future[Spliced]) -> None:
        self._splicing = False
        was_kept = self.kept
        error: OSError | None
        try:
            result = future.result()
        except Exception as failure:  # not even the tail could be written
            error = as_os_error(failure)
        else:
            self.file.spliced(result)
            self.length += result.count
            self._in_file = self.length
            self.tail.clear(self.length)
            count -= result.count
            error = None if result.unsupported else result.error
        if error is not None:
            self.trouble.write_failed(error)
            self.stop_keeping()
        if count:
            self.put(pipe.read(count))
        if not was_kept:
            self._discard()
        self._wake()
        self.close_if_unused()

    def finish(self) -> None:
        """All bytes have arrived. :meth:`.additions.Additions.commit` then writes the last of them."""
        self.complete = True
        self.total = self.length
        self._wake()

    def fail(self, error: Exception) -> None:
        """No more bytes will arrive; readers get ``error`` after the last byte. Idempotent."""
        if self.complete or self.error is not None:
            return
        self.error = error
        self.stop_keeping()
        self._wake()
        self.close_if_unused()

    # -- the file -----------------------------------------------------------------------------------------------

    def reserve(self, size: int) -> bool:
        """Reserve room for the first ``size`` bytes. Only entries that are older than this body are evicted for it."""
        lacking = size - self.reserved
        if lacking > 0:
            entry = self.file.partial_entry
            beside = self.reserved + (entry.size if entry is not None else 0)
            if not self._evictor.reserve(lacking, self._started, beside):
                return False
            self.reserved += lacking
        return True

    def stop_keeping(self) -> None:
        """Write nothing to disk any more. Bytes in the file stay there for present readers."""
        if not self.kept:
            return
        self.kept = False
        self._evictor.unreserve(self.reserved)
        self.reserved = 0
        if not self.flushing:
            self._discard()

    def _discard(self) -> None:
        if not self.stored:
            self.file.discard()

    async def unflushed(self) -> tuple[list[bytes], int]:
        """Wait for the flush under way. Returns the rest of the tail and its offset, for the last write."""
        while self._splicing:
            await self.next_change()
        if self._flush is not None:
            await asyncio.shield(self._flush)
        return list(self.tail.chunks), self.tail.start

    def drop_tail(self) -> None:
        """All of it is in the file now. A short body keeps its tail, so that present readers need no file."""
        if self.file.open_body is not None and self.length - self.start > FLUSH_SIZE:
            self._in_file = self.length
            self.tail.clear(self.length)

    @property
    def is_range(self) -> bool:
        """Whether it is a range of an entry with gaps."""
        return self.file.partial_entry is not None

    @property
    def flushing(self) -> bool:
        return self._splicing or (self._flush is not None and not self._flush.done())

    async def _flush_tail(self) -> None:
        """Write the tail to disk. After a failure the body is not kept, but still delivered."""
        chunks, start = list(self.tail.chunks), self.tail.start
        if not self.reserve(start + sum(map(len, chunks)) - self.start):
            self.stop_keeping()
            return
        try:
            await self.file.write(chunks, start)
        except OSError as error:
            self.trouble.write_failed(error)
            self.stop_keeping()
            return
        self.tail.drop(len(chunks))
        self._in_file = self.tail.start

    def _flush_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error if isinstance(error, Exception) else BodyError(repr(error)))
        if not self.kept:
            self._discard()
        self.close_if_unused()

    # -- slow readers of a body that is not kept ----------------------------------------------------------------

    @property
    def is_held_up(self) -> bool:
        """Whether the writer waits for a reader."""
        return not self.kept and self._drained is not None and not self._drained.done()

    @property
    def movement(self) -> tuple[int, ...]:
        """Changes with every byte that is put, read or spilled."""
        offsets = sum(reader.offset for reader in self._readers)
        return self.length, self.tail.start, self._in_file, len(self._readers), offsets

    @property
    def slowest_reader(self) -> Reader | None:
        """The reader that holds up the writer."""
        return min(self._readers, key=lambda reader: reader.offset, default=None)

    @property
    def readers(self) -> frozenset[Reader]:
        return frozenset(self._readers)

    def spill(self) -> bool:
        """From now on spill unread bytes instead of waiting for readers. ``False`` if there is no room for that."""
        if not self._spill.has_room(TAIL_LIMIT, volatile=self._volatile):
            return False
        self._is_spilling = True
        self._wake_writer()
        return True

    async def _spill_tail(self) -> bool:
        """Move the tail to a file that only the readers of this body use. ``False`` if that failed."""
        spill, chunks, start = self._spill, list(self.tail.chunks), self.tail.start
        size = sum(map(len, chunks))
        if not spill.has_room(size, volatile=self._volatile):
            self._is_spilling = False
            return False
        spill.reserve(size, volatile=self._volatile)
        spilled = self._spilled
        try:
            if spilled is None:
                descriptor = await self.files.run_open(spill.open, self._volatile)
                spilled = self._spilled = SpillFile(OpenBody(0, descriptor), start, start)
            await self.files.run_on(spilled.file, write_at, spilled.file.fd, chunks, start)
        except BaseException as error:
            spill.release(size, volatile=self._volatile)
            self._is_spilling = False
            if not isinstance(error, OSError):
                raise
            self.trouble.write_failed(error)
            return False
        spilled.extend(start, size)
        self.tail.drop(len(chunks))
        return True

    def _trim(self) -> int:
        """Drop the part of the tail that every reader has read. Returns the bytes left."""
        self.tail.drop_before(min((reader.offset for reader in self._readers), default=self.length))
        return self.length - self.tail.start

    def _wake_writer(self) -> None:
        if not self.kept and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- readers ------------------------------------------------------------------------------------------------

    def reader(self, start: int | None = None, stop: int | None = None) -> Reader:
        """A reader of the bytes ``start`` to ``stop`` (exclusive; ``None``: to the end). Close it when done."""
        reader = Reader(self, self.start if start is None else start, stop)
        self._readers.add(reader)
        return reader

    def remove_reader(self, reader: Reader) -> None:
        self._readers.discard(reader)
        self._wake_writer()
        self.close_if_unused()

    reader_advanced = _wake_writer
    """The slowest reader may have moved."""

    @property
    def joinable(self) -> bool:
        """Whether a new reader would still get the first byte."""
        return self.has(self.start)

    def has(self, offset: int) -> bool:
        """Whether a new reader at ``offset`` would get everything from there on, now or later."""
        if self.error is not None or self._closed:
            return False
        if offset >= self.tail.start:
            return True
        # The tail of a body that is not kept any more may have moved on from the end of its file.
        start = self.tail.start
        if self._spilled is not None and self._spilled.stop >= start:
            start = self._spilled.start
        return offset >= start or (self.file.open_body is not None and start <= self._in_file)

    def file_with(self, offset: int) -> tuple[OpenBody, int] | None:
        """The file with the byte at ``offset``, which is before the tail; and the offset up to which it has the body.
        ``None`` if that byte was dropped."""
        spilled, file = self._spilled, self.file.open_body
        if spilled is not None and offset >= spilled.start:
            return (spilled.file, spilled.stop) if offset < spilled.stop else None
        # Bytes between the file's end and the tail were dropped. (In a range's file they would be read as zeros.)
        if file is None or file.is_bad or offset >= self._in_file:
            return None
        return file, self._in_file

    def next_change(self) -> asyncio.Future[None]:
        """Done when bytes arrive, or the body ends."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def close_if_unused(self) -> None:
        """Close the files once the fill is over and the last reader has left."""
        if self._closed or self._readers or self.flushing or not (self.complete or self.error):
            return
        if self.kept and not self.stored:
            return  # commit still needs the file, and calls this again
        self._closed = True
        self.file.release()
        if self._spilled is not None:
            self._spill.release(self._spilled.size, volatile=self._volatile)
            self.files.release(self._spilled.file)
            self._spilled = None
