"""Small bodies, many to a file.

A file of its own costs more than a small body's bytes: 100 µs and more to create, an inode, and three waits of the
writer's thread for Python's lock. One write appends hundreds of bodies to a segment. A segment only grows, up to
``SEGMENT`` bytes, and is never overwritten. The blocks of a removed body are freed (``fallocate(2)`` punches a hole),
and with its last body the segment is deleted.

A body begins on a block, after its own id and length. Bodies that are gone, or were never written, read as zeros and
are recognised by that. Bodies are read whole, never streamed; the reader then asks the index whether the entry still
exists, since a hole may have been punched during the read.

Only the writer's thread writes, punches and deletes segments. The loop reads them, with its own descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .checksums import CorruptBody, is_intact
from .entry import BLOCK, Entry
from .files import BodyFiles, TornFile, write_at
from .folder import PRIVATE, PRIVATE_FOLDER
from .memory import SMALL

logger = logging.getLogger(__name__)

SEGMENT = 64 << 20
"""Bytes after which a new segment is started."""
OPEN_SEGMENTS = 256
"""Segments kept open for reading."""
_HEADER = struct.Struct("<qq")
_ZEROS = bytes(BLOCK)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_COPY_ON_WRITE = frozenset({0x9123683E, 0x2FC12FC1, 0xCA451A4E})
"""Btrfs, ZFS, bcachefs (statfs(2)): they free a hole's blocks only together with everything written in the same go."""


def location_of(segment: int, block: int, blocks: int) -> int:
    """A body's location as one number; 0 is none."""
    return segment << 32 | block << 8 | blocks


def parts_of_location(location: int) -> tuple[int, int, int]:
    """Segment, first block, number of blocks."""
    return location >> 32, location >> 8 & 0xFFFFFF, location & 0xFF


def size_of(locations: Iterable[int]) -> int:
    """Bytes on disk at these locations."""
    return sum(location & 0xFF for location in locations) * BLOCK


