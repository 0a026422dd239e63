"""The index on disk: its tables, conversion of entries to rows and back, and upgrades of older schemas.

``entries`` is narrow, because all of it is read at every start: it has the columns for finding and evicting. ``heads``
has the rest, which is read by id when an entry is needed.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from ..semantics.headers import Headers
from ..semantics.spans import Spans
from ..semantics.stored import StoredResponse
from ..semantics.vary import normalised
from .checksums import SEAL, sealed
from .columns import key_hash
from .entry import BLOCK, Entry, footprint

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 7
TABLES = (
    """CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    hash INTEGER NOT NULL,
    blocks INTEGER NOT NULL,
    used REAL NOT NULL,
    written REAL NOT NULL,
    place INTEGER NOT NULL DEFAULT 0
) STRICT""",
    """CREATE TABLE IF NOT EXISTS heads (
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
    sums BLOB
) STRICT""",
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
)
_HEAD = "id, key, status, headers, vary, request_time, response_time, age, assigned, targeted, length, spans, sums"
"""``sums``: the row's own checksum, then those of the body; NULL in rows from before version 7."""
_HEAD_3 = _HEAD.removesuffix(", sums")
_ENTRY = "id, hash, blocks, used, written, place"
INSERT_ENTRY = f"INSERT OR REPLACE INTO entries ({_ENTRY}) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_HEAD = f"INSERT OR REPLACE INTO heads ({_HEAD}) VALUES ({', '.join('?' * len(_HEAD.split(',')))})"
DELETE_ENTRY = "DELETE FROM entries WHERE id IN (VALUES (?))"
DELETE_HEAD = "DELETE FROM heads WHERE id IN (VALUES (?))"
LIVE = "SELECT place >> 32, count(*) FROM entries WHERE place != 0 GROUP BY 1"
"""Bodies in each segment. (``place`` is the location of a body, see :mod:`.segments`.)"""
LOCATIONS = "SELECT place FROM entries WHERE place != 0 ORDER BY place"
AT_ONCE = (64, 16, 4)
"""Rows of one statement. After each statement the writer's thread may wait long for Python's lock."""
FREE_PAGES = 4096
"""Free pages that the database keeps for new rows."""
PAGES_AT_ONCE = 4096
"""Pages released to the file system at a time."""
TOUCH = "UPDATE entries SET used = ? WHERE id = ?"
META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
CLOCK_STEPS = "clock_steps"
"""Name in ``meta`` of the steps back of the clock (see :mod:`.clock`)."""
NOT_AFTER = (
    "UPDATE entries SET used = min(used, :now), written = min(written, :now) WHERE used > :now OR written > :now"
)
_IDS_AFTER = "SELECT id FROM heads WHERE id > ? ORDER BY id LIMIT ?"
FoundRow: TypeAlias = tuple[int, str, bytes, int, float]
"""Id, key, packed header fields, length of the body, and when it has come (unix time)."""
SCAN = "SELECT id, hash, blocks, used, place FROM entries ORDER BY used"


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # Only affects a new database. Heads may be long: their pages can be released.
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    # A checkpoint waits for the disk, and the writer's queue waits for it: not every few hundred responses.
    database.execute("PRAGMA wal_autocheckpoint = 4096")
    database.execute("PRAGMA journal_size_limit = 16777216")
    return database


def release_pages(database: sqlite3.Connection) -> None:
    """Release free pages to the file system, if there are many: some at a time."""
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    if free > FREE_PAGES:
        # Each page is a step of the statement, and `execute` takes only the first.
        database.executescript(f"PRAGMA incremental_vacuum({min(free - FREE_PAGES, PAGES_AT_ONCE)})")


