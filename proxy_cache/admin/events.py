"""``/api/v1/events``: the status as server-sent events, one a second for everybody who listens.

One task reads the status for all of them, and runs only while there are any. A listener that is slower than the events
misses some: none are kept for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from .endpoint import Endpoint
from .problems import Problem

LISTENERS_MAX: Final = 16
INTERVAL = 1.0
"""Seconds between two events."""
WRITE_TIMEOUT = 15.0
"""Seconds in which a listener has to make room for an event, after which its connection is cut."""
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # nginx before this port would collect the events
}


class Events:
    """``read()``: the status; ``failed(error)`` is told when it raises, which ends the streams."""

    def __init__(self, read: Callable[[], Awaitable[dict[str, Any]]], failed: Callable[[Exception], None]) -> None:
        self._read = read
        self._failed = failed
        self.listeners = 0
        self._event: bytes | None = None
        """The last one; ``None`` while nobody listens, and until there is a first."""
        self._changed = asyncio.Event()
        """Set, and replaced, when there is another one or there will be no more."""
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False

    def endpoint(self) -> Endpoint:
        return Endpoint(
            "GET", "/events", self.handle, "The status, as server-sent events.",
            f"An event `status` a second, with what `/status` has, for at most {LISTENERS_MAX} clients at a time.",
            answer={"type": "string"}, content_type="text/event-stream",
        )  # fmt: skip

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Send events until the client has gone or the port is closed. Raises :class:`Problem`."""
        if self._is_closed:
            raise Problem(503, "the proxy is stopping")
        if self.listeners >= LISTENERS_MAX:
            raise Problem(503, f"{LISTENERS_MAX} clients listen already", {"Retry-After": "5"})
        response = web.StreamResponse(headers=_HEADERS)
        self.listeners += 1
        try:
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._read_on())
                self._reader.add_done_callback(lambda _: self._wake())
            reader = self._reader
            await response.prepare(request)
            await self._send(response, request, reader)
        except OSError:
            pass  # it has gone
        finally:
            self.listeners -= 1
            if not self.listeners and self._reader is not None:
                self._reader.cancel()
                self._reader = self._event = None
        return response

    async def _send(self, response: web.StreamResponse, request: web.Request, reader: asyncio.Task[None]) -> None:
        sent = None
        while not (self._is_closed or reader.done()):
            changed = self._changed
            if self._event is sent:
                await changed.wait()
                continue
            sent = self._event
            assert sent is not None
            try:
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await response.write(sent)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()  # else its end would wait for what can't be written
                return

    async def _read_on(self) -> None:
        try:
            while True:
                status = await self._read()
                # As JSON it has no line breaks: each would begin another field (HTML §9.2.6).
                self._event = f"event: status\ndata: {json.dumps(status)}\n\n".encode()
                self._wake()
                await asyncio.sleep(INTERVAL)
        except Exception as error:
            self._failed(error)  # and the streams end: clients try again in a few seconds

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """End all streams, and take no more listeners."""
        self._is_closed = True
        self._wake()
