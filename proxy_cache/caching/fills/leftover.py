"""The time left to a fill without a client.

It is finished if that is quick, and within a moment while others queue: most are the rest of a block of which a client
wanted the first bytes. A background refresh may take longer, but not for ever while others queue. Without a client an
unstored body ends at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Final, Protocol

from ...store.body import Body
from .context import FillContext
from .head import FillHead

IN_THE_WAY_MAX: Final = 1.0
"""Seconds left to a fill without a client while others queue for its slot."""
REFRESH_PACE: Final = 8 * 1024
"""Bytes a second that a background refresh has to reach (``stale-while-revalidate``)."""
REFRESH_PATIENCE: Final = 10.0
"""Seconds over which that is measured. A refresh may be of any length: the next clients are served from it."""


class Unattended(Protocol):
    """A :class:`~.fill.Fill`, as far as it matters here."""

    @property
    def context(self) -> FillContext: ...

    @property
    def waiters(self) -> Sized: ...

    @property
    def head(self) -> FillHead | None: ...

    @property
    def body(self) -> Body | None: ...

    @property
    def arrived(self) -> int: ...

    @property
    def bytes_left(self) -> int: ...

    @property
    def is_queued(self) -> bool: ...

    @property
    def is_in_the_way(self) -> bool: ...

    @property
    def has_client(self) -> bool: ...

    def abandon(self) -> None: ...


class Leftover:
    """The time left to a fill without a client."""

    __slots__ = ("_arrived", "_fill", "_in_the_way", "_looked", "_since", "_timer")

    def __init__(self, fill: Unattended) -> None:
        loop = asyncio.get_running_loop()
        self._fill = fill
        self._since = self._looked = loop.time()
        self._in_the_way = 0.0
        """Seconds, so far, in which others have queued for its slot."""
        self._arrived = fill.arrived
        self._timer = loop.call_later(self._next_look, self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    @property
    def _next_look(self) -> float:
        return min(0.25 if self._fill.is_in_the_way else 1.0, self._fill.context.quick_abort_timeout)

    def _look(self) -> None:
        if self.is_late:
            self._fill.abandon()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._next_look, self._look)

    @property
    def is_late(self) -> bool:
        """Whether it is too slow to be finished without a client."""
        fill, now = self._fill, asyncio.get_running_loop().time()
        if fill.is_in_the_way:
            self._in_the_way += now - self._looked
        self._looked = now
        if fill.is_queued:
            self._since = now
            return False
        if not fill.has_client and fill.body is not None and not fill.body.kept:
            return True  # nobody gets any of it, now or later
        return self._is_late(now - self._since, fill.arrived - self._arrived)

    def _is_late(self, elapsed: float, arrived: int) -> bool:
        """``arrived``: bytes that have come in the ``elapsed`` seconds."""
        fill = self._fill
        if not fill.waiters:
            # Will it be here in time at its present pace? After a quarter of the time that can be told.
            limit = fill.context.quick_abort_timeout
            if fill.is_in_the_way:
                limit = min(limit, IN_THE_WAY_MAX)
            left = limit - elapsed
            is_slow = fill.body is not None and fill.bytes_left * elapsed > arrived * left
            return left <= 0 or (is_slow and elapsed >= limit / 4)
        # The queued fill should have the slot before its own time is up.
        patience = min(fill.context.quick_abort_timeout, fill.context.limiter.limits.queue_timeout / 2)
        if self._in_the_way >= patience:
            return True
        if fill.head is None:
            return elapsed >= fill.context.origin_timeout
        if elapsed < REFRESH_PATIENCE:
            return False
        self._since += elapsed
        self._arrived += arrived
        return arrived < REFRESH_PACE * elapsed
