"""The answer of an origin, as fills read it: its head, and its body as it arrives."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..wire.responses import OriginError, ResponseHead

READ_AHEAD = 256 * 1024
"""Bytes of a body that are read ahead of the fill before the connection has to wait."""


class BodyConnection(Protocol):
    """What a response comes from."""

    def go_on(self) -> None: ...

    @property
    def spliceable(self) -> int:
        """Bytes to come that :meth:`splice` can move."""

    def splice(self, pipe: int, most: int, when_readable: Callable[[], None]) -> int | None:
        """Move what has come to a pipe: how much, ``None`` if nothing has, and ``when_readable`` is called when it
        does, 0 if it can't be moved. Raises :class:`OriginError` where the body broke off."""

    def abort(self) -> None: ...


class OriginResponse:
    """The head of an answer, and its body to read. :meth:`close` it when done."""

    __slots__ = (
        "_chunks", "_complete", "_connection", "_error", "_held", "_waiting", "content_length", "headers", "reason",
        "request_time", "response_time", "status",
    )  # fmt: skip

    def __init__(self, head: ResponseHead, length: int | None, connection: BodyConnection, asked: float) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers
        self.content_length = length
        self.response_time = time.time()
        # RFC 9111 §4.2.3 wants what is between them, which a clock that is set meanwhile must not change.
        self.request_time = self.response_time - (time.monotonic() - asked)
        self._connection: BodyConnection | None = connection
        """Until the last byte has come."""
        self._chunks: deque[bytes] = deque()
        self._held = 0
        """Bytes that wait to be read."""
        self._complete = False
        self._error: OriginError | None = None
        self._waiting: asyncio.Future[None] | None = None

    def read_now(self) -> bytes | None:
        """The next bytes; ``b""`` at the end, ``None`` if they have not come yet.

        Raises :class:`OriginError` where the body broke off.
        """
        if self._chunks:
            chunk = self._chunks.popleft()
            self._held -= len(chunk)
            if self._connection is not None and self._held <= READ_AHEAD:
                self._connection.go_on()
            return chunk
        if self._error is not None:
            raise self._error
        return b"" if self._complete else None

    async def read(self) -> bytes:
        """Like :meth:`read_now`, but waits."""
        while (chunk := self.read_now()) is None:
            if self._connection is not None:
                self._connection.go_on()
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return chunk

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come: :meth:`read_held` gives the body, unless some of it has been read."""
        return self._complete

    @property
    def spliceable(self) -> int:
        """Bytes of the body that :meth:`splice` can move to a pipe, after :meth:`read_held`; 0 if it can't."""
        return self._connection.spliceable if self._connection is not None else 0

    def read_held(self) -> bytes:
        """What has been read already, which comes before anything that is spliced."""
        held = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        return held

    async def splice(self, pipe: int, most: int) -> int:
        """Move the next bytes, ``most`` of them at the most, to a pipe; how many, 0 if they have to be read after all.

        Raises :class:`OriginError`.
        """
        while True:
            if self._error is not None:
                raise self._error
            assert self._connection is not None
            count = self._connection.splice(pipe, most, self._wake)
            if count is not None:
                return count
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def close(self) -> None:
        """End the connection, unless it has gone back to the pool with the last byte. Idempotent."""
        if self._connection is not None:
            self._connection.abort()

    # -- for the connection -------------------------------------------------------------------------------------

    def put(self, chunk: bytes) -> bool:
        """More of the body. Whether there may be still more."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._waiting is not None:
            self._wake()
        return self._held <= READ_AHEAD

    def end(self, error: OriginError | None = None) -> None:
        self._connection = None
        self._error = error
        self._complete = error is None
        if self._waiting is not None:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
