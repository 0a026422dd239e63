"""A client's lane while there are traces: the hits that are sampled have one."""

from __future__ import annotations

import time
from typing import Any

from ..observe.traces import RequestTracer
from ..semantics.keys import Target
from ..wire.requests import Request
from .lane_host import ClientLane


class TracedLane(ClientLane):
    """Where there are no traces, lanes are :class:`~.lane_host.ClientLane` s, and nothing asks for them."""

    def __init__(self, tracer: RequestTracer, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._tracer = tracer
        self._sampling = tracer.sampling
        if self._app.heads.has_request_ids:
            object.__setattr__(self, "lane_hit", self._traced_hit_with_id)  # see ClientLane

    def lane_hit(self, request: Request, target: Target, status: int, size: int, started: float) -> None:
        # Just what ClientLane does (tests/unit/test_traces.py compares them): to call it costs more than what follows.
        app = self._app
        seconds = time.monotonic() - started
        app.metrics.hit(size, seconds)
        if app.accounts.is_logged:
            app.access_log.hit(target.shown, status, size, seconds, request.user or self.client)
        left = (sampling := self._sampling).left - 1
        if left and request.fields.is_untraced:
            sampling.left = left
        else:
            self._trace_hit(request, target, status, size, started)

    def _traced_hit_with_id(self, request: Request, target: Target, status: int, size: int, started: float) -> None:
        self._hit_with_id(request, target, status, size, started)
        self._trace_hit(request, target, status, size, started)

    def _trace_hit(self, request: Request, target: Target, status: int, size: int, started: float) -> None:
        try:
            headers = request.fields.headers
            request.fields.is_untraced = "traceparent" not in headers
            version, from_peer = "1.1" if request.http11 else "1.0", request.peer is not None
            trace = self._tracer.begin(headers, version=version, started=started, from_peer=from_peer)
            if trace is not None:
                trace.ended("GET", target.shown, status, size, "hit", request.user or self.client)
        except Exception as error:  # the hit has been sent
            self.failed(error)
