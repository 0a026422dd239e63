"""Long bodies go from an origin's connection to their file through a pipe, past our memory.

``splice(2)`` moves received pages from a socket to a pipe, and from there to a file: one copy instead of three. (A
megabyte that is received, sent and written takes 1.25 ms of CPU; spliced, and sent from the page cache, 0.7 ms. See
docs/performance.md.)
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from typing import Final

from .files import as_os_error, write_at

SPLICE_MIN: Final = 256 * 1024
"""Bytes of the shortest body that is spliced."""
PIPE_SIZE: Final = 1024 * 1024
"""Bytes that a pipe holds: the kernel's limit for unprivileged accounts (``fs.pipe-max-size``)."""
PIPE_SIZE_MIN: Final = 256 * 1024
"""Bytes of a useful pipe. Accounts with many pipes get smaller ones (``fs.pipe-user-pages-soft``)."""
KEPT_MAX: Final = 16
"""Idle pipes kept for the next bodies."""
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_SET_SIZE, _GET_SIZE = 1031, 1032  # F_SETPIPE_SZ and F_GETPIPE_SZ of linux/fcntl.h


class Pipe:
    """Two descriptors, neither of which blocks."""

    __slots__ = ("reader", "size", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.size = fcntl.fcntl(self.writer, _SET_SIZE, PIPE_SIZE)
        except OSError:
            self.size = fcntl.fcntl(self.writer, _GET_SIZE)

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes, which it must hold."""
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
    """The file, the bytes moved to it from the pipe, and the error that kept it from the others."""

    fd: int
    count: int
    error: OSError | None = None

    @property
    def unsupported(self) -> bool:
        """Whether the file system does not support it."""
        return self.error is not None and self.error.errno in _UNSUPPORTED


class Pipes:
    """The pipes of a store. Used on the loop, :meth:`splice` excepted."""

    def __init__(self) -> None:
        self.usable = hasattr(os, "splice")
        """Whether this system, and the file system of the files, support splicing."""
        self._free: list[Pipe] = []

    def acquire(self) -> Pipe | None:
        """An empty pipe; ``None`` if there is none."""
        if self._free:
            return self._free.pop()
        if not self.usable:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None  # no descriptors left
        if pipe.size < PIPE_SIZE_MIN:
            pipe.close()
            return None
        return pipe

    def release(self, pipe: Pipe) -> None:
        """Return an empty pipe."""
        if len(self._free) < KEPT_MAX:
            self._free.append(pipe)
        else:
            pipe.close()

    def splice(self, fd: int, chunks: list[bytes], pipe: Pipe, count: int, offset: int) -> Spliced:
        """Write ``chunks`` at ``offset``, and then ``count`` bytes from the pipe. Blocks.

        Raises ``OSError`` if the chunks could not be written.
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
