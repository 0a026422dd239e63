"""What an operator sees: the metrics port."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.agents import results
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

NAMES = {
    "build_info",
    "bytes_saved_total",
    "hits_total",
    "miss_phase_seconds",
    "misses_total",
    "origin_bytes_total",
    "request_duration_seconds",
    "time_to_first_byte_seconds",
    "bytes_served_total",
    "origin_fetches_total",
    "origin_fetch_retries_total",
    "origin_fetches_in_flight",
    "origin_fetches_queued",
    "origin_fetch_queue_wait_seconds",
    "forward_requests_total",
    "inflight_requests",
    "cache_size_bytes",
    "cache_entries",
    "cache_capacity_bytes",
    "evictions_total",
}


def test_every_promised_metric_is_there_from_the_start(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy()
    text = proxy.metrics().text
    declared = set(re.findall(r"^# TYPE cache_proxy_(\w+) ", text, re.MULTILINE))
    assert declared >= NAMES
    for outcome in ("admitted", "canceled", "timeout", "rejected"):
        assert f'cache_proxy_origin_fetch_queue_wait_seconds_count{{outcome="{outcome}"}} 0.0' in text


def test_the_numbers_add_up(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    stored = origin.serve("/stored", Reply(size=10_000))
    for _ in range(3):
        assert proxy.get(stored).ok
    proxy.wait_until_idle()
    assert proxy.request("HEAD", stored).hit
    assert proxy.request("HEAD", origin.url("/cold")).status == 200
    assert proxy.request("POST", origin.url("/post"), body=b"x").ok
    assert proxy.get(origin.serve("/flaky", Reply(status=503), Reply(size=10))).ok
    metrics = proxy.settled()
    assert metrics.value("hits_total") == 3
    assert metrics.value("misses_total") == 2
    assert metrics.value("origin_fetches_total") == 2
    assert metrics.value("origin_fetch_retries_total") == metrics.value("origin_fetch_retries_total", reason="503") == 1
    assert metrics.value("forward_requests_total", method="POST") == 1
    assert metrics.value("forward_requests_total", method="HEAD") == 1
    assert metrics.value("cache_entries") == 2
    assert metrics.value("cache_size_bytes") >= 10_010
    assert metrics.value("cache_capacity_bytes") > 0
    assert metrics.value("evictions_total") == 0
    assert metrics.value("bytes_served_total", source="hit") == 20_000
    assert metrics.value("bytes_served_total", source="miss") == 10_010
    assert metrics.value("inflight_requests") == 0


def test_labels_name_no_url_host_or_client(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Whatever agents do, the number of time series stays."""
    proxy = start_proxy()
    assert proxy.request("BREW", origin.url("/pot")).status == 200
    before = {(name, *sorted(labels.items())) for name, labels, _ in proxy.metrics().samples}
    for number in range(20):
        proxy.get(origin.url(f"/needle-{number}?haystack=1"), source=f"127.0.0.{number + 1}")
        proxy.request(f"BREW{number}", origin.url("/pot"))
    metrics = proxy.metrics()
    after = {(name, *sorted(labels.items())) for name, labels, _ in metrics.samples}
    told = "\n".join(str(series) for series in after if series[0].startswith("cache_proxy_"))
    for text in ("needle", "haystack", "127.0.0", str(origin.port), "BREW"):
        assert text not in told, text
    assert len(after - before) <= 4, after - before


def test_in_flight_counts_requests_under_way(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    gate = Gate()
    origin.serve_prefix("/held/", Reply(gate=gate))
    fetches = [proxy.start_get(origin.url(f"/held/{n}")) for n in range(3)]
    fetches.append(proxy.start_request("POST", origin.url("/held/post"), body=b"x"))
    proxy.wait_for_metric("inflight_requests", 4)
    proxy.wait_for_metric("origin_fetches_in_flight", 3)
    gate.open()
    results(fetches)
    proxy.wait_for_metric("inflight_requests", 0)


def test_health_and_readiness(proxy: Proxy) -> None:
    assert proxy.admin("/healthz")[0] == 200
    assert proxy.admin("/readyz")[0] == 200
    assert proxy.admin("/other")[0] == 404


def test_the_status_tells_what_is_going_on(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """JSON: the limiter with its queue per client, running fills with age, bytes and waiters, the store's size."""
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    running = origin.serve("/running", Reply(size=100_000, body_gate=gate, gate_at=50_000))
    fetches = [proxy.start_get(running) for _ in range(3)]
    for fetch in fetches:
        fetch.received(50_000)
    fetches.append(proxy.start_get(origin.url("/queued"), source="127.0.0.9"))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    status = proxy.status()
    limiter = status["limiter"]
    assert (limiter["max_in_flight"], limiter["in_flight"], limiter["queued"]) == (1, 1, 1)
    assert limiter["queued_per_client"] == {"127.0.0.9": 1}
    assert limiter["oldest_wait_seconds"] >= 0
    (fill,) = [fill for fill in status["fills"] if fill["state"] == "running"]
    assert fill["waiters"] == 3
    assert fill["bytes"] == 50_000
    assert fill["total_bytes"] == 100_000
    assert fill["age_seconds"] > 0
    assert len(status["fills"]) == 2
    assert status["store"]["size_bytes"] == 0
    assert status["store"]["capacity_bytes"] > 0
    gate.open()
    assert all(response.ok for response in results(fetches))
    proxy.wait_until_idle()
    assert proxy.status()["store"]["entries"] == 2


def test_the_metrics_port_can_be_off(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(metrics_listen="")
    url = origin.url("/x")
    assert proxy.get(url).ok
    assert proxy.get(url).hit
    assert "http://" not in proxy.wait_for_log("cache .*limit.*").string


def test_looking_does_not_hold_up_requests(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    url = origin.url("/x")
    proxy.get(url)
    for _ in range(20):
        fetch = proxy.start_get(url)
        proxy.metrics()
        proxy.status()
        assert fetch.result().hit


@pytest.mark.parametrize("on", [True, False])
def test_the_access_log_can_be_off(start_proxy: Callable[..., Proxy], origin: Origin, on: bool) -> None:
    proxy = start_proxy(access_log=on, flow_detail=0)
    assert proxy.get(origin.url("/needle")).ok
    proxy.wait_for_metric("inflight_requests", 0)
    proxy.terminate()
    assert ("/needle" in proxy.text()) == on
