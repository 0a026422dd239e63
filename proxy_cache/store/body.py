"""A body while it is being written: one writer, any number of readers that read along.

What has come in and is not yet on disk is the *tail*, in memory. The writer flushes it in the background, a quarter
of a megabyte at a time, and waits when the disk falls behind, so a fill costs a bounded amount of memory whatever its
size. A reader takes its bytes from the tail or, further back, from the file.

A body may also be one piece of a bigger one (``start`` is then not 0): offsets are those of the whole, and the file is
that of the entry it is a piece of.

A body that must not or cannot be kept (``no-store``, no room, a failing disk) has no file from that point on. Its
tail is then a window: the writer waits for the slowest reader, nothing is lost, and nothing is stored. Where somebody
waits for the writer's slot, what the slowest reader still lacks is set aside instead (see :mod:`.spill`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .checksums import RunningSums
from .files import READ_SIZE, OpenBody, as_os_error, write_at

if TYPE_CHECKING:
    from .index import Entry
    from .pipes import Pipe, Spliced
    from .store import Store

FLUSH_SIZE = 256 * 1024
"""Bytes of tail that are worth a trip to the disk."""
TAIL_LIMIT = 1024 * 1024
"""Bytes of tail at which the writer waits for the disk, or for the slowest reader where there is no file. A body known
not to be longer is written once, when complete."""


class BodyError(Exception):
    """The body ended before its time: what a reader has is not all of it."""


class BodyLost(BodyError):
    """Bytes that had come can't be read any more, through no fault of the origin's: it may be asked for them again."""


class Rest(Protocol):
    """What a body goes on with when its own bytes can't be read (see :mod:`~..gaps`)."""

    def read_now(self) -> bytes | None: ...

    async def read(self) -> bytes: ...

    def seek(self, start: int, stop: int) -> None: ...

    def close(self) -> None: ...


Elsewhere: TypeAlias = Callable[[int, int, int], Rest | None]
"""Where the bytes from ``start`` up to ``stop``, of a body of so many, are to be had otherwise; ``None``: nowhere."""


