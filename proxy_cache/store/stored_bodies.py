"""The bodies of stored entries: opened and checked before they are served, deleted with their entry."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from functools import partial

from .checksums import CorruptBody, is_intact
from .columns import key_hash
from .entry import Entry
from .files import BodyFiles, OpenBody, TornFile
from .index import Dropped, Index
from .memory import LARGEST, SMALL, MemoryTier
from .recent_drops import UNREADABLE
from .segments import Segments
from .trouble import Trouble

logger = logging.getLogger(__name__)

NOT_WHAT_WAS_STORED = "the body is not what was stored"


class StoredBodies:
    """``on_corruption()`` is called for each body that is not what was stored."""

    def __init__(
        self,
        index: Index,
        files: BodyFiles,
        segments: Segments,
        memory: MemoryTier,
        trouble: Trouble,
        on_corruption: Callable[[], None],
    ) -> None:
        self.files = files
        self._index = index
        self._segments = segments
        self._memory = memory
        self._trouble = trouble
        self._on_corruption = on_corruption

    def open_now(self, entry: Entry) -> OpenBody | bytes | None:
        """The body, or its open file, if that is available without waiting."""
        if entry.memory is not None:
            return entry.memory
        if entry.unwritten is not None:
            if entry.length <= SMALL:
                self._memory.put(entry, entry.unwritten)
            return entry.unwritten
        if not entry.location:
            return self.files.open_cached(entry.id)
        if not entry.row:
            return None  # its blocks may be freed at any time
        try:
            body = self._segments.read_now(self.files, entry)
        except OSError as error:
            self.drop_unreadable(entry, error)
            return None
        if body is not None:
            self._memory.put(entry, body)
        return body

    async def open(self, entry: Entry) -> OpenBody | bytes | None:
        """A small body itself, the file of a longer one. ``None`` if it can't be read or isn't whole: then the entry is
        dropped."""
        found = self.open_now(entry)
        if found is not None or not entry.row:
            return found
        try:
            if not entry.location:
                is_checked = entry.sums and entry.spans is None and entry.length <= LARGEST
                return await self.open_file(entry, partial(self._open_intact, entry.sums) if is_checked else None)
            body = await self.read_segment(entry)
        except OSError as error:
            if entry.row:
                self.drop_unreadable(entry, error)
            return None
        if not entry.row:
            return None  # dropped in the meantime: its blocks may have been freed before they were read
        self._memory.put(entry, body)
        return body

    async def open_file(self, entry: Entry, how: Callable[[int, int], int] | None = None) -> OpenBody:
        """The file of a body, see :meth:`.files.BodyFiles.open`. If the entry is removed meanwhile the file is closed
        after this use: otherwise it would stay open, and keep its blocks, for ever."""
        file = await self.files.open(entry.id, entry.length, how)
        if entry not in self._index:
            self.files.forget([(entry.id, 0)])
        return file

    def _open_intact(self, sums: bytes, entry_id: int, length: int) -> int:
        """In the pool: open a body that is short enough to be checked whole before any of it is sent."""
        fd = self.files.open_checked(entry_id, length)
        try:
            if not is_intact(sums, os.pread(fd, length, 0)):
                raise CorruptBody(errno.EIO, NOT_WHAT_WAS_STORED)
        except BaseException:
            os.close(fd)
            raise
        return fd

    async def read_segment(self, entry: Entry) -> bytes:
        """A body from its segment. Raises ``OSError`` if it can't be read, is gone, or is not what was stored."""
        return await self._segments.read(self.files, entry)

    def bring_to_memory(self, entry: Entry, body: bytes) -> None:
        """Keep a whole body, just read from its file, in memory; or drop the entry if it is not what was stored."""
        if entry.sums and not is_intact(entry.sums, body):
            self.drop_unreadable(entry, CorruptBody(errno.EIO, NOT_WHAT_WAS_STORED))
        else:
            self._memory.put(entry, body)

    def touch(self, entry: Entry, now: float | None = None) -> None:
        """The entry was used, just now or at ``now`` (unix time)."""
        self._index.touch(entry, time.time() if now is None else now)
        if entry.memory is not None:
            self._memory.touch(entry)

    # -- dropping -----------------------------------------------------------------------------------------------

    def drop_unreadable(self, entry: Entry, error: OSError) -> None:
        """Remove an entry whose body can't be read, so that it is fetched again."""
        if isinstance(error, TornFile):
            logger.warning("dropping %s: %s", entry, error.strerror)
            self._trouble.count("read")
            if error.errno != errno.ENOENT:
                self._on_corruption()
            self.files.condemn(entry.id)
        else:
            self._trouble.read_failed(error)
        if entry.row:
            self._index.recent_drops.note((key_hash(entry.key),), UNREADABLE, time.time())
        self.remove(entry)

    def remove(self, entry: Entry) -> None:
        if self._index.remove(entry):
            self.delete([(entry.id, entry.location)])

    def remove_key(self, key: str) -> None:
        """Remove every variant of ``key``, loaded or not (invalidation, RFC 9111 §4.4)."""
        self.delete(self._index.remove_key(key))

    def remove_row(self, entry_id: int) -> None:
        """Remove an entry whose row makes no sense."""
        self.delete(self._index.remove_row(entry_id))

    def drop_row(self, entry_id: int) -> None:
        """Remove an entry whose row is not what was written, unless that has been done."""
        if dropped := self._index.remove_row(entry_id):
            self._on_corruption()
            self.delete(dropped)

    def delete(self, dropped: list[Dropped]) -> None:
        """Delete the files of entries that the index has dropped."""
        if files := self.files.forget(dropped):
            self.files.start(self.files.unlink, files)
