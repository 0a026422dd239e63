"""The index: which responses are stored. All of them are found in memory; the heads of those in use are there too.

The event loop asks and changes the index in memory only; the writer's thread brings the changes to the database. Of
every entry there is a row in :class:`Columns`. The :class:`Entry` with its head is in the *working set*, which goes by
keys: a key is loaded with all its variants or with none. A key that isn't is read from the database before it is
looked up (:meth:`Index.is_loaded`, :meth:`Index.load`).

An entry that somebody holds stays the one object of its id after it has left the working set, so it can be compared
by identity, and a fill that adds spans to it adds them to what everybody sees.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from ..semantics.stored import StoredResponse
from .checksums import with_runs
from .clock import TOLERANCE, ClockSteps, Step, distrust_the_future, set_back
from .columns import Columns, key_hash
from .entry import BLOCK, SPAN_MEMORY, Entry, footprint
from .folder import PRIVATE
from .rows import (
    CLOCK_STEPS,
    DELETE_ENTRY,
    DELETE_HEAD,
    LIVE,
    LOCATIONS,
    META,
    NOT_AFTER,
    SCAN,
    connect,
    ids_after,
    read_entries,
    upgrade,
)
from .segments import Segments, parts_of_location
from .writer import ClockSet, Delete, Note, Save, Touch, Writer

__all__ = ["BLOCK", "Entry", "Index", "footprint"]

logger = logging.getLogger(__name__)

WORKING_SET = 20_000
"""Entries whose heads are in memory, at about 2 kB each, and"""
HEADS_MEMORY = 64 << 20
"""bytes that these may take, with their keys and what is worked out from them."""
WEIGHT = 1024
"""Bytes of an entry in memory besides its key and its head."""
WRITE_BACK = 60.0
"""Seconds after which the kernel has surely written a file (dirty_expire_centisecs is 30 s by default)."""
NEVER: Final = float("inf")
_NONE: tuple[Entry, ...] = ()

Dropped: TypeAlias = tuple[int, int]
"""Id and place of an entry that is not stored any more."""


class Index:
    """Entries by key and by last use. ``on_unload(entry)`` is called when an entry leaves the working set, whether it
    stays stored or not; ``on_corrupt()``, in a thread, for a row that is not what was written."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        on_unload: Callable[[Entry], None] = lambda entry: None,
        working_set: int = WORKING_SET,
        on_corrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.working_set = working_set
        self._writer = writer
        self._on_unload = on_unload
        self._on_corrupt = on_corrupt
        self._columns = Columns()
        self._by_key: OrderedDict[str, Entry | list[Entry]] = OrderedDict()
        """The working set. Of one variant, which is what there is mostly, the entry itself: tens of thousands of lists
        would be a third of what Python's collector looks at. A list may be empty: another key with the same hash is
        stored."""
        self._entries: dict[int, Entry] = {}
        """All of it by id."""
        self._weight = 0
        """Bytes of all of it."""
        self._alive: WeakValueDictionary[int, Entry] = WeakValueDictionary()
        """Entries that are not in it, and that somebody may hold."""
        self._touched: dict[int, float] = {}
        self._steps = ClockSteps()
        self._next_id = 1
        self.notes: dict[str, str] = {}
        """What :meth:`note` had been given by the end of the last run."""
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []

    # -- opening and closing (blocking, off the loop) -----------------------------------------------------------

    def open(self, files: Callable[[], Iterable[int]], segments: Segments) -> list[int]:
        """Read what is needed of the database; returns the ids of files that no row knows. ``files`` lists what is
        there, and is asked only when the last run did not end in :meth:`close`, or when there is no database."""
        if not self.path.exists():
            # What SQLite makes has the mode that the umask leaves; and a log without its database is nobody's.
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
        database = connect(self.path)
        try:
            return self._open(database, files, segments)
        finally:
            database.close()

    def close(self) -> None:
        """Write what is pending, with the last uses, and mark the end as clean."""
        self.flush_uses()
        self._writer.close()
        for database in self._readers:
            database.close()
        self._readers.clear()

    def _open(self, database: sqlite3.Connection, files: Callable[[], Iterable[int]], segments: Segments) -> list[int]:
        upgrade(database)
        meta = dict(database.execute("SELECT name, value FROM meta"))
        self.notes = meta
        boot = _boot_id()
        database.execute(META, ("clean", "0"))
        database.execute(META, ("boot", boot))
        present: set[int] = set()
        if not meta:
            # A new folder; or somebody has deleted the index. Bodies that it knew are worth nothing without it.
            present.update(files())
            if count := len(present) + len(segments.sizes()):
                logger.warning(
                    "cache_dir %s: there was no index, so the cache starts empty; %d files of bodies are deleted",
                    self.path.parent, count,
                )  # fmt: skip
        elif meta.get("clean", "1") != "1":
            present.update(files())
            sizes = segments.sizes()
            rows: Iterable[Dropped] = database.execute("SELECT id, place FROM entries")
            lost = [row for row in rows if not (_is_there(row[1], sizes) if row[1] else row[0] in present)]
            if meta.get("boot") != boot:
                # The machine itself went down. What was written in the last seconds may never have reached the disk.
                lost += database.execute(
                    "SELECT id, place FROM entries WHERE written > (SELECT max(written) FROM entries) - ?",
                    (WRITE_BACK,),
                ).fetchall()
            database.execute("BEGIN")
            database.executemany(DELETE_ENTRY, [row[:1] for row in lost])
            database.executemany(DELETE_HEAD, [row[:1] for row in lost])
            database.execute("COMMIT")
        segments.known(dict(database.execute(LIVE)))
        if meta.get("clean", "1") != "1":
            segments.clean(location for (location,) in database.execute(LOCATIONS))
        cursor = database.execute(SCAN)
        self._columns.fill(iter(lambda: cursor.fetchmany(512), []))
        present.difference_update(self._columns.ids)
        self._next_id = max([*present, max(self._columns.ids)]) + 1
        self._steps = ClockSteps(meta.get(CLOCK_STEPS, "[]"))
        now, last_use = time.time(), max(self._columns.used)
        if last_use > now + TOLERANCE:
            # The clock has been set back while nobody looked.
            self._steps.add(Step(self._next_id, last_use, now, last_use - now))
            database.execute(META, (CLOCK_STEPS, self._steps.dump()))
            database.execute(NOT_AFTER, {"now": now})
        return list(present)

    # -- asking and changing (on the loop) ----------------------------------------------------------------------

    def __len__(self) -> int:
        return self._columns.count

    @property
    def size(self) -> int:
        """Bytes that all entries are counted with."""
        return self._columns.total_blocks * BLOCK

    @property
    def loaded(self) -> int:
        """Entries in the working set."""
        return len(self._entries)

    @property
    def weight(self) -> int:
        """Bytes that the working set is counted with."""
        return self._weight

    def __contains__(self, entry: Entry) -> bool:
        return entry.row != 0

    def new_id(self) -> int:
        number = self._next_id
        self._next_id += 1
        return number

    def get(self, key: str) -> Sequence[Entry]:
        """All variants stored under ``key``, oldest first, if it is loaded."""
        found = self._by_key.get(key, _NONE)
        return (found,) if isinstance(found, Entry) else found

    def only(self, key: str) -> Entry | None:
        """The one variant that is stored under ``key``, if it is the only one, and loaded."""
        found = self._by_key.get(key)
        return found if isinstance(found, Entry) else None

    def is_loaded(self, key: str) -> bool:
        """Whether :meth:`get` tells all there is. It does where nothing is stored: a miss does not read the disk."""
        return key in self._by_key or key_hash(key) not in self._columns

    def may_have(self, key: str) -> bool:
        """Whether there is an entry with the hash of ``key``."""
        return key_hash(key) in self._columns

    @property
    def ids_given(self) -> int:
        """A number that grows with every body that is begun."""
        return self._next_id

    def clock_set_back(self, by: float) -> None:
        """The wall clock has been set back by so many seconds, just now: all that is stored is older by that than it
        looks."""
        now = time.time()
        for entries in (self._entries, self._alive):
            for entry in list(entries.values()):
                set_back(entry.response, by, now)
                entry.prepared = entry.prepared_range = None
        self._steps.add(Step(self._next_id, now + by, now, by))
        self._touched = dict.fromkeys(self._touched, now)
        self._writer.put(ClockSet(self._steps.dump(), now))

    async def load(self, key: str, run: Callable[..., Awaitable[tuple[list[Entry], set[int]]]]) -> list[Dropped]:
        """Bring a key into the working set, reading with ``run(function, *args)``; the entries that turned out to have
        no readable head, and are gone. One load of a key at a time (:meth:`Store.load` sees to that).

        Raises ``sqlite3.Error``.
        """
        number = key_hash(key)
        while True:
            ids = [self._columns.ids[row] for row in self._columns.find(number)]
            # Held, so that none of them changes, is written and vanishes while the others are read.
            held = [entry for entry in map(self._find, ids) if entry is not None]
            missing = sorted(set(ids).difference(entry.id for entry in held))
            entries, useless = await run(self._read, key, missing) if missing else ([], set())
            if not {self._columns.ids[row] for row in self._columns.find(number)}.difference(ids):
                break
            # One was added meanwhile, and it may be in the database only by now: once more, with all there are.
        rows = {self._columns.ids[row]: row for row in self._columns.find(number)}
        now = time.time()
        for entry in entries:
            self._steps.correct(entry.id, entry.response, now)
            if entry.id in rows:
                entry.row = rows[entry.id]
                entry.used = self._columns.used[entry.row]
        gone = [self._drop(rows[entry_id]) for entry_id in useless if entry_id in rows]
        found = sorted((one for one in (*held, *entries) if one.row and one.key == key), key=lambda one: one.id)
        if found or number in self._columns:
            self._by_key[key] = found[0] if len(found) == 1 else found
        for entry in found:
            self._alive.pop(entry.id, None)
            if entry.id in self._entries:
                self._weight -= entry.weight
            self._entries[entry.id] = entry
            self._weight += _weigh(entry)
        self._shrink()
        return gone

    def _find(self, entry_id: int) -> Entry | None:
        """The entry, if it is in memory."""
        return self._entries.get(entry_id) or self._alive.get(entry_id)

    def _read(self, key: str, ids: list[int]) -> tuple[list[Entry], set[int]]:
        return read_entries(self._reader(), key, ids, self._on_corrupt)

    def _reader(self) -> sqlite3.Connection:
        """Of a thread, each with a connection of its own: readers do not wait for each other."""
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is None:
            database = self._local.database = connect(self.path)
            self._readers.append(database)
        return database

    # -- for those who look at everything there is --------------------------------------------------------------

    def ids_after(self, entry_id: int, most: int) -> list[int]:
        """The next ids in ascending order. Blocks. Raises ``sqlite3.Error``."""
        return ids_after(self._reader(), entry_id, most)

    def read_by_id(self, entry_id: int) -> Entry | None:
        """An entry as its row has it, for :meth:`hold`; ``None`` if it has none that makes sense. Blocks. Raises
        ``sqlite3.Error``."""
        entries, _ = read_entries(self._reader(), None, [entry_id], self._on_corrupt)
        return entries[0] if entries else None

    def find(self, entry_id: int) -> Entry | None:
        """The entry, if it is in memory."""
        return self._find(entry_id)

    def hold(self, entry: Entry) -> bool:
        """Have this one, which was just read and which nobody has, for the one object of its id as long as somebody
        holds it. It does not come to the working set. Whether it is stored. Not while its key is being loaded."""
        for row in self._columns.find(key_hash(entry.key)):
            if self._columns.ids[row] == entry.id:
                entry.row, entry.used = row, self._columns.used[row]
                self._steps.correct(entry.id, entry.response, time.time())
                self._alive[entry.id] = entry
                return True
        return False

    def remove_row(self, entry_id: int) -> list[Dropped]:
        """Forget an entry whose row makes no sense, by its id alone."""
        try:
            dropped = [self._drop(self._columns.ids.index(entry_id))]
        except ValueError:
            return []
        self.delete_rows(dropped)
        return dropped

    def note(self, name: str, value: str) -> None:
        """Have something remembered beyond the end of the process."""
        self._writer.put(Note(name, value))

    def add_sums(self, entry: Entry, sums: bytes) -> None:
        """Checksums of a body that was stored without them."""
        entry.sums = with_runs(entry.sums, sums)
        self._measure(entry)
        if entry.row:
            self._save(entry)

    def touch(self, entry: Entry, now: float) -> None:
        """The entry was used: it is the last to be evicted now."""
        entry.used = now
        if entry.row:
            self._columns.touch(entry.row, now)
            self._touched[entry.id] = now
            if entry.key in self._by_key:
                self._by_key.move_to_end(entry.key)

    def add(self, entry: Entry, *, saved: bool = False) -> None:
        """A new entry, whose row is written, or on its way, if ``saved``."""
        key = entry.key
        number = key_hash(key)
        if entry.response.response_time > entry.used:
            distrust_the_future(entry.response, entry.used)
        is_loaded = key in self._by_key or number not in self._columns
        entry.row = self._columns.add(entry.id, number, entry.size // BLOCK, entry.used, entry.location)
        if entry.unwritten is None:  # else it is about to be sent
            entry.response.headers.pack()
        if is_loaded:
            if key in self._by_key:
                others = self.get(key)
                self._by_key[key] = [*others, entry] if others else entry
                self._by_key.move_to_end(key)
            else:
                self._by_key[key] = entry
            self._entries[entry.id] = entry
            self._weight += _weigh(entry)
            if len(self._entries) > self.working_set or self._weight > HEADS_MEMORY:
                self._shrink()
        else:
            # The other variants would have to be read first. It is found with them by the next load.
            self._alive[entry.id] = entry
        if not saved:
            self._save(entry)

    def set_location(self, entry: Entry) -> None:
        """Its body was written: it has a place now."""
        self._columns.locations[entry.row] = entry.location

    def replace_response(self, entry: Entry, response: StoredResponse) -> None:
        """A validation brought new header fields for the same body."""
        distrust_the_future(response, time.time())
        entry.response = response
        response.headers.pack()
        entry.prepared = entry.prepared_range = None
        self._measure(entry)
        if entry.row:
            self._save(entry)

    def add_span(self, entry: Entry, start: int, stop: int, now: float, sums: bytes = b"") -> None:
        """One more piece of the body is in the file, with these checksums."""
        if entry.spans is None or not entry.row:
            return
        spans = entry.spans.with_span(start, stop)
        entry.spans = None if spans.covers(0, entry.length) else spans
        entry.sums = with_runs(entry.sums, sums)
        entry.written = now
        entry.prepared = entry.prepared_range = None
        self._measure(entry)
        self._save(entry)

    def _measure(self, entry: Entry) -> None:
        """It takes another amount of room now, on the disk and in memory."""
        entry.measure()
        if entry.row:
            self._columns.resize(entry.row, entry.size // BLOCK)
        if entry.id in self._entries:
            self._weight -= entry.weight
            self._weight += _weigh(entry)

    def remove(self, entry: Entry) -> bool:
        """Forget an entry; whether it was there."""
        if not entry.row:
            return False
        self.delete_rows([self._drop(entry.row)])
        return True

    def remove_key(self, key: str) -> list[Dropped]:
        """Forget every variant. Of a key that isn't loaded it is all that has its hash: another key's entry
        among them is fetched again, which is better than to keep one that is out of date."""
        if key in self._by_key:
            rows = [entry.row for entry in self.get(key)]
        else:
            rows = list(self._columns.find(key_hash(key)))
        dropped = [self._drop(row) for row in rows]
        self.delete_rows(dropped)
        return dropped

    def evict(self, limit: int, is_needed: Callable[[], bool], since: float = NEVER) -> list[Dropped]:
        """Forget up to ``most`` entries, least recently used first, as long as ``wanted()`` says so and the next one
        was not used after ``since`` (unix time)."""
        dropped: list[Dropped] = []
        used, now = self._columns.used, time.time()
        while len(dropped) < limit and (row := self._columns.oldest()) and is_needed():
            if since < used[row] <= now:  # a time in the future says nothing: the clock was set back since then
                break
            dropped.append(self._drop(row))
        self.delete_rows(dropped)
        return dropped

    def delete_rows(self, dropped: list[Dropped]) -> None:
        """Have the writer forget them, too, and what they take of the segments."""
        if dropped:
            self._writer.put(Delete([one for one, _ in dropped], [place for _, place in dropped if place]))

    def flush_uses(self) -> None:
        """Write the times of last use, which are collected meanwhile, so that a hit costs no write."""
        touched, self._touched = self._touched, {}
        if touched:
            self._writer.put(Touch(touched))

    def oldest(self) -> Iterator[int]:
        """The ids of all entries, least recently used first."""
        return (self._columns.ids[row] for row in self._columns)

    def _save(self, entry: Entry) -> None:
        if entry.spans is None or entry.spans:
            # What has nothing of its body yet is not worth a row: it would be dropped when it is read.
            self._writer.put(Save(entry))

    def _drop(self, row: int) -> Dropped:
        """Take an entry out of memory, whoever holds it."""
        entry_id, place = self._columns.ids[row], self._columns.locations[row]
        self._columns.remove(row)
        self._touched.pop(entry_id, None)
        entry = self._entries.pop(entry_id, None)
        if entry is not None:
            self._weight -= entry.weight
            left = [one for one in self.get(entry.key) if one is not entry]
            if left:
                self._by_key[entry.key] = left[0] if len(left) == 1 else left
            else:
                del self._by_key[entry.key]
        else:
            entry = self._alive.pop(entry_id, None)
        if entry is not None:
            entry.row = 0
            self._on_unload(entry)
        return entry_id, place

    def _shrink(self) -> None:
        """Let the least recently used keys go that the working set has no place for; the last one stays."""
        while (len(self._entries) > self.working_set or self._weight > HEADS_MEMORY) and len(self._by_key) > 1:
            variants = self.get(next(iter(self._by_key)))
            self._by_key.popitem(last=False)
            for entry in variants:
                self._alive[entry.id] = self._entries.pop(entry.id)
                self._weight -= entry.weight
                self._on_unload(entry)


def _weigh(entry: Entry) -> int:
    """What an entry takes of memory, and note it. Three times its head: as it is stored, as it was taken apart, and as
    it is sent."""
    entry.weight = WEIGHT + 3 * entry.head + len(entry.sums)
    if entry.spans:
        entry.weight += len(entry.spans) * SPAN_MEMORY
    return entry.weight


def _is_there(place: int, sizes: dict[int, int]) -> bool:
    """Whether a body is within its segment, of which this many blocks are there."""
    segment, block, blocks = parts_of_location(place)
    return block + blocks <= sizes.get(segment, 0)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{os.uname().nodename} {time.time() - time.monotonic():.0f}"
