"""A line for every request: when, what its client was sent, and why. The same on the fast lane, as flows, and for what
is only forwarded; docs/access-log.md says how to read one."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.agents import Wire
from tests.support.origin import Gate, Origin, Reply, bind_new_port
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
FRESH = ("Cache-Control", "max-age=3600")
ETAG = ("ETag", '"v1"')
LINE = re.compile(
    r"(?P<time>\S+) (?P<method>\S+) (?P<url>\S+) (?P<status>\d+) (?P<bytes>\d+) B (?P<ms>[\d.]+) ms (?P<source>[a-z]+)"
    r"(?P<keys>(?: [a-z_]+=[!-~]+)*) \[(?P<client>[^\]]+)\](?: \((?P<note>.*)\))?"
)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    """One proxy for the file that tries nothing twice, has one slot, and waits a second for it."""
    options = {"origin_retries": 0, "origin_max_in_flight": 1, "origin_queue_timeout": 1, "fast_lane": fast_lane}
    with Proxy(tmp_path_factory.mktemp("impatient"), **options) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    """One that wants a password."""
    with Proxy(tmp_path_factory.mktemp("closed"), proxyauth="user:secret", fast_lane=fast_lane) as proxy:
        yield proxy


class Line:
    """One line of the access log, read as its page tells."""

    def __init__(self, match: re.Match[str]) -> None:
        self.time, self.method, self.url, self.source = match["time"], match["method"], match["url"], match["source"]
        self.status, self.bytes, self.client, self.note = (
            int(match["status"]),
            int(match["bytes"]),
            match["client"],
            match["note"],
        )
        self.keys = dict(key.split("=", 1) for key in match["keys"].split())

    @property
    def short(self) -> tuple[int, str, dict[str, str]]:
        """Status, source, and why; the time in the queue is no test's to foretell."""
        return self.status, self.source, {key: value for key, value in self.keys.items() if key != "queued"}


def lines(proxy: Proxy, end: str, count: int = 1) -> list[Line]:
    """The lines of requests whose URL ends so, once there are so many."""

    def found() -> list[Line]:
        return [Line(match) for text in proxy.log if (match := LINE.fullmatch(text)) and match["url"].endswith(end)]

    result = proxy.eventually(found, lambda found: len(found) >= count, told=f"the lines of {end}")
    assert len(result) == count, proxy.text()
    assert isinstance(result, list)
    return result


