"""Whether stored bodies still are what was stored.

A body is checked when it comes to memory (small ones, see :meth:`~.store.Store.open_body`), before it is called good
for another lifetime, and by a *walk* over all that is stored: slowly, while nothing else is to do, and from where the
walk before has ended, be that in another process. What a walk finds without checksums gets some: bodies that were
stored by an earlier version, and long ones that went from the network to the disk past our memory, which are seen to as
soon as there is a quiet moment.

A body that isn't what was stored is dropped, counted, and told in one line of the log; it is fetched when it is asked
for. Who is being sent it from its file gets nothing further from there.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .checksums import BLOCK, BlockToCheck, CorruptBody, blocks, check, is_intact, of_body, packed
from .files import TornFile
from .memory import LARGEST
from .worker import Worker

if TYPE_CHECKING:
    from ..semantics.spans import Spans
    from .entry import Entry
    from .store import Store

logger = logging.getLogger(__name__)

RATE: Final = 16 << 20
"""Bytes a second of a walk."""
LEAST: Final = 64 * 1024
"""Bytes that an entry is counted with in that, at least: its row is read, too."""
WALK_EVERY: Final = (10.0, 86_400.0)
"""Seconds from the end of a walk to the next one, at least and at most, and"""
REST: Final = 20
"""how many times as long as the walk has taken that is."""
QUIET_FOR: Final = 0.25
"""Seconds without a request before a walk goes on, and"""
QUIET_SOON: Final = 0.02
"""before checksums are made of what has just been stored."""
NEVER_QUIET: Final = 5.0
"""Seconds after which the next step is taken although there are requests: some 4 MiB, which is a millisecond's work."""
PATIENCE: Final = 5.0
"""Seconds that a request waits for a check. Of a body that takes longer the rest is checked behind."""
SHARE: Final = 10
"""A check that requests have asked for is not made again before so many times its duration has passed."""
AT_ONCE: Final = 4
"""Blocks in one trip to the thread."""
UNSUMMED_MAX: Final = 100_000
"""Entries without checksums that are remembered. Others wait for the next walk."""
NOTE_EVERY: Final = 60.0
"""Seconds after which it is noted how far a walk has come."""
_NOTE: Final = "verify"
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


def _blocks_to_check(length: int, spans: Spans | None, sums: bytes) -> tuple[list[BlockToCheck], bool]:
    """In the thread: the blocks of a body, and whether there is a checksum of all of it. Raises ``ValueError``."""
    todo = blocks(length, spans, sums)
    return todo, all(block.is_covered for block in todo)


class Verdict(enum.Enum):
    GOOD = "good"
    UNKNOWN = "unknown"
    """There was no checksum, at least not of all of it. There is one now."""
    CORRUPT = "corrupt"
    """It was dropped."""
    GONE = "gone"
    """It was dropped by others meanwhile."""


