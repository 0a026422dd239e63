"""Bytes set aside of bodies that are not stored, for clients that read slower than the origin sends.

They are in files without a name, which are gone with the last client or with the process; nobody else ever reads them.
Those of ``no-store`` responses are in memory: "the cache MUST NOT intentionally store the information in non-volatile
storage" (RFC 9111 §5.2.2.5). What all of them may take is bounded.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

SPILL_MAX: Final = 1 << 30
MEMORY_MAX: Final = 256 << 20
"""Bytes of them in memory, at most."""
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class Spill:
    """The bytes set aside of all bodies. ``has_free(size)``: whether the disk has room for so many more."""

    def __init__(self, folder: Path, has_free: Callable[[int], bool]) -> None:
        self.limit = SPILL_MAX
        """Bytes on the disk and in memory, at most; 0: none."""
        self.on_disk = 0
        self.in_memory = 0
        self._folder = folder
        self._has_free = has_free

    @property
    def size(self) -> int:
        """Bytes set aside."""
        return self.on_disk + self.in_memory

    def has_room(self, size: int, *, volatile: bool) -> bool:
        """Whether there is room for ``size`` more bytes, in memory if ``volatile``."""
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
        """A file without a name. Blocks."""
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
