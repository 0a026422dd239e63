"""Which requests begin a trace, decided before anything is made for them.

A request without a parent is sampled with the probability of the ratio. To draw a number for each would cost more than
to draw how many requests there are until the next one: that number is distributed geometrically, and counts down.
The trace id is made then, among those that OpenTelemetry's sampler takes at this ratio, so that it, and every other
service that goes by the id, decides the same.
"""

from __future__ import annotations

import math
import random
import sys
from typing import Final

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

_LOW_BITS: Final = 64
"""Of a trace id: the sampler compares them with its bound."""


class HeadSampling:
    """Counts requests down to the next one that begins a trace."""

    __slots__ = ("_log_of_not", "bound", "left", "parent_based", "ratio")

    def __init__(self, ratio: float, *, parent_based: bool) -> None:
        self.ratio = ratio
        self.parent_based = parent_based
        """Whether requests with a parent are sampled as their callers have decided."""
        self.bound = TraceIdRatioBased.get_bound_for_rate(ratio)
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
        if not self.bound:
            return sys.maxsize
        if not self._log_of_not:
            return 1
        return 1 + int(min(math.log(1.0 - random.random()) / self._log_of_not, sys.maxsize - 1.0))

    def takes(self, trace_id: int) -> bool:
        """Whether a trace is sampled by its id, whatever a caller has decided."""
        return trace_id & ((1 << _LOW_BITS) - 1) < self.bound

    def sampler(self) -> Sampler:
        """The SDK's, which confirms it."""
        root = TraceIdRatioBased(self.ratio)
        return ParentBased(root) if self.parent_based else root


class SampledIds(RandomIdGenerator):
    """Makes the ids. A trace of its own is begun here for requests only that are sampled."""

    def __init__(self, bound: int) -> None:
        self._bound = bound

    def generate_trace_id(self) -> int:
        if not self._bound:
            return super().generate_trace_id()
        return (random.getrandbits(_LOW_BITS) << _LOW_BITS | random.randrange(self._bound)) or 1

    def is_trace_id_random(self) -> bool:
        """W3C Trace Context level 2: whether "at least the right-most 7 bytes" are."""
        return not self._bound or self._bound >= 1 << 56
