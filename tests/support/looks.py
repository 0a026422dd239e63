"""Looks at what changes while one looks: files and descriptors that may be gone between the listing and the look."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def open_files(pid: int | str = "self") -> list[str]:
    """What the descriptors of a process lead to (``/path``, ``/path (deleted)``, ``socket:[1]``), of those that are
    still open when they are looked at."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files below a folder at any depth, in no order, of those that are still there when they are looked at."""
    for below, _, names in os.walk(folder):
        for name in names:
            path = Path(below, name)
            with contextlib.suppress(FileNotFoundError):
                yield path, path.lstat()


def is_open_still(fd: int, before: os.stat_result) -> bool:
    """Whether a descriptor of this process leads to where it led before: its number may be another file's by now."""
    try:
        now = os.fstat(fd)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)
