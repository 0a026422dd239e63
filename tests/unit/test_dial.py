"""Outgoing connections: the choice of the address, responses of parent proxies, and no leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from proxy_cache.upstream import dial
from proxy_cache.upstream.dial import Dialler, Parent
from proxy_cache.upstream.names import Names
from proxy_cache.wire.responses import OriginError
from tests.support.certificates import self_signed, server_context

NAME = "a.example"
ALL = [f"127.0.0.{number}" for number in (1, 2, 3)]
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Addresses(Names):
    """Knows one name."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(timeout=30)
        self.addresses = addresses
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        assert host == NAME
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


def dialler_of(*addresses: str) -> Dialler:
    return Dialler(Addresses(list(addresses)))


@contextlib.contextmanager
def listening(*addresses: str, backlog: int = 50) -> Iterator[list[socket.socket]]:
    """Listeners on the same port of several addresses, without accepting."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(each) for each in bound(addresses)]
        for each in sockets:
            each.listen(backlog)
        yield sockets


def bound(addresses: Sequence[str]) -> list[socket.socket]:
    """Sockets on a port that is free at each of these addresses: another test may have the first one's elsewhere."""
    for _ in range(100):
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                sockets.append(socket.socket())
                sockets[-1].setblocking(False)
                sockets[-1].bind((address, port_of(sockets[0]) if len(sockets) > 1 else 0))
        except OSError:
            for each in sockets:
                each.close()
        else:
            return sockets
    raise AssertionError(f"no port is free at {addresses}")


@contextlib.contextmanager
def filled(one: socket.socket) -> Iterator[None]:
    """This listener does not answer: its backlog is full."""
    one.listen(0)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(one.getsockname())
        yield


@contextlib.contextmanager
def silent(*addresses: str) -> Iterator[int]:
    """Addresses that do not answer, and their port."""
    with listening(*addresses) as sockets, contextlib.ExitStack() as stack:
        for each in sockets:
            stack.enter_context(filled(each))
        yield port_of(sockets[0])


def port_of(one: socket.socket) -> int:
    port: int = one.getsockname()[1]
    return port


async def peer_of(dialler: Dialler, port: int, *, stream: bool = False) -> str:
    """Dial, and return the address. Both ways choose the same one."""
    if stream:
        _, writer = await dialler.open_stream(NAME, port)
        transport: asyncio.BaseTransport = writer.transport
    else:
        transport = await open_plain(dialler, port)
    peer: str = transport.get_extra_info("peername")[0]
    cast("asyncio.Transport", transport).abort()
    return peer


async def open_plain(dialler: Dialler, port: int, timeout: float = 30, host: str = NAME) -> asyncio.Transport:
    return await dialler.open("http", f"{host}:{port}", timeout=timeout, tls=no_tls)


def no_tls(host: str) -> ssl.SSLContext:
    raise AssertionError("there is no TLS here")


