from __future__ import annotations

import pytest

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store.clock import STEPS_MAX, ClockSteps, ClockWatch, Step, distrust_the_future, set_back


class Clocks:
    def __init__(self) -> None:
        self.now, self.ahead = 50.0, 1000.0
        self.between = 0.0
        self.watch = ClockWatch(lambda: self.now + self.ahead, self._monotonic)

    def _monotonic(self) -> float:
        self.now += self.between
        return self.now


def test_only_steps_back_are_told() -> None:
    clocks = Clocks()
    assert clocks.watch.set_back_by() == 0
    for ahead in (1000, 5000, 5000.4, 5000.1):  # forward, and slewed
        clocks.now += 1
        clocks.ahead = ahead
        assert clocks.watch.set_back_by() == 0
    clocks.ahead = 1000
    assert clocks.watch.set_back_by() == pytest.approx(4000.4)
    assert clocks.watch.set_back_by() == 0


def test_small_steps_add_up() -> None:
    clocks = Clocks()
    told = 0.0
    for _ in range(100):
        told += clocks.watch.set_back_by()
        clocks.ahead -= 0.1
    assert told > 9


def test_a_process_that_was_stopped_between_two_clocks_is_not_deceived() -> None:
    clocks = Clocks()
    assert clocks.watch.set_back_by() == 0
    clocks.ahead, clocks.between = 0, 5
    assert clocks.watch.set_back_by() == 0
    clocks.between = 0
    assert clocks.watch.set_back_by() == pytest.approx(1000)


def stored(at: float, lifetime: int = 100) -> StoredResponse:
    headers = Headers([(b"Cache-Control", b"max-age=%d" % lifetime)])
    return StoredResponse(200, headers, at, at)


def test_a_response_from_before_is_older_by_the_step() -> None:
    response = stored(1000)
    assert response.age(1010) == 10
    set_back(response, 5, 1005)
    assert response.age(1005) == 10
    assert response.fresh_until == 1095


def test_one_from_the_future_is_stale_now_and_later() -> None:
    response = stored(1000)
    set_back(response, 500, 600)
    for now in (600, 1000, 1050):
        assert not now < response.fresh_until
        assert response.ttl(now) < 0
    response = stored(1000)
    distrust_the_future(response, 999.9)
    assert response.fresh_until == 1100
    distrust_the_future(response, 900)
    assert response.ttl(900) < 0


def test_what_is_read_is_corrected_by_the_steps_since_it_was_stored() -> None:
    steps = ClockSteps()
    steps.add(Step(10, 1000, 900, 100))
    steps = ClockSteps(steps.dump())
    old, at_the_time, after, updated = stored(800, 1000), stored(950, 1000), stored(950, 1000), stored(1001, 1000)
    steps.correct(9, old, 1200)
    assert old.age(1200) == 500
    steps.correct(9, at_the_time, 1200)
    assert at_the_time.ttl(1200) < 0
    steps.correct(10, after, 1200)
    assert after.age(1200) == 250
    steps.correct(9, updated, 1200)
    assert updated.age(1200) == 199


def test_many_steps_are_taken_together() -> None:
    steps = ClockSteps()
    for number in range(1, 3 * STEPS_MAX):
        steps.add(Step(number, 1000, 990, 10))
    assert len(steps) == STEPS_MAX
    response = stored(500, 100_000)
    steps.correct(0, response, 2000)
    assert response.age(2000) == 1500 + 10 * (3 * STEPS_MAX - 1)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[["a", 1, 2, 3]]', "[[1, 2]]"])
def test_nonsense_is_no_step(text: str) -> None:
    assert len(ClockSteps(text)) == 0
