"""A row of numbers in memory for every entry, found by the hash of its key, in order of last use.

A row takes about 150 bytes. Everything else of an entry is in the database until it is needed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

_NO_ROWS: tuple[int, ...] = ()


def key_hash(key: str) -> int:
    """60 bits of a key. Among millions of entries, two with the same hash are variants, hardly ever different keys. It
    is stored in the database, so it must never change (``hash()`` does, with every process)."""
    return _remembered(key) if len(key) <= 1024 else _hash(key)  # a miss asks three times


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 4


_remembered = lru_cache(maxsize=1024)(_hash)


class Columns:
    """The columns, a table from hash to row, and the order of use as a doubly linked ring of rows.

    Row 0 is no entry: the ring begins and ends there. ``next[0]`` is the least recently used row, ``prev[0]``
    the most recently used. Free rows are linked through ``next``.
    """

    __slots__ = (
        "_by_hash", "_free", "_next", "_prev", "blocks", "count", "hashes", "hits", "ids", "locations", "total_blocks",
        "used",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ids = array("q", [0])
        self.hashes = array("q", [0])
        self.blocks = array("I", [0])
        """Size on disk, in blocks."""
        self.used = array("d", [0.0])
        self.hits = array("Q", [0])  # (an unsigned column is quicker to change)
        """Uses since the start of the proxy, or since the entry was added."""
        self.locations = array("q", [0])
        """Location of the body (see :mod:`.segments`)."""
        self._next = array("I", [0])
        self._prev = array("I", [0])
        self._free = 0
        self._by_hash: dict[int, int | tuple[int, ...]] = {}
        self.count = 0
        self.total_blocks = 0

    def fill(self, batches: Iterable[Sequence[tuple[int, int, int, float, int]]]) -> None:
        """The first rows: id, hash, blocks, last use and location, least recently used first."""
        by_hash = self._by_hash
        row = len(self.ids)
        for rows in batches:
            if not rows:
                continue
            ids, hashes, blocks, used, locations = zip(*rows, strict=True)
            self.ids.extend(ids)
            self.hashes.extend(hashes)
            self.blocks.extend(blocks)
            self.used.extend(used)
            self.hits.extend([0] * len(ids))
            self.locations.extend(locations)
            self.total_blocks += sum(blocks)
            for number in hashes:
                if by_hash.setdefault(number, row) != row:
                    by_hash[number] = (*self.find(number), row)
                row += 1
        self.count = row - 1
        self._next = array("I", range(1, row + 1))
        self._next[-1] = 0
        self._prev = array("I", [row - 1])
        self._prev.extend(range(row - 1))

    def find(self, number: int) -> tuple[int, ...]:
        """The rows with this hash."""
        found = self._by_hash.get(number, _NO_ROWS)
        return (found,) if isinstance(found, int) else found

    def __contains__(self, number: int) -> bool:
        return number in self._by_hash

    def add(self, entry_id: int, number: int, blocks: int, used: float, location: int) -> int:
        """Add an entry as the most recently used one. Returns its row."""
        last = self._prev[0]
        row = self._free
        if row:
            self._free = self._next[row]
            self.ids[row], self.hashes[row], self.blocks[row], self.used[row] = entry_id, number, blocks, used
            self.locations[row], self.hits[row] = location, 0
            self._next[row], self._prev[row] = 0, last
        else:
            row = len(self.ids)
            self.ids.append(entry_id)
            self.hashes.append(number)
            self.blocks.append(blocks)
            self.used.append(used)
            self.hits.append(0)
            self.locations.append(location)
            self._next.append(0)
            self._prev.append(last)
        self._next[last] = self._prev[0] = row
        if self._by_hash.setdefault(number, row) != row:
            self._by_hash[number] = (*self.find(number), row)
        self.count += 1
        self.total_blocks += blocks
        return row

    def remove(self, row: int) -> None:
        number = self.hashes[row]
        left = tuple(other for other in self.find(number) if other != row)
        if len(left) > 1:
            self._by_hash[number] = left
        elif left:
            self._by_hash[number] = left[0]
        else:
            del self._by_hash[number]
        before, after = self._prev[row], self._next[row]
        self._next[before], self._prev[after] = after, before
        self._next[row], self._free = self._free, row
        self.ids[row] = 0
        self.count -= 1
        self.total_blocks -= self.blocks[row]

    def touch(self, row: int, now: float) -> None:
        """Count a use of a row, and make it the most recently used one."""
        self.used[row] = now
        self.hits[row] += 1
        follow, precede = self._next, self._prev
        last = precede[0]
        if last != row:
            before, after = precede[row], follow[row]
            follow[before], precede[after] = after, before
            follow[row], precede[row] = 0, last
            follow[last] = precede[0] = row

    def resize(self, row: int, blocks: int) -> None:
        self.total_blocks += blocks - self.blocks[row]
        self.blocks[row] = blocks

    def oldest(self) -> int:
        """The least recently used row; 0 if there is none."""
        return self._next[0]

    def __iter__(self) -> Iterator[int]:
        """All rows, least recently used first."""
        row = self._next[0]
        while row:
            yield row
            row = self._next[row]