def anybody(host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(bounded())


ways = pytest.mark.parametrize("stream", [False, True], ids=["for fills", "for mitmproxy"])


@ways
def test_an_address_that_is_silent_holds_nobody_up(stream: bool) -> None:
    """RFC 8305 §5: the next one is tried in parallel."""
    with listening("127.0.0.1", "127.0.0.2") as (one, other), filled(other):
        assert run(peer_of(dialler_of("127.0.0.2", "127.0.0.1"), port_of(one), stream=stream)) == "127.0.0.1"


@ways
def test_an_address_that_refuses_is_followed_by_the_next_at_once(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY", 3600)
    with listening("127.0.0.1") as (one,):
        assert run(peer_of(dialler_of("127.0.0.3", "127.0.0.2", "127.0.0.1"), port_of(one), stream=stream)) == ALL[0]


@ways
def test_the_addresses_of_a_name_are_used_in_turn(stream: bool) -> None:
    dialler = dialler_of(*ALL)

    async def ask(port: int) -> list[str]:
        return [await peer_of(dialler, port, stream=stream) for _ in range(4)]

    with listening(*ALL) as (one, *_):
        assert run(ask(port_of(one))) == [*ALL, ALL[0]]
    assert cast("Addresses", dialler._names).asked == 1


@ways
def test_a_name_where_nobody_answered_is_looked_up_anew(stream: bool) -> None:
    """The host may have moved."""
    names = Addresses(["127.0.0.2", "127.0.0.3"])
    dialler = Dialler(names)

    async def ask(port: int) -> str:
        with pytest.raises((OriginError, OSError), match=r"refused|Connect call failed"):
            await peer_of(dialler, port, stream=stream)
        names.addresses = ["127.0.0.1"]
        return await peer_of(dialler, port, stream=stream)

    with listening("127.0.0.1") as (one,):
        assert run(ask(port_of(one))) == "127.0.0.1"


def test_refused_by_all_of_them() -> None:
    async def ask(port: int) -> OriginError:
        with pytest.raises(OriginError) as refused:
            await open_plain(dialler_of("127.0.0.2", "127.0.0.3"), port)
        with pytest.raises(ConnectionRefusedError):
            await dialler_of("127.0.0.2", "127.0.0.3").open_stream(NAME, port)
        return refused.value

    with listening("127.0.0.1") as (one,):
        error = run(ask(port_of(one)))
    assert error.error == "connection_refused"
    assert "127.0.0.2" in error.detail
    assert "127.0.0.3" in error.detail


def test_both_address_families_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8305 §4: not all of one family first, which may have no route."""
    four: list[Any] = [(socket.AF_INET, 1, 6, (f"192.0.2.{number}", 80)) for number in (1, 2)]
    six: list[Any] = [(socket.AF_INET6, 1, 6, (f"2001:db8::{number}", 80, 0, 0)) for number in (1, 2, 3)]
    assert dial._interleaved([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert dial._interleaved([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]


def test_of_two_that_answer_at_once_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY", 0)
    connect, connected = dial._connect, 0
    both = asyncio.Event()

    async def together(*which: Any) -> socket.socket:
        nonlocal connected
        found = await connect(*which)
        connected += 1
        if connected == 2:
            both.set()
        await both.wait()
        return found

    monkeypatch.setattr(dial, "_connect", together)

    async def ask(port: int) -> None:
        transport = await open_plain(dialler_of("127.0.0.1", "127.0.0.2"), port)
        transport.abort()

    with listening("127.0.0.1", "127.0.0.2") as (one, _), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)  # of an unclosed socket
        run(ask(port_of(one)))
    assert both.is_set()
    assert not [str(warning.message) for warning in caught if "socket" in str(warning.message)]


def test_a_certificate_that_is_bad_at_one_address_only(tmp_path: Path) -> None:
    """One of several machines behind a name may be out of date."""
    good = self_signed(tmp_path / "good.pem", NAME, address=None)
    bad = self_signed(tmp_path / "bad.pem", "b.example", address=None, name="b.test")

    async def ask() -> str:
        one, two = bound(["127.0.0.1", "127.0.0.2"])
        port = port_of(one)
        server = await asyncio.start_server(lambda *_: None, sock=one, ssl=server_context(good))
        other = await asyncio.start_server(lambda *_: None, sock=two, ssl=server_context(bad))
        trust = ssl.create_default_context(cafile=str(good))
        trust.load_verify_locations(str(bad))
        dialler = dialler_of("127.0.0.2", "127.0.0.1")
        transport = await dialler.open("https", f"{NAME}:{port}", timeout=30, tls=lambda host: trust)
        peer: str = transport.get_extra_info("peername")[0]
        transport.abort()
        with pytest.raises(OriginError) as refused:
            await dialler_of("127.0.0.2").open("https", f"{NAME}:{port}", timeout=30, tls=lambda host: trust)
        assert refused.value.error == "tls_certificate_error"
        server.close()
        other.close()
        return peer

    assert run(ask()) == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.1", "2130706433", "017700000001", "127.0.0.01", "127.0.0.1."])
def test_an_address_in_short_is_none(host: str) -> None:
    """The system reads it as 127.0.0.1, others read it as a name."""
    with listening("127.0.0.1") as (one,), pytest.raises(OriginError, match="not a canonical IPv4 address") as refused:
        run(open_plain(Dialler(), port_of(one), host=host))
    assert refused.value.error == "http_request_error"


async def accepted_late(port: int, late: float) -> str:
    """Dial with a hundredth of a second for TCP, while the loop does nothing else for ``late`` seconds."""
    opening = asyncio.create_task(
        Dialler().open("http", f"127.0.0.1:{port}", timeout=30, accepted_within=0.01, tls=no_tls)
    )
    await asyncio.sleep(0)
    time.sleep(late)  # noqa: ASYNC251
    transport = await opening
    transport.abort()
    return str(transport.get_extra_info("peername")[0])


def test_whoever_is_late_blames_no_peer() -> None:
    """The peer has accepted in time, which is found out at the same moment as that the time is over."""
    with listening("127.0.0.1") as (one,):
        assert run(accepted_late(port_of(one), 0.1)) == "127.0.0.1"


def test_whoever_does_not_accept_in_time_is_given_up() -> None:
    with silent("127.0.0.1") as port, pytest.raises(OriginError, match="Connection timeout"):
        run(accepted_late(port, 0.0))


def test_an_own_address_may_be_told() -> None:
    """mitmproxy's option ``connect_addr``."""

    async def ask(port: int) -> str:
        _, writer = await dialler_of(*ALL).open_stream(NAME, port, local_addr=("127.0.0.9", 0))
        own: str = writer.get_extra_info("sockname")[0]
        writer.transport.abort()
        return own

    with listening(*ALL) as (one, *_):
        assert run(ask(port_of(one))) == "127.0.0.9"


# -- parent proxies ----------------------------------------------------------------------------------------------------


class ParentProxy:
    """Responds to a CONNECT in these pieces, and then plays the origin, with TLS if ``inner``."""

    def __init__(self, pieces: list[bytes], inner: ssl.SSLContext | None = None) -> None:
        self.pieces, self.inner = pieces, inner
        self.heads: list[bytes] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            for number, piece in enumerate(self.pieces):
                if number:
                    await asyncio.sleep(0.002)  # so that they mostly arrive one by one
                writer.write(piece)
            if self.inner is not None:
                await writer.start_tls(self.inner)
            if self.pieces[-1:] != [b""]:
                await reader.read()
        writer.close()
        self.ended.set()


@contextlib.asynccontextmanager
async def parent_of(
    answer: ParentProxy, outer: ssl.SSLContext | None = None, fields: tuple[tuple[str, str], ...] = ()
) -> AsyncIterator[Parent]:
    server = await asyncio.start_server(answer.serve, "127.0.0.1", 0, ssl=outer)
    scheme = "https" if outer is not None else "http"
    try:
        yield Parent.from_url(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", fields)
    finally:
        server.close()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "pieces",
    [
        [ESTABLISHED],
        [bytes([byte]) for byte in ESTABLISHED],
        [b"HTTP/1.1 100 Continue\r\n\r\n", ESTABLISHED],
        [b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + ESTABLISHED],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"],  # RFC 9110 §9.3.6: "MUST ignore any Content-Length"
        [b"HTTP/1.1 204 No Content\r\n\r\n"],  # "Any 2xx (Successful) response"
    ],
    ids=["200", "byte by byte", "100", "103", "a length", "204"],
)
def test_a_tunnel_through_a_parent(tmp_path: Path, pieces: list[bytes], secure: bool) -> None:
    context = server_context(self_signed(tmp_path / "any.pem"))

    async def ask() -> bytes:
        proxy = ParentProxy(pieces, inner=context)
        fields = (("Proxy-Authorization", "Basic YTpi"),)
        async with parent_of(proxy, context if secure else None, fields) as parent:
            transport = await Dialler().open("https", "b.example", timeout=30, tls=anybody, parent=parent)
            assert transport.get_extra_info("ssl_object") is not None
            transport.abort()
            await proxy.ended.wait()
        return proxy.heads[0]

    assert run(ask()) == (
        b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"], "http_protocol_error"),
        ([b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"], "http_protocol_error"),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\n\r\n"], "http_protocol_error"),
        ([b"SSH-2.0-a\r\n\r\n"], "http_protocol_error"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 200], "http_protocol_error"),
        ([b"HTTP/1.1 200 OK\r\nA: " + b"a" * 300_000], "http_response_header_section_size"),
        ([ESTABLISHED + b"\x15\x03\x01\x00\x02\x02\x28"], "http_protocol_error"),  # it is not for the origin
        ([b"HTTP/1.1 200 OK\r\n", b""], "connection_terminated"),
        ([b""], "connection_terminated"),
        ([ESTABLISHED, b""], "destination_unavailable"),
    ],
    ids=["407", "302", "101", "ssh", "interim", "too long", "early", "half", "closed", "closed before TLS"],
)
def test_a_parent_that_opens_no_tunnel(pieces: list[bytes], error: str) -> None:
    """And the connection is closed."""

    async def ask() -> tuple[str, bool]:
        proxy = ParentProxy(pieces)
        async with parent_of(proxy) as parent:
            with pytest.raises(OriginError) as refused:
                await Dialler().open("https", "b.example", timeout=30, tls=anybody, parent=parent)
            await proxy.ended.wait()
        return refused.value.error, True

    assert run(ask()) == (error, True)


