"""Origins that say nothing, or nothing more: what is forwarded ends after ``origin_timeout``, as fills do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import Response, Wire
from tests.support.origin import PATIENCE, bind_new_port
from tests.support.proxy import Proxy
from tests.support.scripted import OK, Scripted, ThreadedOrigin

TIMEOUT = 1
Start = Callable[..., Proxy]


class Taciturn(ThreadedOrigin):
    """Answers a request for ``/name`` with what was written down under that name, at once; for ``/name/later`` the rest
    of it follows when :attr:`later` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[str] = []
        self.answers: dict[str, list[bytes]] = {}
        """In pieces."""
        self.pause = 0.0
        """Seconds between pieces."""
        self.later = threading.Event()

    def url(self, name: str) -> str:
        return f"http://{self.netloc}/{name}"

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
            while head := Scripted.read_head(stream):
                self.heads.append(head)
                lengths = [int(line[15:]) for line in head.split("\r\n") if line.startswith("Content-Length:")]
                stream.read(lengths[0] if lengths else 0)
                name, _, later = head.split()[1].removeprefix("/").partition("/")
                if later:
                    self.later.wait(PATIENCE)
                for piece in self.answers.get(name, ()):
                    connection.sendall(piece)
                    time.sleep(self.pause)
                if name == "upgrade":
                    connection.sendall(stream.read(5))


@pytest.fixture
def taciturn() -> Iterator[Taciturn]:
    with Taciturn() as running:
        running.answers["ok"] = [OK.encode()]
        yield running
        running.later.set()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    with Proxy(
        tmp_path_factory.mktemp("hasty"), fast_lane=fast_lane, origin_timeout=TIMEOUT, origin_retries=0
    ) as proxy:
        yield proxy


def asks(method: str, url: str, *fields: str, body: str = "") -> str:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {url} HTTP/1.1", f"Host: {url.split('/')[2]}", *fields, *length, "", body])


def answer(proxy: Proxy, request: str) -> Response:
    with Wire(proxy.address) as wire:
        wire.send(request)
        if request.startswith("HEAD"):
            status, headers = wire.head()
            return Response(status=status, headers=headers)
        return wire.response()


def let_it_pass(proxy: Proxy, origin: Taciturn) -> None:
    """The time, and a little more, after which something would be given up that is silent now."""
    assert answer(proxy, asks("OPTIONS", origin.url("nothing"))).status == 504


def error_of(response: Response) -> str:
    return (response.header("Proxy-Status") or "").partition("error=")[2].partition(";")[0]


@pytest.mark.parametrize(
    ("method", "body"),
    [("GET", ""), ("GET", "hello"), ("HEAD", ""), ("OPTIONS", ""), ("DELETE", ""), ("PUT", "hello"), ("PROPFIND", "x")],
)
def test_no_answer_is_a_504(hasty: Proxy, taciturn: Taciturn, method: str, body: str) -> None:
    """RFC 9110 §15.6.5."""
    response = answer(hasty, asks(method, taciturn.url("nothing"), body=body))
    assert (response.status, error_of(response)) == (504, "http_response_timeout")
    assert len(taciturn.heads) == 1
    hasty.wait_for_metric("inflight_requests", 0)


