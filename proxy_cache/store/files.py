"""Body files: their names, their life, and reads that do not block the event loop.

A body is written under ``tmp/xx/`` and renamed to ``bodies/xx/`` once complete. A spliced body, or one that is complete
before it is written, is made in place. In either case it is added to the index when complete, and after a crash files
that are not in the index are deleted. (Small bodies have no file of their own, see :mod:`.segments`.) Bytes in the page
cache are read on the loop (``preadv2`` with ``RWF_NOWAIT``), others in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .folder import PRIVATE, PRIVATE_FOLDER
from .worker import Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)

READ_SIZE = 256 * 1024
"""Bytes read at once for one client, and its share of memory besides the socket's buffer."""

TMP_FOLDERS = 64
"""Folders for incomplete bodies, see :func:`_spread_below`."""

OPEN_FILES = 256
"""Files kept open after their last reader, so that hits don't open a popular file again and again."""

WARM = 1.0
"""Seconds for which a file is assumed to stay in the page cache."""
WARM_MAX = 256 * 1024
"""Bytes of the longest file that is sent that way."""

# linux/fs.h, where it is the same for x86, Arm and RISC-V; elsewhere the call is refused.
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_TOPDIR_FL = 0x00020000
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_scratch = memoryview(bytearray(1024 * 1024))


class TornFile(OSError):
    """A stored body is missing, or shorter or longer than its entry says."""


class OpenBody:
    """An open body file with a count of its users. :class:`BodyFiles` closes it some time after the last one."""

    __slots__ = ("entry_id", "fd", "is_bad", "users", "warm")

    def __init__(self, entry_id: int, fd: int) -> None:
        self.entry_id = entry_id
        self.fd = fd
        self.users = 1
        self.warm = 0.0
        """When all of it was last seen in the page cache (unix time)."""
        self.is_bad = False
        """Whether it is corrupt: present readers get no further bytes of it."""


