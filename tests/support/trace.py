"""The way of a request through the files, as it really is: ``just trace`` prints the functions that a hit, a small miss
with three waiters, a range with gaps and a queued client that leaves go through.

Each function is listed once, where it is first called; a line is one stay in a file. Calls are counted, which shows
what a change costs on a busy machine, too. What only looks in from outside (``/status``) is left out. CONTRIBUTING.md
has the short form: bring it up to date with this.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from .origin import PATIENCE, Gate, Origin, Reply
from .proxy import SCRIPTS, Proxy
from .scripted import ThreadedOrigin

Called = list[tuple[str, str, int]]
"""Files below ``proxy_cache``, functions in them, and how often they were called."""
LOOKS_IN = re.compile(r"\.snapshot$|<\w+>$").search
"""Functions not worth a word: those of ``/status``, comprehensions and lambdas."""


class Trace:
    """Asks the script in the proxy what was called."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.port = int(proxy.wait_for_log(r"calls are told on port (\d+)", since=0)[1])
        self.noise: frozenset[tuple[str, str]] = frozenset()
        looked = self.of(lambda: (proxy.status(), proxy.metrics()))
        self.noise = frozenset((file, function) for file, function, _ in looked)

    def of(self, story: Callable[[], object]) -> Called:
        """What is called while ``story`` runs."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection,
            connection.makefile() as told,
        ):
            connection.sendall(b"begin\n")
            told.readline()
            story()
            connection.sendall(b"end\n")
            called = [(file, function, count) for file, function, count in json.loads(told.readline())]
        return [one for one in called if one[:2] not in self.noise and not LOOKS_IN(one[1])]


class Client:
    """A connection to the proxy that stays open."""

    def __init__(self, proxy: Proxy) -> None:
        self.connection = http.client.HTTPConnection(*proxy.address, timeout=60)
        self.connection.connect()

    def ask(self, url: str, **fields: str) -> None:
        self.connection.request("GET", url, headers=fields)

    def answer(self) -> int:
        response = self.connection.getresponse()
        response.read()
        return response.status

    def get(self, url: str, **fields: str) -> int:
        self.ask(url, **fields)
        return self.answer()

    def leave(self) -> None:
        self.connection.close()


def hit(proxy: Proxy, origin: Origin, trace: Trace) -> Called:
    """Asked for on a connection that has asked for it before."""
    url, client = origin.serve("/hit", Reply(size=1000)), Client(proxy)
    for _ in range(3):
        client.get(url)
        proxy.settled()
    client.get(url)
    return trace.of(lambda: (client.get(url), proxy.settled()))


class AtOnce(ThreadedOrigin):
    """An origin that sends head and body in one piece, of 10 kB; of ``/miss`` when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()

    def _serve(self, connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\nCache-Control: max-age=3600\r\n\r\n"
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                while stream.readline() != b"\r\n":
                    pass
                if b"/miss" in line:
                    self.may_go.wait(PATIENCE)
                connection.sendall(head + bytes(10_000))


def miss(proxy: Proxy, _: Origin, trace: Trace) -> Called:
    """10 kB, by connections that are open, from an origin that has one open to us; stored."""
    with AtOnce() as origin:
        url = f"http://{origin.netloc}"
        clients = [Client(proxy) for _ in range(4)]
        for client in clients:
            client.get(f"{url}/other")
        proxy.settled()

        def story() -> None:
            for client in clients:
                client.ask(f"{url}/miss")
            proxy.wait_for_waiters(4)
            origin.may_go.set()
            assert [client.answer() for client in clients] == [200] * 4
            proxy.settled()

        called = trace.of(story)
        assert origin.connections == 1
        return called


def gaps(proxy: Proxy, origin: Origin, trace: Trace) -> Called:
    """Of four blocks the second is stored."""
    headers = (("Cache-Control", "max-age=3600"), ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))
    url, client = origin.serve("/object", Reply(size=1_000_000, headers=headers)), Client(proxy)
    assert client.get(url, Range="bytes=70000-70099") == 206
    proxy.settled()
    return trace.of(lambda: (client.get(url, Range="bytes=1000-199999"), proxy.settled()))


def leaves(proxy: Proxy, origin: Origin, trace: Trace) -> Called:
    """Its fill waits for the only slot."""
    assert proxy.set_option("origin_max_in_flight=1") == "ok"
    gate = Gate()
    first, queued = Client(proxy), Client(proxy)
    first.ask(origin.serve("/held", Reply(gate=gate)))
    origin.wait_for("/held")
    url = origin.serve("/queued", Reply())

    def story() -> None:
        queued.ask(url)
        proxy.wait_for_metric("origin_fetches_queued", 1)
        queued.leave()
        proxy.eventually(lambda: proxy.status()["requests_in_flight"], lambda count: count == 1)

    called = trace.of(story)
    gate.open()
    assert first.answer() == 200
    return called


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="proxy-cache-trace-") as folder, Origin() as origin:
        options = {"cache_block_size": "64k", "cache_fill_whole": 0, "cache_verify_rate": 0}
        with Proxy(Path(folder), control=True, scripts=[SCRIPTS / "calls.py"], execute=True, **options) as proxy:
            trace = Trace(proxy)
            for title, story in (
                ("A hit", hit),
                ("A miss of 10 kB, with three waiters", miss),
                ("A range with gaps", gaps),
                ("A queued client that leaves", leaves),
            ):
                called = story(proxy, origin, trace)
                files, calls = len({file for file, _, _ in called}), sum(count for _, _, count in called)
                print(f"\n{title}: {files} files, {len(called)} functions, {calls} calls\n")
                for file, stay in itertools.groupby(called, key=lambda one: one[0]):
                    print(f"    {file}: {', '.join(function for _, function, _ in stay)}")


if __name__ == "__main__":
    main()
