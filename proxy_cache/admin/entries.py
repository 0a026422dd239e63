"""``/api/v1/entries``: what is stored, page by page."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from ..caching.purge import HIDDEN
from ..semantics.headers import Headers
from ..semantics.redaction import redacted
from ..semantics.tags import has_tag, is_tag, tags_of
from ..semantics.url_patterns import HostPattern, UrlPattern
from ..settings import AdminSettings
from ..store.entry import Entry
from ..store.listing import Listed, Page, Position, Wish
from ..store.sweep import SweepError
from .endpoint import Endpoint, Parameter, json_text, shown
from .guard import bears_token
from .problems import Problem
from .proxy import Proxy

LIMIT_MAX: Final = 1000
TURN: Final = 0.002
"""Seconds at a stretch that entries are written down for."""
_SIZE: Final = re.compile(r"([0-9]{1,18})([kmgt]?)b?", re.IGNORECASE)
_AGE: Final = re.compile(r"([0-9]{1,12})([smhdw]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SORTS: Final[dict[str, tuple[Callable[[Listed], Any], bool]]] = {
    "url": (lambda one: one.key, False),
    "size": (lambda one: one.length, True),
    "age": (lambda one: one.stored, False),
    "hits": (lambda one: one.hits, True),
}
_SIZES: Final = {"type": "string", "pattern": "^[0-9]{1,18}[kmgtKMGT]?[bB]?$", "examples": ["10m"]}
_AGES: Final = {"type": "string", "pattern": "^[0-9]{1,12}[smhdw]?$", "examples": ["1d"]}
PARAMETERS: Final = (
    Parameter("host", "A host, as for a purge."),
    Parameter("match", "A URL, in which * stands for any characters."),
    Parameter("tag", "A tag in Surrogate-Key or Cache-Tag."),
    Parameter("larger_than", "Bytes of the body: 1000, 10m.", _SIZES),
    Parameter("smaller_than", "The same.", _SIZES),
    Parameter("older_than", "Time since it was stored, or last validated: 90, 10m, 12h, 30d.", _AGES),
    Parameter("newer_than", "The same.", _AGES),
    Parameter("min_hits", "Uses since the proxy has started.", {"type": "integer", "minimum": 0}),
    Parameter("state", "Whether it is fresh.", {"type": "string", "enum": ["fresh", "stale"]}),
    Parameter(
        "sort", "url; size, the largest first; age, the oldest first; hits, the most first. Without: as stored.",
        {"type": "string", "enum": list(_SORTS)},
    ),
    Parameter("limit", "The most of a page.", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 100}),
    Parameter("cursor", "next of the page before, with the other parameters as they were."),
)  # fmt: skip
ANSWER: Final = {
    "type": "object",
    "required": ["entries", "next"],
    "properties": {
        "entries": {"type": "array", "items": {"type": "object", "required": ["url", "status", "size_bytes"]}},
        "next": {"type": ["string", "null"], "description": "A cursor; null at the end."},
        "total": {"type": "integer", "description": "On all pages; only if they are sorted."},
    },
}


def endpoint(proxy: Proxy) -> Endpoint:
    async def handle(request: web.Request) -> web.Response:
        store, settings = proxy.store, proxy.settings
        if store is None or not store.is_open:
            raise Problem(503, "the proxy is starting or stopping")
        now = time.time()
        whole = bears_token(request.headers.get("Authorization"), settings.admin if settings else AdminSettings())
        try:
            page = await store.listing.page(wish(dict(request.query), now, whole=whole))
        except SweepError as error:
            raise Problem(500, str(error)) from error
        return json_text(await _shown_page(page, now, whole=whole))

    return Endpoint(
        "GET", "/entries", handle, "What is stored.",
        "Secrets in URLs are hidden, unless the request has the token.", PARAMETERS, answer=ANSWER,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Where:
    pattern: HostPattern | None
    like: UrlPattern | None
    tag: str | None
    shown: Callable[[str], str]
    """What is shown of a URL. Only that may match: else a few patterns would tell the rest, letter by letter."""

    @property
    def needle(self) -> bytes | None:
        return self.tag.encode() if self.tag is not None else None

    def matches(self, key: str, headers: Headers) -> bool:
        if key.endswith(HIDDEN):
            return False
        if not all(one is None or one.matches(key) for one in (self.pattern, self.like)):
            return False
        if self.like is not None and not self.like.matches(self.shown(key)):
            return False
        return self.tag is None or has_tag(headers, self.tag)


def wish(query: dict[str, str], now: float, *, whole: bool) -> Wish:
    """What is to be listed. ``whole``: for somebody who may see whole URLs. Raises :class:`Problem`."""
    shown_url = str if whole else redacted
    try:
        host, match = query.get("host"), query.get("match")
        where = _Where(
            HostPattern(host) if host is not None else None,
            UrlPattern(match) if match is not None else None,
            query.get("tag"),
            shown_url,
        )
    except ValueError as error:
        raise Problem(400, f"host or match: {error}") from error
    if where.tag is not None and not is_tag(where.tag):
        raise Problem(400, "tag must be of visible ASCII characters, without commas, and 1024 at the most")
    checks = list(_checks(query, now))
    sort = query.get("sort")
    if sort is not None and sort not in _SORTS:
        raise Problem(400, f"sort must be one of {', '.join(_SORTS)}, not {shown(sort)}")
    sorted_by, descending = _SORTS[sort] if sort is not None else (None, False)

    def url(one: Listed) -> str:
        # As it is shown: a cursor has it, and the place of a secret in the order would tell it.
        return shown_url(one.key)

    cursor = query.get("cursor")
    return Wish(
        where, lambda one: all(check(one) for check in checks), _number(query, "limit", 100, range(1, LIMIT_MAX + 1)),
        url if sort == "url" else sorted_by, descending, _position(cursor, sort) if cursor is not None else None,
        _state(query, now),
    )  # fmt: skip


def _checks(query: dict[str, str], now: float) -> list[Callable[[Listed], bool]]:
    checks: list[Callable[[Listed], bool]] = []
    if (larger := _size(query, "larger_than")) is not None:
        checks.append(lambda one: one.length > larger)
    if (smaller := _size(query, "smaller_than")) is not None:
        checks.append(lambda one: one.length < smaller)
    if (older := _age(query, "older_than")) is not None:
        checks.append(lambda one: now - one.stored > older)
    if (newer := _age(query, "newer_than")) is not None:
        checks.append(lambda one: now - one.stored < newer)
    if least := _number(query, "min_hits", 0, range(2**62)):
        checks.append(lambda one: one.hits >= least)
    return checks


def _state(query: dict[str, str], now: float) -> Callable[[Entry], bool] | None:
    state = query.get("state")
    if state is None:
        return None
    if state not in ("fresh", "stale"):
        raise Problem(400, f"state must be fresh or stale, not {shown(state)}")
    return lambda entry: (now < entry.response.fresh_until) == (state == "fresh")


def _number(query: dict[str, str], name: str, default: int, allowed: range) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) in allowed):
        most = f"from {allowed.start} to {allowed.stop - 1}"
        raise Problem(400, f"{name} must be a number {most}, not {shown(text)}")
    return int(text)


def _size(query: dict[str, str], name: str) -> int | None:
    if (text := query.get(name)) is None:
        return None
    if (match := _SIZE.fullmatch(text)) is None:
        raise Problem(400, f"{name} must be a size such as 1000 or 10m, not {shown(text)}")
    return int(match[1]) << 10 * ("kmgt".find(match[2].lower()) + 1 if match[2] else 0)


def _age(query: dict[str, str], name: str) -> int | None:
    if (text := query.get(name)) is None:
        return None
    if (match := _AGE.fullmatch(text)) is None:
        raise Problem(400, f"{name} must be a time such as 90, 10m, 12h or 30d, not {shown(text)}")
    return int(match[1]) * _SECONDS[match[2]]


# -- cursors -----------------------------------------------------------------------------------------------------


def _cursor(position: Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def _position(cursor: str, sort: str | None) -> Position:
    """Raises :class:`Problem`."""
    kinds: dict[str | None, tuple[type, ...]] = {None: (type(None),), "url": (str,), "age": (int, float)}
    try:
        value, entry_id = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(value, kinds.get(sort, (int,))) or not isinstance(entry_id, int) or not 0 <= entry_id < 2**62:
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise Problem(400, "cursor is none of this list's") from None
    return value, entry_id


# -- what is shown -----------------------------------------------------------------------------------------------


async def _shown_page(page: Page, now: float, *, whole: bool) -> str:
    """As JSON, with turns for everybody else in between: the entries of one page may have a million tags."""
    entries, until = [], time.monotonic() + TURN
    for one in page.listed:
        if one.entry is not None:
            entries.append(json.dumps(_shown(one, one.entry, now, whole=whole)))
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + TURN
    end = json.dumps(_cursor(page.end) if page.end is not None else None)
    total = f', "total": {page.total}' if page.total is not None else ""
    return f'{{"entries": [{", ".join(entries)}], "next": {end}{total}}}'


def _shown(one: Listed, entry: Entry, now: float, *, whole: bool) -> dict[str, Any]:
    response = entry.response
    is_fresh = now < response.fresh_until
    return {
        "url": entry.key if whole else redacted(entry.key),
        "status": response.status,
        "size_bytes": entry.length,
        "present_bytes": entry.present,
        "stored_at": _moment(response.response_time),
        "age_seconds": max(0, int(now - one.stored)),  # not the origin's Age: as older_than has it
        "fresh_until": _moment(response.response_time + response.lifetime - response.initial_age),
        "state": "fresh" if is_fresh else "stale",
        "hits": one.hits,
        "last_hit_at": _moment(one.used) if one.hits else None,
        "vary": dict(response.vary),
        "etag": response.etag,
        "last_modified": response.last_modified,
        "tags": list(tags_of(response.headers)),
    }


def _moment(seconds: float) -> str | None:
    """As RFC 3339 has it; ``None`` for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
