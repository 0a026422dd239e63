"""The index of stored responses.

The event loop reads and changes it in memory only; the writer's thread brings the changes to the database. Every entry
has a row in :class:`Columns`. Entries in use are also in the *working set*, as :class:`Entry` with their heads. A key
is loaded with all its variants or not at all; if it isn't, it is read from the database before it is looked up
(:meth:`Index.is_loaded`, :meth:`Index.load`).

There is one object for an id as long as anybody holds it, also outside the working set. So entries are compared by
identity, and spans that a fill adds are visible to everybody.
"""

from __future__ import annotations

import asyncio
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
from .recent_drops import EVICTED, RecentDrops
from .recovery import open_database, recover
from .row_reader import RowReader
from .rows import CLOCK_STEPS, META, NOT_AFTER, SCAN
from .segments import Segments
from .writer import ClockSet, Delete, Note, Save, Sync, Touch, Writer

__all__ = ["BLOCK", "Entry", "Index", "footprint"]

WORKING_SET = 20_000
"""Entries in the working set, at about 2 kB each."""
HEADS_MEMORY = 64 << 20
"""Bytes of the working set: keys, heads, and values computed from them."""
WEIGHT = 1024
"""Bytes of an entry in memory besides its key and its head."""
NEVER: Final = float("inf")
_NONE: tuple[Entry, ...] = ()

Dropped: TypeAlias = tuple[int, int]
"""Id and location of an entry that was removed."""


