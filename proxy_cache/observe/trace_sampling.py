"""Which requests begin a trace, decided before anything is made for them.

A request without a parent is sampled with the probability of the ratio. To draw a number for each would cost more than
to draw how many requests there are until the next one: that number is distributed geometrically, and counts down. The
trace id is made then, among those that OpenTelemetry's TraceIdRatioBased takes at this ratio, so that every service
that goes by the id decides the same.
"""

from __future__ import annotations

import math
import random
import sys
from typing import Final

_LOW_BITS: Final = 64
"""Of a trace id: TraceIdRatioBased compares them with its bound."""
_LOW: Final = (1 << _LOW_BITS) - 1


class HeadSampling:
    """Counts requests down to the next one that begins a trace."""

    __slots__ = ("_bound", "_log_of_not", "left", "parent_based")

    def __init__(self, ratio: float, *, parent_based: bool) -> None:
        self.parent_based = parent_based
        """Whether requests with a parent are sampled as their callers have decided."""
        self._bound = round(ratio * (1 << _LOW_BITS))
        self._log_of_not = math.log1p(-ratio) if 0 < ratio < 1 else 0.0
        self.left = self._drawn()
        """Requests until then, that one included."""

    def begins(self) -> bool:
        """Whether the next request without a parent begins a trace."""
        self.left -= 1
        if self.left > 0:
            return False
        self.left = self._drawn()
        return True

    def _drawn(self) -> int:
        if not self._bound:
            return sys.maxsize
        if not self._log_of_not:
            return 1
        return 1 + int(min(math.log(1.0 - random.random()) / self._log_of_not, sys.maxsize - 1.0))

    def takes(self, trace_id: int) -> bool:
        """Whether a trace is sampled by its id, whatever a caller has decided."""
        return trace_id & _LOW < self._bound

    def new_trace_id(self) -> int:
        """Of a trace that is sampled."""
        return (random.getrandbits(64) << _LOW_BITS | random.randrange(self._bound or 1 << _LOW_BITS)) or 1


def new_span_id() -> int:
    return random.getrandbits(64) or 1
