"""What the metrics are told of the shared store."""

from __future__ import annotations

from typing import Protocol


class SharedEvents(Protocol):
    def shared_fetched(self, outcome: str) -> None:
        """A fill has asked the store. ``outcome``: ``hit``, ``validated``, ``miss``, ``unsuitable``, ``stale``,
        ``stale_used``, ``corrupt``, ``timeout``, ``error``."""

    def shared_written(self, outcome: str) -> None:
        """A response was to be written. ``outcome``: ``stored``, ``replaced``, ``exists``, ``full``, ``skipped``,
        ``gone``, ``failed``, ``deleted``."""

    def shared_moved(self, direction: str, size: int) -> None:
        """Bytes of bodies, ``read`` or ``written``."""
