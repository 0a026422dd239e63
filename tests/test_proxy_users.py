"""`proxyauth`: clients prove who they are, and the user is the client then, for fairness, the log and rules. On the
fast lane, as flows of mitmproxy's, and through tunnels alike. Credentials end here."""

from __future__ import annotations

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import Wire
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.scripted import OK, Scripted

from .test_access_log import LINE, Line
from .test_fleet import fleet
from .test_hangup import REFUSED, configure, hang_up

Start = Callable[..., Proxy]
FRESH = ("Cache-Control", "max-age=3600")
FIELD = "Proxy-Authorization"
PASSWORDS = {"alice": "wonderland-7", "bob": "builder-8"}


def basic(user: str, password: str | None = None) -> str:
    word = PASSWORDS[user] if password is None else password
    return f"Basic {b64encode(f'{user}:{word}'.encode()).decode()}"


def as_user(user: str, password: str | None = None) -> dict[str, Any]:
    return {"headers": [(FIELD, basic(user, password))]}


def htpasswd(file: Path, passwords: dict[str, str] = PASSWORDS) -> Path:
    """In the one format that all of mitmproxy's versions read."""
    lines = []
    for user, password in passwords.items():
        digest = hashlib.sha1(password.encode()).digest()
        lines.append(f"{user}:{{SHA}}{b64encode(digest).decode()}\n")
    new = file.with_suffix(".new")
    new.write_text("".join(lines))
    os.replace(new, file)
    return file


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    """One proxy for the file, with a password file."""
    folder = tmp_path_factory.mktemp("users")
    with Proxy(
        folder,
        proxyauth=f"@{htpasswd(folder / 'passwords')}",
        fast_lane=fast_lane,
        origin_max_in_flight=1,
        origin_retries=0,
        control=True,
    ) as proxy:
        yield proxy


def lines(proxy: Proxy, end: str, count: int) -> list[Line]:
    def found() -> list[Line]:
        matches = [LINE.fullmatch(text) for text in proxy.log]
        return [Line(match) for match in matches if match and match["url"].endswith(end)]

    all_lines = proxy.eventually(found, lambda lines: len(lines) >= count, told=f"{count} lines of the log")
    assert len(all_lines) == count
    return list(all_lines)


def secrets_of(*users: str) -> list[bytes]:
    """All forms in which a password may stand somewhere."""
    found = []
    for user in users:
        found += [PASSWORDS[user].encode(), basic(user)[6:].encode()]
    return found


def test_two_users_and_their_requests_are_told_apart(shared: Proxy, origin: Origin) -> None:
    """Miss, hit, a POST and a tunnel of each, and requests of nobody."""
    proxy, path = shared, "/told-apart"
    url = origin.serve(path, Reply(headers=(FRESH,), seed="x"))
    assert proxy.get(url).status == 407
    assert proxy.get(url, **as_user("alice", "guess")).status == 407
    before = proxy.settled()
    answers = [proxy.get(url, **as_user(user)) for user in ("alice", "bob", "alice", "bob")]
    answers.append(proxy.request("POST", url, body=b"x", **as_user("bob")))
    assert [answer.status for answer in answers] == [200] * 5
    assert len({answer.body for answer in answers[:4]}) == 1
    assert proxy.get(url).status == 407
    after = proxy.settled()
    assert after.value("hits_total") - before.value("hits_total") == 3
    assert after.value("misses_total") - before.value("misses_total") == 1
    told = [f"{line.method} {line.status} {line.source} {line.client}" for line in lines(proxy, path, 8)]
    assert told == [
        "GET 407 addon 127.0.0.1",
        "GET 407 addon 127.0.0.1",
        "GET 200 miss alice",
        "GET 200 hit bob",
        "GET 200 hit alice",
        "GET 200 hit bob",
        "POST 200 forwarded bob",
        "GET 407 addon 127.0.0.1",
    ]
    assert [seen.method for seen in origin.seen(path)] == ["GET", "POST"]
    for seen in origin.seen(path):
        assert seen.header(FIELD) is None


