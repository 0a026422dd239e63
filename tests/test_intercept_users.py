"""`proxyauth` where TLS ends in the proxy: the CONNECT says who it is, and nothing in the tunnel does again."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import interception_of
from tests.support.agents import Response, Wire
from tests.support.certificates import server_context
from tests.support.intercepted import connected, is_intercepted, trusting
from tests.support.origin import PATIENCE, Gate, Origin, Reply
from tests.support.proxy import Proxy

from .test_access_log import lines
from .test_proxy_users import FIELD, PASSWORDS, basic, htpasswd, secrets_of

Start = Callable[..., Proxy]
FRESH = ("Cache-Control", "max-age=3600")
TELLS = """
from mitmproxy.addons import proxyauth

check = proxyauth.Htpasswd.__call__

def told(self, username, password):
    print("asked about", username, flush=True)
    return check(self, username, password)

proxyauth.Htpasswd.__call__ = told
"""


@pytest.fixture
def secure(origin_certificate: Path) -> Iterator[Origin]:
    with Origin(tls=server_context(origin_certificate)) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, origin_certificate: Path, fast_lane: bool) -> Iterator[Proxy]:
    """One proxy for the file, with a password file."""
    folder = tmp_path_factory.mktemp("users")
    tells = folder / "tells.py"
    tells.write_text(TELLS)
    with Proxy(
        folder, proxyauth=f"@{htpasswd(folder / 'passwords')}", fast_lane=fast_lane, origin_max_in_flight=1,
        origin_retries=0, arguments=["-s", str(tells)], **interception_of(origin_certificate),
    ) as proxy:  # fmt: skip
        yield proxy


def connect(wire: Wire, netloc: str, user: str = "", password: str | None = None) -> Response:
    credential = f"{FIELD}: {basic(user, password)}\r\n" if user else ""
    wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\n{credential}\r\n")
    return wire.response()


def in_tls(proxy: Proxy, wire: Wire, context: ssl.SSLContext | None = None) -> Wire:
    wire.socket = (context or trusting(proxy)).wrap_socket(wire.socket, server_hostname="127.0.0.1")
    return wire


def tunnel(
    proxy: Proxy, origin: Origin, user: str, context: ssl.SSLContext | None = None, password: str | None = None
) -> Wire:
    wire = Wire(proxy.address)
    assert connect(wire, origin.netloc, user, password).status == 200
    return in_tls(proxy, wire, context)


def send(wire: Wire, path: str, *more: str, method: str = "GET") -> None:
    body = "Content-Length: 2\r\n" if method == "POST" else ""
    lines_of = "".join(f"{line}\r\n" for line in more)
    wire.send(f"{method} {path} HTTP/1.1\r\nHost: a.example\r\n{lines_of}{body}\r\n" + ("hi" if body else ""))


def ask(wire: Wire, path: str, *more: str, method: str = "GET") -> Response:
    send(wire, path, *more, method=method)
    return wire.response()


def test_two_users_in_tunnels_to_one_host_are_told_apart(shared: Proxy, secure: Origin) -> None:
    """At the same time, and by the same bytes: misses, hits that are known already, ranges, forwarded requests."""
    path = "/apart"
    secure.serve(path, Reply(headers=(FRESH,), size=100))
    before = shared.settled()
    told = []
    with tunnel(shared, secure, "alice") as alice, tunnel(shared, secure, "bob") as bob:
        for user, wire in (("alice", alice), ("bob", bob)) * 3:
            assert ask(wire, path).status == 200
            told.append(f"GET {user}")
            assert ask(wire, path, "Range: bytes=1-2").status == 206
            told.append(f"GET {user}")
        for user, wire in (("bob", bob), ("alice", alice)):
            assert ask(wire, path, method="POST").status == 200
            told.append(f"POST {user}")
        for user, wire in (("alice", alice), ("bob", bob)):
            assert ask(wire, path).status == 200
            told.append(f"GET {user}")
    # (A hit's line may come before that of the miss before it.)
    assert sorted(f"{line.method} {line.client}" for line in lines(shared, path, len(told))) == sorted(told)
    after = shared.settled()
    assert after.value("misses_total") - before.value("misses_total") == 2  # and once more after a POST
    assert after.value("hits_total") - before.value("hits_total") == 12
    assert [seen.method for seen in secure.seen(path)] == ["GET", "POST", "POST", "GET"]


def test_who_says_nothing_has_no_tunnel_and_may_try_again(shared: Proxy, secure: Origin) -> None:
    """On one connection: nobody, a wrong password, somebody who may not go there, and at last somebody who may. What
    comes in between is nobody's."""
    path = "/again"
    secure.serve(path, Reply(headers=(FRESH,)))
    with Wire(shared.address) as wire:
        assert connect(wire, secure.netloc).status == 407
        assert connect(wire, secure.netloc, "bob", "guess").status == 407
        for user in ("alice", "bob", "alice"):
            assert connect(wire, f"0.0.0.0:{secure.port}", user).status == 403
        for method in ("GET", "POST", "GET"):
            wire.send(f"{method} {secure.url('/other')} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert wire.response().status == 407
        assert connect(wire, secure.netloc).status == 407
        assert connect(wire, secure.netloc, "bob").status == 200
        in_tls(shared, wire)
        assert is_intercepted(wire)
        assert ask(wire, path).status == 200
        assert ask(wire, path, method="POST").status == 200
    assert [line.client for line in lines(shared, path, 2)] == ["bob", "bob"]
    assert not secure.seen("/other")


def test_connects_that_are_sent_ahead(shared: Proxy, secure: Origin) -> None:
    """One that is refused, and one that is intercepted, in one packet."""
    with Wire(shared.address) as wire:
        one, other = (
            f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\n{FIELD}: {basic('alice')}\r\n\r\n"
            for netloc in (f"0.0.0.0:{secure.port}", secure.netloc)
        )
        wire.send(one + other)
        assert wire.response().status == 403
        assert wire.response().status == 200
        in_tls(shared, wire)
        assert is_intercepted(wire)


def test_no_credential_of_a_tunnel_is_anywhere_else(shared: Proxy, secure: Origin) -> None:
    """Nor is one of the origin's shown to whoever checks ours: also where a client says both inside."""
    path = "/nowhere"
    secure.serve(path, Reply(headers=(FRESH, ("Vary", "Proxy-Authorization, Accept"))))
    both = f"{FIELD}: {basic('alice')}", f"Authorization: {basic('of-the-origin', 'its-secret')}"
    with tunnel(shared, secure, "alice") as wire:
        for method in ("GET", "POST", "DELETE", "GET"):
            assert ask(wire, path, method=method).status == 200
            assert ask(wire, path, *both, method=method).status == 200
        assert ask(wire, path, f"Connection: {FIELD}", *both).status == 200
        send(wire, path, *both, method="HEAD")
        assert wire.head()[0] == 200
    shared.settled()
    assert "asked about of-the-origin" not in shared.text()
    for seen in secure.requests:
        assert seen.header(FIELD) is None
        assert seen.header("Authorization") in (None, both[1].partition(": ")[2])
    assert any(seen.header("Authorization") for seen in secure.requests)
    _, status = shared.admin("/status")
    _, metrics = shared.admin("/metrics")
    requests = [json.dumps([seen.path, seen.headers]).encode() for seen in secure.requests]
    places = [status, metrics, shared.text().encode(), *requests]
    places += [file.read_bytes() for file in (shared.folder / "cache").rglob("*") if file.is_file()]
    for secret in secrets_of("alice", "bob"):
        assert [place[:200] for place in places if secret in place] == []


def test_a_user_with_many_tunnels_has_one_turn(shared: Proxy, secure: Origin) -> None:
    gate = Gate()
    secure.serve("/fair/first", Reply(gate=gate))
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(tunnel(shared, secure, "alice")) for _ in range(7)]
        send(wires[0], "/fair/first")
        secure.wait_for("/fair/first")
        for number, wire in enumerate(wires[1:], 1):
            send(wire, f"/fair/alice/{number}")
            shared.wait_for_metric("origin_fetches_queued", number)
        modest = stack.enter_context(tunnel(shared, secure, "bob"))
        send(modest, "/fair/bob")
        shared.wait_for_metric("origin_fetches_queued", 7)
        gate.open()
        for wire in (*wires, modest):
            assert wire.response().status == 200
    order = [seen.path for seen in secure.requests]
    assert order.index("/fair/bob") <= 2


