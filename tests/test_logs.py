"""The log tells what happened, whatever clients send, and whether or not somebody reads it."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import Wire
from tests.support.http2 import Http2, pseudo
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy, clean_environment

F_SETPIPE_SZ = 1031


@pytest.fixture(scope="module", params=["utf-8:strict", "ascii:strict"])
def encoding_proxy(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """One that writes its log so."""
    with Proxy(tmp_path_factory.mktemp("proxy"), environment={"PYTHONIOENCODING": request.param}) as running:
        yield running


@pytest.mark.parametrize("method", [b"\xffGET", b"\xed\xa0\x80", b"A\x1b[2J", b"P" * 5000, b"\xe2\x80\xa8"])
def test_an_odd_method_does_not_end_the_log(encoding_proxy: Proxy, origin: Origin, method: bytes) -> None:
    proxy, since = encoding_proxy, len(encoding_proxy.log)
    url = origin.serve("/a", Reply(size=10))
    assert proxy.get(url).ok
    with Wire(proxy.address) as wire:
        wire.send(method + f" {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n".encode())
        wire.until(b"\r\n")  # answered by the origin, or refused
    assert proxy.get(url + "?after").ok
    proxy.wait_for_log(r"/a\?after 200", since=since)
    assert proxy.value("hook_errors_total") == 0
    for line in proxy.log:
        assert line.isprintable()
        assert len(line) < 2000


def test_secrets_of_urls_are_in_no_log(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(log_redact=["ticket", "/build-(\\w+)/"])
    origin.serve_prefix("/", Reply(size=10))
    for method in ("GET", "GET", "POST"):
        for path in (
            "/a;jsessionid=hush1",
            "/token/hush123",
            "/?ticket=hush2",
            "/build-hush/a",
            "/?u=http://u:hush@h/",
        ):
            assert proxy.request(method, origin.url(path), body=b"x" if method == "POST" else b"").ok
    proxy.get("http://127.0.0.1:1/token/hush123?ticket=hush4")
    proxy.wait_for_log(r"/token/\*\*\*\?ticket=\*\*\* 502")
    assert "hush" not in proxy.text()
    assert "/build-***/a" in proxy.text()


REFUSED = [
    ("GET {} HTTP/1.1", "Authorization : Bearer hush", "white space between Authorization and its colon"),
    ("GET {} HTTP/1.1", "Cookie\tsid=hush", "line 3 is not a header field: no name with a colon behind it"),
    ("GET {} HTTP/1.1", "hush", "line 3 is not a header field: no name with a colon behind it"),
    ("GET {} HTTP/1.1", "Cookie: a\0hush", "control characters in the value of Cookie"),
    ("GET http://user:hush x@a.example/ HTTP/1.1", "", "GET with white space or control characters in its target"),
    (f"GET http://user:hush{'x' * 300}@a.example/ HTTP/1.1 x", "", "GET with no target, or no version at its end"),
    ("GET /?token=hush HTTP/1.1 ", "", "GET with no target, or no version at its end"),
    ("token=hush", "", "not a request line: no"),
    ("pass word=hush&x=y HTTP/1.1", "", "not a request line: no|userinfo|no http"),
    ("hush /x HTTP/1.1\t", "", "not a request line: no target"),
    ("GET http://user:hush@a.example/ HTTP/1.1", "", "userinfo in the target"),
    ("CONNECT user:hush@a.example:443 HTTP/1.1", "", "userinfo in the target"),
]


@pytest.mark.parametrize(("line", "field", "told"), REFUSED)
def test_nothing_secret_is_quoted_of_what_is_refused(
    shared_proxy: Proxy, origin: Origin, line: str, field: str, told: str
) -> None:
    since = len(shared_proxy.log)
    with Wire(shared_proxy.address) as wire:
        lines = [line.format(origin.url("/")), f"Host: {origin.netloc}", *([field] if field else []), "", ""]
        wire.send("\r\n".join(lines))
        assert wire.response().status in (400, 501)
    shared_proxy.wait_for_log(f"error=http_request_error .*({told}|small|case)", since=since)
    assert "hush" not in "".join(shared_proxy.log[since:])


@pytest.mark.parametrize(
    "field", [(b"authorization", b"Bearer hush\0"), (b"authorization", b" Bearer hush"), (b"X-Hush", b"a")]
)
def test_nothing_secret_is_quoted_of_what_is_refused_over_http2(
    start_proxy: Callable[..., Proxy], origin: Origin, field: tuple[bytes, bytes]
) -> None:
    """h2 quotes it in an error that ends the connection, and is the note of every other request there."""
    proxy = start_proxy(mode=f"reverse:http://{origin.netloc}", termlog_verbosity="debug")
    gate = Gate()
    origin.serve_prefix("/", Reply(size=10, gate=gate))
    with Http2(proxy.address) as client:
        client.begin(pseudo(b"GET", b"/waiting"))
        proxy.wait_for_metric("origin_fetches_in_flight", 1)
        client.ask([*pseudo(b"GET", b"/bad"), field])
    proxy.wait_for_log("/waiting 499 ")
    gate.open()
    assert "hush" not in proxy.text().lower()


def test_a_log_that_nobody_reads_holds_up_no_request(tmp_path: Path, origin: Origin, fast_lane: bool) -> None:
    url = origin.serve("/a", Reply(size=10))
    requests = 1500
    proxy = Proxy(tmp_path, fast_lane=fast_lane)
    read_end, write_end = os.pipe()
    fcntl.fcntl(read_end, F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        proxy.command(), stdin=subprocess.DEVNULL, stdout=write_end, cwd=tmp_path, env=clean_environment()
    )
    os.close(write_end)
    with os.fdopen(read_end, "rb", buffering=0) as log:
        try:
            text = b""
            while b"metrics on" not in text or b"listening at" not in text:
                text += log.read(4096)
            found = re.search(rb"listening at [^\n]*?:(\d+)", text)
            assert found is not None
            # Nobody reads it from here on; a few dozen lines fill it.
            with Wire(("127.0.0.1", int(found[1]))) as wire:
                for _ in range(requests):
                    wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
                    head = wire.until(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200")
                    wire.exactly(10)
            # And what it has missed is there when it goes on.
            while text.count(b"/a 200 10 B") < requests:
                data = log.read(1 << 16)
                assert data
                text += data
        finally:
            process.terminate()
            while log.read(1 << 16):
                pass
            assert process.wait(30) == 0
