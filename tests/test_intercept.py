"""Hosts of ``intercept_hosts``: TLS ends in the proxy, and what is asked for in it is cached like the rest.

(What else is promised to clients is told for these, too, in the files of ``IN_TLS_TOO`` in ``tests/conftest.py``.)
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import interception_of
from tests.support import hostile
from tests.support.agents import Wire
from tests.support.certificates import self_signed, server_context
from tests.support.command import ProxyCache
from tests.support.hellos import in_records, message_of, recorded
from tests.support.intercepted import ca_of, connected, intercepted, is_intercepted, trusting
from tests.support.looks import open_files
from tests.support.origin import PATIENCE, Echo, Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import free_port, nobody_listens

Start = Callable[..., Proxy]
FRESH = (("Cache-Control", "max-age=600"), ("ETag", '"1"'))


@pytest.fixture
def secure(origin_certificate: Path) -> Iterator[Origin]:
    with Origin(tls=server_context(origin_certificate)) as running:
        yield running


@pytest.fixture
def start(start_proxy: Start, origin_certificate: Path) -> Start:
    """Start a proxy that intercepts."""

    def start(**options: Any) -> Proxy:
        return start_proxy(**{**interception_of(origin_certificate), "origin_retries": 0, **options})

    return start


@pytest.fixture(scope="module")
def shared_proxy(
    tmp_path_factory: pytest.TempPathFactory, origin_certificate: Path, fast_lane: bool
) -> Iterator[Proxy]:
    options = {**interception_of(origin_certificate), "intercept_hosts": ["127.0.0.1", "localhost"]}
    with Proxy(tmp_path_factory.mktemp("proxy"), fast_lane=fast_lane, origin_retries=0, **options) as proxy:
        yield proxy


def ask(wire: Wire, origin: Origin, target: str, *lines: str, method: str = "GET") -> None:
    fields = "".join(f"{line}\r\n" for line in lines)
    wire.send(f"{method} {target} HTTP/1.1\r\nHost: {origin.netloc}\r\n{fields}\r\n")


def count(proxy: Proxy, outcome: str) -> float:
    return proxy.value("cache_proxy_intercepts_total", outcome=outcome)


# -- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 16_000, 20_000, 100_000, 300_000, 3_000_000])
def test_a_miss_and_hits(proxy: Proxy, secure: Origin, size: int) -> None:
    secure.serve("/x", Reply(size=size, headers=FRESH))
    with intercepted(proxy, secure) as wire, intercepted(proxy, secure) as other:
        assert is_intercepted(wire)
        for client in (wire, wire, other, other, wire):
            ask(client, secure, "/x")
            assert client.response().body == secure.body_of("/x", size)
        ask(wire, secure, "/x")
        assert wire.response().hit
    assert secure.count("/x") == 1


def test_ranges_conditions_and_heads(proxy: Proxy, secure: Origin) -> None:
    secure.serve("/x", Reply(size=200_000, headers=FRESH))
    with intercepted(proxy, secure) as wire:
        for first, last in ((10, 19), (0, 99_999), (150_000, 199_999)) * 2:
            ask(wire, secure, "/x", f"Range: bytes={first}-{last}")
            part = wire.response()
            assert part.status == 206
            assert part.body == secure.body_of("/x", 200_000)[first : last + 1]
        ask(wire, secure, "/x", 'If-None-Match: "1"')
        assert wire.head()[0] == 304
        ask(wire, secure, "/x", method="HEAD")
        status, headers = wire.head()
        assert (status, dict(headers)["Content-Length"]) == (200, "200000")
        ask(wire, secure, "/x", "Range: bytes=10-19")
        assert wire.response().hit


def test_requests_one_after_the_other_and_all_at_once(proxy: Proxy, secure: Origin) -> None:
    """Pipelined, in one piece and cut everywhere, with what mitmproxy answers in between."""
    requests = b""
    for number in range(12):
        method = ("GET", "POST", "GET", "HEAD")[number % 4]
        body = "Content-Length: 2\r\n\r\nhi" if method == "POST" else "\r\n"
        requests += f"{method} /{number} HTTP/1.1\r\nHost: {secure.netloc}\r\n{body}".encode()
    for step in (len(requests), 7):
        with intercepted(proxy, secure) as wire:
            for start in range(0, len(requests), step):
                wire.send(requests[start : start + step])
            for number in range(12):
                if number % 4 == 3:
                    assert wire.head()[0] == 200
                else:
                    assert wire.response().body == secure.body_of(f"/{number}", 1000)


def test_connection_close_is_a_proper_end(proxy: Proxy, secure: Origin) -> None:
    context = trusting(proxy)
    for method in ("GET", "GET", "DELETE"):
        with intercepted(proxy, secure, context, suppress_ragged_eofs=False) as wire:
            ask(wire, secure, "/x", "Connection: close", method=method)
            assert wire.rest().endswith(secure.body_of("/x", 1000))


def test_the_entry_is_the_same_however_it_is_asked_for(start: Start, secure: Origin) -> None:
    """By interception, in absolute form, and of a proxy in the place of the origin: the key is the URL."""
    proxy = start(mode=["regular", f"reverse:{secure.base}@{free_port()}"])
    with intercepted(proxy, secure) as wire:
        ask(wire, secure, "/x", "Host: other.example")
        assert wire.response().status == 400  # two of them
    with intercepted(proxy, secure) as wire:
        wire.send("GET /x HTTP/1.1\r\nHost: other.example\r\n\r\n")
        assert wire.response().body == secure.body_of("/x", 1000)
    assert dict(secure.seen("/x")[0].headers)["Host"] == secure.netloc
    assert proxy.get(secure.url("/x")).hit
    assert secure.count("/x") == 1


def test_other_scripts_see_what_is_asked_for(start: Start, secure: Origin) -> None:
    proxy = start(record=True)
    with intercepted(proxy, secure) as wire:
        client = wire.socket.getsockname()
        ask(wire, secure, "/x?y")
        assert wire.response().status == 200
    proxy.eventually(lambda: proxy.flow_file.read_text() if proxy.flow_file.exists() else "")
    flow = json.loads(proxy.flow_file.read_text().splitlines()[-1])
    assert (flow["method"], flow["url"], flow["client"]) == ("GET", secure.url("/x?y"), list(client))


# -- to origins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("insecure", [False, True])
def test_origins_are_verified(start: Start, secure: Origin, tmp_path: Path, insecure: bool) -> None:
    other = self_signed(tmp_path / "other.pem")
    proxy = start(ssl_verify_upstream_trusted_ca=other, ssl_insecure=insecure)
    with intercepted(proxy, secure) as wire:
        for method in ("GET", "DELETE", "GET"):
            ask(wire, secure, "/x", method=method)
            response = wire.response()
            assert response.status == (200 if insecure else 502)
            assert ("error=tls_certificate_error" in (response.header("Proxy-Status") or "")) is not insecure
    assert bool(secure.requests) is insecure


def test_through_a_parent(start_proxy: Start, start: Start, secure: Origin) -> None:
    parent = start_proxy()
    proxy = start(mode=f"upstream:{parent.url}")
    with intercepted(proxy, secure) as wire:
        for method in ("GET", "DELETE"):
            ask(wire, secure, "/x", method=method)
            assert wire.response().body == secure.body_of("/x", 1000)
    assert parent.value("cache_proxy_tunnels_total", outcome="opened") == 2


# -- who is intercepted ----------------------------------------------------------------------------------------------


def test_hosts_that_are_not_named_are_tunnelled(start: Start, secure: Origin, origin_certificate: Path) -> None:
    proxy = start(intercept_hosts="*.example")
    context = ssl.create_default_context(cafile=origin_certificate)
    with intercepted(proxy, secure, context) as wire:
        ask(wire, secure, "/x")
        assert wire.response().header("Cache-Status") is None
    assert proxy.value("cache_proxy_tunnels_total", outcome="opened") == 1
    assert count(proxy, "intercepted") == 0


@pytest.mark.parametrize("offered", [(), ("http/1.1",), ("h2", "http/1.1")])
def test_http_1_1_is_what_is_spoken(proxy: Proxy, secure: Origin, offered: tuple[str, ...]) -> None:
    with intercepted(proxy, secure, trusting(proxy, *offered)) as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        assert wire.socket.selected_alpn_protocol() == ("http/1.1" if offered else None)
        assert is_intercepted(wire)


def test_a_client_of_http2_alone_is_tunnelled(proxy: Proxy, secure: Origin, origin_certificate: Path) -> None:
    before = count(proxy, "tunnelled")
    context = ssl.create_default_context(cafile=origin_certificate)
    context.set_alpn_protocols(["h2"])
    with intercepted(proxy, secure, context) as wire:
        ask(wire, secure, "/x")
        assert wire.response().body == secure.body_of("/x", 1000)
    assert count(proxy, "tunnelled") == before + 1


def say_all(wire: Wire, data: bytes) -> None:
    wire.send(data)
    wire.finish()


@pytest.mark.parametrize("early", [False, True])
def test_what_is_no_tls_is_tunnelled(proxy: Proxy, echo: Echo, early: bool) -> None:
    """As it came, and with its ends: each direction has one of its own."""
    for data in (b"\x16\x03\x01\x02\x00\x02\x00\x01\xfc\x03\x03" + bytes(64), b"SSH-2.0-x\r\n", os.urandom(300_000)):
        with Wire(proxy.address) as wire:
            head = f"CONNECT {echo.netloc} HTTP/1.1\r\nHost: {echo.netloc}\r\n\r\n".encode()
            wire.send(head + (data if early else b""))
            assert wire.head()[0] == 200
            sender = threading.Thread(target=say_all, args=(wire, b"" if early else data))
            sender.start()
            assert wire.rest() == data + Echo.GOODBYE
            sender.join(PATIENCE)


def test_a_server_that_speaks_first_is_tunnelled(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"220 hello\r\n")

        greeter = threading.Thread(target=greet, daemon=True)
        greeter.start()
        with connected(proxy, f"127.0.0.1:{listening.getsockname()[1]}") as wire:
            assert wire.rest() == b"220 hello\r\n"
        greeter.join(PATIENCE)


def test_a_tunnel_that_leads_nowhere_ends(proxy: Proxy) -> None:
    """It was answered 200 before there was anything to dial."""
    with nobody_listens() as netloc, connected(proxy, netloc) as wire:
        wire.send("not TLS")
        assert wire.rest() == b""


def test_a_name_in_tls_that_is_another_is_refused(proxy: Proxy, secure: Origin) -> None:
    before = count(proxy, "refused")
    context = trusting(proxy)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        intercepted(proxy, secure, context, "other.example")
    with intercepted(proxy, secure, context):  # and nothing is tunnelled for that
        pass
    assert count(proxy, "refused") == before + 1
    assert not secure.requests


def test_names_as_clients_write_them(proxy: Proxy, secure: Origin) -> None:
    context = trusting(proxy)
    for written in ("localhost", "LocalHost", "localhost."):
        with connected(proxy, f"{written}:{secure.port}") as wire:
            wire.socket = context.wrap_socket(wire.socket, server_hostname="localhost")
            assert is_intercepted(wire)
            ask(wire, secure, "/x")
            assert wire.response().status in (200, 502)  # the last name is not known everywhere


# -- clients that do not trust us ------------------------------------------------------------------------------------


def untrusting() -> ssl.SSLContext:
    return ssl.create_default_context()


def test_a_client_that_does_not_trust_us_is_tunnelled_next_time(
    start: Start, secure: Origin, origin_certificate: Path
) -> None:
    proxy = start()
    context = ssl.create_default_context(cafile=origin_certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        intercepted(proxy, secure, context)
    proxy.wait_for_log(r"127.0.0.1 does not trust our certificate for \S+ \(.*unknown ca.*mitmproxy-ca-cert.pem")
    with intercepted(proxy, secure, context) as wire:
        ask(wire, secure, "/x")
        assert wire.response().body == secure.body_of("/x", 1000)
    assert (count(proxy, "distrusted"), count(proxy, "fallback")) == (1, 1)
    assert proxy.text().count("does not trust our certificate") == 1
    proxy.signal(signal.SIGHUP)
    proxy.wait_for_log("SIGHUP: certificates read again")
    with intercepted(proxy, secure) as wire:
        assert is_intercepted(wire)


def test_the_status_tells_how_it_goes_and_who_does_not_trust_us(start: Start, secure: Origin) -> None:
    proxy = start(intercept_hosts=["127.0.0.1", "*.example"])
    with pytest.raises(ssl.SSLCertVerificationError):
        intercepted(proxy, secure, untrusting())
    with connected(proxy, f"localhost:{secure.port}"):
        pass  # a tunnel like any other: nothing is counted
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {secure.netloc} HTTP/1.1\r\n\r\n")
    found = proxy.eventually(lambda: proxy.status()["interception"], lambda found: found["distrusting"])
    assert (found["active"], found["hosts"]) == (True, ["127.0.0.1", "*.example"])
    assert found["connects"]["distrusted"] == 1
    assert found["distrusting"] == [{"client": "127.0.0.1", "host": secure.netloc}]
    ca = x509.load_pem_x509_certificate(ca_of(proxy).read_bytes())
    assert found["ca"] == {"file": str(ca_of(proxy)), "expires_at": ca.not_valid_after_utc.isoformat()}
    told = ProxyCache(proxy)("status").out
    assert re.search(r"^CONNECTs +distrusted 1", told, re.MULTILINE), told
    assert re.search(rf"^not trusted by +127\.0\.0\.1 for {secure.netloc}$", told, re.MULTILINE), told
    assert re.search(rf"^CA +{ca_of(proxy)}, until \d{{4}}-.* \(in \d+d", told, re.MULTILINE), told


def test_without_fallback_it_goes_on_failing(start: Start, secure: Origin) -> None:
    proxy = start(intercept_fallback=False)
    for _ in range(3):
        with pytest.raises(ssl.SSLCertVerificationError):
            intercepted(proxy, secure, untrusting())
    proxy.wait_for_metric("cache_proxy_intercepts_total", 3, outcome="distrusted")
    assert proxy.text().count("does not trust our certificate") == 1
    assert count(proxy, "fallback") == 0


def test_a_client_that_looks_after_the_handshake(start: Start, secure: Origin) -> None:
    """As programs with GnuTLS do: it leaves without a word. One that has asked for something before trusts us."""
    proxy = start()
    context = trusting(proxy)
    with intercepted(proxy, secure, context):
        pass
    proxy.wait_for_metric("cache_proxy_intercepts_total", 1, outcome="distrusted")
    other = Origin(tls=secure._tls)
    with other:
        with intercepted(proxy, other, context) as wire:
            ask(wire, other, "/x")
            assert wire.response().status == 200
            for _ in range(3):
                with intercepted(proxy, other, context):
                    pass
        with intercepted(proxy, other, context) as wire:
            assert is_intercepted(wire)
    assert (count(proxy, "distrusted"), count(proxy, "fallback")) == (1, 0)


def test_who_has_trusted_us_may_leave_at_any_time(start: Start, secure: Origin) -> None:
    """A build that is cancelled says nothing about certificates."""
    proxy = start()
    context = trusting(proxy)
    with intercepted(proxy, secure, context) as wire:
        ask(wire, secure, "/x")
        assert wire.response().status == 200
    for _ in range(2):
        with connected(proxy, secure.netloc) as wire:
            wire.send(hello())
            assert wire.exactly(1) == b"\x16"
    proxy.wait_for_metric("cache_proxy_intercepts_total", 2, outcome="failed")
    with intercepted(proxy, secure, context) as wire:
        assert is_intercepted(wire)
    assert count(proxy, "distrusted") == 0


def test_curl_fails_once(start: Start, secure: Origin, origin_certificate: Path) -> None:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("no curl")
    proxy = start()
    command = [program, "-sS", "-x", proxy.url, "--cacert", str(origin_certificate), secure.url("/x")]
    first = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert first.returncode == 60, first.stderr  # "Peer certificate cannot be authenticated"
    second = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert second.stdout == secure.body_of("/x", 1000), second.stderr
    command[command.index(str(origin_certificate))] = str(ca_of(proxy))
    third = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert third.returncode == 60, "it is tunnelled for ten minutes"


# -- handshakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed(proxy: Proxy, secure: Origin, version: ssl.TLSVersion) -> None:
    context = trusting(proxy)
    context.minimum_version = context.maximum_version = version
    session = None
    before = count(proxy, "resumed")
    for number in range(3):
        with intercepted(proxy, secure, context, session=session) as wire:
            assert isinstance(wire.socket, ssl.SSLSocket)
            assert wire.socket.session_reused is (number > 0)
            ask(wire, secure, "/x")
            assert wire.response().status == 200
            session = wire.socket.session
    assert count(proxy, "resumed") == before + 2


def test_the_leaf_is_on_p256(proxy: Proxy, secure: Origin) -> None:
    with intercepted(proxy, secure) as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        der = wire.socket.getpeercert(binary_form=True)
        assert der is not None
        key = x509.load_der_x509_certificate(der).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_a_client_in_the_middle_of_something_else(proxy: Proxy, secure: Origin, origin: Origin) -> None:
    """A connection that was used for other things, mitmproxy's among them, before its CONNECT."""
    for method in ("GET", "POST"):
        with Wire(proxy.address) as wire:
            wire.send(f"{method} {origin.url('/x')} HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: 0\r\n\r\n")
            assert wire.response().status == 200
            wire.send(f"CONNECT {secure.netloc} HTTP/1.1\r\nHost: {secure.netloc}\r\n\r\n")
            assert wire.head()[0] == 200
            wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname="127.0.0.1")
            assert is_intercepted(wire)
            for method_inside in ("GET", "POST", "GET"):
                ask(wire, secure, "/x", "Content-Length: 0", method=method_inside)
                assert wire.response().body == secure.body_of("/x", 1000)


