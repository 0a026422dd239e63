"""Properties of request methods (RFC 9110 §9)."""

from __future__ import annotations

from typing import Final

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "PRI", "PROPFIND", "QUERY", "REPORT", "SEARCH", "TRACE"})
"""The methods listed as safe in IANA's registry of HTTP methods (RFC 9110 §9.2.1, §16.1.1)."""

IDEMPOTENT_METHODS: Final = SAFE_METHODS | {
    "PUT", "DELETE", "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "MERGE",
    "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPPATCH", "REBIND",
    "UNBIND", "UNCHECKOUT", "UNLINK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
}  # fmt: skip
"""The safe ones, PUT, DELETE, and others of the registry (RFC 9110 §9.2.2)."""


def is_safe(method: str) -> bool:
    """Whether a method is known to be safe: it changes nothing, so it invalidates nothing.

    RFC 9111 §4.4: "A cache MUST invalidate the target URI […] when it receives a non-error status code in response to
    an unsafe request method (including methods whose safety is unknown)". Names of methods are case-sensitive (RFC 9110
    §9.1).
    """
    return method in SAFE_METHODS


def is_idempotent(method: str) -> bool:
    """Whether a request with this method may be sent twice with the same effect. Unknown methods may not (RFC 9110
    §9.2.2)."""
    return method in IDEMPOTENT_METHODS


COUNTED_METHODS: Final = ("OPTIONS", "TRACE")
"""Methods whose Max-Forwards counts (RFC 9110 §7.6.2)."""


def hops_left(method: str, max_forwards: str) -> int | None:
    """How many more may forward a request with this Max-Forwards; ``None`` if it doesn't say. Other methods' need not
    be heeded (RFC 9110 §7.6.2)."""
    value = max_forwards.strip()
    if method not in COUNTED_METHODS or not (value.isascii() and value.isdigit() and len(value) <= 18):
        return None
    return int(value)