def _spread_below(folder: Path) -> None:
    """Tell the file system that the subfolders are unrelated (``chattr +T``).

    ext4 then spreads them and their files over many block groups instead of one or two. Whenever it makes a file it
    visits every inode of the group that was freed in the last minutes: a fifth of the cost of a 1 MB miss in a cache
    that evicts (measured). Existing folders stay where they are.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = bytearray(8)
            fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
            (now,) = struct.unpack("=I", flags[:4])
            fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, struct.pack("=I", now | _FS_TOPDIR_FL) + bytes(4))
        finally:
            os.close(descriptor)
    except OSError:
        logger.debug("no chattr +T for %s", folder)  # other file systems have no such hint


def as_os_error(error: Exception) -> OSError:
    """Any error of writing a body, as one of the disk."""
    return error if isinstance(error, OSError) else OSError(errno.EIO, f"{type(error).__name__}: {error}")


def _undo(undo: Callable[[T], object], work: asyncio.Future[T]) -> None:
    if not work.cancelled() and work.exception() is None:
        undo(work.result())


def write_at(fd: int, chunks: list[bytes], offset: int) -> None:
    """Write all of ``chunks`` at ``offset``, in as many calls as needed. Blocks."""
    if len(chunks) <= 16:  # a small body: mostly one call
        written = os.pwritev(fd, chunks, offset)
        if written == sum(map(len, chunks)):
            return
    for first in range(0, len(chunks), 1000):
        data = [memoryview(chunk) for chunk in chunks[first : first + 1000] if chunk]
        while data:
            written = os.pwritev(fd, data, offset)
            offset += written
            gone = 0
            while gone < len(data) and written >= len(data[gone]):
                written -= len(data[gone])
                gone += 1
            del data[:gone]
            if data and written:
                data[0] = data[0][written:]


class BodyFiles:
    """The body files below one cache folder. All blocking calls run in ``pool``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tmp = root / "tmp"
        self.bodies = root / "bodies"
        self.pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="cache-disk")
        self.splicer = Worker("cache-splice")
        """Moves bytes from pipes to files (see :mod:`.pipes`)."""
        self._sweeper = Worker("cache-sweep")
        """For calls that nobody waits for."""
        self._idle: OrderedDict[int, OpenBody] = OrderedDict()
        self._open: dict[int, OpenBody] = {}
        self._nowait = bool(_NOWAIT)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing = False

    def prepare(self) -> None:
        """Make the folders, and empty ``tmp/`` of bodies that were incomplete when the last process ended."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        for folder, folders in ((self.tmp, TMP_FOLDERS), (self.bodies, 256)):
            folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            _spread_below(folder)
            for byte in range(folders):
                (folder / f"{byte:02x}").mkdir(PRIVATE_FOLDER, exist_ok=True)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking call in the disk pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)

    async def run_on(self, file: OpenBody, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking call on an open file. The file stays open until the thread is done, even if the caller is
        cancelled: otherwise its descriptor could already belong to another file."""
        work = asyncio.get_running_loop().run_in_executor(self.pool, function, *args)
        self.keep(work)
        file.users += 1
        work.add_done_callback(lambda _: self.release(file))
        return await asyncio.shield(work)

    async def run_open(self, function: Callable[..., int], *args: Any) -> int:
        """Run a blocking call that opens a file. If the caller is cancelled, the file is closed again."""
        return await self.undone_if_cancelled(
            asyncio.get_running_loop().run_in_executor(self.pool, function, *args), os.close
        )

    async def undone_if_cancelled(self, work: asyncio.Future[T], undo: Callable[[T], object]) -> T:
        """Wait for ``work``. If the caller is cancelled, the work still ends, and ``undo`` is called with its
        result."""
        self.keep(work)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(partial(_undo, undo))
            raise

    def start(self, function: Callable[..., object], *args: object) -> None:
        """Start a blocking call without waiting for it."""
        if not self._closing:
            task = self._sweeper.run(function, *args)
            task.add_done_callback(self.failed)
            self.keep(task)

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Make :meth:`drain` wait for this task."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def failed(self, task: asyncio.Future[Any]) -> None:
        """A callback that logs the failure of a task that nobody awaits."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a disk task failed", exc_info=error)

    async def drain(self) -> None:
        """Wait for all that was started, and start nothing any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._closing = True

    def path(self, entry_id: int) -> str:
        name = f"{entry_id:016x}"
        return f"{self.bodies}/{name[-2:]}/{name}"

    def tmp_path(self, entry_id: int) -> str:
        return f"{self.tmp}/{entry_id % TMP_FOLDERS:02x}/{entry_id:016x}"

    def scan(self) -> Iterator[int]:
        """The ids of all body files."""
        for folder in os.scandir(self.bodies):
            for file in os.scandir(folder.path):
                try:
                    yield int(file.name, 16)
                except ValueError:
                    continue

    # -- writing (called in the pool) ---------------------------------------------------------------------------

    def create(self, entry_id: int) -> int:
        return os.open(self.tmp_path(entry_id), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)

    def commit(self, entry_id: int, fd: int, length: int, total: int | None = None, *, in_place: bool = False) -> None:
        """Move a complete temporary file to its final place. ``in_place``: it is there already.

        ``total``: the length of the body if the file has only its first ``length`` bytes; the rest becomes a hole.
        """
        if os.fstat(fd).st_size != length:
            raise TornFile(errno.EIO, f"wrote {length} bytes, the file has {os.fstat(fd).st_size}")
        if total is not None:
            os.ftruncate(fd, total)
        if not in_place:
            os.rename(self.tmp_path(entry_id), self.path(entry_id))

    def write_whole(self, entry_id: int, chunks: list[bytes]) -> None:
        """Write a body file in one go. If that fails nothing is left of it."""
        path = self.path(entry_id)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        try:
            if len(chunks) == 1 and os.write(fd, chunks[0]) == len(chunks[0]):
                return
            write_at(fd, chunks, 0)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    def create_in_place(self, entry_id: int) -> int:
        """Make an empty body file in its final place. (It is invisible without a row in the index.)"""
        return os.open(self.path(entry_id), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)

    def create_sparse(self, entry_id: int, length: int) -> int:
        """Make a body file for ranges: one hole at first. Only the index knows which bytes are written."""
        fd = os.open(self.path(entry_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            os.ftruncate(fd, length)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def link(self, entry_id: int, other_id: int) -> None:
        """Give the body to a second entry."""
        try:
            os.link(self.path(entry_id), self.path(other_id))
        except FileNotFoundError as error:
            raise TornFile(errno.ENOENT, "the entry is gone") from error

    def discard(self, entry_id: int) -> None:
        """Delete a temporary file. Never raises: it is called after other failures."""
        try:
            os.unlink(self.tmp_path(entry_id))
        except OSError:
            pass

    def unlink(self, entry_ids: list[int]) -> None:
        for entry_id in entry_ids:
            try:
                os.unlink(self.path(entry_id))
            except OSError:
                pass

    # -- reading ------------------------------------------------------------------------------------------------

    def open_cached(self, entry_id: int) -> OpenBody | None:
        """The body, if its file is open already."""
        body = self._open.get(entry_id)
        if body is not None:
            if not body.users:
                del self._idle[entry_id]
            body.users += 1
        return body

    def read_open(self, entry_id: int, size: int, offset: int) -> bytearray | None:
        """``size`` bytes of a body, if its file is open already and they are in the page cache. Never blocks."""
        body = self._open.get(entry_id)
        if body is None or body.is_bad:
            return None
        if not body.users:
            self._idle.move_to_end(entry_id)
        buffer = bytearray(size)
        return buffer if self.read_into(body.fd, buffer, offset) == size else None

    def warm(self, entry_id: int, length: int, now: float) -> int | None:
        """The descriptor of a whole body whose file is open and in the page cache, for ``sendfile``.

        ``sendfile`` silently waits for the disk, so it is only used within a second after a read from the page cache.
        """
        body = self._open.get(entry_id)
        if body is None:
            return None
        if not 0 <= now - body.warm < WARM:
            if self.read_into(body.fd, _scratch[:length], 0) != length:
                return None
            body.warm = now
        if not body.users:
            self._idle.move_to_end(entry_id)
        return body.fd

    async def open(self, entry_id: int, length: int, how: Callable[[int, int], int] | None = None) -> OpenBody:
        """Open an entry's body. Raises :class:`TornFile` if it is missing or not ``length`` bytes long.

        ``how(entry_id, length)`` opens it, :meth:`open_checked` by default.
        """
        body = self.open_cached(entry_id)
        if body is not None:
            return body
        fd = await self.run_open(how or self.open_checked, entry_id, length)
        raced = self.open_cached(entry_id)
        if raced is not None:  # opened twice at once
            os.close(fd)
            return raced
        body = OpenBody(entry_id, fd)
        self.register(body)
        return body

    def register(self, body: OpenBody) -> None:
        """Share an open file with the readers of its entry."""
        self._open[body.entry_id] = body

    def open_checked(self, entry_id: int, length: int) -> int:
        try:
            fd = os.open(self.path(entry_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise TornFile(errno.ENOENT, "body file is missing") from error
        size = os.fstat(fd).st_size
        if size != length:
            os.close(fd)
            raise TornFile(errno.EIO, f"body file has {size} bytes, the entry {length}")
        return fd

    def release(self, body: OpenBody) -> None:
        """A user is done. The file stays open for a while, unless its entry was removed meanwhile."""
        body.users -= 1
        if body.users:
            return
        if self._open.get(body.entry_id) is not body:
            os.close(body.fd)
            return
        self._idle[body.entry_id] = body
        if len(self._idle) > OPEN_FILES:
            entry_id, oldest = self._idle.popitem(last=False)
            del self._open[entry_id]
            os.close(oldest.fd)

    def condemn(self, entry_id: int) -> None:
        """Mark a file as corrupt."""
        body = self._open.get(entry_id)
        if body is not None:
            body.is_bad = True

    def forget(self, dropped: Iterable[tuple[int, int]]) -> list[int]:
        """Entries (id and location) were removed: present readers keep their open files, new ones don't get them.
        Returns the ids of the files to unlink."""
        files = [entry_id for entry_id, location in dropped if not location]
        for entry_id in files:
            body = self._open.pop(entry_id, None)
            if body is not None and not body.users:
                del self._idle[entry_id]
                os.close(body.fd)
        return files

    def read_now(self, fd: int, size: int, offset: int) -> bytes | None:
        """``size`` bytes at ``offset`` if they are in the page cache, else ``None``. Never blocks."""
        if not self._nowait:
            return None
        # Memory that was used just now is filled faster than new memory, by more than the copy takes.
        buffer = _scratch[:size] if size <= len(_scratch) else memoryview(bytearray(size))
        count = self.read_into(fd, buffer, offset)
        return None if count is None else bytes(buffer[:count])

    def is_warm(self, fd: int, offset: int, count: int) -> bool:
        """Whether these bytes are in the page cache. Only the first and the last are tested: pages leave it in
        order."""
        one = _scratch[:1]
        return self.read_into(fd, one, offset) == 1 and self.read_into(fd, one, offset + count - 1) == 1

    def read_into(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int | None:
        """Read into ``buffer`` as far as the page cache goes. Returns the count, or ``None``. Never blocks."""
        if not self._nowait:
            return None
        try:
            return os.preadv(fd, [buffer], offset, _NOWAIT) or None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                self._nowait = False  # not supported here (tmpfs, some network file systems)
                return None
            raise

    async def read(self, file: OpenBody, size: int, offset: int) -> bytes:
        """``size`` bytes at ``offset``. The file may be released meanwhile."""
        data = self.read_now(file.fd, size, offset)
        if data is None:
            data = await self.run_on(file, os.pread, file.fd, size, offset)
        return data

    def close(self) -> None:
        self.splicer.close()
        self._sweeper.close()
        self.pool.shutdown(wait=True)
        for body in self._idle.values():
            os.close(body.fd)
        self._idle.clear()
        self._open.clear()
