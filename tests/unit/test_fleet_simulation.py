"""Fleets of 50 and of 500 nodes, without a socket: the real ranking and the real health, simulated nodes and time.

The rules of the nodes: a miss asks the key's home; a node that is asked by a peer never asks a third, it goes to the
origin itself if it has nothing, whoever the home is by its own list; and a peer's request joins no fill that waits for
a peer. (Requests of clients join any fill.)
"""

from __future__ import annotations

import heapq
import logging
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import TypeAlias

import pytest

from proxy_cache.upstream.peers.health import Attempt, Health
from proxy_cache.upstream.peers.peer import Peer
from proxy_cache.upstream.peers.ranking import Ranking

SIZES = [50, 500]
KEYS = {50: 200_000, 500: 600_000}
"""By the size of a fleet: enough for homes to differ by a few percent at most if they are chosen at random."""
DISAGREEMENT = 30.0
"""Seconds."""
KEYS_AT_ONE = {50: 400, 500: 100}
"""By the size of a fleet: keys of one home in a simulation, which has as many of others."""
CONNECT_TIMEOUT = 0.2
"""Seconds."""


def fleet(size: int) -> list[Peer]:
    """Addresses as a cluster gives them: one after the other."""
    return [Peer("http", f"10.7.{i >> 8}.{i & 255}", 8080) for i in range(size)]


def key(number: int) -> str:
    return f"https://packages.example/simple/{number % 977}/wheel-{number}.whl"


# -- load -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SIZES)
def homes(request: pytest.FixtureRequest) -> tuple[list[Peer], array[int]]:
    """The fleet, and the number of the home of each of these keys, as the product finds it."""
    peers = fleet(request.param)
    numbers = {peer.url: number for number, peer in enumerate(peers)}
    home = Ranking(peers).home
    found = array("H")
    for number in range(KEYS[len(peers)]):
        peer = home(key(number))
        assert peer is not None
        found.append(numbers[peer.url])
    return peers, found


def test_homes_are_spread_evenly(homes: tuple[list[Peer], array[int]]) -> None:
    peers, found = homes
    loads = Counter(found)
    assert sum(loads.values()) == len(found)
    assert len(loads) == len(peers)
    assert max(loads.values()) * len(peers) / len(found) < 1.15
    assert min(loads.values()) * len(peers) / len(found) > 0.85


def test_one_node_that_leaves_moves_its_share_alone(homes: tuple[list[Peer], array[int]]) -> None:
    """All keys that it was the home of, and of the others twenty thousand."""
    peers, found = homes
    gone = 17
    home = Ranking(peers[:gone] + peers[gone + 1 :]).home
    moved = Counter(home(key(number)) for number in range(len(found)) if found[number] == gone)
    for number in range(20_000):
        if found[number] != gone:
            assert home(key(number)) == peers[found[number]]
    assert sum(moved.values()) == pytest.approx(len(found) / len(peers), rel=0.15)
    assert len(moved) > 0.85 * (len(peers) - 1)  # they go to everybody
    assert max(moved.values()) < 3 * sum(moved.values()) / (len(peers) - 1) + 3


# -- nodes that disagree --------------------------------------------------------------------------------------------

Answer: TypeAlias = Callable[[bool], None]
"""Called with whether the response has come."""


class Node:
    def __init__(self, peer: Peer, peers: Iterable[Peer], clock: Callable[[], float]) -> None:
        self.peer = peer
        self.ranking = Ranking(peers)
        self.health = Health(clock)
        self.is_alive = True
        self.stored: set[str] = set()
        self.asking: dict[str, list[Answer]] = {}
        """Fills that wait for a peer, with those who wait for them."""
        self.fetching: dict[str, list[Answer]] = {}
        """Fills at the origin."""

    def next_peer(self, key: str) -> Attempt | None:
        """The first in rank that isn't left alone; ``None`` if that is this node."""
        for peer in self.ranking.ranked(key):
            if peer == self.peer:
                return None
            attempt = self.health.attempt(peer)
            if attempt is not None:
                return attempt
        return None