class Index:
    """Entries by key and by last use. ``on_unload(entry)`` is called when an entry leaves the working set, stored or
    not; ``on_corrupt()``, in a thread, for a row that is not what was written."""

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
        self._columns = Columns()
        self._by_key: OrderedDict[str, Entry | list[Entry]] = OrderedDict()
        """The working set. A single variant, the usual case, is stored without a list: tens of thousands of lists would
        be a third of the objects that Python's collector visits. A list is empty if only another key with the same hash
        is stored."""
        self._entries: dict[int, Entry] = {}
        """The working set by id."""
        self._weight = 0
        """Bytes of the working set."""
        self._alive: WeakValueDictionary[int, Entry] = WeakValueDictionary()
        """Entries outside the working set that somebody may hold."""
        self._touched: dict[int, float] = {}
        self.recent_drops = RecentDrops()
        self._steps = ClockSteps()
        self._next_id = 1
        self.notes: dict[str, str] = {}
        """Values of :meth:`note` from the last run."""
        self.rows = RowReader(path, on_corrupt)
        """For walks over all of them, in a thread."""

    # -- opening and closing (blocking, off the loop) -----------------------------------------------------------

    def open(self, files: Callable[[], Iterable[int]], segments: Segments) -> list[int]:
        """Read all rows into memory; returns the ids of body files without a row. ``files`` lists the body files,
        and is called only if the last run did not end with :meth:`close`, or if there is no database."""
        database = open_database(self.path)
        try:
            self.notes, present = recover(database, self.path.parent, files, segments)
            cursor = database.execute(SCAN)
            self._columns.fill(iter(lambda: cursor.fetchmany(512), []))
            present.difference_update(self._columns.ids)
            self._next_id = max([*present, max(self._columns.ids)]) + 1
            self._steps = ClockSteps(self.notes.get(CLOCK_STEPS, "[]"))
            now, last_use = time.time(), max(self._columns.used)
            if last_use > now + TOLERANCE:
                # The clock was set back between two runs.
                self._steps.add(Step(self._next_id, last_use, now, last_use - now))
                database.execute(META, (CLOCK_STEPS, self._steps.dump()))
                database.execute(NOT_AFTER, {"now": now})
            return list(present)
        finally:
            database.close()

    def close(self) -> None:
        """Write everything pending, with the last uses, and mark the index as closed."""
        self.flush_uses()
        self._writer.close()
        self.rows.close()

    # -- looking up and changing (on the loop) -------------------------------------------------------------------

    def __len__(self) -> int:
        return self._columns.count

    @property
    def size(self) -> int:
        """Bytes that all entries count for."""
        return self._columns.total_blocks * BLOCK

    @property
    def loaded(self) -> int:
        """Entries in the working set."""
        return len(self._entries)

    @property
    def weight(self) -> int:
        """Bytes that the working set counts for."""
        return self._weight

    def __contains__(self, entry: Entry) -> bool:
        return entry.row != 0

    def hits(self, entry: Entry) -> int:
        """How often an entry was used since the proxy started or, if that was later, since it was stored."""
        return self._columns.hits[entry.row]  # row 0, of what is not stored, has none

    def new_id(self) -> int:
        number = self._next_id
        self._next_id += 1
        return number

    def get(self, key: str) -> Sequence[Entry]:
        """All variants of a loaded key, oldest first."""
        found = self._by_key.get(key, _NONE)
        return (found,) if isinstance(found, Entry) else found

    def only(self, key: str) -> Entry | None:
        """The entry of a loaded key with a single variant."""
        found = self._by_key.get(key)
        return found if isinstance(found, Entry) else None

    def is_loaded(self, key: str) -> bool:
        """Whether :meth:`get` is complete. True if nothing is stored: a miss does not read the disk."""
        return key in self._by_key or key_hash(key) not in self._columns

    def may_have(self, key: str) -> bool:
        """Whether there is an entry with the hash of ``key``."""
        return key_hash(key) in self._columns

    @property
    def ids_given(self) -> int:
        """Grows with every new body."""
        return self._next_id

    def clock_set_back(self, by: float) -> None:
        """The wall clock was set back by so many seconds, just now: every entry is older by that than it looks."""
        now = time.time()
        for entries in (self._entries, self._alive):
            for entry in list(entries.values()):
                set_back(entry.response, by, now)
                entry.prepared = entry.prepared_range = None
        self._steps.add(Step(self._next_id, now + by, now, by))
        self._touched = dict.fromkeys(self._touched, now)
        self._writer.put(ClockSet(self._steps.dump(), now))

    async def load(self, key: str, run: Callable[..., Awaitable[tuple[list[Entry], set[int]]]]) -> list[Dropped]:
        """Bring a key into the working set; ``run(function, *args)`` reads in a thread. Returns entries that were
        removed, since their heads are unreadable. One load of a key at a time (:meth:`.store.Store.load`).

        Raises ``sqlite3.Error``.
        """
        number = key_hash(key)
        while True:
            ids = [self._columns.ids[row] for row in self._columns.find(number)]
            # Held meanwhile: else one could change, be written, and leave memory before the others are read.
            held = [entry for entry in map(self.find, ids) if entry is not None]
            missing = sorted(set(ids).difference(entry.id for entry in held))
            entries, useless = await run(self.rows.entries, key, missing) if missing else ([], set())
            if not {self._columns.ids[row] for row in self._columns.find(number)}.difference(ids):
                break
            # One was added during the read, and may be in the database only by now: read again.
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

    async def synced(self, *, durable: bool) -> bool:
        """Wait until every change so far is written, if ``durable`` so that the crash of the machine would not undo it.
        Whether it is: the disk may have failed."""
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._writer.put(Sync(written, durable))
        return await written

    # -- for walks over all entries -----------------------------------------------------------------------------

    def read_by_id(self, entry_id: int) -> Entry | None:
        """An entry from its row, for :meth:`hold`; ``None`` without a row that makes sense. Blocks. Raises
        ``sqlite3.Error``."""
        entries, _ = self.rows.entries(None, [entry_id])
        return entries[0] if entries else None

    def find(self, entry_id: int) -> Entry | None:
        """The entry, if it is in memory."""
        return self._entries.get(entry_id) or self._alive.get(entry_id)

    def in_memory(self) -> list[Entry]:
        """Those that are. The rows of all others are written."""
        return [*self._entries.values(), *self._alive.values()]

    def hold(self, entry: Entry) -> bool:
        """Make an entry that was just read the one object of its id, outside the working set. Returns whether it is
        stored. Not to be called while its key is being loaded."""
        row = self._row_of(entry.id, entry.key)
        if row:
            entry.row, entry.used = row, self._columns.used[row]
            self._steps.correct(entry.id, entry.response, time.time())
            self._alive[entry.id] = entry
        return row != 0

    def _row_of(self, entry_id: int, key: str) -> int:
        return next((row for row in self._columns.find(key_hash(key)) if self._columns.ids[row] == entry_id), 0)

    def uses(self, entry_id: int, key: str) -> tuple[int, float] | None:
        """The hits of an entry, and the time of the last use (unix time); ``None`` if it is gone."""
        row = self._row_of(entry_id, key)
        return (self._columns.hits[row], self._columns.used[row]) if row else None

    def remove_row(self, entry_id: int) -> list[Dropped]:
        """Remove an entry whose row makes no sense, by its id alone."""
        try:
            dropped = [self._drop(self._columns.ids.index(entry_id))]
        except ValueError:
            return []
        self.delete_rows(dropped)
        return dropped

    def note(self, name: str, value: str) -> None:
        """Save a value for the next run."""
        self._writer.put(Note(name, value))

    def add_sums(self, entry: Entry, sums: bytes) -> None:
        """Add checksums of a body that was stored without them."""
        entry.sums = with_runs(entry.sums, sums)
        self._measure(entry)
        if entry.row:
            self._save(entry)

    def touch(self, entry: Entry, now: float) -> None:
        """The entry was used: from now on it is evicted last."""
        entry.used = now
        if row := entry.row:
            self._columns.touch(row, now)
            self._touched[entry.id] = now
            try:
                self._by_key.move_to_end(entry.key)
            except KeyError:
                pass  # not in the working set

    def add(self, entry: Entry, *, saved: bool = False) -> None:
        """Add an entry. ``saved``: its row is written, or about to be."""
        key = entry.key
        number = key_hash(key)
        if entry.response.response_time > entry.used:
            distrust_the_future(entry.response, entry.used)
        is_loaded = key in self._by_key or number not in self._columns
        entry.row = self._columns.add(entry.id, number, entry.size // BLOCK, entry.used, entry.location)
        if entry.unwritten is None:  # otherwise it is about to be sent
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
            # The other variants are not loaded. The next load finds this one with them.
            self._alive[entry.id] = entry
        if not saved:
            self._save(entry)

    def set_location(self, entry: Entry) -> None:
        """The body was written, and has a location now."""
        self._columns.locations[entry.row] = entry.location

    def replace_response(self, entry: Entry, response: StoredResponse) -> None:
        """Set the header fields that a validation brought for the same body."""
        distrust_the_future(response, time.time())
        entry.response = response
        response.headers.pack()
        entry.prepared = entry.prepared_range = None
        self._measure(entry)
        if entry.row:
            self._save(entry)

    def add_span(self, entry: Entry, start: int, stop: int, now: float, sums: bytes = b"") -> None:
        """Bytes ``start`` to ``stop`` of the body are in the file, with these checksums."""
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
        """Update its size, on disk and in memory."""
        entry.measure()
        if entry.row:
            self._columns.resize(entry.row, entry.size // BLOCK)
        if entry.id in self._entries:
            self._weight -= entry.weight
            self._weight += _weigh(entry)

    def remove(self, entry: Entry) -> bool:
        """Remove an entry. Returns whether it was stored."""
        if not entry.row:
            return False
        self.delete_rows([self._drop(entry.row)])
        return True

    def remove_found(self, found: Iterable[tuple[int, str]], purged: float, why: str) -> list[Dropped]:
        """Remove entries, by id and key, as far as they are still stored. ``purged``: when (unix time); ``why``: a word
        of :mod:`.recent_drops`."""
        rows = dict.fromkeys(row for entry_id, key in found if (row := self._row_of(entry_id, key)))
        self.recent_drops.note([self._columns.hashes[row] for row in rows], why, purged)
        dropped = [self._drop(row, purged) for row in rows]
        self.delete_rows(dropped)
        return dropped

    def remove_key(self, key: str, purged: float = 0.0) -> list[Dropped]:
        """Remove every variant. Of a key that isn't loaded, everything with its hash goes: fetching another key's entry
        again is better than keeping an outdated one."""
        if key in self._by_key:
            rows = [entry.row for entry in self.get(key)]
        else:
            rows = list(self._columns.find(key_hash(key)))
        dropped = [self._drop(row, purged) for row in rows]
        self.delete_rows(dropped)
        return dropped

    def evict(
        self, limit: int, is_needed: Callable[[], bool], since: float = NEVER, why: str = EVICTED
    ) -> list[Dropped]:
        """Remove up to ``limit`` entries, least recently used first, as long as ``is_needed()`` and the next one was
        not used after ``since`` (unix time)."""
        dropped, hashes = list[Dropped](), list[int]()
        used, now = self._columns.used, time.time()
        while len(dropped) < limit and (row := self._columns.oldest()) and is_needed():
            if since < used[row] <= now:  # (a time in the future is meaningless: the clock was set back since)
                break
            hashes.append(self._columns.hashes[row])
            dropped.append(self._drop(row))
        self.recent_drops.note(hashes, why, now)
        self.delete_rows(dropped)
        return dropped

    def delete_rows(self, dropped: list[Dropped]) -> None:
        """Delete their rows, and free their blocks in segments, in the writer's thread."""
        if dropped:
            self._writer.put(Delete([one for one, _ in dropped], [location for _, location in dropped if location]))

    def flush_uses(self) -> None:
        """Write the collected times of last use. (A hit costs no write.)"""
        touched, self._touched = self._touched, {}
        if touched:
            self._writer.put(Touch(touched))

    def oldest(self) -> Iterator[int]:
        """The ids of all entries, least recently used first."""
        return (self._columns.ids[row] for row in self._columns)

    def _save(self, entry: Entry) -> None:
        if entry.spans is None or entry.spans:
            # Without any byte of its body a row would be dropped when it is read.
            self._writer.put(Save(entry))

    def _drop(self, row: int, purged: float = 0.0) -> Dropped:
        """Take an entry out of memory, even if somebody holds it. ``purged``: see :class:`.entry.Entry`."""
        entry_id, location = self._columns.ids[row], self._columns.locations[row]
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
            entry.row, entry.purged = 0, purged
            self._on_unload(entry)
        return entry_id, location

    def _shrink(self) -> None:
        """Unload the least recently used keys until the working set is within its limits. One key always stays."""
        while (len(self._entries) > self.working_set or self._weight > HEADS_MEMORY) and len(self._by_key) > 1:
            variants = self.get(next(iter(self._by_key)))
            self._by_key.popitem(last=False)
            for entry in variants:
                self._alive[entry.id] = self._entries.pop(entry.id)
                self._weight -= entry.weight
                self._on_unload(entry)


def _weigh(entry: Entry) -> int:
    """Set and return the bytes that an entry takes in memory. Its head counts three times: as stored, as parsed, and as
    sent."""
    entry.weight = WEIGHT + 3 * entry.head + len(entry.sums)
    if entry.spans:
        entry.weight += len(entry.spans) * SPAN_MEMORY
    return entry.weight
