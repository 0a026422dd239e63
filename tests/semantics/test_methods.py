"""Which methods are safe (RFC 9110 §9.2.1)."""

from __future__ import annotations

import pytest

from proxy_cache.semantics.methods import is_safe


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY", "PRI"])
def test_registered_as_safe(method: str) -> None:
    assert is_safe(method)
    assert not is_safe(method.lower()), "names of methods are case-sensitive"


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "PATCH", "DELETE", "COPY", "MOVE", "LOCK", "MERGE", "FROBNICATE", ""]
)
def test_not_safe_or_not_known_to_be(method: str) -> None:
    assert not is_safe(method)
