"""Validators and conditions: validating at the origin, and responding to clients with 304 (RFC 9110 §8.8, §13)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .dates import parse_http_date
from .entity_tags import TAG_IN_LIST, entity_tag, opaque_tag, strong_match, weak_match
from .headers import Headers, end_to_end
from .stored import StoredResponse

CONDITIONAL: Final = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range"})
"""RFC 9110 §13.1."""

_NO_WEIGHT: Final = re.compile(r"q=0(?:\.0{0,3})?")
_CODINGS_MAX: Final = 2048
"""Characters of an Accept-Encoding; a longer one counts as empty."""


def conditional_headers(stored: Sequence[StoredResponse]) -> list[tuple[str, str]]:
    """The fields that validate stored responses (RFC 9111 §4.3.1); none if they have no validators.

    Several variants of a key are validated at once: the origin's ETag tells which one is valid.
    """
    conditions = []
    # "MUST send the relevant entity tags", "SHOULD send the Last-Modified value […] if […] a single stored response is
    # being validated".
    tags = dict.fromkeys(one.etag for one in stored if one.etag is not None)
    if tags:
        conditions.append(("If-None-Match", ", ".join(tags)))
    if len(stored) == 1:
        if not tags and (opaque := opaque_tag(stored[0].headers)) is not None:
            conditions.append(("If-None-Match", opaque))  # the origin expects it back as it sent it
        modified = stored[0].last_modified
        if modified is not None and parse_http_date(modified) is not None:
            conditions.append(("If-Modified-Since", modified))
    return conditions


def is_another_version(request: Headers, stored: StoredResponse) -> bool:
    """Whether a request names another version by If-Match or If-Unmodified-Since (RFC 9110 §13.1.1, §13.1.4). A cache
    may ignore these, but a client that requests ranges of one version must not get those of another."""
    values = request.get_all("if-match")
    if values:
        tags = TAG_IN_LIST.findall(", ".join(values))
        etag = stored.etag
        return "*" not in values and not any(etag is not None and strong_match(tag, etag) for tag in tags)
    since = request.get("if-unmodified-since")
    before = parse_http_date(since) if since is not None else None
    if before is None:
        return False
    modified = parse_http_date(stored.last_modified) if stored.last_modified is not None else None
    return modified is None or modified > before


def may_stand_for(request: Headers, stored: StoredResponse) -> bool:
    """Whether a variant that this request does not select may be validated as its response.

    Only with a strong tag: servers that compress on the way out weaken the tag, and then send a 304 for the compressed
    variant to clients that can't decode it. For the same reason a coded body is only for requests that accept its
    coding, an uncoded one only for requests that accept none.
    """
    if stored.status != 200 or stored.etag is None or stored.etag.startswith("W/"):
        return False
    coding = (stored.headers.get("content-encoding") or "").strip(" \t").lower()
    accepted = accepted_codings(request)
    return coding in accepted if coding else not accepted


def accepted_codings(request: Headers) -> frozenset[str]:
    """The content codings that Accept-Encoding accepts (RFC 9110 §12.5.3), without identity and ``*``."""
    value = request.get("accept-encoding") or ""
    if len(value) > _CODINGS_MAX:
        return frozenset()
    accepted = set()
    for member in value.lower().split(","):
        coding, _, weight = member.partition(";")
        if not _NO_WEIGHT.fullmatch(weight.strip(" \t")):
            accepted.add(coding.strip(" \t"))
    return frozenset(accepted - {"", "identity", "*"})


def selected_by_304(stored: Sequence[StoredResponse], headers_304: Headers) -> int | None:
    """The index of the response that a 304 confirms, among those being validated; ``None`` if it is ambiguous (RFC 9111
    §4.3.4). A response that the request itself selects is the first.
    """
    new = end_to_end(headers_304)
    if len(stored) == 1:
        return 0 if stored[0].is_selected_by(new) else None
    tag = entity_tag(new)
    if tag is None:
        return None
    # "If the new response contains one or more strong validators, then each of those strong validators identifies a
    # selected representation for update"; with a weak one "the most recent of those matching stored responses".
    matching = [index for index, one in enumerate(stored) if one.etag is not None and weak_match(one.etag, tag)]
    if 0 in matching:
        return 0  # the one that this request selects
    return max(matching, key=lambda index: (stored[index].etag == tag, stored[index].date), default=None)


def is_conditional(request: Headers) -> bool:
    return request.has_any(CONDITIONAL)


def not_modified(request: Headers, status: int, response: Headers) -> bool:
    """Whether the client's conditions turn this response into a 304 (RFC 9110 §13.2.2).

    RFC 9111 §4.3.2: "If-Match and If-Unmodified-Since conditional header fields are not applicable to a cache".
    """
    if not 200 <= status < 300:
        return False  # RFC 9110 §13.2.1: conditions only apply if the response would be a 2xx
    tags = request.get("if-none-match")
    if tags is not None:
        # RFC 9110 §13.1.3: "MUST ignore If-Modified-Since if the request contains an If-None-Match header field", even
        # if no tag can be compared.
        return _any_tag_matches(tags, response)
    since = request.get_all("if-modified-since")
    if len(since) != 1:
        return False
    # RFC 9110 §13.1.3: ignored "if the received field value is not a valid HTTP-date".
    limit = parse_http_date(since[0])
    # RFC 9111 §4.3.2: without Last-Modified, "a cache SHOULD use the stored response's Date field value".
    value = response.get("last-modified") or response.get("date")
    modified = parse_http_date(value) if value is not None else None
    return limit is not None and modified is not None and modified <= limit


def _any_tag_matches(tags: str, response: Headers) -> bool:
    """RFC 9110 §13.1.2: "*" matches any response; tags are compared weakly, malformed ones byte by byte."""
    if tags == "*":
        return True
    tag = entity_tag(response)
    if tag is None:
        opaque = opaque_tag(response)
        return opaque is not None and (opaque == tags or opaque in [one.strip(" \t") for one in tags.split(",")])
    return any(weak_match(match[1], tag) for match in TAG_IN_LIST.finditer(tags))


NOT_MODIFIED_FIELDS: Final = frozenset({"cache-control", "content-location", "date", "etag", "expires", "vary"})
"""Fields of the 200 that its 304 has to repeat (RFC 9110 §15.4.5)."""


def not_modified_headers(headers: Headers) -> Headers:
    """The fields of a 304 in place of a response with ``headers``."""
    kept = NOT_MODIFIED_FIELDS
    # RFC 9110 §15.4.5: other metadata only "for the purpose of guiding cache updates (e.g., Last-Modified might be
    # useful if the response does not have an ETag field)".
    if "etag" not in headers:
        kept = kept | {"last-modified"}
    return headers.without(*(headers.names - kept))