def test_nothing_is_left(start: Start, secure: Origin, echo: Echo) -> None:
    """Of connections that ended in every way there is: no descriptor, no task, no lane."""
    proxy = start(control=True)
    gate = Gate()
    secure.serve("/slow", Reply(size=100, gate=gate))
    context = trusting(proxy)
    with intercepted(proxy, secure, context) as wire:  # what is made once
        ask(wire, secure, "/x")
        assert wire.response().status == 200
        ask(wire, secure, "/x", method="DELETE")
        assert wire.response().status == 200
    proxy.eventually(lambda: proxy.status()["requests_in_flight"], lambda left: not left)
    before = proxy.eventually(lambda: open_files(proxy.pid), bool)
    for number in range(8):
        with intercepted(proxy, secure, context) as wire:
            ask(wire, secure, "/x")
            assert wire.response().status == 200
            if number % 4 == 1:
                ask(wire, secure, "/x", method="DELETE")
                assert wire.response().status == 200
            elif number % 4 == 2:
                ask(wire, secure, "/slow")
            elif number % 4 == 3:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        with connected(proxy, secure.netloc):
            pass
        with connected(proxy, secure.netloc) as wire:
            wire.send(b"\x16\x03\x01\x00")
        with connected(proxy, echo.netloc) as wire:
            wire.send(b"no TLS")
            assert wire.exactly(6) == b"no TLS"
    gate.open()
    proxy.eventually(lambda: open_files(proxy.pid), lambda now: len(now) <= len(before) + 2, told="open descriptors")
    proxy.eventually(lambda: proxy.status()["tunnels"], lambda left: not left)


