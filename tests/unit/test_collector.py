"""The remains of closed connections are collected, without making requests wait."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from proxy_cache.runtime import collector
from proxy_cache.runtime.collector import Collector
from tests.support.origin import PATIENCE


class Buffers:
    """A cycle, like a connection and its protocol."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_else_collects(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(collector, "SOON", 0.01)
    monkeypatch.setattr(collector, "QUIET_FOR", 0.01)
    gc.collect()
    gc.freeze()  # the tests' own objects
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


async def until_gone(left: weakref.ref[Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while left() is not None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def test_what_a_closed_connection_leaves_is_collected_without_any_traffic() -> None:
    async def close() -> None:
        left = weakref.ref(Buffers())
        assert left() is not None
        Collector(lambda: 0).connection_closed()
        await until_gone(left)

    asyncio.run(close())


class Busy:
    """Requests all the time, until it is collected."""

    def __init__(self) -> None:
        self.requests = 0
        self.is_over = False

    def activity(self) -> int:
        self.requests += not self.is_over
        return self.requests


def old_garbage() -> weakref.ref[Buffers]:
    old = Buffers()
    for _ in range(3):
        gc.collect()  # it is in the oldest generation now
    return weakref.ref(old)


def test_what_was_there_for_long_is_collected_in_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "FULL_EVERY", 0.001)
    monkeypatch.setattr(collector, "PAUSE", 0.0)  # so that a quiet moment is worth waiting for
    monkeypatch.setattr(collector, "PATIENCE", 1000.0)

    async def close() -> None:
        busy = Busy()
        left = old_garbage()
        collected = Collector(busy.activity)
        for _ in range(collector.FULL_AFTER):
            collected.connection_closed()
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert left() is not None
        busy.is_over = True
        await until_gone(left)

    asyncio.run(close())


@pytest.mark.parametrize(
    "changed", [{"PAUSE": 10.0}, {"PAUSE": 0.0, "PATIENCE": 0.1, "GROWTH_MIN": 0}], ids=["cheap", "much"]
)
def test_what_was_there_for_long_is_collected_while_requests_come_all_the_time(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, float]
) -> None:
    """At once if that takes no time, or after a while if there is much garbage: else memory would grow for ever."""
    for name, value in {"FULL_EVERY": 0.001, **changed}.items():
        monkeypatch.setattr(collector, name, value)

    async def close() -> None:
        left = old_garbage()
        collected = Collector(Busy().activity)
        for _ in range(collector.FULL_AFTER):
            collected.connection_closed()
        await until_gone(left)

    asyncio.run(close())


def test_a_collector_that_is_stopped_has_no_timer() -> None:
    async def close() -> None:
        left = weakref.ref(Buffers())
        collected = Collector(lambda: 0)
        collected.connection_closed()
        collected.stop()
        collected.stop()
        await asyncio.sleep(0.1)
        assert left() is not None

    asyncio.run(close())
