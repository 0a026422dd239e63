"""Which methods may be sent a second time (RFC 9110 §9.2.2)."""

from __future__ import annotations

from typing import Final

IDEMPOTENT: Final = frozenset(
    {
        # RFC 9110 §9.2.2: PUT, DELETE and the safe ones; the rest as IANA's registry of methods has it.
        "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY", "PROPFIND", "REPORT", "SEARCH",
        "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "MERGE", "MKACTIVITY",
        "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPPATCH", "REBIND", "UNBIND",
        "UNCHECKOUT", "UNLINK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
    }
)  # fmt: skip


def is_idempotent(method: str) -> bool:
    """Whether a request with this method has the same effect when it arrives twice. Unknown methods have not."""
    return method in IDEMPOTENT
