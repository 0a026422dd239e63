"""Who the peers are: fixed ones, those of a name, those of a file; and which of them is this proxy."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.upstream import names
from proxy_cache.upstream.names import Names
from proxy_cache.upstream.peers import dns_discovery, file_discovery, local, peer_list
from proxy_cache.upstream.peers.listings import parse_peer
from proxy_cache.upstream.peers.peer_list import PeerList
from tests.support.tasks import until

AGAIN: Any = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
UNKNOWN: Any = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
HERE = [("", 8080)]


class NameServer:
    """Replaces ``socket.getaddrinfo``, which asks the machine."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        """By name: addresses, or an error; by family, if it is a dictionary."""
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, family: int = 0, *_: Any) -> list[Any]:
        self.asked.append(host)
        answer = self.answers.get(host, UNKNOWN)
        if isinstance(answer, dict):
            answer = answer[family]
        if isinstance(answer, Exception):
            raise type(answer)(*answer.args)
        kinds = {one: socket.AF_INET6 if ":" in one else socket.AF_INET for one in answer}
        found = [
            (kind, socket.SOCK_STREAM, 6, "", (one, port, 0, 3) if ":" in one else (one, port))
            for one, kind in kinds.items()
            if family in (0, kind)
        ]
        if not found:
            raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")  # type: ignore[attr-defined]
        return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    return server


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once, and nothing is cached."""
    for module, name in ((dns_discovery, "EVERY"), (dns_discovery, "FIRST_EVERY"), (file_discovery, "EVERY")):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(peer_list, "FIND_AGAIN", 0.01)
    monkeypatch.setattr(names, "KEPT_FOR", 0)
    monkeypatch.setattr(names, "REFUSED_FOR", 0)


def urls(peers: PeerList) -> list[str]:
    return [peer.url for peer in peers.peers]


def own(peers: PeerList) -> list[str]:
    return [peer.url for peer in peers.peers if peer.is_self]


def run(story: Callable[[PeerList], Awaitable[None]]) -> None:
    """With a list that is stopped afterwards, and leaves no task behind."""

    async def running() -> None:
        peers = PeerList(Names())
        try:
            await story(peers)
        finally:
            await peers.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(running())


async def another_look(watched: PeerList, count: int = 2) -> None:
    """Until all places have been looked at well so many times more."""
    (watch,) = watched._watches.values()
    looks = watch.good_looks
    await until(lambda: watch.good_looks >= looks + count)


def logged(caplog: pytest.LogCaptureFixture, *words: str) -> int:
    return sum(all(word in record.getMessage() for word in words) for record in caplog.records)


# -- fixed peers ----------------------------------------------------------------------------------------------------


def test_fixed_peers_are_there_at_once_and_need_no_task() -> None:
    async def story(peers: PeerList) -> None:
        assert peers.peers == ()
        assert peers.changed_at == -math.inf
        began = time.monotonic()
        peers.configure(["http://127.0.0.1:8080", "http://10.0.0.2:8080", "http://127.0.0.1:8080"], None, HERE)
        assert urls(peers) == ["http://10.0.0.2:8080", "http://127.0.0.1:8080"]
        assert began <= peers.changed_at <= time.monotonic()
        assert peers.ranking.peers == peers.peers
        peers.start()
        await peers.first_look()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert "http://127.0.0.1:8080 (this proxy)" in repr(peers)

    run(story)


def test_a_wrong_value_changes_nothing() -> None:
    async def story(peers: PeerList) -> None:
        peers.configure(["http://10.0.0.2:8080"])
        with pytest.raises(ValueError, match="'http://a': it has no port"):
            peers.configure(["http://10.0.0.3:8080", "http://a"])
        assert urls(peers) == ["http://10.0.0.2:8080"]

    run(story)


def test_who_is_told_of_changes_is_told_of_nothing_else() -> None:
    async def story() -> None:
        told: list[list[str]] = []
        peers = PeerList(Names(), lambda: told.append(urls(peers)))
        peers.configure(["http://10.0.0.2:1"])
        peers.configure(["http://10.0.0.2:1"])
        changed_at = peers.changed_at
        peers.configure(["http://10.0.0.2:1", "http://10.0.0.2:1/"], None, HERE)
        assert peers.changed_at == changed_at
        peers.configure([])
        assert told == [["http://10.0.0.2:1"], []]

    asyncio.run(story())


# -- which one is this proxy? ---------------------------------------------------------------------------------------


