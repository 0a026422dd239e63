"""A check of all that is stored, on demand, with a report.

Every body on the disk, as far as it is there, every copy of one in memory and every row of the index is compared with
its checksum. What differs is dropped and counted, as everywhere. Unlike the walk (:mod:`.verify`) this goes at full
speed, in short slices: while there are requests, it rests after each one for as long as that took.

What is stored while the check runs is not looked at.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from ..semantics.redaction import redacted
from .checksums import CorruptBody, is_intact
from .entry import Entry
from .index import Index
from .stored_bodies import StoredBodies
from .verify import Verdict, Verifier

ROWS: Final = 64
"""Rows that are read at once."""
SLICE: Final = 0.01
"""Seconds of work after which requests have their turn."""
TELL_EVERY: Final = 1.0
"""Seconds between reports, at the most: whoever has asked may have left."""
LONG: Final = 4 << 20
"""Bytes of a body whose check takes long enough to be told of in between."""


@dataclass(frozen=True, slots=True)
class Report:
    """How far a check has come. ``size``: bytes that were compared; ``unsummed``: bodies that had no checksum for some
    of their bytes, and have one now."""

    total: int
    checked: int = 0
    size: int = 0
    corrupt: int = 0
    unsummed: int = 0
    found: str = ""
    """The URL, redacted, of what has just turned out to be corrupt; of a row whose URL can't be relied on its
    number."""
    is_last: bool = False


class FullCheck:
    """Checks an open store. One check at a time: see :attr:`is_running`."""

    def __init__(self, index: Index, bodies: StoredBodies, verifier: Verifier) -> None:
        self.is_running = False
        self._index = index
        self._bodies = bodies
        self._verifier = verifier
        self._report = Report(0)
        self._slice_began = 0.0
        self._activity: object = None

    async def run(self) -> AsyncGenerator[Report, None]:
        """Check all that is stored now, oldest first. A report at once, then about once a second, for each corrupt
        entry, and at the end. Closing the generator ends the check. Raises ``sqlite3.Error``, for an index that can't
        be read."""
        assert not self.is_running
        self.is_running = True
        try:
            self._report, self._activity = Report(len(self._index)), self._verifier.activity()
            self._slice_began = told = time.monotonic()
            yield self._report
            position, end = 0, self._index.ids_given
            await self._index.synced(durable=False)
            while ids := [one for one in await self._next_ids(position) if one < end]:
                bad_rows = await self._verifier.run(self._index.rows.corrupt, ids)
                for entry_id in ids:
                    async with aclosing(self._check(entry_id, is_bad=entry_id in bad_rows)) as checking:
                        async for found in checking:
                            if found or time.monotonic() - told >= TELL_EVERY:
                                told = time.monotonic()
                                yield replace(self._report, found=found)
                    await self._rest()
                position = ids[-1]
            yield replace(self._report, is_last=True)
        finally:
            self.is_running = False

    async def _next_ids(self, position: int) -> list[int]:
        return await self._verifier.run(self._index.rows.ids_after, position, ROWS)

    async def _check(self, entry_id: int, *, is_bad: bool) -> AsyncGenerator[str, None]:
        """One entry. Yields what was found, and an empty text now and then. ``is_bad``: its row is."""
        entry = await self._verifier.entry(entry_id)  # drops a row that is bad, if it has to be read
        if entry is None:
            if is_bad:
                self._bodies.drop_row(entry_id)
                yield self._checked(f"index row {entry_id}")
            return  # else it was removed meanwhile
        if is_bad:
            self._drop(entry, "its row in the index is not what was written")
            yield self._checked(redacted(entry.key))
            return
        if entry.memory is not None and entry.sums and not is_intact(entry.sums, entry.memory):
            self._drop(entry, "the body in memory is not what was stored")
            yield self._checked(redacted(entry.key))
            return
        comparing = self._verifier.compare(entry, self._compared)
        if entry.present >= LONG:
            task = asyncio.ensure_future(comparing)
            try:
                while not task.done():
                    await asyncio.wait((task,), timeout=TELL_EVERY)
                    yield ""
                verdict = task.result()
            finally:
                task.cancel()
        else:
            verdict = await comparing
        if verdict is not Verdict.GONE:
            yield self._checked(redacted(entry.key) if verdict is Verdict.CORRUPT else "", verdict is Verdict.UNKNOWN)

    def _drop(self, entry: Entry, why: str) -> None:
        self._bodies.drop_unreadable(entry, CorruptBody(errno.EIO, why))

    def _checked(self, found: str, is_unsummed: bool = False) -> str:
        report = self._report
        self._report = replace(
            report, checked=report.checked + 1, corrupt=report.corrupt + bool(found),
            unsummed=report.unsummed + is_unsummed,
        )  # fmt: skip
        return found

    async def _compared(self, count: int) -> None:
        """So many bytes of a body were."""
        self._report = replace(self._report, size=self._report.size + count)
        await self._rest()

    async def _rest(self) -> None:
        """Let others have their turn, after each slice of work."""
        worked = time.monotonic() - self._slice_began
        if worked < SLICE:
            return
        before, self._activity = self._activity, self._verifier.activity()
        is_busy = self._activity != before or self._verifier.is_filling()
        await asyncio.sleep(worked if is_busy else 0)
        self._slice_began = time.monotonic()
