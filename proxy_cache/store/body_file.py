"""The file of a body that is being received.

It is made with the first bytes, under ``tmp/``. A spliced body is written in its final place from the start, and a
range of an entry with gaps goes to the entry's own file.
"""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial

from .checksums import RunningSums
from .entry import Entry
from .files import OpenBody, TornFile
from .index import Index
from .pipes import Pipe, Pipes, Spliced
from .stored_bodies import StoredBodies


class BodyFile:
    """``partial_entry``: the stored response with gaps that a range belongs to. Cancelling a caller never closes a file
    under a thread that still uses it, and leaves nothing behind."""

    __slots__ = ("_bodies", "_files", "_index", "_pipes", "entry_id", "in_place", "open_body", "partial_entry", "sums",
                 "was_spliced")  # fmt: skip

    def __init__(
        self, bodies: StoredBodies, index: Index, pipes: Pipes, entry_id: int, partial_entry: Entry | None
    ) -> None:
        self.entry_id = entry_id
        self.partial_entry = partial_entry
        self.open_body: OpenBody | None = None
        """Open, once there is a file."""
        self.in_place = False
        """Whether it was made where it will stay."""
        self.sums = RunningSums()
        """Checksums of all bytes written here, spliced ones excepted."""
        self.was_spliced = False
        self._bodies = bodies
        self._files = bodies.files
        self._index = index
        self._pipes = pipes

    # -- writing ------------------------------------------------------------------------------------------------

    async def write(self, chunks: list[bytes], offset: int) -> None:
        """Write ``chunks`` at ``offset``. Raises ``OSError``."""
        if self.open_body is None:
            making = asyncio.get_running_loop().create_task(self._make())
            self.open_body = await self._files.undone_if_cancelled(making, self._files.release)
        await self._files.run_on(self.open_body, self.sums.write, self.open_body.fd, chunks, offset)

    async def _make(self) -> OpenBody:
        files, entry = self._files, self.partial_entry
        if entry is None:
            return OpenBody(self.entry_id, await files.run_open(files.create, self.entry_id))
        if entry in self._index:
            # A missing file must not be made anew: its holes would be read as bytes.
            how = None if entry.spans is None or entry.spans else files.create_sparse
            file = await self._bodies.open_file(entry, how)
            if entry in self._index:
                return file
            # The entry was removed while its file was opened, which may have made the file anew.
            files.release(file)
            files.start(files.unlink, [entry.id])
        raise TornFile(errno.ENOENT, "the entry is gone")

    def splice(self, chunks: list[bytes], offset: int, pipe: Pipe, count: int) -> asyncio.Future[Spliced]:
        """Write ``chunks`` at ``offset``, and then ``count`` bytes from a pipe."""
        self.was_spliced = True
        fd = None if self.open_body is None else self.open_body.fd
        spliced = self._files.splicer.run(self._splice, fd, chunks, offset, pipe, count)
        self._files.keep(spliced)
        return spliced

    def _splice(self, fd: int | None, chunks: list[bytes], offset: int, pipe: Pipe, count: int) -> Spliced:
        if fd is not None:
            return self._pipes.splice(fd, chunks, pipe, count, offset)
        fd = self._files.create_in_place(self.entry_id)
        try:
            return self._pipes.splice(fd, chunks, pipe, count, offset)
        except BaseException:
            os.close(fd)
            self._files.unlink([self.entry_id])
            raise

    def spliced(self, result: Spliced) -> None:
        """The file that :meth:`splice` wrote to is this body's."""
        if self.open_body is None:
            self.open_body, self.in_place = OpenBody(self.entry_id, result.fd), True

    # -- the end ------------------------------------------------------------------------------------------------

    async def finish(self, chunks: list[bytes], offset: int, length: int, total: int | None) -> None:
        """Write the last ``chunks``, and move the file to its final place. ``total``: see
        :meth:`.files.BodyFiles.commit`. Raises ``OSError``."""
        file = self.open_body
        fd = None if file is None else file.fd
        work = asyncio.get_running_loop().run_in_executor(
            self._files.pool, self._write_last, fd, chunks, offset, length, total
        )
        if file is not None:
            file.users += 1
            work.add_done_callback(lambda _: self._files.release(file))
        fd = await self._files.undone_if_cancelled(work, partial(self._delete, made=file is None))
        if self.open_body is None:
            self.open_body = OpenBody(self.entry_id, fd)

    def _write_last(self, fd: int | None, chunks: list[bytes], offset: int, length: int, total: int | None) -> int:
        opened = self._files.create(self.entry_id) if fd is None else fd
        try:
            self.sums.write(opened, chunks, offset)
            self._files.commit(self.entry_id, opened, length, total, in_place=self.in_place)
        except BaseException:
            if fd is None:
                os.close(opened)
            raise
        return opened

    def _delete(self, fd: int, *, made: bool) -> None:
        """Delete the finished file of a cancelled caller. ``made``: the thread has opened it."""
        if made:
            os.close(fd)
        self._files.start(self._files.unlink, [self.entry_id])

    def discard(self) -> None:
        """Delete the file of a body that is not stored. Its readers keep their open descriptor."""
        if self.partial_entry is not None:
            return  # the file is the entry's
        if self.in_place:
            self._files.start(self._files.unlink, [self.entry_id])
        else:
            self._files.start(self._files.discard, self.entry_id)

    def release(self) -> None:
        """Nobody reads or writes this body any more."""
        if self.open_body is not None:
            self._files.release(self.open_body)
            self.open_body = None