def test_this_proxy_is_the_one_with_its_address_and_its_port() -> None:
    async def story(peers: PeerList) -> None:
        values = ["http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://198.51.100.1:8080", "http://[::1]:8082"]
        for listening, expected in (
            (HERE, ["http://127.0.0.1:8080"]),
            ([("0.0.0.0", 8081), ("::", 8081)], ["http://127.0.0.1:8081"]),
            ([("127.0.0.1", 8080)], ["http://127.0.0.1:8080"]),
            ([("127.0.0.2", 8080)], []),
            ([("::1", 8082), ("127.0.0.1", 8080)], ["http://127.0.0.1:8080", "http://[::1]:8082"]),
            ([("", 9999)], []),
        ):
            peers.configure(values, None, listening)
            assert own(peers) == expected

    run(story)


def test_addresses_of_this_machine_are_recognised() -> None:
    """Those of its interfaces, too, which nothing but the kernel knows."""
    for address in ("127.0.0.1", "127.8.9.10", "::1", *interface_addresses()):
        assert local.is_local(address), address
    for address in ("198.51.100.1", "203.0.113.7", "2001:db8::7", "0.0.0.0", "::", "224.0.0.1"):
        assert not local.is_local(address), address


def interface_addresses() -> list[str]:
    table = Path("/proc/net/fib_trie").read_text().splitlines()
    return [table[i - 1].split()[-1] for i, line in enumerate(table) if "/32 host LOCAL" in line]


def test_what_the_operator_says_is_this_proxy_and_nothing_else_is() -> None:
    async def story(peers: PeerList) -> None:
        values = ["http://127.0.0.1:8080", "http://node-b:8080"]
        peers.configure(values, parse_peer("http://Node-B:8080/"), HERE)
        peers.start()
        assert own(peers) == ["http://node-b:8080"]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        peers.configure(values, None, HERE)
        assert own(peers) == ["http://127.0.0.1:8080"]

    run(story)


@pytest.mark.parametrize("name", ["localhost", socket.gethostname()])
def test_the_names_of_this_machine_need_no_look_up(server: NameServer, name: str) -> None:
    async def story(peers: PeerList) -> None:
        peers.configure([f"http://{name}:8080", "http://elsewhere:8080"], None, HERE)
        peers.start()
        assert own(peers) == [f"http://{name.lower()}:8080"]

    run(story)
    assert not server.asked


def test_a_name_that_leads_here_is_this_proxy(server: NameServer) -> None:
    server.answers = {"node-a": ["198.51.100.1"], "node-b": AGAIN, "balancer": ["127.0.0.1", "198.51.100.1"]}

    async def story(peers: PeerList) -> None:
        values = ["http://node-a:8080", "http://node-b:8080", "http://balancer:8080", "http://other-port:8081"]
        peers.configure(values, None, HERE)
        peers.start()
        await until(lambda: server.asked.count("node-b") >= 3)
        assert own(peers) == []
        server.answers["node-b"] = ["127.0.0.1", "::1"]
        await until(lambda: own(peers) == ["http://node-b:8080"])
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    run(story)
    assert "other-port" not in server.asked
    assert server.asked.count("node-a") == 1


def test_an_address_that_comes_later_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may be started before the network is up."""
    ours: set[str] = set()
    monkeypatch.setattr(local, "is_local", ours.__contains__)

    async def story(peers: PeerList) -> None:
        peers.configure(["http://198.51.100.1:8080", "http://198.51.100.2:8080"], None, HERE)
        peers.start()
        assert own(peers) == []
        ours.add("198.51.100.2")
        await until(lambda: own(peers) == ["http://198.51.100.2:8080"])

    run(story)


def test_a_list_without_this_proxy_is_told_of_once(server: NameServer, caplog: pytest.LogCaptureFixture) -> None:
    server.answers = {"proxies": ["198.51.100.1", "198.51.100.2"]}

    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies:8080"], None, HERE)
        peers.start()
        await another_look(peers, 6)
        assert logged(caplog, "this proxy is none of the 2 peers", "nobody's home") == 1
        server.answers["proxies"] = ["198.51.100.1", "127.0.0.1"]
        await until(lambda: own(peers))
        peers.configure(["http://198.51.100.1:8080"], parse_peer("http://node-a:8080"), HERE)
        assert logged(caplog, "http://node-a:8080 (cache_peer_self) is none of the 1 peers") == 1

    run(story)
    assert logged(caplog, "nobody's home") == 2


def test_a_list_with_this_proxy_is_not_told_of(server: NameServer, caplog: pytest.LogCaptureFixture) -> None:
    """Nor one that has just been read and will have it in a moment: a pod's own address is listed when it is ready."""
    server.answers = {"proxies": ["198.51.100.1"]}

    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies:8080"])  # before anything listens
        peers.start()
        await until(lambda: peers.peers)
        peers.configure(["dns://proxies:8080", "http://127.0.0.1:8080"], None, HERE)
        await peers.first_look()

    run(story)
    assert not logged(caplog, "nobody's home")


