"""Pipes: the way of long bodies from an origin's connection to their file, past our memory.

``splice(2)`` moves what a socket has received to a pipe, page by page, and from there to a file: one copy in place of
three. (A megabyte, received, sent on and written: 1.25 ms of the processor; spliced, and sent from the page cache:
0.7 ms. Measured; see docs/performance.md.)
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from typing import Final

from .files import as_os_error, write_at

SPLICE_MIN: Final = 256 * 1024
"""Bytes of a body that are worth a pipe."""
PIPE_SIZE: Final = 1024 * 1024
"""Bytes that a pipe is made to hold; what the kernel lets everybody have (``fs.pipe-max-size``)."""
LEAST: Final = 256 * 1024
"""Bytes of a pipe that is worth having. An account that has many gets smaller ones (``fs.pipe-user-pages-soft``)."""
KEPT: Final = 16
"""Pipes kept for the next body."""
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_SET_SIZE, _GET_SIZE = 1031, 1032  # F_SETPIPE_SZ and F_GETPIPE_SZ of linux/fcntl.h


class Pipe:
    """What is put in by :attr:`writer` comes out by :attr:`reader`. Neither of them blocks."""

    __slots__ = ("reader", "size", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.size = fcntl.fcntl(self.writer, _SET_SIZE, PIPE_SIZE)
        except OSError:
            self.size = fcntl.fcntl(self.writer, _GET_SIZE)

    def read(self, count: int) -> bytes:
        """``count`` bytes of what it holds."""
        chunks = []
        while count:
            chunk = os.read(self.reader, count)
            count -= len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@dataclass(slots=True)
class Spliced:
    """What came of it: the file, bytes that went there from the pipe, and what was in the way of the others."""

    fd: int
    count: int
    error: OSError | None = None

    @property
    def unsupported(self) -> bool:
        """Whether the file system just does not know how."""
        return self.error is not None and self.error.errno in _UNSUPPORTED


class Pipes:
    """The pipes of a store. They are taken and given back on the loop."""

    def __init__(self) -> None:
        self.usable = hasattr(os, "splice")
        """Whether this system, and the one that the files are on, know how."""
        self._free: list[Pipe] = []

    def acquire(self) -> Pipe | None:
        """An empty pipe, if there is one to be had."""
        if self._free:
            return self._free.pop()
        if not self.usable:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None  # no descriptors left
        if pipe.size < LEAST:
            pipe.close()
            return None
        return pipe

    def release(self, pipe: Pipe) -> None:
        """It is empty again."""
        if len(self._free) < KEPT:
            self._free.append(pipe)
        else:
            pipe.close()

    def splice(self, fd: int, chunks: list[bytes], pipe: Pipe, count: int, offset: int) -> Spliced:
        """Write ``chunks`` at ``offset``, and after them ``count`` bytes of what the pipe holds. Blocks.

        Raises ``OSError`` for the chunks.
        """
        write_at(fd, chunks, offset)
        offset += sum(map(len, chunks))
        done = 0
        try:
            while done < count:
                done += os.splice(pipe.reader, fd, count - done, offset_dst=offset + done)
        except Exception as error:
            spliced = Spliced(fd, done, as_os_error(error))
            self.usable = self.usable and not spliced.unsupported
            return spliced
        return Spliced(fd, done)

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