def hello(name: str = "127.0.0.1") -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def test_what_programs_send_is_answered(start: Start, secure: Origin) -> None:
    """With all that their libraries put into it, and however it is cut."""
    proxy = start(intercept_hosts="localhost", intercept_fallback=False)
    hellos = recorded("localhost")
    for program, data in hellos.items():
        for sent in (data, in_records(message_of(data), 1)):
            with connected(proxy, f"localhost:{secure.port}") as wire:
                wire.send(sent)
                assert wire.exactly(1) == b"\x16", program
    with connected(proxy, f"localhost:{secure.port}") as wire:
        for byte in min(hellos.values(), key=len):
            wire.send(bytes([byte]))
        assert wire.exactly(1) == b"\x16"
    assert not secure.requests


def test_damaged_hellos_do_no_harm(start: Start, secure: Origin) -> None:
    """They are answered by an alert, or tunnelled; each is counted once, and nothing is left of any.
    (``tests/fuzz.py`` has more of them.)"""
    proxy = start(intercept_hosts="localhost", intercept_fallback=False)
    hellos = list(recorded("localhost").values())

    def open_now() -> int:
        return sum(not name.startswith("/") for name in open_files(proxy.pid))  # the index may be opened meanwhile

    def say(seed: int, number: int) -> int:
        account = hostile.talk(proxy.address, hostile.about_hellos(random.Random(seed), hellos, secure.port, number))
        assert account.wrong == []
        proxy.eventually(lambda: proxy.status()["tunnels"], lambda left: not left)
        return open_now()

    before = say(20, 30)
    say(21, 100)
    proxy.eventually(open_now, lambda now: now <= before + 2, told="open descriptors")
    assert sum(count(proxy, outcome) for outcome in ("tunnelled", "refused", "failed", "distrusted")) == 130
    with connected(proxy, f"localhost:{secure.port}") as wire:
        wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname="localhost")
        assert is_intercepted(wire)


