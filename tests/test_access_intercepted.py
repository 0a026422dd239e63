"""Who may go where, with TLS that ends in the proxy: an intercepted tunnel leads no further than another one."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import Response, Wire
from tests.support.certificates import self_signed, server_context
from tests.support.dns_server import DnsServer
from tests.support.intercepted import connected, is_intercepted, trusting
from tests.support.origin import PATIENCE, Origin, Reply
from tests.support.own_network import add_address, in_own_network
from tests.support.proxy import DEFAULT_ACCESS, SCRIPT, Proxy

from .test_access import HOSTS, NAMES, RESOLVER, TO_ALL_PORTS, Untouched, denied
from .test_intercept import WATCHES
from .test_proxy_users import FIELD, basic

Start = Callable[..., Proxy]
INTERCEPTS = {**TO_ALL_PORTS, "intercept_hosts": "*", "origin_retries": 0}
DOORS = ("lane", "script", "users")
"""Who reads the CONNECT: the lane; mitmproxy, since another addon has to see it; mitmproxy, which asks for users."""


@pytest.fixture
def untouched() -> Iterator[Untouched]:
    with Untouched() as running:
        yield running
        assert running.connections == []


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool, door: str) -> Iterator[Proxy]:
    """With the rules that it has by itself, and interception of whatever there is."""
    folder = tmp_path_factory.mktemp("proxy")
    options = {"lane": {}, "script": {}, "users": {"proxyauth": "any"}}[door]
    arguments: list[str] = []
    if door == "script":
        script = folder / "watches.py"
        script.write_text(WATCHES)
        arguments = ["-s", str(script)]
    with Proxy(
        folder, fast_lane=fast_lane, script=RESOLVER, scripts=[SCRIPT], environment={"ANSWERS": str(folder)},
        arguments=arguments, **INTERCEPTS, **options,
    ) as running:  # fmt: skip
        yield running


def connect(wire: Wire, netloc: str) -> Response:
    wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\n{FIELD}: {basic('alice')}\r\n\r\n")
    return wire.response()


def tell(answer: Response) -> tuple[int, str]:
    return answer.status, (answer.header("Proxy-Status") or "").partition("; ")[2]


def is_denied(answer: Response) -> bool:
    details = "this proxy does not go there, see the proxy's option access_destinations"
    return tell(answer) == (403, f'error=destination_ip_prohibited; details="{details}"')


def begun(proxy: Proxy) -> float:
    """How often there was anything to decide about TLS."""
    return proxy.value("intercepts_total")


def count_of(proxy: Proxy, outcome: str) -> float:
    return proxy.value("intercepts_total", outcome=outcome)


def inside(proxy: Proxy, netloc: str, name: str) -> Wire:
    """A connection in TLS that ends in the proxy."""
    wire = Wire(proxy.address)
    assert connect(wire, netloc).status == 200
    wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname=name)
    assert is_intercepted(wire)
    return wire


REQUESTS = (
    "GET /x HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "GET https://{0}/x HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "GET /x HTTP/1.1\r\nHost: packages.example\r\nRange: bytes=0-1\r\n\r\n",
    "DELETE /x HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "GET /x HTTP/1.1\r\nHost: {0}\r\nCache-Control: no-cache\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: {0}\r\nContent-Length: 4\r\n\r\nbody",  # the connection may end with its answer
)


def test_a_connect_that_is_denied_begins_no_tls(shared: Proxy, untouched: Untouched) -> None:
    """All of them over one connection, which goes on after each."""
    before, counted = begun(shared), denied(shared)
    wrong = {}

    def logged() -> int:
        return sum("CONNECT" in line and f":{untouched.port} 403 " in line for line in shared.log)

    with Wire(shared.address) as wire:
        for host in HOSTS:
            if not is_denied(answer := connect(wire, f"{host}:{untouched.port}")):
                wrong[host] = tell(answer)
        wire.send(f"GET http://mitm.it/ HTTP/1.1\r\nHost: mitm.it\r\n{FIELD}: {basic('alice')}\r\n\r\n")
        assert wire.response().status == 200
    assert wrong == {}
    assert begun(shared) == before
    assert denied(shared) - counted == len(HOSTS)
    shared.eventually(logged, lambda count: count == len(HOSTS))


def test_a_name_is_denied_inside_of_its_tunnel(shared: Proxy, untouched: Untouched) -> None:
    """At the door nobody knows its address. TLS ends in the proxy, and goes no further."""
    counted = denied(shared)
    wrong = {}
    for name in NAMES:
        netloc = f"{name}:{untouched.port}"
        with inside(shared, netloc, name) as wire:
            wire.send(f"HEAD /x HTTP/1.1\r\nHost: {netloc}\r\n\r\n")
            assert wire.head()[0] == 403
            for request in REQUESTS:
                wire.send(request.format(netloc))
                if not is_denied(answer := wire.response()):
                    wrong[name, request] = tell(answer)
    assert wrong == {}
    assert denied(shared) - counted == len(NAMES) * (len(REQUESTS) + 1)


def test_what_is_no_tls_goes_nowhere_either(shared: Proxy, untouched: Untouched) -> None:
    """A tunnel after all: its client has had a 200, and is told by the end of the connection."""
    for name in NAMES:
        with Wire(shared.address) as wire:
            assert connect(wire, f"{name}:{untouched.port}").status == 200
            wire.send("SSH-2.0-x\r\n")
            assert wire.rest() == b""


def test_requests_inside_name_nobody_else(shared: Proxy, untouched: Untouched) -> None:
    """Whatever they say, what they are for is what the CONNECT has named."""
    other = f"127.0.0.1:{untouched.port}"
    metadata = "169.254.169.254"
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(inside(shared, f"loopback.test:{untouched.port}", "loopback.test")) for _ in "12"]
        for wire in wires:
            for target, host in (
                (f"http://{metadata}/latest", metadata), (f"https://{metadata}/latest", "a.example"),
                (f"http://{other}/", other), ("/x", metadata), ("/x", other), ("//169.254.169.254/x", "a.example"),
            ):  # fmt: skip
                for method in ("GET", "POST"):
                    wire.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")
                    assert is_denied(wire.response())
    for head, statuses in (
        (f"CONNECT {other} HTTP/1.1\r\nHost: {other}\r\n\r\n", {400}),
        (f"CONNECT {other} HTTP/1.1\r\nHost: {other}\r\n{FIELD}: {basic('alice')}\r\n\r\n", {400}),
        ("CONNECT metadata.google.internal:443 HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\0" * 9, {400, 505}),
        ("GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
         "HTTP2-Settings: AAAA\r\n\r\n", {403}),
    ):  # fmt: skip
        with inside(shared, f"loopback.test:{untouched.port}", "loopback.test") as wire:
            wire.send(head)
            assert wire.response().status in statuses


def test_another_port_is_refused(start_proxy: Start, untouched: Untouched) -> None:
    proxy = start_proxy(**{**INTERCEPTS, **DEFAULT_ACCESS})
    with Wire(proxy.address) as wire:
        for port in (untouched.port, 80, 22):
            status, told = tell(connect(wire, f"a.example:{port}"))
            assert (status, "error=http_request_denied" in told) == (403, True)
    assert begun(proxy) == 0
    assert proxy.value("access_denied_total", reason="port") == 3


def test_own_listeners_are_not_reached_through_a_tunnel(start_proxy: Start, tmp_path: Path) -> None:
    """By address at the door, by name inside; also where loopback is allowed."""
    proxy = start_proxy(
        script=RESOLVER, scripts=[SCRIPT], environment={"ANSWERS": str(tmp_path)},
        **{**INTERCEPTS, "access_destinations": "allow 127.0.0.0/8"},
    )  # fmt: skip
    assert proxy.metrics_address is not None
    for port in (proxy.address[1], proxy.metrics_address[1]):
        with Wire(proxy.address) as wire:
            assert is_denied(connect(wire, f"127.0.0.1:{port}"))
        with inside(proxy, f"own.test:{port}", "own.test") as wire:
            for request in REQUESTS:
                wire.send(request.format(f"own.test:{port}"))
                assert is_denied(wire.response())
    assert proxy.value("access_denied_total", reason="listener") == 2 * (1 + len(REQUESTS))


def test_a_certificate_is_for_what_the_client_has_asked_for(start_proxy: Start, origin_certificate: Path) -> None:
    """However an address that is allowed is written; and another name in TLS is refused."""
    proxy = start_proxy(intercept_hosts="*", ssl_insecure=True, origin_retries=0)
    context = trusting(proxy)
    context.check_hostname = False
    with Origin(tls=server_context(origin_certificate)) as origin:
        for spelling in ("0x7f.1", "2130706433", "127.1", "127.0.0.1.", "[::ffff:127.0.0.1]", "LOCALHOST."):
            netloc = f"{spelling}:{origin.port}"
            name = spelling.strip("[].").lower()
            with connected(proxy, netloc) as wire, pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                context.wrap_socket(wire.socket, server_hostname="another.example")
            with connected(proxy, netloc) as wire:
                wire.socket = context.wrap_socket(wire.socket, server_hostname=name)
                assert is_intercepted(wire)
                wire.send(f"GET /x HTTP/1.1\r\nHost: {netloc}\r\n\r\n")
                assert wire.response().status in (200, 502)  # not every resolver takes all of them
        for netloc in (
            "a..b:443",
            ".:443",
            "..:443",
            "*:443",
            "[:::1]:443",
            "[127.0.0.1]:443",
            "a.example:0",
            "x" * 64 + ":443",
        ):
            with Wire(proxy.address) as wire:
                assert connect(wire, netloc).status == 400
        for fields in ("", "Host: a\r\nHost: b\r\n", "Host: a b\r\n"):
            with Wire(proxy.address) as wire:
                wire.send(f"CONNECT {origin.netloc} HTTP/1.1\r\n{fields}\r\n")
                assert wire.response().status == 400
    assert count_of(proxy, "refused") == 6


# -- what may change while a tunnel is open -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["deny 127.0.0.0/8", "deny a.test", "deny *.example"])
def test_rules_that_change_count_for_the_next_request_in_a_tunnel(
    start_proxy: Start, tmp_path: Path, rule: str
) -> None:
    """With connections to the origin that have been kept: one of fills, and mitmproxy's of this very client."""
    certificate = self_signed(tmp_path / "a.pem", "a.test")
    proxy = start_proxy(
        script=RESOLVER, scripts=[SCRIPT], environment={"ANSWERS": str(tmp_path)}, control=True,
        intercept_hosts="*", ssl_verify_upstream_trusted_ca=certificate,
    )  # fmt: skip
    with Origin(tls=server_context(certificate)) as origin:
        origin.serve_prefix("/", Reply(size=100, headers=[("Cache-Control", "no-store")]))
        origin.serve("/stored", Reply(size=100, headers=[("Cache-Control", "max-age=600")]))
        netloc = f"a.test:{origin.port}"
        heads = [
            f"{method} {path} HTTP/1.1\r\nHost: {netloc}\r\nContent-Length: 0\r\n\r\n"
            for method, path in (("GET", "/x"), ("POST", "/x"), ("GET", "/y"))
        ]
        with inside(proxy, netloc, "a.test") as wire:
            for head in (*heads, f"GET /stored HTTP/1.1\r\nHost: {netloc}\r\n\r\n") * 2:
                wire.send(head)
                assert wire.response().status == 200
            seen = origin.count()
            assert proxy.set_option(f"access_destinations={rule}") == "ok"
            for head in heads:
                wire.send(head)
                assert wire.response().status == 403
            wire.send(f"GET /stored HTTP/1.1\r\nHost: {netloc}\r\n\r\n")
            assert wire.response().status == (403 if rule == "deny a.test" else 200)  # a hit dials nothing
        assert origin.count() == seen
        with Wire(proxy.address) as wire:
            assert connect(wire, netloc).status == (403 if rule == "deny a.test" else 200)