def test_a_header_that_is_not_finished(hasty: Proxy, taciturn: Taciturn) -> None:
    taciturn.answers["half"] = [b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 O"]
    with Wire(hasty.address) as wire:
        wire.send(asks("OPTIONS", taciturn.url("half")))
        assert wire.response().status == 103
        assert wire.response().status == 504


def test_a_connection_that_has_been_used_before(hasty: Proxy, taciturn: Taciturn) -> None:
    """It is not asked a second time; and what follows has another connection."""
    with Wire(hasty.address) as wire:
        for name, status in (("ok", 200), ("nothing", 504), ("ok", 200), ("ok", 200)):
            wire.send(asks("DELETE", taciturn.url(name)))
            assert wire.response().status == status
    assert len(taciturn.heads) == 4
    assert taciturn.connections == 2


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK", "UNHEARD"])
def test_what_may_not_be_done_twice_has_its_time(hasty: Proxy, taciturn: Taciturn, method: str) -> None:
    """It may be a long job, and who gets a 504 could not ask again (RFC 9110 §9.2.2)."""
    with Wire(hasty.address) as wire:
        wire.send(asks("DELETE", taciturn.url("ok")))  # over the same connection, with a limit
        assert wire.response().status == 200
        wire.send(asks(method, taciturn.url("ok/later"), body="hello"))
        hasty.eventually(lambda: len(taciturn.heads), lambda count: count == 2)
        let_it_pass(hasty, taciturn)
        taciturn.later.set()
        assert wire.response().status == 200


def test_an_upload_that_is_still_coming(hasty: Proxy, taciturn: Taciturn) -> None:
    with Wire(hasty.address) as wire:
        upload = asks("PUT", taciturn.url("ok"), body="hello")
        wire.send(upload[:-1])
        hasty.eventually(lambda: len(taciturn.heads), lambda count: count == 1)
        let_it_pass(hasty, taciturn)
        wire.send(upload[-1:])
        assert wire.response().status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked", "Connection: close"])
def test_a_body_that_stops(hasty: Proxy, taciturn: Taciturn, framing: str) -> None:
    """It breaks off, and is never taken for a complete one."""
    taciturn.answers["stops"] = [f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello".encode()]
    since = len(hasty.log)
    with Wire(hasty.address) as wire:
        wire.send(asks("OPTIONS", taciturn.url("stops")))
        assert wire.head()[0] == 200
        received, was_reset = b"", False
        try:
            while data := wire.socket.recv(1 << 16):
                received += data
        except ConnectionResetError:
            was_reset = True
    assert was_reset or framing != "Connection: close"
    assert not received.endswith(b"0\r\n\r\n")
    hasty.wait_for_log(r"OPTIONS \S+/stops 200 .* error=connection_read_timeout cut=origin", since=since)


def test_a_body_that_comes_slowly(start_proxy: Start, taciturn: Taciturn) -> None:
    proxy = start_proxy(origin_timeout=2)
    taciturn.pause = 0.3
    taciturn.answers["slow"] = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", *[b"x"] * 9]
    assert answer(proxy, asks("OPTIONS", taciturn.url("slow"))).body == b"x" * 9


def test_a_client_that_reads_slowly(hasty: Proxy, taciturn: Taciturn) -> None:
    """Then it is not the origin that is silent."""
    size = 30_000_000
    taciturn.answers["large"] = [f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode(), b"x" * size]
    with Wire(hasty.address) as wire:
        wire.send(asks("OPTIONS", taciturn.url("large")))
        assert wire.head()[0] == 200
        for _ in range(3):
            let_it_pass(hasty, taciturn)
        assert len(wire.exactly(size)) == size


def test_what_is_no_longer_http(hasty: Proxy, taciturn: Taciturn) -> None:
    """Through a tunnel, or after a 101, nobody has to say anything."""
    taciturn.answers["upgrade"] = [b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"]
    with Wire(hasty.address) as wire, Wire(hasty.address) as tunnel:
        wire.send(asks("GET", taciturn.url("upgrade"), "Connection: upgrade", "Upgrade: x"))
        assert wire.head()[0] == 101
        tunnel.send(f"CONNECT {taciturn.netloc} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert tunnel.head()[0] == 200
        for _ in range(2):
            let_it_pass(hasty, taciturn)
        wire.send("hello")
        assert wire.exactly(5) == b"hello"
        tunnel.send(f"OPTIONS /ok HTTP/1.1\r\nHost: {taciturn.netloc}\r\n\r\n")
        assert tunnel.response().body == b"final"


def test_the_option_holds_for_what_begins_later(start_proxy: Start, taciturn: Taciturn) -> None:
    proxy = start_proxy(origin_timeout=60, control=True)
    with Wire(proxy.address) as wire:
        wire.send(asks("DELETE", taciturn.url("ok/later")))
        proxy.eventually(lambda: len(taciturn.heads), lambda count: count == 1)
        assert proxy.set_option(f"origin_timeout={TIMEOUT}") == "ok"
        let_it_pass(proxy, taciturn)
        taciturn.later.set()
        assert wire.response().status == 200


# -- connecting --------------------------------------------------------------------------------------------------------


@pytest.fixture
def full() -> Iterator[str]:
    """Where nobody accepts, and as many wait as may: what else comes has no answer."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(bind_new_port())
        listening.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "CONNECT"])
def test_a_connection_that_nobody_takes(hasty: Proxy, full: str, method: str) -> None:
    url = full if method == "CONNECT" else f"http://{full}/x"
    with Wire(hasty.address) as wire:
        for _ in range(2):  # the second is tried anew, over the same connection of the client's
            wire.send(f"{method} {url} HTTP/1.1\r\nHost: {full}\r\nContent-Length: 0\r\n\r\n")
            status, headers = wire.head()
            response = Response(status=status, headers=headers)
            assert (status, error_of(response)) == (504, "connection_timeout")
            if method != "HEAD":
                wire.exactly(int(response.header("Content-Length") or 0))
    hasty.wait_for_metric("inflight_requests", 0)


def test_a_client_that_leaves_while_its_tunnel_is_dialled(hasty: Proxy, taciturn: Taciturn, full: str) -> None:
    with Wire(hasty.address) as wire:
        wire.send(f"CONNECT {full} HTTP/1.1\r\nHost: {full}\r\n\r\n")
    hasty.wait_until_idle()
    let_it_pass(hasty, taciturn)
    assert hasty.value("hook_errors_total") == 0


@pytest.mark.parametrize("mode", ["reverse:https", "upstream:https", "upstream:http"])
def test_a_handshake_that_nobody_answers(tmp_path: Path, fast_lane: bool, mode: str) -> None:
    """Of TLS, and of the tunnel through a parent proxy."""
    with (
        Mute() as mute,
        Proxy(
            tmp_path, fast_lane=fast_lane, mode=f"{mode}://{mute.netloc}", origin_timeout=TIMEOUT, origin_retries=0
        ) as proxy,
    ):
        method = "CONNECT" if mode == "upstream:http" else "DELETE"
        target = (
            "/x" if mode == "reverse:https" else "origin.example:443" if method == "CONNECT" else "http://a.example/"
        )
        with Wire(proxy.address) as wire:
            wire.send(f"{method} {target} HTTP/1.1\r\nHost: origin.example\r\n\r\n")
            response = wire.response()
            assert (response.status, error_of(response)) == (504, "connection_timeout")


class Mute(ThreadedOrigin):
    """Accepts, and reads."""

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass
