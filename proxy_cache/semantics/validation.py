"""Validators and conditions: asking the origin, and answering the client with 304 (RFC 9110 §8.8, §13)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .dates import parse_http_date
from .headers import Headers

if TYPE_CHECKING:
    from .stored import StoredResponse

CONDITIONAL: Final = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range"})
"""RFC 9110 §13.1."""

# RFC 9110 §8.8.3. Space is no etagc, but is seen, and does no harm between quotes.
_TAG: Final = r'(?:W/)?"[\x20\x21\x23-\x7e\x80-\xff]*"'
_ENTITY_TAG: Final = re.compile(_TAG)
_TAG_IN_LIST: Final = re.compile(rf"(?:^|,)[ \t]*({_TAG})[ \t]*(?=,|$)")


def entity_tag(headers: Headers) -> str | None:
    """The ETag of a response, if there is exactly one and it is well-formed."""
    value = headers.get("etag")
    return value if value is not None and _ENTITY_TAG.fullmatch(value) else None


def strong_match(a: str, b: str) -> bool:
    """RFC 9110 §8.8.3.2: "equivalent if both are not weak and their opaque-tags match character-by-character"."""
    return a == b and not a.startswith("W/")


def weak_match(a: str, b: str) -> bool:
    """RFC 9110 §8.8.3.2: equivalent if the opaque-tags match, "regardless of either or both being tagged as weak"."""
    return a.removeprefix("W/") == b.removeprefix("W/")


def conditional_headers(stored: StoredResponse) -> list[tuple[str, str]]:
    """The fields that validate a stored response (RFC 9111 §4.3.1); none if it has no validator."""
    conditions = []
    # "MUST send the relevant entity tags", "SHOULD send the Last-Modified value […] if […] a single stored response is
    # being validated".
    if stored.etag is not None:
        conditions.append(("If-None-Match", stored.etag))
    if stored.last_modified is not None and parse_http_date(stored.last_modified) is not None:
        conditions.append(("If-Modified-Since", stored.last_modified))
    return conditions


def is_conditional(request: Headers) -> bool:
    return any(name in request for name in CONDITIONAL)


def not_modified(request: Headers, status: int, response: Headers) -> bool:
    """Whether the client's conditions are answered with 304 instead of this response (RFC 9110 §13.2.2).

    RFC 9111 §4.3.2: "If-Match and If-Unmodified-Since conditional header fields are not applicable to a cache".
    """
    if status != 200:
        return False  # RFC 9110 §13.2.1: conditions count only where the answer without them were a 2xx
    wanted = request.get("if-none-match")
    if wanted is not None:
        # RFC 9110 §13.1.3: "MUST ignore If-Modified-Since if the request contains an If-None-Match header field", also
        # where no tag can be compared.
        return _any_tag_matches(wanted, response)
    since = request.get_all("if-modified-since")
    if len(since) != 1:
        return False
    # RFC 9110 §13.1.3: ignored "if the received field value is not a valid HTTP-date".
    limit = parse_http_date(since[0])
    # RFC 9111 §4.3.2: without Last-Modified, "a cache SHOULD use the stored response's Date field value".
    value = response.get("last-modified") or response.get("date")
    modified = parse_http_date(value) if value is not None else None
    return limit is not None and modified is not None and modified <= limit


def _any_tag_matches(wanted: str, response: Headers) -> bool:
    """RFC 9110 §13.1.2: "*" matches anything there is; tags are compared weakly."""
    if wanted == "*":
        return True
    tag = entity_tag(response)
    if tag is None:
        return False
    return any(weak_match(match[1], tag) for match in _TAG_IN_LIST.finditer(wanted))


NOT_MODIFIED_FIELDS: Final = frozenset({"cache-control", "content-location", "date", "etag", "expires", "vary"})
"""What a 304 has to repeat of the 200 (RFC 9110 §15.4.5)."""


def not_modified_headers(headers: Headers) -> Headers:
    """The fields of the 304 that stands for a response with ``headers``."""
    kept = NOT_MODIFIED_FIELDS
    # RFC 9110 §15.4.5: other metadata only "for the purpose of guiding cache updates (e.g., Last-Modified might be
    # useful if the response does not have an ETag field)".
    if "etag" not in headers:
        kept = kept | {"last-modified"}
    return headers.without(*(headers.names - kept))
