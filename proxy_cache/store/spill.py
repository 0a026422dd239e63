"""Unread bytes of bodies that are not stored, for clients that read slower than the origin sends.

They are in files without a name, which vanish with the last reader or with the process. Those of ``no-store`` responses
are in memory: "the cache MUST NOT intentionally store the information in non-volatile storage" (RFC 9111 §5.2.2.5). All
of them together are bounded.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .files import OpenBody

SPILL_MAX: Final = 1 << 30
"""Bytes, on disk and in memory."""
MEMORY_MAX: Final = 256 << 20
"""Bytes in memory."""
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class SpillFile:
    """Bytes of one body from ``start`` up to ``stop`` (exclusive). ``size``: bytes of the file."""

    __slots__ = ("file", "size", "start", "stop")

    def __init__(self, file: OpenBody, start: int, stop: int) -> None:
        self.file = file
        self.start = start
        self.stop = stop
        self.size = 0

    def extend(self, start: int, size: int) -> None:
        """``size`` bytes were written at ``start``."""
        if self.stop < start:
            self.start = start  # every reader has read the bytes in between
        self.stop = start + size
        self.size += size


class Spill:
    """The spilled bytes of all bodies. ``has_free(size)``: whether the disk has room for so many more."""

    def __init__(self, folder: Path, has_free: Callable[[int], bool]) -> None:
        self.limit = SPILL_MAX
        """Bytes, on disk and in memory; 0: none."""
        self.on_disk = 0
        self.in_memory = 0
        self._folder = folder
        self._has_free = has_free

    @property
    def size(self) -> int:
        """Bytes spilled now."""
        return self.on_disk + self.in_memory

    def has_room(self, size: int, *, volatile: bool) -> bool:
        """Whether ``size`` more bytes may be spilled; to memory, if ``volatile``."""
        if self.size + size > self.limit:
            return False
        return self.in_memory + size <= MEMORY_MAX if volatile else self._has_free(size)

    def reserve(self, size: int, *, volatile: bool) -> None:
        if volatile:
            self.in_memory += size
        else:
            self.on_disk += size

    def release(self, size: int, *, volatile: bool) -> None:
        self.reserve(-size, volatile=volatile)

    def open(self, volatile: bool) -> int:
        """The descriptor of a new file without a name. Blocks."""
        if volatile:
            return os.memfd_create("proxy-cache", os.MFD_CLOEXEC)
        try:
            return os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        # Not every file system has such files. tmp/ is emptied at each start.
        descriptor, path = tempfile.mkstemp(dir=self._folder)
        os.unlink(path)
        return descriptor
