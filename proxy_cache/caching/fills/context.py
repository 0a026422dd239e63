"""What all fills of a proxy share: where they ask, what they store into, what is known of keys, and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...runtime.batches import CallBatch
from ...semantics.credentials import has_credentials
from ...semantics.headers import Headers
from ...semantics.storing import ABOUT_CACHING
from ...store.index import Entry
from ...store.store import Store
from ...upstream.source import Sources
from ..limiter import OriginLimiter
from ..recent_reasons import RecentReasons
from .audience import Trouble
from .known_keys import KnownKeys
from .request import FillRequest


class FillEvents(Protocol):
    """Events for the metrics."""

    def fill_ended(self, outcome: str) -> None: ...

    def fetched(self, source: str, size: int) -> None:
        """Bytes of a body have come from ``source``: ``origin``, ``peer`` or ``shared``."""

    def fill_took(self, seconds: dict[str, float]) -> None:
        """A fill is over, and spent so long in each phase that it went through (:mod:`...upstream.stopwatch`)."""

    def not_stored(self, reason: str) -> None:
        """The response of a fill was not stored. ``reason``: as in Cache-Status, ``invalidated`` if its URL
        was changed meanwhile, ``store`` if there was no room or the disk failed."""


class WriteBehind(Protocol):
    """A store that others share, which is told what is new in ours."""

    def stored(self, wanted: FillRequest, entry: Entry) -> None:
        """A response from the origin has been stored, whole or (``entry.spans``) in part."""


@dataclass(frozen=True, slots=True)
class SpanSettings:
    """How ranges are asked for. All are bytes."""

    block: int = 1024 * 1024
    """Spans begin and end at multiples of it; 0: just where they are wanted."""
    most: int = 16 * 1024 * 1024
    """The longest span that is asked for at once on behalf of a range."""
    whole: int | None = None
    """The length up to which an object is fetched whole when a range of it is wanted; ``None``: four blocks."""

    def fetches_whole(self, length: int | None) -> bool:
        return length is not None and length <= (4 * self.block if self.whole is None else self.whole)


class FillContext:
    """One per proxy."""

    def __init__(self, store: Store, limiter: OriginLimiter, sources: Sources, events: FillEvents) -> None:
        self.store = store
        self.limiter = limiter
        self.sources = sources
        self.events = events
        self.quick_abort_max = 1024 * 1024
        """Bytes left at which a fill that nobody waits for is finished all the same, if that takes no more than"""
        self.quick_abort_timeout = 10.0
        """so many seconds."""
        self.default_ttl = 0
        """Seconds for which a response that says nothing about its freshness, and has no validator, is kept."""
        self.spans = SpanSettings()
        self.heads = CallBatch()
        """The callbacks (:attr:`~.fill.Waiter.on_head`) of waiters without a task."""
        self.keys = KnownKeys()
        self.reasons = RecentReasons()
        self.trouble = Trouble()
        self.behind: WriteBehind | None = None

    @property
    def origin_timeout(self) -> float:
        """Seconds that an origin may send nothing."""
        return self.sources.origin.client.settings.timeout

    def guess_for(self, request: FillRequest, response: Headers) -> int | None:
        """Seconds of freshness for a response that says nothing at all, which it is then for us to guess (RFC 9111
        §4.2.2): for a URL that looks like a file's, asked for by nobody in particular. Query strings are left out for
        the reason of that section's note: they have long meant that something is worked out."""
        if (
            response.has_any(ABOUT_CACHING)
            or not self.default_ttl
            or "?" in request.target.path
            or has_credentials(request.headers, request.policy.credentials)
        ):
            return None
        return self.default_ttl

    def is_another_version(self, entry: Entry, *, unawares: bool) -> None:
        """The origin has another version than that of this entry: its parts go. ``unawares``: it wasn't asked for that,
        but for the rest. Each of its machines may name the same by another tag: until an answer shows otherwise, what
        is wanted is asked for in one piece, so that whoever was cut off by this gets it at the next try."""
        self.store.remove(entry)
        if unawares:
            self.keys.weak.add(entry.key)
