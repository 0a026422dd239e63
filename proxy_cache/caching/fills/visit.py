"""One request's time with a fill, and the phases of a miss as that request went through them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from ...upstream.stopwatch import BODY, LOOKUP, PHASES, Phase, Stopwatch


class Visit:
    """From the moment a request started a fill, or joined it, until it left. Times are seconds of the monotonic
    clock."""

    __slots__ = ("joined", "leads", "left", "watch")

    def __init__(self, watch: Stopwatch, joined: float, *, leads: bool) -> None:
        self.watch = watch
        self.joined = joined
        self.left = 0.0
        """0: it is there yet."""
        self.leads = leads
        """Whether the fill was started for it."""

    def leave(self) -> None:
        """Idempotent."""
        self.left = self.left or time.monotonic()


def phases_of(visits: Sequence[Visit], started: float, ended: float | None = None) -> list[Phase]:
    """The phases of a request that came at ``started``, in the order in which they began, up to ``ended`` (now):
    ``lookup``, then those of each fill that it waited for or read from, from when it joined until it left. Empty if it
    was no miss. Fills that it read side by side (ranges with gaps) overlap."""
    if not visits:
        return []
    ended = time.monotonic() if ended is None else ended
    phases = [Phase(LOOKUP, started, visits[0].joined)]
    for visit in visits:
        phases += visit.watch.phases(visit.joined, min(visit.left or ended, ended))
    return sorted(phases, key=lambda phase: phase.started)


def untraced_phases(visits: Sequence[Visit], started: float) -> list[Phase]:
    """Those phases of a request that no trace of a fill has: ``lookup``, the waits for fills that others have started,
    and, where those are not traced, what they did meanwhile. As :func:`phases_of` has them."""
    phases = phases_of([visit for visit in visits if visit.watch.trace is None], started)
    phases = [phase for phase in phases if phase.name != LOOKUP]
    now = time.monotonic()
    waits = [Phase("wait", visit.joined, visit.left or now) for visit in visits if not visit.leads]
    return [Phase(LOOKUP, started, visits[0].joined), *waits, *phases] if visits else []


def seconds_by_name(phases: Iterable[Phase]) -> dict[str, float]:
    """The seconds of each phase, tries added up, in the order of :data:`~...upstream.stopwatch.PHASES`."""
    seconds: dict[str, float] = {}
    for phase in phases:
        seconds[phase.name] = seconds.get(phase.name, 0.0) + phase.ended - phase.started
    return {name: seconds[name] for name in PHASES if name in seconds}


def fetched_for(visits: Iterable[Visit]) -> int | None:
    """Body bytes that origins have sent to the fills that were started for a request; ``None`` while they still
    send."""
    size = 0
    for visit in visits:
        for lap in visit.watch.laps if visit.leads else ():
            if lap.name == BODY and lap.source == "origin":
                if not lap.ended:
                    return None
                size += lap.size
    return size
