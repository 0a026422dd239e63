"""Origins that want to know who is asking (mutual TLS): they get the certificate of mitmproxy's ``client_certs``,
whichever way a request takes; and how each of these ways ends where it is the origin's certificate that is no good."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from cryptography.hazmat.primitives import serialization

from tests.conftest import interception_of
from tests.support.agents import Response, Wire
from tests.support.certificates import self_signed, server_context
from tests.support.intercepted import intercepted
from tests.support.origin import PATIENCE, Origin
from tests.support.proxy import Proxy
from tests.support.tools import free_port
from tests.test_options import refused

Start = Callable[..., Proxy]
WAYS = ("GET", "HEAD", "POST", "Upgrade")
"""A fill, and what is forwarded; the last is a GET that wants another protocol."""


class Certificates(NamedTuple):
    """Of the proxy, which the origin takes, and one that it does not."""

    good: Path
    other: Path


class Server:
    """Answers the first bytes of each connection, by a function of the connection, and closes it."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.netloc = f"127.0.0.1:{self.port}"
        self.base = f"https://{self.netloc}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(PATIENCE)
                self._answer(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("client")
    return Certificates(
        self_signed(folder / "good.pem", address=None, name="good"),
        self_signed(folder / "other.pem", address=None, name="other"),
    )


@pytest.fixture
def strict(origin_certificate: Path, certificates: Certificates) -> Iterator[Origin]:
    with Origin(tls=demanding(origin_certificate, certificates.good)) as running:
        yield running


def demanding(certificate: Path, client: Path) -> ssl.SSLContext:
    """Of a server that serves nobody without this certificate."""
    context = server_context(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client)
    return context


@pytest.fixture
def start(start_proxy: Start, origin_certificate: Path) -> Start:
    def start(origin: Origin | Server | None = None, **options: object) -> Proxy:
        """``origin``: to stand in for as well."""
        mode = {} if origin is None else {"mode": ["regular", f"reverse:{origin.base}@{free_port()}"]}
        proxy = start_proxy(**{**interception_of(origin_certificate), "origin_retries": 0, **mode, **options})
        if origin is not None:
            proxy.wait_for_log(rf"listening at \S+:{proxy.modes[1].rpartition('@')[2]}\b")
        return proxy

    return start


def ask(wire: Wire, origin: Origin | Server, way: str, target: str) -> Response:
    method = "GET" if way == "Upgrade" else way
    more = "Connection: upgrade\r\nUpgrade: x\r\n" if way == "Upgrade" else ""
    body = "Content-Length: 2\r\n\r\nhi" if way == "POST" else "\r\n"
    wire.send(f"{method} {target} HTTP/1.1\r\nHost: {origin.netloc}\r\n{more}{body}")
    if way == "HEAD":
        status, headers = wire.head()
        return Response(status=status, headers=headers)
    return wire.response()


def asked(proxy: Proxy, origin: Origin | Server, name: str, host: str = "127.0.0.1") -> dict[tuple[str, str], Response]:
    """In absolute form, inside a tunnel, and, where the proxy stands in for the origin, of it."""
    found = {}
    for way in WAYS:
        with Wire(proxy.address) as wire:
            found["absolute", way] = ask(wire, origin, way, f"https://{host}:{origin.port}/absolute-{way}-{name}")
        with intercepted(proxy, origin) as wire:
            found["inside", way] = ask(wire, origin, way, f"/inside-{way}-{name}")
        for mode in proxy.modes:
            if mode.startswith("reverse"):
                with Wire(("127.0.0.1", int(mode.rpartition("@")[2]))) as wire:
                    found["reverse", way] = ask(wire, origin, way, f"/reverse-{way}-{name}")
    return found


def statuses(found: dict[tuple[str, str], Response]) -> set[int]:
    return {response.status for response in found.values()}


def test_it_is_shown_on_every_way(start: Start, strict: Origin, certificates: Certificates) -> None:
    proxy = start(strict, client_certs=certificates.good)
    found = asked(proxy, strict, "x")
    assert len(found) == 12
    assert {way: response.status for way, response in found.items() if response.status != 200} == {}
    assert strict.count() == 12
    assert proxy.get(strict.url("/absolute-GET-x")).hit


def test_of_a_folder_each_has_its_own(start: Start, strict: Origin, certificates: Certificates, tmp_path: Path) -> None:
    """By the name that is in the URL, however that is written. Others are shown nothing."""
    folder = tmp_path / "certs"
    folder.mkdir()
    shutil.copy(certificates.good, folder / "localhost.pem")
    proxy = start(client_certs=folder, intercept_hosts="localhost")
    for number, host in enumerate(("localhost", "LocalHost")):
        for method in ("GET", "POST"):
            assert proxy.request(method, f"https://{host}:{strict.port}/{number}").status == 200
            assert proxy.request(method, f"https://127.0.0.1:{strict.port}/{number}").status == 502
    assert {request.header("Host") for request in strict.seen()} == {f"localhost:{strict.port}"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", [False, True])
def test_an_origin_that_takes_none_of_ours(
    start: Start, origin_certificate: Path, certificates: Certificates, shown: bool, version: ssl.TLSVersion
) -> None:
    """It says so, in TLS 1.3 after the handshake. Nothing is asked without TLS instead, nor without end."""
    context = demanding(origin_certificate, certificates.good)
    context.minimum_version = context.maximum_version = version
    tried = []

    def refuse(connection: socket.socket) -> None:
        tried.append(1)
        copy = connection.dup()  # which the handshake that fails does not close
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)
        copy.shutdown(socket.SHUT_WR)
        while copy.recv(65536):  # unread bytes would make a reset of the end, which overtakes the alert
            pass
        copy.close()

    with Server(refuse) as server:
        proxy = start(server, **({"client_certs": certificates.other} if shown else {}))
        found = asked(proxy, server, "x")
    assert statuses(found) == {502}
    for (_, way), response in found.items():
        error = (response.header("Proxy-Status") or "").partition("error=")[2].split(";")[0]
        assert error == "tls_alert_received", (way, error)
    assert len(tried) == len(found)


def test_through_a_parent(start_proxy: Start, start: Start, strict: Origin, certificates: Certificates) -> None:
    parent = start_proxy()
    proxy = start(mode=f"upstream:{parent.url}", client_certs=certificates.good)
    assert statuses(asked(proxy, strict, "x")) == {200}
    assert parent.value("cache_proxy_tunnels_total", outcome="opened") >= 2


def test_a_parent_that_wants_it_too(start: Start, origin_certificate: Path, certificates: Certificates) -> None:
    context = demanding(origin_certificate, certificates.good)
    heard = []

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            heard.append(tls.recv(65536))
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with Server(answer) as server:
        proxy = start(mode=f"upstream:{server.base}", client_certs=certificates.good)
        for method in ("GET", "POST"):
            assert proxy.request(method, "http://packages.example/x").status == 200
            assert heard[-1].startswith(f"{method} http://packages.example/x HTTP/1.1\r\n".encode())


def test_a_tunnel_shows_nothing_of_ours(start: Start, strict: Origin, certificates: Certificates) -> None:
    """What is not intercepted is between the client and the origin."""
    proxy = start(client_certs=certificates.good, intercept_hosts="other.example")
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {strict.netloc} HTTP/1.1\r\nHost: {strict.netloc}\r\n\r\n")
        assert wire.head()[0] == 200
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        wire.socket = context.wrap_socket(wire.socket)
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(OSError):  # the origin's alert, or the end
            assert not wire.socket.recv(1)
    assert not strict.requests


# -- what is no good -------------------------------------------------------------------------------------------------


def encrypted(certificate: Path, file: Path) -> Path:
    key = serialization.load_pem_private_key(certificate.read_bytes(), None)
    assert isinstance(key, serialization.SSHCertPrivateKeyTypes)  # of those that can be written
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    file.write_bytes(locked + public_part(certificate))
    return file


def public_part(certificate: Path) -> bytes:
    text = certificate.read_bytes()
    return text[text.index(b"-----BEGIN CERTIFICATE") :]


def private_part(certificate: Path) -> bytes:
    text = certificate.read_bytes()
    return text[: text.index(b"-----BEGIN CERTIFICATE")]


@pytest.mark.parametrize(
    "kind", ["gone", "text", "no key", "no certificate", "another key", "encrypted", "in a folder"]
)
def test_a_bad_file_stops_the_start(certificates: Certificates, tmp_path: Path, kind: str) -> None:
    """In one line, which names it; nothing waits for a passphrase on the terminal."""
    good, other = certificates
    file = tmp_path / "own.pem"
    match kind:
        case "text":
            file.write_text("nothing\n")
        case "no key":
            file.write_bytes(public_part(good))
        case "no certificate":
            file.write_bytes(private_part(good))
        case "another key":
            file.write_bytes(private_part(other) + public_part(good))
        case "encrypted":
            encrypted(good, file)
        case "in a folder":
            file = tmp_path / "certs" / "packages.example.pem"
            file.parent.mkdir()
            file.write_text("nothing\n")
    value = file.parent if kind == "in a folder" else file
    if kind == "gone":  # which is mitmproxy's own to say
        assert refused(tmp_path, "client_certs", value, shown="certificate path does not exist: " + str(file))
        return
    line = refused(tmp_path, "client_certs", value)
    assert f"client_certs: '{file}': " in line
    assert line.rpartition(f"'{file}': ")[2]


def test_it_may_be_replaced_while_it_runs(
    start: Start, strict: Origin, certificates: Certificates, tmp_path: Path
) -> None:
    """Certificates like these last for days: SIGHUP has them read again, on connections that are open too. One that
    can't be read is not taken."""
    own = tmp_path / "own.pem"
    shutil.copy(certificates.other, own)
    proxy = start(client_certs=own)

    def hang_up(said: str) -> None:
        mark = len(proxy.log)
        proxy.signal(signal.SIGHUP)
        proxy.wait_for_log(said, since=mark)

    def both(path: str) -> list[int]:
        return [proxy.request(method, strict.url(path)).status for method in ("GET", "POST")]

    assert both("/1") == [502, 502]
    shutil.copy(certificates.good, own)
    hang_up("certificates read again$")
    assert both("/2") == [200, 200]
    own.write_text("nothing\n")
    hang_up(f"certificates not read again: client_certs: '{own}': it has to have a certificate and its private key")
    assert both("/3") == [200, 200]


def test_one_of_a_folder_that_turns_out_bad(
    start: Start, strict: Origin, certificates: Certificates, tmp_path: Path
) -> None:
    """It came after the start. The log says once what is wrong; when it is put right it counts at once."""
    folder = tmp_path / "certs"
    folder.mkdir()
    proxy = start(client_certs=folder)
    file = folder / "127.0.0.1.pem"
    file.write_text("nothing\n")
    found = asked(proxy, strict, "bad")
    assert statuses(found) == {502}
    assert all("error=proxy_configuration_error" in (one.header("Proxy-Status") or "") for one in found.values())
    assert not any(str(tmp_path) in (one.header("Proxy-Status") or "") for one in found.values())
    assert proxy.text().count("client_certs: ") == 1
    assert proxy.value("hook_errors_total") == 0
    shutil.copy(certificates.good, file)
    assert statuses(asked(proxy, strict, "good")) == {200}


# -- origins whose own certificate is no good ------------------------------------------------------------------------


def test_an_origin_that_can_t_be_verified(start: Start, tmp_path: Path) -> None:
    """The same answer on every way, and never a try without TLS."""
    with Origin(tls=server_context(self_signed(tmp_path / "unknown.pem"))) as origin:
        proxy = start(origin)
        for turn in range(2):
            found = asked(proxy, origin, str(turn))
            assert len(found) == 12
            for way, response in found.items():
                assert response.status == 502, way
                assert "error=tls_certificate_error" in (response.header("Proxy-Status") or ""), way
        assert not origin.requests


def test_an_origin_without_tls_is_not_asked_in_plaintext(start: Start) -> None:
    """It answers a ClientHello as servers of HTTP do."""
    heard = []

    def answer(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with Server(answer) as server:
        for way, response in asked(start(server), server, "x").items():
            assert response.status == 502, way
            assert "error=tls_protocol_error" in (response.header("Proxy-Status") or ""), way
    assert heard
    assert all(data.startswith(b"\x16\x03") for data in heard)
