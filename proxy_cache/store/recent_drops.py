"""Which entries have gone last, when and why, by the hash of their key: for those who ask later
(:mod:`..caching.explain`).

It is for what goes by the thousand, by eviction or a purge: the keys of most are not in memory, and must not be read
for this. A slice of hundreds of entries is noted by three copies of memory. The ring takes 1.1 MB when it is full.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .columns import key_hash

DROPS_MAX: Final = 1 << 16
"""Entries; the one that was noted first makes room."""
HASH: Final = 8
"""Bytes of a hash in the ring."""

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
        self._hashes = bytearray()
        self._times = array("d")
        self._codes = bytearray()

    def __len__(self) -> int:
        return len(self._codes)

    def note(self, hashes: Sequence[int], word: str, at: float) -> None:
        """Entries whose keys have these hashes have gone, for one reason. ``at``: unix seconds."""
        hashes = hashes[-self._max :]
        room = self._max - self._next
        if len(hashes) > room:
            self.note(hashes[:room], word, at)
            hashes = hashes[room:]
        start, stop = self._next, self._next + len(hashes)
        self._hashes[start * HASH : stop * HASH] = array("q", hashes).tobytes()
        self._times[start:stop] = array("d", (at,)) * len(hashes)
        self._codes[start:stop] = bytes((_CODES[word],)) * len(hashes)
        self._next = stop % self._max

    def of(self, key: str) -> tuple[Drop, ...]:
        """What is known of a key, the latest first. Takes some 50 µs."""
        found: dict[int, tuple[float, int]] = {}
        for place in self._places(array("q", (key_hash(key),)).tobytes()):
            code, at = self._codes[place], self._times[place]
            last, times = found.get(code, (at, 0))
            found[code] = (max(last, at), times + 1)
        drops = (Drop(WORDS[code], at, times) for code, (at, times) in found.items())
        return tuple(sorted(drops, key=lambda drop: drop.at, reverse=True))

    def _places(self, number: bytes) -> list[int]:
        places, start = [], 0
        while (at := self._hashes.find(number, start)) >= 0:
            if at % HASH == 0:
                places.append(at // HASH)
            start = at + 1
        return places
