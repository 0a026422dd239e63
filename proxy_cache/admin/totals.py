"""What has been counted since the start, in a few numbers for people."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import Counter

from ..observe.metrics import Metrics

_GOOD: Final = frozenset({"stored", "not_stored", "not_modified", "abandoned"})
"""Ends of fills that are no errors."""


def totals(metrics: Metrics) -> dict[str, Any]:
    """The sums, and errors by kind."""
    metrics.collect()  # what was counted without a lock goes into the counters
    served = by_label(metrics.bytes_served)
    errors = {f"origin_{kind}": count for kind, count in by_label(metrics.origin_fetches).items() if kind not in _GOOD}
    errors |= {f"store_{kind}": count for kind, count in by_label(metrics.store_failures).items()}
    errors["internal"] = total(metrics.hook_errors)
    return {
        "hits": total(metrics.hits),
        "misses": total(metrics.misses),
        "coalesced": total(metrics.coalesced),
        "bytes_served": sum(served.values()),
        "origin_bytes": total(metrics.origin_bytes),
        "bytes_saved": total(metrics.bytes_saved),
        "errors": {kind: count for kind, count in errors.items() if count},
        "evictions": total(metrics.evictions),
    }


def by_label(counter: Counter) -> dict[str, int]:
    """Of a counter with one label."""
    (family,) = counter.collect()
    return {
        next(iter(sample.labels.values())): int(sample.value)
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def total(counter: Counter) -> int:
    (family,) = counter.collect()
    return sum(int(sample.value) for sample in family.samples if sample.name.endswith("_total"))
