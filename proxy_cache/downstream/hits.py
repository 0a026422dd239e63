"""Hits of lanes, accounted for many at a time.

To count, log and trace each hit for itself would cost a fifth of it. So a lane only notes that there was one. What has
been noted is accounted for soon after, and before anything that could show that it was late: another line of the log,
an answer with the metrics, a change of the log's options.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from ..caching.tracing import RequestTrace
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..wire.requests import Request

Hit: TypeAlias = tuple[Target, int, int, float, float, str, str, Request]
"""Target, status, bytes of body, when its request was there and when it was sent (by the monotonic clock), client, the
request's id, and the request."""
LATEST: Final = 0.05
"""Seconds until a hit is accounted for, at the most. (The log gathers lines, too: they may be twice as late.)"""
MOST: Final = 256
"""Hits that are at once: more would delay requests."""


class HitNotes:
    """Hits that are not accounted for yet. ``account`` gets them in their order; ``failed`` is told of its errors."""

    def __init__(self, account: Callable[[list[Hit]], None], failed: Callable[[Exception], None]) -> None:
        self.hits: list[Hit] = []
        """Lanes append to this, call :meth:`begin` before the first one, and :meth:`flush` when there are
        :data:`MOST`."""
        self._account = account
        self._failed = failed
        self._is_due = False

    def begin(self) -> None:
        """The first one is noted."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(LATEST, self._flush_now)

    def _flush_now(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Account for all of them. Never raises."""
        if not self.hits:
            return
        hits = self.hits.copy()
        self.hits.clear()  # lanes hold the list
        try:
            self._account(hits)
        except Exception as error:
            self._failed(error)


class Countdown(Protocol):
    left: int
    """Requests without a trace of their callers' until one begins a trace, that one included."""


class HitTracer(Protocol):
    """Traces requests."""

    @property
    def sampling(self) -> Countdown: ...

    def begin(
        self, headers: Headers, *, method: str = "GET", version: str = "1.1", started: float | None = None,
        from_peer: bool = False,
    ) -> RequestTrace | None:  # fmt: skip
        """The trace of a request with these header fields, if it is sampled. ``version``: of HTTP; ``started``: by the
        monotonic clock (now)."""


def trace_hits(tracer: HitTracer, hits: list[Hit], failed: Callable[[Exception], None]) -> dict[int, tuple[str, str]]:
    """Trace those that are sampled; one that is not costs a countdown. Returns the ids of trace and span by the places
    of hits. ``failed`` is told of errors, each of which costs one trace."""
    traced = {}
    sampling = tracer.sampling
    left = sampling.left
    for place, (target, status, size, started, ended, client, _, request) in enumerate(hits):
        fields = request.fields
        if left > 1 and fields.is_untraced:
            left -= 1
            continue
        sampling.left = left
        fields.is_untraced = "traceparent" not in fields.headers
        version, from_peer = "1.1" if request.http11 else "1.0", request.peer is not None
        try:
            trace = tracer.begin(fields.headers, version=version, started=started, from_peer=from_peer)
            if trace is not None:
                trace.ended("GET", target.shown, status, size, "hit", client, at=ended)
                traced[place] = trace.ids
        except Exception as error:
            failed(error)
        left = sampling.left
    sampling.left = left
    return traced
