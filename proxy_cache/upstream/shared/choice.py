"""Which responses are written to the shared store (``cache_shared_write``).

This is about what is worth it, and about whom a response is for. Whether a response may answer a request is decided
when it is read, by RFC 9111 and the rules of the reader: nothing is served longer for being in the bucket.
"""

from __future__ import annotations

import re
from typing import Final

from ...semantics.credentials import is_credential
from ...semantics.stored import StoredResponse
from ...store.entry import Entry
from ..source import Wanted

STATUSES: Final = frozenset({200, 203, 300, 301, 308})
"""Not 404 and 410: a package that is published in the next minute would be missing for the whole fleet."""
FOR_EVER: Final = 31_536_000
"""Seconds, a year: how origins say "never changes" that don't know ``immutable`` (RFC 2616 §14.21)."""
WORTH_IT: Final = 60
"""Seconds for which a response without a validator has to be fresh yet."""

_CONTENT: Final = re.compile(
    # A digest as (a part of) a segment of the path: git's object names and registries of containers (sha256:…). Split
    # over folders it is found by its longest piece: at least 40 digits.
    r"(?<![0-9a-z])[0-9a-f]{40,128}(?![0-9a-z])"
)


def is_worth_writing(mode: str, wanted: Wanted, entry: Entry, now: float) -> bool:
    """``mode``: ``immutable``, ``all`` or ``off``. ``now``: unix time."""
    response = entry.response
    if mode == "off" or entry.spans is not None or not is_for_all(wanted, response):
        return False
    left = response.ttl(now)
    if mode == "all":
        return response.etag is not None or response.last_modified is not None or left >= WORTH_IT
    if response.status != 200 or left <= 0 or response.always_validate:
        return False
    if response.cache_control.immutable or wanted.policy.rule_for(response.status, response.headers) is not None:
        return True
    return (not response.heuristic and response.lifetime >= FOR_EVER) or names_its_content(wanted.key)


def is_for_all(wanted: Wanted, response: StoredResponse) -> bool:
    """Whether it is nobody's own, by the request's fields and by its own: also where a rule lets *this* proxy keep what
    the origin calls private."""
    control = response.cache_control
    return (
        response.status in STATUSES
        and not wanted.is_personal
        and not (control.private or control.private_fields or control.no_store)
        and "set-cookie" not in response.headers
        and not any(name == "*" or is_credential(name, wanted.policy.credentials) for name, _ in response.vary)
    )


def names_its_content(key: str) -> bool:
    """Whether a URL has a digest of what it names in its path: another content would have another URL."""
    path = key.partition("://")[2].partition("/")[2].partition("?")[0]
    return _CONTENT.search(path.lower()) is not None
