"""The latest reasons, by key, why a response was not stored, or a request not answered from what is: for those who ask
later (:mod:`.explain`).

Nothing is noted for hits, nor for misses that end well. Bounded in keys, in reasons a key, and in the text of each:
some 10 MB at the most.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ..semantics.texts import brief
from ..store.columns import key_hash

KEYS_MAX: Final = 10_000
"""Keys; the one whose last reason is the oldest makes room."""
REASONS_MAX: Final = 4
"""Reasons of one key; the oldest makes room."""
KEY_MAX: Final = 256
"""Characters of a key; of a longer one the hash is kept."""

NOT_STORED: Final = "not-stored"
"""A fill's response was not stored; words of ``Cache-Status`` (``no-store``, ``private``, …)."""
NOT_REUSED: Final = "not-reused"
"""Something is stored, and the origin was asked all the same; words of ``fwd`` (RFC 9211 §2.2)."""
ERROR: Final = "error"
"""No usable answer from the origin; types of RFC 9209 §2.3."""
OVERLOADED: Final = "overloaded"
"""No slot: ``rejected``, ``timeout``, ``canceled``."""
DROPPED: Final = "dropped"
"""It was stored, and removed: ``unsafe-method``, ``head``, ``purge`` (of this URL); or made stale: ``soft-purge``. And
the words of :mod:`..store.recent_drops`, which notes what goes by the thousand."""
KINDS: Final = (NOT_STORED, NOT_REUSED, ERROR, OVERLOADED, DROPPED)


@dataclass(slots=True)
class Reason:
    """One reason, and how often in a row it was the same."""

    kind: str
    """One of :data:`KINDS`."""
    word: str
    status: int | None
    """Of the origin's response; of an error that of the answer to clients."""
    detail: str
    at: float
    """The last time (unix seconds)."""
    times: int = 1


class RecentReasons:
    """One per proxy, on the event loop."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._reasons: OrderedDict[str | int, list[Reason]] = OrderedDict()

    def __len__(self) -> int:
        """Keys that something is known of."""
        return len(self._reasons)

    def note(self, key: str, kind: str, word: str, status: int | None = None, detail: str = "") -> None:
        """Something has just happened. Two hundred waiters of one fill that fails are one reason."""
        at: str | int = key if len(key) <= KEY_MAX else key_hash(key)
        reasons = self._reasons.get(at)
        if reasons is None:
            if len(self._reasons) >= self._keys_max:
                self._reasons.popitem(last=False)
            reasons = self._reasons[at] = []
        else:
            self._reasons.move_to_end(at)
            for index, reason in enumerate(reasons):
                if reason.kind == kind and reason.word == word and reason.status == status:
                    reason.at, reason.times = time.time(), reason.times + 1
                    reasons.append(reasons.pop(index))
                    return
        if len(reasons) >= REASONS_MAX:
            del reasons[0]
        reasons.append(Reason(kind, word, status, brief(detail), time.time()))

    def of(self, key: str) -> tuple[Reason, ...]:
        """What is known of a key, the latest first."""
        return tuple(reversed(self._reasons.get(key if len(key) <= KEY_MAX else key_hash(key), ())))
