"""Other ways to run it: before one origin, behind a parent, with the web interface, for some hosts only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import Wire, results
from tests.support.certificates import folder_of, self_signed, server_context
from tests.support.content import content
from tests.support.origin import Echo, Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.squid import running_squid
from tests.support.tools import free_port, nobody_listens

Start = Callable[..., Proxy]


def test_reverse(start_proxy: Start, origin: Origin) -> None:
    """`--mode reverse:http://origin`: agents ask the proxy as if it were the origin."""
    proxy = start_proxy(mode=f"reverse:{origin.base}")
    origin.serve("/x", Reply(size=300_000))
    url = f"{proxy.url}/x"
    first = proxy.get(url, direct=True, expect=300_000)
    second = proxy.get(url, direct=True, expect=300_000)
    assert first.ok
    assert second.ok
    assert second.hit
    assert origin.count("/x") == 1
    assert origin.seen("/x")[0].header_values("Host") == [origin.netloc]
    assert proxy.request("POST", f"{proxy.url}/post", direct=True, body=b"hello").ok
    assert origin.seen("/post")[0].body == b"hello"


def test_reverse_coalesces(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(mode=f"reverse:{origin.base}")
    gate = Gate()
    origin.serve("/x", Reply(size=300_000, gate=gate))
    fetches = [proxy.start_get(f"{proxy.url}/x", direct=True, expect=300_000) for _ in range(20)]
    origin.wait_for("/x")
    proxy.wait_for_waiters(20)
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/x") == 1


def test_the_parent_is_another_cache(start_proxy: Start, origin: Origin, echo: Echo) -> None:
    """`--mode upstream:http://parent`: fills, forwarded requests and tunnels all go through it."""
    parent = start_proxy()
    proxy = start_proxy(mode=f"upstream:{parent.url}")
    url = origin.serve("/x", Reply(size=300_000))
    assert proxy.get(url, expect=300_000).ok
    hit = proxy.get(url, expect=300_000)
    assert hit.ok
    assert hit.hit
    assert origin.count("/x") == 1
    assert parent.value("misses_total") == 1
    assert len(",".join(origin.seen("/x")[0].header_values("Via")).split(",")) == 2, "both proxies have signed"
    assert proxy.request("POST", origin.url("/post"), body=b"hello").ok
    assert parent.value("forward_requests_total", method="POST") == 1
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\n")
        assert wire.head()[0] == 200
        wire.send("hello")
        assert wire.exactly(5) == b"hello"
    assert parent.value("forward_requests_total", method="CONNECT") == 1


def test_a_parent_that_is_down_is_a_502(start_proxy: Start, origin: Origin) -> None:
    with nobody_listens() as nobody:
        proxy = start_proxy(mode=f"upstream:http://{nobody}")
        response = proxy.get(origin.url("/x"))
    assert response.status == 502
    assert response.header("Proxy-Status")
    assert origin.count() == 0


@pytest.fixture
def squid(tmp_path: Path) -> Iterator[str]:
    """Squid without a cache of its own, as a parent."""
    with running_squid(tmp_path, "cache deny all") as url:
        yield url


def test_the_parent_is_squid(start_proxy: Start, origin: Origin, echo: Echo, squid: str) -> None:
    proxy = start_proxy(mode=f"upstream:{squid}")
    url = origin.serve("/x", Reply(size=300_000))
    assert proxy.get(url, expect=300_000).ok
    assert proxy.get(url, expect=300_000).hit
    assert origin.count("/x") == 1
    assert "squid" in ",".join(origin.seen("/x")[0].header_values("Via"))
    assert proxy.request("PUT", origin.url("/put"), body=b"hello").ok
    assert origin.seen("/put")[0].body == b"hello"


def test_trust_in_an_origin_may_change_while_it_runs(start_proxy: Start, tmp_path: Path) -> None:
    """mitmproxy's options for that count for fills as well."""
    certificate = self_signed(tmp_path / "origin.pem")
    folder = folder_of(certificate, tmp_path / "trusted")
    with Origin(tls=server_context(certificate)) as origin:
        proxy = start_proxy(mode=f"reverse:{origin.base}", control=True, origin_retries=0)
        for number, (option, value, status) in enumerate(
            [
                ("ssl_insecure", "true", 200),
                ("ssl_insecure", "false", 502),
                ("ssl_verify_upstream_trusted_confdir", folder, 200),
                ("ssl_verify_upstream_trusted_confdir", tmp_path, 502),
                ("ssl_verify_upstream_trusted_ca", certificate, 200),
            ]
        ):
            assert proxy.set_option(f"{option}={value}") == "ok"
            response = proxy.get(f"{proxy.url}/{number}", direct=True)
            assert response.status == status, (option, value, response)


