"""The limits of the cache on its disk, and eviction."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .files import BodyFiles
from .index import NEVER, Index
from .trouble import Trouble

FREE_CHECK = 0.5
"""Seconds for which a reading of the free disk space is used."""
EVICT_AT_ONCE = 500
"""Entries evicted at a stretch, which takes some milliseconds. The rest follows in the background, slice by slice."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits in bytes (``int``), or as a fraction (``float``, 0 to 1). Fractions of the first two are of the bytes that
    the disk can give to the cache: its free ones, and those that the cache has taken. (Not of the whole disk: others
    may use most of it.)"""

    max_size: int | float
    """Of all entries."""
    min_free: int | float
    """Left free on the disk."""
    max_object: int | float = 1.0
    """Of one response; a fraction is of ``max_size``."""
    users: int = 1
    """So many caches that take as much as this one are on the disk, this one among them."""


class Evictor:
    """Counts bytes that are stored, reserved and free, and evicts. ``trouble`` hears of responses that don't fit and,
    from a thread, of a file system that does not tell its free space.

    ``on_eviction(count)`` is called for evicted entries. ``to_be_freed()``: bytes that the writer has still to free.
    """

    def __init__(
        self,
        quota: Quota,
        index: Index,
        files: BodyFiles,
        trouble: Trouble,
        on_eviction: Callable[[int], None],
        to_be_freed: Callable[[], int] = lambda: 0,
    ) -> None:
        self._quota = quota
        self.capacity = 0
        """Bytes that all entries may take (``cache_max_size``)."""
        self.object_max = 0
        """Bytes that one entry may take (``cache_max_object_size``)."""
        self.min_free = 0
        """Bytes of the disk that stay free."""
        self.reserved = 0
        """Bytes promised to bodies that the index doesn't count yet."""
        self.is_open = False
        """Whether anything is reserved or evicted."""
        self.evicting: asyncio.Task[None] | None = None
        self._index = index
        self._files = files
        self._trouble = trouble
        self._on_eviction = on_eviction
        self._to_be_freed = to_be_freed
        self._since = NEVER
        self._free = 0
        self._free_at = 0.0

    @property
    def quota(self) -> Quota:
        """May be changed at any time."""
        return self._quota

    @quota.setter
    def quota(self, quota: Quota) -> None:
        self._quota = quota
        self.update_limits()

    @property
    def obtainable(self) -> int:
        """Bytes of the disk that are free, or ours (all users')."""
        return self.disk_free + self._index.size * self._quota.users

    @property
    def disk_free(self) -> int:
        """Bytes that the disk has left, by the last reading."""
        return max(self._free, 0)

    def update_limits(self) -> None:
        """Convert fractions to bytes, by the last reading of the disk. The cache shrinks when others fill the disk."""
        self.capacity, self.min_free = self._bytes(self._quota.max_size), self._bytes(self._quota.min_free)
        max_object = self._quota.max_object
        limit = max_object if isinstance(max_object, int) else int(max_object * self.capacity)
        self.object_max = min(limit, self.capacity)

    def reserve(self, size: int, since: float = NEVER, beside: int = 0) -> bool:
        """Reserve ``size`` bytes for an entry that has ``beside`` bytes already, and evict for it if need be; nothing
        that was used after ``since`` (unix time). ``False`` if they don't fit."""
        if not self.is_open or (beside + size > self.object_max and not self.allows(beside + size)):
            return False
        if not self.make_room(size, since):
            self._trouble.count("no_space")
            return False
        self.reserved += size
        return True

    def unreserve(self, size: int) -> None:
        self.reserved -= size

    def spend(self, size: int) -> None:
        """The index counts these bytes now; they are not reserved any more."""
        self.reserved -= size
        self._free -= size  # until the file system is asked again

    def allows(self, size: int) -> bool:
        """Whether one entry may take ``size`` bytes."""
        if size <= self.object_max:
            return True
        if self.is_open:
            self._trouble.count("too_large")
        return False

    def make_room(self, size: int, since: float = NEVER) -> bool:
        """Evict, least recently used first, until ``size`` more bytes fit below both limits. Whether they will.

        Entries used after ``since`` (unix time) stay: a slow download must not push out what others have fetched and
        use in the meantime. A long eviction continues in the background; the room may be used before it is all there.
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
            size = 0  # evict nothing for a body that won't fit anyway
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
        """Whether the disk has room for ``size`` bytes that are not stored. Nothing is evicted for them."""
        return self._free - self.reserved - size >= self.min_free

    def _fits(self, size: int, stored: int, free: int) -> bool:
        """Whether ``size`` more bytes fit, if so many are stored and so many free."""
        taken = self.reserved + size
        return stored + taken <= self.capacity and free - taken >= self.min_free

    def _evict(self, size: int) -> tuple[int, list[int]]:
        """Evict one slice, in memory. Returns the count, and the ids of the files to unlink."""
        index = self._index
        total = index.size + self._free
        evicted = index.evict(EVICT_AT_ONCE, lambda: not self._fits(size, index.size, total - index.size), self._since)
        self._free = total - index.size
        if evicted:
            self._on_eviction(len(evicted))
        return len(evicted), self._files.forget(evicted)

    async def _evict_more(self, files: list[int]) -> None:
        """Slice by slice, each when the files of the one before are gone. Reservations made meanwhile count."""
        evicted = True
        try:
            while evicted:
                await self._files.run(self._unlink, files)
                count, files = self._evict(0) if self.is_open else (0, [])
                evicted = count > 0
        finally:
            self.evicting = None

    def _unlink(self, entry_ids: list[int]) -> None:
        self._files.unlink(entry_ids)
        self.refresh_free()

    def refresh_free(self) -> None:
        """Ask the file system for its free space; if it fails, the last reading remains. Blocks."""
        try:
            self.read_free()
        except OSError as error:
            self._trouble.read_failed(error)

    def read_free(self) -> None:
        """Raises ``OSError``. Bytes that are reserved and already written are counted twice, which errs on the safe
        side. Evicted bytes that are not freed yet count as free: else more would be evicted in their place."""
        stat = os.statvfs(self._files.root)
        self._free = stat.f_bavail * stat.f_frsize + self._to_be_freed()
        self._free_at = time.monotonic()

    def _bytes(self, amount: int | float) -> int:
        return amount if isinstance(amount, int) else int(amount * self.obtainable)
