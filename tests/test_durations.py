"""How long requests took, where misses spent their time, and what the cache has saved."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy


def way(proxy: Proxy) -> str:
    return "lane" if proxy.options["fast_lane"] else "flow"


def test_each_request_counts_once(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    url = origin.serve("/stored", Reply(size=10_000))
    for _ in range(3):
        assert proxy.get(url).ok
    assert proxy.request("POST", origin.url("/post"), body=b"x").ok
    assert proxy.get(origin.serve("/bad", Reply(status=404))).status == 404
    metrics, path = proxy.settled(), way(proxy)
    durations = {
        (labels["path"], labels["served_from"]): value
        for name, labels, value in metrics.samples
        if name == "cache_proxy_request_duration_seconds_count" and value
    }
    assert durations == {(path, "hit"): 2, (path, "miss"): 2, ("flow", "forwarded"): 1}
    for served_from, count in (("hit", 2), ("miss", 2), ("forwarded", 1)):
        assert metrics.value("time_to_first_byte_seconds_count", served_from=served_from) == count


def test_the_first_byte_comes_before_the_last(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy, gate = start_proxy(), Gate()
    url = origin.serve("/slow", Reply(size=300_000, body_gate=gate, gate_at=100_000))
    fetch = proxy.start_get(url)
    fetch.received(100_000)
    gate.open()
    assert fetch.result().ok
    metrics = proxy.settled()
    first = metrics.value("time_to_first_byte_seconds_sum", served_from="miss")
    last = metrics.value("request_duration_seconds_sum", path=way(proxy), served_from="miss")
    assert 0 < first < last
    assert 0 < metrics.value("miss_phase_seconds_sum", phase="body") < last


def test_clients_that_leave_are_no_errors(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy, gate = start_proxy(), Gate()
    url = origin.serve("/x", Reply(size=10, gate=gate))
    fetch = proxy.start_get(url)
    origin.wait_for("/x")
    fetch.leave()
    proxy.wait_for_metric("request_duration_seconds_count", 1, path=way(proxy), served_from="canceled")
    gate.open()
    assert proxy.value("request_duration_seconds_count", path=way(proxy), served_from="error") == 0


def test_the_phases_of_fills(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Of three fills one queues, one has two tries, and all but the first find an open connection."""
    proxy, gate = start_proxy(origin_max_in_flight=1), Gate()
    first = proxy.start_get(origin.serve("/1", Reply(size=10, gate=gate)))
    origin.wait_for("/1")
    joined = proxy.start_get(origin.url("/1"))
    proxy.wait_for_waiters(2)
    queued = proxy.start_get(origin.serve("/2", Reply(size=10)))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    gate.open()
    assert first.result().ok
    assert joined.result().ok
    assert queued.result().ok
    assert proxy.get(origin.serve("/3", Reply(status=503), Reply(size=10))).ok
    metrics = proxy.settled()
    expected = {"lookup": 3, "queue": 1, "first_byte": 3, "backoff": 1, "body": 3, "peer": 0, "shared": 0}
    counted = {phase: metrics.value("miss_phase_seconds_count", phase=phase) for phase in expected}
    assert counted == expected
    assert metrics.value("miss_phase_seconds_count", phase="connect") >= 1


def test_bytes_saved_are_those_that_no_origin_sent(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy, gate = start_proxy(), Gate()
    url = origin.serve("/x", Reply(size=10_000, gate=gate, headers=(("Cache-Control", "max-age=60"),)))
    fetches = [proxy.start_get(url, expect=10_000) for _ in range(4)]
    proxy.wait_for_waiters(4)
    gate.open()
    assert all(fetch.result().ok for fetch in fetches)
    assert proxy.settled().value("bytes_saved_total") == 30_000
    proxy.wait_until_idle()
    assert proxy.get(url).hit
    assert proxy.request("POST", origin.serve("/post", Reply(size=500)), body=b"x").ok
    metrics = proxy.settled()
    assert metrics.value("bytes_saved_total") == 40_000
    assert metrics.value("origin_bytes_total") == 10_500
    assert metrics.value("fetched_bytes_total", source="origin") == 10_000


def test_what_lies_between_gaps_is_saved(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Half of it is stored, by a range before."""
    proxy = start_proxy(cache_block_size="0")
    headers = (("Cache-Control", "max-age=60"), ("ETag", '"1"'), ("Accept-Ranges", "bytes"))
    size = 8_000_000
    url = origin.serve("/x", Reply(size=size, headers=headers))
    assert proxy.get(url, headers=(("Range", "bytes=0-3999999"),)).status == 206
    proxy.wait_until_idle()
    assert proxy.settled().value("bytes_saved_total") == 0
    assert proxy.get(url, expect=size).ok
    metrics = proxy.settled()
    assert metrics.value("origin_bytes_total") <= size + 1_000_000
    assert metrics.value("bytes_saved_total") in (0, 4_000_000)  # 0 if its end was sent before the fill was over


def test_the_build_is_told(start_proxy: Callable[..., Proxy]) -> None:
    text = start_proxy().metrics().text
    line = next(line for line in text.splitlines() if line.startswith("cache_proxy_build_info{"))
    assert 'version="' in line
    assert 'python="' in line
    assert 'mitmproxy="' in line
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"):
        assert f"\nprocess_{name} " in text


def test_who_wants_only_what_is_stored_gets_no_error(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Peers ask so. It is a 504 (RFC 9111 §5.2.1.7), and nothing is wrong."""
    proxy = start_proxy()
    headers = (("Cache-Control", "only-if-cached"),)
    assert proxy.get(origin.url("/absent"), headers=headers).status == 504
    metrics = proxy.settled()
    assert metrics.value("request_duration_seconds_count", path=way(proxy), served_from="absent") == 1
    assert metrics.value("request_duration_seconds_count", served_from="error") == 0