class Body:
    """The bytes of one response, growing: from ``start`` to ``length`` they have arrived, up to ``total`` they are to
    come, if that is known. All three are offsets in the whole."""

    def __init__(
        self,
        store: Store,
        entry_id: int,
        total: int | None,
        *,
        reserved: int | None,
        start: int = 0,
        piece_of: Entry | None = None,
        volatile: bool = False,
    ) -> None:
        """``volatile``: no byte of it may be brought to a disk (``no-store``)."""
        self.store = store
        self.entry_id = entry_id
        self.total = total
        self.start = start
        self.piece_of = piece_of
        """The stored response, with gaps, that these bytes belong to."""
        self.length = start
        self.complete = False
        self.kept = reserved is not None
        """Whether the bytes go to a file. Turns false at most once, and never true again."""
        self.stored = False
        self.error: Exception | None = None
        self.file: OpenBody | None = None
        self.in_place = False
        """Whether the file is where it will stay (see :meth:`splice`)."""
        self.sums = RunningSums()
        """The checksums of what was brought to the file, but for what was spliced."""
        self.was_spliced = False
        self.reserved = reserved or 0
        self._began = time.time()
        # Each trip to the disk is a change of threads: what may be in memory as a whole is brought there at once.
        fits = total is not None and total - start <= TAIL_LIMIT
        self._flush_size = TAIL_LIMIT + 1 if fits else FLUSH_SIZE
        self._tail: deque[bytes] = deque()
        self._tail_start = start
        self._in_file = start
        """Up to where the file has it all."""
        self._readers: set[Reader] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._drained: asyncio.Future[None] | None = None
        self._flush: asyncio.Task[None] | None = None
        self._splicing = False
        self._closed = False
        self._volatile = volatile
        self._is_spilling = False
        self._spilled: Spilled | None = None

    # -- the writer ---------------------------------------------------------------------------------------------

    def put(self, chunk: bytes) -> bool:
        """Append. Readers see the bytes at once. Whether the next may follow, without waiting for :meth:`drain`."""
        self._tail.append(chunk)
        self.length += len(chunk)
        if self._waiting:
            self._wake()
        return self.kept and self.length - self._tail_start < self._flush_size

    async def drain(self) -> None:
        """Returns when there is room for more."""
        while self.kept and self.length - self._tail_start >= self._flush_size:
            if not self.flushing:
                self._flush = asyncio.get_running_loop().create_task(self._flush_tail())
                self._flush.add_done_callback(self._flush_done)
            if self.length - self._tail_start < TAIL_LIMIT:
                return
            await asyncio.shield(self._flush)  # type: ignore[arg-type]
        while not self.kept and self._trim() > TAIL_LIMIT:
            if self._is_spilling and await self._set_aside():
                continue
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    @property
    def is_held_up(self) -> bool:
        """Whether the writer waits for its readers."""
        return not self.kept and self._drained is not None and not self._drained.done()

    @property
    def movement(self) -> tuple[int, ...]:
        """Numbers that change whenever a byte comes in, goes out, or is set aside."""
        offsets = sum(reader.offset for reader in self._readers)
        return self.length, self._tail_start, self._in_file, len(self._readers), offsets

    @property
    def slowest_reader(self) -> Reader | None:
        """The reader that the writer waits for."""
        return min(self._readers, key=lambda reader: reader.offset, default=None)

    @property
    def readers(self) -> frozenset[Reader]:
        """Those that read it now."""
        return frozenset(self._readers)

    def spill(self) -> bool:
        """From here on, set aside what readers have not read yet, rather than wait for them. Whether there is room for
        that."""
        if not self.store.spill.has_room(TAIL_LIMIT, volatile=self._volatile):
            return False
        self._is_spilling = True
        self._wake_writer()
        return True

    async def _set_aside(self) -> bool:
        """Bring the tail to a file that only the readers of this body see. Whether it is there."""
        store, chunks, start = self.store, list(self._tail), self._tail_start
        size = sum(map(len, chunks))
        if not store.spill.has_room(size, volatile=self._volatile):
            self._is_spilling = False
            return False
        store.spill.reserve(size, volatile=self._volatile)
        spilled = self._spilled
        try:
            if spilled is None:
                descriptor = await store.files.run_open(store.spill.open, self._volatile)
                spilled = self._spilled = Spilled(OpenBody(0, descriptor), start, start)
            await store.files.run_on(spilled.file, write_at, spilled.file.fd, chunks, start)
        except BaseException as error:
            store.spill.release(size, volatile=self._volatile)
            self._is_spilling = False
            if not isinstance(error, OSError):
                raise
            store.write_failed(error)
            return False
        if spilled.stop < start:
            spilled.start = start  # all readers have had what lies between
        spilled.stop = start + size
        spilled.size += size
        for _ in chunks:
            self._tail.popleft()
        self._tail_start += size
        return True

    async def splice(self, pipe: Pipe, count: int) -> None:
        """Append ``count`` bytes that a pipe holds, by way of the file: readers see them when they are in there.

        The pipe is empty after it, whatever becomes of the file. If this raises, the pipe is closed when nobody uses
        it.
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
        self._splicing = self.was_spliced = True
        spliced = self.store.splice(self, list(self._tail), self._tail_start, pipe, count)
        spliced.add_done_callback(partial(self._spliced, pipe, count))
        try:
            while self._splicing:
                await self.news()
        except BaseException:
            spliced.add_done_callback(lambda _: pipe.close())
            raise

    def _spliced(self, pipe: Pipe, count: int, future: asyncio.Future[Spliced]) -> None:
        self._splicing = False
        was_kept = self.kept
        error: OSError | None
        try:
            spliced = future.result()
        except Exception as failure:  # not even what was there before could be written
            error = as_os_error(failure)
        else:
            if self.file is None:
                self.file, self.in_place = OpenBody(self.entry_id, spliced.fd), True
            self._tail.clear()
            self.length += spliced.count
            self._tail_start = self._in_file = self.length
            count -= spliced.count
            error = None if spliced.unsupported else spliced.error
        if error is not None:
            self.store.write_failed(error)
            self.stop_keeping()
        if count:
            self.put(pipe.read(count))
        if not was_kept:
            self.store.discard(self)
        self._wake()
        self.close_if_unused()

    async def news(self) -> None:
        """Wait until something happens to it."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def finish(self) -> None:
        """All bytes have arrived: readers are told. :meth:`Store.commit` then brings the last of them to disk."""
        self.complete = True
        self.total = self.length
        self._wake()

    def fail(self, error: Exception) -> None:
        """No more bytes will come; readers that have read what there is get ``error``. Idempotent."""
        if self.complete or self.error is not None:
            return
        self.error = error
        self.stop_keeping()
        self._wake()
        self.close_if_unused()

    def stop_keeping(self) -> None:
        """From here on nothing is written to disk; what is in the file stays there for those who read along."""
        if not self.kept:
            return
        self.kept = False
        self.store.unreserve(self.reserved)
        self.reserved = 0
        if not self.flushing:
            self.store.discard(self)

    def reserve(self, size: int) -> bool:
        """Whether there is room for the first ``size`` bytes of it. It is made by what is older, as they come."""
        lacking = size - self.reserved
        if lacking > 0:
            beside = self.reserved + (self.piece_of.size if self.piece_of is not None else 0)
            if not self.store.reserve(lacking, self._began, beside):
                return False
            self.reserved += lacking
        return True

    async def unflushed(self) -> tuple[list[bytes], int]:
        """Wait for the flush under way, and return the rest of the tail with its offset, for the last write."""
        while self._splicing:
            await self.news()
        if self._flush is not None:
            await asyncio.shield(self._flush)
        return list(self._tail), self._tail_start

    def drop_tail(self) -> None:
        """All of it is in the file now. What was written in one go, and what is short, keeps its tail, so that who
        reads along needs no file."""
        if self.file is not None and self.length - self.start > FLUSH_SIZE:
            self._tail.clear()
            self._tail_start = self._in_file = self.length

    @property
    def flushing(self) -> bool:
        return self._splicing or (self._flush is not None and not self._flush.done())

    async def _flush_tail(self) -> None:
        """Bring the tail to disk. A failure ends the keeping of this body, never its delivery."""
        chunks = list(self._tail)
        size = sum(map(len, chunks))
        if not self.reserve(self._tail_start + size - self.start):
            self.stop_keeping()
            return
        try:
            await self.store.write(self, chunks, self._tail_start)
        except OSError as error:
            self.store.write_failed(error)
            self.stop_keeping()
            return
        for _ in chunks:
            self._tail.popleft()
        self._tail_start += size
        self._in_file = self._tail_start

    def _flush_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error if isinstance(error, Exception) else BodyError(repr(error)))
        if not self.kept:
            self.store.discard(self)
        self.close_if_unused()

    # -- readers ------------------------------------------------------------------------------------------------

    def reader(self, start: int | None = None, stop: int | None = None) -> Reader:
        """Read bytes ``start`` to ``stop`` (exclusive; to the end if ``None``). Close it when done."""
        reader = Reader(self, self.start if start is None else start, stop)
        self._readers.add(reader)
        return reader

    @property
    def joinable(self) -> bool:
        """Whether a reader that begins now would still find the first byte."""
        return self.has(self.start)

    def has(self, offset: int) -> bool:
        """Whether a reader that begins at ``offset`` now would find, or get, all from there."""
        if self.error is not None or self._closed:
            return False
        # Of what is not kept any more the tail may have moved on from where the files end.
        if offset >= self._tail_start:
            return True
        start = self._tail_start
        if self._spilled is not None and self._spilled.stop >= start:
            start = self._spilled.start
        return offset >= start or (self.file is not None and start <= self._in_file)

    def _file_with(self, offset: int) -> tuple[OpenBody, int] | None:
        """The file that has the byte at ``offset``, which is not in the tail, and up to where it has what follows."""
        spilled = self._spilled
        if spilled is not None and offset >= spilled.start:
            return (spilled.file, spilled.stop) if offset < spilled.stop else None
        # What lies between the file's end and the tail was dropped. (Of a piece it would be read as zeros.)
        if self.file is None or self.file.is_bad or offset >= self._in_file:
            return None
        return self.file, self._in_file

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _trim(self) -> int:
        """Without a file: drop the part of the tail that every reader has, and return the bytes left."""
        behind = min((reader.offset for reader in self._readers), default=self.length)
        while self._tail and self._tail_start + len(self._tail[0]) <= behind:
            self._tail_start += len(self._tail.popleft())
        return self.length - self._tail_start

    def _wake_writer(self) -> None:
        if not self.kept and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def close_if_unused(self) -> None:
        """Let go of the file once the fill is over and the last reader has left."""
        if self._closed or self._readers or self.flushing or not (self.complete or self.error):
            return
        if self.kept and not self.stored:
            return  # Store.commit still needs the file, and calls this again
        self._closed = True
        if self.file is not None:
            self.store.files.release(self.file)
            self.file = None
        if self._spilled is not None:
            self.store.spill.release(self._spilled.size, volatile=self._volatile)
            self.store.files.release(self._spilled.file)
            self._spilled = None


