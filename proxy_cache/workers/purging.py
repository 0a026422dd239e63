"""A purge of one worker is one of all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from ..caching.fills.table import FillTable
from ..caching.purge import Everything, Purged, Purger, SweepError, Tag, Url, What, Where
from ..semantics.url_patterns import HostPattern, UrlPattern
from ..store.store import Store
from ..upstream.source import Source


class PurgesOfAll(Purger):
    """``send`` sends the parent a message, which hands it on to all others and gathers what they say. ``siblings``: of
    the sources the one that needs not be told, since it is purged, too."""

    def __init__(self, store: Store, fills: FillTable, siblings: Source, send: Callable[..., None]) -> None:
        super().__init__(store, fills)
        self._invalidated = partial(_invalidate, [one for one in fills.context.sources.before if one is not siblings])
        self._send = send
        self._numbers = count(1)
        self._replies: dict[int, asyncio.Future[list[Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.messages: dict[str, Callable[..., None]] = {"purge": self._asked, "purged": self._told}

    async def purge(self, what: What, *, soft: bool = False) -> Purged:
        """Returns when all have done it. Raises :class:`SweepError`."""
        number = next(self._numbers)
        self._replies[number] = reply = asyncio.get_running_loop().create_future()
        self._send("purge", number, as_message(what), soft)
        try:
            here = await super().purge(what, soft=soft)
            problem, *others = await reply
        finally:
            del self._replies[number]
        if problem:
            raise SweepError(problem)
        entries, size, fills = others
        return Purged(here.entries + entries, here.size + size, here.fills + fills)

    def _told(self, number: int, *reply: Any) -> None:
        """What all others have purged: a problem, if there was one, entries, bytes, and fills."""
        waiting = self._replies.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(list(reply))

    def _asked(self, number: int, what: list[Any], soft: bool) -> None:
        """Another worker was told to."""
        task = asyncio.get_running_loop().create_task(self._purge_here(number, what, soft))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _purge_here(self, number: int, what: list[Any], soft: bool) -> None:
        try:
            purged = await super().purge(from_message(what), soft=soft)
        except SweepError as error:
            self._send("purged", number, str(error), 0, 0, 0)
        else:
            self._send("purged", number, "", purged.entries, purged.size, purged.fills)


def _invalidate(sources: list[Source], key: str) -> None:
    for source in sources:
        source.invalidated(key)


def as_message(what: What) -> list[Any]:
    match what:
        case Url(keys):
            return ["url", *keys]
        case Where(HostPattern(text)):
            return ["host", text]
        case Where(UrlPattern(text)):
            return ["match", text]
        case Tag(tag):
            return ["tag", tag]
    return ["all"]


def from_message(message: list[Any]) -> What:
    kind, *values = message
    match kind:
        case "url":
            return Url(frozenset(values))
        case "host":
            return Where(HostPattern(values[0]))
        case "match":
            return Where(UrlPattern(values[0]))
        case "tag":
            return Tag(values[0])
    return Everything()
