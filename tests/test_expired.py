"""Connections to origins that end, or turn out bad, under the next request; and origins that answer and leave early."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from h2.events import StreamEnded

from tests.support.agents import Wire
from tests.support.origin import PATIENCE, bind_new_port
from tests.support.proxy import Proxy
from tests.support.scripted import HINTS, OK, Scripted, ThreadedOrigin, asks
from tests.test_smuggling import Http2, pseudo

CLOSES = "<close>"
"""In place of an answer: the origin closes a connection on which it has just got a request."""
IDEMPOTENT = ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL"]


@pytest.fixture(scope="module")
def shared_origin() -> Iterator[Scripted]:
    with Scripted() as running:
        yield running


@pytest.fixture
def scripted(shared_origin: Scripted) -> Scripted:
    """As it was when it was new, but for its URL."""
    shared_origin.answers = [OK]
    shared_origin.heads.clear()
    shared_origin.bodies.clear()
    shared_origin.connections = 0
    shared_origin.url = f"http://{shared_origin.netloc}/{secrets.token_hex(4)}"
    return shared_origin


@pytest.fixture(scope="module", params=["regular", "upstream", "reverse"])
def used(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_origin: Scripted
) -> Iterator[Proxy]:
    """A proxy whose forwarded requests all go to the scripted origin, in each of the modes that forward."""
    mode = request.param
    options = {} if mode == "regular" else {"mode": f"{mode}:http://{shared_origin.netloc}"}
    with Proxy(tmp_path_factory.mktemp(mode), **options) as proxy:
        yield proxy


def ok(method: str) -> str:
    return OK.removesuffix("final") if method == "HEAD" else OK


def statuses(proxy: Proxy, *requests: str) -> list[int]:
    """Of requests over one connection, one after the other."""
    with Wire(proxy.address) as wire:
        found = []
        for request in requests:
            wire.send(request)
            head = request.startswith("HEAD")
            found.append(wire.head()[0] if head else wire.response().status)
    return found


@pytest.mark.parametrize("method", IDEMPOTENT)
def test_a_connection_that_ends_under_an_idempotent_request(used: Proxy, scripted: Scripted, method: str) -> None:
    """RFC 9112 §9.3.1: the client can't know of the race, and we can ask again."""
    scripted.answers = [ok(method), CLOSES, ok(method), ok(method)]
    assert statuses(used, *[asks(scripted, method)] * 3) == [200, 200, 200]
    assert scripted.connections == 2
    assert len(scripted.heads) == 4
    assert scripted.heads[1] == scripted.heads[2], "the same request, with one Via"


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK", "UNHEARD"])
def test_what_may_not_arrive_twice_is_not_sent_twice(used: Proxy, scripted: Scripted, method: str) -> None:
    """RFC 9110 §9.2.2: "A proxy MUST NOT automatically retry non-idempotent requests"."""
    scripted.answers = [OK, CLOSES, OK]
    assert statuses(used, *[asks(scripted, method)] * 2) == [200, 502]
    assert len(scripted.heads) == 2


