"""The API on the metrics port, as whoever calls it sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_cache import __version__
from tests.support.agents import results
from tests.support.api import call
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy


def test_the_status_is_a_superset_of_the_plain_one(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    stored = origin.serve("/stored", Reply(size=1000))
    for _ in range(3):
        assert proxy.get(stored).ok
    gate = Gate()
    running = origin.serve("/running?token=secret-of-a-user", Reply(size=100_000, body_gate=gate, gate_at=50_000))
    fetch = proxy.start_get(running)
    fetch.received(50_000)
    queued = proxy.start_get(origin.url("/queued"), source="127.0.0.9")
    proxy.wait_for_metric("origin_fetches_queued", 1)
    answer = call(proxy, "GET", "/api/v1/status")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    status, plain = answer.json, proxy.status()
    assert plain.keys() <= status.keys()
    assert plain["limiter"].keys() <= status["limiter"].keys()
    assert plain["store"].keys() <= status["store"].keys()
    assert status["version"] == __version__
    assert status["uptime_seconds"] >= 0
    assert status["limiter"]["clients"] == [
        {"client": "127.0.0.9", "queued": 1, "in_flight": 0},
        {"client": "127.0.0.1", "queued": 0, "in_flight": 1},
    ]
    fill = next(fill for fill in status["fills"] if fill["state"] == "running")
    assert (fill["bytes"], fill["total"], fill["waiters"], fill["source"]) == (50_000, 100_000, 1, "origin")
    assert fill["client"] == "127.0.0.1"
    assert fill["url"].endswith("/running?token=***")
    assert {fill["state"] for fill in status["fills"]} == {"running", "queued"}
    assert status["store"]["disk_free_bytes"] > 0
    assert status["totals"]["hits"] == 2
    assert status["totals"]["bytes_saved"] == 2000
    gate.open()
    results([fetch, queued])


def test_errors_are_problems_that_name_what_is_wrong(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy()
    assert "'colour'" in call(proxy, "GET", "/api/v1/status?colour=red").detail
    missing = call(proxy, "GET", "/api/v1/nothing")
    assert (missing.status, missing.detail) == (404, "GET /api/v1/nothing: Not Found")
    wrong = call(proxy, "DELETE", "/api/v1/status")
    assert wrong.status == 405
    assert "GET" in wrong.headers["Allow"]
    assert wrong.detail


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/status", "/api/v1/status", "/nothing"])
def test_browsers_of_other_sites_get_nothing(path: str, proxy: Proxy) -> None:
    for refused, status in (
        ({"Host": "rebound.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
    ):
        for method in ("GET", "OPTIONS", "POST"):
            answer = call(proxy, method, path, **refused)
            assert answer.status == status
            assert answer.detail
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_another_name_of_the_machine_can_be_told(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy(admin_hosts="cache.example.com,*.internal")
    for host, status in (("cache.example.com", 200), ("a.internal:8082", 200), ("other.example", 421)):
        assert call(proxy, "GET", "/metrics", Host=host).status == status


@pytest.mark.parametrize("text", ["", "short", "with spaces in it, which is no token", "\n".join(["x" * 20] * 5)])
def test_a_file_without_a_token_is_told_at_the_start(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    proxy = Proxy(tmp_path, admin_token_file=file)
    proxy.launch()
    try:
        assert proxy.wait() != 0
        assert f"admin_token_file: '{file}' must have" in proxy.text()
    finally:
        proxy.close()


def test_a_file_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, admin_token_file=tmp_path / "gone")
    proxy.launch()
    try:
        assert proxy.wait() != 0
        assert "admin_token_file: " in proxy.text()
    finally:
        proxy.close()
