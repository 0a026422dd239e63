"""The cache folder: whether it may be written, is nobody else's, has room, and what its file system can do."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..semantics.texts import human_size
from ..store.store import Quota
from .finding import FAULT, OK, WARNING, Finding

NETWORK: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "lustre", "nfs", "nfs4", "ocfs2", "smb3",
     "smbfs"}
)  # fmt: skip
LITTLE: Final = 64 << 20
"""Bytes of a cache that is of no use."""
FEW_FILES: Final = 10_000
"""Files that can still be made."""
_HOLE: Final = 1 << 20
_SUBJECT: Final = "cache_dir"


def check(folder: Path, quota: Quota) -> Iterator[Finding]:
    there = _existing(folder)
    if problem := _why_not_writable(folder, there):
        yield Finding(_SUBJECT, FAULT, problem)
        return
    if user := _user_of(folder):
        yield Finding(_SUBJECT, FAULT, f"{folder} is used by another process ({user}): one process a folder")
    elif there != folder:
        yield Finding(_SUBJECT, OK, f"{folder} is not there yet, and can be made")
    elif folder.stat().st_mode & 0o077:
        yield Finding(_SUBJECT, WARNING, f"{folder} can be read by others; the start makes it private")
    else:
        yield Finding(_SUBJECT, OK, f"{folder} can be written")
    yield _file_system(there)
    yield from _features(there)
    yield from _space(there, folder, quota)


def _existing(folder: Path) -> Path:
    """The folder, or the one it would be made in."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))


def _why_not_writable(folder: Path, there: Path) -> str:
    if not there.is_dir():
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        made = "" if there == folder.absolute() else f", so that {folder} cannot be made"
        return f"{there} cannot be written by this account (uid {os.getuid()}){made}"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"{there} is on a file system that is read-only"
    return ""


def _user_of(folder: Path) -> str:
    """Who has locked it; empty: nobody."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of with the descriptor
    except OSError:
        return f"pid {os.pread(lock, 32, 0).decode('ascii', 'replace').strip() or 'unknown'}"
    finally:
        os.close(lock)
    return ""


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, as /proc/self/mountinfo has it; ``unknown``."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf8", "replace").splitlines()
    except OSError:
        return "unknown"
    for line in reversed(lines):
        before, dash, after = line.partition(" - ")
        if dash and before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"


def _file_system(there: Path) -> Finding:
    kind = file_system(there)
    if kind in NETWORK:
        text = f"on a network file system ({kind}): locks and SQLite's log are not safe there, and each read may wait"
        return Finding(_SUBJECT, WARNING, text)
    if kind == "tmpfs":
        return Finding(_SUBJECT, WARNING, "in memory (tmpfs): it counts as memory, and is gone after a restart")
    if kind == "overlay":
        return Finding(
            _SUBJECT, WARNING, "in a container's own layer (overlay): it goes with the container; mount a volume"
        )
    return Finding(_SUBJECT, OK, f"on a file system of its machine ({kind})")


def _features(there: Path) -> Iterator[Finding]:
    """What is slower, or does not work, where the file system can't do it."""
    lacks = []
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            os.ftruncate(file.fileno(), _HOLE)
            os.pwrite(file.fileno(), b"end", _HOLE - 3)
            if os.fstat(file.fileno()).st_blocks * 512 >= _HOLE:
                lacks.append("holes in files (what is stored in part takes the disk of the whole)")
            one, other = socket.socketpair()
            with one, other:
                if os.sendfile(one.fileno(), file.fileno(), _HOLE - 3, 3) != 3:
                    lacks.append("sendfile")
        with tempfile.TemporaryDirectory(dir=there) as scratch:
            database = sqlite3.connect(Path(scratch, "index"))
            try:
                mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            finally:
                database.close()
            if mode != "wal":
                lacks.append("SQLite's log (WAL)")
    except (OSError, sqlite3.Error) as error:
        yield Finding(_SUBJECT, FAULT, f"a file in {there} cannot be used as the cache does: {error}")
        return
    if lacks:
        yield Finding(_SUBJECT, WARNING, f"the file system has no {', no '.join(lacks)}")
    else:
        yield Finding(_SUBJECT, OK, "the file system has holes in files, sendfile and SQLite's log")


def _space(there: Path, folder: Path, quota: Quota) -> Iterator[Finding]:
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    obtainable = free + _taken(folder)
    max_size, min_free = (_bytes(limit, obtainable) for limit in (quota.max_size, quota.min_free))
    room = max(obtainable - min_free, 0)
    if room < LITTLE:
        left = f"{human_size(free)} free, {human_size(min_free)} stay free"
        text = f"the disk has no more than {human_size(room)} for the cache ({left})"
        yield Finding("cache_max_size", WARNING, text)
    elif isinstance(quota.max_size, int) and room < max_size:
        text = f"the disk has no more than {human_size(room)} for a cache of {human_size(max_size)}"
        yield Finding("cache_max_size", WARNING, text)
    else:
        yield Finding("cache_max_size", OK, f"{human_size(min(max_size, room))}, {human_size(free)} are free")
    if disk.f_files and disk.f_favail < FEW_FILES:
        yield Finding(_SUBJECT, WARNING, f"the file system takes only {disk.f_favail:,} more files")


def _taken(folder: Path) -> int:
    """Bytes that the cache has on its disk already."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _bytes(limit: int | float, obtainable: int) -> int:
    return limit if isinstance(limit, int) else int(limit * obtainable)
