"""Which side it was that ended a stream early: in a flow's error mitmproxy has nothing but words for it."""

from __future__ import annotations

from typing import Final

from mitmproxy import http
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.proxy.layers.http import _events as http_events

CUT: Final = "proxy_cache_cut"
"""In a flow's metadata: ``client`` or ``origin``, whichever broke off first."""


class ToldApart(HttpStream):
    """A stream that takes note of it."""

    def handle_protocol_error(
        self, event: http_events.RequestProtocolError | http_events.ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        self._cut_by("client" if isinstance(event, http_events.RequestProtocolError) else "origin")
        return super().handle_protocol_error(event)

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        # What a client does while a hook runs waits in this queue, and never becomes an event.
        if any(isinstance(event, http_events.RequestProtocolError) for event in self._paused_event_queue):
            self._cut_by("client")
        return super().check_killed(emit_error_hook)

    def _cut_by(self, side: str) -> None:
        flow: http.HTTPFlow | None = getattr(self, "flow", None)  # there is none before a request's head
        if flow is not None:
            flow.metadata.setdefault(CUT, side)