# -- other addons ----------------------------------------------------------------------------------------------------

WATCHES = """
from mitmproxy import http

def http_connect(flow):
    if flow.request.headers.get("X-Refuse"):
        flow.response = http.Response.make(403)
"""


@pytest.fixture
def watched(start: Start, tmp_path: Path) -> Proxy:
    """A proxy with a script that has to see each CONNECT."""
    script = tmp_path / "watches.py"
    script.write_text(WATCHES)
    return start(arguments=["-s", str(script)])


def test_a_script_may_refuse_a_connect(watched: Proxy, secure: Origin) -> None:
    with Wire(watched.address) as wire:
        wire.send(f"CONNECT {secure.netloc} HTTP/1.1\r\nHost: {secure.netloc}\r\nX-Refuse: 1\r\n\r\n")
        assert wire.response().status == 403
    for _ in range(2):
        with intercepted(watched, secure) as wire:
            assert is_intercepted(wire)
            for method in ("GET", "POST", "GET"):
                ask(wire, secure, "/x", "Content-Length: 0", method=method)
                assert wire.response().body == secure.body_of("/x", 1000)
    assert count(watched, "resumed") + count(watched, "intercepted") == 2
    watched.eventually(lambda: watched.status()["tunnels"], lambda left: not left)


def test_a_name_of_idna_that_a_script_has_seen(start: Start, tmp_path: Path) -> None:
    """mitmproxy decodes such names; in TLS they are as they were."""
    script, name = tmp_path / "watches.py", "xn--bcher-kva.example"
    script.write_text(WATCHES)
    proxy = start(arguments=["-s", str(script)], intercept_hosts=name)
    with connected(proxy, f"{name}:443") as wire:
        wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname=name)
        assert is_intercepted(wire)


