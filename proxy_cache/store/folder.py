"""A cache folder: used by one process at a time, and closed to other accounts of the machine.

It holds other people's downloads, and their URLs with whatever secrets are in them.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

PRIVATE_FOLDER: Final = 0o700
"""Mode of folders."""
PRIVATE: Final = 0o600
"""Mode of files."""


class InUse(Exception):
    """Another process uses the folder. The message is its pid, or ``unknown``."""


class FolderLock:
    """A file in the folder that is locked (flock(2)) while the folder is in use. It contains the user's pid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def acquire(self) -> None:
        """Make the folder if it doesn't exist, and lock it. Raises ``OSError``, or :class:`InUse`."""
        self._folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InUse(os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def tighten(self) -> None:
        """Remove permissions that earlier versions gave to others: of the folder and its contents, except body files,
        which are out of reach then. A warning names files that belong to another account."""
        found = [self._folder, self._folder / "lock"]
        for name in ("tmp", "bodies", "segments"):
            found += [self._folder / name, *(path for path in (self._folder / name).glob("*"))]
        found += self._folder.glob("index.sqlite*")
        for path in found:
            try:
                mode = path.stat().st_mode & 0o7777
                if mode & 0o077:
                    path.chmod(mode & ~0o077)
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("cache_dir %s: others may read %s: %s", self._folder, path.name, error.strerror)

    def release(self) -> None:
        """Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