def upgrade(database: sqlite3.Connection) -> None:
    """Upgrade the schema of any earlier version, and keep all entries."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in range(SCHEMA_VERSION + 1):
        raise sqlite3.DatabaseError(f"the index was written by another version (schema {version})")
    if version == SCHEMA_VERSION:
        return
    database.create_function("key_hash", 1, key_hash, deterministic=True)
    database.create_function("blocks", 3, _blocks, deterministic=True)
    database.execute("BEGIN IMMEDIATE")
    try:
        if version == 1:
            database.execute("ALTER TABLE entries ADD COLUMN targeted TEXT")
        if version in (1, 2):
            database.execute("ALTER TABLE entries ADD COLUMN spans TEXT")
            database.execute("ALTER TABLE entries ADD COLUMN written REAL NOT NULL DEFAULT 0")
            database.execute("UPDATE entries SET written = response_time")
        if version == 4:
            database.execute("ALTER TABLE entries ADD COLUMN place INTEGER NOT NULL DEFAULT 0")
        elif version in (1, 2, 3):
            database.execute("ALTER TABLE entries RENAME TO entries_3")
        for table in TABLES:
            database.execute(table)
        if "sums" not in [name for _, name, *_ in database.execute("PRAGMA table_info(heads)")]:
            database.execute("ALTER TABLE heads ADD COLUMN sums BLOB")
        if version in (1, 2, 3):
            database.execute(
                "INSERT INTO entries (id, hash, blocks, used, written)"
                " SELECT id, key_hash(key), 1, used, written FROM entries_3"
            )
            database.execute(f"INSERT INTO heads ({_HEAD_3}) SELECT {_HEAD_3} FROM entries_3")
            database.execute("DROP TABLE entries_3")
        if 0 < version < 6:
            # Heads were not counted before version 6.
            database.execute(
                "UPDATE entries SET blocks = coalesce((SELECT blocks(length, spans, length(CAST(key AS BLOB))"
                " + length(headers) + length(vary)) FROM heads WHERE heads.id = entries.id), 1)"
            )
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _blocks(length: int, spans: str | None, head: int) -> int:
    try:
        body = length if spans is None else Spans((a, b) for a, b in json.loads(spans)).length
        return footprint(body, head) // BLOCK
    except (ValueError, TypeError):
        return 1  # found unreadable, and dropped, when it is needed


def entry_row(entry: Entry) -> tuple[Any, ...]:
    """Parameters of ``INSERT_ENTRY``."""
    return entry.id, key_hash(entry.key), entry.size // BLOCK, entry.used, entry.written, entry.location


def execute_many(database: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Like ``executemany`` with many rows to a statement, which has a row's values in ``(VALUES …)`` or at its end."""
    done = 0
    if len(rows) >= AT_ONCE[-1]:
        for size in AT_ONCE:
            while len(rows) - done >= size:
                values = [value for row in rows[done : done + size] for value in row]
                database.execute(_with_rows(statement, size), values)
                done += size
    if done < len(rows):
        database.executemany(statement, rows[done:])


@lru_cache(maxsize=32)
def _with_rows(statement: str, count: int) -> str:
    begin, _, rest = statement.partition("VALUES ")
    values, end = (rest[:-1], ")") if begin.endswith("(") else (rest, "")
    return f"{begin}VALUES {', '.join([values] * count)}{end}"


def head_row(entry: Entry) -> tuple[Any, ...]:
    """Parameters of ``INSERT_HEAD``."""
    response, spans = entry.response, entry.spans
    values: tuple[Any, ...] = (
        entry.id, entry.key, response.status,
        response.headers.packed(),
        json.dumps(response.vary) if response.vary else "[]",
        response.request_time, response.response_time, response.initial_age, response.assigned_lifetime,
        response.targeted, entry.length, None if spans is None else json.dumps(spans),
    )  # fmt: skip
    return *values, sealed(entry.sums, *values)


class CorruptRow(ValueError):
    """A row differs from what was written."""


