"""Conditional requests: those we send to validate, and those we answer (RFC 9111 §4.3, RFC 9110 §13)."""

from __future__ import annotations

import re

from .dates import parse_http_date
from .headers import Headers
from .stored import StoredResponse

CONDITIONAL = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range"})
NOT_MODIFIED_FIELDS = frozenset({"cache-control", "content-location", "date", "etag", "expires", "vary"})
"""Fields that a 304 repeats (RFC 9110 §15.4.5); last-modified goes too where there is no etag."""

_TAG = re.compile(r'(?:W/)?"[^"]*"')


def conditional_headers(stored: StoredResponse) -> list[tuple[str, str]]:
    """The fields that turn a GET into a validation (§4.3.1): both, where both validators are known."""
    fields = []
    if stored.etag is not None:
        fields.append(("if-none-match", stored.etag))
    if stored.last_modified is not None:
        fields.append(("if-modified-since", stored.last_modified))
    return fields


def is_conditional(request: Headers) -> bool:
    """Whether the request asks for a 304 if nothing has changed."""
    return "if-none-match" in request or "if-modified-since" in request


def not_modified(request: Headers, status: int, response: Headers) -> bool:
    """Whether what the client has is what it would get (RFC 9110 §13.2.2: If-None-Match before If-Modified-Since)."""
    if status != 200:
        return False
    tags = request.get("if-none-match")
    if tags is not None:
        if tags.strip() == "*":
            return True
        etag = response.get("etag")
        return etag is not None and any(weak_match(tag, etag) for tag in _TAG.findall(tags))
    since = parse_http_date(request.get("if-modified-since") or "")
    if since is None:
        return False
    modified = parse_http_date(response.get("last-modified") or response.get("date") or "")
    return modified is not None and modified <= since


def not_modified_headers(headers: Headers) -> Headers:
    """The fields of a 304."""
    keep = NOT_MODIFIED_FIELDS if "etag" in headers else NOT_MODIFIED_FIELDS | {"last-modified"}
    return headers.without(*(headers.names - keep))


def weak_match(a: str, b: str) -> bool:
    """RFC 9110 §8.8.3.2: the opaque tags are equal, weak or not."""
    return a.removeprefix("W/") == b.removeprefix("W/")


def strong_match(a: str, b: str) -> bool:
    """RFC 9110 §8.8.3.2: equal, and neither is weak."""
    return a == b and not a.startswith("W/")
