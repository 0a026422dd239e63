"""Several proxies that know each other: one request to the origin for a key, whoever asks whom."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.semantics.peer_fields import answer_to, repr_digest
from proxy_cache.upstream.peers.listings import parse_peer
from proxy_cache.upstream.peers.ranking import Ranking
from tests.support.agents import Agents, Wire, results
from tests.support.buckets import BUCKET, Bucket
from tests.support.certificates import self_signed, server_context
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.scripted import ThreadedOrigin
from tests.support.squid import running_squid
from tests.support.tools import free_port
from tests.test_http_properties import KEPT_APART, SEED, check

SECRET = "correct-horse-battery-staple"
NEW_SECRET = "battery-staple-correct-horse"
NODES = 3


class Fleet(Sequence[Proxy]):
    """Proxies that have each other for peers."""

    def __init__(self, nodes: list[Proxy], peers: list[str]) -> None:
        self.nodes = nodes
        self.peers = peers
        self.serial = itertools.count()

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, number: Any) -> Any:
        return self.nodes[number]

    def home(self, url: str) -> str:
        """The peer that is the home of a URL."""
        peer = Ranking([parse_peer(peer) for peer in self.peers]).home(url)
        assert peer is not None
        return peer.url

    def path_with_home(self, number: int, origin: Origin) -> str:
        """A target whose home is the node with that number."""
        paths = (f"/home/{one}" for one in self.serial)
        return next(path for path in paths if self.home(origin.url(path)) == self.peers[number])

    def asked(self) -> int:
        """How often nodes have asked a home, and were answered. (In the first hour the home looks at the others
        before each of its fills: one may have it from before the list has changed.)"""
        answered = sum(node.value("peer_fetches_total", outcome=outcome) for node in self for outcome in ANSWERED)
        fills = sum(node.metrics().value("origin_fetches_total") for node in self)
        return round(answered - fills * (len(self) - 1))


ANSWERED = ("hit", "joined", "miss")


@contextlib.contextmanager
def fleet(
    folder: Path, count: int = NODES, also: Sequence[str] = (), scheme: str = "http", **options: Any
) -> Iterator[Fleet]:
    token = folder / "token"
    token.write_text(SECRET)
    ports = [free_port() for _ in range(count)]
    peers = [*(f"{scheme}://127.0.0.1:{port}" for port in ports), *also]
    with contextlib.ExitStack() as stack:
        nodes = []
        for number, port in enumerate(ports):
            (folder / str(number)).mkdir()
            options = {"cache_peer_token_file": token, **options}
            node = Proxy(folder / str(number), listen_port=port, cache_peers=peers, **options)
            nodes.append(stack.enter_context(node))
        yield Fleet(nodes, peers)


@contextlib.contextmanager
def fleets_with_bucket(tmp_path: Path, **always: Any) -> Iterator[Callable[..., Fleet]]:
    """Starts nodes, and moto behind them; ``always`` are options of all."""
    with contextlib.ExitStack() as stack:
        bucket = stack.enter_context(Bucket())
        shared = {"cache_shared": f"s3://{BUCKET}/fleet", "environment": bucket.environment}
        yield lambda **options: stack.enter_context(fleet(tmp_path, **shared, **always, **options))


@pytest.fixture
def start_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    with contextlib.ExitStack() as stack:

        def start(count: int = NODES, also: Sequence[str] = (), **options: Any) -> Fleet:
            return stack.enter_context(fleet(tmp_path, count, also, **options))

        yield start


def test_a_hundred_agents_of_three_nodes_ask_the_origin_once(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet()
    gate = Gate()
    size, half = 2_000_000, 1_000_000
    url = origin.serve("/image.tar", Reply(size=size, body_gate=gate, gate_at=half))
    fetches = [node.start_get(url, expect=size) for node in nodes for _ in range(33)]
    for fetch in fetches:
        fetch.received(half)  # all read along
    gate.open()
    responses = results(fetches, 90)
    assert all(response.ok for response in responses), [response for response in responses if not response.ok][:3]
    assert origin.count("/image.tar") == 1
    assert nodes.asked() == 2
    for node in nodes:
        assert node.get(url, expect=size).hit


def test_what_a_peer_has_is_stored_here_with_its_age(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet(2)
    url = origin.serve("/x", Reply(size=10_000).with_headers(("Cache-Control", "max-age=3600"), ("Age", "100")))
    for node in nodes:
        response = node.get(url, expect=10_000)
        assert response.ok
        assert 100 <= int(response.header("Age") or 0) < 200
        assert response.header("Cache-Peer") is None
    assert origin.count("/x") == 1
    assert all(node.get(url, expect=10_000).hit for node in nodes)
    assert nodes.asked() == 1
    request = origin.seen("/x")[0]
    assert request.header("Cache-Peer") is None
    assert request.header("Forwarded") is None


def test_bytes_are_counted_by_where_they_come_from(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet(2)
    sizes = {"/little": 1000, "/large": 3_000_000}
    for path, size in sizes.items():
        url = origin.serve(path, Reply(size=size))
        for node in nodes:
            assert node.get(url, expect=size).ok
    assert sum(node.value("fetched_bytes_total", source="origin") for node in nodes) == 3_001_000
    assert sum(node.value("fetched_bytes_total", source="peer") for node in nodes) == 3_001_000
    assert [node.value("peers") for node in nodes] == [2, 2]
    assert sum(node.value("peers_left_alone") for node in nodes) == 0


def test_one_limit_and_one_queue_for_a_key_in_the_whole_fleet(
    start_fleet: Callable[..., Fleet], origin: Origin
) -> None:
    """While the home's client queues longer than the peers' patience: it says that it is still there."""
    nodes = start_fleet(2, origin_max_in_flight=1, origin_queue_timeout=60, cache_peer_timeout=1)
    gate = Gate()
    urls = [origin.serve(f"/{number}", Reply(size=1000, gate=gate)) for number in range(6)]
    fetches = [node.start_get(url, expect=1000) for url in urls for node in nodes]
    import time

    time.sleep(4)
    gate.open()
    assert all(response.ok for response in results(fetches, 90))
    assert sum(origin.count(f"/{number}") for number in range(6)) == 6
    assert origin.peak <= 2


def test_a_range_comes_by_spans_from_the_home(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet()
    size = 6_000_000
    headers = ("Cache-Control", "max-age=3600"), ("ETag", '"v1"'), ("Accept-Ranges", "bytes")
    url = origin.serve("/data.parquet", Reply(size=size).with_headers(*headers))
    for node in nodes:
        response = node.get(url, headers=[("Range", "bytes=5000000-5000099")])
        assert (response.status, response.body) == (206, content("/data.parquet", 100, 5_000_000))
    spans = [request.header("Range") for request in origin.seen("/data.parquet")]
    assert len(spans) == 1, spans
    assert nodes.asked() == 2


def test_one_validation_for_all(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet()
    url = origin.serve("/index", Reply(size=5000).with_headers(("Cache-Control", "max-age=1"), ("ETag", '"v1"')))
    for node in nodes:
        assert node.get(url, expect=5000).ok
    assert origin.count("/index") == 1
    for node in nodes:
        assert node.get(url, expect=5000, headers=[("Cache-Control", "max-age=0")]).ok
    asked = [request.header("If-None-Match") for request in origin.seen("/index")]
    assert asked[:2] == [None, '"v1"']
    assert asked.count(None) == 1


def test_the_homes_503_is_the_fleets(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    """It is no reason to go to the origin past the home's limit."""
    nodes = start_fleet(2, origin_max_in_flight=1, origin_queue_max=0)
    gate = Gate()
    held = []
    while min(node.value("origin_fetches_in_flight") for node in nodes) < 1:  # each is the home of half of the keys
        held.append(nodes[0].start_get(origin.serve(f"/held{len(held)}", Reply(gate=gate))))
        assert len(held) < 100
    urls = [origin.serve(f"/{number}", Reply(size=1000)) for number in range(8)]
    responses = [node.get(url) for url in urls for node in nodes]
    gate.open()
    results(held)
    assert all(response.status == 503 and response.header("Retry-After") for response in responses)
    assert not any(origin.count(f"/{number}") for number in range(8))


