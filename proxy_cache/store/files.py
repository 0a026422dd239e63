"""Body files: where they are, how they come and go, and reads that do not block the event loop.

A body is written under ``tmp/xx/`` and renamed to ``bodies/xx/`` once complete; one that is there from its first to its
last byte is made in place. Either way the index learns of it when it is whole, and after a crash a file that the index
doesn't know is deleted. (Small bodies have no file of their own, see :mod:`.segments`.) What is in the page cache is
read on the loop (``preadv2`` with ``RWF_NOWAIT``); everything else goes to a thread.
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
from pathlib import Path
from typing import Any, TypeVar

from .folder import PRIVATE, PRIVATE_FOLDER
from .worker import Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)

READ_SIZE = 256 * 1024
"""Bytes read at once for one client; also what one client may have in memory besides its socket's buffer."""

TMP_FOLDERS = 64
"""Folders for bodies that are being filled, see :func:`_spread_below`."""

OPEN_FILES = 256
"""Files kept open after their last reader left, so that a hot entry is not opened for every hit."""

WARM = 1.0
"""Seconds for which a file that was found in the page cache is taken to be there still."""
WARM_MAX = 256 * 1024
"""Bytes of the longest file that this is found out of."""

# linux/fs.h, where it is the same for x86, Arm and RISC-V; elsewhere the call is refused.
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_TOPDIR_FL = 0x00020000
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_scratch = memoryview(bytearray(WARM_MAX))


class TornFile(OSError):
    """A stored body that is not as long as its entry says, or not there."""


class OpenBody:
    """An open body file with a count of its users; closed by :class:`BodyFiles` when idle for long enough."""

    __slots__ = ("entry_id", "fd", "is_bad", "users", "warm")

    def __init__(self, entry_id: int, fd: int) -> None:
        self.entry_id = entry_id
        self.fd = fd
        self.users = 1
        self.warm = 0.0
        """When it was last seen to be all in the page cache."""
        self.is_bad = False
        """Whether it was found to be corrupt: who still reads it reads no further."""


