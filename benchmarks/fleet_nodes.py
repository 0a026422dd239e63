"""Who takes part in the benchmark of a fleet: nodes, a bucket, and a client that waits for first bytes."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from processes import ROOT, Mitmdump, Server, fetch, free_port, pinned

sys.path.insert(0, str(ROOT))

from proxy_cache.upstream.peers.peer import Peer
from proxy_cache.upstream.peers.ranking import Ranking

LATER = ROOT / "benchmarks" / "an_hour_later.py"
CACHE_SIZE = "2g"


class Node(Mitmdump):
    """One of our proxies, and the URLs that are asked of it."""

    def __init__(
        self,
        name: str,
        folder: Path,
        core: int | None,
        port: int,
        more: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.metrics_port = free_port()
        metrics = f"metrics_listen=127.0.0.1:{self.metrics_port}"
        arguments = ["-s", str(ROOT / "addons" / "cache.py"), *more]
        for option in (f"cache_dir={folder / name}", f"cache_max_size={CACHE_SIZE}", metrics):
            arguments += ["--set", option]
        super().__init__(name, arguments, folder / f"conf-{name}", core, port)
        self.environment |= environment or {}

    def asked(self) -> Counter[str]:
        """How often it has asked a peer so far, by what came of it: ``hit``, ``miss``, ``timeout``, …"""
        text = fetch(self.metrics_port, "/metrics")[1].decode()
        counts = re.findall(r'^cache_proxy_peer_fetches_total\{outcome="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return Counter({outcome: round(float(count)) for outcome, count in counts})

    def uploads(self) -> Counter[str]:
        """What became of responses that were to be written to the bucket so far, and how many are ``waiting``."""
        text = fetch(self.metrics_port, "/metrics")[1].decode()
        counts = re.findall(r'^cache_proxy_shared_writes_total\{outcome="(\w+)"\} (\S+)$', text, re.MULTILINE)
        waiting = re.findall(r"^cache_proxy_(shared_queued)() (\S+)$", text, re.MULTILINE)
        found = Counter({outcome: round(float(count)) for outcome, count in counts})
        found["waiting"] = sum(round(float(count)) for *_, count in waiting)
        return found

    def left_alone(self) -> str:
        """Which peers it leaves alone now, and why."""
        peers = json.loads(fetch(self.metrics_port, "/status")[1]).get("peers", ())
        return ", ".join(f"{peer['url']} is {peer['state']}: {peer['reason']}" for peer in peers if peer["reason"])


class Fleet:
    """Two nodes: the one that clients ask, and the home of what they ask it for."""

    def __init__(self, name: str, folder: Path, cores: Cores, *, is_later: bool, keep: str = "always") -> None:
        self.name = name
        token = folder / f"token-{name}"
        token.write_text(secrets.token_hex(16))
        ports = free_port(), free_port()
        self.peers = [Peer("http", "127.0.0.1", port) for port in ports]
        more = ["-s", str(LATER)] if is_later else []
        options = [*(f"cache_peers={peer}" for peer in self.peers), f"cache_peer_token_file={token}"]
        for option in [*options, f"cache_peer_keep={keep}"]:
            more += ["--set", option]
        self.asking = Node(f"{name}-asking", folder, cores.proxy, ports[0], more)
        self.home = Node(f"{name}-home", folder, cores.home, ports[1], more)
        self._ranking = Ranking(self.peers)

    def with_home(self, urls: Iterator[str], node: Node) -> Iterator[str]:
        """Those of ``urls`` whose home it is."""
        return (url for url in urls if self._home(url).port == node.port)

    def _home(self, url: str) -> Peer:
        peer = self._ranking.home(url)
        assert peer is not None
        return peer


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the processes run; ``None``: anywhere."""

    count: int
    proxy: int | None
    """The node that is asked."""
    home: int | None
    other: int | None
    """The origin and the clients."""

    @classmethod
    def here(cls) -> Self:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return cls(1, None, None, None)
        return cls(len(cores), cores[0], cores[2] if len(cores) > 2 else cores[0], cores[1])

    def __str__(self) -> str:
        if self.count > 2:
            return "The home has a core of its own: the rate of peer hits is what the node that asks can do."
        return "The home has the same core as the node that asks: the rate of peer hits is that of both together."


class Bucket(Server):
    """An S3 API with one bucket (moto's), as somebody else's machine would have it."""

    NAME = "shared"

    def __init__(self, core: int | None) -> None:
        port = free_port()
        command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        super().__init__("moto", pinned(core, command), port)
        self.credentials = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def create(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("PUT", f"/{self.NAME}")
        if (status := connection.getresponse().status) != 200:
            raise SystemExit(f"no bucket: {status}")
        connection.close()


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def first_byte(self, url: str, size: int) -> float:
        """Seconds to the first byte of a response, which must be 200 with ``size`` bytes. It is read to its end."""
        request = f"GET {url} HTTP/1.1\r\nHost: {url.split('/')[2]}\r\n\r\n".encode()
        started = time.perf_counter()
        self._socket.sendall(request)
        received = self._socket.recv(65536)
        seconds = time.perf_counter() - started
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{url}: {head[:100]!r}")
        left = size - len(body)
        while left > 0:
            left -= len(self._more())
        return seconds

    def _more(self) -> bytes:
        received = self._socket.recv(262144)
        if not received:
            raise SystemExit("a response broke off")
        return received