def test_an_error_of_the_origin_is_passed_on_and_costs_one_fill(
    start_fleet: Callable[..., Fleet], origin: Origin
) -> None:
    nodes = start_fleet(origin_retries=0)
    url = origin.serve("/broken", Reply(status=500, size=100))
    assert [node.get(url).status for node in nodes] == [500] * NODES
    assert origin.count("/broken") == NODES  # each client's request is a new one
    url = origin.serve("/reset", Reply(fail="reset"))
    assert [node.get(url).status for node in nodes] == [502] * NODES


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_home_that_is_gone_is_left_alone(start_fleet: Callable[..., Fleet], origin: Origin, how: str) -> None:
    nodes = start_fleet(cache_peer_timeout=1)
    if how == "kill":
        nodes[0].kill9()
    else:
        nodes[0].signal(signal.SIGSTOP)
    try:
        urls = [origin.serve(f"/{how}{number}", Reply(size=1000)) for number in range(40)]
        fetches = [node.start_get(url, expect=1000) for url in urls for node in nodes[1:]]
        assert all(response.ok for response in results(fetches))
        assert all(origin.count(f"/{how}{number}") <= 2 for number in range(40))
        assert all(node.value("peers_left_alone") >= 1 for node in nodes[1:])
    finally:
        if how == "stop":
            nodes[0].signal(signal.SIGCONT)


