"""How large a head may be."""

from __future__ import annotations

from proxy_cache.semantics.limits import HeadLimits

LIMITS = HeadLimits(total=100, fields=3, line=40)


def test_a_head_within_its_limits() -> None:
    assert LIMITS.why_too_large([(b"a", b"b")] * 3, 40) is None
    assert LIMITS.why_too_large([(b"a", b"b" * 35)]) is None
    assert LIMITS.why_too_large([(b"a", b"b" * 35), (b"a", b"b" * 35), (b"a", b"b" * 13)]) is None
    assert LIMITS.why_too_large([]) is None


def test_each_limit_is_named() -> None:
    assert LIMITS.why_too_large([], 41) == "a first line of more than 40 bytes"
    assert LIMITS.why_too_large([(b"a", b"b" * 36)]) == "a field of more than 40 bytes"
    assert LIMITS.why_too_large([(b"a", b"b")] * 4) == "more than 3 fields"
    assert LIMITS.why_too_large([(b"a", b"b" * 35), (b"a", b"b" * 35), (b"a", b"b" * 14)]) == "more than 100 bytes"
