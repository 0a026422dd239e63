"""When each phase of a fill began and ended, for the metrics, the access log and traces.

A fill has one :class:`Stopwatch`. Whoever works for it laps: the queue, each peer that is asked, the shared store, each
try at the origin with its connection, each piece of the body. Nothing here runs for a hit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol, Self

from ..semantics.headers import Headers
from ..wire.responses import OriginError

LOOKUP: Final = "lookup"
"""From the request's arrival until a fill for it was started or joined."""
PEER: Final = "peer"
"""One peer was asked, until the head of its response, or until it was given up."""
SHARED: Final = "shared"
"""The shared store was asked, until it had something or not."""
QUEUE: Final = "queue"
"""For a slot of the limiter. There is none for a fill that found one free."""
CONNECT: Final = "connect"
"""The name's lookup, TCP and TLS. There is none for a connection that is used again."""
FIRST_BYTE: Final = "first_byte"
"""From a request to the origin until the head of its response: one try."""
BODY: Final = "body"
"""From the head to the last byte, of whatever source."""
BACKOFF: Final = "backoff"
"""The pause before a further try."""

PHASES: Final = (LOOKUP, PEER, SHARED, QUEUE, CONNECT, FIRST_BYTE, BACKOFF, BODY)

LAPS_MAX: Final = 64
"""Laps that are kept of one fill. A long body that breaks off again and again has more."""


class Phase(NamedTuple):
    """A stretch of time. Times are seconds of the monotonic clock."""

    name: str
    """One of :data:`PHASES`."""
    started: float
    ended: float
    source: str = ""
    """Who was waited for: ``origin``, ``peer``, ``shared``; of the phase ``peer``, its URL."""
    outcome: str = ""
    """A status, an outcome as the metrics name it, or the error (RFC 9209 §2.3); empty if it just went well."""
    size: int = 0
    """Bytes of the body that came in it."""


class Lap:
    """A phase while it runs. A context, that ends it at its own end, with the error that has ended it."""

    __slots__ = ("ended", "name", "outcome", "size", "source", "started")

    def __init__(self, name: str, source: str, started: float) -> None:
        self.name = name
        self.source = source
        self.started = started
        self.ended = 0.0
        """0: it runs yet."""
        self.outcome = ""
        self.size = 0

    def end(self, outcome: str = "") -> None:
        """Idempotent."""
        if not self.ended:
            self.ended = time.monotonic()
            self.outcome = self.outcome or outcome

    @property
    def seconds(self) -> float:
        """How long it took, or has taken until now."""
        return (self.ended or time.monotonic()) - self.started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.end("" if error is None else word_for(error))


class FillTrace(Protocol):
    """The trace of a fill that is sampled."""

    def carried(self, headers: Headers, lap: Lap) -> Headers:
        """The header of a request to an origin or a peer, which this phase waits for, with the context of the trace."""

    def ended(self, outcome: str, laps: Iterable[Lap]) -> None:
        """The fill is over. ``outcome``: as ``origin_fetches_total`` names it; empty if no source was asked."""


class Stopwatch:
    """The phases of one fill, in the order in which they began."""

    __slots__ = ("laps", "trace")

    def __init__(self, trace: FillTrace | None = None) -> None:
        self.laps: list[Lap] = []
        self.trace = trace

    def carried(self, headers: Headers, lap: Lap) -> Headers:
        """The header of a request that ``lap`` waits for, as it goes out."""
        return headers if self.trace is None else self.trace.carried(headers, lap)

    def begin(self, name: str, source: str = "origin", at: float | None = None) -> Lap:
        """A phase begins now, or began ``at`` (monotonic clock)."""
        lap = Lap(name, source, time.monotonic() if at is None else at)
        if len(self.laps) < LAPS_MAX:
            self.laps.append(lap)
        return lap

    def add(self, name: str, source: str, at: float, size: int) -> None:
        """A phase that took no time, ``at`` then: a body of ``size`` bytes that came with its head."""
        lap = self.begin(name, source, at)
        lap.ended, lap.size = at, size

    def stop(self) -> dict[str, float]:
        """The fill is over: what runs yet ends. The seconds of each phase that it went through, tries added up."""
        seconds: dict[str, float] = {}
        for lap in self.laps:
            if not lap.ended:
                lap.end("abandoned")
            seconds[lap.name] = seconds.get(lap.name, 0.0) + lap.ended - lap.started
        return seconds

    def phases(self, since: float = 0.0, until: float | None = None) -> list[Phase]:
        """Those that were not over at ``since``, as far as they lie between ``since`` and ``until`` (now)."""
        until = time.monotonic() if until is None else until
        return [
            Phase(
                lap.name, max(lap.started, since), min(lap.ended or until, until), lap.source, lap.outcome, lap.size
            )
            for lap in self.laps
            if (not lap.ended or lap.ended >= since) and lap.started <= until
        ]  # fmt: skip


def word_for(error: BaseException) -> str:
    """What has ended a phase, in a word."""
    if isinstance(error, OriginError):
        return error.error
    return "canceled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
