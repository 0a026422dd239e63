"""Heads with odd lines in them: the same is made of them on every way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.agents import Wire
from tests.support.proxy import Proxy
from tests.support.scripted import Scripted, asks


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as running:
        yield running


# -- of origins --------------------------------------------------------------------------------------------------------

LINES = {
    "no colon": ("HTTP 1/1 302", None),
    "a name with spaces": ("Secured by Excellent Serv : x", None),
    "a space before the colon": ("X-Odd : 1", b"X-Odd: 1"),
    "a tab before the colon": ("X-Odd\t: 1", b"X-Odd: 1"),
    "no name": (": x", None),
    "a bracket in a name": ("X-[odd]: 1", None),
    "NUL in a name": ("X-Odd\0: 1", None),
    "a control character": ("X-Odd: a\x01b", b"X-Odd: a\x01b"),
    "NUL": ("X-Odd: a\0b", b"X-Odd: a b"),
    "a bare CR": ("X-Odd: a\rb", b"X-Odd: a b"),
    "a fold": ("X-Odd: a\r\n b\r\n\t c", b"X-Odd: a b c"),
    "a fold of nothing": ("nothing\r\n X-Odd: a", None),
    "8 bits": ("X-Odd: f=\xe9\xc3\xa9", b"X-Odd: f=\xe9\xc3\xa9"),
    "no value": ("X-Odd:", b"X-Odd: "),
}


@pytest.mark.parametrize("what", LINES)
@pytest.mark.parametrize("position", ["first", "last"])
def test_an_odd_line_of_a_response(proxy: Proxy, scripted: Scripted, what: str, position: str) -> None:
    line, left = LINES[what]
    rest = ["Cache-Control: max-age=600", "Content-Length: 5"]
    lines = [line, *rest] if position == "first" else [*rest, line]
    if position == "last" and what == "a fold of nothing":
        lines = [*rest, "nothing", " X-Odd: a"]
    seen = set()
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        scripted.url = f"http://{scripted.netloc}/{method}"
        body = "" if method == "HEAD" else "final"
        scripted.answers = ["\r\n".join(["HTTP/1.1 200 OK", *lines, "", body])]
        for _ in range(2):
            with Wire(proxy.address) as wire:
                wire.send(asks(scripted, method))
                head = wire.until(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert wire.exactly(len(body)) == body.encode()
            seen.add(tuple(each.rstrip() for each in head.split(b"\r\n") if b"odd" in each.lower()))
        proxy.wait_until_idle()
    assert seen == {(left.rstrip(),) if left else ()}


def test_after_a_line_that_is_none_a_connection_is_not_used_again(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = ["HTTP/1.1 200 OK\r\nno field\r\nContent-Length: 5\r\n\r\nfinal"]
    for method in ("GET", "OPTIONS"):
        before = scripted.connections
        with Wire(proxy.address) as wire:
            for _ in range(3):
                wire.send(asks(scripted, method, "Cache-Control: no-cache"))
                assert wire.response().body == b"final"
        assert scripted.connections == before + 3


@pytest.mark.parametrize(
    "lines", ["Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5, 5", "Content-Length: 05"]
)
def test_one_length_said_twice(proxy: Proxy, scripted: Scripted, lines: str) -> None:
    """RFC 9112 §6.3"""
    for method in ("GET", "POST"):
        scripted.answers = [f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\nfinal"]
        with Wire(proxy.address) as wire:
            wire.send(asks(scripted, method))
            response = wire.response()
            assert (response.status, response.body) == (200, b"final")
            assert response.header_values("Content-Length") == ["5"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_chunks_of_http_1_0(proxy: Proxy, scripted: Scripted, method: str) -> None:
    """RFC 9112 §6.1: the connection ends with such a message."""
    scripted.answers = ["HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfinal\r\n0\r\n\r\n"]
    with Wire(proxy.address) as wire:
        for _ in range(2):
            wire.send(asks(scripted, method))
            assert wire.response().body == b"final"


# -- of clients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "hosts", [[], ["Host: a", "Host: b"], ["Host: a", "host: a"], ["Host: a b/c@d"], ["Host: u@a"], ["Host: a\xfc"]]
)
def test_a_host_that_is_none(proxy: Proxy, scripted: Scripted, method: str, hosts: list[str]) -> None:
    """RFC 9112 §3.2, whatever the target says: others may go by Host."""
    with Wire(proxy.address) as wire:
        wire.send("\r\n".join([f"{method} {scripted.url} HTTP/1.1", *hosts, "Accept: */*", "", ""]))
        status, fields = wire.head()
    assert status == 400
    assert "Host" in dict(fields)["Proxy-Status"]
    assert scripted.heads == []


def test_http_1_0_needs_no_host(proxy: Proxy, scripted: Scripted) -> None:
    for method in ("GET", "POST"):
        with Wire(proxy.address) as wire:
            wire.send(f"{method} {scripted.url} HTTP/1.0\r\n\r\n")
            assert wire.response().status == 200
        assert scripted.fields("Host") == [scripted.netloc]


def test_a_path_of_any_bytes(proxy: Proxy, scripted: Scripted) -> None:
    """They are passed on as they came, on every path; what is no UTF-8 is not stored."""
    for path in ("/\xc3\xa9", "/\xe9", "/%e9"):
        for method in ("GET", "HEAD", "POST"):
            scripted.answers = [
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 5\r\n\r\n"
                + ("" if method == "HEAD" else "final")
            ]
            with Wire(proxy.address) as wire:
                wire.send(f"{method} http://{scripted.netloc}{path}?{method} HTTP/1.1\r\nHost: x\r\n\r\n")
                assert wire.head()[0] == 200
            assert scripted.heads[-1].split(" ")[1] == f"{path}?{method}"
