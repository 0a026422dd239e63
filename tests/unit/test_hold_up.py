"""Readers that hold up a fill while others wait for its slot: which of them is dropped, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy_cache.caching.fills.contention import LOOK_EVERY, READER_PACE, READER_PATIENCE, HoldUp
from proxy_cache.store.body import TAIL_LIMIT, Body, Reader
from proxy_cache.store.store import Store
from tests.support.stores import with_store

SLOW = int(READER_PACE * LOOK_EVERY / 4)
"""Bytes between two looks that are too few."""
STEADY = int(READER_PACE * LOOK_EVERY * 2)
"""Bytes between two looks that are enough."""


class Story:
    """A held-up body that can't be spilled; the test moves its readers."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Body, "spill", lambda body: False)
        monkeypatch.setattr(Body, "is_held_up", True)
        self.body = store.body(None, keep=False)
        self.hold_up, self.now = HoldUp(), 0.0

    def reader(self) -> Reader:
        return self.body.reader()

    def look(self) -> Reader | None:
        self.now += LOOK_EVERY
        return self.hold_up.look(self.body, self.now)

    def dropped(self, seconds: float, reader: Reader | None = None, step: int = 0) -> Reader | None:
        """The reader dropped within so many seconds, if one of them moves so far between two looks."""
        for _ in range(round(seconds / LOOK_EVERY)):
            if reader is not None:
                reader.offset += step
            if (found := self.look()) is not None:
                return found
        return None


def test_two_slow_readers_that_overtake_each_other_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reader has its own time, even if another one is the slowest at the moment."""

    async def story(store: Store) -> None:
        told = Story(store, monkeypatch)
        first, second = told.reader(), told.reader()
        told.body.put(bytes(TAIL_LIMIT + 1))
        second.offset = 1
        found = None
        for _ in range(round(2 * READER_PATIENCE / LOOK_EVERY)):
            slowest = told.body.slowest_reader
            assert slowest is not None
            slowest.offset += SLOW  # it is in front now
            found = found or told.look()
        assert found in (first, second)

    with_store(tmp_path, story)


@pytest.mark.parametrize(("step", "is_dropped"), [(0, True), (SLOW, True), (STEADY, False)])
def test_a_reader_has_to_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, is_dropped: bool) -> None:
    async def story(store: Store) -> None:
        told = Story(store, monkeypatch)
        reader = told.reader()
        told.body.put(bytes(TAIL_LIMIT + 1))
        assert told.dropped(READER_PATIENCE - 1, reader, step) is None
        assert (told.dropped(3 * READER_PATIENCE, reader, step) is reader) is is_dropped

    with_store(tmp_path, story)


def test_who_has_had_all_that_there_is_is_not_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can't continue, since another one holds it up. Its time begins when that one is dropped."""

    async def story(store: Store) -> None:
        told = Story(store, monkeypatch)
        stalled, quick = told.reader(), told.reader()
        told.body.put(bytes(TAIL_LIMIT + 1))
        quick.offset = told.body.length
        assert told.dropped(3 * READER_PATIENCE) is stalled
        stalled.close()
        told.body.put(bytes(TAIL_LIMIT))
        assert told.dropped(READER_PATIENCE - 1) is None
        assert told.dropped(2 * READER_PATIENCE) is quick

    with_store(tmp_path, story)