def test_no_credential_is_anywhere_but_in_the_request(shared: Proxy, origin: Origin) -> None:
    """Not at the origin, nor in the log, /status, the metrics, or a file; whoever asks, and in whatever state."""
    proxy, path = shared, "/nowhere"
    url = origin.serve(path, Reply(headers=(FRESH, ("Vary", "Proxy-Authorization, Accept"))))
    for user in ("alice", "bob", "alice"):
        assert proxy.get(url, **as_user(user)).ok
    assert origin.count(path) == 1  # what was for us is nothing that an origin can choose a response by
    for method in ("POST", "HEAD", "OPTIONS"):
        assert proxy.request(method, url, **as_user("alice")).status < 400
    trace = proxy.request("TRACE", url, headers=[(FIELD, basic("alice")), ("Max-Forwards", "0")])
    connection = [("Connection", FIELD), (FIELD, basic("alice"))]
    assert proxy.get(f"{url}?connection", headers=connection).ok
    proxy.settled()
    _, status = proxy.admin("/status")
    _, metrics = proxy.admin("/metrics")
    requests = [json.dumps([seen.path, seen.headers]).encode() for seen in origin.requests]
    places = [status, metrics, proxy.text().encode(), trace.body, repr(trace.headers).encode(), *requests]
    places += [file.read_bytes() for file in (proxy.folder / "cache").rglob("*") if file.is_file()]
    for secret in secrets_of("alice", "bob"):
        assert [place[:200] for place in places if secret in place] == []


def test_407_says_how_and_the_connection_goes_on(shared: Proxy, origin: Origin) -> None:
    """RFC 9110 §15.5.8: the proxy MUST send Proxy-Authenticate, and the client may repeat the request."""
    url = origin.serve("/again", Reply(headers=(FRESH,), body=b"hello"))
    with Wire(shared.address) as wire:
        for credential, status in (("", 407), (basic("bob", "guess"), 407), (basic("bob"), 200), ("", 407)):
            line = f"{FIELD}: {credential}\r\n" if credential else ""
            for _ in range(2):
                wire.send(f"GET {url} HTTP/1.1\r\nHost: x\r\n{line}\r\n")
                answer = wire.response()
                assert answer.status == status
                if status == 407:
                    assert answer.header("Proxy-Authenticate") == 'Basic realm="mitmproxy"'
                else:
                    assert answer.body == b"hello"


