"""Heads of responses whose bodies are not stored: enough to answer a condition (RFC 9111 §4.3.2).

Agents that have an object already ask whether it has changed. The origin's 304 to one of them has the validators and
the lifetime of a 200 (RFC 9110 §15.4.5): while fresh it answers all others with the same condition. Later it predicts a
304, so that no body is fetched for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...semantics.entity_tags import entity_tag
from ...semantics.headers import Headers
from ...semantics.stored import StoredResponse
from ...semantics.validation import NOT_MODIFIED_FIELDS, not_modified
from ...semantics.vary import matches
from ...store.entry import head_size
from ...store.index import Entry

HEADS_MAX: Final = 4096
"""Heads in memory; the one longest not updated makes room."""
HEAD_LARGEST: Final = 4096
"""Bytes of the largest head that is kept, with its selecting fields and its key."""
_KEPT: Final = NOT_MODIFIED_FIELDS | {"last-modified"}

REVALIDATING: Final = frozenset({"if-none-match", "if-modified-since"})
"""The conditions that a cache may evaluate (RFC 9111 §4.3.2)."""
_FOR_THE_ORIGIN: Final = frozenset({"if-match", "if-unmodified-since"})


def asks_for_changes(request: Headers) -> bool:
    """Whether a GET is answered 304 if nothing has changed, and a cache may say so."""
    return request.has_any(REVALIDATING) and not request.has_any(_FOR_THE_ORIGIN)


def condition_holds(request: Headers, response: StoredResponse) -> bool:
    """Whether a 200 with this head makes the answer to this request a 304."""
    return asks_for_changes(request) and response.status == 200 and not_modified(request, 200, response.headers)


def head_of_304(request: Headers, headers_304: Headers) -> Headers:
    """The header of the corresponding 200, as far as a 304 tells. A validator that it lacks is the client's own: its
    only tag, or the date of ``If-Modified-Since``."""
    headers = headers_304
    if "etag" not in headers:
        tag = entity_tag(Headers().add("ETag", request.get("if-none-match") or ""))
        if tag is not None:
            headers = headers.add("ETag", tag)
    if "last-modified" not in headers and "if-none-match" not in request:
        since = request.get("if-modified-since")
        if since is not None:
            headers = headers.add("Last-Modified", since)
    return headers


class KnownHeads:
    """The latest head of each key."""

    def __init__(self) -> None:
        self._heads: dict[str, StoredResponse] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, key: str) -> bool:
        return key in self._heads

    def tell(self, key: str, response: StoredResponse) -> None:
        """Keep a head. The origin has sent it, and it may be stored."""
        self.discard(key)
        kept = _KEPT if response.targeted is None else _KEPT | {response.targeted}
        headers = response.headers.without_any(frozenset(response.headers.names - kept))
        if response.etag is None and response.last_modified is None:
            return
        kept_response = StoredResponse(
            200, headers, response.request_time, response.response_time, response.vary, response.initial_age,
            response.assigned_lifetime, response.targeted,
        )  # fmt: skip
        if len(key) + head_size(kept_response) > HEAD_LARGEST:
            return
        if len(self._heads) >= HEADS_MAX:
            del self._heads[next(iter(self._heads))]
        self._heads[key] = kept_response

    def discard(self, key: str) -> None:
        """It may be out of date."""
        self._heads.pop(key, None)

    def discard_all(self, is_meant: Callable[[str], bool]) -> None:
        """The same of all keys that are meant."""
        for key in [key for key in self._heads if is_meant(key)]:
            del self._heads[key]

    def find(self, key: str, request: Headers) -> StoredResponse | None:
        """The head that this request selects (RFC 9111 §4.1), fresh or not."""
        response = self._heads.get(key)
        return response if response is not None and matches(response.vary, request) else None

    def newer(self, key: str, request: Headers, stored: Entry | None) -> StoredResponse | None:
        """The head that makes this request's condition hold, if it is newer than the ``stored`` response: its body was
        never stored since only conditional requests came."""
        if stored is None or key not in self._heads:
            return None
        response = self.find(key, request)
        if response is None or response.request_time <= stored.response.request_time:
            return None
        return response if condition_holds(request, response) else None

    def expects_304(self, key: str, request: Headers) -> bool:
        """Whether the latest head predicts a 304 to this request."""
        response = self.find(key, request)
        return response is not None and condition_holds(request, response)

    def expects_body(self, key: str, request: Headers) -> bool:
        """Whether the latest head predicts a body in answer to this conditional request."""
        response = self.find(key, request)
        return response is not None and not condition_holds(request, response)
