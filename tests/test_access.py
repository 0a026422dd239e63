"""Who may go where, by a real proxy with the rules that it has by itself: nothing on this machine can be reached."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy_cache.upstream.peers.listings import parse_peer
from proxy_cache.upstream.peers.ranking import Ranking
from tests.support.agents import Wire
from tests.support.dns_server import DnsServer
from tests.support.origin import PATIENCE, Origin, Reply
from tests.support.own_network import add_address, in_own_network
from tests.support.proxy import DEFAULT_ACCESS, SCRIPT, Proxy
from tests.support.tools import free_port, nobody_listens

RESOLVER = Path(__file__).parent / "support" / "names" / "sitecustomize.py"
HOSTS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0X7F.0.0.1", "0177.0.0.1", "017700000001",
    "127.0.0.1.", "2130706433.", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0", "0x0", "0.0.0.1",
    "127.000.000.001", "0x7f.0x0.0x0.0x1", "0x7F.0.1", "0177.1", "0177.0x0.1", "127.0x1", "0x7f000001.", "0177.0.0.1.",
    "0x7f.1.", "127.1.", "0.", "0.0", "00000000", "0000177.1", "2147483646", "0x7fffffff", "127.16777215",
    "127.255.65534", "0.1.2.3", "0x00000001", "1", "0.0.0.0.",
    "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0.0.0.0]", "[::127.0.0.1]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::0.0.0.1]", "[0::1]", "[0:0::0:1]", "[0:0:0:0:0:FFFF:7F00:1]",
    "[::FFFF:127.255.255.254]", "[::ffff:0:127.0.0.1]", "[::0.0.0.0]", "[0:0:0:0:0:0:0:0]", "[::ffff:0:0]",
    "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[fe80::1]", "[ff02::1]",
    "localhost", "LOCALHOST", "localhost.", "LocalHost.", "a.localhost", "A.B.LOCALHOST.", "localhost.localdomain",
    "ip6-localhost", "ip6-loopback",
)  # fmt: skip
"""Of this machine, as is known at the door."""
NAMES = (
    "loopback.test", "xn--lpback-wxaa.test", "two.test", "LOOPBACK.test", "_a-b_.test", "a." * 30 + "test",
    "-" * 63 + ".test", "127.0.0.1.test", "0x7f.1.test", "1.test",
)  # fmt: skip
"""Names of 127.0.0.1, see ``support/names``: their addresses tell."""
METHODS = ("GET", "HEAD", "POST", "CONNECT")
TO_ALL_PORTS = {**DEFAULT_ACCESS, "access_connect_ports": "*"}
ABOUT = {"address", "rule", "port", "listener"}


class Untouched:
    """Listens on all addresses of this machine, and sees whether anybody connects."""

    def __init__(self, port: int = 0) -> None:
        """``port``: that somebody else has on an address of his own, and this has on 127.0.0.1."""
        self.connections: list[object] = []
        if port:
            self._socket = socket.create_server(("127.0.0.1", port), backlog=64)
        else:
            self._socket = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Untouched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = self._socket.accept()
                self.connections.append(address)
                connection.close()


@pytest.fixture
def untouched() -> Iterator[Untouched]:
    with Untouched() as running:
        yield running
        assert running.connections == []


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    """With the rules that it has by itself."""
    folder = tmp_path_factory.mktemp("proxy")
    with Proxy(
        folder, fast_lane=fast_lane, script=RESOLVER, scripts=[SCRIPT], environment={"ANSWERS": str(folder)},
        **TO_ALL_PORTS,
    ) as running:  # fmt: skip
        yield running


def ask(proxy: Proxy, method: str, host: str, port: int, path: str = "/x") -> tuple[int, str, bytes]:
    """Status, Proxy-Status and what else came."""
    with Wire(proxy.address) as wire:
        target = f"{host}:{port}" if method == "CONNECT" else f"http://{host}:{port}{path}"
        more = "Content-Length: 4\r\n\r\nbody" if method == "POST" else "\r\n"
        wire.send(f"{method} {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{more}")
        head = wire.until(b"\r\n\r\n")
        status = int(head.split()[1])
        told = next((line for line in head.decode().split("\r\n") if line.lower().startswith("proxy-status")), "")
        return status, told, head + (wire.rest() if method != "CONNECT" else b"")


def denied(proxy: Proxy) -> float:
    return sum(proxy.value("access_denied_total", reason=reason) for reason in ABOUT)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_on_this_machine_is_reached_however_it_is_written(
    proxy: Proxy, untouched: Untouched, method: str
) -> None:
    before = denied(proxy)
    wrong = {}
    for host in HOSTS + NAMES:
        status, told, everything = ask(proxy, method, host, untouched.port)
        if status != 403 or "error=destination_ip_prohibited" not in told or b"127.0.0" in _without(everything, host):
            wrong[host] = status, told
    assert wrong == {}
    assert untouched.connections == []
    assert denied(proxy) - before == len(HOSTS + NAMES)


def _without(answer: bytes, host: str) -> bytes:
    return answer.replace(host.encode(), b"")


@pytest.mark.parametrize("method", METHODS)
def test_whether_anybody_listens_there_is_not_told(proxy: Proxy, untouched: Untouched, method: str) -> None:
    """Not by the answer, that is, in no byte of it."""
    with nobody_listens() as nobody:
        port = int(nobody.partition(":")[2])
        for host in ("127.0.0.1", "loopback.test"):
            answers = {_same(ask(proxy, method, host, each)[2]) for each in (untouched.port, port)}
            assert len(answers) == 1


def _same(answer: bytes) -> bytes:
    return b"\r\n".join(line for line in answer.split(b"\r\n") if not line.lower().startswith(b"date:"))


def test_the_metrics_port_and_the_proxy_itself_are_not_reached(proxy: Proxy) -> None:
    assert proxy.metrics_address is not None
    for address in (proxy.metrics_address, proxy.address):
        for method in ("GET", "POST", "CONNECT"):
            assert ask(proxy, method, address[0], address[1], "/metrics")[0] == 403


def test_own_listeners_are_not_reached_where_loopback_is_allowed(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    """A rule without a port is about others than the proxy."""
    proxy = start_proxy(access_destinations="allow 127.0.0.0/8", access_connect_ports="*")
    assert proxy.metrics_address is not None
    for method in ("GET", "POST", "CONNECT"):
        for port in (proxy.metrics_address[1], proxy.address[1]):
            status, told, _ = ask(proxy, method, "127.0.0.1", port, "/metrics")
            assert (status, "error=destination_ip_prohibited" in told) == (403, True)
    assert proxy.value("access_denied_total", reason="listener") == 6
    origin.serve("/x", Reply(size=100))
    assert proxy.get(origin.url("/x")).ok


@pytest.mark.parametrize(("method", "port"), [("GET", 25), ("POST", 22), ("HEAD", 1023)])
def test_plain_requests_go_to_no_low_port_but_those_of_the_web(proxy: Proxy, method: str, port: int) -> None:
    before = proxy.value("access_denied_total", reason="port")
    status, told, _ = ask(proxy, method, "loopback.test", port)
    assert (status, "error=http_request_denied" in told) == (403, True)
    assert proxy.value("access_denied_total", reason="port") == before + 1
    for open_port in (80, 443):  # these are refused by their address
        assert "destination_ip_prohibited" in ask(proxy, method, "loopback.test", open_port)[1]


def test_tunnels_go_to_443_and_to_the_ports_that_are_named(
    start_proxy: Callable[..., Proxy], untouched: Untouched, origin: Origin
) -> None:
    proxy = start_proxy(**DEFAULT_ACCESS, control=True)
    for port in (untouched.port, 80, 22):
        status, told, _ = ask(proxy, "CONNECT", "a.example", port)
        assert (status, "error=http_request_denied" in told) == (403, True)
    assert proxy.set_option("access_destinations=allow 127.0.0.0/8") == "ok"
    assert ask(proxy, "CONNECT", "127.0.0.1", origin.port)[0] == 403
    assert proxy.set_option(f"access_connect_ports=443,{origin.port}") == "ok"
    assert ask(proxy, "CONNECT", "127.0.0.1", origin.port)[0] == 200


def test_a_refusal_has_a_line_in_the_log_and_the_address_is_there_alone(
    start_proxy: Callable[..., Proxy], untouched: Untouched
) -> None:
    proxy = start_proxy(**DEFAULT_ACCESS)
    for _ in range(2):
        status, _, answer = ask(proxy, "GET", "localhost", untouched.port)
        assert status == 403
        assert b"127.0.0.1" not in answer
        assert b"::1" not in answer
    line = rf"GET http://localhost:{untouched.port}/x 403 .*error=destination_ip_prohibited"
    proxy.wait_for_log(line)
    proxy.eventually(lambda: sum("GET http://localhost" in each for each in proxy.log), lambda count: count == 2)
    reasons = [each for each in proxy.log if f"refused to go to localhost:{untouched.port}" in each]
    assert len(reasons) == 1
    assert "is loopback" in reasons[0]


# -- rules that change ------------------------------------------------------------------------------------------------


def start_with_names(start_proxy: Callable[..., Proxy], folder: Path) -> Proxy:
    return start_proxy(script=RESOLVER, scripts=[SCRIPT], environment={"ANSWERS": str(folder)}, control=True)


def test_what_is_stored_is_served_as_long_as_no_rule_is_about_its_name(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    """A hit dials nothing, so that its address is nobody's concern; a rule by name is asked at the door."""
    proxy = start_with_names(start_proxy, tmp_path)
    for name in ("127.0.0.1", "a.test"):
        url = f"http://{name}:{origin.port}/x"
        origin.serve("/x", Reply(size=100, headers=[("Cache-Control", "max-age=600")]))
        assert proxy.get(url).ok
        assert proxy.get(url).hit
    assert proxy.set_option("access_destinations=deny *.example") == "ok"  # and no more is allowed than by itself
    assert proxy.get(f"http://a.test:{origin.port}/x").hit
    assert proxy.get(f"http://127.0.0.1:{origin.port}/x").status == 403
    assert proxy.get(f"http://a.test:{origin.port}/y").status == 403
    assert proxy.set_option("access_destinations=deny a.test") == "ok"
    assert proxy.get(f"http://a.test:{origin.port}/x").status == 403
    assert len(origin.seen("/x")) == 2


