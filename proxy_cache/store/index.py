"""The index: which responses are stored, looked up in memory, kept in SQLite (WAL) over restarts.

The event loop asks and changes the index in memory only; a thread of its own brings the changes to the database, as
many in one transaction as have come together. A body is renamed into place before its row is written, so after a
crash there may be files without a row, and rows without a file only if somebody else deleted it: :meth:`Index.load`
lets both disappear.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..semantics.headers import Headers
from ..semantics.spans import Spans
from ..semantics.stored import StoredResponse
from ..semantics.vary import normalised

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    status INTEGER NOT NULL,
    headers BLOB NOT NULL,
    vary TEXT NOT NULL,
    request_time REAL NOT NULL,
    response_time REAL NOT NULL,
    age INTEGER NOT NULL,
    assigned INTEGER,
    targeted TEXT,
    length INTEGER NOT NULL,
    spans TEXT,
    written REAL NOT NULL,
    used REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
WRITE_BACK = 60.0
"""Seconds after which the kernel has surely written a file (dirty_expire_centisecs is 30 s by default)."""
BLOCK = 4096

Operation = tuple[str, tuple[Any, ...]]
_COLUMNS = (
    "id, key, status, headers, vary, request_time, response_time, age, assigned, targeted, length, spans, written, used"
)
_INSERT = f"INSERT OR REPLACE INTO entries ({_COLUMNS}) VALUES ({', '.join('?' * len(_COLUMNS.split(',')))})"
_DELETE = "DELETE FROM entries WHERE id = ?"
_TOUCH = "UPDATE entries SET used = ? WHERE id = ?"
_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class Entry:
    """One stored response: its key, its head, and how long its body is (in file ``id``)."""

    __slots__ = ("id", "key", "length", "response", "spans", "used", "written")

    def __init__(
        self,
        entry_id: int,
        key: str,
        response: StoredResponse,
        length: int,
        used: float,
        spans: Spans | None = None,
        written: float | None = None,
    ) -> None:
        self.id = entry_id
        self.key = key
        self.response = response
        self.length = length
        self.used = used
        self.spans = spans
        """The parts of the body that are in the file; ``None`` if it is all there."""
        self.written = used if written is None else written
        """When the last byte of it was brought to the file."""

    @property
    def size(self) -> int:
        """Bytes it is counted with: whole blocks for the body, and its head."""
        return footprint(self.length if self.spans is None else self.spans.length)

    def has(self, start: int, stop: int) -> bool:
        """Whether these bytes of its body are in the file."""
        return self.spans is None or self.spans.covers(start, stop)

    def __repr__(self) -> str:
        return f"<Entry {self.id:x} {self.key} {self.response.status}, {self.length} bytes>"


def footprint(length: int) -> int:
    """Bytes on disk of a body of ``length`` bytes, with its share of the index."""
    return -(-length // BLOCK) * BLOCK + BLOCK


class Index:
    """Entries by key and by last use. ``on_error`` is told when the database could not be written."""

    def __init__(self, path: Path, on_error: Callable[[str, Exception], None]) -> None:
        self.path = path
        self.size = 0
        self._on_error = on_error
        self._by_key: dict[str, list[Entry]] = {}
        self._by_use: OrderedDict[int, Entry] = OrderedDict()
        self._touched: dict[int, float] = {}
        self._next_id = 1
        self._operations: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # -- opening and closing (blocking, off the loop) -----------------------------------------------------------

    def load(self, files: Callable[[], Iterable[int]]) -> list[int]:
        """Read the database into memory; returns the ids of files that no row knows. ``files`` lists what is there,
        and is asked only when the last run did not end in :meth:`close`."""
        database = self._connect()
        try:
            return self._load(database, files)
        finally:
            database.close()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._write_forever, name="cache-index", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is pending, with the last uses, and mark the end as clean."""
        if self._thread is None:
            return
        self.flush_uses()
        self._operations.put((_META, ("clean", "1")))
        self._operations.put(None)
        self._thread.join()
        self._thread = None

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 256")
        database.execute("PRAGMA journal_size_limit = 1048576")
        return database

    def _load(self, database: sqlite3.Connection, files: Callable[[], Iterable[int]]) -> list[int]:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in range(SCHEMA_VERSION + 1):
            raise sqlite3.DatabaseError(f"the index was written by another version (schema {version})")
        if version == 1:
            database.execute("ALTER TABLE entries ADD COLUMN targeted TEXT")
        if version in (1, 2):
            database.execute("ALTER TABLE entries ADD COLUMN spans TEXT")
            database.execute("ALTER TABLE entries ADD COLUMN written REAL NOT NULL DEFAULT 0")
            database.execute("UPDATE entries SET written = response_time")
        database.executescript(SCHEMA)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        meta = dict(database.execute("SELECT name, value FROM meta"))
        database.execute(_META, ("clean", "0"))
        boot = _boot_id()
        database.execute(_META, ("boot", boot))
        clean = meta.get("clean", "1") == "1"
        present = None if clean else set(files())
        if not clean and meta.get("boot") != boot:
            # The machine itself went down. What was renamed in the last seconds may never have reached the disk.
            database.execute(
                "DELETE FROM entries WHERE written > (SELECT max(written) FROM entries) - ?", (WRITE_BACK,)
            )
        lost = []
        for row in database.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY used"):
            entry = _entry(row)
            if entry is None or (present is not None and entry.id not in present):
                lost.append((row[0],))
                continue
            self._by_key.setdefault(entry.key, []).append(entry)
            self._by_use[entry.id] = entry
            self.size += entry.size
        database.execute("BEGIN")
        database.executemany(_DELETE, lost)
        database.execute("COMMIT")
        orphans = [] if present is None else [number for number in present if number not in self._by_use]
        self._next_id = max([*self._by_use, *orphans, int(meta.get("last_id", "0"))], default=0) + 1
        if clean:
            return [number for (number,) in lost]
        return orphans

    # -- asking and changing (on the loop) ----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._by_use)

    def __contains__(self, entry: Entry) -> bool:
        return self._by_use.get(entry.id) is entry

    def new_id(self) -> int:
        number = self._next_id
        self._next_id += 1
        return number

    def get(self, key: str) -> list[Entry]:
        """All variants stored under ``key``, oldest first. Do not change the list."""
        return self._by_key.get(key, [])

    def touch(self, entry: Entry, now: float) -> None:
        """The entry was used: it is the last to be evicted now."""
        entry.used = now
        if entry.id in self._by_use:
            self._by_use.move_to_end(entry.id)
            self._touched[entry.id] = now

    def add(self, entry: Entry) -> None:
        self._by_key.setdefault(entry.key, []).append(entry)
        self._by_use[entry.id] = entry
        self.size += entry.size
        self._save(entry)

    def replace_response(self, entry: Entry, response: StoredResponse) -> None:
        """A validation brought new header fields for the same body."""
        entry.response = response
        if entry.id in self._by_use:
            self._save(entry)

    def add_span(self, entry: Entry, start: int, stop: int, now: float) -> None:
        """One more piece of the body is in the file."""
        if entry.spans is None or entry.id not in self._by_use:
            return
        self.size -= entry.size
        spans = entry.spans.with_span(start, stop)
        entry.spans = None if spans.covers(0, entry.length) else spans
        entry.written = now
        self.size += entry.size
        self._save(entry)

    def remove(self, entry: Entry) -> bool:
        """Forget an entry; whether it was there."""
        if self._by_use.pop(entry.id, None) is None:
            return False
        variants = self._by_key[entry.key]
        variants.remove(entry)
        if not variants:
            del self._by_key[entry.key]
        self._touched.pop(entry.id, None)
        self.size -= entry.size
        self._operations.put((_DELETE, (entry.id,)))
        return True

    def oldest(self) -> Entry | None:
        return next(iter(self._by_use.values()), None)

    def flush_uses(self) -> None:
        """Write the times of last use, which are collected meanwhile, so that a hit costs no write."""
        touched, self._touched = self._touched, {}
        for entry_id, used in touched.items():
            self._operations.put((_TOUCH, (used, entry_id)))

    def _save(self, entry: Entry) -> None:
        response = entry.response
        blob = b"\r\n".join(name + b":" + value for name, value in response.headers.fields)
        row = (
            entry.id, entry.key, response.status, blob, json.dumps(response.vary), response.request_time,
            response.response_time, response.initial_age, response.assigned_lifetime, response.targeted, entry.length,
            None if entry.spans is None else json.dumps(entry.spans), entry.written, entry.used,
        )  # fmt: skip
        self._operations.put((_INSERT, row))

    # -- the writer's thread ------------------------------------------------------------------------------------

    def _write_forever(self) -> None:
        database = self._connect()
        ended = False
        while not ended:
            batch = [self._operations.get()]
            while len(batch) < 1000 and not self._operations.empty():
                batch.append(self._operations.get())
            if None in batch:
                ended = True
            try:
                database.execute("BEGIN")
                for operation in batch:
                    if operation is not None:
                        database.execute(*operation)
                database.execute("COMMIT")
            except sqlite3.Error as error:
                # Rows that are lost here cost their bodies at the next start, nothing else.
                if database.in_transaction:
                    try:
                        database.execute("ROLLBACK")
                    except sqlite3.Error:
                        logger.debug("rollback failed", exc_info=True)
                self._on_error("index", error)
        database.close()


def _entry(row: tuple[Any, ...]) -> Entry | None:
    """An entry from its row, or ``None`` if the row makes no sense."""
    (
        entry_id, key, status, blob, vary, request_time, response_time, age, assigned, targeted, length, spans, written,
        used,
    ) = row  # fmt: skip
    try:
        present = None if spans is None else Spans((start, stop) for start, stop in json.loads(spans))
        if present is not None and (not present or present[-1].stop > length or present[0].start < 0):
            return None  # nothing of it had arrived
        fields = []
        for line in bytes(blob).split(b"\r\n") if blob else []:
            name, _, value = line.partition(b":")
            fields.append((name, value))
        # Values that an earlier version has written may be spelt in another way.
        selecting = tuple((name, normalised(name, value)) for name, value in json.loads(vary))
        response = StoredResponse(
            status=status, headers=Headers(fields), request_time=request_time, response_time=response_time,
            vary=selecting, initial_age=age, assigned_lifetime=assigned, targeted=targeted,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        logger.warning("dropping unreadable index row %s: %s", entry_id, error)
        return None
    return Entry(entry_id, key, response, length, used, present, written)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{os.uname().nodename} {time.time() - time.monotonic():.0f}"
