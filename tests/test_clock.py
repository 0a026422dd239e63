"""The machine's clock is set while responses are stored by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.origin import Origin, Reply
from tests.support.proxy import SCRIPT, SCRIPTS, Proxy

DAY = 86_400


class Clock:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0)

    def set(self, ahead: float) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(str(ahead))
        os.replace(new, self.file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "ahead")


@pytest.fixture
def proxy(start_proxy: Callable[..., Proxy], clock: Clock) -> Proxy:
    environment = {"CLOCK_AHEAD": str(clock.file)}
    return start_proxy(script=SCRIPTS / "clock_ahead.py", scripts=[SCRIPT], environment=environment)


def kept_for(origin: Origin, path: str, seconds: int) -> str:
    # Without a Date, by which an age could be told.
    reply = Reply(size=10, headers=(("Cache-Control", f"max-age={seconds}"), ("ETag", '"a"')), dated=False)
    return origin.serve(path, reply)


def set_back(proxy: Proxy, clock: Clock, ahead: float) -> None:
    """And wait until the proxy knows."""
    since = len(proxy.log)
    clock.set(ahead)
    proxy.wait_for_log("the clock was set back by", since=since)


def test_what_was_stored_before_a_step_back_is_older_by_it(proxy: Proxy, origin: Origin, clock: Clock) -> None:
    short, long = kept_for(origin, "/short", 1000), kept_for(origin, "/long", 3 * DAY)
    clock.set(DAY)
    assert proxy.get(short).ok
    assert proxy.get(long).ok
    assert proxy.get(short).hit
    set_back(proxy, clock, DAY - 2000)  # for all we know everything is 2000 s old by now
    assert not proxy.get(short).hit
    assert proxy.get(short).hit  # it was validated
    assert len(origin.seen("/short")) == 2


def test_what_was_stored_while_the_clock_was_ahead_is_stale(proxy: Proxy, origin: Origin, clock: Clock) -> None:
    url = kept_for(origin, "/a", 1000)
    clock.set(DAY)
    assert proxy.get(url).ok
    assert proxy.get(url).hit
    set_back(proxy, clock, 0)
    assert not proxy.get(url).hit
    proxy.wait_until_idle()
    assert proxy.get(url).hit
    assert int(proxy.get(url).header("Age") or 0) < 500


@pytest.mark.parametrize("later", [0, DAY + 1], ids=["at once", "when the clock gets there again"])
def test_nor_does_a_restart_make_it_fresh(proxy: Proxy, origin: Origin, clock: Clock, later: float) -> None:
    url, other = kept_for(origin, "/a", 1000), kept_for(origin, "/b", 1000)
    clock.set(DAY)
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    proxy.terminate()
    clock.set(0)  # nobody has seen it
    proxy.start()
    assert proxy.get(other).ok
    proxy.wait_until_idle()
    proxy.terminate()
    clock.set(later)
    proxy.start()
    assert not proxy.get(url).hit
    assert proxy.get(other).hit is (later == 0)
    assert proxy.get(url).hit


def test_steps_are_remembered_by_a_restart(proxy: Proxy, origin: Origin, clock: Clock) -> None:
    url = kept_for(origin, "/a", 1000)
    clock.set(DAY)
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    set_back(proxy, clock, 0)
    proxy.terminate()
    clock.set(DAY + 1)
    proxy.start()
    assert not proxy.get(url).hit
    assert proxy.get(url).hit


def test_a_clock_set_forward_and_back_keeps_nothing_fresh(proxy: Proxy, origin: Origin, clock: Clock) -> None:
    url = kept_for(origin, "/a", 1000)
    assert proxy.get(url).ok
    assert proxy.get(url).hit
    clock.set(DAY)
    proxy.eventually(lambda: proxy.get(url).hit, lambda hit: hit)  # validated, by a clock that is ahead
    set_back(proxy, clock, 0)
    assert not proxy.get(url).hit
    assert proxy.get(url).hit
