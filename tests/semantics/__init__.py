"""RFC 9110 and 9111 as tables: each row names the section that it is taken from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import hypothesis
from hypothesis import strategies as st

from proxy_cache.semantics.dates import format_http_date
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse

NOW = 1_700_000_000.0
"""When everything happens: a time of the tests' own."""


def given(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hypothesis, quick, with nothing left on the disk, and not upset by a busy machine."""
    settings = hypothesis.settings(max_examples=60)
    return lambda test: settings(hypothesis.given(*strategies)(test))


def h(*lines: str) -> Headers:
    """``h("ETag: x", "Vary: y")``"""
    fields = []
    for line in lines:
        name, _, value = line.partition(":")
        fields.append((name.encode("latin-1"), value.strip().encode("latin-1")))
    return Headers(fields)


def http_date(seconds: float = 0.0) -> str:
    """The HTTP-date ``seconds`` after :data:`NOW`."""
    return format_http_date(NOW + seconds)


def stored(
    *lines: str, status: int = 200, request: Iterable[str] = (), delay: float = 0.0, date: bool = True
) -> StoredResponse:
    """A response received at :data:`NOW`, ``delay`` seconds after it was asked for."""
    headers = h(*([f"Date: {http_date()}"] if date else []), *lines)
    return StoredResponse.of(status, headers, h(*request), NOW - delay, NOW)


# Input from a wire: arbitrary bytes, and text that is nearly right.
raw_fields = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=6)
KNOWN = (
    b"Cache-Control", b"Pragma", b"Expires", b"Date", b"Age", b"ETag", b"Last-Modified", b"Vary", b"Connection",
    b"Range", b"If-Range", b"If-None-Match", b"If-Modified-Since", b"Set-Cookie", b"Authorization", b"Accept",
)  # fmt: skip
SNIPPETS = (
    b"no-store", b"private", b"public", b"max-age=", b"max-age=60", b"s-maxage=5", b"no-cache", b"max-stale",
    b"min-fresh=3", b"must-revalidate", b"immutable", b"must-understand", b"stale-while-revalidate=9",
    b"stale-if-error=9", b"bytes=", b"0-",
    b"5-9", b"-3", b",", b";", b'"', b"\\", b"=", b" ", b"\t", b"*", b'W/"a"', b'"a"', b"accept", b"close", b"9" * 5000,
    b"Tue, 14 Nov 2023 22:13:20 GMT", b"0", b"-1", b"\xff", b"\r\n", b"\x00",
)  # fmt: skip
odd_values = st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(SNIPPETS), max_size=6).map(b"".join))
odd_headers = st.lists(st.tuples(st.sampled_from(KNOWN), odd_values), max_size=6).map(Headers)
