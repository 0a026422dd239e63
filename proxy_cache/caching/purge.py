"""Purging: what is stored is dropped or, *soft*, made stale, on the word of an operator.

Once a purge has been answered nothing of what it names is served to a request that comes then:

- entries are gone, from memory and from the index, with their bodies and the heads that were made of them;
- what is being fetched goes to those who wait for it, who have asked before, and to nobody else. It is not stored;
- and the index on disk has it so: a crash changes nothing.

A soft purge makes stale, as if the lifetime had ended just now: the next request has the origin asked whether it is
still good. Where the response itself lets a cache serve it stale meanwhile, or when the origin fails (RFC 5861), that
holds as for anything that has grown stale. Fastly's and Varnish's soft purges do the same.

It is about this proxy alone. Of the keys that it has found, the shared store's objects are deleted, and peers are asked
for what is newer; they are to be purged by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.signatures import without_parameters
from ..semantics.stored import StoredResponse
from ..semantics.tags import has_tag
from ..semantics.url_patterns import HostPattern, UrlPattern
from ..store.store import Store
from ..store.sweep import SweepError, Swept
from .fills.request import FillRequest
from .fills.table import FillTable
from .recent_reasons import DROPPED

__all__ = ["Everything", "Purged", "Purger", "SweepError", "Tag", "Url", "What", "Where"]

HIDDEN: Final = "#"
"""At the end of a key: of an entry that nobody finds, see :mod:`.ranges.ahead`."""


@dataclass(frozen=True, slots=True)
class Url:
    """One URL, with all its variants. ``keys``: it may have several, where rules leave parameters out."""

    keys: frozenset[str]

    @classmethod
    def of(cls, target: Target, ignored: tuple[tuple[str, ...], ...] = ()) -> Url:
        """``ignored``: all sets of patterns of parameters that rules leave out of keys."""
        return cls(frozenset({target.key, *(without_parameters(target.key, patterns) for patterns in ignored)}))


@dataclass(frozen=True, slots=True)
class Where:
    """All URLs of a host, or like a pattern."""

    pattern: HostPattern | UrlPattern
    needle: None = None

    @property
    def by(self) -> str:
        return "host" if isinstance(self.pattern, HostPattern) else "match"

    def matches(self, key: str, headers: Headers) -> bool:
        return self.pattern.matches(key.removesuffix(HIDDEN))


@dataclass(frozen=True, slots=True)
class Tag:
    """Responses with this tag (see :mod:`..semantics.tags`)."""

    tag: str
    by: ClassVar = "tag"

    @property
    def needle(self) -> bytes:
        return self.tag.encode("ascii")

    def matches(self, key: str, headers: Headers) -> bool:
        return self.needle in headers.packed() and has_tag(headers, self.tag)


@dataclass(frozen=True, slots=True)
class Everything:
    needle: None = None
    by: ClassVar = "all"

    def matches(self, key: str, headers: Headers) -> bool:
        return True


What: TypeAlias = Url | Where | Tag | Everything


@dataclass(frozen=True, slots=True)
class Purged:
    """``entries`` that were stored, ``size``: bytes that they took on disk; ``fills`` that were under way."""

    entries: int = 0
    size: int = 0
    fills: int = 0


class Purger:
    """Purges the store and the fills of one proxy."""

    def __init__(self, store: Store, fills: FillTable) -> None:
        self._fills = fills
        self._sweeps = store.sweeps
        self._one_sweep = asyncio.Lock()

    async def purge(self, what: What, *, soft: bool = False) -> Purged:
        """Returns when it is done, also on disk. Raises :class:`SweepError`."""
        # From here on nothing that is under way is stored, or found by others; what is asked for now is newer.
        now = time.time()
        fills = self._fills.purge(_concerns(what))
        for fill in fills:  # no sweep finds their keys, if they are not stored here yet
            if fill.head is not None or not isinstance(what, Tag):
                self._fills.context.sources.invalidated(fill.request.key)
        self._forget_heads(what)
        swept = await self._sweep(what, now, soft=soft)
        await self._sweeps.settle()
        return Purged(swept.entries, swept.size, len(fills))

    async def _sweep(self, what: What, now: float, *, soft: bool) -> Swept:
        sweeps, invalidated = self._sweeps, self._fills.context.sources.invalidated
        why = "soft-purge" if soft else "purge"
        if isinstance(what, Url):
            swept = Swept()
            for key in what.keys:
                invalidated(key)
                of_key = await sweeps.expire_key(key, now) if soft else sweeps.drop_key(key, now)
                if of_key.entries:
                    self._fills.context.reasons.note(key, DROPPED, why)
                swept.entries += of_key.entries
                swept.size += of_key.size
            return swept
        why = f"{why}-{what.by}"
        async with self._one_sweep:
            if soft:
                return await sweeps.expire(what, now, invalidated, why)
            if isinstance(what, Everything):
                return await sweeps.drop_all(now, why)
            return await sweeps.drop(what, now, invalidated, why)

    def _forget_heads(self, what: What) -> None:
        """Also those of which no body is stored."""
        heads = self._fills.context.keys.heads
        if isinstance(what, Url):
            for key in what.keys:
                heads.discard(key)
        else:
            pattern = what.pattern if isinstance(what, Where) else None  # tags are not kept with them
            heads.discard_all(lambda key: pattern is None or pattern.matches(key))


def _concerns(what: What) -> Callable[[FillRequest, StoredResponse | None], bool]:
    """Whether a fill may bring what is purged. Of a response that is still to come nobody knows the tags."""

    def concerns(request: FillRequest, response: StoredResponse | None) -> bool:
        match what:
            case Url():
                return request.key in what.keys
            case Where():
                return what.pattern.matches(request.key)
            case Tag():
                return response is None or what.matches(request.key, response.headers)
            case Everything():
                return True

    return concerns
