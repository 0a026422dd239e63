"""Reads rows of the index, in any thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from .entry import Entry
from .rows import FoundRow, connect, corrupt_rows, ids_after, keys_after, read_entries


class RowReader:
    """Each thread has a connection of its own, so that readers don't wait for each other. All methods but :meth:`close`
    block, and raise ``sqlite3.Error``."""

    def __init__(self, path: Path, on_corrupt: Callable[[], None]) -> None:
        self._path = path
        self._on_corrupt = on_corrupt
        self._local = threading.local()
        self._databases: list[sqlite3.Connection] = []

    def entries(self, key: str | None, ids: list[int]) -> tuple[list[Entry], set[int]]:
        """See :func:`.rows.read_entries`."""
        return read_entries(self._database(), key, ids, self._on_corrupt)

    def ids_after(self, entry_id: int, limit: int) -> list[int]:
        """The next ids in ascending order."""
        return ids_after(self._database(), entry_id, limit)

    def corrupt(self, ids: Iterable[int]) -> set[int]:
        """See :func:`.rows.corrupt_rows`."""
        return corrupt_rows(self._database(), ids)

    def keys_after(self, entry_id: int, limit: int, needle: bytes | None) -> tuple[list[FoundRow], int]:
        """See :func:`.rows.keys_after`."""
        return keys_after(self._database(), entry_id, limit, needle)

    def _database(self) -> sqlite3.Connection:
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is None:
            database = self._local.database = connect(self._path)
            self._databases.append(database)
        return database

    def close(self) -> None:
        for database in self._databases:
            database.close()
        self._databases.clear()
