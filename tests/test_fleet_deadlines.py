"""What peers that fail may cost a request: docs/fleet.md, "When peers fail"."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import results
from tests.support.origin import Gate, Origin, Reply

from .test_fleet import BadPeer, fleet

TIMEOUT = 1
"""``cache_peer_timeout``, seconds."""
TWO_FAIL = 2 * (0.2 + TIMEOUT)
"""Seconds that the two peers that a request meets may take."""
A_BODY_STOPS = 2 * TIMEOUT + (0.2 + TIMEOUT)
"""Seconds until a body that stops is given up: it is asked after one or two of them whether it is still there."""
BUSY = 20.0
"""Seconds that a busy machine may add. What has no deadline takes longer than any test."""
AT_ONCE = 24
"""Requests that the agents of a node have under way."""


def test_everything_bad_at_once_in_the_middle_of_500_misses(tmp_path: Path, origin: Origin) -> None:
    """One peer is killed, one frozen, each in the middle of a long body too, and three answer in their own way: no
    client gets anything but the origin's, nor waits longer than is documented."""
    size, half = 400_000, 200_000
    with contextlib.ExitStack() as stack:
        bad = [stack.enter_context(BadPeer(how)) for how in ("garbage", "short", "another key")]
        for one in bad:
            one.size_of = lambda key: size if "/home/" in key else 1000 + int(key.rpartition("/")[2])
        also = [f"http://{one.netloc}" for one in bad]
        nodes = stack.enter_context(fleet(tmp_path, also=also, cache_peer_timeout=TIMEOUT, origin_timeout=200))
        long, gate, began = [], Gate(), time.monotonic()
        for number in (1, 2):
            path = nodes.path_with_home(number, origin)
            headers = ("Cache-Control", "max-age=60"), ("ETag", '"v1"')
            url = origin.serve(path, Reply(size=size, body_gate=gate, gate_at=half, headers=headers))
            long.append(nodes[0].start_get(url, expect=size))
        for fetch in long:
            fetch.received(half)
        assert all(node.value("origin_fetches_in_flight") == 1 for node in nodes[1:])
        urls = [origin.serve(f"/{number}", Reply(size=1000 + number)) for number in range(500)]
        fetches: list[Any] = []
        try:
            for number, url in enumerate(urls):
                if number == 200:
                    nodes[1].kill9()
                    nodes[2].signal(signal.SIGSTOP)
                    gate.open()
                    quiet = time.monotonic() - began
                if number >= AT_ONCE:
                    fetches[number - AT_ONCE].result(120)
                fetches.append(nodes[0].start_get(url, expect=1000 + number))
            responses, long_ones = results(fetches, 120), results(long, 120)
        finally:
            nodes[2].signal(signal.SIGCONT)
        assert all(response.ok for response in responses), [response for response in responses if not response.ok][:3]
        assert all(response.ok for response in long_ones), long_ones
        longest = max(response.total for response in responses)
        interrupted = max(response.total for response in long_ones) - quiet
        print(f"the longest took {longest:.2f} s, and {interrupted:.2f} s after it was interrupted")
        assert longest < TWO_FAIL + BUSY
        assert interrupted < A_BODY_STOPS + BUSY
        assert all(nodes[0].get(url, expect=1000 + number).ok for number, url in enumerate(urls))
        left_alone = nodes[0].text().count("is left alone for a while")
        assert 4 <= left_alone < 50, nodes[0].text()  # a readable log


@pytest.mark.parametrize("mode", ["home", "sibling"])
def test_a_request_meets_at_most_two_peers_that_fail(tmp_path: Path, origin: Origin, mode: str) -> None:
    """However many there are: of five that say nothing, two cost it their time, and then the origin is asked."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(BadPeer("silent")) for _ in range(5)]
        also = [f"http://{one.netloc}" for one in silent]
        (node,) = stack.enter_context(fleet(tmp_path, 1, also, cache_peer_timeout=TIMEOUT, cache_peer_mode=mode))
        response = node.get(origin.serve("/x", Reply()), expect=1000)
        assert response.ok
        assert sum(one.asked for one in silent) == 2
        assert response.total < TWO_FAIL + BUSY