# -- names ----------------------------------------------------------------------------------------------------------


def test_all_addresses_of_a_name_are_peers(server: NameServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.answers = {"proxies.example.": ["127.0.0.1", "198.51.100.1", "2001:db8::1", "::1", "fe80::1", "0.0.0.0"]}

    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies.example.:8080"], None, HERE)
        assert peers.peers == ()
        peers.start()
        await peers.first_look()
        assert urls(peers) == [f"http://{one}:8080" for one in ("127.0.0.1", "198.51.100.1", "[2001:db8::1]", "[::1]")]
        assert own(peers) == ["http://127.0.0.1:8080", "http://[::1]:8080"]
        changed_at = peers.changed_at
        await another_look(peers)
        assert peers.changed_at == changed_at
        server.answers["proxies.example."] = ["127.0.0.1", "198.51.100.3"]
        await until(lambda: urls(peers) == ["http://127.0.0.1:8080", "http://198.51.100.3:8080"])
        assert peers.changed_at > changed_at

    run(story)
    assert logged(caplog, "2 peers, this proxy is http://127.0.0.1:8080", "new: http://198.51.100.3:8080", "gone:") == 1


@pytest.mark.parametrize("trouble", [AGAIN, UNKNOWN, [], ["0.0.0.0"], ValueError("what is this?")], ids=repr)
def test_the_last_list_is_kept_when_a_name_has_no_addresses(
    server: NameServer, caplog: pytest.LogCaptureFixture, trouble: Any
) -> None:
    caplog.set_level(logging.INFO)
    server.answers = {"proxies": ["198.51.100.1", "2001:db8::1"]}

    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies:8080"])
        peers.start()
        await peers.first_look()
        before = peers.peers
        assert len(before) == 2
        server.answers["proxies"] = trouble
        looks = len(server.asked)
        await until(lambda: len(server.asked) > looks + 10)
        assert peers.peers == before
        server.answers["proxies"] = ["198.51.100.1"]
        await until(lambda: len(peers.peers) == 1)

    run(story)
    assert logged(caplog, "peers of dns://proxies:8080", "the last list is kept (2)") == 1
    assert logged(caplog, "peers of dns://proxies:8080", "well again") == 1


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["A", "AAAA"])
def test_a_server_that_fails_for_one_kind_of_address_takes_none_of_either(
    server: NameServer, caplog: pytest.LogCaptureFixture, family: int
) -> None:
    caplog.set_level(logging.INFO)
    both: dict[int, Any] = {socket.AF_INET: ["198.51.100.1"], socket.AF_INET6: ["2001:db8::1"]}
    other = ({*both} - {family}).pop()
    server.answers = {"proxies": both}

    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies:8080"])
        peers.start()
        await until(lambda: len(peers.peers) == 2)
        server.answers["proxies"] = {family: AGAIN, other: [*both[other], "198.51.100.9", "2001:db8::9"]}
        await until(lambda: len(peers.peers) == 3)
        await another_look(peers)
        assert logged(caplog, "of one kind of address: Temporary failure") == 1
        server.answers["proxies"] = {family: [], other: both[other]}  # it says that there are none: that is an answer
        await until(lambda: len(peers.peers) == 1)

    run(story)
    assert logged(caplog, "well again") == 1