class Verifier:
    """Checks the bodies of one store, which is open. ``activity()`` gives something else whenever there was a request;
    ``is_filling()``: whether origins are asked for something now."""

    def __init__(self, store: Store) -> None:
        self._rate = RATE
        self.activity: Callable[[], Any] = lambda: 0
        self.is_filling: Callable[[], bool] = lambda: False
        self._store = store
        self._worker = Worker("cache-verify")
        self._buffer = bytearray()
        self._under_way: dict[int, asyncio.Task[Verdict]] = {}
        self._not_before: dict[int, float] = {}
        """By id: when a check that takes long may be made again."""
        self._unsummed: deque[int] = deque()
        self._something_to_do = asyncio.Event()
        self._at = 0
        """The last id that the walk has been at, and"""
        self._next_walk = 0.0
        """when the next one begins (unix time)."""
        self._walked = 0.0
        """Seconds that the walk has taken so far, without the waiting for quiet moments."""
        self._noted = time.monotonic()
        self._before: Any = None
        """The activity at the last look at it."""
        self._task: asyncio.Task[None] | None = None

    @property
    def rate(self) -> int:
        """Bytes a second of a walk; 0: there are none. May be changed at any time."""
        return self._rate

    @rate.setter
    def rate(self, rate: int) -> None:
        self._rate = rate
        self._something_to_do.set()

    def start(self) -> None:
        """Begin to walk, from where the last one was."""
        try:
            at, after = self._store.index.notes.get(_NOTE, "0 0").split()
            self._at, self._next_walk = int(at), min(float(after), time.time() + WALK_EVERY[1])
        except ValueError:
            self._at, self._next_walk = 0, 0.0
        self._task = asyncio.get_running_loop().create_task(self._keep_on())

    async def stop(self) -> None:
        """Check nothing any more."""
        tasks = [task for task in (self._task, *self._under_way.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._at:
            self._note()

    def close(self) -> None:
        """Wait for the thread. Blocks."""
        self._worker.close()

    # -- one entry ----------------------------------------------------------------------------------------------

    async def verify(self, entry: Entry) -> Verdict:
        """Compare a body with its checksums, as far as it is there, and drop it if it isn't what was stored. At full
        speed; those who ask for the same at a time share it."""
        task = self._under_way.get(entry.id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._verify(entry))
            if not task.done():  # tasks start at once in mitmproxy's loop
                self._under_way[entry.id] = task
                task.add_done_callback(lambda _: self._under_way.pop(entry.id))
        return await asyncio.shield(task)

    async def is_good(self, entry: Entry, *, insisted: bool) -> bool:
        """Whether a body may be called good for another lifetime, now that the origin has said so of its version.

        A long one is checked only if the request has ``insisted`` on an answer of the origin's: whoever gets a bad byte
        has to have a way to be rid of it.
        """
        data = entry.memory or entry.unwritten
        if data is not None:
            return self._is_intact(entry, data)
        if entry.length > LARGEST and not insisted:
            return self._store.holds(entry)
        now = time.monotonic()
        if now >= self._not_before.get(entry.id, 0.0):
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.verify(entry)
            except TimeoutError:
                logger.info("%s is still being checked", entry)
            self._postpone(entry, time.monotonic() - now)
        return self._store.holds(entry)

    def _postpone(self, entry: Entry, seconds: float) -> None:
        now = time.monotonic()
        if len(self._not_before) > 1000:
            self._not_before = {one: until for one, until in self._not_before.items() if until > now}
        self._not_before[entry.id] = now + SHARE * seconds

    def _is_intact(self, entry: Entry, data: bytes) -> bool:
        if not is_intact(entry.sums, data):
            self._store.drop_unreadable(entry, CorruptBody(errno.EIO, "the body in memory is not what was stored"))
        return self._store.holds(entry)

    async def _verify(self, entry: Entry, between: Callable[[int], Any] | None = None) -> Verdict:
        """``between(count)`` is awaited after so many bytes."""
        if not entry.row:
            return Verdict.GONE
        if entry.unwritten is not None:
            return Verdict.GOOD if self._is_intact(entry, entry.unwritten) else Verdict.CORRUPT
        store, is_known = self._store, True
        try:
            if entry.location:
                is_known = bool(entry.sums) or not entry.length
                body = await store.segment_body(entry)
                if not is_known and entry.row:
                    store.index.add_sums(entry, of_body([body]))
            else:
                is_known = await self._verify_file(entry, between)
        except (OSError, ValueError) as error:
            if not entry.row:
                return Verdict.GONE
            store.drop_unreadable(entry, error if isinstance(error, OSError) else CorruptBody(errno.EIO, str(error)))
            return Verdict.CORRUPT
        if not entry.row:
            return Verdict.GONE
        return Verdict.GOOD if is_known else Verdict.UNKNOWN

    async def _verify_file(self, entry: Entry, between: Callable[[int], Any] | None) -> bool:
        """Whether there was a checksum of all of it. Raises ``OSError``; ``ValueError`` for checksums that are none."""
        path, length = self._store.files.path(entry.id), entry.length
        todo, is_known = await self._worker.run(_blocks_to_check, length, entry.spans, entry.sums)
        if not entry.row:
            return is_known
        for first in range(0, len(todo), AT_ONCE):
            some = todo[first : first + AT_ONCE]
            new = await self._worker.run(self._check_file, path, length, some)
            if not entry.row:
                return is_known
            if new:
                self._store.index.add_sums(entry, new)
            if between is not None:
                await between(sum(span.length for block in some for span in block.present))
        return is_known

    def _check_file(self, path: str, length: int, some: list[BlockToCheck]) -> bytes:
        """In the thread: check these blocks of a file; the checksums that they lack."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise TornFile(errno.ENOENT, "body file is missing") from error
        try:
            if (size := os.fstat(fd).st_size) != length:
                raise CorruptBody(errno.EIO, f"body file has {size} bytes, the entry {length}")
            return packed(
                run for block in some for run in check(block, lambda start, stop: self._read(fd, start, stop))
            )
        finally:
            os.close(fd)

    def _read(self, fd: int, start: int, stop: int) -> memoryview:
        """Bytes of a block. What wasn't in the page cache doesn't stay there: it would push out what is in use."""
        if not self._buffer:
            self._buffer = bytearray(BLOCK)
        view, count = memoryview(self._buffer)[: stop - start], 0
        was_cached = True
        try:
            count = os.preadv(fd, [view], start, _NOWAIT) if _NOWAIT else 0
        except OSError:
            count = 0  # not in the page cache, or the file system cannot say
        while count < len(view):
            was_cached = False
            more = os.preadv(fd, [view[count:]], start + count)
            if not more:
                break
            count += more
        if not was_cached:
            os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)
        return view[:count]

    # -- all of them --------------------------------------------------------------------------------------------

    def sum_soon(self, entry: Entry) -> None:
        """This body was stored without checksums: make them when nothing else is to do."""
        if len(self._unsummed) >= UNSUMMED_MAX:
            self._next_walk = 0.0
            return
        self._unsummed.append(entry.id)
        self._something_to_do.set()

    @property
    def unsummed(self) -> int:
        """Bodies that wait for their checksums."""
        return len(self._unsummed)

    async def _keep_on(self) -> None:
        while True:
            try:
                if self._unsummed:
                    await self._until_quiet(QUIET_SOON, fills=False)
                    entry = await self.entry(self._unsummed[0])
                    if entry is not None:
                        await self._verify(entry, self._quickly)
                    self._unsummed.popleft()
                elif self.rate and time.time() >= self._next_walk:
                    await self._until_quiet(QUIET_FOR)
                    await self._walk_on()
                else:
                    await self._until_something_is_to_do()
            except sqlite3.Error as error:
                self._store.disk_error("read", error)
                await asyncio.sleep(NOTE_EVERY)
            except Exception:  # it is there for as long as the store is
                logger.exception("cache_dir %s: a check has failed", self._store.root)
                if self._unsummed:
                    self._unsummed.popleft()
                await asyncio.sleep(NOTE_EVERY)

    async def _until_something_is_to_do(self) -> None:
        self._something_to_do.clear()
        try:
            left = self._next_walk - time.time() if self.rate else NOTE_EVERY
            async with asyncio.timeout(min(max(left, 0.1), NOTE_EVERY)):
                await self._something_to_do.wait()
        except TimeoutError:
            pass

    async def _until_quiet(self, seconds: float, *, fills: bool = True) -> None:
        """Until there was no request for so many seconds; ``fills``: while some go on all the same."""
        until = time.monotonic() + NEVER_QUIET
        before = self._before = self.activity()
        await asyncio.sleep(seconds)
        while time.monotonic() < until:
            self._before = self.activity()
            if self._before == before and (fills or not self.is_filling()):
                break
            before = self._before
            await asyncio.sleep(seconds)

    async def _quickly(self, count: int) -> None:
        """Go on at once while it stays quiet."""
        if self.activity() != self._before or self.is_filling():
            await self._until_quiet(QUIET_SOON, fills=False)

    async def _slowly(self, count: int) -> None:
        seconds = max(count, LEAST) / (self.rate or RATE)
        self._walked += seconds
        await asyncio.sleep(seconds)
        if self.activity() != self._before:
            await self._until_quiet(QUIET_FOR)

    async def _walk_on(self) -> None:
        """Some entries further. Each is read by its id, and does not come to the working set for that."""
        index = self._store.index
        ids = await self._worker.run(index.ids_after, self._at, 64)
        if not ids:
            rest = min(max(REST * self._walked, WALK_EVERY[0]), WALK_EVERY[1])
            self._at, self._walked, self._next_walk = 0, 0.0, time.time() + rest
            if rest > NOTE_EVERY:
                self._note()
            return
        for entry_id in ids:
            entry = await self.entry(entry_id)
            if entry is not None:
                await self._verify(entry, self._slowly)
                if entry.location or entry.unwritten is not None:
                    await self._slowly(entry.length)
            else:
                await self._slowly(0)
            self._at = entry_id
            if self._unsummed or not self.rate:
                break
        if time.monotonic() - self._noted >= NOTE_EVERY:
            self._note()

    def _note(self) -> None:
        self._noted = time.monotonic()
        self._store.index.note(_NOTE, f"{self._at} {self._next_walk:.0f}")

    async def entry(self, entry_id: int) -> Entry | None:
        """An entry by its id. One whose row makes no sense is dropped."""
        store, index = self._store, self._store.index
        entry = index.find(entry_id)
        if entry is not None:
            return entry
        read = await self._worker.run(index.read_by_id, entry_id)
        if read is not None and store.is_loading(read.key):
            await store.load(read.key)
        entry = index.find(entry_id)
        if entry is not None:
            return entry
        if read is None:
            store.drop_row(entry_id)
            return None
        return read if index.hold(read) else None
