"""Several processes that are one proxy: real ones, as ``proxy-cache run --workers`` starts them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import Wire, results
from tests.support.origin import PATIENCE, Gate, Origin, Reply, bind_new_port
from tests.support.proxy import START_TIMEOUT
from tests.support.workers import Workers

TOKEN = "an-admin-token-of-tests"
LIMIT = 3
FRESH = Reply(size=10_000, headers=(("Cache-Control", "max-age=3600"),))
_names = count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Two workers, for all that leaves them as they were."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "token").write_text(TOKEN)
    with Workers(
        folder, origin_max_in_flight=LIMIT, origin_queue_timeout=60, admin_token_file=folder / "token",
        shutdown_grace=60,
    ) as proxy:  # fmt: skip
        yield proxy


def fresh_urls(origin: Origin, many: int, reply: Reply = FRESH) -> list[str]:
    return [origin.serve(f"/{next(_names)}", reply) for _ in range(many)]


def post(proxy: Workers, path: str, body: Any, token: str = TOKEN) -> tuple[int, Any]:
    assert proxy.metrics_address is not None
    connection = http.client.HTTPConnection(*proxy.metrics_address, timeout=PATIENCE)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def storm(proxy: Workers, origin: Origin, *, keys: int, clients: int, limit: int) -> None:
    """All clients want all keys at once, each by a connection of its own."""
    gate = Gate()
    before = proxy.metrics()
    urls = fresh_urls(origin, keys, Reply(size=10_000, headers=(("Cache-Control", "max-age=3600"),), gate=gate))
    fetches = [proxy.start_get(url, expect=10_000) for url in urls for _ in range(clients)]
    proxy.wait_for_metric("origin_fetches_queued", keys - limit)
    assert proxy.value("origin_fetches_in_flight") == limit
    origin.wait(lambda: origin.count() >= limit)
    assert origin.count() == limit
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert [origin.count(url.removeprefix(origin.base)) for url in urls] == [1] * keys
    grown = proxy.settled() - before
    assert grown.value("hits_total") + grown.value("misses_total") == keys * clients
    assert grown.value("bytes_served_total") == keys * clients * 10_000
    assert grown.value("origin_fetches_total", outcome="stored") == keys
    assert grown.after.waits("admitted") - grown.before.waits("admitted") == keys - limit


def test_a_key_is_fetched_once_and_the_limit_is_the_machines(shared: Workers, origin: Origin) -> None:
    storm(shared, origin, keys=12, clients=6, limit=LIMIT)
    entries = [worker["store"]["entries"] for worker in shared.workers()]
    assert all(entries), "each is the home of some"


def test_the_storm_holds_with_four_workers(tmp_path: Path, origin: Origin) -> None:
    """With fewer slots than workers."""
    with Workers(tmp_path, count=4, origin_max_in_flight=2, origin_queue_timeout=60) as proxy:
        storm(proxy, origin, keys=16, clients=8, limit=2)
        assert len(proxy.workers()) == 4


def test_what_is_asked_for_often_is_kept_by_every_worker(shared: Workers, origin: Origin) -> None:
    (url,) = fresh_urls(origin, 1)
    asked = shared.value("peer_fetches_total")
    for _ in range(40):
        assert shared.get(url, expect=10_000).ok
    assert shared.value("peer_fetches_total") - asked <= 2, "from the second time on there is a copy"
    assert origin.count() == 1


def test_the_metrics_port_speaks_for_all(shared: Workers, origin: Origin) -> None:
    assert shared.admin("/healthz")[0] == shared.admin("/readyz")[0] == 200
    status = json.loads(shared.admin("/api/v1/status")[1])
    assert [worker["worker"] for worker in status["workers"]] == [0, 1]
    assert status["ready"]
    assert all(worker["ready"] for worker in status["workers"])
    assert status["store"]["dir"] == str(shared.cache_dir)
    assert status["store"]["entries"] == sum(worker["store"]["entries"] for worker in status["workers"])
    assert status["limiter"]["max_in_flight"] == LIMIT
    one = json.loads(shared.admin("/api/v1/status?worker=1")[1])
    assert one["store"]["dir"] == str(shared.cache_dir / "worker-1")
    assert shared.value("workers") == shared.value("workers_ready") == 2
    assert shared.value("build_info") == shared.value("peers_left_alone") + 1 == 1
    assert shared.admin("/api/v1/status?worker=2")[0] == 400
    assert b"<!doctype html>" in shared.admin("/")[1]
    assert shared.admin("/api/v1/nothing")[0] == 404
    refused, told = post(shared, "/api/v1/verify", {})
    assert (refused, told["detail"]) == (501, "with several workers this is for one at a time: add ?worker=0 to 1")


def test_entries_are_listed_page_by_page_as_of_one(shared: Workers, origin: Origin) -> None:
    urls = fresh_urls(origin, 7)
    assert all(shared.get(url).ok for url in urls)
    shared.wait_until_idle()
    for sort in ("", "&sort=url"):
        found: list[str] = []
        more = ""
        while more is not None:
            status, body = shared.admin(f"/api/v1/entries?host={origin.netloc}&limit=2{sort}{more}")
            assert status == 200
            page = json.loads(body)
            found += [entry["url"] for entry in page["entries"]]
            more = f"&cursor={page['next']}" if page["next"] is not None else None
        assert sorted(set(found)) == sorted(urls)
        if sort:
            assert found == sorted(found)


def test_a_purge_reaches_every_worker(shared: Workers, origin: Origin) -> None:
    api, method, host = fresh_urls(origin, 3)
    for url in (api, method, host):
        get_until_both_have_it(shared, url)
    status, told = post(shared, "/api/v1/purge", {"url": api})
    assert status == 200
    assert told["purged"] == 2
    assert shared.request("PURGE", method, headers=[("Authorization", f"Bearer {TOKEN}")]).status == 200
    for url in (api, method):
        path = url.removeprefix(origin.base)
        responses = results([shared.start_get(url) for _ in range(12)])
        assert all(response.ok for response in responses)
        assert origin.count(path) == 2, "and it is fetched once for both"
    status, told = post(shared, "/api/v1/purge", {"host": origin.netloc})
    assert status == 200
    assert told["purged"] >= 3
    assert post(shared, "/api/v1/purge", {"all": True}, token="another")[0] == 401


def test_an_unsafe_method_is_heard_of_by_every_worker(shared: Workers, origin: Origin) -> None:
    (url,) = fresh_urls(origin, 1)
    path = url.removeprefix(origin.base)
    get_until_both_have_it(shared, url)
    assert shared.request("PUT", url, body=b"new").ok
    shared.eventually(lambda: entries_of(shared, url), lambda found: not found, told="what is stored")
    assert all(shared.get(url).ok for _ in range(12))
    # Twice, and once more if the one that has passed it on is to be sure that the key's home has heard of it.
    assert 2 <= origin.count(path, "GET") <= 3


def get_until_both_have_it(proxy: Workers, url: str) -> None:
    def copies() -> int:
        assert proxy.get(url).ok
        return len(entries_of(proxy, url))

    proxy.eventually(copies, lambda count: count == 2, told="the number of copies")


def entries_of(proxy: Workers, url: str) -> list[Any]:
    found = json.loads(proxy.admin(f"/api/v1/entries?sort=url&match={url}")[1])
    assert isinstance(found["entries"], list)
    return found["entries"]


def test_nobody_else_gets_in_where_workers_ask_each_other(shared: Workers, origin: Origin) -> None:
    (url,) = fresh_urls(origin, 1)
    ports = shared.peer_ports()
    assert len(ports) == 2
    for port in ports:
        with Wire(("127.0.0.1", port)) as wire:
            wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nCache-Peer: ?1\r\n\r\n")
            assert left_by(wire) == b""
    assert not origin.count()


def left_by(wire: Wire) -> bytes:
    try:
        return wire.rest()
    except ConnectionResetError:
        return b""


def test_a_client_that_leaves_the_queue_costs_the_origin_nothing(shared: Workers, origin: Origin) -> None:
    gate = Gate()
    held = [shared.start_get(url) for url in fresh_urls(origin, LIMIT, Reply(size=1000, gate=gate))]
    shared.wait_for_metric("origin_fetches_in_flight", LIMIT)
    before = shared.metrics().waits("canceled")
    (url,) = fresh_urls(origin, 1)
    leaving = shared.start_get(url)
    shared.wait_for_metric("origin_fetches_queued", 1)
    leaving.leave()
    shared.wait_for_metric("origin_fetches_queued", 0)
    assert shared.metrics().waits("canceled") == before + 1
    gate.open()
    assert all(response.ok for response in results(held))
    assert not origin.count(url.removeprefix(origin.base))


def test_a_worker_that_is_killed_costs_its_own_responses_and_comes_back(shared: Workers, origin: Origin) -> None:
    """What the other one has begun to read from it goes on from the origin."""
    gate = Gate()
    half = Reply(size=400_000, headers=(("Cache-Control", "max-age=3600"),), body_gate=gate, gate_at=200_000)
    urls = fresh_urls(origin, LIMIT - 1, half)
    fetches = [shared.start_get(url, expect=400_000) for url in urls for _ in range(12)]
    for fetch in fetches:
        fetch.received(200_000)
    served = shared.value("misses_total")
    victim = shared.workers()[1]["pid"]
    own = len(clients_of(victim, shared.address[1]))
    assert own, "of 24 connections"
    restarts = shared.value("worker_restarts_total")
    shared.kill_worker(1)
    shared.wait_for_log(rf"worker 1 \(pid {victim}\) has died \(signal 9\): started again")
    shared.eventually(lambda: sum(fetch.ended for fetch in fetches), lambda ended: ended == own, told="cut responses")
    (url,) = fresh_urls(origin, 1)
    assert all(shared.get(url, expect=10_000).ok for _ in range(8)), "the other one goes on"
    gate.open()
    responses = results(fetches)
    assert sum(not response.complete for response in responses) == own
    assert all(response.ok for response in responses if response.complete)
    assert shared.value("misses_total") >= served, "what a dead worker has counted stays counted"

    shared.wait_until_all_are_back()
    assert shared.value("worker_restarts_total") == restarts + 1
    shared.wait_for_metric("peers_left_alone", 0)
    urls = fresh_urls(origin, 8)
    assert all(response.ok for response in results([shared.start_get(url) for url in urls for _ in range(4)]))
    assert [origin.count(url.removeprefix(origin.base)) for url in urls] == [1] * 8


def test_what_a_hung_worker_has_not_heard_it_hears_in_its_next_life(shared: Workers, origin: Origin) -> None:
    urls = fresh_urls(origin, 6)
    for url in urls:
        get_until_both_have_it(shared, url)
    victim = shared.workers()[1]["pid"]
    os.kill(victim, signal.SIGSTOP)
    for url in urls:
        with Wire(shared.address) as wire:
            wire.send(f"PUT {url} HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: 0\r\n\r\n")
            wire.socket.settimeout(1)
            try:
                assert wire.head()[0] == 200
            except TimeoutError:
                pass  # the kernel has given this one to the worker that hangs
    changed = [url for url in urls if origin.count(url.removeprefix(origin.base), "PUT")]
    os.kill(victim, signal.SIGKILL)
    shared.wait_for_log(rf"worker 1 \(pid {victim}\) has died \(signal 9\): started again")
    shared.wait_until_all_are_back()
    for url in changed:
        shared.eventually(lambda url=url: entries_of(shared, url), lambda found: not found, told="what is stored")  # type: ignore[misc]


def test_a_full_queue_turns_all_away_who_want_the_same(tmp_path: Path, origin: Origin) -> None:
    with Workers(tmp_path, origin_max_in_flight=1, origin_queue_max=0) as proxy:
        gate = Gate()
        held, wanted = fresh_urls(origin, 2, Reply(size=1000, gate=gate))
        holding = proxy.start_get(held)
        proxy.wait_for_metric("origin_fetches_in_flight", 1)
        assert [one.status for one in results([proxy.start_get(wanted) for _ in range(30)])] == [503] * 30
        gate.open()
        assert holding.result().ok
        assert proxy.get(wanted).ok
        proxy.wait_for_metric("origin_fetches_in_flight", 0)


def test_start_reload_and_stop(tmp_path: Path, origin: Origin) -> None:
    """A signal is for all, and a service manager hears of them as of one. A limit counts what runs already."""
    confdir = tmp_path / "confdir"
    confdir.mkdir()
    config = confdir / "config.yaml"
    config.write_text("origin_max_in_flight: 0\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(START_TIMEOUT)
        manager.bind(str(tmp_path / "notify"))
        with Workers(
            tmp_path, confdir=confdir, origin_queue_timeout=60, shutdown_grace=60,
            environment={"NOTIFY_SOCKET": str(tmp_path / "notify")},
        ) as proxy:  # fmt: skip
            assert manager.recv(4096).startswith(b"READY=1")
            assert proxy.admin("/readyz")[0] == 200, "when all are"
            gate = Gate()
            slow = Reply(size=1000, headers=(("Cache-Control", "max-age=3600"),), gate=gate)
            running = [proxy.start_get(url) for url in fresh_urls(origin, 3, slow)]
            proxy.wait_for_metric("origin_fetches_in_flight", 3)
            config.write_text("origin_max_in_flight: 4\n")
            proxy.signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1")
            assert manager.recv(4096).startswith(b"READY=1")
            more = [proxy.start_get(url) for url in fresh_urls(origin, 3, slow)]
            proxy.wait_for_metric("origin_fetches_queued", 2)
            assert proxy.value("origin_fetches_in_flight") == 4
            gate.open()
            assert all(response.ok for response in results([*running, *more]))
            assert origin.count() == 6

            gate = Gate()
            last = Reply(size=100_000, body_gate=gate, gate_at=50_000)
            fetches = [proxy.start_get(url, expect=100_000) for url in fresh_urls(origin, 4, last)]
            for fetch in fetches:
                fetch.received(50_000)
            proxy.signal(signal.SIGTERM)
            assert manager.recv(4096).startswith(b"STOPPING=1")
            proxy.wait_for_log("responses to finish")
            gate.open()
            assert all(response.ok for response in results(fetches))
            assert proxy.wait() == 0
            assert proxy.text().count("proxy-cache: stopped") == 2


def clients_of(pid: int, port: int) -> list[str]:
    """Connections at this port that a process has accepted."""
    inodes = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        line[2] for line in fields
        if line[3] == "01" and line[1].endswith(f":{port:04X}") and f"socket:[{line[9]}]" in inodes
    ]  # fmt: skip


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    proxy = Workers(tmp_path, origin_max_in_flight=-1)
    proxy.launch()
    assert proxy.wait(START_TIMEOUT) == 1
    assert proxy.text().count("origin_max_in_flight: must be") == 1
    assert "started again" not in proxy.text()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """By another proxy with workers, too, which shares its port with its own workers alone."""
    with bind_new_port() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.listen()
        proxy = Workers(tmp_path, listen_port=taken.getsockname()[1])
        proxy.launch()
        assert proxy.wait(START_TIMEOUT) == 1
        assert proxy.text().count("failed to listen on") == 1
    with bind_new_port() as taken:
        taken.listen()
        proxy = Workers(tmp_path, metrics_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        proxy.launch()
        assert proxy.wait(START_TIMEOUT) == 1
        assert proxy.text().count("metrics_listen: cannot listen on") == 1