# -- given up ----------------------------------------------------------------------------------------------------------


def open_sockets() -> int:
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    return count


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - the kernel's files have no event
        await asyncio.sleep(0.005)


PHASES = ["name", "TCP", "TCP, two addresses", "TLS", "TLS, not begun", "CONNECT", "TLS in a tunnel"]


@pytest.mark.parametrize("ending", ["cancelled", "timeout"])
@pytest.mark.parametrize("phase", PHASES)
def test_whoever_is_ended_while_dialling_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch, phase: str, ending: str
) -> None:
    """A fill is cancelled in any phase, or times out."""

    async def story() -> None:
        reached = asyncio.Event()
        accepted: list[asyncio.StreamWriter] = []

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if phase in ("CONNECT", "TLS in a tunnel"):
                    await reader.readuntil(b"\r\n\r\n")
                    if phase == "TLS in a tunnel":
                        writer.write(ESTABLISHED)
                if phase != "CONNECT":
                    await reader.readexactly(1)  # of the handshake
                reached.set()
                await reader.read()
            writer.close()

        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        parent = Parent("http", "127.0.0.1", port) if phase in ("CONNECT", "TLS in a tunnel") else None
        scheme = "https" if "TLS" in phase or parent is not None else "http"
        names = Addresses(["127.0.0.1"])
        with contextlib.ExitStack() as stack:
            if phase == "name":
                monkeypatch.setattr(names, "getaddrinfo", never(reached))
            elif phase.startswith("TCP"):
                names.addresses = ["127.0.0.2"]
                if phase != "TCP":
                    monkeypatch.setattr(dial, "ATTEMPT_DELAY", 0)
                    names.addresses.append("127.0.0.3")
                port = stack.enter_context(silent(*names.addresses))
            await asyncio.sleep(0)
            before = open_sockets()
            begun = asyncio.ensure_future(
                Dialler(names).open(
                    scheme, f"{NAME}:{port}", timeout=0.5 if ending == "timeout" else 60, tls=anybody, parent=parent
                )
            )
            if phase == "TLS, not begun":
                create = loop_of().create_connection

                def not_begun(*arguments: Any, **how: Any) -> Any:
                    reached.set()
                    if ending == "cancelled":
                        loop_of().call_soon(begun.cancel)
                    return create(*arguments, **how)

                monkeypatch.setattr(loop_of(), "create_connection", not_begun)
            if ending == "timeout":
                await asyncio.wait([begun])
            elif phase.startswith("TCP"):
                await until(lambda: open_sockets() > before + (phase != "TCP"))
            else:
                await reached.wait()
            if ending == "cancelled":
                begun.cancel()
                await asyncio.wait([begun])
                assert begun.cancelled()
            else:
                with pytest.raises(OriginError) as late:
                    await begun
                assert late.value.error == "connection_timeout"
            await until(lambda: open_sockets() <= before)
            assert all(writer.is_closing() for writer in accepted)
        server.close()

    run(story())


def loop_of() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def never(reached: asyncio.Event) -> Callable[..., Awaitable[Any]]:
    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    return getaddrinfo


@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]], ids=["one", "two"])
def test_what_mitmproxy_gives_up_leaves_no_socket(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY", 0)

    async def story(port: int) -> None:
        before = open_sockets()
        begun = asyncio.ensure_future(dialler_of(*addresses).open_stream(NAME, port))
        await until(lambda: open_sockets() == before + len(addresses))
        begun.cancel()
        await asyncio.wait([begun])
        await until(lambda: open_sockets() == before)

    with silent("127.0.0.2", "127.0.0.3") as port:
        run(story(port))