def test_clients_that_are_served_no_more_lose_their_tunnels(start_proxy: Start, origin_certificate: Path) -> None:
    """In every state that they may be in."""
    proxy = start_proxy(intercept_hosts="*", ssl_verify_upstream_trusted_ca=origin_certificate, control=True)
    with Origin(tls=server_context(origin_certificate)) as origin, contextlib.ExitStack() as stack:
        used, forwarded, fresh = (stack.enter_context(inside(proxy, origin.netloc, "127.0.0.1")) for _ in range(3))
        waiting, begun_ = (stack.enter_context(connected(proxy, origin.netloc)) for _ in range(2))
        begun_.send(b"\x16\x03\x01")
        for wire, method in ((used, "GET"), (forwarded, "POST")):
            wire.send(f"{method} /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert wire.response().status == 200
        assert proxy.set_option("access_clients=10.0.0.0/8") == "ok"
        for wire in (used, forwarded, fresh, waiting, begun_):
            assert wire.rest() == b""
        with Wire(proxy.address) as wire:
            assert connect(wire, origin.netloc).status == 403


@in_own_network
def test_clients_that_mitmproxy_blocks_have_no_tunnels(tmp_path: Path) -> None:
    """Its option ``block_global``, which is on by itself: for clients with a public address."""
    add_address("11.22.33.44")
    with Proxy(tmp_path, arguments=["--listen-host", "0.0.0.0"], **INTERCEPTS) as proxy:
        for _ in range(3):
            with connected(proxy, "a.example:443"):  # the lane knows addresses that have been let in
                pass
            public = socket.create_connection(proxy.address, source_address=("11.22.33.44", 0))
            with contextlib.closing(public), contextlib.suppress(ConnectionError):
                public.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n")
                assert public.recv(100) == b""


# -- names that change ------------------------------------------------------------------------------------------------

FAR = (
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "169.254.169.254.",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "169.254.0.1", "100.100.100.200", "0x646464c8", "168.63.129.16",
    "192.0.0.192", "[::ffff:100.100.100.200]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fd00:ec2::254]",
    "224.0.0.1", "239.255.255.250", "255.255.255.255", "[fe80::1]", "[ff02::1]",
)  # fmt: skip


@in_own_network
def test_link_local_and_metadata_addresses_that_are_there_are_not_reached(tmp_path: Path) -> None:
    """This network has them, and somebody who listens: fills, forwarded requests, tunnels, intercepted ones."""
    for number, address in enumerate(("169.254.169.254", "169.254.0.1", "100.100.100.200", "168.63.129.16")):
        add_address(address, number)
    with DnsServer() as server, Untouched() as untouched, Proxy(tmp_path, **INTERCEPTS) as proxy:
        for host in FAR:
            netloc = f"{host}:{untouched.port}"
            with Wire(proxy.address) as wire:
                assert is_denied(connect(wire, netloc)), host
                for method in ("GET", "POST"):
                    wire.send(f"{method} http://{netloc}/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                    assert is_denied(wire.response()), host
        for address in ("169.254.169.254", "169.254.0.1", "100.100.100.200", "168.63.129.16", "127.0.0.1"):
            name = f"a{address.replace('.', '-')}.example"
            server.records[name] = [address]
            with inside(proxy, f"{name}:{untouched.port}", name) as wire:
                for request in REQUESTS:
                    wire.send(request.format(name))
                    assert is_denied(wire.response()), name
        assert begun(proxy) == 5
        assert untouched.connections == []


@in_own_network
def test_a_name_that_changes_while_its_tunnel_is_open_is_refused(tmp_path: Path) -> None:
    """DNS rebinding: between the CONNECT and what is asked for first, and between two requests."""
    add_address("10.9.0.1")
    certificate = self_signed(tmp_path / "a.pem", "rebound.example", address=None)
    options = {**INTERCEPTS, "ssl_verify_upstream_trusted_ca": certificate}
    with (
        DnsServer() as server,
        Origin("10.9.0.1", server_context(certificate)) as origin,
        Proxy(tmp_path, **options) as proxy,
    ):
        netloc = f"rebound.example:{origin.port}"
        origin.serve_prefix("/", Reply(size=10, headers=[("Cache-Control", "no-store"), ("Connection", "close")]))
        with Untouched(origin.port) as untouched:
            for method in ("GET", "POST"):
                request = f"{method} /x HTTP/1.1\r\nHost: {netloc}\r\nContent-Length: 0\r\n\r\n"
                server.records["rebound.example"] = ["10.9.0.1"]

                def status(wire: Wire, request: str = request) -> int:
                    wire.send(request)
                    return wire.response().status

                with inside(proxy, netloc, "rebound.example") as wire:
                    proxy.eventually(lambda: status(wire), lambda found: found == 200)
                    server.records["rebound.example"] = ["127.0.0.1"]
                    proxy.eventually(lambda: status(wire), lambda found: found == 403)
                with inside(proxy, netloc, "rebound.example") as wire:
                    server.records["rebound.example"] = ["::1", "127.0.0.1", "169.254.169.254"]
                    assert status(wire) == 403
            assert untouched.connections == []


def test_what_is_no_record_of_tls_ends_the_connection(start_proxy: Start, origin_certificate: Path) -> None:
    """After a handshake, and in the middle of a body. Nothing of it is read as a request."""
    proxy = start_proxy(
        intercept_hosts="*", intercept_fallback=False, ssl_verify_upstream_trusted_ca=origin_certificate
    )
    with Origin(tls=server_context(origin_certificate)) as origin:
        for before in (
            "",
            f"GET /x HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n",
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-",
        ):
            with inside(proxy, origin.netloc, "127.0.0.1") as wire:
                wire.send(before)
                if before.startswith("GET"):
                    assert wire.response().status == 200
                raw = socket.socket(fileno=wire.socket.detach())
                with contextlib.closing(raw), contextlib.suppress(ConnectionError):
                    raw.settimeout(PATIENCE)
                    raw.sendall(f"GET /smuggled HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n".encode())
                    while data := raw.recv(4096):
                        assert b"HTTP/1.1" not in data
        assert not origin.seen("/smuggled")
        with inside(proxy, origin.netloc, "127.0.0.1") as wire:
            wire.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert wire.response().status == 200