def _blocks(length: int) -> int:
    return -(-(_HEADER.size + length) // BLOCK)


class Segments:
    """The segments in one folder. ``on_gone(segment)`` is called in the writer's thread after one was deleted."""

    def __init__(self, folder: Path, on_gone: Callable[[int], None] = lambda segment: None) -> None:
        self.folder = folder
        self.usable = False
        """Whether the file system can free blocks in the middle of a file (ext4, XFS and tmpfs can)."""
        self._on_gone = on_gone
        self._live: Counter[int] = Counter()
        """Bodies in each segment."""
        self._number = 0
        self._fd: int | None = None
        self._end = 0
        self._readers: OrderedDict[int, int] = OrderedDict()
        self._users: Counter[int] = Counter()
        self._gone: set[int] = set()
        """Segments that were deleted during a read."""

    def path(self, segment: int) -> str:
        return f"{self.folder}/{segment:08x}"

    # -- opening ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder, and test whether its file system supports segments."""
        self.folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        if os.statvfs(self.folder).f_bsize > BLOCK or _file_system(self.folder) in _COPY_ON_WRITE:
            return
        probe = self.path(0)
        fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE)
        try:
            _punch(fd, 0, BLOCK)
            self.usable = True
        except OSError as error:
            logger.debug("%s: no segments, %s", self.folder, error)
        finally:
            os.close(fd)
            os.unlink(probe)

    def sizes(self) -> dict[int, int]:
        """Whole blocks of each segment."""
        found = {}
        for file in os.scandir(self.folder):
            try:
                found[int(file.name, 16)] = file.stat().st_size // BLOCK
            except ValueError:
                continue
        return found

    def known(self, live: dict[int, int]) -> None:
        """Set the number of indexed bodies in each segment, and delete segments without any."""
        self._live = Counter(live)
        present = self.sizes()
        for segment in present.keys() - live.keys():
            os.unlink(self.path(segment))
        self._number = max((*present, *live), default=0)

    def clean(self, locations: Iterable[int]) -> None:
        """Free the blocks between all these locations, in order: leftovers of a crash."""
        segment, end = 0, 0
        holes: dict[int, list[tuple[int, int]]] = {}
        for location in locations:
            before, last = segment, end
            segment, block, blocks = parts_of_location(location)
            if segment != before:
                if before:
                    os.truncate(self.path(before), last * BLOCK)
                last = 0
            if block > last:
                holes.setdefault(segment, []).append((last, block - last))
            end = block + blocks
        if segment:
            os.truncate(self.path(segment), end * BLOCK)
        for number, ranges in holes.items():
            self._punch(number, ranges)

    # -- writing (in the writer's thread) -----------------------------------------------------------------------

    def accepts(self, entry: Entry) -> bool:
        """Whether this body goes to a segment."""
        return self.usable and entry.length <= SMALL

    def append(self, bodies: Sequence[tuple[Entry, list[bytes]]]) -> None:
        """Append bodies and set the ``location`` of their entries: all of them or, with ``OSError``, none."""
        if self._fd is None or self._end * BLOCK >= SEGMENT:
            self._next()
        assert self._fd is not None
        buffers: list[bytes] = []
        locations = []
        block = self._end
        for entry, chunks in bodies:
            blocks = _blocks(entry.length)
            buffers.append(_HEADER.pack(entry.id, entry.length))
            buffers += chunks
            if padding := blocks * BLOCK - _HEADER.size - entry.length:
                buffers.append(_ZEROS[:padding])
            locations.append(location_of(self._number, block, blocks))
            block += blocks
        try:
            write_at(self._fd, buffers, self._end * BLOCK)
        except OSError:
            # A partial write must not be appended to, nor take room on a disk that may be full.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end * BLOCK)
            self._leave()
            raise
        self._end = block
        self._live[self._number] += len(locations)
        for (entry, _), location in zip(bodies, locations, strict=True):
            entry.location = location

    def _next(self) -> None:
        self._leave()
        number = self._number + 1
        self._fd = os.open(self.path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        self._number, self._end = number, 0

    def _leave(self) -> None:
        """Write no more to the current segment."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)
            if not self._live[self._number]:
                self._delete(self._number)

    def free(self, locations: Iterable[int]) -> None:
        """Free the blocks of these bodies. Never raises: other blocks are freed with their segment."""
        freed: dict[int, list[tuple[int, int]]] = {}
        for location in locations:
            segment, block, blocks = parts_of_location(location)
            freed.setdefault(segment, []).append((block, blocks))
        for segment, holes in freed.items():
            self._live[segment] -= len(holes)
            if self._live[segment] <= 0 and (segment != self._number or self._fd is None):
                self._delete(segment)
            else:
                self._punch(segment, _joined(holes))

    def _punch(self, segment: int, holes: list[tuple[int, int]]) -> None:
        try:
            fd = os.open(self.path(segment), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for block, blocks in holes:
                _punch(fd, block * BLOCK, blocks * BLOCK)
        except OSError:
            pass
        finally:
            os.close(fd)

    def _delete(self, segment: int) -> None:
        del self._live[segment]
        try:
            os.unlink(self.path(segment))
        except OSError:
            pass
        self._on_gone(segment)

    def close_writer(self) -> None:
        self._leave()

    # -- reading (on the loop) ----------------------------------------------------------------------------------

    def read_now(self, files: BodyFiles, entry: Entry) -> bytes | None:
        """A body, if its segment is open and its blocks are in the page cache. Raises ``OSError`` if it is gone."""
        segment, block, _ = parts_of_location(entry.location)
        fd = self._readers.get(segment)
        if fd is None:
            if segment != self._number:
                return None
            # The segment being written: opening it does not touch the disk.
            fd = self._opened(segment, os.open(self.path(segment), os.O_RDONLY | os.O_CLOEXEC))
        size = _HEADER.size + entry.length
        data = files.read_now(fd, size, block * BLOCK)
        if data is None or len(data) < size:
            return None  # the rest is on the disk, or missing: a read of the disk tells
        return _checked(entry, data)

    async def read(self, files: BodyFiles, entry: Entry) -> bytes:
        """A body. Raises ``OSError`` if it can't be read, or is gone."""
        segment, block, _ = parts_of_location(entry.location)
        self._users[segment] += 1
        try:
            fd = self._readers.get(segment)
            if fd is None:
                fd = self._opened(
                    segment, await files.run_open(os.open, self.path(segment), os.O_RDONLY | os.O_CLOEXEC)
                )
            data = await files.run(os.pread, fd, _HEADER.size + entry.length, block * BLOCK)
        finally:
            self._users[segment] -= 1
            if not self._users[segment]:
                del self._users[segment]
                if segment in self._gone:
                    self._gone.discard(segment)
                    self.gone(segment)
        return _checked(entry, data)

    def _opened(self, segment: int, fd: int) -> int:
        other = self._readers.get(segment)
        if other is not None:  # opened twice at once
            os.close(fd)
            return other
        self._readers[segment] = fd
        idle = len(self._readers) - OPEN_SEGMENTS
        unused = [number for number in self._readers if number not in self._users and number != segment]
        for number in unused[: max(idle, 0)]:
            self.gone(number)
        return fd

    def gone(self, segment: int) -> None:
        """Close a segment that was deleted, or not read for long."""
        if segment in self._users:
            self._gone.add(segment)
        elif (fd := self._readers.pop(segment, None)) is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all descriptors for reading."""
        while self._readers:
            os.close(self._readers.popitem()[1])


def _checked(entry: Entry, data: bytes) -> bytes:
    if len(data) != _HEADER.size + entry.length:
        raise TornFile(errno.EIO, f"the segment ends {_HEADER.size + entry.length - len(data)} bytes early")
    if _HEADER.unpack_from(data) != (entry.id, entry.length):
        if any(data[: _HEADER.size]):
            raise CorruptBody(errno.EIO, "what is there is not the body that was stored")
        raise TornFile(errno.ENOENT, "the body is not in its segment any more")  # its blocks were freed
    body = data[_HEADER.size :]
    if entry.sums and not is_intact(entry.sums, body):
        raise CorruptBody(errno.EIO, "the body is not what was stored")
    return body


def _joined(holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge adjacent holes."""
    holes.sort()
    joined = [holes[0]]
    for block, blocks in holes[1:]:
        last, count = joined[-1]
        if last + count == block:
            joined[-1] = last, count + blocks
        else:
            joined.append((block, blocks))
    return joined


def _punch(fd: int, offset: int, length: int) -> None:
    """Free blocks, which then read as zeros. Raises ``OSError`` if the file system can't."""
    if _fallocate is None:
        raise OSError(errno.EOPNOTSUPP, "no fallocate(2)")
    if _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _file_system(folder: Path) -> int:
    """The type of the file system by statfs(2); 0 if unknown."""
    try:
        buffer = (ctypes.c_long * 64)()
        failed = ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), buffer)
    except (OSError, AttributeError):
        return 0
    return 0 if failed else buffer[0] & 0xFFFFFFFF


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    """Python has only ``posix_fallocate``, which allocates and never frees."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        function = getattr(library, "fallocate64", None) or library.fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_fallocate = _find_fallocate()
