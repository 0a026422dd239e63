"""A storm on a fleet in which everything that the dashboard shows happens: hits, joined misses, a queue, retries,
clients that leave, requests past the cache, tunnels, peers."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence

from .agents import Wire, results
from .origin import Echo, Gate, Origin, Reply
from .proxy import Proxy

FRESH = ("Cache-Control", "public, max-age=3600")
SLOTS = 2
"""``origin_max_in_flight`` of each node, so that there is a queue."""
KEYS = 8


class Storm:
    """Wave after wave, each with other keys. No wave ends before its requests have ended."""

    def __init__(self, nodes: Sequence[Proxy], origin: Origin, echo: Echo) -> None:
        self._nodes = nodes
        self._origin = origin
        self._echo = echo
        self._serial = itertools.count()

    def wave(self) -> None:
        wave, origin = next(self._serial), self._origin
        gate = Gate()
        stored = Reply(size=20_000, gate=gate).with_headers(FRESH)
        urls = [origin.serve(f"/{wave}/{number}", stored) for number in range(KEYS)]
        fetches = [node.start_get(url) for node in self._nodes for url in urls for _ in range(3)]
        leaving = self._nodes[0].start_get(urls[0])
        self._nodes[0].eventually(
            lambda: sum(node.value("origin_fetches_queued") for node in self._nodes), lambda queued: queued > 0
        )
        leaving.leave()
        gate.open()
        assert all(response.ok for response in results(fetches))
        for node in self._nodes:
            for url in urls * 4:
                assert node.get(url).ok
        self._past_the_cache(wave)

    def _past_the_cache(self, wave: int) -> None:
        node, origin = self._nodes[wave % len(self._nodes)], self._origin
        assert node.get(origin.serve(f"/{wave}/flaky", Reply(status=503), Reply(size=1000))).ok
        assert node.get(origin.serve(f"/{wave}/own", Reply(size=1000, headers=(("Cache-Control", "no-store"),)))).ok
        assert node.request("POST", origin.url(f"/{wave}/post"), body=b"x" * 1000).ok
        with Wire(node.address) as wire:
            wire.send(f"CONNECT {self._echo.netloc} HTTP/1.1\r\nHost: {self._echo.netloc}\r\n\r\n")
            assert wire.head()[0] == 200
            wire.send(b"x" * 1000)
            wire.socket.shutdown(socket.SHUT_WR)
            wire.until(Echo.GOODBYE)
