"""The lock of a cache folder: one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class InUse(Exception):
    """Another process has the folder. The message is its pid, as far as it is known."""


class FolderLock:
    """A file in the folder, locked (flock(2)) as long as the folder is in use. It has the pid of who uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def take(self) -> None:
        """Make the folder, if it isn't there, and take its lock. Raises ``OSError``, or :class:`InUse`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InUse(os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
