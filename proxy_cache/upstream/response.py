"""A response from an origin, or another source, as fills read it: its head, and its body while it arrives."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..semantics.peer_fields import FIELD
from ..wire.responses import OriginError, ResponseHead

READ_AHEAD = 256 * 1024
"""Bytes that are received ahead of the fill before reading pauses."""


class BodyConnection(Protocol):
    """The connection that a body comes from."""

    def go_on(self) -> None: ...

    @property
    def spliceable(self) -> int:
        """Bytes that :meth:`splice` can move."""

    def splice(self, pipe: int, limit: int, when_readable: Callable[[], None]) -> int | None:
        """See :meth:`.connection.OriginConnection.splice`."""

    @property
    def silent_for(self) -> float:
        """Seconds in which nothing has come, although it was waited for."""

    def abort(self) -> None: ...

    def give_up(self, error: OriginError) -> None: ...


class OriginResponse:
    """A head, and a body to read. :meth:`close` it when done."""

    __slots__ = (
        "_chunks", "_complete", "_connection", "_error", "_held", "_waiting", "content_length", "headers",
        "is_kept_until_its_end", "may_be_kept", "on_end", "peer", "reason", "request_time", "response_time", "source",
        "status",
    )  # fmt: skip

    def __init__(self, head: ResponseHead, length: int | None, connection: BodyConnection, asked: float) -> None:
        self.source = "origin"
        """Where it has come from: ``origin``, ``peer`` or ``shared``."""
        self.may_be_kept = True
        """Whether it may be stored, as far as its source matters."""
        self.is_kept_until_its_end = False
        """Whether its body is stored only as long as it is being received, so that another may take its place."""
        self.on_end: Callable[[OriginError | None], None] | None = None
        """Called at the end of the body, with an error if it breaks off, unless it is given up here."""
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers
        self.peer = head.hop.get(FIELD)
        """Cache-Peer: what a peer answers for."""
        self.content_length = length
        self.response_time = time.time()
        # RFC 9111 §4.2.3 uses their difference, which a wall clock that is set meanwhile must not change.
        self.request_time = self.response_time - (time.monotonic() - asked)
        self._connection: BodyConnection | None = connection
        """``None`` once the last byte has arrived."""
        self._chunks: deque[bytes] = deque()
        self._held = 0
        """Bytes in ``_chunks``."""
        self._complete = False
        self._error: OriginError | None = None
        self._waiting: asyncio.Future[None] | None = None

    def read_now(self) -> bytes | None:
        """The next bytes; ``b""`` at the end, ``None`` if they have not arrived yet.

        Raises :class:`OriginError` if the body broke off.
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
        """Whether all of the body has arrived. If none was read yet, :meth:`read_held` returns it."""
        return self._complete

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come, well or not."""
        return self._connection is None

    @property
    def silent_for(self) -> float:
        """Seconds in which nothing has come, although it was waited for."""
        return self._connection.silent_for if self._connection is not None else 0.0

    def give_up(self, why: str) -> None:
        """The rest of the body doesn't come."""
        if self._connection is not None:
            self._connection.give_up(OriginError("connection_read_timeout", why))

    @property
    def spliceable(self) -> int:
        """Bytes that :meth:`splice` can move to a pipe, after :meth:`read_held`; 0: none."""
        return self._connection.spliceable if self._connection is not None else 0

    async def arrival(self) -> None:
        """Wait for all of a body that fits into what is received ahead. Raises :class:`OriginError`."""
        while not self._complete:
            if self._error is not None:
                raise self._error
            if self._connection is not None:
                self._connection.go_on()
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def held(self) -> bytes:
        """All bytes that were received, which stay to be read."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def read_held(self) -> bytes:
        """All bytes that were received, which precede any spliced ones."""
        held = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        return held

    async def splice(self, pipe: int, limit: int) -> int:
        """Move the next bytes, at most ``limit``, to a pipe. Returns the count; 0 if splicing does not work here.

        Raises :class:`OriginError`.
        """
        while True:
            if self._error is not None:
                raise self._error
            assert self._connection is not None
            count = self._connection.splice(pipe, limit, self._wake)
            if count is not None:
                return count
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def close(self) -> None:
        """Close the connection, unless the body is complete: then it is in the pool again. Idempotent."""
        if self._connection is not None:
            self.on_end = None
            self._connection.abort()

    # -- for the connection -------------------------------------------------------------------------------------

    def put(self, chunk: bytes) -> bool:
        """Bytes of the body arrived. ``False``: pause reading."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._waiting is not None:
            self._wake()
        return self._held <= READ_AHEAD

    def end(self, error: OriginError | None = None) -> None:
        self._connection = None
        self._error = error
        self._complete = error is None
        if self.on_end is not None:
            self.on_end(error)
        if self._waiting is not None:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