def test_a_small_upload_is_sent_again_with_its_body(used: Proxy, scripted: Scripted) -> None:
    put = asks(scripted, "PUT", "Content-Length: 5") + "hello"
    chunked = asks(scripted, "PUT", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"
    scripted.answers = [OK, CLOSES, OK, OK]
    assert statuses(used, put, put, chunked) == [200, 200, 200]
    assert scripted.bodies == [b"hello"] * 4


def test_an_upload_that_is_still_coming_goes_on_over_the_new_connection(proxy: Proxy) -> None:
    """Half of the body is there when the old connection ends."""
    with bind_new_port() as listening, contextlib.ExitStack() as stack:
        listening.listen(8)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        wire = stack.enter_context(Wire(proxy.address))
        wire.send(f"OPTIONS {url} HTTP/1.1\r\nHost: x\r\n\r\n")
        first = stack.enter_context(listening.accept()[0])
        first.settimeout(PATIENCE)
        first.recv(65536)
        first.sendall(OK.encode())
        assert wire.response().status == 200
        wire.send(f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
        got = b""
        while not got.endswith(b"hello"):
            got += first.recv(65536)
        first.close()
        second = stack.enter_context(listening.accept()[0])
        second.settimeout(PATIENCE)
        again = b""
        while not again.endswith(b"hello"):
            again += second.recv(65536)
        assert again == got
        wire.send("world")
        while not again.endswith(b"helloworld"):
            again += second.recv(65536)
        second.sendall(OK.encode())
        assert wire.response().status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_large_upload_has_a_connection_of_its_own(used: Proxy, scripted: Scripted, method: str, framing: str) -> None:
    """It could not be sent again, so it does not go where it might have to be. However many, none has to wait."""
    body = "x" * 100_000
    coded = body if framing.startswith("Content") else f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    upload = f"{method} {scripted.url} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{coded}"
    assert statuses(used, asks(scripted), *[upload] * 8, asks(scripted)) == [200] * 10
    assert scripted.connections == 9
    assert scripted.bodies[1:9] == [body.encode()] * 8


def test_it_is_tried_once(used: Proxy, scripted: Scripted) -> None:
    scripted.answers = [OK, CLOSES, CLOSES, OK]
    assert statuses(used, *[asks(scripted, "DELETE")] * 3) == [200, 502, 200]


def test_a_new_connection_that_ends_is_the_origins_answer(used: Proxy, scripted: Scripted) -> None:
    scripted.answers = [CLOSES, OK]
    assert statuses(used, asks(scripted, "DELETE")) == [502]
    assert len(scripted.heads) == 1


@pytest.mark.parametrize("begun", [HINTS, "HTTP/1.1 200 O"])
def test_a_response_that_has_begun_is_not_asked_for_again(proxy: Proxy, scripted: Scripted, begun: str) -> None:
    scripted.answers = [OK, begun + CLOSES, OK]
    with Wire(proxy.address) as wire:
        wire.send(asks(scripted, "DELETE"))
        assert wire.response().status == 200
        wire.send(asks(scripted, "DELETE"))
        if begun == HINTS:
            assert wire.response().status == 103
        assert wire.response().status == 502
    assert len(scripted.heads) == 2


def test_a_connection_that_ended_before_it_is_used_again(used: Proxy, scripted: Scripted) -> None:
    """Also for a POST, of which no byte has been sent then."""
    scripted.answers = [OK + CLOSES]
    with Wire(used.address) as wire:
        for _ in range(20):
            wire.send(asks(scripted))
            assert wire.response().status == 200
            used.eventually(lambda: connections_to(scripted.netloc), lambda count: count == 0)
    assert len(scripted.heads) == 20


def connections_to(netloc: str) -> int:
    """How many there are of whose end the system has not been told."""
    port = f":{int(netloc.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[2].endswith(port) and row[3] == "01")


# -- what is left over from the response before (RFC 9112 §6.3) --------------------------------------------------------

BODILESS = [
    "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
]


@pytest.mark.parametrize("method", ["DELETE", "POST"])
@pytest.mark.parametrize("bodiless", BODILESS)
def test_what_announces_a_body_that_it_can_not_have_ends_its_connection(
    used: Proxy, scripted: Scripted, bodiless: str, method: str
) -> None:
    """The body may come now, later, or never: it is not taken for the next response."""
    scripted.answers = [bodiless, OK]
    with Wire(used.address) as wire:
        wire.send(asks(scripted, method))
        status, fields = wire.head()
        if status == 103:
            assert "content-length" not in {name.lower() for name, _ in fields}
            status, fields = wire.head()
        assert status in (204, 304)
        assert "transfer-encoding" not in {name.lower() for name, _ in fields}
        wire.send(asks(scripted, method))
        assert wire.response().body == b"final"
    assert scripted.connections == 2


def test_a_head_announces_the_body_of_a_get(used: Proxy, scripted: Scripted) -> None:
    scripted.answers = [ok("HEAD")]
    assert statuses(used, *[asks(scripted, "HEAD")] * 3) == [200] * 3
    assert scripted.connections == 1


@pytest.mark.parametrize("stray", ["<html>not modified</html>", "0\r\n\r\n", "\0\0", "HTTP\r\n\r\n"])
def test_what_nobody_announced_does_not_fail_the_next_request(used: Proxy, scripted: Scripted, stray: str) -> None:
    """It comes together with the next response, or in its place."""
    scripted.answers = ["HTTP/1.1 204 No Content\r\n\r\n", stray + OK, OK]
    assert statuses(used, *[asks(scripted, "DELETE")] * 2) == [204, 200]
    assert scripted.connections == 2
    scripted.answers = ["HTTP/1.1 204 No Content\r\n\r\n", stray + OK]
    assert statuses(used, *[asks(scripted)] * 2) == [204, 502], "a POST may have been heard"


def test_line_breaks_between_responses_are_nothing(used: Proxy, scripted: Scripted) -> None:
    scripted.answers = [OK, "\r\n" + OK, "\r\n\r\n" + OK]
    assert statuses(used, *[asks(scripted)] * 3) == [200] * 3
    assert scripted.connections == 1


def test_the_same_for_fills(proxy: Proxy, scripted: Scripted) -> None:
    stale = 'HTTP/1.1 200 OK\r\nETag: "a"\r\nCache-Control: no-cache\r\nContent-Length: 5\r\n\r\nhello'
    for after in ("Content-Length: 9\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n", "\r\nstray"):
        before = scripted.connections
        scripted.answers = [stale, f'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n{after}', stale]
        scripted.url = f"http://{scripted.netloc}/{len(scripted.heads)}"
        for _ in range(3):
            assert statuses(proxy, asks(scripted, "GET")) == [200]
            proxy.wait_until_idle()
        assert scripted.connections <= before + 2


# -- origins that answer an upload and leave ---------------------------------------------------------------------------

SIZE = 32 * 1024 * 1024
"""Bytes: more than all buffers on the way."""


class Impatient:
    """Answers when it has read the head of a request, and closes with the rest unread: the connection is reset."""

    def __init__(self, answer: str, *, abort: bool) -> None:
        self._answer, self._abort = answer, abort
        self._socket = bind_new_port()
        self._socket.listen(8)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/x"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    got = b""
                    while b"\r\n\r\n" not in got:
                        got += connection.recv(1000)
                    connection.sendall(self._answer.encode())
                    if self._abort:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def __enter__(self) -> Impatient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    "framing", ["Content-Length: 5\r\n\r\nnever", "Transfer-Encoding: chunked\r\n\r\n5\r\nnever\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("status", [401, 413, 417])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_the_answer_to_an_upload_arrives_though_the_origin_has_left(
    proxy: Proxy, method: str, status: int, framing: str
) -> None:
    """What had come before writing failed is read, and the client, still sending, gets it whole."""
    answer = f"HTTP/1.1 {status} No\r\nWWW-Authenticate: Basic\r\nConnection: close\r\n{framing}"
    with Impatient(answer, abort=False) as origin, Wire(proxy.address) as wire:
        wire.send(f"{method} {origin.url} HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n")
        for _ in range(SIZE >> 20):
            wire.send(b"x" * (1 << 20))
        response = wire.response()
        assert (response.status, response.body) == (status, b"never")
        assert wire.rest() == b""
    proxy.wait_until_idle()
    proxy.wait_for_metric("inflight_requests", 0)
    assert proxy.value("hook_errors_total") == 0


def test_the_same_where_its_end_is_the_end_of_the_connection(proxy: Proxy) -> None:
    answer = "HTTP/1.1 401 No\r\nConnection: close\r\n\r\nnever"
    with Impatient(answer, abort=False) as origin, Wire(proxy.address) as wire:
        wire.send(f"PUT {origin.url} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
        assert wire.head()[0] == 401
        assert wire.rest() == b"never"


def test_a_body_without_length_that_ends_with_a_reset_is_not_complete(proxy: Proxy) -> None:
    answer = "HTTP/1.1 200 OK\r\n\r\nonly the beginning"
    with Impatient(answer, abort=True) as origin, Wire(proxy.address) as wire:
        wire.send(f"POST {origin.url} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
        with contextlib.suppress(ConnectionResetError):
            while wire.socket.recv(65536):
                pass
    proxy.wait_for_log(r"POST .* error|POST .*incomplete|POST .*reset")


# -- origins that answer an upload and read on -------------------------------------------------------------------------

NEVER = {
    "chunks": "Transfer-Encoding: chunked\r\n\r\n5\r\nnever\r\n0\r\n\r\n",
    "length": "Content-Length: 5\r\n\r\nnever",
}


class EarlyOrigin(ThreadedOrigin):
    """Answers a request when it has read its head, and goes on reading."""

    answer = ""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[int] = []
        self.ended = threading.Event()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
            while head := Scripted.read_head(stream):
                connection.sendall(f"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\n{self.answer}".encode())
                lengths = [int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")]
                left = sum(lengths)
                mine = len(self.bodies)  # the next request may come over another connection before this one's end
                self.bodies.append(0)
                while left and (data := stream.read1(min(left, 1 << 16))):  # type: ignore[attr-defined]
                    left -= len(data)
                    self.bodies[mine] += len(data)
                if left:
                    break
        self.ended.set()


@pytest.fixture
def early() -> Iterator[EarlyOrigin]:
    with EarlyOrigin() as running:
        yield running


def begun(origin: EarlyOrigin, version: str = "1.1", *fields: str) -> bytes:
    """A tenth of an upload of a million bytes."""
    lines = [f"PUT http://{origin.netloc}/x HTTP/{version}", "Host: x", "Content-Length: 1000000", *fields, "", ""]
    return "\r\n".join(lines).encode() + b"x" * 100_000


@pytest.mark.parametrize("framing", ["chunks", "length"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_client_that_waits_for_the_end_of_an_early_answer(
    start_proxy: Callable[..., Proxy], early: EarlyOrigin, framing: str, whole: bool
) -> None:
    """It gets that before it sends more, also where the answer is put together here first; and can go on then."""
    proxy = start_proxy(modify_body="/~s/never/maybe") if whole else start_proxy()
    early.answer = NEVER[framing]
    expected = b"maybe" if whole else b"never"
    with Wire(proxy.address) as wire:
        for _ in range(2):
            wire.send(begun(early))
            response = wire.response()
            assert (response.status, response.body) == (401, expected)
            wire.send(b"x" * 900_000)
        wire.send(f"OPTIONS http://{early.netloc}/x HTTP/1.1\r\nHost: x\r\n\r\n")
        response = wire.response()
        assert (response.status, response.body) == (401, expected)
    proxy.eventually(lambda: early.bodies, lambda bodies: bodies == [1_000_000, 1_000_000, 0])


@pytest.mark.parametrize(("version", "field"), [("1.0", "X: y"), ("1.1", "Connection: close")])
@pytest.mark.parametrize("framing", ["chunks", "length"])
def test_an_early_answer_whose_end_is_that_of_the_connection(
    proxy: Proxy, early: EarlyOrigin, framing: str, version: str, field: str
) -> None:
    """The client is told by half a close, and may send the rest all the same."""
    early.answer = NEVER[framing]
    with Wire(proxy.address) as wire:
        wire.send(begun(early, version, field))
        assert b"never" in wire.rest()
        wire.send(b"x" * 900_000)
        proxy.eventually(lambda: early.bodies, lambda bodies: bodies == [1_000_000])


def test_a_client_that_leaves_with_an_early_answer(proxy: Proxy, early: EarlyOrigin) -> None:
    """The origin hears of it."""
    early.answer = NEVER["chunks"]
    with Wire(proxy.address) as wire:
        wire.send(begun(early))
        assert wire.response().body == b"never"
    assert early.ended.wait(PATIENCE)
    proxy.wait_for_metric("inflight_requests", 0)
    assert proxy.value("hook_errors_total") == 0


@pytest.mark.parametrize("leaves", [False, True])
def test_the_end_of_an_early_answer_over_http2(
    start_proxy: Callable[..., Proxy], early: EarlyOrigin, leaves: bool
) -> None:
    early.answer = NEVER["chunks"]
    proxy = start_proxy(mode=f"reverse:http://{early.netloc}")
    client = Http2(proxy.address)
    connection = client.connection
    connection.send_headers(1, [*pseudo(b"PUT"), (b"content-length", b"20000")])
    connection.send_data(1, b"x" * 10_000)
    client.socket.sendall(connection.data_to_send())
    got: list[object] = []
    while not any(isinstance(event, StreamEnded) for event in got):
        got += connection.receive_data(client.socket.recv(65536))
        client.socket.sendall(connection.data_to_send())
    if leaves:
        connection.reset_stream(1)
    else:
        connection.send_data(1, b"x" * 10_000, end_stream=True)
    client.socket.sendall(connection.data_to_send())
    if leaves:
        assert early.ended.wait(PATIENCE)
    proxy.eventually(lambda: early.bodies, lambda bodies: bodies == [10_000 if leaves else 20_000])
    assert client.ask(pseudo(b"OPTIONS")) == 401
    client.socket.close()
