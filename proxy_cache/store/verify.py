"""Compares stored bodies with their checksums.

Small bodies are checked when they are read into memory (:meth:`.stored_bodies.StoredBodies.open`), others before they
are confirmed for another lifetime. A *walk* checks all that is stored, slowly and while the proxy is idle; it continues
where the last one stopped, also after a restart. A body without checksums gets them: those of earlier versions from the
walk, those that were spliced, past our memory, in the next quiet moment.

A corrupt body is dropped, counted and logged in one line, and fetched when it is next requested. Clients that are being
sent its file get no further bytes of it.
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
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from ..semantics.spans import Spans
from .checksums import BLOCK, BlockToCheck, CorruptBody, blocks, check, is_intact, of_body, packed
from .entry import Entry
from .files import TornFile
from .index import Index
from .memory import LARGEST
from .stored_bodies import StoredBodies
from .trouble import Trouble
from .worker import Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)

RATE: Final = 16 << 20
"""Bytes a second of a walk."""
ENTRY_BYTES_MIN: Final = 64 * 1024
"""Bytes that a short entry counts for in that rate: its row is read as well."""
WALK_EVERY: Final = (10.0, 86_400.0)
"""Least and most seconds from the end of a walk to the next one."""
REST: Final = 20
"""Within these bounds, the pause after a walk is this many times its duration."""
QUIET_FOR: Final = 0.25
"""Seconds without a request before a walk goes on."""
QUIET_SOON: Final = 0.02
"""Seconds without a request before checksums are made of bodies that were just stored."""
NEVER_QUIET: Final = 5.0
"""Seconds after which a step is made in spite of requests: some 4 MiB, a millisecond's work."""
PATIENCE: Final = 5.0
"""Seconds that a request waits for a check. The rest of a longer one runs in the background."""
SHARE: Final = 10
"""A check on behalf of a request is repeated after this many times its duration, at the earliest."""
AT_ONCE: Final = 4
"""Blocks that the thread checks in one call."""
UNSUMMED_MAX: Final = 100_000
"""Entries without checksums that are remembered. The next walk finds the others."""
NOTE_EVERY: Final = 60.0
"""Seconds between notes of a walk's position."""
_NOTE: Final = "verify"
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


def _blocks_to_check(length: int, spans: Spans | None, sums: bytes) -> tuple[list[BlockToCheck], bool]:
    """In the thread: the blocks of a body, and whether checksums cover all of it. Raises ``ValueError``."""
    todo = blocks(length, spans, sums)
    return todo, all(block.is_covered for block in todo)


class Verdict(enum.Enum):
    GOOD = "good"
    UNKNOWN = "unknown"
    """Not all of it had a checksum. Now it has."""
    CORRUPT = "corrupt"
    """The entry was dropped."""
    GONE = "gone"
    """The entry was removed during the check."""


class Verifier:
    """Checks the bodies of an open store. ``activity()`` returns another value after each request; ``is_filling()``
    tells whether any fill is running. ``wait_until_loaded(key)`` waits for the load of a key, if there is one."""

    def __init__(
        self, index: Index, bodies: StoredBodies, trouble: Trouble, wait_until_loaded: Callable[[str], Awaitable[None]]
    ) -> None:
        self._rate = RATE
        self.activity: Callable[[], Any] = lambda: 0
        self.is_filling: Callable[[], bool] = lambda: False
        self._index = index
        self._bodies = bodies
        self._trouble = trouble
        self._wait_until_loaded = wait_until_loaded
        self._worker = Worker("cache-verify")
        self._buffer = bytearray()
        self._under_way: dict[int, asyncio.Task[Verdict]] = {}
        self._not_before: dict[int, float] = {}
        """By id: when a slow check may be repeated (monotonic clock)."""
        self._unsummed: deque[int] = deque()
        self._something_to_do = asyncio.Event()
        self._position = 0
        """The walk's position: the last id checked."""
        self._next_walk = 0.0
        """When the next walk begins (unix time)."""
        self._walked = 0.0
        """Seconds of the walk so far, without the waits for quiet moments."""
        self._noted = time.monotonic()
        self._before: Any = None
        """The last value of ``activity()``."""
        self._task: asyncio.Task[None] | None = None

    @property
    def rate(self) -> int:
        """Bytes a second of a walk; 0: no walks. May be changed at any time."""
        return self._rate

    @rate.setter
    def rate(self, rate: int) -> None:
        self._rate = rate
        self._something_to_do.set()

    def start(self) -> None:
        """Start to walk, from the noted position."""
        try:
            position, after = self._index.notes.get(_NOTE, "0 0").split()
            self._position, self._next_walk = int(position), min(float(after), time.time() + WALK_EVERY[1])
        except ValueError:
            self._position, self._next_walk = 0, 0.0
        self._task = asyncio.get_running_loop().create_task(self._keep_on())

    async def stop(self) -> None:
        """Stop the walk and cancel running checks."""
        tasks = [task for task in (self._task, *self._under_way.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._position:
            self._note()

    def close(self) -> None:
        """Wait for the thread. Blocks."""
        self._worker.close()

    def run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call something that reads the index or a body in the thread of these checks."""
        return self._worker.run(function, *arguments)

    # -- one entry ----------------------------------------------------------------------------------------------

    async def verify(self, entry: Entry) -> Verdict:
        """Compare a body with its checksums, as far as it is stored, and drop the entry if they differ. At full speed;
        callers with the same entry share one check."""
        task = self._under_way.get(entry.id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self.compare(entry))
            if not task.done():  # tasks start at once in mitmproxy's loop
                self._under_way[entry.id] = task
                task.add_done_callback(lambda _: self._under_way.pop(entry.id))
        return await asyncio.shield(task)

    async def is_good(self, entry: Entry, *, insisted: bool) -> bool:
        """Whether a body may be served for another lifetime, now that the origin has confirmed its version.

        Long bodies are checked only if the request ``insisted`` on an answer from the origin: so that a client that got
        a bad byte has a way to get rid of it.
        """
        data = entry.memory or entry.unwritten
        if data is not None:
            return self._is_intact(entry, data)
        if entry.length > LARGEST and not insisted:
            return entry in self._index
        now = time.monotonic()
        if now >= self._not_before.get(entry.id, 0.0):
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.verify(entry)
            except TimeoutError:
                logger.info("%s is still being checked", entry)
            self._postpone(entry, time.monotonic() - now)
        return entry in self._index

    def _postpone(self, entry: Entry, seconds: float) -> None:
        now = time.monotonic()
        if len(self._not_before) > 1000:
            self._not_before = {one: until for one, until in self._not_before.items() if until > now}
        self._not_before[entry.id] = now + SHARE * seconds

    def _is_intact(self, entry: Entry, data: bytes) -> bool:
        if not is_intact(entry.sums, data):
            self._bodies.drop_unreadable(entry, CorruptBody(errno.EIO, "the body in memory is not what was stored"))
        return entry in self._index

    async def compare(self, entry: Entry, between: Callable[[int], Any] | None = None) -> Verdict:
        """Like :meth:`verify`, for who shares it with nobody. ``between(count)`` is awaited after every ``count``
        bytes."""
        if not entry.row:
            return Verdict.GONE
        if entry.unwritten is not None:
            return Verdict.GOOD if self._is_intact(entry, entry.unwritten) else Verdict.CORRUPT
        is_known = True
        try:
            if entry.location:
                is_known = bool(entry.sums) or not entry.length
                body = await self._bodies.read_segment(entry)
                if not is_known and entry.row:
                    self._index.add_sums(entry, of_body([body]))
                if between is not None:
                    await between(entry.length)
            else:
                is_known = await self._verify_file(entry, between)
        except (OSError, ValueError) as error:
            if not entry.row:
                return Verdict.GONE
            failure = error if isinstance(error, OSError) else CorruptBody(errno.EIO, str(error))
            self._bodies.drop_unreadable(entry, failure)
            return Verdict.CORRUPT
        if not entry.row:
            return Verdict.GONE
        return Verdict.GOOD if is_known else Verdict.UNKNOWN

    async def _verify_file(self, entry: Entry, between: Callable[[int], Any] | None) -> bool:
        """Whether checksums covered all of it. Raises ``OSError``; ``ValueError`` for malformed checksums."""
        path, length = self._bodies.files.path(entry.id), entry.length
        todo, is_known = await self._worker.run(_blocks_to_check, length, entry.spans, entry.sums)
        if not entry.row:
            return is_known
        for first in range(0, len(todo), AT_ONCE):
            some = todo[first : first + AT_ONCE]
            new = await self._worker.run(self._check_file, path, length, some)
            if not entry.row:
                return is_known
            if new:
                self._index.add_sums(entry, new)
            if between is not None:
                await between(sum(span.length for block in some for span in block.present))
        return is_known

    def _check_file(self, path: str, length: int, some: list[BlockToCheck]) -> bytes:
        """In the thread: check these blocks of a file. Returns the checksums that were missing."""
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
        """Bytes of a block. If they weren't in the page cache they don't stay there: pages in use would be evicted."""
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
        """Make checksums of a body that was stored without them, in a quiet moment."""
        if len(self._unsummed) >= UNSUMMED_MAX:
            self._next_walk = 0.0
            return
        self._unsummed.append(entry.id)
        self._something_to_do.set()

    @property
    def unsummed(self) -> int:
        """Bodies still without checksums."""
        return len(self._unsummed)

    async def _keep_on(self) -> None:
        while True:
            try:
                if self._unsummed:
                    await self._until_quiet(QUIET_SOON, fills=False)
                    entry = await self.entry(self._unsummed[0])
                    if entry is not None:
                        await self.compare(entry, self._quickly)
                    self._unsummed.popleft()
                elif self.rate and time.time() >= self._next_walk:
                    await self._until_quiet(QUIET_FOR)
                    await self._walk_on()
                else:
                    await self._until_something_is_to_do()
            except sqlite3.Error as error:
                self._trouble.disk_error("read", error)
                await asyncio.sleep(NOTE_EVERY)
            except Exception:  # this task has to live as long as the store
                logger.exception("cache_dir %s: a check has failed", self._bodies.files.root)
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
        """Wait for so many seconds without a request, and without a running fill unless ``fills``."""
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
        """Continue at once while it is quiet."""
        if self.activity() != self._before or self.is_filling():
            await self._until_quiet(QUIET_SOON, fills=False)

    async def _slowly(self, count: int) -> None:
        seconds = max(count, ENTRY_BYTES_MIN) / (self.rate or RATE)
        self._walked += seconds
        await asyncio.sleep(seconds)
        if self.activity() != self._before:
            await self._until_quiet(QUIET_FOR)

    async def _walk_on(self) -> None:
        """Check the next entries. They are read by id, without a place in the working set."""
        ids = await self._worker.run(self._index.rows.ids_after, self._position, 64)
        if not ids:
            rest = min(max(REST * self._walked, WALK_EVERY[0]), WALK_EVERY[1])
            self._position, self._walked, self._next_walk = 0, 0.0, time.time() + rest
            if rest > NOTE_EVERY:
                self._note()
            return
        for entry_id in ids:
            entry = await self.entry(entry_id)
            if entry is not None:
                await self.compare(entry, self._slowly)
                if entry.unwritten is not None:
                    await self._slowly(entry.length)
            else:
                await self._slowly(0)
            self._position = entry_id
            if self._unsummed or not self.rate:
                break
        if time.monotonic() - self._noted >= NOTE_EVERY:
            self._note()

    def _note(self) -> None:
        self._noted = time.monotonic()
        self._index.note(_NOTE, f"{self._position} {self._next_walk:.0f}")

    async def entry(self, entry_id: int) -> Entry | None:
        """An entry by its id. If its row makes no sense, it is removed."""
        index = self._index
        entry = index.find(entry_id)
        if entry is not None:
            return entry
        read = await self._worker.run(index.read_by_id, entry_id)
        if read is not None:
            await self._wait_until_loaded(read.key)
        entry = index.find(entry_id)
        if entry is not None:
            return entry
        if read is None:
            self._bodies.remove_row(entry_id)
            return None
        return read if index.hold(read) else None
