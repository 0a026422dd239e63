"""Names that no name server answers for hold up nobody but those who asked for them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agents import Wire, results
from tests.support.origin import Origin, Reply
from tests.support.proxy import SCRIPT, Proxy

NAMES = Path(__file__).parent / "support" / "names" / "sitecustomize.py"
NAMES_OF_ONE_TRY = 40


@pytest.fixture
def proxy(start_proxy: Callable[..., Proxy], tmp_path: Path) -> Proxy:
    return start_with_names(start_proxy, tmp_path, 60)


def start_with_names(start_proxy: Callable[..., Proxy], folder: Path, origin_timeout: int) -> Proxy:
    return start_proxy(
        script=NAMES, scripts=[SCRIPT], environment={"ANSWERS": str(folder / "answers")},
        origin_timeout=origin_timeout,
    )  # fmt: skip


def named(origin: Origin, name: str, path: str = "/x") -> str:
    return f"http://{name}.test:{origin.port}{path}"


@pytest.mark.parametrize("method", ["GET", "POST"], ids=["fills", "forwarded"])
def test_forty_silent_names_hold_up_no_other_name(proxy: Proxy, origin: Origin, tmp_path: Path, method: str) -> None:
    origin.serve("/x", Reply(size=100))
    silent = [
        proxy.start_request(method, named(origin, f"silent{number}"), body=b"x" if method == "POST" else b"")
        for number in range(NAMES_OF_ONE_TRY)
    ]
    proxy.wait_for_metric("name_lookups_in_flight", NAMES_OF_ONE_TRY)
    # As long as these are silent, everything else goes on: fills, what is forwarded, tunnels.
    assert proxy.get(named(origin, "good1")).ok
    assert proxy.request("HEAD", named(origin, "good2")).status == 200
    assert proxy.request("POST", named(origin, "good3"), body=b"x").ok
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT good4.test:{origin.port} HTTP/1.1\r\nHost: good4.test\r\n\r\n")
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert not any(one.ended for one in silent)
    (tmp_path / "answers").touch()
    assert all(one.ok for one in results(silent))
    proxy.wait_for_metric("name_lookups_in_flight", 0)


def test_a_silent_name_is_looked_up_once_for_all_who_ask(proxy: Proxy, origin: Origin, tmp_path: Path) -> None:
    origin.serve_prefix("/", Reply(size=100))
    silent = [proxy.start_get(named(origin, "silent", f"/{number}")) for number in range(30)]
    proxy.wait_for_waiters(30)
    proxy.wait_for_log("looking up silent.test")
    assert proxy.get(named(origin, "good", "/good")).ok
    assert proxy.value("name_lookups_in_flight") == 1
    (tmp_path / "answers").touch()
    assert all(one.ok for one in results(silent))
    assert proxy.text().count("looking up silent.test") == 1


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
def test_a_name_that_takes_too_long_is_a_504(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path, method: str
) -> None:
    proxy = start_with_names(start_proxy, tmp_path, 1)
    if method == "CONNECT":
        with Wire(proxy.address) as wire:
            wire.send(f"CONNECT silent.test:{origin.port} HTTP/1.1\r\nHost: silent.test\r\n\r\n")
            head = wire.until(b"\r\n\r\n").decode()
        assert head.startswith("HTTP/1.1 504")
        assert "error=dns_timeout" in head
    else:
        answer = proxy.request(method, named(origin, "silent"), body=b"x" if method == "POST" else b"")
        assert answer.status == 504
        assert "error=dns_timeout" in str(answer.header("Proxy-Status"))
    assert not origin.seen("/x")
    assert proxy.value("name_lookups_total", outcome="timeout") == 1
    (tmp_path / "answers").touch()


def test_a_name_that_nobody_knows_is_a_502(proxy: Proxy, origin: Origin) -> None:
    for method in ("GET", "POST"):
        answer = proxy.request(method, named(origin, "unknown"), body=b"x" if method == "POST" else b"")
        assert answer.status == 502
        assert "error=dns_error" in str(answer.header("Proxy-Status"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "CONNECT"])
def test_an_address_that_is_silent_holds_nobody_up(proxy: Proxy, method: str) -> None:
    """Of two that a name has: fills, what is forwarded and tunnels try the other one in a moment (RFC 8305)."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        for _ in range(100):
            origin = stack.enter_context(Origin())
            with contextlib.suppress(OSError):  # another test may have that port at this address
                full.bind(("127.0.0.2", origin.port))
                break
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        if method == "CONNECT":
            with Wire(proxy.address) as wire:
                wire.send(f"CONNECT two.test:{origin.port} HTTP/1.1\r\nHost: two.test\r\n\r\n")
                assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        else:
            assert proxy.request(method, named(origin, "two"), body=b"x" if method == "POST" else b"").status == 200


ANOTHER_MITMPROXY = """
from mitmproxy.proxy import server

opens = server.ConnectionHandler.open_connection

async def open_connection(self, command):
    return await opens(self, command)

server.ConnectionHandler.open_connection = open_connection
"""


def test_a_mitmproxy_that_dials_otherwise_goes_on_by_itself(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    script = tmp_path / "another.py"
    script.write_text(ANOTHER_MITMPROXY)
    proxy = start_proxy(arguments=["-s", str(script)])
    proxy.wait_for_log("what is forwarded is dialled by mitmproxy itself")
    origin.serve("/x", Reply(size=100))
    assert proxy.get(origin.url("/x")).ok
    assert proxy.get(origin.url("/x")).hit
    assert proxy.request("POST", origin.url("/x"), body=b"x").ok
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {origin.netloc} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