class Spilled:
    """What has been set aside of a body: its bytes from ``start`` up to, and without, ``stop``. ``size``: bytes that
    the file takes."""

    __slots__ = ("file", "size", "start", "stop")

    def __init__(self, file: OpenBody, start: int, stop: int) -> None:
        self.file = file
        self.start = start
        self.stop = stop
        self.size = 0


class Reader:
    """One client's way through a body. Reads from memory or disk, and waits for what has not arrived."""

    __slots__ = ("_body", "_gone", "_rest", "_wait", "elsewhere", "offset", "stop")

    def __init__(self, body: Body, start: int, stop: int | None) -> None:
        self._body = body
        self.offset = start
        self.stop = stop
        self._wait: asyncio.Future[None] | None = None
        self._gone = False
        self.elsewhere: Elsewhere | None = None
        """Where to go on when the file can't be read, or when what is behind was not kept."""
        self._rest: Rest | None = None

    def seek(self, start: int, stop: int | None) -> None:
        """Go on with other bytes. What was not kept, and is behind, is to be had elsewhere, if at all."""
        self.offset, self.stop = start, stop
        if self._rest is not None and stop is not None:
            self._rest.seek(start, stop)

    def read_now(self) -> bytes | None:
        """The next bytes if they can be had without waiting, ``b""`` at the end, ``None`` if not now.

        Raises the body's error when it broke off and everything before that has been read.
        """
        body = self._body
        if self._gone:
            raise BodyError("the reader was closed")
        if self._rest is not None:
            return self._rest.read_now()
        if self.offset == self.stop or (body.complete and self.offset == body.length):
            return b""
        if body.complete and self.offset > body.length:
            raise BodyError("this body ends before")  # nothing will ever come
        if self.offset >= body.length:
            if body.error is not None:
                raise BodyError(str(body.error)) from body.error
            return None
        if self.offset >= body._tail_start:
            return self._advance(self._from_tail())
        place = body._file_with(self.offset)
        if place is None:
            self._lost("the beginning of this body was not kept")
            return None
        try:
            data = body.store.files.read_now(place[0].fd, self._want(place[1]), self.offset)
        except OSError as error:
            self._lost(error)
            return None
        if data == b"":
            self._lost("the body file ended early")
            return None
        return data if data is None else self._advance(data)

    def _lost(self, why: OSError | str) -> None:
        """Go on elsewhere. Raises :class:`BodyLost` if that can't be."""
        body = self._body
        if isinstance(why, OSError):
            body.store.disk_error("read", why)
        stop = body.total if self.stop is None else self.stop
        if self.elsewhere is None or stop is None or body.total is None:
            raise BodyLost(str(why))
        self._rest = self.elsewhere(self.offset, stop, body.total)
        if self._rest is None:
            raise BodyLost(str(why))
        self._let_go()

    def read_into(self, buffer: memoryview) -> int | None:
        """The next bytes into ``buffer``, if they are in the file, and as far as the page cache has them: how many,
        ``None`` if it is none. They are not taken before :meth:`skip`."""
        place = self._in_file(len(buffer))
        try:
            return self._body.store.files.read_into(place[0], buffer[: place[2]], place[1]) if place else None
        except OSError:
            return None  # :meth:`read_now` meets it, too, and sees to it

    def in_file(self, most: int) -> tuple[int, int, int] | None:
        """Descriptor, offset and count of the next bytes, if they can be sent from the page cache as they are. They
        are not taken before :meth:`skip`."""
        place = self._in_file(most)
        try:
            return place if place and self._body.store.files.is_warm(*place) else None
        except OSError:
            return None

    def _in_file(self, most: int) -> tuple[int, int, int] | None:
        body = self._body
        if self._gone or self._rest is not None or self.offset >= body._tail_start:
            return None
        place = body._file_with(self.offset)
        if place is None:
            return None
        count = self._want(place[1], most)
        return (place[0].fd, self.offset, count) if count > 0 else None

    def skip(self, count: int) -> None:
        self.offset += count
        self._body._wake_writer()

    @property
    def is_ahead(self) -> bool:
        """Whether it has had all that has arrived, and more is to come."""
        body = self._body
        return (
            not self._gone
            and self._rest is None
            and self.offset >= body.length
            and not body.complete
            and body.error is None
        )

    async def arrival(self) -> None:
        """Wait for more."""
        self._wait = asyncio.get_running_loop().create_future()
        self._body._waiting.append(self._wait)
        await self._wait

    async def read(self) -> bytes:
        """The next bytes, at most ``READ_SIZE`` of them; ``b""`` at the end."""
        body = self._body
        while True:
            data = self.read_now()
            if data is not None:
                return data
            if self._rest is not None:
                return await self._rest.read()
            if self.offset < body.length:
                place = body._file_with(self.offset)
                assert place is not None
                try:
                    data = await body.store.files.read(place[0], self._want(place[1]), self.offset)
                except OSError as error:
                    self._lost(error)
                    continue
                if self._gone:
                    raise BodyError("the reader was closed")
                if data:
                    return self._advance(data)
                self._lost("the body file ended early")
            else:
                await self.arrival()

    def close(self) -> None:
        """The client has all it wanted, or has left: a read under way ends with :class:`BodyError`. Idempotent."""
        if self._gone:
            return
        self._gone = True
        self.elsewhere = None
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)
        if self._rest is not None:
            self._rest.close()
            self._rest = None
        self._let_go()

    def _let_go(self) -> None:
        self._body._readers.discard(self)
        self._body._wake_writer()
        self._body.close_if_unused()

    def _want(self, end: int, most: int = READ_SIZE) -> int:
        return min(most, end - self.offset, (self.stop if self.stop is not None else end) - self.offset)

    def _from_tail(self) -> bytes:
        body = self._body
        start = body._tail_start
        taken: list[bytes] = []
        size = 0
        stop = self.stop if self.stop is not None else body.length
        at = self.offset
        for chunk in body._tail:
            end = start + len(chunk)
            if end > at:
                piece = chunk if start == at and end <= stop else chunk[at - start : stop - start]
                taken.append(piece)
                size += len(piece)
                at += len(piece)
                if at >= stop or size >= READ_SIZE:
                    break
            start = end
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _advance(self, data: bytes) -> bytes:
        self.offset += len(data)
        self._body._wake_writer()
        return data