class BadPeer(ThreadedOrigin):
    """Listens as a peer does, and answers in its own way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.asked = 0
        self.size_of: Callable[[str], int] = lambda key: 1000

    def _answers(self, connection: socket.socket) -> None:
        """Before it answers."""

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := connection.recv(65536)):
                    return
                data += more
            self.asked += 1
            self.data = data
            self._answers(connection)
            key = data.split(b" ", 2)[1].decode()
            found = re.search(rb"(?i)\r\ncache-peer: (\S+)", data)
            proof = found[1].decode() if found else ""
            fields, body = "Cache-Control: max-age=60\r\n", b"x" * 400
            match self.how:
                case "garbage":
                    connection.sendall(b"\x00\x01 nothing of HTTP \r\n\r\n" * 10)
                    return
                case "silent":
                    connection.recv(1)
                    return
                case "unmarked":
                    pass
                case "another key":
                    fields += f"Cache-Peer: {answer_to(proof, key + '2', SECRET)}\r\n"
                case "another secret":
                    fields += f"Cache-Peer: {answer_to(proof, key, 'x' * 20)}\r\n"
                case "wrong digest":
                    fields += (
                        f"Repr-Digest: {repr_digest(b'y')}\r\nCache-Peer: {answer_to(proof, key, SECRET)};digest\r\n"
                    )
                case "right":
                    fields += f"Cache-Peer: {answer_to(proof, key, SECRET)}\r\n"
                    body = content("/" + key.split("/", 3)[3], 400, 0)
                case "short":
                    fields += f"Cache-Peer: {answer_to(proof, key, SECRET)}\r\n"
                    body = content("/" + key.split("/", 3)[3], 400, 0)
                case "not ready":
                    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                    return
            length = self.size_of(key) if self.how == "short" else len(body)
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{fields}\r\n".encode() + body)


BAD = "garbage", "silent", "unmarked", "another key", "another secret", "wrong digest", "short", "not ready"


@pytest.mark.parametrize("how", BAD)
def test_a_peer_that_answers_badly_costs_no_right_answer(
    start_fleet: Callable[..., Fleet], origin: Origin, how: str
) -> None:
    with BadPeer(how) as bad:
        nodes = start_fleet(2, also=[f"http://{bad.netloc}"], cache_peer_timeout=1)
        urls = [origin.serve(f"/{number}", Reply(size=1000)) for number in range(30)]
        fetches = [node.start_get(url, expect=1000) for url in urls for node in nodes]
        responses = results(fetches)
        assert all(response.ok for response in responses), [response for response in responses if not response.ok][:3]
        assert bad.asked
        for node in nodes:
            assert all(node.get(url, expect=1000).ok for url in urls)


def test_a_squid_as_sibling(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    """What it has it gives; what it hasn't, the origin does, and Squid is not the one to ask it."""
    with running_squid(tmp_path) as squid:
        url = origin.serve("/x", Reply(size=5000))
        with Agents(("127.0.0.1", int(squid.rpartition(":")[2]))) as agents:
            assert agents.get(url, expect=5000).result().ok
        node = start_proxy(cache_peers=squid, cache_peer_mode="sibling")
        assert node.get(url, expect=5000).ok
        assert origin.count("/x") == 1
        assert node.get(url, expect=5000).hit
        assert node.get(origin.serve("/y", Reply(size=5000)), expect=5000).ok
        assert [request.header("Via") and "squid" in request.header("Via") for request in origin.seen("/y")] == [False]
        outcomes = {outcome: node.value("peer_fetches_total", outcome=outcome) for outcome in ("hit", "miss", "error")}
        assert outcomes == {"hit": 1, "miss": 1, "error": 0}


