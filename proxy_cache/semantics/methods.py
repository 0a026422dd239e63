"""What a request's method says about it (RFC 9110 §9)."""

from __future__ import annotations

from typing import Final

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "PRI", "PROPFIND", "QUERY", "REPORT", "SEARCH", "TRACE"})
"""The methods that IANA's registry of HTTP methods has as safe (RFC 9110 §9.2.1, §16.1.1)."""

IDEMPOTENT_METHODS: Final = SAFE_METHODS | {
    "PUT", "DELETE", "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "MERGE",
    "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPPATCH", "REBIND",
    "UNBIND", "UNCHECKOUT", "UNLINK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
}  # fmt: skip
"""The safe ones, PUT, DELETE, and what the registry has besides (RFC 9110 §9.2.2)."""


def is_safe(method: str) -> bool:
    """Whether a method is known to be safe: it changes nothing, so nothing that is stored is invalidated by it.

    RFC 9111 §4.4: "A cache MUST invalidate the target URI […] when it receives a non-error status code in response to
    an unsafe request method (including methods whose safety is unknown)". Names of methods are case-sensitive (RFC 9110
    §9.1).
    """
    return method in SAFE_METHODS


def is_idempotent(method: str) -> bool:
    """Whether a request with this method has the same effect when it arrives twice, so that it may be sent again.
    Unknown methods have not (RFC 9110 §9.2.2)."""
    return method in IDEMPOTENT_METHODS
