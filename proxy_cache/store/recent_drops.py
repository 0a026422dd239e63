"""Which entries have gone last, when and why, by the hash of their key: for those who ask later
(:mod:`..caching.explain`).

It is for what goes by the thousand, by eviction or a purge: the keys of most are not in memory, and must not be read
for this. Noting one takes 0.4 µs; the ring takes 1.1 MB when it is full.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .columns import key_hash

DROPS_MAX: Final = 1 << 16
"""Entries; the one that was noted first makes room."""
HASH: Final = 8
"""Bytes of a hash."""

EVICTED: Final = "evicted"
UNREADABLE: Final = "unreadable"
"""Gone from the disk, or not what was stored."""
PURGED_BY: Final = ("host", "match", "tag", "all")
"""As the API has it. ``purge-host``, …; or made stale: ``soft-purge-host``, …"""
WORDS: Final = (
    EVICTED, UNREADABLE, *(f"{how}-{by}" for how in ("purge", "soft-purge") for by in PURGED_BY),
)  # fmt: skip
_CODES: Final = {word: code for code, word in enumerate(WORDS)}


@dataclass(frozen=True, slots=True)
class Drop:
    """What has happened to the entries of one key. ``at``: the last time (unix seconds); ``times``: of how many."""

    word: str
    at: float
    times: int


class RecentDrops:
    """One per store, on the event loop."""

    def __init__(self, drops_max: int = DROPS_MAX) -> None:
        self._max = drops_max
        self._next = 0
        """Where the next one goes."""
        self._hashes = array("q")
        self._times = array("d")
        self._codes = bytearray()

    def __len__(self) -> int:
        return len(self._codes)

    def note(self, hashes: Iterable[int], word: str, at: float) -> None:
        """Entries whose keys have these hashes have gone, for one reason. ``at``: unix seconds."""
        code, place = _CODES[word], self._next
        for number in hashes:
            if place < len(self._codes):
                self._hashes[place], self._times[place], self._codes[place] = number, at, code
            else:
                self._hashes.append(number)
                self._times.append(at)
                self._codes.append(code)
            place += 1
            if place == self._max:
                place = 0
        self._next = place

    def of(self, key: str) -> tuple[Drop, ...]:
        """What is known of a key, the latest first."""
        found: dict[int, tuple[float, int]] = {}
        for place in self._places(array("q", (key_hash(key),)).tobytes()):
            code, at = self._codes[place], self._times[place]
            last, times = found.get(code, (at, 0))
            found[code] = (max(last, at), times + 1)
        drops = (Drop(WORDS[code], at, times) for code, (at, times) in found.items())
        return tuple(sorted(drops, key=lambda drop: drop.at, reverse=True))

    def _places(self, number: bytes) -> list[int]:
        hashes = self._hashes.tobytes()  # a search in bytes is many times as fast as one for numbers
        places, start = [], 0
        while (at := hashes.find(number, start)) >= 0:
            if at % HASH == 0:
                places.append(at // HASH)
            start = at + 1
        return places
