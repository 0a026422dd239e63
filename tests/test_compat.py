"""Another mitmproxy: a name inside it that the proxy depends on has changed. The proxy starts, says what is off, and
serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from mitmproxy.proxy.layers.http import _events

from tests.support.agents import Wire
from tests.support.content import content
from tests.support.origin import Echo, Gate, Origin, Reply
from tests.support.proxy import SCRIPT, SCRIPTS, Proxy

HTTP = "mitmproxy.proxy.layers.http"
CHANGES: dict[str, tuple[str, list[str]]] = {
    "a class of the layers is gone": (f"{HTTP}._base:ReceiveHttp", ["answers as they come"]),
    "a method of the layers takes more": (f"{HTTP}:HttpStream.check_killed()", ["answers as they come"]),
    "an event of the layers is gone": (f"{HTTP}._events:ResponseTrailers", ["answers as they come"]),
    **(
        {"a reason for broken messages": (f"?{HTTP}._events:ErrorCode.CANCEL", ["answers as they come"])}
        if hasattr(_events, "ErrorCode")  # not in mitmproxy 11
        else {}
    ),
    "tunnels": (f"{HTTP}:HttpStream.handle_connect_finish()", ["tunnels dialled first"]),
    "the watchdog": (
        "mitmproxy.proxy.server:TimeoutWatchdog.disarm()",
        ["answers as they come", "fast lane"],
    ),
    "connections": (
        "?mitmproxy.addons.proxyserver:Proxyserver.connections",
        [
            "answers as they come", "fast lane", "backpressure", "origin_timeout of what is forwarded",
            "early answers of origins", "the last connections",
        ],
    ),
    "the listeners": (
        "?mitmproxy.addons.proxyserver:Proxyserver.servers",
        ["lane from the first byte", "the listeners"],
    ),
    "TLS": ("?mitmproxy.proxy.layers.tls:TLSLayer.tls", ["closing alerts"]),
    "readers": ("?asyncio:StreamReader._transport", ["early answers of origins"]),
    "unread bytes": ("?asyncio:StreamReader._buffer", ["fast lane", "origin_timeout of what is forwarded"]),
    "HTTP/2": ("?hpack:Decoder.max_header_list_size", ["head limits within HTTP/2"]),
    "certificates": ("mitmproxy.addons.tlsconfig:TlsConfig.tls_start_server()", ["certificates of the system"]),
    "options": (
        "mitmproxy.optmanager:OptManager._parse_setval()",
        ["checks of values at the start", "SIGHUP for config.yaml"],
    ),
    "the scripts' loader": ("addon:scriptloader", ["files left alone"]),
    "the chain of addons": ("mitmproxy.addonmanager:traverse()", ["files left alone", "a look at other addons"]),
    "modify_body": ("mitmproxy.utils.human:parse_size()", ["a look at map_remote and modify_body"]),
    "confdir": ("mitmproxy.certs:CertStore.from_store()", ["a look at confdir"]),
    "filters": ("mitmproxy.flowfilter:FAsset", ["rules decided by the URL alone"]),
    "Python: the selector": ("?selectors:EpollSelector._selector", ["short turns of the event loop"]),
    "Python: reading": ("?asyncio.selector_events:_SelectorSocketTransport._read_ready_cb", ["reads without detours"]),
    "Python: accepting": (
        "asyncio.selector_events:BaseSelectorEventLoop._accept_connection()",
        ["accepting a few at a time"],
    ),
}  # fmt: skip


def changed(folder: Path, *names: str, **options: object) -> Proxy:
    """A proxy in whose process these names are no longer what they are."""
    script = SCRIPTS / "other_mitmproxy.py"
    return Proxy(folder, script=script, scripts=[SCRIPT], environment={"CHANGED": " ".join(names)}, **options)


def lines(proxy: Proxy) -> list[str]:
    return [line for line in proxy.log if " changed " in line]


@pytest.mark.parametrize("change", CHANGES)
def test_the_proxy_starts_says_what_is_off_and_serves(tmp_path: Path, change: str, origin: Origin, echo: Echo) -> None:
    name, parts = CHANGES[change]
    url = origin.serve("/a", Reply(size=70_000))
    posted = origin.serve("/posted", Reply(size=100))
    rule = "/~d nowhere.example/30d"
    with changed(tmp_path, name, cache_ttl=rule, origin_max_in_flight=8) as proxy:
        first, second = proxy.get(url), proxy.get(url)
        assert first.ok
        assert first.body == content("/a", 70_000)
        assert not first.hit
        assert second.ok
        assert second.hit
        assert second.body == first.body
        assert origin.count("/a") == 1
        fields = [("Proxy-Authorization", "Basic Zm9v"), ("Connection", "X-Hop"), ("X-Hop", "1")]
        for body in (b"", b"x" * 100_000):
            assert proxy.request("POST", posted, body=body, headers=fields).ok
        for request in origin.seen("/posted"):
            assert "1.1 proxy-cache-" in (request.header("Via") or "")
            assert request.header("Proxy-Authorization") is None
            assert request.header("X-Hop") is None
        with Wire(proxy.address) as wire:
            wire.send(f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\n")
            assert wire.head()[0] == 200
            wire.send("GET / HTTP/1.1\r\n\r\n")
            assert wire.exactly(18) == b"GET / HTTP/1.1\r\n\r\n"
        metrics = proxy.settled()
        assert metrics.value("hook_errors_total") == 0
        assert metrics.value("tunnels_total", outcome="opened") == 1
    (line,) = lines(proxy)
    assert name.strip("?()").rpartition(":")[2].rpartition(".")[2] in line
    assert [part for part in parts if f"{part} off: " in line] == parts
    assert line.count(" off: ") == len(parts)


def test_nothing_is_said_of_the_mitmproxy_that_is_installed(proxy: Proxy) -> None:
    assert lines(proxy) == []


def test_plain_flows_keep_the_limit_and_the_loop_check(tmp_path: Path, origin: Origin) -> None:
    """Without our layers, and without the fast lane, what protects origins holds."""
    gate = Gate()
    urls = [origin.serve(f"/{number}", Reply(size=1000, gate=gate)) for number in range(3)]
    with changed(tmp_path, f"{HTTP}._base:ReceiveHttp", fast_lane=False, origin_max_in_flight=1) as proxy:
        running = [proxy.start_get(url) for url in urls]
        proxy.wait_for_metric("origin_fetches_queued", 2)
        origin.wait(lambda: origin.seen(), told="that the first request is there")
        assert len(origin.seen()) == 1
        gate.open()
        assert all(fetch.result(60).ok for fetch in running)
        via = origin.seen()[0].header("Via") or ""
        seen = len(origin.seen())
        assert proxy.get(urls[0] + "?again", headers=[("Via", via)]).status == 502
        assert proxy.request("POST", urls[0], body=b"", headers=[("Via", via)]).status == 502
        assert len(origin.seen()) == seen


def test_plain_flows_refuse_what_could_be_read_otherwise(tmp_path: Path, origin: Origin) -> None:
    url = origin.serve("/a", Reply(size=10))
    with changed(tmp_path, f"{HTTP}._base:ReceiveHttp", fast_lane=False, head_max_fields=20) as proxy:
        for status, fields in (
            (400, [("Host", origin.netloc), ("Host", "other.example")]),
            (431, [(f"X-{number}", "1") for number in range(30)]),
        ):
            assert proxy.request("POST", url, body=b"", headers=fields).status == status
        assert origin.seen() == []


@pytest.mark.parametrize("mode", ["reverse", "upstream"])
def test_plain_flows_in_other_modes(tmp_path: Path, origin: Origin, mode: str) -> None:
    """Where the proxy stands in for an origin, and where it has a parent."""
    origin.serve("/a", Reply(size=70_000))
    url = origin.url("/a")
    with changed(tmp_path, f"{HTTP}._base:ReceiveHttp", mode=f"{mode}:{origin.base}") as proxy:
        if mode == "upstream":
            origin.serve(url, Reply(size=100))
            assert proxy.request("POST", url, body=b"x" * 1000).status == 200
            return
        with Wire(proxy.address) as wire:
            for hit in (False, True):
                wire.send("GET /a HTTP/1.1\r\nHost: some.example\r\n\r\n")
                response = wire.response()
                assert response.ok
                assert response.hit is hit
            wire.send("POST /a HTTP/1.1\r\nHost: some.example\r\nContent-Length: 3\r\n\r\nabc")
            assert wire.response().ok
        (request,) = origin.seen("/a", method="POST")
        assert request.header("Host") == origin.netloc


def test_the_loop_may_be_left_as_it_is(tmp_path: Path, origin: Origin) -> None:
    url = origin.serve("/a", Reply(size=70_000))
    with changed(tmp_path, "?selectors:EpollSelector._selector", tune_event_loop=False) as proxy:
        assert [proxy.get(url).hit for _ in range(3)] == [False, True, True]
    assert lines(proxy) == []
