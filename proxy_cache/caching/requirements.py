"""The requirements of a request, worked out once: its ranges, its conditions, and the fields its signature covers."""

from __future__ import annotations

from ..semantics.headers import Headers
from ..semantics.ranges import RangeSpec, requested
from ..semantics.signatures import signed_fields
from ..semantics.validation import CONDITIONAL
from .fills.known_heads import asks_for_changes


class Requirements:
    """Of one GET. ``path``: its target's, with the query, which may have a signature in it."""

    __slots__ = ("asks_for_changes", "exact_range", "is_bound", "is_for_origin", "ranges")

    def __init__(self, headers: Headers, path: str) -> None:
        self.ranges = requested(headers)
        """``None``: all of it (RFC 9110 §14.2)."""
        self.asks_for_changes = asks_for_changes(headers)
        """Whether it is answered 304 if nothing has changed, and a cache may say so."""
        self.is_for_origin = "if-match" in headers or "if-unmodified-since" in headers
        """RFC 9111 §4.3.2: these conditions "are not applicable to a cache"; only the origin may evaluate them."""
        signed = signed_fields(headers, path)
        self.exact_range: RangeSpec | None = None
        """The signed range; ``None`` if another may be asked for."""
        if self.ranges is not None and len(self.ranges) == 1 and "range" in signed:
            self.exact_range = self.ranges[0]
        self.is_bound = any(name in headers for name in signed & CONDITIONAL) or (
            "range" in signed and "range" in headers and self.exact_range is None
        )
        """Whether the request must go out unchanged: its signature covers conditions, or several ranges."""