def test_a_response_that_is_stale_is_not_served_in_place_of_a_refusal(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    proxy = start_with_names(start_proxy, tmp_path)
    fields = [("Cache-Control", "max-age=0, stale-if-error=600"), ("ETag", '"1"')]
    origin.serve("/x", Reply(size=100, headers=fields))
    url = f"http://a.test:{origin.port}/x"
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    assert proxy.set_option("access_destinations=deny *.example") == "ok"
    assert proxy.get(url).status == 403


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_connections_from_before_a_change_are_not_used_again(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path, method: str
) -> None:
    """Neither by fills nor by a client that has one of mitmproxy's."""
    proxy = start_with_names(start_proxy, tmp_path)
    origin.serve_prefix("/", Reply(size=100, headers=[("Cache-Control", "no-store")]))
    body = "Content-Length: 4\r\n\r\nbody" if method == "POST" else "\r\n"
    request = f"{method} http://a.test:{origin.port}/x HTTP/1.1\r\nHost: x\r\n{body}"
    with Wire(proxy.address) as wire:
        wire.send(request)
        assert wire.response().status == 200
        assert proxy.set_option("access_destinations=deny 127.0.0.0/8") == "ok"
        wire.send(request)
        assert wire.response().status == 403
    assert len(origin.seen("/x")) == 1


def test_the_origin_of_a_reverse_proxy_is_the_operators_choice(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = start_proxy(mode=f"reverse:http://{origin.netloc}", **DEFAULT_ACCESS)
    origin.serve("/x", Reply(size=100))
    for method in ("GET", "POST"):
        with Wire(proxy.address) as wire:
            more = "Content-Length: 4\r\n\r\nbody" if method == "POST" else "\r\n"
            wire.send(f"{method} /x HTTP/1.1\r\nHost: packages.example\r\n{more}")
            assert wire.response().status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "metadata.google.internal", "[::ffff:127.0.0.1]"])
