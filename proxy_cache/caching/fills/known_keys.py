"""Notes about keys, kept for a while beside the entries: that their responses can't be shared, how much to ask for at
once, and heads of responses whose bodies are not stored."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ...semantics.credentials import has_credentials
from ...semantics.headers import Headers
from ...semantics.ranges import strong_validator
from ...semantics.storing import SIGNED_URL
from ...semantics.vary import in_short, matches, selecting_values, vary_names
from ...store.columns import key_hash
from .known_heads import KnownHeads
from .request import FillRequest, identifying_fields

REMEMBERED_FOR = 120.0
"""Seconds for which a note is kept."""
REMEMBERED_MAX = 10_000
"""Notes of each kind; the oldest makes room."""
KEY_MAX = 256
"""Characters of a key; of a longer one the hash is kept."""
MARK_MAX = 4096
"""Bytes, about, of the request fields in one note. A larger note is not kept."""
FIELD_OVERHEAD = 160
"""Bytes a field takes, besides its name and value."""


def _short(key: str) -> str | int:
    """The key of a note: tens of thousands of long URLs would take much memory."""
    return key if len(key) <= KEY_MAX else key_hash(key)


def _size(vary: tuple[tuple[str, str | None], ...], identifying: frozenset[str]) -> int:
    """Bytes in memory, about."""
    fields = len(vary) + len(identifying)
    texts = sum(len(name) + len(value or "") for name, value in vary) + sum(map(len, identifying))
    return texts + fields * FIELD_OVERHEAD


class RecentKeys:
    """A set of keys, each forgotten after :data:`REMEMBERED_FOR` seconds."""

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
        if len(self._until) >= REMEMBERED_MAX:
            del self._until[next(iter(self._until))]
        self._until[_short(key)] = time.monotonic() + REMEMBERED_FOR

    def discard(self, key: str) -> None:
        self._until.pop(_short(key), None)


@dataclass(frozen=True, slots=True)
class Uncacheable:
    """A response could not be stored. Which other requests that applies to: without these credentials, or for another
    variant, the response may well be storable."""

    until: float
    """By the monotonic clock."""
    vary: tuple[tuple[str, str | None], ...]
    """The selecting values of that request (RFC 9111 §4.1)."""
    identifying: frozenset[str]
    """The names of its fields with credentials."""
    redirects: bool = False
    """It was a redirect: for a request without credentials perhaps to a login page."""

    def is_about(self, headers: Headers) -> bool:
        return (
            self.until >= time.monotonic()
            and all(name in headers for name in self.identifying)
            and matches(self.vary, headers)
            and not (self.redirects and not self.identifying and has_credentials(headers))
        )


class KnownKeys:
    """Filled in by the fills; bounded in number and in memory."""

    def __init__(self) -> None:
        self.heads = KnownHeads()
        """Of responses whose bodies are not stored."""
        self._uncacheable: dict[str | int, Uncacheable] = {}
        self.exact = RecentKeys()
        """Their origin has answered a block oddly: ask for no more than a client wants."""
        self.weak = RecentKeys()
        """No strong validator, so that parts can't be combined (RFC 9111 §3.4): ask for no more than a client wants."""
        self.unusable = RecentKeys()
        """Even a client's own range was answered in an unusable way."""
        self._lengths: dict[str | int, int] = {}

    def has_mark(self, key: str) -> bool:
        """Whether the last response for ``key`` could not be stored, whoever has asked for it."""
        return (key if len(key) <= KEY_MAX else key_hash(key)) in self._uncacheable

    def is_uncacheable(self, key: str, headers: Headers) -> bool:
        """Whether a recent response for ``key`` could not be stored, and that applies to this request."""
        mark = self._uncacheable.get(_short(key))
        return mark is not None and mark.is_about(headers)

    def remember(self, request: FillRequest, response: Headers, why_not: str | None, status: int = 200) -> None:
        """Note whether a response could be stored. Not if the request was the reason, nor for an error, which is about
        this moment. A redirect counts if it speaks of caching."""
        key = request.key
        self.heads.discard(key)
        if why_not is not None and (status >= 400 or (status >= 300 and why_not == "no-freshness")):
            return
        at = key if len(key) <= KEY_MAX else key_hash(key)  # as _short, inlined: every miss comes here
        before = self._uncacheable.pop(at, None)
        if why_not in (None, "partial", "bypass", "request-no-store"):
            return
        if why_not == SIGNED_URL and request.range_fetch is None:
            return  # requests with the same URL may share it
        names = vary_names(response) or ()
        identifying = identifying_fields(request).difference(names)
        vary = in_short(selecting_values(names, request.headers), request.headers) if names else ()
        until = time.monotonic() + REMEMBERED_FOR
        if before is not None and before.until >= time.monotonic() and not (before.vary or before.identifying):
            vary, identifying = (), frozenset()  # it applied to all requests, and still does
        if (vary or identifying) and _size(vary, identifying) > MARK_MAX:
            return
        if len(self._uncacheable) >= REMEMBERED_MAX:
            del self._uncacheable[next(iter(self._uncacheable))]
        self._uncacheable[at] = Uncacheable(until, vary, identifying, status >= 300)

    def can_be_put_together(self, key: str, response: Headers) -> None:
        """Note whether parts of this can be combined (RFC 9111 §3.4)."""
        if strong_validator(response) is None:
            self.weak.add(key)
        else:
            self.weak.discard(key)

    def length_is(self, key: str, length: int) -> None:
        """The length of an object that isn't stored, from a HEAD. It is a hint: many a server says 0 there, or another
        wrong number (RFC 9110 §9.3.2 lets it leave out the field, not make it up)."""
        if not length:
            self.length_is_not_told(key)
            return
        if len(self._lengths) >= REMEMBERED_MAX:
            del self._lengths[next(iter(self._lengths))]
        self._lengths[_short(key)] = length

    def length_is_not_told(self, key: str) -> None:
        """The HEAD was wrong."""
        self._lengths.pop(_short(key), None)

    def length_of(self, key: str) -> int | None:
        return self._lengths.get(_short(key))
