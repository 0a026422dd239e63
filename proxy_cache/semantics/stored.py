"""A stored response: its head, and what follows from it about freshness (RFC 9111 §3, §4.2)."""

from __future__ import annotations

from .dates import parse_http_date
from .directives import MAX_DELTA, CacheControl, parse_cache_control
from .headers import Headers, end_to_end
from .vary import selecting_values, vary_names

HEURISTIC_STATUSES = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses that may be stored without explicit freshness (RFC 9110 §15.1)."""
HEURISTIC_SHARE = 0.1
HEURISTIC_MOST = 86_400
"""Seconds. A tenth of the time since the last modification, a day at most (RFC 9111 §4.2.2 suggests the tenth)."""
NOT_UPDATED = frozenset({"content-length", "content-encoding", "content-range", "content-type", "transfer-encoding"})
"""Fields of a 304 that describe the stored body, and so are not taken over (RFC 9111 §3.2)."""


class StoredResponse:
    """The head of a stored response. All that depends on it alone is worked out here, once."""

    __slots__ = (
        "cache_control", "date", "etag", "headers", "heuristic", "initial_age", "last_modified", "lifetime",
        "request_time", "response_time", "status", "vary",
    )  # fmt: skip

    def __init__(
        self,
        status: int,
        headers: Headers,
        request_time: float,
        response_time: float,
        vary: tuple[tuple[str, str | None], ...],
        initial_age: int,
    ) -> None:
        self.status = status
        self.headers = headers
        """End-to-end fields, without Age."""
        self.request_time = request_time
        self.response_time = response_time
        self.vary = vary
        """The values, in the request, of the fields that Vary names (§4.1)."""
        self.initial_age = initial_age
        """Seconds: corrected_initial_age (§4.2.3)."""
        self.cache_control: CacheControl = parse_cache_control(headers.get_all("cache-control"))
        date = headers.get("date")
        parsed = parse_http_date(date) if date is not None else None
        self.date: float = response_time if parsed is None else parsed
        self.etag = headers.get("etag")
        self.last_modified = headers.get("last-modified")
        self.lifetime, self.heuristic = self._freshness_lifetime()

    @classmethod
    def of(
        cls, status: int, headers: Headers, request_headers: Headers, request_time: float, response_time: float
    ) -> StoredResponse:
        """From an answer as it came from the origin, and the request it answers."""
        return cls(
            status,
            end_to_end(headers).without("age"),
            request_time,
            response_time,
            selecting_values(vary_names(headers) or (), request_headers),
            _initial_age(headers, request_time, response_time),
        )

    def _freshness_lifetime(self) -> tuple[int, bool]:
        """§4.2.1, in its order of precedence, for a shared cache; and whether it is a guess."""
        control = self.cache_control
        if control.s_maxage is not None:
            return control.s_maxage, False
        if control.max_age is not None:
            return control.max_age, False
        if "expires" in self.headers:
            lines = self.headers.get_all("expires")
            expires = parse_http_date(lines[0]) if len(set(lines)) == 1 else None
            # "A cache recipient MUST interpret invalid date formats, especially the value "0", as representing a
            # time in the past" (§5.3).
            return (0 if expires is None else _clamp(expires - self.date)), False
        modified = parse_http_date(self.last_modified) if self.last_modified is not None else None
        if modified is not None and (self.status in HEURISTIC_STATUSES or control.public):
            return min(_clamp((self.date - modified) * HEURISTIC_SHARE), HEURISTIC_MOST), True
        return 0, True

    def age(self, now: float) -> int:
        """current_age, in seconds (§4.2.3)."""
        return min(self.initial_age + max(0, int(now - self.response_time)), MAX_DELTA)

    def ttl(self, now: float) -> int:
        """Seconds of freshness left; negative when stale."""
        return self.lifetime - self.age(now)

    def updated_by(self, headers_304: Headers, request_time: float, response_time: float) -> StoredResponse:
        """The response as a 304 confirms it: its fields replace the stored ones of the same name (§3.2, §4.3.4)."""
        fresh = end_to_end(headers_304).without("age", *NOT_UPDATED)
        kept = self.headers.without(*fresh.names)
        return StoredResponse(
            self.status,
            Headers((*kept.fields, *fresh.fields)),
            request_time,
            response_time,
            self.vary,
            _initial_age(headers_304, request_time, response_time),
        )

    def __repr__(self) -> str:
        return f"<StoredResponse {self.status}, lifetime {self.lifetime} s>"


def _clamp(seconds: float) -> int:
    return int(max(0.0, min(seconds, MAX_DELTA)))


def _initial_age(headers: Headers, request_time: float, response_time: float) -> int:
    """corrected_initial_age (§4.2.3). Of several Age values the first counts; an invalid one does not (§5.1)."""
    first = (headers.get("age") or "").split(",")[0].strip()
    age_value = min(int(first), MAX_DELTA) if first.isascii() and first.isdigit() and len(first) < 20 else 0
    date = headers.get("date")
    parsed = parse_http_date(date) if date is not None else None
    apparent_age = 0 if parsed is None else _clamp(response_time - parsed)
    return max(apparent_age, age_value + _clamp(response_time - request_time))
