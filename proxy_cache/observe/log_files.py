"""Log files rotated by another program.

The log goes to stdout and stderr. If these are files (``mitmdump ... >> proxy.log``), logrotate renames them and sends
SIGHUP: then new files with the old names replace the renamed ones.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_DELETED = " (deleted)"


class LogFiles:
    """The files of some descriptors, by their names at the start."""

    def __init__(self, descriptors: Iterable[int] = (1, 2)) -> None:
        self._paths: dict[int, str] = {}
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    path = os.readlink(f"/proc/self/fd/{descriptor}")
                    if not path.endswith(_DELETED):
                        self._paths[descriptor] = path

    def reopen(self) -> list[str]:
        """Replace files that were renamed or deleted. Returns their names. Raises ``OSError``, with the file's name, if
        one can't be opened; then the old files stay in use."""
        opened: dict[str, int] = {}
        try:
            for descriptor, path in self._paths.items():
                old = os.fstat(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    now = os.stat(path)
                    if (now.st_dev, now.st_ino) == (old.st_dev, old.st_ino):
                        continue
                if path not in opened:
                    opened[path] = open_like(path, old)
            for descriptor, path in self._paths.items():
                if path in opened:
                    os.dup2(opened[path], descriptor)  # inheritable, as it was
        finally:
            for new in opened.values():
                os.close(new)
        return [Path(path).name for path in opened]


def open_like(path: str, old: os.stat_result, more_flags: int = 0) -> int:
    """Open the file with this name; a new one gets the mode of the old one. Raises ``OSError``."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | more_flags
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        new = os.open(path, flags | os.O_CREAT, 0o600)
        with contextlib.suppress(OSError):
            os.fchmod(new, stat.S_IMODE(old.st_mode))
        return new
