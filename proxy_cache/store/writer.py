"""The thread that writes whole bodies and the rows of the index.

Operations that arrive while a batch is written make up the next one: first its bodies, small ones together (see
:mod:`.segments`), then all its rows in one transaction. The loop is told of a batch's bodies once. So under load a
response has no thread switch, transaction or wake-up of its own.

Bodies are written in their final place. They have no row until they are complete: after a crash, files without a row
are deleted, and after a crash of the machine the rows of the last minute as well. A removed entry loses its row first,
and then its blocks. The deletion that makes room for a body may be later in the queue than the body: if the disk is
full, deletions are made first, and the bodies are tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from .checksums import of_body
from .entry import Entry
from .files import as_os_error
from .rows import (
    CLOCK_STEPS,
    DELETE_ENTRY,
    DELETE_HEAD,
    INSERT_ENTRY,
    INSERT_HEAD,
    META,
    NOT_AFTER,
    TOUCH,
    connect,
    entry_row,
    execute_many,
    head_row,
    release_pages,
)
from .segments import Segments, size_of
from .worker import collect_waiting, step_back

logger = logging.getLogger(__name__)

BATCH = 512
"""Operations in one transaction."""
LINGER = 0.01
"""Seconds for which an operation waits for others to share its batch. Nobody waits for it, and a 10 kB miss costs 16 µs
instead of 39."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
DONE_AT_ONCE = 32
"""Bodies reported in one turn of the loop, at some 20 µs each."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write an entry's row, as it is then. Until the row can be read, this reference keeps the entry in memory."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete rows, and free the blocks at ``locations``."""

    entry_ids: Sequence[int]
    locations: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Touch:
    """Write times of last use, by id."""

    uses: dict[int, float]


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The clock was set back to ``now``. ``steps``: from :meth:`.clock.ClockSteps.dump`."""

    steps: str
    now: float


@dataclass(frozen=True, slots=True)
class Note:
    """Write a value to ``meta``."""

    name: str
    value: str


@dataclass(slots=True, eq=False)
class WriteBody:
    """Write a whole body and its row. ``done(error)`` is called on the loop."""

    entry: Entry
    chunks: list[bytes]
    loop: asyncio.AbstractEventLoop
    done: Callable[[OSError | None], None]


@dataclass(frozen=True, slots=True)
class Sync:
    """Tell ``written`` when everything before this is, or whether it could not be. ``is_durable``: so that the machine
    may crash then."""

    written: asyncio.Future[bool]
    is_durable: bool


Operation = Save | Delete | Touch | ClockSet | Note | WriteBody | Sync
Result: TypeAlias = tuple[WriteBody, OSError | None]
"""A body, and the error if it could not be written."""


class Writer:
    """``write_file(entry_id, chunks)`` makes a body file. ``on_error(what, error)`` is called in the thread if the
    database could not be written."""

    def __init__(
        self,
        path: Path,
        segments: Segments,
        write_file: Callable[[int, list[bytes]], None],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._path = path
        self._segments = segments
        self._write_file = write_file
        self._on_error = on_error
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._database: sqlite3.Connection | None = None
        """Used by the thread alone, opened for its first batch. If that fails, the batch's rows are lost."""
        self._lost_rows = False
        self._owed = 0
        """Bytes of segments to be freed, since the start. Counted on the loop."""
        self._freed = 0
        """Bytes that were freed. Counted in the thread."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="cache-index", daemon=True)
        self._thread.start()

    def put(self, operation: Operation) -> None:
        if isinstance(operation, Delete):
            self._owed += size_of(operation.locations)
        self._queue.put(operation)

    def to_be_freed(self) -> int:
        """Bytes of removed bodies that the segments have not freed yet."""
        return self._owed - self._freed

    def close(self) -> None:
        """Write everything pending, and mark the index as closed. Blocks."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        step_back()
        while True:
            # The batch keeps its entries alive until it is committed, see Save.
            batch = [self._queue.get()]
            if batch[0] is not None:
                time.sleep(LINGER)
            collect_waiting(self._queue, batch, BATCH)
            results = self._write_bodies([one for one in batch if isinstance(one, WriteBody)])
            freed: set[int] = set()
            if any(error is not None and error.errno in NO_ROOM for _, error in results):
                results, freed = self._write_again(batch, results)
            if results:
                self._tell_loop(results)
            operations = [operation for operation in batch if operation is not None]
            saves = {body.entry.id: body.entry for body, error in results if error is None}
            syncs = [one for one in operations if isinstance(one, Sync)]
            is_written = self._transact(
                partial(_write_rows, saves=saves, operations=operations), any(one.is_durable for one in syncs)
            )
            for sync in syncs:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    sync.written.get_loop().call_soon_threadsafe(_resolve, sync.written, is_written)
            self._free([one for one in operations if isinstance(one, Delete) and id(one) not in freed])
            if len(operations) < len(batch):
                break
            # Otherwise these bodies stay in memory while the thread waits for the next batch.
            del batch, operations, saves, results, syncs
        if not self._lost_rows:
            # Orphans, files whose row was lost, are looked for only if the index wasn't closed.
            self._transact(lambda database: database.execute(META, ("clean", "1")))
        if self._database is not None:
            self._database.close()
            self._database = None
        self._segments.close_writer()

    def _write_bodies(self, bodies: list[WriteBody]) -> list[Result]:
        results: list[Result] = []
        small: list[WriteBody] = []
        others: list[WriteBody] = []
        for body in bodies:
            body.entry.sums = of_body(body.chunks)
            (small if self._segments.accepts(body.entry) else others).append(body)
        if small:
            failed: OSError | None = None
            try:
                self._segments.append([(body.entry, body.chunks) for body in small])
            except Exception as error:
                failed = as_os_error(error)
            results += [(body, failed) for body in small]
        for body in others:
            try:
                self._write_file(body.entry.id, body.chunks)
            except Exception as error:
                results.append((body, as_os_error(error)))
            else:
                results.append((body, None))
        return results

    def _write_again(self, batch: list[Operation | None], results: list[Result]) -> tuple[list[Result], set[int]]:
        """The disk is full: make all deletions of this batch and of the queue behind it, then write the failed bodies
        again. Returns the results, and the ``id`` of each operation whose blocks are freed."""
        known = len(batch)
        while not self._queue.empty():
            batch.append(self._queue.get())
        deletes = [one for one in batch if isinstance(one, Delete)]
        self._transact(partial(_write_rows, saves={}, operations=deletes))
        self._free(deletes)
        written = [(body, error) for body, error in results if error is None]
        failed = [body for body, error in results if error is not None]
        more = [one for one in batch[known:] if isinstance(one, WriteBody)]
        return written + self._write_bodies(failed + more), {id(one) for one in deletes}

    def _free(self, deletes: list[Delete]) -> None:
        locations = [location for one in deletes for location in one.locations]
        self._segments.free(locations)
        self._freed += size_of(locations)

    def _tell_loop(self, results: list[Result]) -> None:
        """Before the rows are written: nobody waits for those."""
        try:
            results[0][0].loop.call_soon_threadsafe(_tell, results)
        except RuntimeError:
            logger.debug("the loop has ended before its bodies were written")

    def _transact(self, write: Callable[[sqlite3.Connection], object], is_durable: bool = False) -> bool:
        """Whether it is written. ``is_durable``: and on the disk (``synchronous`` FULL waits for the log, NORMAL leaves
        it to the system)."""
        database = self._database
        try:
            if database is None:
                database = self._database = connect(self._path)
            if is_durable:
                database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN")
            write(database)
            database.execute("COMMIT")
            if is_durable:
                database.execute("PRAGMA synchronous = NORMAL")
            release_pages(database)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            # Lost rows mean that their bodies are fetched again, nothing else.
            self._lost_rows = True
            if database is not None and database.in_transaction:
                try:
                    database.execute("ROLLBACK")
                except sqlite3.Error:
                    logger.debug("rollback failed", exc_info=True)
            self._on_error("index", error)
            return False
        return True