def test_a_connect_proves_its_user_and_may_be_tried_again(shared: Proxy, origin: Origin) -> None:
    before = shared.value("forward_requests_total", method="CONNECT")
    with Wire(shared.address) as wire:
        connect = f"CONNECT {origin.netloc} HTTP/1.1\r\nHost: {origin.netloc}\r\n"
        wire.send(f"{connect}\r\n")
        refused = wire.response()
        assert refused.status == 407
        assert refused.header("Proxy-Authenticate") is not None
        wire.send(f"{connect}{FIELD}: {basic('alice')}\r\n\r\n")
        assert wire.head()[0] == 200
        origin.serve("/through", Reply(body=b"inside"))
        wire.send("GET /through HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.response().body == b"inside"
    assert origin.seen("/through")[0].header(FIELD) is None
    refused_line, tunnel = lines(shared, f" {origin.netloc}"[1:], 2)
    assert [refused_line.status, refused_line.client] == [407, "127.0.0.1"]
    assert [tunnel.source, tunnel.client] == ["tunnel", "alice"]
    assert shared.value("forward_requests_total", method="CONNECT") == before + 1


def test_a_user_with_many_connections_has_one_turn(shared: Proxy, origin: Origin) -> None:
    """Fairness is between users, though all of them come from one address."""
    gate = Gate()
    first = shared.start_get(origin.serve("/fair/first", Reply(gate=gate)), **as_user("alice"))
    origin.wait_for("/fair/first")
    greedy = []
    for number in range(6):
        url = origin.serve(f"/fair/alice/{number}", Reply(headers=(FRESH,)))
        greedy.append(shared.start_get(url, **as_user("alice")))
        shared.wait_for_metric("origin_fetches_queued", len(greedy))
    modest = shared.start_get(origin.serve("/fair/bob", Reply(headers=(FRESH,))), **as_user("bob"))
    shared.wait_for_metric("origin_fetches_queued", 7)
    gate.open()
    for fetch in (first, modest, *greedy):
        assert fetch.result().ok
    order = [seen.path for seen in origin.requests if seen.path.startswith("/fair/")]
    assert order.index("/fair/bob") <= 2


def test_one_connection_may_have_two_users(shared: Proxy, origin: Origin) -> None:
    """A proxy between agents and us keeps its connections for all of them."""
    path = "/mixed"
    url = origin.serve(path, Reply(headers=(FRESH,)))
    with Wire(shared.address) as wire:
        for user in ("alice", "bob", "alice", "bob", "bob"):
            wire.send(f"GET {url} HTTP/1.1\r\nHost: x\r\n{FIELD}: {basic(user)}\r\n\r\n")
            assert wire.response().status == 200
    assert [line.client for line in lines(shared, path, 5)] == ["alice", "bob", "alice", "bob", "bob"]


def test_requests_that_are_sent_ahead_wait_for_the_check(start_proxy: Start, origin: Origin, fast_lane: bool) -> None:
    """Three in one packet, of a user that nobody has asked about yet."""
    proxy = start_proxy(proxyauth="any", fast_lane=fast_lane)
    url = origin.serve("/ahead", Reply(headers=(FRESH,), body=b"hello"))
    with Wire(proxy.address) as wire:
        one = f"GET {url} HTTP/1.1\r\nHost: x\r\n{FIELD}: {basic('new user', 'x')}\r\n\r\n"
        wire.send(one * 2 + f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [wire.response().status for _ in range(3)] == [200, 200, 407]
    assert [line.client for line in lines(proxy, "/ahead", 3)] == ["new%20user", "new%20user", "127.0.0.1"]


def test_a_changed_file_counts_at_once_also_for_known_requests(
    tmp_path: Path, start_proxy: Start, origin: Origin, fast_lane: bool
) -> None:
    file = htpasswd(tmp_path / "passwords")
    proxy = start_proxy(proxyauth=f"@{file}", fast_lane=fast_lane)
    url = origin.serve("/changed", Reply(headers=(FRESH,)))
    for _ in range(3):
        assert proxy.get(url, **as_user("alice")).ok
    htpasswd(file, {"alice": "looking-glass"})
    proxy.wait_for_log(r"proxyauth: .*passwords read again")
    assert proxy.get(url, **as_user("alice")).status == 407
    assert proxy.get(url, **as_user("alice", "looking-glass")).ok
    file.write_text("alice is no line of such a file\n")
    proxy.wait_for_log(r"proxyauth: .*passwords cannot be read; what was there before is kept")
    assert proxy.get(url, **as_user("alice", "looking-glass")).ok
    assert proxy.get(url, **as_user("bob")).status == 407


def test_the_option_may_change_while_it_runs(start_proxy: Start, origin: Origin, fast_lane: bool) -> None:
    proxy = start_proxy(fast_lane=fast_lane, control=True)
    url = origin.serve("/option", Reply(headers=(FRESH,)))
    assert [proxy.get(url).status for _ in range(3)] == [200] * 3
    assert proxy.set_option("proxyauth=alice:one") == "ok"
    assert proxy.get(url).status == 407
    assert proxy.get(url, **as_user("alice", "one")).ok
    assert proxy.set_option("proxyauth=alice:two") == "ok"
    assert proxy.get(url, **as_user("alice", "one")).status == 407
    assert proxy.get(url, **as_user("alice", "two")).hit
    assert proxy.set_option("proxyauth=") == "ok"
    assert proxy.get(url).hit


def test_the_option_leaves_the_lane_on(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(proxyauth="alice:secret", fast_lane=True)
    url = origin.serve("/lane", Reply(headers=(FRESH,)))
    for _ in range(3):
        assert proxy.get(url, **as_user("alice", "secret")).ok
    assert "fast lane on" in proxy.text()
    assert "fast lane off" not in proxy.text()


def test_a_rule_may_ask_for_the_user(start_proxy: Start, origin: Origin, fast_lane: bool) -> None:
    """The same URL, a lifetime for one of two users."""
    rule = r"""|~meta "proxyauth: .'alice'"|1h"""
    proxy = start_proxy(proxyauth="any", fast_lane=fast_lane, cache_ttl=[rule])
    url = origin.serve("/rule", *(Reply(headers=(("Cache-Control", "max-age=0"),)) for _ in range(9)))
    assert proxy.get(url, **as_user("bob")).ok
    assert not proxy.get(url, **as_user("bob")).hit
    assert not proxy.get(url, **as_user("alice")).hit
    assert proxy.get(url, **as_user("alice")).hit


def test_a_parent_gets_no_credential_of_ours(start_proxy: Start, fast_lane: bool) -> None:
    """mitmproxy's mode `upstream`: fills, forwarded requests, tunnels, and requests after a CONNECT that has failed,
    which mitmproxy takes to be of the same user."""
    refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with Scripted() as parent:
        parent.answers = [OK, OK, refusal, refusal, OK]
        proxy = start_proxy(
            proxyauth="alice:secret", mode=f"upstream:http://{parent.netloc}", fast_lane=fast_lane, origin_retries=0
        )
        credential = f"{FIELD}: {basic('alice', 'secret')}"
        with Wire(proxy.address) as wire:
            for request, status in (
                ("GET http://a.example/1", 200),
                ("DELETE http://a.example/2", 200),
                ("CONNECT a.example:443", 502),
            ):
                wire.send(f"{request} HTTP/1.1\r\nHost: a.example\r\n{credential}\r\n\r\n")
                assert wire.response().status == status
        with Wire(proxy.address) as wire:
            wire.send(f"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n{credential}\r\n\r\n")
            wire.response()
            wire.send(f"DELETE http://a.example/3 HTTP/1.1\r\nHost: a.example\r\n{credential}\r\n\r\n")
            assert wire.response().body == b"final"
        heads = list(parent.heads)
    assert [head.split()[0] for head in heads] == ["GET", "DELETE", "CONNECT", "CONNECT", "DELETE"]
    for head in heads:
        assert FIELD.lower() not in head.lower()
        assert basic("alice", "secret")[6:] not in head


@pytest.mark.skipif(find_spec("bcrypt") is None, reason="mitmproxy has it from 12.2 on")
def test_passwords_by_bcrypt(tmp_path: Path, start_proxy: Start, origin: Origin, fast_lane: bool) -> None:
    import bcrypt

    file = tmp_path / "passwords"
    file.write_text(f"alice:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n")
    proxy = start_proxy(proxyauth=f"@{file}", fast_lane=fast_lane)
    url = origin.serve("/bcrypt", Reply(headers=(FRESH,)))
    for password, status in (("wrong", 407), ("secret", 200), ("secret", 200), ("wrong", 407)):
        assert proxy.get(url, **as_user("alice", password)).status == status
    assert proxy.request("POST", url, body=b"x", **as_user("alice", "secret")).ok


def test_a_value_that_is_refused_is_not_quoted(tmp_path: Path, fast_lane: bool) -> None:
    """SIGHUP, and a directory in a form that mitmproxy does not know, with the proxy's own password for it."""
    folder = configure(tmp_path, "proxyauth: alice:one\n")
    with Proxy(tmp_path, confdir=folder, fast_lane=fast_lane) as proxy:
        spec = "ldap:directory.example:cn=proxy:the-proxys-secret:dc=example:x:y:z"
        assert "proxyauth" in hang_up(proxy, f'proxyauth: "{spec}"\n', REFUSED) or "LDAP" in proxy.text()
        assert "the-proxys-secret" not in proxy.text()
        assert proxy.get("http://127.0.0.1:1/").status == 407


# -- a fleet --------------------------------------------------------------------------------------------------------


def test_peers_need_no_credential_and_tell_whom_they_ask_for(tmp_path: Path, origin: Origin, fast_lane: bool) -> None:
    """Nodes that all want passwords: a miss asks its home, and the queue there is fair between the users of all."""
    with fleet(tmp_path, 2, proxyauth="any", fast_lane=fast_lane, origin_max_in_flight=1, origin_retries=0) as nodes:
        for number in range(12):
            url = origin.serve(f"/fleet/{number}", Reply(headers=(FRESH,)))
            for node in nodes:
                assert node.get(url, **as_user("alice")).ok
        assert origin.count() == 12
        assert nodes.asked() > 0
        texts = [node.text() for node in nodes]
    for seen in origin.requests:
        assert seen.header(FIELD) is None
        assert seen.header("Forwarded") is None
    for text in texts:
        assert " 407 " not in text
        assert "[alice]" in text
        assert basic("alice")[6:] not in text


def test_who_only_says_that_he_is_a_peer_has_to_say_who_he_is(tmp_path: Path, origin: Origin, fast_lane: bool) -> None:
    url = origin.serve("/said", Reply(headers=(FRESH,)))
    with fleet(tmp_path, 2, proxyauth="any", fast_lane=fast_lane) as nodes:
        node = next(iter(nodes))
        for proof in ("?1", "0" * 16 + "." + "0" * 64):
            claim = [("Forwarded", "for=_alice"), ("Cache-Peer", proof)]
            assert node.get(url, headers=claim).status == 407
        assert origin.count() == 0


def test_the_queue_of_a_home_is_fair_between_users_of_another_node(
    tmp_path: Path, origin: Origin, fast_lane: bool
) -> None:
    """Both users ask a node that isn't the home of what they want: for the home they have one address."""
    with fleet(tmp_path, 2, proxyauth="any", fast_lane=fast_lane, origin_max_in_flight=1, origin_retries=0) as nodes:
        here, home = nodes
        paths = [f"/at-home/{number}" for number in range(100)]
        first, bobs, *alices = [path for path in paths if nodes.home(origin.url(path)) == nodes.peers[1]][:8]
        gate = Gate()
        fetches = [here.start_get(origin.serve(first, Reply(gate=gate, headers=(FRESH,))), **as_user("alice"))]
        origin.wait_for(first)
        for queued, (path, user) in enumerate([*((path, "alice") for path in alices), (bobs, "bob")], 1):
            fetches.append(here.start_get(origin.serve(path, Reply(headers=(FRESH,))), **as_user(user)))
            home.wait_for_metric("origin_fetches_queued", queued)
        gate.open()
        for fetch in fetches:
            assert fetch.result().ok
        assert [seen.path for seen in origin.requests].index(bobs) <= 2
