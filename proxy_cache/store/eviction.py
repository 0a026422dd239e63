"""The room that the cache may take, what of it is promised to bodies on their way, and eviction."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .files import BodyFiles
from .index import NEVER, Index

FREE_CHECK = 0.5
"""Seconds for which a reading of the free disk space is believed."""
EVICT_AT_ONCE = 500
"""Entries evicted at a stretch, which takes some milliseconds. More go in the background, a slice at a time."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much the cache may take. The first two are bytes, or a share of what its disk can give: what is free there,
    and what the cache itself has taken. (Not of the whole disk: most of it may be somebody else's.)"""

    max_size: int | float
    """Bytes (``int``) or a fraction (``float``, 0 to 1) of what the disk can give."""
    min_free: int | float
    """Free bytes, or such a fraction, that are never eaten into."""
    max_object: int | float = 1.0
    """What one response may take: bytes, or a fraction of what the cache may take."""


class Evictor:
    """What is taken, reserved and free.

    ``on_eviction(count)`` is called for entries that made room. ``to_be_freed()``: bytes of the disk that the writer
    has still to give back. ``on_error(error)`` is told, in a thread, when the file system does not say what is free.
    """

    def __init__(
        self,
        quota: Quota,
        index: Index,
        files: BodyFiles,
        on_eviction: Callable[[int], None],
        to_be_freed: Callable[[], int] = lambda: 0,
        on_error: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self._quota = quota
        self.capacity = self.object_max = self.min_free = 0
        """Bytes that all entries may take (``cache_max_size``), that one may, and that are to stay free."""
        self.reserved = 0
        """Bytes promised, and not counted by the index yet."""
        self.evicting: asyncio.Task[None] | None = None
        self.closing = False
        """Whether no further slice is to be evicted."""
        self._index = index
        self._files = files
        self._on_eviction = on_eviction
        self._to_be_freed = to_be_freed
        self._on_error = on_error
        self._since = NEVER
        self._free = 0
        self._free_at = 0.0

    @property
    def quota(self) -> Quota:
        return self._quota

    @quota.setter
    def quota(self, quota: Quota) -> None:
        self._quota = quota
        self.update_limits()

    @property
    def obtainable(self) -> int:
        """Bytes that the disk can give: those that are free, and those that are ours."""
        return max(self._free, 0) + self._index.size

    def update_limits(self) -> None:
        """What the shares are in bytes, by the last reading of the disk. As others fill it, the cache shrinks."""
        self.capacity, self.min_free = self._bytes(self._quota.max_size), self._bytes(self._quota.min_free)
        most = self._quota.max_object
        self.object_max = min(most if isinstance(most, int) else int(most * self.capacity), self.capacity)

    def make_room(self, size: int, since: float = NEVER) -> bool:
        """Evict, least recently used first, until ``size`` more bytes fit under both limits. Whether they will.

        Nothing goes that was used after ``since`` (unix time): what takes long to come must not push out what others
        have fetched, and use, meanwhile. What takes long to evict is seen to in the background: the room may then be
        used before it is all there.
        """
        now = time.monotonic()
        if now - self._free_at > FREE_CHECK:
            self._files.start(self.refresh_free)
            self._free_at = now
            self.update_limits()
        if self._fits(size, self._index.size, self._free):
            return True
        possible = self._fits(size, 0, self._free + self._index.size)
        if not possible:
            size = 0  # nothing goes for what won't fit all the same
        self._since = since if self.evicting is None else max(self._since, since)
        if self.evicting is None:
            count, files = self._evict(size)
            fits = self._fits(size, self._index.size, self._free)
            if count < EVICT_AT_ONCE or fits:
                if files:
                    self._files.start(self._unlink, files)
                return possible and fits
            if count:
                self.evicting = asyncio.get_running_loop().create_task(self._evict_more(files))
                self.evicting.add_done_callback(self._files.failed)
                self._files.keep(self.evicting)
        return possible

    def has_free(self, size: int) -> bool:
        """Whether the disk has room for ``size`` more bytes that are not stored. Nothing is evicted for them."""
        return self._free - self.reserved - size >= self.min_free

    def spend(self, size: int) -> None:
        """What was reserved has been written, and is counted by the index from now on."""
        self.reserved -= size
        self._free -= size  # until the file system is asked again

    def _fits(self, size: int, stored: int, free: int) -> bool:
        """Whether ``size`` more bytes fit beside so much that is stored, on a disk that has so much free."""
        taken = self.reserved + size
        return stored + taken <= self.capacity and free - taken >= self.min_free

    def _evict(self, size: int) -> tuple[int, list[int]]:
        """One slice, in memory: how many, and the ids of those whose files are to be unlinked."""
        index = self._index
        total = index.size + self._free
        evicted = index.evict(EVICT_AT_ONCE, lambda: not self._fits(size, index.size, total - index.size), self._since)
        self._free = total - index.size
        if evicted:
            self._on_eviction(len(evicted))
        return len(evicted), self._files.forget(evicted)

    async def _evict_more(self, files: list[int]) -> None:
        """Slice by slice, each when the files of the one before are gone; what is reserved meanwhile counts."""
        evicted = True
        try:
            while evicted:
                await self._files.run(self._unlink, files)
                count, files = (0, []) if self.closing else self._evict(0)
                evicted = count > 0
        finally:
            self.evicting = None

    def _unlink(self, entry_ids: list[int]) -> None:
        self._files.unlink(entry_ids)
        self.refresh_free()

    def refresh_free(self) -> None:
        """Ask the file system; if it fails, what it said last is what there is to go by."""
        try:
            self.read_free()
        except OSError as error:
            self._on_error(error)

    def read_free(self) -> None:
        """Ask the file system. What is reserved and already written is counted twice, which errs on the safe side; what
        has been evicted and not given back yet is free, else more would be evicted in its place."""
        stat = os.statvfs(self._files.root)
        self._free = stat.f_bavail * stat.f_frsize + self._to_be_freed()
        self._free_at = time.monotonic()

    def _bytes(self, amount: int | float) -> int:
        return amount if isinstance(amount, int) else int(amount * self.obtainable)
