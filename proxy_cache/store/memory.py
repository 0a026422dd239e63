"""The memory tier: small bodies that are served without a file."""

from __future__ import annotations

from collections import OrderedDict

from .entry import Entry

SMALL = 64 * 1024
"""Bytes of a body that comes here at its first hit. (Not when it is stored: a build requests most files once, and they
would push out shared ones.)"""
LARGEST = 1024 * 1024
"""Bytes of a body that comes here at a later hit. Longer ones never do."""
OVERHEAD = 256
"""Bytes that a body counts for besides its own."""


class MemoryTier:
    """Up to ``limit`` bytes of bodies, in ``entry.memory``. The least recently used is dropped first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        """Bytes taken."""
        self._entries: OrderedDict[int, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry, data: bytes) -> None:
        """Add a whole body, unless it is too long or its entry was removed."""
        if not entry.row or len(data) != entry.length or len(data) > LARGEST:
            return
        self.drop(entry)
        entry.memory = data
        self._entries[entry.id] = entry
        self.size += len(data) + OVERHEAD
        while self.size > self.limit:
            self.drop(next(iter(self._entries.values())))

    def touch(self, entry: Entry) -> None:
        if entry.memory is not None:
            self._entries.move_to_end(entry.id)

    def drop(self, entry: Entry) -> None:
        """Idempotent."""
        if entry.memory is not None:
            self.size -= len(entry.memory) + OVERHEAD
            entry.memory = None
            del self._entries[entry.id]