def read_entries(
    database: sqlite3.Connection, key: str | None, ids: Iterable[int], on_corrupt: Callable[[], None] = lambda: None
) -> tuple[list[Entry], set[int]]:
    """The entries with these ids and this ``key`` (``None``: any), and the useless ids, whose head is missing or makes
    no sense. Rows of other keys with the same hash are in neither. ``on_corrupt()`` is called for each row that differs
    from what was written."""
    entries, useless = [], set()
    for number in ids:
        row = database.execute(
            f"SELECT {_HEAD}, used, written, place FROM heads JOIN entries USING (id) WHERE id = ?", (number,)
        ).fetchone()
        entry = None
        try:
            if row is not None:
                _check_seal(row)
                if key is not None and row[1] != key:
                    continue
                entry = _entry(row)
        except CorruptRow:
            logger.warning("dropping index row %s: it is not what was written", number)
            on_corrupt()
        if entry is None:
            useless.add(number)
        else:
            entries.append(entry)
    return entries, useless


def corrupt_rows(database: sqlite3.Connection, ids: Iterable[int]) -> set[int]:
    """Those of these ids whose rows differ from what was written."""
    corrupt = set()
    for number in ids:
        row = database.execute(
            f"SELECT {_HEAD}, used, written, place, hash FROM heads JOIN entries USING (id) WHERE id = ?", (number,)
        ).fetchone()
        try:
            if row is not None:
                _check_seal(row[:-1])
                if row[-1] != key_hash(row[1]):
                    corrupt.add(number)  # it would never be found
        except CorruptRow:
            corrupt.add(number)
    return corrupt


def ids_after(database: sqlite3.Connection, entry_id: int, limit: int) -> list[int]:
    """The next ids in ascending order, at most ``limit``."""
    return [found for (found,) in database.execute(_IDS_AFTER, (entry_id, limit))]


def keys_after(
    database: sqlite3.Connection, entry_id: int, limit: int, needle: bytes | None
) -> tuple[list[FoundRow], int]:
    """The next ``limit`` rows by id; if there is a ``needle``, only those with that in their header fields. And the
    last of the ids, 0 if there are no more."""
    (last,) = database.execute(f"SELECT max(id) FROM ({_IDS_AFTER})", (entry_id, limit)).fetchone()
    if last is None:
        return [], 0
    # SQLite looks through the fields without Python's lock.
    condition = "" if needle is None else " AND instr(headers, ?)"
    found = database.execute(
        f"SELECT id, key, headers, length, response_time FROM heads WHERE id > ? AND id <= ?{condition}",
        (entry_id, last) if needle is None else (entry_id, last, needle),
    )
    return found.fetchall(), last


def _check_seal(row: tuple[Any, ...]) -> None:
    """Raises :class:`CorruptRow`. The key is included: a row with another key would never be found again."""
    *values, sums, _used, _written, _place = row
    try:
        if sums is not None and sealed(sums[SEAL:], *values) != sums:
            raise CorruptRow
    except (struct.error, UnicodeError) as error:
        raise CorruptRow from error


def _entry(row: tuple[Any, ...]) -> Entry | None:
    """An entry from its row, or ``None`` if the row makes no sense."""
    (
        entry_id, key, status, blob, vary, request_time, response_time, age, assigned, targeted, length, spans, sums,
        used, written, place,
    ) = row  # fmt: skip
    try:
        present = None if spans is None else Spans((start, stop) for start, stop in json.loads(spans))
        if present is not None and (not present or present[-1].stop > length or present[0].start < 0):
            return None  # no byte of it had arrived
        # Earlier versions normalised values in other ways.
        selecting = tuple((name, normalised(name, value)) for name, value in json.loads(vary)) if vary != "[]" else ()
        response = StoredResponse(
            status=status, headers=Headers.of_packed(bytes(blob)), vary=selecting,
            request_time=request_time, response_time=response_time,
            initial_age=age, assigned_lifetime=assigned, targeted=targeted,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        logger.warning("dropping unreadable index row %s: %s", entry_id, error)
        return None
    response.headers.pack()
    entry = Entry(entry_id, key, response, length, used, present, written)
    entry.location = place
    entry.sums = b"" if sums is None else sums[SEAL:]
    if present is not None:
        entry.measure()
    return entry