def _spread_below(folder: Path) -> None:
    """Tell the file system that the folders in this one have nothing to do with each other (``chattr +T``).

    ext4 then puts them, and the files in them, into groups of their own, and not all into one or two. Within a group it
    looks at each inode that was freed in the last minutes whenever a file is made: a fifth of a miss of 1 MB in a cache
    that evicts, measured. Folders that are there already stay where they are.
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
        logger.debug("no chattr +T for %s", folder)  # other file systems know no such hint


def as_os_error(error: Exception) -> OSError:
    """Whatever goes wrong with a body is told like a failure of the disk."""
    return error if isinstance(error, OSError) else OSError(errno.EIO, f"{type(error).__name__}: {error}")


def _close_opened(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def write_at(fd: int, chunks: list[bytes], offset: int) -> None:
    """Write all of ``chunks`` at ``offset``, whatever a single call may take. Blocks."""
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
        """What goes from pipes to files (see :mod:`.pipes`)."""
        self._sweeper = Worker("cache-sweep")
        """What nobody waits for."""
        self._idle: OrderedDict[int, OpenBody] = OrderedDict()
        self._open: dict[int, OpenBody] = {}
        self._nowait = bool(_NOWAIT)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing = False

    def prepare(self) -> None:
        """Make the folders, and empty ``tmp/``: what is in there was being filled when the process ended."""
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
        """Run a blocking call on an open file. It stays open until the thread has done with it, even if whoever waits
        for that is cancelled: its descriptor would be another file's by then."""
        work = asyncio.get_running_loop().run_in_executor(self.pool, function, *args)
        self.keep(work)
        file.users += 1
        work.add_done_callback(lambda _: self.release(file))
        return await asyncio.shield(work)

    async def run_open(self, function: Callable[..., int], *args: Any) -> int:
        """Run a blocking call that opens a file. If whoever waits for it is cancelled, it is closed again."""
        opening = asyncio.get_running_loop().run_in_executor(self.pool, function, *args)
        self.keep(opening)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    def start(self, function: Callable[..., object], *args: object) -> None:
        """Let a blocking call run in a thread of its own, without waiting for it."""
        if not self._closing:
            task = self._sweeper.run(function, *args)
            task.add_done_callback(self.failed)
            self.keep(task)

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Have :meth:`drain` wait for this, too."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def failed(self, task: asyncio.Future[Any]) -> None:
        """To be told of a task whose failure nobody else hears of."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a disk task failed", exc_info=error)

    async def drain(self) -> None:
        """Wait for what was started, and start nothing any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._closing = True

    def path(self, entry_id: int) -> str:
        name = f"{entry_id:016x}"
        return f"{self.bodies}/{name[-2:]}/{name}"

    def tmp_path(self, entry_id: int) -> str:
        return f"{self.tmp}/{entry_id % TMP_FOLDERS:02x}/{entry_id:016x}"

    def scan(self) -> Iterator[int]:
        """The ids of all body files there are."""
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
        """The temporary file becomes the entry's body: complete first, then visible. ``in_place``: it is there already.

        ``total``: of this length, if only the first ``length`` bytes are here; the rest is a hole.
        """
        if os.fstat(fd).st_size != length:
            raise TornFile(errno.EIO, f"wrote {length} bytes, the file has {os.fstat(fd).st_size}")
        if total is not None:
            os.ftruncate(fd, total)
        if not in_place:
            os.rename(self.tmp_path(entry_id), self.path(entry_id))

    def write_whole(self, entry_id: int, chunks: list[bytes]) -> None:
        """Make a body file in one go. Nothing is left of it if that fails."""
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
        """A body that is to be filled where it will stay. (Without a row in the index it is nobody's.)"""
        return os.open(self.path(entry_id), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)

    def create_sparse(self, entry_id: int, length: int) -> int:
        """A body of which pieces are to come: a file that is one hole. What is in it, the index alone knows."""
        fd = os.open(self.path(entry_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            os.ftruncate(fd, length)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def link(self, entry_id: int, other_id: int) -> None:
        """A second entry with the same body."""
        try:
            os.link(self.path(entry_id), self.path(other_id))
        except FileNotFoundError as error:
            raise TornFile(errno.ENOENT, "the entry is gone") from error

    def discard(self, entry_id: int) -> None:
        """Drop a temporary file. Never raises: it is called where something has already gone wrong."""
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

    def peek(self, entry_id: int) -> OpenBody | None:
        """The body, if its file is open already, to be used before anybody else has a turn on the loop."""
        body = self._open.get(entry_id)
        if body is not None and not body.users:
            self._idle.move_to_end(entry_id)
        return body

    def warm(self, entry_id: int, length: int, now: float) -> int | None:
        """The descriptor of a whole body whose file is open and in the page cache, to send it from there at once.

        ``sendfile`` would wait for the disk without a word, so it is only for what was read within the last second.
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
        """Open an entry's body; :class:`TornFile` if it is missing or not ``length`` bytes long.

        ``how``: :meth:`create_sparse` to write pieces of it.
        """
        body = self.open_cached(entry_id)
        if body is not None:
            return body
        fd = await self.run_open(how or self._open_checked, entry_id, length)
        raced = self.open_cached(entry_id)
        if raced is not None:  # two readers opened the file at once
            os.close(fd)
            return raced
        body = OpenBody(entry_id, fd)
        self.register(body)
        return body

    def register(self, body: OpenBody) -> None:
        """Offer an open file to the readers of its entry."""
        self._open[body.entry_id] = body

    def _open_checked(self, entry_id: int, length: int) -> int:
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
        """A user is done. The file stays open for a while, unless the entry was forgotten meanwhile."""
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
        """This file is corrupt."""
        body = self._open.get(entry_id)
        if body is not None:
            body.is_bad = True

    def forget(self, dropped: Iterable[tuple[int, int]]) -> list[int]:
        """These entries (id and place) are gone: readers keep the file they have open, nobody new gets it. The ids of
        those that have a file of their own, which is to be unlinked."""
        files = [entry_id for entry_id, place in dropped if not place]
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
        buffer = bytearray(size)
        count = self.read_into(fd, memoryview(buffer), offset)
        if count is None:
            return None
        return bytes(buffer) if count == size else bytes(memoryview(buffer)[:count])

    def is_warm(self, fd: int, offset: int, count: int) -> bool:
        """Whether these bytes are in the page cache, by the first of them and the last: pages leave it in the order
        that they have come in."""
        at = _scratch[:1]
        return self.read_into(fd, at, offset) == 1 and self.read_into(fd, at, offset + count - 1) == 1

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int | None:
        """Fill ``buffer`` as far as the page cache can; how many bytes, ``None`` if it is none. Never blocks."""
        if not self._nowait:
            return None
        try:
            return os.preadv(fd, [buffer], offset, _NOWAIT) or None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                self._nowait = False  # this file system cannot say (tmpfs, some network file systems)
                return None
            raise

    async def read(self, file: OpenBody, size: int, offset: int) -> bytes:
        """``size`` bytes at ``offset``. The file may be let go of meanwhile."""
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
