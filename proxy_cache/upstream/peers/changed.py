"""Keys that an unsafe request has changed by way of this proxy (RFC 9111 §4.4). Peers have heard nothing of it, and may
still have what was there before: whoever has made the change here must not be given that here."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

FOR: Final = 24 * 3600.0
"""Seconds for which such a key is remembered."""
MOST: Final = 10_000


class ChangedKeys:
    """Those of the last day. ``in`` tells."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()
        """By the monotonic clock."""

    def add(self, key: str) -> None:
        self._until[key] = time.monotonic() + FOR
        self._until.move_to_end(key)
        if len(self._until) > MOST:
            self._until.popitem(last=False)

    def __contains__(self, key: str) -> bool:
        return self._until.get(key, 0.0) > time.monotonic()

    def forget(self, key: str) -> None:
        self._until.pop(key, None)
