"""What a client may write for a target, and what an origin or a parent is asked for then: the same on every path."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.agents import Wire
from tests.support.origin import Echo
from tests.support.proxy import Proxy
from tests.support.scripted import OK, Scripted

METHODS = ("GET", "HEAD", "POST")


def passing(method: str) -> str:
    """An answer that is not stored."""
    return OK.replace("\r\n\r\n", "\r\nCache-Control: no-store\r\n\r\n").removesuffix(
        "final" if method == "HEAD" else ""
    )


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as running:
        yield running


def ask(proxy: Proxy, method: str, target: str, host: str = "wrong.example", version: str = "1.1") -> int:
    with Wire(proxy.address) as wire:
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        wire.send(f"{method} {target} HTTP/{version}\r\nHost: {host}\r\n{length}\r\n")
        return wire.head()[0]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://{}", "/"),
        ("HTTP://{}/a", "/a"),
        ("http://{}?a=b", "/?a=b"),
        ("http://{}#a", "/"),
        ("http://{}//a/../b;c?", "//a/../b;c?"),
        ("http://127.0.0.1:000{port}/z", "/z"),
        ("http://LOCALHOST:{port}/up", "/up"),
    ],
)
def test_spellings_of_a_target(proxy: Proxy, scripted: Scripted, target: str, path: str) -> None:
    port = scripted.netloc.partition(":")[2]
    host = f"localhost:{port}" if "LOCAL" in target else scripted.netloc
    for method in METHODS:
        scripted.answers = [passing(method)]
        assert ask(proxy, method, target.format(scripted.netloc, port=port)) == 200
        assert scripted.heads[-1].split("\r\n")[0] == f"{method} {path} HTTP/1.1"
        assert scripted.fields("Host") == [host]


def test_spellings_of_one_target_are_one_key(proxy: Proxy, scripted: Scripted) -> None:
    scripted.answers = [OK.replace("\r\n\r\n", "\r\nCache-Control: max-age=600\r\n\r\n")]
    port = scripted.netloc.partition(":")[2]
    for target in (f"http://127.0.0.1:{port}/one", f"HTTP://127.0.0.1:0{port}/one", f"http://127.0.0.1:{port}/one#x"):
        assert ask(proxy, "GET", target) == 200
        proxy.wait_until_idle()
    assert len(scripted.heads) == 1


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://user:pw@{}/", "userinfo"),
        ("http://{}@127.0.0.1/", "userinfo"),
        ("http://127.0.0.1:0/", "port"),
        ("http://127.0.0.1:65536/", "port"),
        ("http:///a", "no host"),
        ("http://[::1/", "invalid"),
        ("http://[fe80::1%25lo]/", "invalid"),
        ("http://b\xfccher.example/", "ASCII"),
        ("http://b\xc3\xbccher.example/", "ASCII"),
        ("http://a..example/", "label"),
        ("http://a%2eexample/", "invalid"),
        ("ftp://127.0.0.1/a", "no http"),
        ("127.0.0.1/a", "no http"),
        ("*", ""),
    ],
)
def test_targets_that_name_nothing(proxy: Proxy, scripted: Scripted, target: str, why: str) -> None:
    """400, and the reason; RFC 9110 §4.2.4 for userinfo: it would go to a log, a key, or on to the origin."""
    for method in METHODS:
        with Wire(proxy.address) as wire:
            wire.send(f"{method} {target.format(scripted.netloc)} HTTP/1.1\r\nHost: x\r\n\r\n")
            status, fields = wire.head()
        assert status == 400
        assert why in dict(fields)["Proxy-Status"]
    assert scripted.heads == []


def test_a_target_without_host(proxy: Proxy, scripted: Scripted) -> None:
    """Host counts then."""
    for method in METHODS:
        scripted.answers = [passing(method)]
        assert ask(proxy, method, "/a?b", scripted.netloc) == 200
        assert scripted.heads[-1].split("\r\n")[0] == f"{method} /a?b HTTP/1.1"
        for host in ("", "127.0.0.1:0", "127.0.0.1:99999"):
            assert ask(proxy, method, "/", host) == 400


def test_options_of_a_whole_server(proxy: Proxy, scripted: Scripted) -> None:
    """RFC 9112 §3.2.4: the last proxy asks for "*" where a URI has neither path nor query."""
    for target, form in (("http://{}", "*"), ("http://{}/", "/"), ("http://{}?a", "/?a"), ("*", "*")):
        assert ask(proxy, "OPTIONS", target.format(scripted.netloc), scripted.netloc) == 200
        assert scripted.heads[-1].split("\r\n")[0] == f"OPTIONS {form} HTTP/1.1"


@pytest.mark.parametrize(
    ("target", "status"),
    [("{}", 200), ("u@{}", 400), ("127.0.0.1", 400), ("127.0.0.1:", 400), ("127.0.0.1:0", 400),
     ("127.0.0.1:65536", 400), ("http://{}", 400), ("{}/", 400), ("[::1:443", 400)],
)  # fmt: skip
def test_connect_is_read_by_the_same_rules(proxy: Proxy, echo: Echo, target: str, status: int) -> None:
    with Wire(proxy.address) as wire:
        wire.send(f"CONNECT {target.format(echo.netloc)} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.head()[0] == status
    assert status == 200 or not echo.connections


def test_names_go_out_as_they_came(start_proxy: Callable[..., Proxy], scripted: Scripted) -> None:
    """To a parent, which looks them up: lower case, and nothing else. An xn-- name of IDNA 2008 would come out of IDNA
    2003 as another one."""
    proxy = start_proxy(mode=f"upstream:http://{scripted.netloc}")
    for name in (
        "xn--bcher-kva.example", "XN--Strae-oqa.example", "a_b.example", "-a-.example", "dot.example.",
        "[2001:DB8::1]:8080", "UPPER.example:80",
    ):  # fmt: skip
        host = name.lower().removesuffix(":80")
        for method in METHODS:
            scripted.answers = [passing(method)]
            assert ask(proxy, method, f"http://{name}/x", name) == 200
            assert scripted.heads[-1].split("\r\n")[0] == f"{method} http://{host}/x HTTP/1.1"
            assert scripted.fields("Host") == [host]
    for name, authority in (("[2001:DB8::1]:443", "[2001:db8::1]:443"), ("xn--bcher-kva.example:443",) * 2):
        scripted.answers = ["HTTP/1.1 200 OK\r\n\r\n"]
        assert ask(proxy, "CONNECT", name, name) == 200
        assert scripted.heads[-1].split("\r\n")[0] == f"CONNECT {authority} HTTP/1.1"
        assert scripted.fields("Host") == [authority]