def test_a_tunnel_after_all_that_a_script_has_seen(watched: Proxy, echo: Echo) -> None:
    for data in (b"SSH-2.0-x\r\n", os.urandom(300_000)):
        with connected(watched, echo.netloc) as wire:
            sender = threading.Thread(target=say_all, args=(wire, data))
            sender.start()
            assert wire.rest() == data + Echo.GOODBYE
            sender.join(PATIENCE)
    with nobody_listens() as netloc, connected(watched, netloc) as wire:
        wire.send("not TLS")
        assert wire.rest() == b""
    watched.eventually(lambda: watched.status()["tunnels"], lambda left: not left)


def test_when_the_proxy_stops_nobody_is_said_to_distrust_it(start: Start, secure: Origin) -> None:
    proxy = start()
    with intercepted(proxy, secure), connected(proxy, secure.netloc):
        proxy.terminate()
    assert "does not trust" not in proxy.text()


def test_users_are_asked_for_before(start: Start, secure: Origin) -> None:
    proxy = start(proxyauth="agent:secret")
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {secure.netloc} HTTP/1.1\r\nHost: {secure.netloc}\r\n\r\n")
        assert wire.response().status == 407
    assert not secure.requests
    assert count(proxy, "intercepted") == 0
    with Wire(proxy.address) as wire:
        user = base64.b64encode(b"agent:secret").decode()
        wire.send(f"CONNECT {secure.netloc} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic {user}\r\n\r\n")
        assert wire.head()[0] == 200
        wire.socket = trusting(proxy).wrap_socket(wire.socket, server_hostname="127.0.0.1")
        for method in ("GET", "POST"):
            ask(wire, secure, "/x", "Content-Length: 0", method=method)
            assert wire.response().body == secure.body_of("/x", 1000)