def test_a_rule_may_ask_for_the_user_of_a_tunnel(start_proxy: Start, secure: Origin, origin_certificate: Path) -> None:
    """The same bytes, a lifetime for one of two users."""
    rule = r"""|~meta "proxyauth: .'alice'"|1h"""
    proxy = start_proxy(proxyauth="any", cache_ttl=[rule], **interception_of(origin_certificate))
    secure.serve("/rule", *(Reply(headers=(("Cache-Control", "max-age=0"),)) for _ in range(9)))
    with tunnel(proxy, secure, "alice") as alice, tunnel(proxy, secure, "bob") as bob:
        assert ask(bob, "/rule").status == 200
        assert not ask(bob, "/rule").hit
        assert not ask(alice, "/rule").hit
        assert ask(alice, "/rule").hit
        assert ask(alice, "/rule").hit


def test_who_does_not_trust_us_is_a_user(shared: Proxy, secure: Origin, origin_certificate: Path) -> None:
    """Its next tunnel is a raw one, and nobody else's."""
    context = ssl.create_default_context(cafile=origin_certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        tunnel(shared, secure, "alice", context)
    shared.wait_for_log(rf"alice does not trust our certificate for {secure.netloc} ")
    with tunnel(shared, secure, "alice", context) as alice, tunnel(shared, secure, "bob") as bob:
        assert not is_intercepted(alice)
        assert is_intercepted(bob)
        assert ask(alice, "/raw").header("Via") is None
        assert ask(bob, "/read").header("Via") is not None
    line = lines(shared, secure.netloc, 1)[0]
    assert (line.source, line.client) == ("tunnel", "alice")


def test_a_password_that_has_changed_opens_no_tunnel(
    start_proxy: Start, secure: Origin, origin_certificate: Path, tmp_path: Path
) -> None:
    """One that is open stays open."""
    file = htpasswd(tmp_path / "passwords")
    proxy = start_proxy(proxyauth=f"@{file}", **interception_of(origin_certificate))
    secure.serve("/x", Reply(headers=(FRESH,)))
    with tunnel(proxy, secure, "alice") as wire:
        assert ask(wire, "/x").status == 200
        htpasswd(file, {"alice": "looking-glass", "bob": PASSWORDS["bob"]})
        proxy.wait_for_log(r"proxyauth: .*passwords read again")
        for method in ("GET", "POST", "GET"):
            assert ask(wire, "/x", method=method).status == 200
        with Wire(proxy.address) as other:
            assert connect(other, secure.netloc, "alice").status == 407
        with tunnel(proxy, secure, "alice", password="looking-glass") as other:
            assert ask(other, "/x").hit
    assert {line.client for line in lines(proxy, "/x", 5)} == {"alice"}


def test_users_may_be_asked_for_from_now_on_and_no_longer(
    start_proxy: Start, secure: Origin, origin_certificate: Path
) -> None:
    """Nobody who has a tunnel already can be asked: it ends, in every state that it may be in. It is a 401 otherwise,
    and clients would send a password that is the origin's."""
    proxy = start_proxy(control=True, **interception_of(origin_certificate))
    secure.serve("/x", Reply(headers=(FRESH,)))
    with contextlib.ExitStack() as stack:
        wires = [in_tls(proxy, stack.enter_context(connected(proxy, secure.netloc))) for _ in range(3)]
        assert ask(wires[0], "/x").status == ask(wires[0], "/x").status == 200
        assert ask(wires[1], "/x", method="POST").status == 200
        late = stack.enter_context(connected(proxy, secure.netloc))
        plain = stack.enter_context(Wire(proxy.address))
        assert proxy.set_option("proxyauth=alice:wonderland-7") == "ok"
        for wire in wires:
            assert wire.rest() == b""
        with contextlib.suppress(OSError):  # with TLS 1.3 its own side of the handshake is over first
            in_tls(proxy, late)
            send(late, "/x")
            assert late.rest() == b""
        assert connect(plain, secure.netloc).status == 407
        assert connect(plain, secure.netloc, "alice").status == 200
        in_tls(proxy, plain)
        assert ask(plain, "/x").status == 200
        assert proxy.set_option("proxyauth=") == "ok"
        assert ask(plain, "/x").hit
        assert ask(plain, "/x", method="POST").status == 200
        with in_tls(proxy, connected(proxy, secure.netloc)) as wire:
            assert ask(wire, "/x").status == 200
    clients = [line.client for line in lines(proxy, "/x", 7)]
    assert clients == ["127.0.0.1"] * 3 + ["alice"] + ["127.0.0.1"] * 3
    assert [seen.header("Authorization") for seen in secure.requests] == [None] * len(secure.requests)


def test_a_peer_is_no_client_in_a_tunnel(shared: Proxy, secure: Origin) -> None:
    """Whatever it says of whom it asks for."""
    secure.serve("/peer", Reply(headers=(FRESH,)))
    claim = "Forwarded: for=_mallory", "Cache-Peer: " + "0" * 16 + "." + "0" * 64
    with tunnel(shared, secure, "alice") as wire:
        for _ in range(2):
            assert ask(wire, "/peer", *claim).header("Cache-Peer") is None
    assert [line.client for line in lines(shared, "/peer", 2)] == ["alice", "alice"]


def test_a_server_that_speaks_first_is_dialled_for_a_user(
    start_proxy: Start, tmp_path: Path, origin_certificate: Path
) -> None:
    """mitmproxy has the CONNECT then, has answered it, and waits for the client's first bytes before it dials."""
    hasty = tmp_path / "hasty.py"
    hasty.write_text("from proxy_cache.downstream import handshake\n\nhandshake.SILENCE = 0.1\n")
    proxy = start_proxy(
        proxyauth="alice:wonderland-7", arguments=["-s", str(hasty)], **interception_of(origin_certificate)
    )
    with socket.create_server(("127.0.0.1", 0)) as listening, Wire(proxy.address) as wire:
        netloc = f"127.0.0.1:{listening.getsockname()[1]}"
        credential = basic("alice", "wonderland-7")
        wire.send(f"CONNECT {netloc} HTTP/1.1\r\nHost: {netloc}\r\n{FIELD}: {credential}\r\n\r\n")
        assert wire.head()[0] == 200
        listening.settimeout(PATIENCE)
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"220 hello\r\n")
        assert wire.rest() == b"220 hello\r\n"
