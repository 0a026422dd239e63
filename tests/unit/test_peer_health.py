"""Peers that fail are left alone for a while, and one request finds out whether they are back."""

from __future__ import annotations

import logging
import random

import pytest

from proxy_cache.upstream.peers.health import ALONE_MAX, Attempt, Health
from proxy_cache.upstream.peers.peer import Peer

PEER = Peer("http", "node-b", 8080)
OTHER = Peer("http", "node-c", 8080)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Health:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return Health(clock)


def attempt(health: Health) -> Attempt:
    found = health.attempt(PEER)
    assert found is not None
    return found


def fail(health: Health, reason: str = "no connection within 200 ms") -> None:
    with attempt(health) as one:
        one.failed(reason)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_peer_that_fails_is_left_alone_and_no_other(health: Health, clock: Clock) -> None:
    assert health.is_up(PEER)
    fail(health)
    clock.now += 0.999
    assert not health.is_up(PEER)
    assert health.attempt(PEER) is None
    assert health.is_up(OTHER)
    assert health.attempt(OTHER) is not None
    clock.now += 0.001
    assert health.is_up(PEER)


def test_the_time_doubles_up_to_a_minute(health: Health, clock: Clock) -> None:
    times = []
    for _ in range(30):
        fail(health)
        (state,) = health.states([PEER])
        assert state.next_probe_in is not None
        times.append(state.next_probe_in)
        clock.now += state.next_probe_in
    assert times[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(times[8:]) == {ALONE_MAX}


def test_the_times_of_nodes_differ_and_are_never_longer() -> None:
    clock = Clock()
    times = set()
    for _ in range(50):
        health = Health(clock)
        fail(health)
        times.add(health.states([PEER])[0].next_probe_in)
    assert len(times) > 40
    assert all(0.75 <= time <= 1 for time in times if time is not None)


def test_exactly_one_request_probes(health: Health, clock: Clock) -> None:
    fail(health)
    clock.now += 5
    with attempt(health) as probe:
        assert probe.is_probe
        for _ in range(50):
            assert not health.is_up(PEER)
            assert health.attempt(PEER) is None
        clock.now += 100  # however long that takes
        assert health.attempt(PEER) is None
        probe.worked()
    assert health.is_up(PEER)
    with attempt(health) as first, attempt(health) as second:
        assert not first.is_probe
        assert not second.is_probe


def test_a_probe_that_fails_is_the_only_one_for_twice_the_time(health: Health, clock: Clock) -> None:
    fail(health)
    clock.now += 1
    fail(health)
    clock.now += 1.9
    assert health.attempt(PEER) is None
    clock.now += 0.1
    assert attempt(health).is_probe


def test_a_probe_whose_client_leaves_says_nothing(health: Health, clock: Clock) -> None:
    fail(health)
    clock.now += 1
    with pytest.raises(KeyboardInterrupt), attempt(health):
        raise KeyboardInterrupt
    with attempt(health) as probe:
        assert probe.is_probe
        probe.worked()
    assert health.is_up(PEER)


def test_fifty_requests_that_fail_together_are_one_failure(
    health: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    under_way = [attempt(health) for _ in range(50)]
    for one in under_way[:20]:
        one.failed("connection refused")
    assert health.states([PEER])[0].failures == 1
    under_way[20].worked()  # an answer to one of them is no news either
    assert not health.is_up(PEER)
    clock.now += 1
    with attempt(health) as probe:
        for one in under_way[21:30]:
            one.failed("timeout")
        assert health.attempt(PEER) is None
        probe.worked()
    for one in under_way[30:]:  # they began before it came back
        one.failed("timeout")
    assert health.is_up(PEER)
    assert lines(caplog) == [
        "proxy-cache: peer http://node-b:8080 is left alone for a while: connection refused",
        "proxy-cache: peer http://node-b:8080 is back, after 1 s",
    ]


def test_one_log_line_each_way_however_often_it_is_probed(
    health: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(20):
        fail(health, "first\n line")
        clock.now += 60
    with attempt(health) as probe:
        probe.worked()
    assert lines(caplog) == [
        "proxy-cache: peer http://node-b:8080 is left alone for a while: first line",
        "proxy-cache: peer http://node-b:8080 is back, after 1200 s",
    ]


def test_one_that_comes_back_and_fails_at_once_is_left_alone_for_longer(health: Health, clock: Clock) -> None:
    for seconds in (1, 2, 4):
        fail(health)
        assert health.states([PEER])[0].next_probe_in == seconds
        clock.now += seconds
        with attempt(health) as probe:
            probe.worked()
        clock.now += seconds / 2
    clock.now += 4  # now it has been well for as long as it was left alone
    fail(health)
    assert health.states([PEER])[0].next_probe_in == 1


def test_an_attempt_is_told_of_once(health: Health) -> None:
    with attempt(health) as one:
        one.worked()
        one.failed("the body was short")
    assert health.is_up(PEER)


def test_the_state_of_each_peer(health: Health, clock: Clock) -> None:
    own = Peer("http", "node-a", 8080, is_self=True)
    fail(health, "connection refused")
    clock.now += 0.25
    first, second = health.states([own, PEER])
    assert (first.url, first.is_self, first.state, first.failures, first.next_probe_in) == (
        "http://node-a:8080", True, "up", 0, None
    )  # fmt: skip
    assert (second.url, second.is_self, second.state, second.failures, second.next_probe_in, second.reason) == (
        "http://node-b:8080", False, "left alone", 1, 0.75, "connection refused"
    )  # fmt: skip
    clock.now += 9
    with attempt(health) as probe:
        assert health.states([PEER])[0].next_probe_in == 0
        probe.worked()
    (state,) = health.states([PEER])
    assert (state.state, state.failures, state.reason) == ("up", 0, "")


def test_peers_that_left_the_list_are_forgotten(health: Health, clock: Clock) -> None:
    under_way = attempt(health)
    fail(health)
    health.keep([PEER, OTHER])
    assert not health.is_up(PEER)
    health.keep([OTHER])
    under_way.failed("timeout")
    assert health.is_up(PEER)
    assert health.states([PEER])[0].failures == 0


def test_a_peer_whose_bodies_break_off_again_and_again_is_left_alone(health: Health) -> None:
    """One or two may be their origin's doing: then it is asked whether it is there."""
    with attempt(health) as one:
        one.worked()
    for _ in range(5):
        assert health.body_ended(PEER, "the origin closed the connection")
        assert health.body_ended(PEER, "the origin closed the connection")
        assert not health.body_ended(PEER, "")
        assert health.is_up(PEER)
    for _ in range(3):
        health.body_ended(PEER, "the origin closed the connection")
    assert not health.is_up(PEER)
