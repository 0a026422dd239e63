"""The access log as programs read it: objects and Squid's lines, in a file that is rotated, with ids of requests. The
same on the fast lane and as flows."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import Wire
from tests.support.origin import Gate, Origin, Reply, bind_new_port
from tests.support.proxy import Proxy

from .unit.test_log_formats import SQUID

Start = Callable[..., Proxy]
FRESH = ("Cache-Control", "max-age=3600")
ID = "X-Request-Id"


def lines(proxy: Proxy, path: Path, count: int) -> list[str]:
    """The lines of a log file, once there are so many."""
    return proxy.eventually(
        lambda: path.read_text().splitlines(), lambda found: len(found) >= count, told=f"{count} lines in {path}"
    )


def ask_in_many_ways(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/a%20b?token=hush", Reply(headers=(FRESH,), size=1234))
    for _ in range(2):
        assert proxy.get(url).ok
    assert proxy.request("POST", origin.serve("/posted", Reply(size=10)), body=b"x").ok
    with bind_new_port() as nobody:
        assert proxy.get(f"http://127.0.0.1:{nobody.getsockname()[1]}/gone").status == 502
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {origin.netloc} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        assert wire.head()[0] == 200
    with Wire(proxy.address) as wire:
        wire.send("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nbad line\r\n\r\n")
        assert wire.response().status == 400


def test_objects_a_line(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    proxy = start_proxy(access_log_format="json", access_log_file=path, origin_retries=0)
    ask_in_many_ways(proxy, origin)
    found: list[dict[str, Any]] = [json.loads(line) for line in lines(proxy, path, 6)]
    told = [(one["method"], one["status"], one["source"]) for one in found]
    assert sorted(told) == sorted([
        ("GET", 200, "miss"), ("GET", 200, "hit"), ("POST", 200, "forwarded"), ("GET", 502, "error"),
        ("CONNECT", 200, "tunnel"), ("-", 400, "error"),
    ])  # fmt: skip
    miss = found[0]
    assert miss["url"] == f"http://{origin.netloc}/a%20b?token=***"
    assert (miss["bytes"], miss["client"], miss["fwd"]) == (1234, "127.0.0.1", "uri-miss")
    gone = next(one for one in found if one["status"] == 502)
    assert (gone["error"], gone["fwd"]) == ("connection_refused", "uri-miss")
    assert "hush" not in path.read_text()
    assert not any("/posted" in line for line in proxy.log), "it is not in the other log, too"


def test_squids_lines(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    proxy = start_proxy(access_log_format="squid", access_log_file=path, origin_retries=0)
    ask_in_many_ways(proxy, origin)
    found = [SQUID.fullmatch(line) for line in lines(proxy, path, 6)]
    told = [f"{one['code']}/{one['status']} {one['method']} {one['hierarchy']}" for one in found if one is not None]
    assert sorted(told) == sorted([
        "TCP_MISS/200 GET HIER_DIRECT", "TCP_HIT/200 GET HIER_NONE", "TCP_MISS/200 POST HIER_DIRECT",
        "TCP_MISS/502 GET HIER_DIRECT", "TCP_TUNNEL/200 CONNECT HIER_DIRECT", "NONE_NONE/400 NONE HIER_NONE",
    ])  # fmt: skip
    assert found[0] is not None
    assert found[0]["url"] == f"http://{origin.netloc}/a%20b?token=***"


def test_another_format_while_it_runs(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "confdir").mkdir()
    config = tmp_path / "confdir" / "config.yaml"
    config.write_text("")
    proxy = start_proxy(confdir=config.parent)
    url = origin.serve("/x", Reply(headers=(FRESH,), size=10))
    assert proxy.get(url).ok
    proxy.wait_for_log("/x 200 10 B .* miss ")
    for text, pattern in (
        ("access_log_format: json", r'\{"time":.*"url":"http://[^"]*/x".*"source":"hit".*\}'),
        ("access_log_format: squid", r"TCP_HIT/200 10 GET http://\S*/x - HIER_NONE/- -$"),
        ("access_log_format: line", "/x 200 10 B .* hit "),
    ):
        since = len(proxy.log)
        config.write_text(f"{text}\n")
        proxy.signal(signal.SIGHUP)
        proxy.wait_for_log("SIGHUP: config.yaml read again: access_log_format", since=since)
        assert proxy.get(url).ok
        proxy.wait_for_log(pattern, since=since)


def test_rotation_under_load_loses_no_line(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    """As logrotate does it: rename, signal, and again."""
    path = tmp_path / "access.log"
    proxy = start_proxy(access_log_format="json", access_log_file=path)
    origin.serve_prefix("/", Reply(headers=(FRESH,), size=10))
    requests, rotations = 1200, 4
    go_on = threading.Semaphore(0)

    def rotate() -> None:
        for number in range(rotations):
            go_on.acquire()
            path.rename(tmp_path / f"access.log.{number}")
            proxy.signal(signal.SIGHUP)
            proxy.eventually(path.exists, bool, told="a new file")

    thread = threading.Thread(target=rotate)
    thread.start()
    with Wire(proxy.address) as wire:
        for number in range(requests):
            if number % (requests // rotations) == 0:
                go_on.release()
            wire.send(f"GET {origin.url(f'/{number}')} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
            assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
            wire.exactly(10)
    thread.join()
    proxy.terminate()
    assert proxy.wait() == 0
    files = list(tmp_path.glob("access.log*"))
    assert len(files) == rotations + 1
    urls = [json.loads(line)["url"] for file in files for line in file.read_text().splitlines()]
    assert sorted(url.rpartition("/")[2] for url in urls) == sorted(map(str, range(requests)))


# -- steps of a miss --------------------------------------------------------------------------------------------------


def test_a_miss_tells_its_steps_and_a_hit_has_none(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    proxy = start_proxy(access_log_format="json", access_log_file=path, access_log_phases=True, origin_max_in_flight=1)
    gate = Gate()
    first = proxy.start_get(origin.serve("/first", Reply(headers=(FRESH,), size=100_000, body_gate=gate, gate_at=10)))
    origin.wait_for("/first")
    second = proxy.start_get(origin.serve("/second", Reply(headers=(FRESH,), size=10)))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    gate.open()
    assert first.result().ok
    assert second.result().ok
    assert proxy.get(origin.url("/second")).ok
    found = [json.loads(line) for line in lines(proxy, path, 3)]
    steps = [{name for name in one if name.endswith("_ms")} - {"duration_ms", "queued_ms"} for one in found]
    assert steps[0] >= {"lookup_ms", "connect_ms", "first_byte_ms", "body_ms"}
    assert steps[1] >= {"lookup_ms", "queue_ms", "first_byte_ms"}
    assert steps[2] == set()
    for one in found[:2]:
        assert all(value <= one["duration_ms"] + 1 for name, value in one.items() if name.endswith("_ms"))


def test_steps_in_a_line(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(access_log_phases=True)
    assert proxy.get(origin.serve("/steps", Reply(size=10))).ok
    proxy.wait_for_log(r"/steps 200 10 B [\d.]+ ms miss fwd=uri-miss lookup=[\d.]+ms .*first_byte=[\d.]+ms .*\[127")


# -- ids of requests --------------------------------------------------------------------------------------------------


def ids_told(response: Any) -> list[str]:
    return [value for name, value in response.headers if name.lower() == ID.lower()]


def test_a_request_has_one_id_everywhere(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    proxy = start_proxy(request_id=True, access_log_format="json", access_log_file=path)
    theirs = Reply(headers=(FRESH, (ID, "of-the-origin")), size=10)
    url = origin.serve("/a", theirs)
    sent = ["one", "two", "x" * 128, "", "x" * 129, "b\xe4d", "two words", None, None]
    told = []
    for value in sent:
        response = proxy.get(url, headers=[] if value is None else [(ID, value)])
        assert response.ok
        (own,) = ids_told(response)
        told.append(own)
    assert told[:3] == ["one", "two", "x" * 128]
    assert all(len(made) == 32 and made.isalnum() for made in told[3:])
    assert len(set(told)) == len(told)
    found = [json.loads(line) for line in lines(proxy, path, len(sent))]
    assert [one["request_id"] for one in found] == told
    assert [one["source"] for one in found] == ["miss"] + ["hit"] * (len(sent) - 1)
    assert ids_seen(origin, "/a") == ["one"]


@pytest.mark.parametrize("own", ["", f"{ID}: mine\r\n"])
@pytest.mark.parametrize("more", ["", "Connection: keep-alive\r\n"])
def test_the_same_bytes_are_another_request_each_time(
    start_proxy: Start, origin: Origin, tmp_path: Path, own: str, more: str
) -> None:
    path = tmp_path / "access.log"
    proxy = start_proxy(request_id=True, access_log_format="json", access_log_file=path)
    url = origin.serve("/a", Reply(headers=(FRESH,), size=10))
    version = "1.0" if more else "1.1"
    told = []
    for _ in range(2):
        with Wire(proxy.address) as wire:
            for count in (1, 1, 1, 3):
                wire.send(f"GET {url} HTTP/{version}\r\nHost: {origin.netloc}\r\n{own}{more}\r\n" * count)
                for _ in range(count):
                    response = wire.response()
                    assert (response.header("Connection") or "").lower() == ("keep-alive" if more else "")
                    told += ids_told(response)
    assert len(told) == 12
    assert len(set(told)) == (1 if own else 12)
    assert [json.loads(line)["request_id"] for line in lines(proxy, path, 12)] == told


def ids_seen(origin: Origin, path: str) -> list[str]:
    return [value for request in origin.seen(path) for name, value in request.headers if name.lower() == ID.lower()]


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
def test_what_is_forwarded_has_one_too(start_proxy: Start, origin: Origin, tmp_path: Path, method: str) -> None:
    path = tmp_path / "access.log"
    proxy = start_proxy(request_id=True, access_log_format="json", access_log_file=path)
    url = origin.serve("/f", Reply(headers=((ID, "of-the-origin"),), size=10))
    response = proxy.request(method, url, headers=[(ID, "mine")], body=b"x" if method != "HEAD" else b"")
    assert ids_told(response) == ["mine"]
    assert ids_seen(origin, "/f") == ["mine"]
    assert json.loads(lines(proxy, path, 1)[0])["request_id"] == "mine"


def test_errors_of_our_own_have_one(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(request_id=True, origin_retries=0)
    with bind_new_port() as nobody:
        for method in ("GET", "POST"):
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}/gone/{method}"
            response = proxy.request(method, url, headers=[(ID, "mine")], body=b"x" if method == "POST" else b"")
            assert (response.status, ids_told(response)) == (502, ["mine"])
            proxy.wait_for_log(f"/gone/{method} 502 .* error=connection_refused request_id=mine .127")


def test_without_the_option_the_field_is_like_any_other(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/plain", Reply(headers=(FRESH, (ID, "of-the-origin")), size=10))
    assert [ids_told(proxy.get(url, headers=[(ID, "mine")])) for _ in range(2)] == [["of-the-origin"]] * 2
    assert ids_seen(origin, "/plain") == ["mine"]
    assert not any("request_id" in line for line in proxy.log)
