"""Warming: what an operator names is fetched like a client's request, in its turn, and told as it ends."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

TOKEN = "a-token-for-tests-of-warming"
START = Callable[..., Proxy]


class Warming:
    """A running call; its lines as they come."""

    def __init__(self, proxy: Proxy, urls: Sequence[str], **body: Any) -> None:
        assert proxy.metrics_address is not None
        self._connection = http.client.HTTPConnection(*proxy.metrics_address, timeout=60)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self._connection.request("POST", "/api/v1/warm", json.dumps({"urls": urls, **body}), headers)
        self.response = self._connection.getresponse()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self._connection.close()

    def line(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.response.readline())
        return line

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """By the URL, when it has ended."""
        lines = [json.loads(line) for line in self.response.read().splitlines()]
        return {line["url"]: line for line in lines if "outcome" in line}


@pytest.fixture
def start(start_proxy: START, tmp_path: Path) -> START:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return lambda **options: start_proxy(admin_token_file=tmp_path / "token", **options)


def warm(proxy: Proxy, *urls: str, **body: Any) -> dict[str, dict[str, Any]]:
    with Warming(proxy, urls, **body) as warming:
        assert warming.response.status == 200, warming.response.read()
        return warming.outcomes()


def test_what_is_warmed_is_a_hit_for_those_who_come(start: START, origin: Origin) -> None:
    proxy = start()
    small, large = origin.serve("/small", Reply(size=1000)), origin.serve("/large", Reply(size=3_000_000))
    found = warm(proxy, small, large)
    assert [(found[url]["outcome"], found[url]["status"], found[url]["bytes"]) for url in (small, large)] == [
        ("filled", 200, 1000), ("filled", 200, 3_000_000),
    ]  # fmt: skip
    for url in (small, large):
        assert proxy.get(url).hit
    assert origin.count("/small") == origin.count("/large") == 1
    assert {line["outcome"] for line in warm(proxy, small, large).values()} == {"hit"}
    assert proxy.value("misses_total") == 0, "nobody has asked for it"


def test_what_is_not_stored_is_named_with_the_reason(start: START, origin: Origin) -> None:
    refused = Origin()
    with refused:
        proxy = start(access_destinations=[f"deny 127.0.0.1:{refused.port}", "allow 127.0.0.0/8:1-65535"])
        private = origin.serve("/private", Reply(size=10_000_000, headers=(("Cache-Control", "no-store"),)))
        gone = origin.serve("/gone", Reply(status=404, size=10, headers=(("Cache-Control", "max-age=60"),)))
        moved = origin.serve(
            "/moved", Reply(status=301, size=0, headers=(("Location", "/there"), ("Cache-Control", "max-age=60")))
        )
        broken = origin.serve("/broken", Reply(fail="reset"))
        odd = "http://exa mple.com/"
        found = warm(proxy, private, gone, moved, broken, odd, "ftp://127.0.0.1/", refused.url("/x"))
    assert (found[private]["outcome"], found[private]["detail"]) == ("not_stored", "no-store")
    assert (found[gone]["outcome"], found[gone]["detail"]) == ("error", "the origin answers 404")
    assert (found[moved]["status"], found[moved]["detail"]) == (301, "redirects to /there, which is another URL")
    assert found[broken]["outcome"] == "error"
    assert found[broken]["status"] == 502
    assert found[odd]["outcome"] == found["ftp://127.0.0.1/"]["outcome"] == "error"
    assert "access_destinations" in found[refused.url("/x")]["detail"]
    assert refused.count("/x") == 0


def test_a_fill_that_runs_is_joined(start: START, origin: Origin) -> None:
    proxy = start()
    gate = Gate()
    url = origin.serve("/shared", Reply(size=100_000, body_gate=gate, gate_at=50_000))
    fetch = proxy.start_get(url)
    fetch.received(50_000)
    with Warming(proxy, [url]) as warming:
        running = warming.line()["running"]
        assert [(one["url"], one["state"], one["total"]) for one in running] == [(url, "running", 100_000)]
        gate.open()
        assert warming.outcomes()[url]["outcome"] == "filled"
    assert fetch.result(60).ok
    assert origin.count("/shared") == 1


def test_it_queues_as_one_client_among_others(start: START, origin: Origin) -> None:
    """With one slot and ten URLs before it, an agent that comes later is second, and not eleventh."""
    proxy = start(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    urls = [origin.serve(f"/warm/{number}", Reply(size=100, gate=gate)) for number in range(10)]
    with Warming(proxy, urls, concurrency=10) as warming:
        proxy.wait_for_metric("origin_fetches_queued", 9)
        assert proxy.status()["limiter"]["queued_per_client"] == {"warm": 9}
        agent = proxy.start_get(origin.url("/agent"))
        proxy.wait_for_metric("origin_fetches_queued", 10)
        gate.open()
        assert agent.result(60).ok
        assert {line["outcome"] for line in warming.outcomes().values()} == {"filled"}
    order = [request.target for request in origin.seen()]
    assert order.index("/agent") <= 2


def test_it_ends_with_the_connection(start: START, origin: Origin) -> None:
    """What has not begun is never asked for, and the queue is empty again."""
    proxy = start(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    urls = [origin.serve(f"/{number}", Reply(size=100, gate=gate)) for number in range(20)]
    with Warming(proxy, urls, concurrency=3) as warming:
        proxy.wait_for_metric("origin_fetches_queued", 2)
        assert len(warming.line()["running"]) == 3
    proxy.wait_for_metric("origin_fetches_queued", 0)
    proxy.eventually(lambda: proxy.status()["fills"], lambda fills: len(fills) <= 1)
    gate.open()
    proxy.wait_until_idle()
    assert sum(origin.count(f"/{number}") for number in range(20)) == 1


def test_a_client_that_has_gone_at_once_is_no_error(start: START, origin: Origin) -> None:
    """Before the head of the answer. (The log is looked at at the end.)"""
    proxy = start()
    assert proxy.metrics_address is not None
    url = origin.serve("/warmed", Reply(size=100))
    body = json.dumps({"urls": [url]}).encode()
    for _ in range(30):
        with socket.create_connection(proxy.metrics_address) as connection:
            connection.sendall(
                b"POST /api/v1/warm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (TOKEN.encode(), len(body), body)
            )
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    proxy.eventually(lambda: proxy.status()["fills"], lambda fills: not fills)


def test_variants_are_warmed_by_the_fields_they_vary_by(start: START, origin: Origin) -> None:
    proxy = start()
    headers = (("Cache-Control", "max-age=600"), ("Vary", "Accept-Encoding"))
    url = origin.serve("/varies", Reply(size=100, headers=headers))
    assert warm(proxy, url, headers=["Accept-Encoding: gzip"])[url]["outcome"] == "filled"
    assert proxy.get(url, headers=[("Accept-Encoding", "gzip")]).hit
    assert not proxy.get(url, headers=[("Accept-Encoding", "br")]).hit


def test_a_rule_that_looks_at_fields_holds_for_it(start: START, origin: Origin) -> None:
    """It takes a flow to tell."""
    proxy = start(cache_ttl="|~hq X-Build|1h|force")
    url = origin.serve("/ruled", Reply(size=100, headers=(("Cache-Control", "no-store"),)))
    assert warm(proxy, url)[url]["outcome"] == "not_stored"
    assert warm(proxy, url, headers=["X-Build: 1"])[url]["outcome"] == "filled"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"urls": []}, "urls"),
        ({"urls": "http://a/"}, "urls"),
        ({"urls": ["http://a/"] * 10_001}, "urls"),
        ({"urls": ["http://a/"], "concurrency": 0}, "concurrency"),
        ({"urls": ["http://a/"], "concurrency": 65}, "concurrency"),
        ({"urls": ["http://a/"], "concurrency": True}, "concurrency"),
        ({"urls": ["http://a/"], "headers": ["no colon"]}, "headers"),
        ({"urls": ["http://a/"], "headers": ["Host: b"]}, "headers"),
        ({"urls": ["http://a/"], "headers": ["Range: bytes=0-1"]}, "headers"),
        ({"urls": ["http://a/"], "headers": ["A: b\r\nRange: bytes=0-1"]}, "headers"),
        ({"urls": ["http://a/"], "headers": ["Connection: x"]}, "headers"),
        ({"urls": ["http://a/"], "headers": ["Content-Length: 3"]}, "headers"),
        ({"urls": ["http://a/"], "heders": []}, "heders"),
    ],
)
def test_a_bad_request_names_what_is_wrong(warming_proxy: Proxy, body: dict[str, Any], named: str) -> None:
    with Warming(warming_proxy, **body) as warming:
        assert warming.response.status == 400
        assert named in json.loads(warming.response.read())["detail"]


@pytest.fixture(scope="module")
def warming_proxy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("warm")
    (folder / "token").write_text(f"{TOKEN}\n")
    with Proxy(folder, admin_token_file=folder / "token") as proxy:
        yield proxy
