"""Which side it was that ended a stream early: in a flow's error mitmproxy has nothing but words for it."""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.proxy.layers.http import _events as http_events

from ..metadata import CUT, REFUSED


class BadBody(http_events.RequestProtocolError):
    """A request's body that can't be read, of which its client has been told. ``answer``: as in ``REFUSED``."""

    answer: tuple[int, int, str, str]


class ToldApart(HttpStream):
    """A stream that takes note of it."""

    def handle_protocol_error(
        self, event: http_events.RequestProtocolError | http_events.ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        self._take_note(event)
        return super().handle_protocol_error(event)

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        self.client_broke_off()
        return super().check_killed(emit_error_hook)

    def client_broke_off(self) -> bool:
        """Whether it did so while a hook, or a connection, is waited for; takes note of it. What a client does
        meanwhile waits in this queue, and may never become an event."""
        breaks = [event for event in self._paused_event_queue if isinstance(event, http_events.RequestProtocolError)]
        for event in breaks:
            self._take_note(event)
        return bool(breaks)

    def _take_note(self, event: http_events.RequestProtocolError | http_events.ResponseProtocolError) -> None:
        flow: http.HTTPFlow | None = getattr(self, "flow", None)  # there is none before a request's head
        if flow is None or REFUSED in flow.metadata:
            return
        if isinstance(event, BadBody):
            flow.metadata[REFUSED] = list(event.answer)
        else:
            self._cut_by("client" if isinstance(event, http_events.RequestProtocolError) else "origin")

    def _cut_by(self, side: str) -> None:
        self.flow.metadata.setdefault(CUT, side)