def test_a_parent_proxy_is_not_asked_for_what_names_tell(
    start_proxy: Callable[..., Proxy], origin: Origin, host: str
) -> None:
    proxy = start_proxy(mode=f"upstream:http://{origin.netloc}", **TO_ALL_PORTS)
    origin.serve_prefix("/", Reply(size=100))
    for method in METHODS:
        assert ask(proxy, method, host, 8000)[0] == 403
    assert proxy.get("http://packages.example:8000/y").ok  # which the parent looks up
    assert not origin.seen("/x")


def test_where_mitmproxy_dials_by_itself_the_rules_hold_all_the_same(
    start_proxy: Callable[..., Proxy], untouched: Untouched, tmp_path: Path
) -> None:
    script = tmp_path / "another.py"
    script.write_text(
        "from mitmproxy.proxy import server\n"
        "opens = server.ConnectionHandler.open_connection\n"
        "async def open_connection(self, command):\n"
        "    return await opens(self, command)\n"
        "server.ConnectionHandler.open_connection = open_connection\n"
    )
    proxy = start_proxy(arguments=["-s", str(script)], **TO_ALL_PORTS)
    proxy.wait_for_log("what is forwarded is dialled by mitmproxy itself")
    for method in ("POST", "CONNECT"):
        for host in ("localhost", "127.0.0.1", "[::1]"):
            status, told, _ = ask(proxy, method, host, untouched.port)
            assert (status, "error=destination_ip_prohibited" in told) == (403, True)


