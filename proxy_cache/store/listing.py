"""Lists stored entries by what they are, page by page, without bringing them into memory.

The index is read in a thread of its own, some rows at a time. In the order of ids, which is that in which entries were
stored, a page takes as many rows as it needs; in another order it takes all of them, and memory for one page.
"""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ..semantics.headers import Headers
from .entry import Entry
from .index import Index
from .sweep import LOOK_THROUGH, SLICE, Matcher, SweepError
from .trouble import Trouble
from .worker import Worker

AT_ONCE: Final = 4
"""Lists that are made at a time; others wait."""

Position: TypeAlias = tuple[Any, int]
"""Where a page ends: what it is sorted by, and the id."""


@dataclass(slots=True)
class Listed:
    """One entry, by what is quickly read of it; ``entry`` itself if it is on a page, or was asked for."""

    id: int
    key: str
    length: int
    """Of the body, in bytes."""
    stored: float
    """When the response, or its last validation, has come (unix time)."""
    hits: int
    """Since the proxy has started."""
    used: float
    """The last use (unix time)."""
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be listed. ``where`` the entries are, by key and fields; what else they are by what is quickly read
    (``suits``), and by the rest (``entry_suits``). In the order of ``sorted_by``, or of ids."""

    where: Matcher
    suits: Callable[[Listed], bool]
    limit: int
    sorted_by: Callable[[Listed], Any] | None = None
    descending: bool = False
    after: Position | None = None
    entry_suits: Callable[[Entry], bool] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """``total``: how many there are on all pages, if all rows had to be read. ``end``: where it ends, if there are
    more."""

    listed: list[Listed]
    end: Position | None
    total: int | None = None


class Listing:
    """Makes pages. ``index`` is read in a thread: what is changed meanwhile may be in a list or not."""

    def __init__(self, index: Index, trouble: Trouble) -> None:
        self._index = index
        self._trouble = trouble
        self._worker = Worker("cache-list")
        self._places = asyncio.Semaphore(AT_ONCE)

    def close(self) -> None:
        """Wait for the thread. Blocks."""
        self._worker.close()

    async def page(self, wish: Wish) -> Page:
        """Raises :class:`.sweep.SweepError` if the index can't be read."""
        async with self._places:
            await self._index.synced(durable=False)  # with what was stored just now
            try:
                page = await (self._by_id(wish) if wish.sorted_by is None else self._sorted(wish, wish.sorted_by))
                await self._worker.run(self._read_entries, page.listed)
                return page
            except sqlite3.Error as error:
                self._trouble.disk_error("read", error)
                raise SweepError("the index on disk can't be read") from error

    async def _by_id(self, wish: Wish) -> Page:
        found: list[Listed] = []
        last = wish.after[1] if wish.after is not None else 0
        while len(found) <= wish.limit:
            some, last = await self._worker.run(self._read, last, wish)
            found += some
            if not last:
                break
        listed = found[: wish.limit]
        return Page(listed, (None, listed[-1].id) if len(found) > wish.limit else None)

    async def _sorted(self, wish: Wish, sorted_by: Callable[[Listed], Any]) -> Page:
        def position(one: Listed) -> Position:
            return sorted_by(one), one.id

        best: list[Listed] = []
        total, last = 0, 0
        while True:
            some, last = await self._worker.run(self._read, last, wish)
            total += len(some)
            if wish.after is not None:
                some = [one for one in some if _is_behind(position(one), wish.after, descending=wish.descending)]
            choose = heapq.nlargest if wish.descending else heapq.nsmallest
            best = choose(wish.limit + 1, [*best, *some], key=position)
            if not last:
                break
        listed = best[: wish.limit]
        return Page(listed, position(listed[-1]) if len(best) > wish.limit else None, total)

    def _read(self, after: int, wish: Wish) -> tuple[list[Listed], int]:
        """In the thread: of the next rows those that are wished for, and the last id; 0: there are no more."""
        needle = wish.where.needle
        rows, last = self._index.rows.keys_after(after, SLICE if needle is None else LOOK_THROUGH, needle)
        listed = []
        for row_id, key, packed, length, stored in rows:
            if wish.where.matches(key, Headers.of_packed(packed)):
                uses = self._index.uses(row_id, key)
                if uses is not None and wish.suits(one := Listed(row_id, key, length, stored, *uses)):
                    listed.append(one)
        if wish.entry_suits is not None:
            self._read_entries(listed)
            listed = [one for one in listed if one.entry is not None and wish.entry_suits(one.entry)]
        return listed, last

    def _read_entries(self, listed: list[Listed]) -> None:
        """In the thread. What is gone by now has none."""
        entries, _ = self._index.rows.entries(None, [one.id for one in listed if one.entry is None])
        by_id = {entry.id: entry for entry in entries}
        for one in listed:
            one.entry = one.entry or by_id.get(one.id)


def _is_behind(position: Position, end: Position, *, descending: bool) -> bool:
    return position < end if descending else position > end
