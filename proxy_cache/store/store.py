"""The store: entries and their bodies, and the room they may take.

Everything that decides is on the event loop and in memory; everything that blocks is in a thread. A response is
stored in this order: body complete in ``tmp/`` → renamed into ``bodies/`` → known to the index. One that is all in
memory when it is complete is known at once, and written by the index's own thread, the small ones together with others
to a segment: body → row. Whatever goes wrong on the disk costs the storing, never the serving.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..semantics.spans import Spans
from ..semantics.stored import StoredResponse
from .body import TAIL_LIMIT, Body
from .checksums import CorruptBody, count_runs, is_intact
from .clock import LOOK_EVERY, ClockWatch
from .entry import HEAD_MOST, KEY_MOST, ROW, Entry, footprint, head_size
from .files import BodyFiles, OpenBody, TornFile
from .folder import FolderLock, InUse
from .index import NEVER, Dropped, Index
from .memory import LARGEST, SMALL, MemoryTier
from .pending import Pending
from .pipes import Pipe, Pipes, Poured
from .room import Room, Space
from .segments import Segments
from .spill import Spill
from .verify import Verifier
from .writer import Writer

__all__ = ["Room", "Store", "StoreError"]

logger = logging.getLogger(__name__)

USES_FLUSH = 15.0
"""Seconds between writes of the times of last use."""
COMPLAIN_EVERY = 30.0
"""Seconds between log lines about a disk that fails; the metric counts every failure."""
MAX_VARIANTS = 32
"""Variants kept of one key; the least recently used makes room for a new one."""
MEMORY_MAX = 256 << 20
"""Bytes of small bodies in memory, at most."""
UNWRITTEN_MOST = 64 << 20
"""Bytes that may wait to be written. When a disk is slower than the origins, what comes beyond that is not kept."""


class StoreError(Exception):
    """The store cannot be opened. The message names the folder and the reason."""


class Store:
    """One cache folder, opened by one process.

    ``on_failure(reason)`` is called for each response that could not be kept or read: ``no_space``, ``too_large``,
    ``too_many_pieces``, ``busy``, ``write``, ``read``, ``index``. ``on_eviction(count)`` for entries that
    made room, ``on_corruption()`` for each that was not what was stored (also in threads).
    """

    def __init__(
        self,
        root: Path,
        room: Room,
        *,
        on_failure: Callable[[str], None] = lambda reason: None,
        on_eviction: Callable[[int], None] = lambda count: None,
        on_corruption: Callable[[], None] = lambda: None,
    ) -> None:
        self.root = root
        self.files = BodyFiles(root)
        self.memory = MemoryTier(MEMORY_MAX)
        self.pipes = Pipes()
        path = root / "index.sqlite"
        self._segments = Segments(root / "segments", self._segment_gone)
        self._writer = Writer(path, self._segments, self.files.write_whole, self._index_error)
        self._pending = Pending(self._writer)
        self.index = Index(path, self._writer, self.memory.drop, on_corrupt=on_corruption)
        self.space = Space(room, self.index, self.files, on_eviction, self._writer.to_be_freed, self._unread)
        self.spill = Spill(self.files.tmp, self.space.has_free)
        self.verifier = Verifier(self)
        self._on_failure = on_failure
        self._on_corruption = on_corruption
        self._lock = FolderLock(root)
        self._last_complaint = 0.0
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._housekeeper: asyncio.Task[None] | None = None
        self._clock = ClockWatch()
        self._clock_timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_open = False

    # -- opening and closing ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the folder, take its lock, load the index. Raises :class:`StoreError`."""
        try:
            await self.files.run(self._open)
        except StoreError:
            self._lock.release()
            raise
        except Exception as error:
            self._lock.release()
            raise StoreError(f"cache_dir {self.root} cannot be used: {error}") from error
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        self.is_open = True
        self.space.work_out()
        self.space.make(0)
        self._housekeeper = asyncio.get_running_loop().create_task(self._keep_house())
        self.verifier.start()
        self._look_at_clock()

    def _open(self) -> None:
        try:
            self._lock.take()
            self._lock.tighten()
            self.files.prepare()
            self._segments.prepare()
        except OSError as error:
            raise StoreError(f"cache_dir {self.root} cannot be written: {error.strerror}") from error
        except InUse as error:
            raise StoreError(f"cache_dir {self.root} is in use by another process (pid {error})") from error
        self.files.unlink(self.index.open(self.files.scan, self._segments))
        self.space.read_free()

    async def close(self) -> None:
        """Write what is pending and let go of the folder. Nothing may be using the store any more."""
        if not self.is_open:
            return
        self.is_open = False
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        if self._clock_timer is not None:
            self._clock_timer.cancel()
        self.space.closing = True
        await self.verifier.stop()
        await self.written()
        await self.files.drain()
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        try:
            self.verifier.close()
            self.index.close()
            self.files.close()
            self.pipes.close()
            self._segments.close()
        finally:
            self._lock.release()

    @property
    def unwritten(self) -> int:
        """Responses that are stored, or about to be, with bodies that are still to be written."""
        return self._pending.count

    async def written(self) -> None:
        """Wait until there are none of those."""
        await self._pending.all_written()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(USES_FLUSH)
            try:
                self.index.flush_uses()
                await self.files.run(self.space.look_again)
                self.space.make(0)
            except Exception:  # it is there for as long as the store is
                logger.exception("cache_dir %s: housekeeping failed", self.root)

    def _clock_set_back(self, by: float) -> None:
        logger.warning("the clock was set back by %.1f s: what is stored counts as older by that", by)
        self.index.clock_set_back(by)

    def _look_at_clock(self) -> None:
        """Often, and at low cost, so that a hit need not ask whether the clock was set."""
        if by := self._clock.set_back_by():
            self._clock_set_back(by)
        self._clock_timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_at_clock)

    # -- looking up and reading ---------------------------------------------------------------------------------

    @property
    def memory_max(self) -> int:
        """Bytes of small bodies in memory, at most."""
        return self.memory.limit

    @memory_max.setter
    def memory_max(self, limit: int) -> None:
        self.memory.limit = limit

    def lookup(self, key: str) -> Sequence[Entry]:
        """The variants stored under ``key``, as far as :meth:`is_loaded` says that they can be told at once."""
        return self.index.get(key)

    def is_loaded(self, key: str) -> bool:
        """Whether :meth:`lookup` tells all there is, without :meth:`load`. It does where nothing is stored."""
        return self.index.is_loaded(key)

    def may_have(self, key: str) -> bool:
        """Whether anything could be stored under ``key``, loaded or not."""
        return self.index.may_have(key)

    def is_loading(self, key: str) -> bool:
        """Whether :meth:`load` is at it."""
        return key in self._loading

    async def load(self, key: str) -> None:
        """Read what :meth:`lookup` has to tell. A key that cannot be read is stored no longer."""
        task = self._loading.get(key)
        if task is None:
            if self.index.is_loaded(key) or not self.is_open:
                return
            task = asyncio.get_running_loop().create_task(self._load(key))
            if not task.done():  # tasks start at once in mitmproxy's loop, and there may be nothing to read
                self._loading[key] = task
                task.add_done_callback(lambda _: self._loading.pop(key))
                task.add_done_callback(self.files.failed)
                self.files.keep(task)
        await asyncio.shield(task)  # others wait for it too

    async def _load(self, key: str) -> None:
        try:
            useless = await self.index.load(key, self.files.run)
        except sqlite3.Error as error:
            self.disk_error("read", error)
            self.remove_key(key)
        else:
            if useless:
                self.index.delete_rows(useless)
                self._delete_files(useless)
            self._drop_superseded(key)

    def touch(self, entry: Entry, now: float | None = None) -> None:
        """It was used, just now or at ``now``."""
        self.index.touch(entry, time.time() if now is None else now)
        if entry.memory is not None:
            self.memory.touch(entry)

    def holds(self, entry: Entry) -> bool:
        """Whether it is still here: entries are evicted and invalidated at any time."""
        return entry in self.index

    async def add_variant(self, entry: Entry, response: StoredResponse) -> Entry | None:
        """One more variant with the body of ``entry``: the origin has said that it is the same (RFC 9111 §4.3.4).

        ``None`` if it could not be kept.
        """
        size = entry.size
        if entry.spans is not None or not self.takes(entry.key, response) or not self.reserve(size):
            return None
        copied = entry.place != 0 or entry.unwritten is not None
        written = None if copied else entry.written
        new = Entry(self.index.new_id(), entry.key, response, entry.length, time.time(), written=written)
        try:
            if copied:
                body = await self.open_body(entry)
                if not isinstance(body, bytes):
                    return None
                await self._whole_written(new, body)
            else:
                await self._link(entry, new)
                new.sums = entry.sums
                new.measure()
        except OSError as error:
            self.write_failed(error)
            return None
        finally:
            self.unreserve(size)
        if not copied:
            self._add(new)
        if entry.memory is not None:
            self.memory.put(new, entry.memory)
        return new

    async def _link(self, entry: Entry, new: Entry) -> None:
        """Give the body file of an entry to another one, too. Nothing is left of that if whoever waits for it is
        cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self.files.pool, self.files.link, entry.id, new.id)
        self.files.keep(work)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(partial(self._finished_in_vain, new.id))
            raise

    def update(self, entry: Entry, response: StoredResponse) -> None:
        """New header fields for a stored body (a 304 arrived, RFC 9111 §4.3.4). If these make it a head that is too
        long to be stored, the entry goes: it can't be kept as it was either."""
        if by := self._clock.set_back_by():
            self._clock_set_back(by)
        if self.takes(entry.key, response):
            self.index.replace_response(entry, response)
        else:
            self.remove(entry)

    def open_now(self, entry: Entry) -> OpenBody | bytes | None:
        """The entry's body, or its file, if that takes no waiting."""
        if entry.memory is not None:
            return entry.memory
        if entry.unwritten is not None:
            if entry.length <= SMALL:
                self.memory.put(entry, entry.unwritten)
            return entry.unwritten
        if not entry.place:
            return self.files.open_cached(entry.id)
        if not entry.slot:
            return None  # its blocks may be given back at any time
        try:
            body = self._segments.read_now(self.files, entry)
        except OSError as error:
            self.drop_unreadable(entry, error)
            return None
        if body is not None:
            self.memory.put(entry, body)
        return body

    async def open_file(self, entry: Entry, how: Callable[[int, int], int] | None = None) -> OpenBody:
        """The file of an entry's body, as :meth:`.files.BodyFiles.open` opens it. If the entry goes meanwhile, the file
        is there for whoever has asked, and closed after that: nobody else would ever let go of it, or of its blocks."""
        file = await self.files.open(entry.id, entry.length, how)
        if entry not in self.index:
            self.files.forget([(entry.id, 0)])
        return file

    async def open_body(self, entry: Entry) -> OpenBody | bytes | None:
        """The entry's body if it is a small one, else its file; ``None``, and the entry is gone, if it cannot be read
        or is not whole."""
        found = self.open_now(entry)
        if found is not None or not entry.slot:
            return found
        try:
            if not entry.place:
                checked = entry.sums and entry.spans is None and entry.length <= LARGEST
                how = partial(self._open_intact, entry.sums) if checked else None
                return await self.open_file(entry, how)
            body = await self.segment_body(entry)
        except OSError as error:
            if entry.slot:
                self.drop_unreadable(entry, error)
            return None
        if not entry.slot:
            return None  # it was dropped meanwhile, and its blocks may have been given back before they were read
        self.memory.put(entry, body)
        return body

    def _open_intact(self, sums: bytes, entry_id: int, length: int) -> int:
        """In the pool: open a body that is short enough to be looked at as a whole before any of it is sent."""
        fd = self.files._open_checked(entry_id, length)
        try:
            if not is_intact(sums, os.pread(fd, length, 0)):
                raise CorruptBody(errno.EIO, "the body is not what was stored")
        except BaseException:
            os.close(fd)
            raise
        return fd

    async def segment_body(self, entry: Entry) -> bytes:
        """A small body. Raises ``OSError`` if it can't be read, isn't there any more, or isn't what was stored."""
        return await self._segments.read(self.files, entry)

    def bring_to_memory(self, entry: Entry, body: bytes) -> None:
        """Have a whole body, as it was read from its file, in memory. It is dropped if it isn't what was stored."""
        if entry.sums and not is_intact(entry.sums, body):
            self.drop_unreadable(entry, CorruptBody(errno.EIO, "the body is not what was stored"))
        else:
            self.memory.put(entry, body)

    def drop_unreadable(self, entry: Entry, error: OSError) -> None:
        """An entry that cannot be read is worth nothing: forget it, so that it is fetched again."""
        if isinstance(error, TornFile):
            logger.warning("dropping %s: %s", entry, error.strerror)
            self._on_failure("read")
            if error.errno != errno.ENOENT:
                self._on_corruption()
            self.files.condemn(entry.id)
        else:
            self.disk_error("read", error)
        self.remove(entry)

    def remove(self, entry: Entry) -> None:
        if self.index.remove(entry):
            self._delete_files([(entry.id, entry.place)])

    def drop_row(self, entry_id: int) -> None:
        """Forget an entry whose row makes no sense."""
        self._delete_files(self.index.remove_row(entry_id))

    def remove_key(self, key: str) -> None:
        """Drop every variant of ``key`` (invalidation, RFC 9111 §4.4), loaded or not."""
        self._delete_files(self.index.remove_key(key))

    def _delete_files(self, dropped: list[Dropped]) -> None:
        if files := self.files.forget(dropped):
            self.files.start(self.files.unlink, files)

    def _segment_gone(self, segment: int) -> None:
        """Called in the writer's thread."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._segments.gone, segment)
            except RuntimeError:
                logger.debug("the loop has ended before its last segment")

    # -- writing ------------------------------------------------------------------------------------------------

    def body(self, total: int | None, *, keep: bool, start: int = 0, volatile: bool = False) -> Body:
        """A body to be filled. One that does not fit is delivered all the same, but not kept. ``volatile``: no byte of
        it may be brought to a disk."""
        reserved: int | None = None
        if keep and not self._falls_behind() and self._may_be_kept(footprint(total or 0)):
            # Room for what is long is made as it comes: what is announced may never come.
            wanted = footprint(total) if total is not None and total <= TAIL_LIMIT else 0
            reserved = wanted if self.reserve(wanted) else None
        return Body(self, self.index.new_id(), total, reserved=reserved, start=start, volatile=volatile)

    def takes(self, key: str, response: StoredResponse) -> bool:
        """Whether this may be stored: keys and heads have their limits."""
        if len(key) <= KEY_MOST and head_size(response) <= HEAD_MOST:
            return True
        self._on_failure("too_large")
        return False

    def _may_be_kept(self, size: int) -> bool:
        """Whether one entry may take so much."""
        if size <= self.space.object_max:
            return True
        if self.is_open:
            self._on_failure("too_large")
        return False

    def _falls_behind(self) -> bool:
        """Whether the disk is slower than what comes, so that no more is to wait for it."""
        if self._pending.size <= UNWRITTEN_MOST:
            return False
        self._on_failure("busy")
        return True

    def add_object(self, key: str, response: StoredResponse, length: int) -> Entry:
        """An entry without a byte of its body yet: pieces of it are to come."""
        entry = Entry(self.index.new_id(), key, response, length, time.time(), Spans())
        self._add(entry)
        return entry

    def keep_object(self, entry: Entry) -> None:
        """Keep what comes of an entry's body from here on; it has none of it yet."""
        if entry not in self.index and not entry.spans:
            self._add(entry)

    def piece(self, entry: Entry, start: int, stop: int) -> Body:
        """A piece of the body of an entry that has gaps, to be filled. Of an object that is longer than one entry may
        be, pieces are kept up to that."""
        size, reserved = stop - start, None
        if entry in self.index and self._takes_piece(entry, start, stop) and self._may_be_kept(entry.size + size):
            self.touch(entry)  # it is not to go for its own piece
            wanted = size if size <= TAIL_LIMIT else 0
            reserved = wanted if self.reserve(wanted) else None
        return Body(self, entry.id, stop, reserved=reserved, start=start, piece_of=entry)

    async def write(self, body: Body, chunks: list[bytes], offset: int) -> None:
        """Bring a part of a body to its file, which is made with the first part."""
        if body.file is None:
            body.file = await self._file_for(body)
        await self.files.run_on(body.file, body.sums.write, body.file.fd, chunks, offset)

    def pour(self, body: Body, chunks: list[bytes], offset: int, pipe: Pipe, count: int) -> asyncio.Future[Poured]:
        """Bring a part of a body to its file, and ``count`` bytes that a pipe holds after it. The file is made, where
        it will stay, if there is none yet."""
        fd = None if body.file is None else body.file.fd
        poured = self.files.pourer.run(self._pour, body.entry_id, fd, chunks, offset, pipe, count)
        self.files.keep(poured)
        return poured

    def _pour(self, entry_id: int, fd: int | None, chunks: list[bytes], offset: int, pipe: Pipe, count: int) -> Poured:
        if fd is not None:
            return self.pipes.pour(fd, chunks, pipe, count, offset)
        fd = self.files.create_in_place(entry_id)
        try:
            return self.pipes.pour(fd, chunks, pipe, count, offset)
        except BaseException:
            os.close(fd)
            self.files.unlink([entry_id])
            raise

    async def _file_for(self, body: Body) -> OpenBody:
        """A file that nobody waits for any more is let go of, and gone if its entry is."""
        opening = asyncio.get_running_loop().create_task(self._open_for(body))
        self.files.keep(opening)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._opened_in_vain)
            raise

    def _opened_in_vain(self, opening: asyncio.Future[OpenBody]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.files.release(opening.result())

    async def _open_for(self, body: Body) -> OpenBody:
        entry = body.piece_of
        if entry is None:
            return OpenBody(body.entry_id, await self.files.run_open(self.files.create, body.entry_id))
        if entry in self.index:
            # A file that should be there and isn't must not be made anew: its holes would pass for bytes.
            how = None if entry.spans is None or entry.spans else self.files.create_sparse
            file = await self.open_file(entry, how)
            if entry in self.index:
                return file
            # It was removed while the file was opened, which may have made it anew.
            self.files.release(file)
            self.files.start(self.files.unlink, [entry.id])
        raise TornFile(errno.ENOENT, "the entry is gone")

    async def commit(self, body: Body, key: str, response: StoredResponse) -> Entry | None:
        """Keep a complete body, or of one that broke off what has come. ``None`` if it could not be kept; its readers
        do not notice."""
        try:
            return await self._commit(body, key, response)
        except OSError as error:
            self.write_failed(error)
            return None
        finally:
            if not body.stored:
                body.stop_keeping()
            body.close_if_unused()

    def put(self, key: str, response: StoredResponse, data: bytes) -> Entry | None:
        """Store a response whose body is here. ``None`` if it is not kept."""
        if self._pending.size > UNWRITTEN_MOST and self._falls_behind():
            return None
        entry = Entry(self.index.new_id(), key, response, len(data), time.time())
        if entry.head > KEY_MOST and not self.takes(key, response):
            return None
        size = entry.size
        if not self.reserve(size):
            return None
        self.space.spend(size)
        return self._known(entry, data)

    def _known(self, entry: Entry, data: bytes) -> Entry:
        """An entry is there at once, and its body read from memory until it is written, along with others and without a
        file that stays open for it. If it can't be written it is stored no longer."""
        entry.unwritten = data
        self._add(entry, saved=True)
        self._pending.write(entry, data, partial(self._is_written, entry))
        return entry

    def _is_written(self, entry: Entry, error: OSError | None) -> None:
        entry.unwritten = None
        entry.response.headers.pack()
        if error is not None:
            self.write_failed(error)
            self.remove(entry)
        elif entry.slot:
            self.index.set_place(entry)
        else:
            self._drop_written(entry)

    def _drop_written(self, entry: Entry) -> None:
        """It was not wanted any more by the time that it was written."""
        dropped = [(entry.id, entry.place)]
        self.index.delete_rows(dropped)
        self._delete_files(dropped)

    def _reserve_all(self, body: Body, head: int) -> bool:
        """Whether a body is still to be kept, and there is room for what has come of it."""
        return body.kept and body.reserve(footprint(body.length, head))

    async def _commit(self, body: Body, key: str, response: StoredResponse) -> Entry | None:
        chunks, offset = await body.drain()
        if body.piece_of is not None:
            return await self._commit_piece(body, body.piece_of, chunks, offset)
        total = None if body.complete else body.total
        length = body.length
        if (total is not None and length > total) or not self._reserve_all(body, len(key) + head_size(response)):
            return None
        if body.file is None and body.complete:
            self._kept(body)
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            return self._known(Entry(body.entry_id, key, response, length, time.time()), data)
        spans = None if total is None else Spans([(0, length)])
        entry = Entry(body.entry_id, key, response, length if total is None else total, time.time(), spans)
        if not body.in_place or chunks or total is not None:
            await self._finish_file(body, chunks, offset, length, total)
        assert body.file is not None
        self.files.register(body.file)
        self._kept(body)
        entry.sums = body.sums.packed()
        if len(entry.sums) > ROW:
            entry.measure()
        self._add(entry)
        if body.was_poured:
            self.verifier.sum_soon(entry)
        return entry

    async def _finish_file(self, body: Body, chunks: list[bytes], offset: int, length: int, total: int | None) -> None:
        """Write the last of a body, and have its file where it will stay.

        The thread keeps the file for itself until it has done with it, even if whoever waits for it is cancelled.
        """
        file = body.file
        fd = None if file is None else file.fd
        work = asyncio.get_running_loop().run_in_executor(
            self.files.pool, self._write_last, body, fd, chunks, offset, length, total
        )
        self.files.keep(work)
        if file is not None:
            file.users += 1
            work.add_done_callback(lambda _: self.files.release(file))
        try:
            fd = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(partial(self._finished_in_vain, body.entry_id, made=file is None))
            raise
        if body.file is None:
            body.file = OpenBody(body.entry_id, fd)

    def _finished_in_vain(self, entry_id: int, work: asyncio.Future[Any], *, made: bool = False) -> None:
        """Nobody wants it any more: the file goes. ``made``: in the thread, which has opened it."""
        if work.exception() is None:
            if made:
                os.close(work.result())
            self.files.start(self.files.unlink, [entry_id])

    async def _whole_written(self, entry: Entry, data: bytes) -> None:
        """Have a body written, and make the entry known when it is. Raises ``OSError``. Nothing is left of it if
        whoever waits for it is cancelled."""
        waiting: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

        def written(error: OSError | None) -> None:
            if not waiting.done():
                try:
                    if error is None:
                        self._add(entry, saved=True)
                finally:
                    waiting.set_result(error)
            elif error is None:
                self._drop_written(entry)

        self._pending.write(entry, data, written)
        error = await waiting
        if error is not None:
            raise error

    def _kept(self, body: Body) -> None:
        """All of it is on the disk, or on its way."""
        body.stored = True
        body.drop_tail()
        self.space.spend(body.reserved)
        body.reserved = 0

    async def _commit_piece(self, body: Body, entry: Entry, chunks: list[bytes], offset: int) -> Entry | None:
        if not body.kept or entry not in self.index or not body.reserve(body.length - body.start):
            return None
        if not self._takes_piece(entry, body.start, body.length):  # of several pieces that came at a time
            return None
        if chunks:
            await self.write(body, chunks, offset)
        if body.length == body.start:
            return None
        self._kept(body)
        before = count_runs(entry.sums)
        self.index.add_span(entry, body.start, body.length, time.time(), body.sums.packed())
        if before < entry.runs_max // 2 <= count_runs(entry.sums):
            self.verifier.sum_soon(entry)  # a checksum for each span, in place of one for each piece
        return entry

    def _takes_piece(self, entry: Entry, start: int, stop: int) -> bool:
        """Whether an entry may have one more piece."""
        if entry.takes_span(start, stop):
            return True
        self._on_failure("too_many_pieces")
        return False

    def _add(self, entry: Entry, *, saved: bool = False) -> None:
        """Make it known, in place of what it replaces."""
        if by := self._clock.set_back_by():  # so that no clock by which something was stored goes unseen
            self._clock_set_back(by)
        self.index.add(entry, saved=saved)
        self._drop_superseded(entry.key)

    def _drop_superseded(self, key: str) -> None:
        """Of what the same requests select the last one is kept, and no more than so many variants. If the key isn't
        loaded, that is seen to when it is."""
        variants = self.index.get(key)
        if len(variants) < 2:
            return
        newest = {entry.response.vary: entry for entry in variants}
        for entry in variants:
            if newest[entry.response.vary] is not entry:
                self.remove(entry)
        variants = self.index.get(key)
        if len(variants) > MAX_VARIANTS:
            for entry in sorted(variants[:-1], key=lambda variant: variant.used)[: len(variants) - MAX_VARIANTS]:
                self.remove(entry)

    def _write_last(
        self, body: Body, fd: int | None, chunks: list[bytes], offset: int, length: int, total: int | None
    ) -> int:
        opened = self.files.create(body.entry_id) if fd is None else fd
        try:
            body.sums.write(opened, chunks, offset)
            self.files.commit(body.entry_id, opened, length, total, in_place=body.in_place)
        except BaseException:
            if fd is None:
                os.close(opened)
            raise
        return opened

    def discard(self, body: Body) -> None:
        """Remove the temporary file of a body that is not kept. Readers keep what they have open."""
        if body.piece_of is not None or body.stored:
            return  # the file is the entry's
        if body.in_place:
            self.files.start(self.files.unlink, [body.entry_id])
        else:
            self.files.start(self.files.discard, body.entry_id)

    # -- room ---------------------------------------------------------------------------------------------------

    @property
    def room(self) -> Room:
        """How much the cache may take; may be changed at any time."""
        return self.space.room

    @room.setter
    def room(self, room: Room) -> None:
        self.space.room = room

    @property
    def size(self) -> int:
        """Bytes taken by what is stored."""
        return self.index.size

    @property
    def capacity(self) -> int:
        """Bytes it may take (``cache_max_size``)."""
        return self.space.capacity

    @property
    def object_max(self) -> int:
        """Bytes that one response may take (``cache_max_object_size``)."""
        return self.space.object_max

    def reserve(self, size: int, since: float = NEVER, beside: int = 0) -> bool:
        """Room for ``size`` more bytes of one entry, which has ``beside`` already, by evicting what was not used after
        ``since`` (unix time) if need be. ``False`` if there is none to be had."""
        if not self.is_open or (beside + size > self.space.object_max and not self._may_be_kept(beside + size)):
            return False
        if not self.space.make(size, since):
            self._on_failure("no_space")
            return False
        self.space.reserved += size
        return True

    def unreserve(self, size: int) -> None:
        self.space.reserved -= size

    # -- trouble ------------------------------------------------------------------------------------------------

    def write_failed(self, error: OSError) -> None:
        """A body could not be written; or its entry went away meanwhile, which is no trouble of the disk's."""
        if not isinstance(error, TornFile):
            self.disk_error("write", error)

    def disk_error(self, what: str, error: Exception) -> None:
        """Count it, and say so in the log now and then."""
        self._on_failure(what)
        now = time.monotonic()
        if now - self._last_complaint >= COMPLAIN_EVERY:
            self._last_complaint = now
            logger.warning("cache_dir %s: %s failed, serving uncached: %s", self.root, what, error)

    def _unread(self, error: OSError) -> None:
        self.disk_error("read", error)  # called in threads, as the next one is

    def _index_error(self, what: str, error: Exception) -> None:
        self.disk_error(what, error)  # called in the index's thread; counters and logging are safe there