def _resolve(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)


def _tell(results: list[Result]) -> None:
    """On the loop, some at a time."""
    if len(results) > DONE_AT_ONCE:
        results[0][0].loop.call_soon(_tell, results[DONE_AT_ONCE:])
    for body, error in results[:DONE_AT_ONCE]:
        try:
            body.done(error)
        except Exception:
            logger.exception("a stored body could not be made known")


def _write_rows(database: sqlite3.Connection, saves: dict[int, Entry], operations: Sequence[Operation]) -> None:
    """Write all rows of a batch, kind by kind. The last operation on an entry counts; a deletion is final, since ids
    are never used again."""
    deleted: set[int] = set()
    uses: dict[int, float] = {}
    for operation in operations:
        if isinstance(operation, Save):
            saves[operation.entry.id] = operation.entry
        elif isinstance(operation, Delete):
            deleted.update(operation.entry_ids)
        elif isinstance(operation, Touch):
            uses.update(operation.uses)
    kept = [entry for entry_id, entry in saves.items() if entry_id not in deleted]
    execute_many(database, INSERT_ENTRY, [entry_row(entry) for entry in kept])
    execute_many(database, INSERT_HEAD, [head_row(entry) for entry in kept])
    database.executemany(TOUCH, [(used, entry_id) for entry_id, used in uses.items()])
    for operation in operations:
        if isinstance(operation, ClockSet):
            database.execute(META, (CLOCK_STEPS, operation.steps))
            database.execute(NOT_AFTER, {"now": operation.now})
        elif isinstance(operation, Note):
            database.execute(META, (operation.name, operation.value))
    gone = [(entry_id,) for entry_id in deleted]
    execute_many(database, DELETE_ENTRY, gone)
    execute_many(database, DELETE_HEAD, gone)
