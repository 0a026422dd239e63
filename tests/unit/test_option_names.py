"""What is proposed for a name that nobody knows."""

from __future__ import annotations

import pytest

from proxy_cache.mitm.option_names import complaint, like
from proxy_cache.mitm.options import NAMES

KNOWN = [*NAMES, "listen_port", "listen_host", "mode"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_in_flight", "origin_max_in_flight"),
        ("max_in_flight_per_host", "origin_max_in_flight_per_host"),
        ("origin_max_inflight", "origin_max_in_flight"),
        ("ORIGIN_MAX_IN_FLIGHT", "origin_max_in_flight"),
        ("cache-dir", "cache_dir"),
        ("dir", "cache_dir"),
        ("ir", None),
        ("port", "listen_port"),
        ("grace", "shutdown_grace"),
        ("cache_size", "cache_max_size"),
        ("retries", "origin_retries"),
        ("zzzzzz", None),
        ("", None),
    ],
)
def test_what_is_meant(name: str, meant: str | None) -> None:
    assert like(name, KNOWN) == meant


def test_a_long_name_is_cut() -> None:
    assert len(complaint("x" * 10_000, KNOWN)) < 200
