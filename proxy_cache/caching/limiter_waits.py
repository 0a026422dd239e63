"""Queued places by age, so that the next one to time out is found without a search.

Most places may wait as long as the limit for all says; those of requests that a rule (``cache_queue_timeout``) speaks
of have a patience of their own. Places of equal patience time out in the order in which they came, so it is enough to
look at the first of each kind; there are as many kinds as there are rules.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """A place, as far as its time is concerned."""

    since: float
    """When it was taken, on the limiter's clock."""
    patience: float | None
    """Seconds it may wait; ``None``: as long as the limits say."""


T = TypeVar("T", bound=Waiting)


class Waits(Generic[T]):
    """Places by age, one row for each patience."""

    def __init__(self) -> None:
        self._rows: dict[float | None, OrderedDict[T, None]] = {}

    def add(self, place: T) -> None:
        """Add a place, the youngest."""
        self._rows.setdefault(place.patience, OrderedDict())[place] = None

    def remove(self, place: T) -> None:
        row = self._rows[place.patience]
        del row[place]
        if not row:
            del self._rows[place.patience]

    def oldest(self) -> T | None:
        """The place that has waited longest."""
        return min((next(iter(row)) for row in self._rows.values()), key=_since, default=None)

    def next_to_end(self, default: float) -> tuple[float, T] | None:
        """When (on the limiter's clock) the next place times out, and which one it is. ``default``: the patience, in
        seconds, of those without one of their own."""
        ends = [
            (first.since + (default if patience is None else patience), first)
            for patience, first in ((patience, next(iter(row))) for patience, row in self._rows.items())
        ]
        return min(ends, key=_end, default=None)


def _since(place: Waiting) -> float:
    return place.since


def _end(pair: tuple[float, Waiting]) -> float:
    return pair[0]
