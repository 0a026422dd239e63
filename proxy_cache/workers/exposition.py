"""The metrics of all workers as those of one proxy.

Counters and histograms are summed, and what a worker had counted before it died stays counted, as far as it was told:
else each death would look like a counter that starts anew. Gauges are summed, but for those whose sum means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_SUMMED: Final = frozenset({"counter", "histogram", "summary"})
_ONE_FOR_ALL: Final[dict[str, Callable[[float, float], float]]] = {
    "cache_proxy_peers": max,
    "cache_proxy_peers_left_alone": max,
    "cache_proxy_shared_up": min,
    "cache_proxy_build_info": max,
    "python_info": max,
    "process_start_time_seconds": min,
}

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""
Values = dict[Key, float]


class Reading:
    """What one worker has told."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, tuple[str, str]] = {}
        """Type and help."""
        self.counts: dict[str, Values] = {}
        """By family, of what only grows."""
        self.gauges: dict[str, Values] = {}
        for family in text_string_to_metric_families(text):
            self.families[family.name] = family.type, family.documentation
            into = self.counts if family.type in _SUMMED else self.gauges
            into[family.name] = {_key(sample): sample.value for sample in family.samples}


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sample.labels.items())


class Summed(Collector):
    """The sum of the readings of all workers, to be encoded as any registry is."""

    def __init__(self) -> None:
        self._last: dict[int, Reading] = {}
        self._before: dict[str, Values] = {}
        """What those that have died had counted."""
        self._families: dict[str, tuple[str, str]] = {}
        self._has_told: set[int] = set()

    def told(self, worker: int, text: str) -> None:
        self._last[worker] = reading = Reading(text)
        self._families |= reading.families
        self._has_told.add(worker)

    def is_silent(self, worker: int) -> None:
        """It has not answered: what it has counted stays as it was last told, and its gauges are nothing."""
        self._has_told.discard(worker)

    def has_died(self, worker: int) -> None:
        reading = self._last.pop(worker, None)
        self._has_told.discard(worker)
        for name, values in reading.counts.items() if reading is not None else ():
            _add(self._before.setdefault(name, {}), values)

    def collect(self) -> Iterable[Metric]:
        for name, (kind, text) in self._families.items():
            metric = Metric(name, text, kind)
            for (sample, labels), value in self._values(name, kind).items():
                metric.add_sample(sample, dict(labels), value)
            if metric.samples:
                yield metric

    def _values(self, name: str, kind: str) -> Values:
        if kind in _SUMMED:
            total = dict(self._before.get(name, {}))
            for reading in self._last.values():
                _add(total, reading.counts.get(name, {}))
            return total
        of_all = [self._last[worker].gauges.get(name, {}) for worker in sorted(self._has_told)]
        if name.endswith("_created"):
            return _joined(of_all, min)
        return _joined(of_all, _ONE_FOR_ALL.get(name, lambda one, other: one + other))


def _add(total: Values, values: Values) -> None:
    for key, value in values.items():
        total[key] = total.get(key, 0.0) + value


def _joined(of_all: Iterable[Values], join: Callable[[float, float], float]) -> Values:
    joined: Values = {}
    for values in of_all:
        for key, value in values.items():
            joined[key] = join(joined[key], value) if key in joined else value
    return joined


OWN: Final = {
    "cache_proxy_workers": ("gauge", "Workers that there are to be."),
    "cache_proxy_workers_ready": ("gauge", "Workers that answer requests."),
    "cache_proxy_worker_restarts": ("counter", "Workers that have died and were started again."),
}
"""Metrics of the parent: type and help."""


def own(values: Iterable[float]) -> Iterator[Metric]:
    """Those, with their values."""
    for (name, (kind, text)), value in zip(OWN.items(), values, strict=True):
        metric = Metric(name, text, kind)
        metric.add_sample(f"{name}_total" if kind == "counter" else name, {}, value)
        yield metric
