"""Durations: plain numbers while requests are answered, and buckets when they are scraped."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from proxy_cache.observe.histograms import PlainHistogram
from proxy_cache.observe.metrics import FASTEST, PREFIX, Metrics

VALUES = (0.0, 0.05, 0.1, 0.1000001, 0.9, 1.0, 7.0)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    metrics.collect()
    return metrics.registry.get_sample_value(f"{PREFIX}_{name}", labels)


def test_it_is_scraped_as_one_of_the_client_library() -> None:
    """But for the time of its creation, which nobody needs."""
    scraped = []
    for kind in (PlainHistogram, Histogram):
        registry = CollectorRegistry()
        histogram = (
            PlainHistogram("seconds", "Text.", ("path", "source"), (0.1, 1, 2.5), registry)
            if kind is PlainHistogram
            else Histogram("seconds", "Text.", ("path", "source"), buckets=(0.1, 1, 2.5), registry=registry)
        )
        for value in VALUES:
            histogram.labels("a", "b").observe(value)
        histogram.labels("a", "unseen")
        lines = generate_latest(registry).decode().splitlines()
        scraped.append([line for line in lines if "_created" not in line])
    assert scraped[0] == scraped[1]


def test_hits_of_the_lane_count_in_both() -> None:
    metrics = Metrics()
    metrics.hits_ended(200, [FASTEST / 2, FASTEST * 2])
    metrics.hits_ended(100, [FASTEST])
    for name, labels in (
        ("request_duration_seconds", {"path": "lane", "served_from": "hit"}),
        ("time_to_first_byte_seconds", {"served_from": "hit"}),
    ):
        assert sample(metrics, f"{name}_bucket", le=str(FASTEST), **labels) == 2
        assert sample(metrics, f"{name}_count", **labels) == 3
        assert sample(metrics, f"{name}_sum", **labels) == pytest.approx(3.5 * FASTEST)
    assert sample(metrics, "hits_total") == 3
    assert sample(metrics, "bytes_saved_total") == 300


def test_origin_bytes_are_those_of_fills_and_those_passed_on() -> None:
    metrics = Metrics()
    metrics.fetched("origin", 10)
    metrics.fetched("peer", 100)
    metrics.served("forwarded", 1000)
    metrics.served("miss", 10_000)
    assert sample(metrics, "origin_bytes_total") == 1010
