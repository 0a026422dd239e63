"""The wall clock, which may be set while responses are stored by it.

Freshness goes by the wall clock: responses outlive the process, and so must the times at which they came. If the clock
is set forward, what is stored looks older than it is, and is validated too early. If it is set back, everything stored
looks younger, and would stay fresh for longer than its origin has said; what was stored while the clock was ahead even
until it gets there again. So a step back is remembered, with the ids that were given by then: a response from before
is older by the step, and one that seems to come from the future, whose age nobody can tell, is stale.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Final

from ..semantics.stored import StoredResponse

TOLERANCE: Final = 0.5
"""Seconds that a clock may be behind what it was. Clocks that are slewed go slower, but not backwards."""
LOOK_EVERY: Final = 0.1
"""Seconds between looks at the clock."""
STEPS_MAX: Final = 16
UNCERTAIN: Final = 0.01
"""Seconds between two looks at one clock, at which the look at the other between them says nothing."""


class ClockWatch:
    """Notices that the wall clock has been set back, by the monotonic one, which can't be."""

    def __init__(
        self, wall: Callable[[], float] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = float("-inf")
        """The wall clock, less the monotonic one."""

    def set_back_by(self) -> float:
        """Seconds by which it has been set back since the last look; 0 if it hasn't. Small amounts add up."""
        before = self._monotonic()
        wall = (self._wall or time.time)()
        if -TOLERANCE < (by := self._offset - wall + before) <= TOLERANCE:
            if by < 0.0:
                self._offset = wall - before
            return 0.0  # as it mostly is: it goes as the other does, or a trifle faster, or is slewed
        if self._monotonic() - before > UNCERTAIN:
            return 0.0  # the process has been stopped in between
        offset = wall - before
        by = self._offset - offset
        if by <= TOLERANCE:
            self._offset = max(self._offset, offset)  # set forward
            return 0.0
        self._offset = offset
        return by


@dataclass(frozen=True, slots=True)
class Step:
    """The clock was set back from ``before`` to ``after`` (unix seconds), by ``by``, when the next id was ``first``."""

    first: int
    before: float
    after: float
    by: float


class ClockSteps:
    """All steps back since the oldest response that they might matter to; the oldest are taken together."""

    def __init__(self, text: str = "[]") -> None:
        """``text``: what :meth:`dump` has given. One that makes no sense is no step."""
        try:
            self._steps = [Step(int(a), float(b), float(c), float(d)) for a, b, c, d in json.loads(text)]
        except (ValueError, TypeError):
            self._steps = []

    def __len__(self) -> int:
        return len(self._steps)

    def dump(self) -> str:
        return json.dumps([astuple(step) for step in self._steps])

    def add(self, step: Step) -> None:
        self._steps.append(step)
        if len(self._steps) > STEPS_MAX:
            one, other, *rest = self._steps
            both = Step(other.first, max(one.before, other.before), min(one.after, other.after), one.by + other.by)
            self._steps = [both, *rest]

    def correct(self, entry_id: int, response: StoredResponse, now: float) -> None:
        """Bring a response that was read from the index to today's clock."""
        for step in self._steps:
            if entry_id >= step.first or response.response_time > step.before + TOLERANCE:
                continue  # stored, or updated, since then
            set_back(response, step.by, step.after)
        distrust_the_future(response, now)


def set_back(response: StoredResponse, by: float, now: float) -> None:
    """The clock was set back by ``by`` seconds, to ``now``, after this response had come."""
    is_from_the_future = response.response_time > now
    response.response_time -= by
    response.request_time -= by
    response.fresh_until -= by
    if is_from_the_future:
        _make_stale(response, now)


def distrust_the_future(response: StoredResponse, now: float) -> None:
    """What seems to have come later than now was stored by a clock that was ahead: its age can't be told."""
    if response.response_time > now + TOLERANCE:
        _make_stale(response, now)


def _make_stale(response: StoredResponse, now: float) -> None:
    response.response_time = min(response.response_time, now)
    response.request_time = min(response.request_time, now)
    response.initial_age = max(response.initial_age, response.lifetime + 1)
    response.fresh_until = float("-inf")
