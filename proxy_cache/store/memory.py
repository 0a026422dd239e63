"""The memory tier: small bodies that need no file to be served."""

from __future__ import annotations

from collections import OrderedDict

from .entry import Entry

SMALL = 64 * 1024
"""Bytes of the longest body that is kept here when it is asked for, and"""
LARGEST = 1024 * 1024
"""of the longest that is kept here at all, when it is asked for once more. (Not as soon as it is stored: most of what a
build fetches is asked for once, and would push out what others share.)"""
OVERHEAD = 256
"""Bytes that a body is counted with besides its own."""


class MemoryTier:
    """Bodies in memory, as ``entry.memory``, up to ``limit`` bytes of them; the least recently used leaves first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        """Bytes taken."""
        self._entries: OrderedDict[int, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry, data: bytes) -> None:
        """Have this body here, which is all of it. It may be too big, or the entry gone: then nothing happens."""
        if not entry.row or len(data) != entry.length or len(data) > LARGEST:
            return
        self.drop(entry)
        entry.memory = data
        self._entries[entry.id] = entry
        self.size += len(data) + OVERHEAD
        while self.size > self.limit:
            self.drop(next(iter(self._entries.values())))

    def touch(self, entry: Entry) -> None:
        """It was used."""
        if entry.memory is not None:
            self._entries.move_to_end(entry.id)

    def drop(self, entry: Entry) -> None:
        """Idempotent."""
        if entry.memory is not None:
            self.size -= len(entry.memory) + OVERHEAD
            entry.memory = None
            del self._entries[entry.id]
