"""Filling ahead of time: URLs that an operator names are asked for as by one client more.

They go the way of any GET (:meth:`.cache.Cache.get`): under the same keys, joining the fills that run, through the same
queue, where their client has its turns like any other. So nobody waits longer than for one more agent. Bodies are read
to their end, as a fill that nobody reads would be given up when others queue, and go nowhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from ..store.body import BodyError
from .answers import Answer, Exchange
from .cache import Cache
from .fills.fill import Waiter

CLIENT: Final = "warm"
"""The client of the limiter that these requests are of."""
CONCURRENCY: Final = 4
CONCURRENCY_MAX: Final = 64
"""URLs that are fetched at a time."""
PATIENCE: Final = 3600
"""Seconds that one may queue for a slot: nobody waits for it."""
TELL_EVERY: Final = 1.0
"""Seconds from one :class:`Running` to the next."""


class Unsuitable(Exception):
    """Why a URL can't be asked for, in one line."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What has become of a URL. ``outcome``: ``hit`` (it was there), ``filled``, ``not_stored`` or ``error``;
    ``status``: of the response; ``size``: bytes of its body that have come; ``seconds``: that it took."""

    url: str
    outcome: str
    status: int | None
    size: int
    seconds: float
    detail: str = ""


@dataclass(slots=True)
class _Request:
    """One that runs: the URL, and how far it is."""

    url: str
    started: float
    size: int = 0
    total: int | None = None
    state: str = "queued"


@dataclass(frozen=True, slots=True)
class Running:
    """How far those are that run: URL, state (``queued`` or ``running``), bytes that have come, and of how many."""

    requests: tuple[tuple[str, str, int, int | None], ...]


class Warmer:
    """``exchange(url)`` makes the request for a URL, or raises :class:`Unsuitable`."""

    def __init__(self, cache: Cache, exchange: Callable[[str], Exchange], *, tell_every: float = TELL_EVERY) -> None:
        self._cache = cache
        self._exchange = exchange
        self._tell_every = tell_every
        self._running: dict[asyncio.Task[Warmed], _Request] = {}

    async def run(self, urls: Sequence[str], concurrency: int = CONCURRENCY) -> AsyncGenerator[Warmed | Running, None]:
        """Ask for all of them, so many at a time. Ends what runs when it is closed before its end."""
        left, told = iter(urls), time.monotonic()
        try:
            while True:
                for url in islice(left, concurrency - len(self._running)):
                    request = _Request(url, time.monotonic())
                    self._running[asyncio.create_task(self._ask(request))] = request
                if not self._running:
                    return
                wait = max(told + self._tell_every - time.monotonic(), 0)
                done, _ = await asyncio.wait(self._running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del self._running[task]
                    yield task.result()
                if time.monotonic() - told >= self._tell_every:
                    told = time.monotonic()
                    yield self._progress()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()

    def _progress(self) -> Running:
        return Running(tuple((one.url, one.state, one.size, one.total) for one in self._running.values()))

    async def _ask(self, request: _Request) -> Warmed:
        try:
            exchange = self._exchange(request.url)
        except Unsuitable as error:
            return _ended(request, "error", None, str(error))
        exchange.client = CLIENT
        if exchange.policy.patience is None:
            exchange.policy = replace(exchange.policy, patience=PATIENCE)
        try:
            return await self._answered(request, exchange, await self._cache.get(exchange))
        except BodyError as error:
            return _ended(request, "error", None, f"the body broke off: {error}")
        finally:
            exchange.close()

    async def _answered(self, request: _Request, exchange: Exchange, answer: Answer) -> Warmed:
        status, source = answer.status, answer.served_from
        if source == "error":
            text = answer.body.decode("utf-8", "replace") if isinstance(answer.body, bytes) else ""
            return _ended(request, "error", status, text.strip())
        request.total, request.state = answer.length, "running"
        if source in ("hit", "stale", "revalidated"):
            request.size = answer.length or 0
            return _ended(request, "hit", status, "" if source == "hit" else source)
        detail = "" if status < 300 else _about(status, answer)
        why_not = _why_not_stored(exchange.waiter)
        if why_not is None:
            await _read(request, answer)
            why_not = None if await self._is_stored(exchange) else "store"
        if status >= 400:
            return _ended(request, "error", status, detail)
        if why_not is not None:
            return _ended(request, "not_stored", status, why_not)
        return _ended(request, "filled", status, detail)

    async def _is_stored(self, exchange: Exchange) -> bool:
        """Whether what has come to its end is in the store now."""
        await self._cache.fills.settled(exchange.key)
        if not self._cache.store.is_loaded(exchange.key):
            await self._cache.store.load(exchange.key)
        return self._cache.planner.select(exchange.key, exchange.headers) is not None


async def _read(request: _Request, answer: Answer) -> None:
    """The whole body, as it comes. Raises :class:`BodyError`."""
    if isinstance(answer.body, bytes):
        request.size = len(answer.body)
        return
    while data := await answer.body.read():
        request.size += len(data)
        await asyncio.sleep(0)  # what is here already is read without waiting: others have their turns


def _why_not_stored(waiter: Waiter | None) -> str | None:
    """Why the response that has just come is not going to be stored; ``None``: it is."""
    return waiter.result().why_not_stored if waiter is not None else None


def _about(status: int, answer: Answer) -> str:
    """What somebody who wanted the thing itself should know."""
    location = answer.headers.get("location")
    if status < 400 and location is not None:
        return f"redirects to {location}, which is another URL"
    return f"the origin answers {status}"


def _ended(request: _Request, outcome: str, status: int | None, detail: str) -> Warmed:
    seconds = round(time.monotonic() - request.started, 3)
    return Warmed(request.url, outcome, status, request.size, seconds, detail)
