"""The sent part of a request, as long as it may have to be sent again (see :mod:`.repeat`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mitmproxy.proxy.layers.http._events import HttpEvent, RequestData, RequestEndOfMessage, ResponseProtocolError

MAX_REPEATED: Final = 64 * 1024
"""Bytes of a body that are kept until the response comes."""


class ConnectionExpired(ResponseProtocolError):
    """The connection had been used before, and ended or broke before anything of the response had come. ``sent``: what
    followed the request's head; ``None`` if it isn't there any more."""

    sent: list[HttpEvent] | None = None


@dataclass
class SentRequest:
    """The sent part of a request over a connection that had been used before."""

    rest: list[HttpEvent] | None = None
    """After the head; ``None`` if it can't be sent again."""
    size: int = 0

    def begin(self, *, reused: bool) -> None:
        self.rest, self.size = [] if reused else None, 0

    def add(self, event: HttpEvent) -> None:
        if self.rest is None or not isinstance(event, (RequestData, RequestEndOfMessage)):
            return
        self.rest.append(event)
        if isinstance(event, RequestData):
            self.size += len(event.data)
            if self.size > MAX_REPEATED:
                self.rest = None

    def forget(self) -> None:
        """The response has started."""
        self.rest = None