def test_a_squid_has_us_for_its_parent(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    node = start_proxy()
    parent = f"cache_peer 127.0.0.1 parent {node.address[1]} 0 no-query no-digest default"
    url = origin.serve("/x", Reply(size=5000))
    assert node.get(url, expect=5000).ok
    with (
        running_squid(tmp_path, parent, "never_direct allow all", "cache deny all") as squid,
        Agents(("127.0.0.1", int(squid.rpartition(":")[2]))) as agents,
    ):
        response = agents.get(url, expect=5000).result()
    assert response.ok
    assert "proxy-cache; hit" in (response.header("Cache-Status") or "")
    assert origin.count("/x") == 1


def test_siblings_of_our_own_kind(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet(2, cache_peer_mode="sibling")
    url = origin.serve("/x", Reply(size=5000))
    for node in nodes:
        assert node.get(url, expect=5000).ok
    assert origin.count("/x") == 1


def test_what_a_peer_has_sent_is_kept_once_it_is_hot(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet(2, cache_peer_keep="hot")
    url = origin.serve("/x", Reply(size=5000))
    for _ in range(3):
        for node in nodes:
            assert node.get(url, expect=5000).ok
    assert (origin.count("/x"), nodes.asked()) == (1, 2)


def test_what_a_peer_has_sent_is_not_kept(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet(2, cache_peer_keep="never")
    url = origin.serve("/x", Reply(size=5000))
    for _ in range(3):
        for node in nodes:
            assert node.get(url, expect=5000).ok
    assert (origin.count("/x"), nodes.asked()) == (1, 3)


@pytest.mark.parametrize("field", [("Authorization", "Basic eDp5"), ("Cookie", "a=b")])
def test_what_is_personal_goes_to_no_peer(
    start_fleet: Callable[..., Fleet], origin: Origin, field: tuple[str, str]
) -> None:
    nodes = start_fleet(2)
    urls = [origin.serve(f"/{number}", Reply(size=100)) for number in range(8)]
    for url in urls:
        assert nodes[0].get(url, expect=100, headers=[field]).ok
    assert not sum(node.value("peer_fetches_total") for node in nodes)


def test_cache_status_lists_the_home_before_us(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet(2)
    url = origin.serve("/x", Reply(size=500))
    first, second = (node.get(url).header_values("Cache-Status") for node in nodes)
    asked = second if len(", ".join(second).split(", ")) == 2 else first
    home, ours = ", ".join(asked).split(", ")
    assert home.startswith("proxy-cache; ")
    assert ours.startswith("proxy-cache; fwd=uri-miss; fwd-status=200; stored")
    assert "key" not in home


def test_hits_and_peers_hits_need_no_slot(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    """The limiter of every node is full, and so is its queue."""
    nodes = start_fleet(origin_max_in_flight=1, origin_queue_max=0)
    urls = [origin.serve(f"/{number}", Reply(size=1000)) for number in range(9)]
    for url in urls:
        assert nodes[0].get(url, expect=1000).ok  # at its home, and at the first
    gate, held = Gate(), []
    while min(node.value("origin_fetches_in_flight") for node in nodes) < 1:
        held.append(nodes[0].start_get(origin.serve(f"/held{len(held)}", Reply(gate=gate))))
        assert len(held) < 200
    for node in nodes:
        assert all(node.get(url, expect=1000).ok for url in urls)
    gate.open()
    results(held)
    assert sum(origin.count(f"/{number}") for number in range(9)) == 9


def test_peers_are_asked_by_https(tmp_path: Path, origin: Origin) -> None:
    """A proxy takes TLS on its usual port, with the certificate of mitmproxy's option ``certs``."""
    certificate = self_signed(tmp_path / "peer.pem")
    trusted = {"certs": f"*={certificate}", "ssl_verify_upstream_trusted_ca": certificate}
    with fleet(tmp_path, 2, scheme="https", **trusted) as nodes:
        number = 0
        while min(sum(node.value("peer_fetches_total", outcome=outcome) for outcome in ANSWERED) for node in nodes) < 1:
            url, number = origin.serve(f"/{number}", Reply(size=1000)), number + 1
            assert all(node.get(url, expect=1000).ok for node in nodes)
            assert number < 100


@pytest.mark.parametrize("how", ["absolute", "reverse"])
def test_an_https_key_has_a_home_too(tmp_path: Path, how: str) -> None:
    certificate = self_signed(tmp_path / "origin.pem")
    with Origin(tls=server_context(certificate)) as origin:
        target = f"https://127.0.0.1:{origin.port}"
        options: dict[str, Any] = {"ssl_verify_upstream_trusted_ca": certificate}
        if how == "reverse":
            options["mode"] = f"reverse:{target}"
        with fleet(tmp_path, **options) as nodes:
            origin.serve("/x", Reply(size=50_000))
            for node in nodes:
                with Wire(node.address) as wire:
                    form = "/x" if how == "reverse" else f"{target}/x"
                    wire.send(f"GET {form} HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n")
                    response = wire.response()
                assert response.status == 200
                assert response.body == content("/x", 50_000, 0)
            assert origin.count("/x") == 1


def test_scale_out_and_a_rolling_restart_under_load(tmp_path: Path, origin: Origin) -> None:
    """From three nodes to six, and each of the first three anew: no client sees an error, and the origin hardly hears
    of it."""
    listed, token = tmp_path / "peers.json", tmp_path / "token"
    token.write_text(SECRET)
    ports = [free_port() for _ in range(6)]

    def publish(count: int) -> None:
        new = listed.with_suffix(".new")
        new.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports[:count]]}]))
        new.rename(listed)

    def started(number: int) -> Proxy:
        (tmp_path / str(number)).mkdir()
        node = Proxy(
            tmp_path / str(number), listen_port=ports[number], cache_peers=listed.as_uri(), cache_peer_token_file=token,
            cache_peer_timeout=30, shutdown_grace=10,
        )  # fmt: skip
        return stack.enter_context(node)

    headers = ("Cache-Control", "max-age=3600, immutable")
    urls = [origin.serve(f"/{number}", Reply(size=2000).with_headers(headers)) for number in range(200)]
    failed: list[Any] = []
    rounds = 0

    def load(nodes: Sequence[Proxy]) -> None:
        """Each URL once, from one node after the other."""
        nonlocal rounds
        rounds += 1
        fetches = [nodes[(n + rounds) % len(nodes)].start_get(url, expect=2000) for n, url in enumerate(urls)]
        failed.extend(response for response in results(fetches, 120) if not response.ok)

    def know(nodes: Sequence[Proxy], count: int) -> None:
        for node in nodes:
            node.eventually(lambda node=node: len(node.status()["peers"]), lambda found: found == count)

    with contextlib.ExitStack() as stack:
        publish(3)
        nodes = [started(number) for number in range(3)]
        know(nodes, 3)
        load(nodes)
        before = sum(origin.count(f"/{number}") for number in range(200))
        assert before == 200
        publish(6)
        nodes += [started(number) for number in range(3, 6)]
        know(nodes, 6)
        for _ in range(6):
            load(nodes)
        for number in range(3):
            nodes[number].restart()  # its agents are with others meanwhile
            load([node for other, node in enumerate(nodes) if other != number])
            load(nodes)
        assert not failed, failed[:3]
        asked = sum(origin.count(f"/{number}") for number in range(200))
        assert asked < 1.05 * before, "\n".join(
            line for node in nodes for line in node.text().splitlines() if "peer" in line
        )


@pytest.mark.timeout(900)
def test_two_users_never_see_each_others_body_whatever_node_they_ask(
    start_fleet: Callable[..., Fleet], origin: Origin
) -> None:
    nodes = start_fleet()
    dice = random.Random(SEED)
    for number in range(150):
        name, headers = dice.choice(KEPT_APART)
        path = f"/round/{number}"
        url = origin.serve(path, Reply(size=100, headers=headers, seed_by=name, chunked=dice.random() < 0.2))
        under_way: list[tuple[str, object]] = []
        for _ in range(dice.randint(3, 8)):
            user = dice.choice(("de", "fr"))
            fields = [(name, user)]
            if dice.random() < 0.2:
                fields.append(("Cache-Control", dice.choice(("no-cache", "no-store", "max-stale", "max-age=0"))))
            under_way.append((user, dice.choice(nodes).start_get(url, headers=fields)))
            if dice.random() < 0.4:
                check(path, under_way)
        check(path, under_way)
    assert sum(node.value("peer_fetches_total", outcome="hit") for node in nodes) > 0


def test_peers_that_are_named_while_it_runs(tmp_path: Path, origin: Origin) -> None:
    ports = [free_port() for _ in range(2)]
    peers = [f"http://127.0.0.1:{port}" for port in ports]
    with contextlib.ExitStack() as stack:
        nodes = []
        for number, port in enumerate(ports):
            (tmp_path / str(number)).mkdir()
            node = Proxy(tmp_path / str(number), listen_port=port, control=True)
            nodes.append(stack.enter_context(node))
        for node in nodes:
            assert node.set_option(f"cache_peers={','.join(peers)}") == "ok"
        urls = [origin.serve(f"/{number}", Reply(size=1000)) for number in range(10)]
        for url in urls:
            for node in nodes:
                assert node.get(url, expect=1000).ok
        assert [origin.count(f"/{number}") for number in range(10)] == [1] * 10
        assert [peer["state"] for peer in nodes[0].status()["peers"]] == ["up", "up"]


def test_the_secret_is_changed_while_all_run(start_fleet: Callable[..., Fleet], origin: Origin, tmp_path: Path) -> None:
    """Old and new first, then new and old, and then the new one alone, a node at a time."""
    nodes = start_fleet(2)
    token, urls = tmp_path / "token", []
    for text in (f"{SECRET}\n{NEW_SECRET}\n", f"{NEW_SECRET}\n{SECRET}\n", f"{NEW_SECRET}\n"):
        token.write_text(text)
        for node in nodes:
            node.signal(signal.SIGHUP)
            node.wait_for_log("cache_peer_token_file read again: it has changed")
            node.log.clear()
            for _ in range(6):
                urls.append(origin.serve(f"/{len(urls)}", Reply(size=1000)))
                assert all(one.get(urls[-1], expect=1000).ok for one in nodes)
    assert [origin.count(f"/{number}") for number in range(len(urls))] == [1] * len(urls)
    assert not sum(node.value("peer_fetches_total", outcome="error") for node in nodes)
    # Whoever shows the old one is nobody now.
    answer = nodes[0].get(urls[0], headers=[("Cache-Peer", SECRET)])
    assert answer.ok
    assert answer.header("Cache-Peer") is None


def test_a_secret_that_is_gone_is_kept(start_fleet: Callable[..., Fleet], origin: Origin, tmp_path: Path) -> None:
    nodes = start_fleet(2)
    (tmp_path / "token").unlink()
    for node in nodes:
        node.expects_errors = True
        node.signal(signal.SIGHUP)
        node.wait_for_log("SIGHUP: cache_peer_token_file: .*; what was there before is kept")
    urls = [origin.serve(f"/{number}", Reply(size=1000)) for number in range(6)]
    assert all(node.get(url, expect=1000).ok for url in urls for node in nodes)
    assert [origin.count(f"/{number}") for number in range(6)] == [1] * 6


def test_peers_without_a_secret_are_warned_of(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy(cache_peers="http://127.0.0.1:1")
    proxy.wait_for_log("cache_peers without cache_peer_token_file")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cache_peers": "cache-1:8080"}, "cache_peers: 'cache-1:8080': it begins with none of"),
        ({"cache_peers": "https://10.0.0.1:8080"}, "needs cache_peer_token_file"),
        ({"cache_peers": "http://192.0.2.1.example:80", "cache_peer_self": "x"}, "cache_peer_self: 'x'"),
        ({"cache_peer_token_file": "/nowhere/token"}, "cache_peer_token_file: '/nowhere/token'"),
        ({"cache_peer_mode": "parent"}, "cache_peer_mode: must be one of home, sibling"),
        ({"cache_peer_keep": "no"}, "cache_peer_keep: must be one of always, hot, never"),
        ({"cache_peer_timeout": 0}, "cache_peer_timeout: must be 1 second or more"),
    ],
)
def test_a_bad_value_is_told(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    proxy = Proxy(tmp_path, **options)
    proxy.expects_errors = True
    proxy.launch()
    try:
        proxy.wait_for_log(re.escape(told))
    finally:
        proxy.close()


@pytest.mark.parametrize("headers", [(("ETag", '"v1"'),), ()], ids=["with a validator", "without"])
def test_a_home_that_is_frozen_in_the_middle_of_a_body(
    start_fleet: Callable[..., Fleet], origin: Origin, headers: tuple[tuple[str, str], ...]
) -> None:
    """The rest comes from the origin, long before `origin_timeout`."""
    nodes = start_fleet(2, cache_peer_timeout=1, origin_timeout=200)
    gate = Gate()
    size, half = 400_000, 200_000
    for number in range(50):
        url = origin.serve(
            f"/{number}",
            Reply(size=size, body_gate=gate, gate_at=half).with_headers(("Cache-Control", "max-age=60"), *headers),
        )
        fetch = nodes[0].start_get(url, expect=size)
        fetch.received(half)
        if nodes[1].value("origin_fetches_in_flight"):
            break
        fetch.leave()
    nodes[1].signal(signal.SIGSTOP)
    gate.open()
    try:
        assert fetch.result(60).ok
    finally:
        nodes[1].signal(signal.SIGCONT)


def test_a_silent_origin_is_no_reason_to_give_the_home_up(start_fleet: Callable[..., Fleet], origin: Origin) -> None:
    nodes = start_fleet(2, cache_peer_timeout=1)
    gate = Gate()
    size, half = 400_000, 200_000
    url = origin.serve("/slow", Reply(size=size, body_gate=gate, gate_at=half))
    fetches = [node.start_get(url, expect=size) for node in nodes]
    for fetch in fetches:
        fetch.received(half)
    home = next(node for node in nodes if node.value("origin_fetches_in_flight"))
    home.eventually(lambda: home.text().count("/slow 504 "), lambda count: count >= 2)  # it was asked, and was there
    gate.open()
    assert all(response.ok for response in results(fetches))
    assert origin.count("/slow") == 1