def test_what_socks_asks_for_is_checked_where_it_is_dialled(
    start_proxy: Callable[..., Proxy], untouched: Untouched
) -> None:
    """There is no door: mitmproxy connects at once to what the client has named, by address or by name."""
    proxy = start_proxy(mode="socks5", **TO_ALL_PORTS)
    for address in (
        b"\x01\x7f\x00\x00\x01", b"\x01\x00\x00\x00\x00", b"\x03\x09localhost", b"\x03\x060x7f.1",
        b"\x04" + bytes(15) + b"\x01", b"\x04" + bytes(10) + b"\xff\xff\x7f\x00\x00\x01",
    ):  # fmt: skip
        for request in (b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0\r\n"):
            with Wire(proxy.address) as wire, contextlib.suppress(ConnectionError):
                wire.send(b"\x05\x01\x00")
                assert wire.exactly(2) == b"\x05\x00"
                wire.send(b"\x05\x01\x00" + address + untouched.port.to_bytes(2))
                wire.send(request)
                wire.finish()
                wire.rest()
    assert untouched.connections == []
    assert denied(proxy) > 0


def test_a_home_that_denies_is_not_taken_for_one_that_has_failed(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    """Nodes ought to have the same rules; while they are changed they have not. Each goes by its own."""
    token = tmp_path / "token"
    token.write_text("correct-horse-battery-staple")
    ports = [free_port() for _ in range(2)]
    peers = [f"http://127.0.0.1:{port}" for port in ports]
    options = {"cache_peers": ",".join(peers), "cache_peer_token_file": token}
    asking = start_proxy(listen_port=ports[0], **options)
    home = start_proxy(listen_port=ports[1], **options, access_destinations="deny 127.0.0.1")
    ranking = Ranking([parse_peer(peer) for peer in peers])
    urls = [origin.serve(f"/{number}", Reply(size=100)) for number in range(20)]
    assert any(ranking.home(url) == parse_peer(peers[1]) for url in urls)
    assert [asking.get(url).status for url in urls] == [200] * len(urls)
    assert home.value("access_denied_total", reason="rule") > 0
    assert asking.value("peers_left_alone") == 0
    assert home.get(urls[0]).status == 403


# -- names that change ------------------------------------------------------------------------------------------------


@in_own_network
def test_a_name_that_is_public_at_first_and_loopback_next_is_refused(tmp_path: Path) -> None:
    """DNS rebinding, by a name server. (Nothing outside can be reached from in here.)"""
    add_address("10.9.0.1")
    with DnsServer() as server, Untouched() as untouched:
        server.records["rebound.example"] = ["192.0.2.1"]
        with Proxy(tmp_path, **DEFAULT_ACCESS) as proxy:
            url = f"http://rebound.example:{untouched.port}/x"
            assert proxy.get(url).status in (502, 504)
            assert proxy.request("POST", url, body=b"x").status in (502, 504)
            server.records["rebound.example"] = ["127.0.0.1"]
            proxy.eventually(lambda: proxy.get(url).status, lambda status: status == 403)
            assert proxy.request("POST", url, body=b"x").status == 403
            server.records["both.example"] = ["127.0.0.1", "192.0.2.1"]
            for _ in range(3):
                assert proxy.get(f"http://both.example:{untouched.port}/x").status in (403, 502, 504)
        assert untouched.connections == []


# -- clients ----------------------------------------------------------------------------------------------------------


def test_clients_that_are_not_named_get_a_403(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(access_clients="10.0.0.0/8, fd00::/8", control=True)
    for _ in range(2):
        status, told, answer = ask(proxy, "GET", "127.0.0.1", origin.port)
        assert (status, "error=http_request_denied" in told) == (403, True)
        assert b"connection: close" in answer.lower()
    assert not origin.seen("/x")
    assert proxy.value("access_denied_total", reason="client") == 2
    proxy.wait_for_log(r"refused client 127\.0\.0\.1")
    assert proxy.set_option("access_clients=127.0.0.1") == "ok"
    origin.serve("/x", Reply(size=100))
    with Wire(proxy.address) as wire:
        wire.send(f"GET {origin.url('/x')} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.response().status == 200
        assert proxy.set_option("access_clients=10.0.0.0/8") == "ok"  # and whoever is there already has to go
        assert wire.rest() == b""


def test_clients_that_are_not_named_get_nothing_where_asyncio_is_left_alone(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = start_proxy(access_clients="10.0.0.0/8", tune_event_loop=False)
    with Wire(proxy.address) as wire, contextlib.suppress(ConnectionError):
        wire.send(f"GET {origin.url('/x')} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.rest() == b""
    assert not origin.seen("/x")
    assert proxy.value("access_denied_total", reason="client") == 1


# -- mutated heads ----------------------------------------------------------------------------------------------------

PARTS = (
    b"127.0.0.1", b"[::1]", b"[::ffff:127.0.0.1]", b"localhost", b"0x7f.1", b"a.example", b".", b"..", b":", b"@", b"%",
    b"\x00", b"\xff", b"0", b"443", b"65536", b"-1", b"/", b"?", b"#", b" ", b"\t", b"[", b"]", b"%31", b"\\", b"//",
    b"http://", b"xn--", b"A" * 300, b"1" * 400, "\u2460".encode(), "\uff11".encode(),
)  # fmt: skip


def mutated(random_: random.Random, port: int) -> bytes:
    """A CONNECT to this machine with some of its bytes changed."""
    head = bytearray(b"CONNECT %b:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (random_.choice(PARTS[:5]), port))
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(head) - 4)
        match random_.randrange(3):
            case 0:
                head[at] = random_.randrange(256)
            case 1:
                head[at:at] = random_.choice(PARTS)
            case _:
                del head[at : at + random_.randint(1, 4)]
    return bytes(head)


@in_own_network
def test_mutated_connects_reach_nothing_and_leave_nothing(tmp_path: Path) -> None:
    """Whatever they come to: most are no CONNECT any more, and some name others than this machine, which is why this
    is tested where nothing else can be reached."""
    random_ = random.Random(20)
    with Untouched() as untouched, Proxy(tmp_path, **TO_ALL_PORTS, access_log=False) as proxy:

        def open_now() -> int:
            return sum(not name.startswith("/") for name in proxy.open_files())  # the index may be opened meanwhile

        def send(count: int) -> int:
            for _ in range(count):
                head = mutated(random_, untouched.port)
                with Wire(proxy.address) as wire:
                    wire.send(head)
                    wire.finish()
                    with contextlib.suppress(ConnectionError):
                        assert not wire.rest().startswith(b"HTTP/1.1 200"), head
            proxy.eventually(lambda: proxy.value("name_lookups_in_flight"), lambda count: count == 0)
            return open_now()

        before = send(100)
        send(300)
        proxy.eventually(open_now, lambda count: count <= before)
        assert untouched.connections == []
        assert proxy.value("hook_errors_total") == 0
        assert proxy.value("tunnels_active") == 0
