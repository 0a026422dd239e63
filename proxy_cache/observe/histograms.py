"""Histograms that cost a request no more than two additions.

Those of prometheus_client take a lock for each bucket and for the sum; these are plain numbers, changed on the loop
alone, and made into buckets when they are scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """The observations under one set of labels."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bucket, not accumulated."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def add(self, counts: Sequence[int], total: float) -> None:
        """Observations that were counted elsewhere, by bucket, and add up to ``total``."""
        for bucket, count in enumerate(counts):
            self.counts[bucket] += count
        self.sum += total


class PlainHistogram(Collector):
    """A histogram, by its full name. ``bounds``: of the buckets, upper and inclusive, in order, without infinity."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self.name = name
        self.label_names = tuple(labels)
        self.bounds = tuple(bounds)
        self._text = text
        self._series: dict[tuple[str, ...], Series] = {}
        self._ends = [*map(floatToGoString, self.bounds), "+Inf"]
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series with these values of the labels. It is scraped from its first mention on."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Series(self.bounds)
        return series

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self.name, self._text, labels=self.label_names)
        for values, series in self._series.items():
            buckets = list(zip(self._ends, accumulate(series.counts), strict=True))
            family.add_metric(values, buckets, series.sum)
        yield family

    def describe(self) -> Iterable[HistogramMetricFamily]:
        yield HistogramMetricFamily(self.name, self._text, labels=self.label_names)
