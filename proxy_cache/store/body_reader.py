"""One client's way through a body that may still be growing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias

from .files import READ_SIZE, BodyFiles, OpenBody
from .tail import Tail
from .trouble import Trouble


class BodyError(Exception):
    """The body ended early: its reader has only a part of it."""


class BodyLost(BodyError):
    """Bytes that had arrived can't be read any more. The origin is not at fault, and may be asked for them again."""


class Rest(Protocol):
    """The continuation of a body whose own bytes can't be read (see ``caching/ranges/gap_reader.py``)."""

    def read_now(self) -> bytes | None: ...

    async def read(self) -> bytes: ...

    def seek(self, start: int, stop: int) -> None: ...

    def close(self) -> None: ...


Elsewhere: TypeAlias = Callable[[int, int, int], Rest | None]
"""Called with start, stop and the body's length: another source of these bytes, ``None`` if there is none."""


class ReadableBody(Protocol):
    """A body as its readers see it (see :class:`.body.Body`)."""

    files: BodyFiles
    trouble: Trouble
    tail: Tail
    length: int
    total: int | None
    complete: bool
    error: Exception | None

    def file_with(self, offset: int) -> tuple[OpenBody, int] | None: ...

    def next_change(self) -> asyncio.Future[None]: ...

    def reader_advanced(self) -> None: ...

    def remove_reader(self, reader: Reader) -> None: ...


class Reader:
    """Reads from memory or from the file, and waits for bytes that haven't arrived."""

    __slots__ = ("_body", "_is_closed", "_rest", "_wait", "elsewhere", "offset", "stop")

    def __init__(self, body: ReadableBody, start: int, stop: int | None) -> None:
        self._body = body
        self.offset = start
        self.stop = stop
        self._wait: asyncio.Future[None] | None = None
        self._is_closed = False
        self.elsewhere: Elsewhere | None = None
        """Where to continue if the file can't be read, or the body was not kept from the offset on."""
        self._rest: Rest | None = None

    def seek(self, start: int, stop: int | None) -> None:
        """Go on with other bytes. Bytes that were not kept are available elsewhere, if at all."""
        self.offset, self.stop = start, stop
        if self._rest is not None and stop is not None:
            self._rest.seek(start, stop)

    def read_now(self) -> bytes | None:
        """The next bytes if they are available without waiting, ``b""`` at the end, ``None`` otherwise.

        Raises the body's error if it broke off, after everything before that has been read.
        """
        body = self._body
        if self._is_closed:
            raise BodyError("the reader was closed")
        if self._rest is not None:
            return self._rest.read_now()
        if self.offset == self.stop or (body.complete and self.offset == body.length):
            return b""
        if body.complete and self.offset > body.length:
            raise BodyError("this body ends before")  # nothing will ever arrive
        if self.offset >= body.length:
            if body.error is not None:
                raise BodyError(str(body.error)) from body.error
            return None
        if self.offset >= body.tail.start:
            stop = body.length if self.stop is None else self.stop
            return self._advance(body.tail.read(self.offset, stop, READ_SIZE))
        found = body.file_with(self.offset)
        if found is None:
            self._lost("the beginning of this body was not kept")
            return None
        file, end = found
        try:
            data = body.files.read_now(file.fd, self._count(end), self.offset)
        except OSError as error:
            self._lost(error)
            return None
        if data == b"":
            self._lost("the body file ended early")
            return None
        return data if data is None else self._advance(data)

    def _lost(self, why: OSError | str) -> None:
        """Continue elsewhere. Raises :class:`BodyLost` if that is impossible."""
        body = self._body
        if isinstance(why, OSError):
            body.trouble.read_failed(why)
        stop = body.total if self.stop is None else self.stop
        if self.elsewhere is None or stop is None or body.total is None:
            raise BodyLost(str(why))
        self._rest = self.elsewhere(self.offset, stop, body.total)
        if self._rest is None:
            raise BodyLost(str(why))
        self._body.remove_reader(self)

    def read_into(self, buffer: memoryview) -> int | None:
        """Copy the next bytes to ``buffer`` as far as the page cache has them. Returns the count, or ``None``. The
        offset moves with :meth:`skip`."""
        found = self._in_file(len(buffer))
        try:
            return self._body.files.read_into(found[0], buffer[: found[2]], found[1]) if found else None
        except OSError:
            return None  # read_now meets the same error, and handles it

    def in_file(self, limit: int) -> tuple[int, int, int] | None:
        """Descriptor, offset and count of the next bytes, if they can be sent straight from the page cache. The offset
        moves with :meth:`skip`."""
        found = self._in_file(limit)
        try:
            return found if found and self._body.files.is_warm(*found) else None
        except OSError:
            return None

    def _in_file(self, limit: int) -> tuple[int, int, int] | None:
        body = self._body
        if self._is_closed or self._rest is not None or self.offset >= body.tail.start:
            return None
        found = body.file_with(self.offset)
        if found is None:
            return None
        count = self._count(found[1], limit)
        return (found[0].fd, self.offset, count) if count > 0 else None

    def skip(self, count: int) -> None:
        self.offset += count
        self._body.reader_advanced()

    @property
    def is_ahead(self) -> bool:
        """Whether all bytes so far have been read, and more are expected."""
        body = self._body
        return (
            not self._is_closed
            and self._rest is None
            and self.offset >= body.length
            and not body.complete
            and body.error is None
        )

    async def arrival(self) -> None:
        """Wait for more bytes, or for the end."""
        self._wait = self._body.next_change()
        await self._wait

    async def read(self) -> bytes:
        """The next bytes, at most ``READ_SIZE`` of them; ``b""`` at the end."""
        body = self._body
        while True:
            data = self.read_now()
            if data is not None:
                return data
            if self._rest is not None:
                return await self._rest.read()
            if self.offset >= body.length:
                await self.arrival()
                continue
            found = body.file_with(self.offset)
            assert found is not None
            try:
                data = await body.files.read(found[0], self._count(found[1]), self.offset)
            except OSError as error:
                self._lost(error)
                continue
            if self._is_closed:
                raise BodyError("the reader was closed")
            if data:
                return self._advance(data)
            self._lost("the body file ended early")

    def close(self) -> None:
        """The client has everything, or has left. A read under way raises :class:`BodyError`. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.elsewhere = None
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)
        if self._rest is not None:
            self._rest.close()
            self._rest = None
        self._body.remove_reader(self)

    def _count(self, end: int, limit: int = READ_SIZE) -> int:
        """How many bytes to read of a file that has the body up to ``end``."""
        return min(limit, end - self.offset, (self.stop if self.stop is not None else end) - self.offset)

    def _advance(self, data: bytes) -> bytes:
        self.offset += len(data)
        self._body.reader_advanced()
        return data
