"""What an operator may choose about peers."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Literal

from .client import PeerSettings

HOT_FOR: Final = 600.0
"""Seconds in which a key has to be asked for twice to be hot."""
HOT_MAX: Final = 10_000
"""Keys that are remembered for that."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Who the peers are, and what is asked of them."""

    peers: tuple[str, ...] = ()
    own: str = ""
    mode: Literal["home", "sibling"] = "home"
    keep: Literal["always", "hot", "never"] = "always"
    client: PeerSettings = field(default_factory=PeerSettings)


class Keeping:
    """Whether what a peer has sent is stored here, too (``cache_peer_keep``)."""

    def __init__(self, keep: Literal["always", "hot", "never"]) -> None:
        self.keep = keep
        self._asked_for: OrderedDict[str, float] = OrderedDict()
        """The keys that were asked for lately, and when, by the monotonic clock."""

    def keeps(self, key: str) -> bool:
        """``key`` has been asked for."""
        if self.keep != "hot":
            return self.keep == "always"
        now = time.monotonic()
        before = self._asked_for.pop(key, None)
        self._asked_for[key] = now
        if len(self._asked_for) > HOT_MAX:
            self._asked_for.popitem(last=False)
        return before is not None and now - before < HOT_FOR
