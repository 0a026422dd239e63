"""One cache folder: the entries, their bodies, and their limits.

Decisions are made on the event loop and in memory, blocking calls in threads. If anything goes wrong on the disk a
response is not stored, but always served.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from .additions import Additions
from .clock import LOOK_EVERY, ClockWatch
from .entry import Entry
from .eviction import Evictor, Quota
from .files import BodyFiles
from .folder import FolderLock, InUse
from .full_check import FullCheck
from .index import NEVER, Index
from .listing import Listing
from .memory import MemoryTier
from .pending import Pending
from .pipes import Pipes
from .recovery import NewerIndex, refuse_newer
from .segments import Segments
from .spill import Spill
from .stored_bodies import StoredBodies
from .sweep import Sweeps
from .trouble import Trouble
from .verify import Verifier
from .writer import Writer

__all__ = ["Quota", "Store", "StoreError"]

logger = logging.getLogger(__name__)

USES_FLUSH = 15.0
"""Seconds between writes of the times of last use."""
MEMORY_MAX = 256 << 20
"""Bytes of small bodies in memory."""


class StoreError(Exception):
    """The store cannot be opened. The message names the folder and the reason."""


class Store:
    """One cache folder, opened by one process.

    ``on_failure(reason)`` is called for each response that could not be kept or read: ``no_space``, ``too_large``,
    ``too_many_pieces``, ``busy``, ``write``, ``read``, ``index``. ``on_eviction(count)`` is called for evicted entries,
    ``on_corruption()`` for each entry that was not what was stored. The first and the last are also called in threads.
    """

    def __init__(
        self,
        root: Path,
        quota: Quota,
        *,
        on_failure: Callable[[str], None] = lambda reason: None,
        on_eviction: Callable[[int], None] = lambda count: None,
        on_corruption: Callable[[], None] = lambda: None,
    ) -> None:
        self.root = root
        self.files = BodyFiles(root)
        self.memory = MemoryTier(MEMORY_MAX)
        self.pipes = Pipes()
        self.trouble = Trouble(root, on_failure)
        path = root / "index.sqlite"
        self._segments = Segments(root / "segments", self._segment_gone)
        self._writer = Writer(path, self._segments, self.files.write_whole, self.trouble.disk_error)
        self._pending = Pending(self._writer)
        self.index = Index(path, self._writer, self.memory.drop, on_corrupt=on_corruption)
        self.evictor = Evictor(quota, self.index, self.files, self.trouble, on_eviction, self._writer.to_be_freed)
        self.spill = Spill(self.files.tmp, self.evictor.has_free)
        self._clock = ClockWatch()
        self._clock_timer: asyncio.TimerHandle | None = None
        bodies = StoredBodies(self.index, self.files, self._segments, self.memory, self.trouble, on_corruption)
        self.verifier = Verifier(self.index, bodies, self.trouble, self._wait_until_loaded)
        self.full_check = FullCheck(self.index, bodies, self.verifier)
        additions = Additions(
            self.index, bodies, self.memory, self._pending, self.pipes, self.spill, self.evictor, self.trouble,
            self._clock, self._clock_set_back, lambda entry: self.verifier.sum_soon(entry),
        )  # fmt: skip
        self.sweeps = Sweeps(self.index, bodies, additions, self.trouble, self.load, self.verifier.entry)
        self.listing = Listing(self.index, self.trouble)
        self._bodies = bodies
        self._additions = additions
        self.recent_drops = self.index.recent_drops
        self._lock = FolderLock(root)
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._housekeeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Documented where they are defined. Bound here, since hits and misses pay for each call in between.
        self.touch = bodies.touch
        self.open_now = bodies.open_now
        self.open_body = bodies.open
        self.open_file = bodies.open_file
        self.bring_to_memory = bodies.bring_to_memory
        self.drop_unreadable = bodies.drop_unreadable
        self.remove = bodies.remove
        self.remove_key = bodies.remove_key
        self.put = additions.put
        self.commit = additions.commit
        self.body = additions.body
        self.piece = additions.piece
        self.accepts = additions.accepts
        self.add_object = additions.add_object
        self.keep_object = additions.keep_object
        self.add_variant = additions.add_variant
        self.update = additions.update

    # -- opening and closing ------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.evictor.is_open

    async def open(self) -> None:
        """Take the folder's lock and load the index. Raises :class:`StoreError`."""
        try:
            await self.files.run(self._open)
        except StoreError:
            self._lock.release()
            raise
        except Exception as error:
            self._lock.release()
            raise StoreError(f"cache_dir {self.root} cannot be used: {error}") from error
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        self.evictor.is_open = True
        self.evictor.update_limits()
        self.evictor.make_room(0)
        self._housekeeper = asyncio.get_running_loop().create_task(self._keep_house())
        self.verifier.start()
        self._look_at_clock()

    def _open(self) -> None:
        try:
            self._lock.acquire()
            refuse_newer(self.index.path)
            self._lock.tighten()
            self.files.prepare()
            self._segments.prepare()
        except OSError as error:
            raise StoreError(f"cache_dir {self.root} cannot be written: {error.strerror}") from error
        except InUse as error:
            raise StoreError(f"cache_dir {self.root} is in use by another process (pid {error})") from error
        except NewerIndex as error:
            raise StoreError(f"cache_dir {self.root} {error}") from error
        self.files.unlink(self.index.open(self.files.scan, self._segments))
        self.evictor.read_free()

    async def close(self) -> None:
        """Write everything that is pending, and unlock the folder. Nothing may use the store any more."""
        if not self.is_open:
            return
        self.evictor.is_open = False
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        if self._clock_timer is not None:
            self._clock_timer.cancel()
        await self.verifier.stop()
        await self.written()
        await self.files.drain()
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        try:
            self.verifier.close()
            self.sweeps.close()
            self.listing.close()
            self.index.close()
            self.files.close()
            self.pipes.close()
            self._segments.close()
        finally:
            self._lock.release()

    @property
    def unwritten(self) -> int:
        """Bodies that are still to be written."""
        return self._pending.count

    async def written(self) -> None:
        """Wait until no body is left to be written."""
        await self._pending.all_written()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(USES_FLUSH)
            try:
                self.index.flush_uses()
                await self.files.run(self.evictor.refresh_free)
                self.evictor.make_room(0)
            except Exception:  # this task has to live as long as the store
                logger.exception("cache_dir %s: housekeeping failed", self.root)

    def _clock_set_back(self, by: float) -> None:
        logger.warning("the clock was set back by %.1f s: what is stored counts as older by that", by)
        self.index.clock_set_back(by)

    def _look_at_clock(self) -> None:
        """A cheap look, ten times a second, saves each hit a look of its own."""
        if by := self._clock.set_back_by():
            self._clock_set_back(by)
        self._clock_timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_at_clock)

    def _segment_gone(self, segment: int) -> None:
        """Called in the writer's thread."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._segments.gone, segment)
            except RuntimeError:
                logger.debug("the loop has ended before its last segment")

    # -- looking up ---------------------------------------------------------------------------------------------

    def lookup(self, key: str) -> Sequence[Entry]:
        """The variants stored under ``key``. Only complete if :meth:`is_loaded`."""
        return self.index.get(key)

    def is_loaded(self, key: str) -> bool:
        """Whether :meth:`lookup` is complete without :meth:`load`. True if nothing is stored."""
        return self.index.is_loaded(key)

    def may_have(self, key: str) -> bool:
        """Whether anything could be stored under ``key``, loaded or not."""
        return self.index.may_have(key)

    def holds(self, entry: Entry) -> bool:
        """Whether the entry is still stored: it may be evicted or invalidated at any time."""
        return entry in self.index

    async def load(self, key: str) -> None:
        """Read the variants of ``key`` from disk. A key that can't be read is removed."""
        task = self._loading.get(key)
        if task is None:
            if self.index.is_loaded(key) or not self.is_open:
                return
            task = asyncio.get_running_loop().create_task(self._load(key))
            if not task.done():  # tasks start at once in mitmproxy's loop, and there may be nothing to read
                self._loading[key] = task
                task.add_done_callback(lambda _: self._loading.pop(key))
                task.add_done_callback(self.files.failed)
                self.files.keep(task)
        await asyncio.shield(task)  # others wait for it too

    async def _load(self, key: str) -> None:
        try:
            useless = await self.index.load(key, self.files.run)
        except sqlite3.Error as error:
            self.trouble.disk_error("read", error)
            self.remove_key(key)
        else:
            if useless:
                self.index.delete_rows(useless)
                self._bodies.delete(useless)
            self._additions.drop_superseded(key)

    async def _wait_until_loaded(self, key: str) -> None:
        """If it is being loaded."""
        if key in self._loading:
            await self.load(key)

    # -- limits -------------------------------------------------------------------------------------------------

    @property
    def memory_max(self) -> int:
        """Bytes of small bodies in memory. May be changed at any time."""
        return self.memory.limit

    @memory_max.setter
    def memory_max(self, limit: int) -> None:
        self.memory.limit = limit

    @property
    def quota(self) -> Quota:
        """May be changed at any time."""
        return self.evictor.quota

    @quota.setter
    def quota(self, quota: Quota) -> None:
        self.evictor.quota = quota

    @property
    def size(self) -> int:
        """Bytes that all entries take."""
        return self.index.size

    @property
    def capacity(self) -> int:
        """Bytes that all entries may take (``cache_max_size``)."""
        return self.evictor.capacity

    @property
    def object_max(self) -> int:
        """Bytes that one entry may take (``cache_max_object_size``)."""
        return self.evictor.object_max

    def reserve(self, size: int, since: float = NEVER) -> bool:
        """See :meth:`.eviction.Evictor.reserve`."""
        return self.evictor.reserve(size, since)