class Fleet:
    """Nodes, and events in the order of their times."""

    def __init__(self, peers: Iterable[Peer], *, peers_join_anything: bool = False) -> None:
        self.now = 0.0
        self.random = random.Random(19)
        peers = tuple(peers)
        self.nodes = {peer.url: Node(peer, peers, lambda: self.now) for peer in peers}
        self.peers_join_anything = peers_join_anything
        self.fetches: Counter[str] = Counter()
        """Of the origin, by key."""
        self.asked = self.answered = self.lost = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def after(self, low: float, high: float, event: Callable[[], None]) -> None:
        self.at(self.now + self.random.uniform(low, high), event)

    def run(self) -> None:
        """Until nothing happens any more."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()

    # -- clients ----------------------------------------------------------------------------------------------------

    def ask(self, keys: Iterable[str], times: int, seconds: float) -> None:
        """Each key so many times within so many seconds, at any nodes: half of them in bursts."""
        nodes = list(self.nodes.values())
        for one in keys:
            burst = self.random.uniform(0, seconds)
            for number in range(times):
                time = burst + self.random.uniform(0, 0.1) if number % 2 else self.random.uniform(0, seconds)
                self.at(time, partial(self._client_asks, self.random.choice(nodes), one))

    def _client_asks(self, node: Node, key: str) -> None:
        if node.is_alive:
            self.asked += 1
            self._request(node, key, False, self._client_is_answered)

    def _client_is_answered(self, has_come: bool) -> None:
        self.answered += has_come
        self.lost += not has_come

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _request(self, node: Node, key: str, from_peer: bool, answer: Answer) -> None:
        if key in node.stored:
            answer(True)
        elif key in node.fetching:
            node.fetching[key].append(answer)
        elif key in node.asking and (not from_peer or self.peers_join_anything):
            node.asking[key].append(answer)
        elif not from_peer and (attempt := node.next_peer(key)) is not None:
            node.asking[key] = [answer]
            self._ask_peer(node, key, attempt)
        else:
            self._fetch(node, key, [answer])

    def _ask_peer(self, node: Node, key: str, attempt: Attempt) -> None:
        peer = self.nodes[attempt.peer.url]
        came = partial(self._came_from_peer, node, key, attempt)

        def arrives() -> None:
            if peer.is_alive:
                self._request(peer, key, True, lambda has_come: self.after(0.001, 0.05, partial(came, has_come)))
            else:
                self.after(CONNECT_TIMEOUT, CONNECT_TIMEOUT, partial(came, False))

        self.after(0.001, 0.05, arrives)

    def _came_from_peer(self, node: Node, key: str, attempt: Attempt, has_come: bool) -> None:
        if not node.is_alive:
            return
        with attempt:
            if has_come:
                attempt.worked()
                self._store(node, key)
                return
            attempt.failed("no connection")
        if key not in node.asking:
            return  # a fill for a peer has brought it
        following = node.next_peer(key)
        if following is not None:
            self._ask_peer(node, key, following)
        elif key in node.fetching:
            node.fetching[key] += node.asking.pop(key)
        else:
            self._fetch(node, key, node.asking.pop(key))

    def _fetch(self, node: Node, key: str, waiters: list[Answer]) -> None:
        node.fetching[key] = waiters
        self.fetches[key] += 1
        self.after(0.05, 3, partial(self._store, node, key))

    def _store(self, node: Node, key: str) -> None:
        if node.is_alive:
            node.stored.add(key)
            for answer in node.fetching.pop(key, []) + node.asking.pop(key, []):
                answer(True)

    def kill(self, node: Node) -> None:
        node.is_alive = False
        waiting = [*node.fetching.values(), *node.asking.values()]
        node.fetching, node.asking = {}, {}
        for answers in waiting:
            for answer in answers:
                answer(False)

    @property
    def stuck(self) -> int:
        """Fills that never ended."""
        return sum(len(node.asking) + len(node.fetching) for node in self.nodes.values())


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL):
        yield


def keys_at(peers: list[Peer], home: Peer, size: int) -> list[str]:
    """Keys of that home, and as many of any."""
    ranking = Ranking(peers)
    theirs = [one for one in map(key, range(size * len(peers) * 2)) if ranking.home(one) == home][:size]
    assert len(theirs) == size
    return [*theirs, *map(key, range(-size, 0))]


@pytest.mark.parametrize("size", SIZES)
def test_while_half_of_the_nodes_know_a_new_one_a_key_is_fetched_at_most_twice(size: int) -> None:
    peers = fleet(size)
    new = peers[-1]
    simulation = Fleet(peers)
    nodes = list(simulation.nodes.values())
    ignorant = simulation.random.sample(nodes[:-1], size // 2)
    for node in ignorant:
        node.ranking = Ranking(peers[:-1])
    told = Ranking(peers)
    for node in ignorant:
        simulation.at(DISAGREEMENT, partial(setattr, node, "ranking", told))
    keys = keys_at(peers, new, number := KEYS_AT_ONE[size])
    simulation.ask(keys, 40, 2 * DISAGREEMENT)
    simulation.run()
    assert simulation.stuck == 0
    assert simulation.answered == simulation.asked == 40 * len(keys)
    assert set(simulation.fetches) == set(keys)
    assert max(simulation.fetches.values()) == 2  # by its home before, and by the new one
    assert sum(simulation.fetches[one] for one in keys[number:]) < 1.1 * number  # keys of others are as ever


@pytest.mark.parametrize("size", SIZES)
def test_while_half_of_the_nodes_still_ask_one_that_was_killed_a_key_is_fetched_at_most_twice(size: int) -> None:
    peers = fleet(size)
    simulation = Fleet(peers)
    gone = simulation.nodes[peers[5].url]
    others = [peer for peer in peers if peer != gone.peer]
    for number, node in enumerate(simulation.nodes.values()):
        time = 10.0 if number % 2 else 10.0 + DISAGREEMENT
        simulation.at(time, partial(setattr, node, "ranking", Ranking(others)))
    simulation.at(10.0, partial(simulation.kill, gone))
    keys = keys_at(peers, gone.peer, KEYS_AT_ONE[size])
    simulation.ask(keys, 40, 2 * DISAGREEMENT)
    simulation.run()
    assert simulation.stuck == 0
    assert simulation.answered + simulation.lost == simulation.asked
    assert simulation.lost <= 0.01 * simulation.asked  # clients of the one that was killed
    assert max(simulation.fetches.values()) == 2  # by the one that was killed, and by the second in rank


def nodes_without_sense(**how: bool) -> Fleet:
    """Each node knows some others and not itself, so any two or more may each take another one for the home."""
    peers = fleet(50)
    simulation = Fleet(peers, **how)
    for node in simulation.nodes.values():
        others = [peer for peer in peers if peer != node.peer]
        node.ranking = Ranking(simulation.random.sample(others, simulation.random.randint(1, 25)))
    simulation.ask(map(key, range(400)), 40, DISAGREEMENT)
    simulation.run()
    return simulation


def test_nodes_never_wait_for_each_other_whatever_their_lists_say() -> None:
    simulation = nodes_without_sense()
    assert simulation.stuck == 0
    assert simulation.answered == simulation.asked


def test_nodes_would_wait_for_each_other_if_peers_joined_fills_that_wait_for_peers() -> None:
    """The rule is needed, and the simulation would show it."""
    assert nodes_without_sense(peers_join_anything=True).stuck > 0