def test_mitmweb(start_proxy: Start, origin: Origin) -> None:
    """The same addon in mitmproxy's web interface."""
    proxy = start_proxy(program="mitmweb", web_port=free_port(), web_open_browser=False)
    url = origin.serve("/x", Reply(size=300_000))
    assert proxy.get(url, expect=300_000).ok
    assert proxy.get(url, expect=300_000).hit
    assert origin.count("/x") == 1


@pytest.mark.parametrize("pattern", ["localhost", "LOCALHOST", "local*"])
def test_only_some_hosts_are_cached(start_proxy: Start, origin: Origin, pattern: str) -> None:
    """`cache_hosts`: others are forwarded, streamed, and not kept."""
    proxy = start_proxy(cache_hosts=pattern)
    origin.serve("/x", Reply(size=50_000))
    for turn in range(2):
        named = proxy.get(f"http://localhost:{origin.port}/x", expect=50_000)
        assert named.ok
        assert named.hit == (turn == 1)
        other = proxy.get(origin.url("/x"), expect=50_000)
        assert other.ok
        assert not other.hit
    assert origin.count("/x") == 3
    gate = Gate()
    streamed = proxy.start_get(origin.serve("/slow", Reply(size=2000, body_gate=gate, gate_at=1000)), expect=2000)
    streamed.received(1000)
    gate.open()
    assert streamed.result().ok


def test_with_a_script_that_looks_at_everything(start_proxy: Start, origin: Origin) -> None:
    """Another addon sees the hits too."""
    proxy = start_proxy(record=True)
    url = origin.url("/x")
    assert proxy.get(url).ok
    assert proxy.get(url).hit
    proxy.wait_for_metric("inflight_requests", 0)
    seen = proxy.eventually(proxy.flows, lambda flows: len(flows) == 2)
    assert [(flow["hook"], flow["status"]) for flow in seen] == [("response", 200), ("response", 200)]
    assert "hit" in seen[1]["cache_status"]


def test_with_an_addon_that_answers_itself(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    """A script before ours may answer in our place."""
    script = tmp_path / "answer.py"
    script.write_text(
        "from mitmproxy import http\n"
        "def requestheaders(flow):\n"
        "    if flow.request.path == '/mine':\n"
        "        flow.response = http.Response.make(418, b'teapot')\n"
    )
    proxy = start_proxy(arguments=["-s", str(script)])
    response = proxy.get(origin.url("/mine"))
    assert response.status == 418
    assert response.body == b"teapot"
    assert origin.count() == 0
    assert content("/other", 1000) == proxy.get(origin.url("/other")).body


def test_with_proxy_authentication(start_proxy: Start, origin: Origin) -> None:
    """`proxyauth`: who has no password gets no hit either, and the password does not reach the origin."""
    proxy = start_proxy(proxyauth="user:secret")
    url = origin.url("/x")
    assert proxy.get(url).status == 407
    password = [("Proxy-Authorization", "Basic dXNlcjpzZWNyZXQ=")]
    assert proxy.get(url, headers=password).ok
    assert proxy.get(url, headers=password).hit
    assert proxy.get(url).status == 407
    assert origin.seen("/x")[0].header("Proxy-Authorization") is None
    assert origin.count("/x") == 1
