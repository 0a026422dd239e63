"""Corrections for a wall clock that is set while responses are stored.

Freshness is computed by the wall clock: responses outlive the process, so their times have to. If the clock is set
forward, stored responses look older than they are, and are validated early. If it is set back, they look younger and
would stay fresh for too long; responses that were stored while the clock was ahead, even until it gets there again. So
a step back is remembered, with the ids used by then: responses from before are older by the step, and responses that
seem to be from the future, of unknown age, are stale.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Final

from ..semantics.stored import StoredResponse

TOLERANCE: Final = 0.5
"""Seconds of a step back that are ignored. (Slewed clocks run slower, but not backwards.)"""
LOOK_EVERY: Final = 0.1
"""Seconds between looks at the clock."""
STEPS_MAX: Final = 16
"""Steps that are remembered one by one; earlier ones are merged."""
UNCERTAIN: Final = 0.01
"""Seconds between two readings of the monotonic clock that make the wall clock's reading between them useless."""


class ClockWatch:
    """Detects that the wall clock was set back, by comparing it with the monotonic clock."""

    def __init__(
        self, wall: Callable[[], float] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = float("-inf")
        """Wall clock minus monotonic clock."""

    def set_back_by(self) -> float:
        """Seconds by which the clock was set back since the last look; 0 if it wasn't. Small steps add up."""
        before = self._monotonic()
        wall = (self._wall or time.time)()
        if -TOLERANCE < (by := self._offset - wall + before) <= TOLERANCE:
            if by < 0.0:
                self._offset = wall - before
            return 0.0  # the usual case: both run alike, or the wall clock is slewed
        if self._monotonic() - before > UNCERTAIN:
            return 0.0  # the process was stopped in between
        offset = wall - before
        by = self._offset - offset
        if by <= TOLERANCE:
            self._offset = max(self._offset, offset)  # set forward
            return 0.0
        self._offset = offset
        return by


@dataclass(frozen=True, slots=True)
class Step:
    """The clock was set back from ``before`` to ``after`` (unix seconds), by ``by``. ``first``: the next unused id."""

    first: int
    before: float
    after: float
    by: float


class ClockSteps:
    """All steps back that could matter to a stored response; the earliest ones are merged."""

    def __init__(self, text: str = "[]") -> None:
        """``text``: from :meth:`dump`. Nonsense counts as no steps."""
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
        """Convert the times of a response that was read from the index to today's clock."""
        for step in self._steps:
            if entry_id >= step.first or response.response_time > step.before + TOLERANCE:
                continue  # stored or updated since the step
            set_back(response, step.by, step.after)
        distrust_the_future(response, now)


def set_back(response: StoredResponse, by: float, now: float) -> None:
    """The clock was set back by ``by`` seconds, to ``now``, after this response was received."""
    is_from_the_future = response.response_time > now
    response.response_time -= by
    response.request_time -= by
    response.fresh_until -= by
    if is_from_the_future:
        _make_stale(response, now)


def distrust_the_future(response: StoredResponse, now: float) -> None:
    """Make a response stale whose time is in the future: the clock was ahead, so its age is unknown."""
    if response.response_time > now + TOLERANCE:
        _make_stale(response, now)


def _make_stale(response: StoredResponse, now: float) -> None:
    response.response_time = min(response.response_time, now)
    response.request_time = min(response.request_time, now)
    response.initial_age = max(response.initial_age, response.lifetime + 1)
    response.fresh_until = float("-inf")
