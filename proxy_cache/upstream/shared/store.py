"""The shared store as a whole: what is read from it, what is written to it, and how it is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...store.store import Store
from ..source import OriginSource
from .breaker import Breaker
from .bucket import Bucket, Changed, StoreFails
from .events import SharedEvents
from .source import SharedSource
from .writer import SharedWriter

FIRST = 30.0
"""Seconds for the first look at the store."""


@dataclass(frozen=True, slots=True)
class SharedSettings:
    """``url``: see :func:`~.bucket.check_url`. ``write``: ``immutable``, ``all`` or ``off``."""

    url: str
    write: str = "immutable"


class SharedStore:
    """One per proxy. Raises :class:`~.bucket.BadUrl`."""

    def __init__(self, settings: SharedSettings, origin: OriginSource, store: Store, events: SharedEvents) -> None:
        self._bucket = bucket = Bucket(settings.url)
        self.shown = bucket.shown
        what = f"the shared store {bucket.shown}"
        self._writer = SharedWriter(bucket, store, events, Breaker(f"writing to {what}"), settings.write)
        self.source = SharedSource(bucket, origin, events, Breaker(f"reading from {what}"), self._writer)
        self._writer.on_change = self.source.trust
        self.stored = self._writer.stored
        self.drain = self._writer.drain
        self._first: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._first = asyncio.get_running_loop().create_task(self._ask_first())

    async def _ask_first(self) -> None:
        """A store that can't be reached is told of at the start, and not with the first miss."""
        try:
            async with asyncio.timeout(FIRST):
                await self._bucket.warm_up()
        except StoreFails as error:
            self.source.breaker.failed(str(error))
        except TimeoutError:
            self.source.breaker.failed(f"no answer within {FIRST:g} s")
        except Changed:
            return

    def configure(self, settings: SharedSettings, scopes: Iterable[str] = ()) -> None:
        """Where it is stays as it was at the start. ``scopes``: of the rules, see :func:`~.layout.scope_of`."""
        self._writer.mode = settings.write
        self.source.scopes.update(scopes)

    @property
    def is_up(self) -> bool:
        return self.source.breaker.is_closed

    @property
    def queued(self) -> int:
        return self._writer.queued

    def close(self) -> None:
        if self._first is not None:
            self._first.cancel()
        self.source.close()

    def snapshot(self) -> dict[str, Any]:
        """For the status page."""
        return {
            "url": self.shown,
            "reading": _shown(self.source.breaker),
            "writing": _shown(self._writer.breaker),
            **self._writer.snapshot(),
        }


def _shown(breaker: Breaker) -> str:
    return "ok" if breaker.is_closed else f"left alone for {breaker.seconds_left:.0f} s"
