"""What is read of a ClientHello before anybody answers it."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from proxy_cache.wire.client_hello import NO_TLS, ClientHello, HelloReader, parse_client_hello
from proxy_cache.wire.connect import Connect, parse_connect
from proxy_cache.wire.requests import UNUSUAL
from tests.support.certificates import self_signed
from tests.support.hellos import cut, in_records, message_of, mutated, recorded
from tests.support.readers import OpenSsl, mutated_connect, wrong_about_connect, wrong_about_hello, wrong_in_pieces


def hello(name: str | None = "packages.example", protocols: Sequence[str] = (), **versions: ssl.TLSVersion) -> bytes:
    """As OpenSSL writes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    for bound, version in versions.items():
        setattr(context, bound, version)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["packages.example", "Packages.Example", None, "10.0.0.1"])
@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("h2", "http/1.1"), ("h2",)])
def test_names_and_protocols(version: ssl.TLSVersion, name: str | None, protocols: tuple[str, ...]) -> None:
    data = hello(name, protocols, maximum_version=version)
    expected = "packages.example" if name and name[0] in "pP" else None
    found = parse_client_hello(data)
    assert found == ClientHello(expected, tuple(each.encode() for each in protocols))
    assert found.speaks_http1 is (protocols != ("h2",))


def test_it_is_known_with_its_last_byte_and_not_before() -> None:
    data = hello()
    for size in range(len(data)):
        assert parse_client_hello(data[:size]) is None
    assert parse_client_hello(data) == parse_client_hello(data + b"more") == ClientHello("packages.example", ())


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_a_hello_in_several_records(size: int) -> None:
    message = hello()[5:]
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    records = [b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces]
    assert parse_client_hello(b"".join(records)) == ClientHello("packages.example", ())
    assert parse_client_hello(b"".join(records[:-1])) is None


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH", b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x03\x01", b"\x16\x02", b"\x17\x03\x03\x00\x05hello",
        b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x05\x02\x00", b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    ],
)  # fmt: skip
def test_anything_else_is_no_tls(data: bytes) -> None:
    assert parse_client_hello(data) == NO_TLS


def test_two_names_are_one_too_many() -> None:
    data = hello()
    at = data.index(b"\x00\x00\x00\x15\x00\x13\x00\x00\x10packages.example")
    extension = data[at : at + 25]
    body = data[9:] + extension
    size = int.from_bytes(body[34 + body[34] + 1 :][:2], "big")  # of the cipher suites
    place = 34 + 1 + body[34] + 2 + size + 2
    extensions = int.from_bytes(body[place : place + 2], "big") + len(extension)
    body = body[:place] + extensions.to_bytes(2, "big") + body[place + 2 :]
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    assert parse_client_hello(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message) == NO_TLS


def test_what_programs_send() -> None:
    """Also with keys of post-quantum schemes, tickets of sessions, and extensions that nobody knows, however cut."""
    for program, data in recorded().items():
        found = parse_client_hello(data)
        assert isinstance(found, ClientHello), program
        unnamed = "by address" in program or "without a name" in program
        assert found.server_name == (None if unnamed else "a.example"), program
        assert found.speaks_http1, program
        for size in (1, 5, 100):
            for records in (data, in_records(message_of(data), size)):
                pieces = [records[start : start + size] for start in range(0, len(records), size)]
                assert wrong_in_pieces(pieces, found) is None, program


def test_damaged_hellos_are_read_as_openssl_reads_them(tmp_path: Path) -> None:
    """``tests/fuzz.py`` has more of them."""
    chance, openssl = random.Random(20), OpenSsl(self_signed(tmp_path / "own.pem", "a.example"))
    hellos = list(recorded().values())
    for _ in range(1500):
        data = mutated(chance, hellos)
        assert wrong_about_hello(data, openssl) is None, data
        assert wrong_in_pieces(cut(chance, data), parse_client_hello(data)) is None, data


def test_a_hello_in_tiny_pieces_takes_no_longer() -> None:
    """Each byte is looked at once: with every packet from the start it would take half an hour."""
    message = b"\x01" + (60_000).to_bytes(3, "big") + bytes(60_000)
    data = in_records(message, 1)
    reader, began = HelloReader(), time.monotonic()
    for start in range(0, len(data) - 1, 50):
        assert reader.feed(data[start : min(start + 50, len(data) - 1)]) is None
    assert isinstance(reader.feed(data[-1:]), ClientHello)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("line", "host", "port"),
    [
        ("packages.example:443", "packages.example", 443),
        ("Packages.Example.:8443", "packages.example.", 8443),
        ("[::1]:443", "::1", 443),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example", 443),
    ],
)
def test_connects_as_clients_send_them(line: str, host: str, port: int) -> None:
    head = f"CONNECT {line} HTTP/1.1\r\nHost: {line}\r\nUser-Agent: x\r\n\r\n".encode()
    for size in range(1, len(head)):
        assert parse_connect(head[:size]) is None
    found = parse_connect(head + b"\x16\x03")
    assert isinstance(found, Connect)
    assert (found.host, found.port, found.size) == (host, port, len(head))


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\r\n\r\n", "CONNECT / HTTP/1.1\r\n\r\n", "CONNECT a HTTP/1.1\r\n\r\n",
        "CONNECT a:0 HTTP/1.1\r\n\r\n", "CONNECT a:65536 HTTP/1.1\r\n\r\n", "CONNECT a:443 HTTP/2.0\r\n\r\n",
        "CONNECT a@b:443 HTTP/1.1\r\n\r\n", "CONNECT a:443 HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nno field\r\n\r\n", "CONNECT a:443 HTTP/1.1\n\n", "CONNECT  a:443 HTTP/1.1\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nX: " + "x" * 20_000 + "\r\n\r\n", "connect a:443 HTTP/1.1\r\n\r\n",
        "CONNECT [b:1]:443 HTTP/1.1\r\n\r\n", "CONNECT [::1::]:443 HTTP/1.1\r\n\r\n",
        "CONNECT a..b:443 HTTP/1.1\r\n\r\n", "CONNECT .a:443 HTTP/1.1\r\n\r\n", "CONNECT a\xff:443 HTTP/1.1\r\n\r\n",
        "CONNECT xn--0:443 HTTP/1.1\r\n\r\n",
        f"CONNECT {'a' * 64}.example:443 HTTP/1.1\r\n\r\n", f"CONNECT {'a.' * 130}:443 HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_other_connects_are_mitmproxys(head: str) -> None:
    assert parse_connect(head.encode("latin-1")) == UNUSUAL


def test_damaged_connects_are_read_as_mitmproxy_reads_them() -> None:
    chance = random.Random(20)
    for _ in range(4000):
        data = mutated_connect(chance)
        assert wrong_about_connect(data) is None, data


def test_a_hello_may_be_cut_anywhere() -> None:
    data = hello()
    message = data[5:]
    pieces = [message[at : at + 7] for at in range(0, len(message), 7)]
    for whole in (data, b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)):
        for step in (1, 2, 3, 6, 11, 50):
            reader = HelloReader()
            found = [reader.feed(whole[at : at + step]) for at in range(0, len(whole), step)]
            assert found[-1] == ClientHello("packages.example", ())
            assert set(found[:-1]) == {None}
