"""Finds stored entries by what they are, and drops them or, *soft*, makes them stale.

All of it goes in slices, so that requests are answered meanwhile: first the entries in memory, which are those in use,
then all rows of the index, which are read in a thread. What is added meanwhile is newer than the sweep, and left alone.
So that none of it has a body from before, none is copied while a sweep goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ..semantics.headers import Headers
from .additions import Additions
from .columns import key_hash
from .entry import Entry
from .index import Index
from .stored_bodies import StoredBodies
from .trouble import Trouble
from .worker import Worker

SLICE: Final = 256
"""Entries at a stretch, which takes a millisecond or two."""
LOOK_THROUGH: Final = 4096
"""Rows at a stretch that the thread looks through for a needle, without Python's lock."""
UNWRITTEN_MAX: Final = 4096
"""Changed rows that may wait to be written."""


class SweepError(Exception):
    """The index could not be read, or what was done to it could not be written."""


class Matcher(Protocol):
    """Which entries are meant."""

    @property
    def needle(self) -> bytes | None:
        """Bytes that the packed header fields of every such entry contain."""

    def matches(self, key: str, headers: Headers) -> bool: ...


@dataclass(slots=True)
class Swept:
    """How many entries, and how many bytes they take, or took, on disk."""

    entries: int = 0
    size: int = 0


class Sweeps:
    """``load(key)`` brings a key into memory, ``entry_of(id)`` an entry. ``on_key(key)`` of a sweep is called for each
    entry that it has found, in the turn of the loop in which that is dropped. ``why``: what is noted of them, a word of
    :mod:`.recent_drops`."""

    def __init__(
        self,
        index: Index,
        bodies: StoredBodies,
        additions: Additions,
        trouble: Trouble,
        load: Callable[[str], Awaitable[None]],
        entry_of: Callable[[int], Awaitable[Entry | None]],
    ) -> None:
        self._index = index
        self._bodies = bodies
        self._additions = additions
        self._trouble = trouble
        self._load = load
        self._entry_of = entry_of
        self._worker = Worker("cache-sweep")
        self._running = 0

    def close(self) -> None:
        """Wait for the thread. Blocks."""
        self._worker.close()

    # -- of one key ---------------------------------------------------------------------------------------------

    def drop_key(self, key: str, now: float) -> Swept:
        """At once, all variants."""
        before = self._index.size
        dropped = self._index.remove_key(key, now)
        self._bodies.delete(dropped)
        return Swept(len(dropped), before - self._index.size)

    async def expire_key(self, key: str, now: float) -> Swept:
        """All variants that were asked for before ``now``."""
        await self._load(key)
        swept = Swept()
        for entry in self._index.get(key):
            self._expire(entry, now, swept)
        return swept

    # -- of many ------------------------------------------------------------------------------------------------

    async def drop_all(self, now: float, why: str) -> Swept:
        """Also what is added meanwhile."""
        swept = Swept()
        with self._nothing_copied():
            for entry in self._index.in_memory():
                entry.purged = now
            while True:
                size = self._index.size
                dropped = self._index.evict(SLICE, lambda: True, why=why)
                if not dropped:
                    return swept
                self._bodies.delete(dropped)
                swept.entries += len(dropped)
                swept.size += size - self._index.size
                await asyncio.sleep(0)

    async def drop(self, matcher: Matcher, now: float, on_key: Callable[[str], None], why: str) -> Swept:
        """Raises :class:`SweepError`."""
        swept, before = Swept(), self._index.ids_given

        async def drop(found: Sequence[tuple[int, str]]) -> None:
            size = self._index.size
            keys = dict(one for one in found if one[0] < before)
            dropped = self._index.remove_found(keys.items(), now, why)
            self._bodies.delete(dropped)
            swept.entries += len(dropped)
            swept.size += size - self._index.size
            for entry_id, _ in dropped:
                on_key(keys[entry_id])

        with self._nothing_copied():
            await self._each_slice(matcher, drop)
        return swept

    async def expire(self, matcher: Matcher, now: float, on_key: Callable[[str], None], why: str) -> Swept:
        """Raises :class:`SweepError`."""
        swept, before, done = Swept(), self._index.ids_given, set[int]()

        async def expire(found: Sequence[tuple[int, str]]) -> None:
            for entry_id, key in found:
                if entry_id < before and entry_id not in done:
                    entry = await self._entry_of(entry_id)
                    if entry is not None and self._expire(entry, now, swept):
                        self._index.recent_drops.note((key_hash(key),), why, now)
                        done.add(entry_id)
                        on_key(key)
            if len(done) % UNWRITTEN_MAX >= UNWRITTEN_MAX - SLICE:
                await self._index.synced(durable=False)

        await self._each_slice(matcher, expire)
        return swept

    async def settle(self) -> None:
        """Wait until no crash can bring back what was swept. Raises :class:`SweepError`."""
        if not await self._index.synced(durable=True):
            raise SweepError("the index on disk can't be written: after a restart they may be back")

    def _expire(self, entry: Entry, now: float, swept: Swept) -> bool:
        if not entry.row or not entry.response.request_time < now:
            return False
        self._additions.expire(entry, now)
        swept.entries += 1
        swept.size += entry.size
        return True

    @contextlib.contextmanager
    def _nothing_copied(self) -> Iterator[None]:
        self._running += 1
        self._additions.copies_nothing = True
        try:
            yield
        finally:
            self._running -= 1
            self._additions.copies_nothing = self._running > 0

    async def _each_slice(self, matcher: Matcher, act: Callable[[Sequence[tuple[int, str]]], Awaitable[None]]) -> None:
        """``act(found)`` with ids and keys of entries that are meant, some of them twice."""
        entries = self._index.in_memory()
        for start in range(0, len(entries), SLICE):
            some = [entry for entry in entries[start : start + SLICE] if entry.row]
            found = [(entry.id, entry.key) for entry in some if matcher.matches(entry.key, entry.response.headers)]
            await act(found)
            await asyncio.sleep(0)
        del entries
        last = 0
        try:
            while True:
                found, last = await self._worker.run(self._find, last, matcher)
                for start in range(0, len(found), SLICE):
                    await act(found[start : start + SLICE])
                    await asyncio.sleep(0)
                if not last:
                    return
        except sqlite3.Error as error:
            self._trouble.disk_error("read", error)
            raise SweepError("the index on disk can't be read: not all are found") from error

    def _find(self, after: int, matcher: Matcher) -> tuple[list[tuple[int, str]], int]:
        """In the thread: of the next rows those that are meant, and the last id that was looked at; 0: it is done."""
        limit = SLICE if matcher.needle is None else LOOK_THROUGH
        rows, last = self._index.rows.keys_after(after, limit, matcher.needle)
        return [
            (row_id, key) for row_id, key, packed, *_ in rows if matcher.matches(key, Headers.of_packed(packed))
        ], last