def test_a_name_that_is_unknown_at_the_start_holds_nobody_up(
    server: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies:8080", "http://198.51.100.7:8080"])
        peers.start()
        await peers.first_look()
        assert urls(peers) == ["http://198.51.100.7:8080"]
        server.answers["proxies"] = ["198.51.100.1"]
        await until(lambda: len(peers.peers) == 2)

    run(story)
    assert logged(caplog, "Name or service not known; there are none until it says some") == 1


# -- files ----------------------------------------------------------------------------------------------------------


def write(path: Path, *targets: str) -> None:
    """As tools do it: a new file takes the place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps([{"targets": targets}]))
    os.replace(new, path)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "my peers.json"
    write(path, "198.51.100.1:8080", "127.0.0.1:8080")

    async def story(peers: PeerList) -> None:
        peers.configure([path.as_uri()], None, HERE)
        peers.start()
        await peers.first_look()
        assert urls(peers) == ["http://127.0.0.1:8080", "http://198.51.100.1:8080"]
        assert own(peers) == ["http://127.0.0.1:8080"]
        for targets in (["198.51.100.1:8080"], ["198.51.100.2:8080"], []):
            write(path, *targets)
            await until(lambda expected=targets: urls(peers) == [f"http://{one}" for one in expected])  # type: ignore[misc]
        path.write_text('- targets: ["198.51.100.3:8080"]')
        await asyncio.sleep(0)
        write(path, "198.51.100.4:8080")
        await until(lambda: urls(peers) == ["http://198.51.100.4:8080"])

    run(story)


def test_a_file_that_has_not_changed_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "peers.yml"
    write(path, "198.51.100.1:8080")
    read: list[bytes] = []
    parse = file_discovery.parse
    monkeypatch.setattr(file_discovery, "parse", lambda data, **how: (read.append(data), parse(data, **how))[1])

    async def story(peers: PeerList) -> None:
        peers.configure([path.as_uri()])
        peers.start()
        await another_look(peers, 5)
        assert len(read) == 1
        path.write_text("[")
        await until(lambda: len(read) == 2)
        watch = next(iter(peers._watches.values()))
        await until(lambda: watch.trouble.reason)
        for _ in range(5):
            watch.looked.clear()
            await watch.looked.wait()
        assert len(read) == 2

    run(story)


def _remove(path: Path) -> None:
    path.unlink()


def _unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _truncate(path: Path) -> None:
    path.write_text("")


def _half(path: Path) -> None:
    path.write_text('[{"targets": ["198.51.100.9:8080"')


def _one_wrong(path: Path) -> None:
    path.write_text('[{"targets": ["198.51.100.9:8080", "198.51.100.10"]}]')


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_remove, "No such file"),
        (_unreadable, "s a directory|not a file"),
        (_pipe, "not a file"),
        (_truncate, "empty"),
        (_half, "not JSON"),
        (_one_wrong, "no port"),
    ],
)
def test_the_last_good_content_of_a_file_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], reason: str
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "peers.json"
    write(path, "198.51.100.1:8080", "198.51.100.2:8080")

    async def story(peers: PeerList) -> None:
        peers.configure([path.as_uri()])
        peers.start()
        await peers.first_look()
        before = peers.peers
        spoil(path)
        watch = next(iter(peers._watches.values()))
        await until(lambda: watch.trouble.reason)
        for _ in range(5):
            watch.looked.clear()
            await watch.looked.wait()
        assert peers.peers == before
        if path.is_dir():
            path.rmdir()
        write(path, "198.51.100.3:8080")
        await until(lambda: urls(peers) == ["http://198.51.100.3:8080"])

    run(story)
    starts = [record.getMessage() for record in caplog.records if "the last list is kept (2)" in record.getMessage()]
    assert len(starts) == 1
    assert re.search(reason, starts[0])
    assert logged(caplog, "peers.json: well again") == 1


# -- new settings while running -------------------------------------------------------------------------------------


def test_new_settings_keep_what_was_found_at_the_places_that_stay(server: NameServer, tmp_path: Path) -> None:
    server.answers = {"proxies": ["198.51.100.1"]}
    path = tmp_path / "peers.json"
    write(path, "198.51.100.2:8080")

    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies:8080"])
        peers.start()
        await peers.first_look()
        server.answers["proxies"] = AGAIN
        peers.configure(["dns://proxies:8080", path.as_uri(), "http://198.51.100.3:8080"])
        assert urls(peers) == ["http://198.51.100.1:8080", "http://198.51.100.3:8080"]
        await peers.first_look()
        assert urls(peers) == [f"http://198.51.100.{one}:8080" for one in (1, 2, 3)]
        peers.configure([path.as_uri()])
        assert urls(peers) == ["http://198.51.100.2:8080"]
        asked = len(server.asked)
        await another_look(peers, 4)
        assert len(server.asked) <= asked + 2  # those that were under way
        peers.configure([])
        assert peers.peers == ()
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    run(story)


def test_the_same_peer_from_two_places_is_one(server: NameServer, tmp_path: Path) -> None:
    server.answers = {"proxies": ["198.51.100.1", "198.51.100.2"]}
    path = tmp_path / "peers.json"
    write(path, "198.51.100.2:8080", "198.51.100.1:8081")

    async def story(peers: PeerList) -> None:
        peers.configure(["dns://proxies:8080", path.as_uri(), "http://198.51.100.1:8080"])
        peers.start()
        await peers.first_look()
        assert urls(peers) == ["http://198.51.100.1:8080", "http://198.51.100.1:8081", "http://198.51.100.2:8080"]

    run(story)