def test_a_line_has_date_zone_and_everything_at_its_place(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(environment={"TZ": "Asia/Kolkata"})
    url = origin.serve("/tool", Reply(headers=(FRESH,), size=1234))
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
    for _ in range(2):
        assert proxy.get(url).ok
    for line in lines(proxy, "/tool", 2):
        when = datetime.datetime.fromisoformat(line.time)
        assert line.time.endswith("+05:30")
        assert before <= when <= datetime.datetime.now(datetime.UTC)
        assert (line.method, line.bytes, line.client) == ("GET", 1234, "127.0.0.1")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/tool", line.url)
    assert [line.short for line in lines(proxy, "/tool", 2)] == [(200, "miss", {"fwd": "uri-miss"}), (200, "hit", {})]


@pytest.mark.parametrize(
    ("reason", "reply", "asked"),
    [
        ("no-store", Reply(headers=(("Cache-Control", "no-store"),)), ()),
        ("private", Reply(headers=(("Cache-Control", "private, max-age=9"),)), ()),
        ("set-cookie", Reply(headers=(FRESH, ("Set-Cookie", "a=b"))), ()),
        ("vary-star", Reply(headers=(FRESH, ("Vary", "*"))), ()),
        ("no-freshness", Reply(status=302, headers=()), ()),
        ("status", Reply(status=401, headers=(FRESH,)), ()),
        ("authorization", Reply(headers=(FRESH,)), (("Authorization", "Bearer x"),)),
        ("credentials", Reply(headers=(ETAG,)), (("Cookie", "a=b"),)),
        ("request-no-store", Reply(headers=(FRESH,)), (("Cache-Control", "no-store"),)),
    ],
)  # fmt: skip
def test_why_it_was_not_stored(
    proxy: Proxy, origin: Origin, reason: str, reply: Reply, asked: tuple[tuple[str, str], ...]
) -> None:
    before = proxy.value("origin_responses_not_stored_total", reason=reason)
    assert proxy.get(origin.serve(f"/why/{reason}", reply), headers=asked).status == reply.status
    (line,) = lines(proxy, f"/why/{reason}")
    assert line.status == reply.status
    assert line.source == "miss"
    assert line.keys["not_stored"] == reason
    assert proxy.settled().value("origin_responses_not_stored_total", reason=reason) == before + 1


def test_reasons_are_in_the_metric_from_the_start(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_max_object_size="10k")
    text = proxy.admin("/metrics")[1].decode()
    counted = dict(
        re.findall(r'^cache_proxy_origin_responses_not_stored_total\{reason="([a-z-]+)"\} (\S+)$', text, re.M)
    )
    assert set(counted.values()) == {"0.0"}
    assert {"no-store", "private", "invalidated", "store", "other"} <= set(counted)
    assert proxy.get(origin.serve("/long", Reply(size=100_000))).ok
    metrics = proxy.settled()
    assert metrics.value("origin_responses_not_stored_total", reason="store") == 1
    assert metrics.value("origin_fetches_total", outcome="not_stored") == 1
    assert lines(proxy, "/long")[0].keys["not_stored"] == "store"


def test_why_it_went_to_the_origin(proxy: Proxy, origin: Origin) -> None:
    stale = origin.serve("/stale", Reply(headers=(("Cache-Control", "max-age=0"), ETAG)))
    vary = origin.serve("/vary", Reply(headers=(FRESH, ("Vary", "X-A"))))
    for number in range(2):
        proxy.get(stale)
        proxy.get(vary, headers=[("X-A", str(number))])
        proxy.wait_until_idle()
    proxy.get(vary, headers=[("X-A", "0"), ("Cache-Control", "no-cache")])
    assert lines(proxy, "/stale", 2)[1].short == (200, "revalidated", {"fwd": "stale"})
    assert [line.keys["fwd"] for line in lines(proxy, "/vary", 3)] == ["uri-miss", "vary-miss", "request"]
    origin.serve_prefix("/", Reply(size=10))
    proxy.request("POST", origin.url("/posted"), body=b"x")
    proxy.request("HEAD", origin.url("/headed"))
    proxy.get(origin.url("/absent"), headers=[("Cache-Control", "only-if-cached")])
    assert lines(proxy, "/posted")[0].short == (200, "forwarded", {"fwd": "method"})
    assert lines(proxy, "/headed")[0].short == (200, "forwarded", {"fwd": "uri-miss"})
    denied = {"fwd": "uri-miss", "error": "http_request_denied", "detail": "only-if-cached"}
    assert lines(proxy, "/absent")[0].short == (504, "error", denied)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_why_there_is_an_error(impatient: Proxy, method: str) -> None:
    with bind_new_port() as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/gone/{method}"
        response = impatient.request(method, url)
    assert response.status == 502
    (line,) = lines(impatient, f"/gone/{method}")
    assert line.short == (
        502,
        "error",
        {"fwd": "method" if method == "POST" else "uri-miss", "error": "connection_refused"},
    )
    assert method == "HEAD" or line.bytes == len(response.body)


def test_a_tunnel_that_goes_nowhere_and_one_that_opens(proxy: Proxy, origin: Origin) -> None:
    with bind_new_port() as nobody, Wire(proxy.address) as wire:
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        wire.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
        assert wire.response().status == 502
    (line,) = lines(proxy, target)
    assert (line.method, line.status, line.source, line.keys["error"]) == (
        "CONNECT",
        502,
        "error",
        "connection_refused",
    )
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {origin.netloc} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        assert wire.head()[0] == 200
    (line,) = lines(proxy, origin.netloc)
    assert (line.method, line.short) == ("CONNECT", (200, "tunnel", {}))


def test_a_request_that_cannot_be_read(proxy: Proxy) -> None:
    with Wire(proxy.address) as wire:
        wire.send("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nbad line\r\n\r\n")
        assert wire.response().status == 400
    (line,) = lines(proxy, "-")
    assert (line.method, line.short) == ("-", (400, "error", {"fwd": "bypass", "error": "http_request_error"}))


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
def test_who_must_log_in_is_in_the_log(closed: Proxy, origin: Origin, method: str) -> None:
    url = origin.netloc if method == "CONNECT" else origin.url(f"/closed/{method}")
    body = "Content-Length: 3\r\n\r\nabc" if method == "POST" else "\r\n"
    with Wire(closed.address) as wire:
        wire.send(f"{method} {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n{body}")
        response = wire.response()
    assert response.status == 407
    (line,) = lines(closed, origin.netloc if method == "CONNECT" else f"/closed/{method}")
    assert (line.method, line.bytes, line.short) == (method, len(response.body), (407, "addon", {}))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_client_that_leaves_before_it_is_sent_anything(proxy: Proxy, origin: Origin, method: str) -> None:
    gate = Gate()
    url = origin.serve(f"/left/{method}", Reply(gate=gate))
    before = proxy.value("bytes_served_total", source="error")
    fetch = proxy.start_request(method, url, body=b"x" if method == "POST" else b"")
    origin.wait_for(f"/left/{method}")
    fetch.leave()
    (line,) = lines(proxy, f"/left/{method}")
    gate.open()
    assert (line.bytes, line.short) == (0, (499, "error", {"cut": "client"}))
    assert proxy.settled().value("bytes_served_total", source="error") == before


def test_a_client_that_leaves_the_queue(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    gate = Gate()
    first = proxy.start_get(origin.serve("/first", Reply(gate=gate)))
    origin.wait_for("/first")
    second = proxy.start_get(origin.serve("/leaves", Reply()))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    second.leave()
    (line,) = lines(proxy, "/leaves")
    gate.open()
    assert first.result().ok
    assert (line.bytes, line.short) == (0, (499, "error", {"cut": "client"}))
    assert re.fullmatch(r"\d+ms", line.keys["queued"])


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_leaves_in_the_middle_was_sent_200(
    proxy: Proxy, origin: Origin, method: str, chunked: bool
) -> None:
    gate = Gate()
    path = f"/middle/{method}/{chunked}"
    url = origin.serve(path, Reply(size=300_000, chunked=chunked, body_gate=gate, gate_at=100_000))
    fetch = proxy.start_request(method, url, body=b"x" if method == "POST" else b"")
    fetch.received(100_000)
    fetch.leave()
    (line,) = lines(proxy, path)
    gate.open()
    source, fwd = ("miss", "uri-miss") if method == "GET" else ("forwarded", "method")
    assert line.short == (200, source, {"fwd": fwd, "cut": "client"})
    assert line.bytes == 100_000


def test_a_client_that_leaves_a_hit(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/large", Reply(size=30_000_000))
    assert proxy.get(url, expect=30_000_000).ok
    proxy.wait_until_idle()
    fetch = proxy.start_get(url, paused=True)
    fetch.head()
    fetch.leave()
    line = lines(proxy, "/large", 2)[1]
    assert line.short == (200, "hit", {"cut": "client"}), proxy.text()
    assert 0 < line.bytes < 30_000_000


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_origin_that_breaks_off(impatient: Proxy, origin: Origin, method: str, chunked: bool) -> None:
    path = f"/broken/{method}/{chunked}"
    url = origin.serve(path, Reply(size=300_000, chunked=chunked, cut=100_000))
    response = impatient.request(method, url, body=b"x" if method == "POST" else b"")
    assert response.status == 200
    assert not response.complete
    (line,) = lines(impatient, path)
    assert (line.status, line.source, line.keys["cut"]) == (200, "miss" if method == "GET" else "forwarded", "origin")
    assert line.keys["error"] == "http_response_incomplete"
    assert line.bytes == response.received == 100_000


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_an_origin_that_resets_before_it_answers(impatient: Proxy, origin: Origin, method: str) -> None:
    url = origin.serve(f"/reset/{method}", *[Reply(fail="reset")] * 3)
    assert impatient.request(method, url, body=b"x" if method == "POST" else b"").status == 502
    (line,) = lines(impatient, f"/reset/{method}")
    assert line.short == (
        502, "error", {"fwd": "method" if method == "POST" else "uri-miss", "error": "connection_terminated"},
    )  # fmt: skip


def test_who_waits_too_long_is_told_why_and_so_is_the_log(impatient: Proxy, origin: Origin) -> None:
    gate = Gate()
    first = impatient.start_get(origin.serve("/holds", Reply(gate=gate)))
    origin.wait_for("/holds")
    assert impatient.get(origin.serve("/waits", Reply())).status == 503
    gate.open()
    assert first.result().ok
    (line,) = lines(impatient, "/waits")
    assert line.short == (503, "error", {"fwd": "uri-miss", "error": "connection_limit_reached", "detail": "timeout"})
    assert int(line.keys["queued"].removesuffix("ms")) >= 900


def test_what_is_cut_by_the_end_of_the_proxy(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(shutdown_grace=0)
    gate = Gate()
    fetch = proxy.start_get(origin.serve("/cut", Reply(size=300_000, body_gate=gate, gate_at=100_000)))
    fetch.received(100_000)
    proxy.terminate()
    gate.open()
    (line,) = lines(proxy, "/cut")
    assert line.short == (200, "miss", {"fwd": "uri-miss", "cut": "proxy"})


@pytest.mark.parametrize("hook", ["requestheaders", "request"])
def test_a_request_that_another_addon_has_killed(start_proxy: Start, origin: Origin, tmp_path: Any, hook: str) -> None:
    """Its client is sent nothing."""
    script = tmp_path / "killer.py"
    script.write_text(f"def {hook}(flow):\n    flow.kill()\n")
    proxy = start_proxy(scripts=[script])
    proxy.get(origin.serve("/killed", Reply()))
    (line,) = lines(proxy, "/killed")
    assert (line.bytes, line.short) == (0, (499, "error", {"cut": "proxy"}))


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_body_that_cannot_be_read_is_one_line_with_the_status_that_was_sent(
    proxy: Proxy, origin: Origin, method: str, begun: bool
) -> None:
    """Also where its head has gone on before that."""
    path = f"/bad-chunk/{method}/{begun}"
    head = f"{method} {origin.url(path)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Wire(proxy.address) as wire:
        wire.send(head.encode() + (b"3\r\nabc\r\n" if begun else b""))
        if begun:
            proxy.eventually(lambda: proxy.status()["requests_in_flight"], told="the request under way")
        wire.send(b"zz\r\n")
        answer = wire.rest()
    head_of_answer, _, body = answer.partition(b"\r\n\r\n")
    assert head_of_answer.startswith(b"HTTP/1.1 400 ")
    (line,) = lines(proxy, path)
    assert (line.method, line.bytes, line.note) == (method, len(body), "not the size of a chunk")
    assert line.short == (400, "error", {"error": "http_request_error"})
    proxy.settled()
    assert not any(" - - 400 " in text for text in proxy.log if "not the size of a chunk" in text)
