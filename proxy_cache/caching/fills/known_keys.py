"""What is remembered of keys for a while, beside the entries: that requests for them had better not wait for each
other, how much may be asked for at once, and heads of responses whose bodies are not stored."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ...semantics.credentials import has_credentials
from ...semantics.headers import Headers
from ...semantics.ranges import strong_validator
from ...semantics.storing import SIGNED_URL
from ...semantics.vary import in_short, matches, selecting_values, vary_names
from ...store.slots import key_hash
from .known_heads import KnownHeads
from .request import FillRequest, identifying_fields

REMEMBERED_FOR = 120.0
"""Seconds for which something is remembered of a key: that its responses can't be stored, so that requests for it do
not wait for each other."""
REMEMBERED_MOST = 10_000
"""Keys of which something is remembered; the oldest make room."""
KEY_MOST = 256
"""Characters of the longest of them that is kept as it is."""
MARK_MOST = 4096
"""Bytes, about, of the fields that are remembered with one of them. What would take more is not remembered."""
FIELD_OVERHEAD = 160
"""Bytes of that for each field, besides its name and its value."""


def _short(key: str) -> str | int:
    """What something is remembered by: tens of thousands of long keys would be much memory."""
    return key if len(key) <= KEY_MOST else key_hash(key)


def _size(vary: tuple[tuple[str, str | None], ...], identifying: frozenset[str]) -> int:
    """Bytes, about, that these take in memory."""
    fields = len(vary) + len(identifying)
    texts = sum(len(name) + len(value or "") for name, value in vary) + sum(map(len, identifying))
    return texts + fields * FIELD_OVERHEAD


class RecentKeys:
    """Keys of which something was true a short while ago."""

    def __init__(self) -> None:
        self._until: dict[str | int, float] = {}

    def __contains__(self, key: str) -> bool:
        if not self._until:
            return False
        at = _short(key)
        until = self._until.get(at)
        if until is None:
            return False
        if until < time.monotonic():
            del self._until[at]
            return False
        return True

    def add(self, key: str) -> None:
        self.discard(key)
        if len(self._until) >= REMEMBERED_MOST:
            del self._until[next(iter(self._until))]
        self._until[_short(key)] = time.monotonic() + REMEMBERED_FOR

    def discard(self, key: str) -> None:
        self._until.pop(_short(key), None)


@dataclass(frozen=True, slots=True)
class Uncacheable:
    """What is remembered of a response that could not be stored: whom else it is about.

    Of somebody who has logged in, say, or asks for another variant, it may well be that others get one that can be."""

    until: float
    """By the monotonic clock."""
    vary: tuple[tuple[str, str | None], ...]
    """The selecting values of the request that brought it (RFC 9111 §4.1), and"""
    identifying: frozenset[str]
    """the fields with which it said who had made it."""
    redirects: bool = False
    """It has sent the client elsewhere: one that had not logged in perhaps to where one does."""

    def is_about(self, headers: Headers) -> bool:
        return (
            self.until >= time.monotonic()
            and all(name in headers for name in self.identifying)
            and matches(self.vary, headers)
            and not (self.redirects and not self.identifying and has_credentials(headers))
        )


class KnownKeys:
    """Told of responses by the fills; bounded in number, and in memory."""

    def __init__(self) -> None:
        self.heads = KnownHeads()
        """Of responses whose bodies are not stored."""
        self._uncacheable: dict[str | int, Uncacheable] = {}
        self.exact = RecentKeys()
        """Keys of whose origin no more is to be asked than a client wants: it has made something odd of more."""
        self.weak = RecentKeys()
        """Those whose parts can't be put together, for want of a strong validator: only what is wanted is asked for."""
        self.unusable = RecentKeys()
        """Those of which even the range that a client wants was answered in a way that nothing can be made of."""
        self._lengths: dict[str | int, int] = {}

    def has_mark(self, key: str) -> bool:
        """Whether the last response for ``key`` could not be stored, whoever has asked for it."""
        return (key if len(key) <= KEY_MOST else key_hash(key)) in self._uncacheable

    def is_uncacheable(self, key: str, headers: Headers) -> bool:
        """Whether the last response for ``key`` was not storable, a short while ago, and one to this request would not
        be either."""
        mark = self._uncacheable.get(_short(key))
        return mark is not None and mark.is_about(headers)

    def remember(self, request: FillRequest, response: Headers, why_not: str | None, status: int = 200) -> None:
        """Take note of whether a response could be stored. What was the request's own doing is not held against the
        resource, nor is an error: it says nothing of what is there once it is over. A redirect counts if it speaks of
        caching."""
        key = request.key
        self.heads.discard(key)
        if why_not is not None and (status >= 400 or (status >= 300 and why_not == "no-freshness")):
            return
        at = key if len(key) <= KEY_MOST else key_hash(key)  # as _short, without the call: every miss comes here
        before = self._uncacheable.pop(at, None)
        if why_not in (None, "partial", "bypass", "request-no-store"):
            return
        if why_not == SIGNED_URL and request.range_fetch is None:
            return  # those who have the same URL may wait for each other
        names = vary_names(response) or ()
        identifying = identifying_fields(request).difference(names)
        vary = in_short(selecting_values(names, request.headers), request.headers) if names else ()
        until = time.monotonic() + REMEMBERED_FOR
        if before is not None and before.until >= time.monotonic() and not (before.vary or before.identifying):
            vary, identifying = (), frozenset()  # it was about everybody, and still is
        if (vary or identifying) and _size(vary, identifying) > MARK_MOST:
            return
        if len(self._uncacheable) >= REMEMBERED_MOST:
            del self._uncacheable[next(iter(self._uncacheable))]
        self._uncacheable[at] = Uncacheable(until, vary, identifying, status >= 300)

    def can_be_put_together(self, key: str, response: Headers) -> None:
        """Take note of whether parts of this can be, which its origin sends (RFC 9111 §3.4)."""
        if strong_validator(response) is None:
            self.weak.add(key)
        else:
            self.weak.discard(key)

    def length_is(self, key: str, length: int) -> None:
        """A HEAD has told how long something is that isn't stored. That is a hint: many a server says 0 there, or
        another wrong number (RFC 9110 §9.3.2 lets it leave out the field, not make it up)."""
        if not length:
            self.length_is_not_told(key)
            return
        if len(self._lengths) >= REMEMBERED_MOST:
            del self._lengths[next(iter(self._lengths))]
        self._lengths[_short(key)] = length

    def length_is_not_told(self, key: str) -> None:
        """What a HEAD has told was wrong."""
        self._lengths.pop(_short(key), None)

    def length_of(self, key: str) -> int | None:
        return self._lengths.get(_short(key))
