"""Opening an index: after a crash, rows and bodies that don't belong together are dropped."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .folder import PRIVATE
from .rows import DELETE_ENTRY, DELETE_HEAD, LIVE, LOCATIONS, META, SCHEMA_VERSION, connect, upgrade
from .segments import Segments, parts_of_location

logger = logging.getLogger(__name__)

WRITE_BACK = 60.0
"""Seconds after which the kernel has surely written a file (dirty_expire_centisecs is 30 s by default)."""


class NewerIndex(Exception):
    """It was written by a later version of this proxy, with a schema that this one doesn't know."""


def refuse_newer(path: Path) -> None:
    """Look at the schema before anything in the folder is made, moved or deleted. Raises :class:`NewerIndex`,
    ``sqlite3.Error``."""
    if not path.exists():
        return
    with contextlib.closing(sqlite3.connect(path)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise NewerIndex(
            f"was written by a newer proxy-cache (schema {version}; this one knows {SCHEMA_VERSION}): start that one "
            "again, or name another folder, or delete this one and begin empty; nothing in it was changed"
        )


def open_database(path: Path) -> sqlite3.Connection:
    """The database, private to this account if it is new. Raises ``OSError``, ``sqlite3.Error``."""
    if not path.exists():
        # SQLite makes files with the umask's mode; and a write-ahead log without its database is of no use.
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
    return connect(path)


def recover(
    database: sqlite3.Connection, folder: Path, files: Callable[[], Iterable[int]], segments: Segments
) -> tuple[dict[str, str], set[int]]:
    """Upgrade the database, drop rows without a body, free unused segment blocks, and mark the index as open.

    Returns what ``meta`` said before, and the ids of the body files found. ``files`` lists them; it is called only if
    the last run did not close the index, or if there is none.
    """
    upgrade(database)
    meta = dict(database.execute("SELECT name, value FROM meta"))
    boot = _boot_id()
    database.execute(META, ("clean", "0"))
    database.execute(META, ("boot", boot))
    present: set[int] = set()
    is_clean = meta.get("clean", "1") == "1"
    if not meta:
        # A new folder; or the index was deleted, and bodies are worth nothing without it.
        present.update(files())
        if count := len(present) + len(segments.sizes()):
            logger.warning(
                "cache_dir %s: there was no index, so the cache starts empty; %d files of bodies are deleted",
                folder, count,
            )  # fmt: skip
    elif not is_clean:
        present.update(files())
        _drop_lost(database, present, segments.sizes(), is_new_boot=meta.get("boot") != boot)
    segments.known(dict(database.execute(LIVE)))
    if not is_clean:
        segments.clean(location for (location,) in database.execute(LOCATIONS))
    return meta, present


def _drop_lost(database: sqlite3.Connection, present: set[int], sizes: dict[int, int], *, is_new_boot: bool) -> None:
    """Delete rows whose body is neither in a file nor within its segment."""
    rows: Iterable[tuple[int, int]] = database.execute("SELECT id, place FROM entries")
    lost = [row[:1] for row in rows if not (_is_there(row[1], sizes) if row[1] else row[0] in present)]
    if is_new_boot:
        # The machine itself went down: bytes written in its last seconds may never have reached the disk.
        lost += database.execute(
            "SELECT id FROM entries WHERE written > (SELECT max(written) FROM entries) - ?", (WRITE_BACK,)
        ).fetchall()
    database.execute("BEGIN")
    database.executemany(DELETE_ENTRY, lost)
    database.executemany(DELETE_HEAD, lost)
    database.execute("COMMIT")


def _is_there(location: int, sizes: dict[int, int]) -> bool:
    """Whether a body lies within its segment. ``sizes``: blocks by segment."""
    segment, block, blocks = parts_of_location(location)
    return block + blocks <= sizes.get(segment, 0)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{os.uname().nodename} {time.time() - time.monotonic():.0f}"
