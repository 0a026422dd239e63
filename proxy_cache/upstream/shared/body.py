"""A body on its way from the shared store to a fill.

Each block is compared with its checksum before a byte of it goes on: neither a client nor the local store ever has a
byte that isn't what was written. A block that is not breaks the body off behind the last good one, and so does a store
that falls silent. The fill then asks the origin for the rest, as of any body that breaks off, if a strong validator
says that it is the same (RFC 9110 §13.1.5); else its clients' responses break off, too.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from ...semantics.spans import Span
from ...wire.responses import OriginError
from ..response import OriginResponse
from .bucket import StoreFails
from .layout import StoredHead

SILENCE: Final = 5.0
"""Seconds that the store may send nothing in the middle of a body."""
SHORT: Final = 512 * 1024
"""Bytes that are hashed at once on the loop, in a third of a millisecond; a longer block is hashed in a thread."""


class WrongBlock(Exception):
    """A block is not what was written, or the object is too short."""


class Blocks:
    """The verified bytes of ``span``, from chunks that begin with the block in which it begins."""

    def __init__(self, head: StoredHead, span: Span, held: bytes, chunks: AsyncIterator[bytes] | None) -> None:
        """``held``: bytes that are here already, in front of ``chunks``."""
        self._head = head
        self._span = span
        self._number = span.start // head.block
        self._held = bytearray(held)
        self._chunks = chunks

    @property
    def is_here(self) -> bool:
        """Whether nothing has to be waited for."""
        return self._start >= self._span.stop or (
            len(self._held) >= self._last - self._start and self._head.block <= SHORT
        )

    @property
    def _start(self) -> int:
        return self._number * self._head.block

    @property
    def _last(self) -> int:
        """The end of the last block that is needed."""
        head = self._head
        return min(head.length, -(-self._span.stop // head.block) * head.block)

    async def next(self) -> bytes:
        """The next bytes, ``b""`` at the end. Raises :class:`WrongBlock`, :class:`StoreFails`."""
        head, start = self._head, self._start
        if start >= self._span.stop:
            return b""
        size = min(head.block, head.length - start)
        while len(self._held) < size:
            chunk = await self._receive()
            if not chunk:
                raise WrongBlock(f"it ends {size - len(self._held)} bytes early")
            self._held += chunk
        block = bytes(memoryview(self._held)[:size])
        del self._held[:size]
        digest = _digest(block) if size <= SHORT else await asyncio.to_thread(_digest, block)
        if digest != head.sum_of(self._number):
            raise WrongBlock(f"block {self._number} is not what was written")
        self._number += 1
        return block[max(0, self._span.start - start) : self._span.stop - start]

    async def _receive(self) -> bytes:
        if self._chunks is None:
            return b""
        try:
            async with asyncio.timeout(SILENCE):
                return await anext(self._chunks, b"")
        except TimeoutError as error:
            raise StoreFails(f"nothing has come for {SILENCE:g} s") from error


def _digest(block: bytes) -> bytes:
    return hashlib.sha256(block).digest()


class BodyFeed:
    """Feeds an :class:`~..response.OriginResponse` from :class:`Blocks`, at the pace at which it is read."""

    spliceable = 0

    def __init__(self, blocks: Blocks, on_end: Callable[[BodyFeed, Exception | None], None]) -> None:
        """``on_end(self, error)`` is called once, at the end, or when whoever reads has left."""
        self.count = 0
        """Bytes so far."""
        self._blocks = blocks
        self._on_end: Callable[[BodyFeed, Exception | None], None] | None = on_end
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, response: OriginResponse) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(response))

    async def _run(self, response: OriginResponse) -> None:
        failure: Exception | None = None
        try:
            while data := await self._blocks.next():
                self.count += len(data)
                self._wanted.clear()
                if not response.put(data):
                    await self._wanted.wait()
        except (WrongBlock, StoreFails) as error:
            failure = error
        except Exception as error:
            failure = StoreFails(type(error).__name__)
        self._ended(failure)
        response.end(OriginError("connection_terminated", f"shared store: {failure}") if failure else None)

    def _ended(self, failure: Exception | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, failure)

    # -- as a connection ------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        self._wanted.set()

    def splice(self, pipe: int, limit: int, when_readable: Callable[[], None]) -> int | None:
        return 0

    silent_for = 0.0
    """It has a limit of its own, see :data:`SILENCE`."""

    def give_up(self, error: OriginError) -> None:
        self.abort()

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._ended(None)
