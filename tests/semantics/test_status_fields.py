from __future__ import annotations

import re

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.status_fields import PROXY_ERRORS, cache_status, proxy_status

from . import given


def test_cache_status() -> None:
    """RFC 9211 §2, §4"""
    assert cache_status("example", hit=True) == "example; hit"
    assert cache_status("example", hit=True, ttl=376) == "example; hit; ttl=376"
    assert cache_status("example", hit=True, ttl=-412, detail="overload") == "example; hit; ttl=-412; detail=overload"
    assert cache_status("example", fwd="uri-miss") == "example; fwd=uri-miss"
    assert (
        cache_status("example", fwd="stale", fwd_status=304, ttl=60, stored=True, collapsed=True)
        == "example; fwd=stale; fwd-status=304; stored; collapsed; ttl=60"
    )
    assert cache_status("example") == "example"
    assert cache_status("a cache", fwd="bypass", detail='a "b"\\') == '"a cache"; fwd=bypass; detail="a \\"b\\"\\\\"'
    # §2.2: "Forward Reason [is] mutually exclusive with hit"
    assert cache_status("example", hit=True, fwd="stale", fwd_status=304, stored=True) == "example; hit"


def test_proxy_status() -> None:
    """RFC 9209 §2.1"""
    assert proxy_status("example", "dns_error") == "example; error=dns_error"
    assert (
        proxy_status("example", "http_protocol_error", received_status=200, next_hop="example.com:80", detail="bad")
        == 'example; error=http_protocol_error; next-hop=example.com:80; received-status=200; details="bad"'
    )
    assert proxy_status("example", "dns_error", next_hop="[::1]:80") == 'example; error=dns_error; next-hop="[::1]:80"'


@pytest.mark.parametrize(
    ("error", "status"),
    [  # RFC 9209 §2.3
        ("dns_timeout", 504), ("dns_error", 502), ("destination_unavailable", 503), ("connection_refused", 502),
        ("connection_terminated", 502), ("connection_timeout", 504), ("connection_read_timeout", 504),
        ("connection_limit_reached", 503), ("tls_protocol_error", 502), ("tls_certificate_error", 502),
        ("http_request_denied", 403), ("http_response_incomplete", 502), ("http_response_timeout", 504),
        ("http_protocol_error", 502), ("proxy_internal_error", 500), ("proxy_loop_detected", 502),
    ],
)  # fmt: skip
def test_errors(error: str, status: int) -> None:
    assert PROXY_ERRORS[error] == status


# RFC 8941: an Item (Token or String) with parameters
STRING = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
TOKEN = r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"
BARE = rf"(?:{STRING}|{TOKEN}|-?[0-9]{{1,15}})"
ITEM = re.compile(rf"(?:{STRING}|{TOKEN})(?:; ?[a-z*][a-z0-9_\-.*]*(?:={BARE})?)*")


@given(st.text(max_size=20), st.text(max_size=20), st.none() | st.text(), st.none() | st.integers(-(10**9), 10**9))
def test_always_a_structured_field(name: str, token: str, detail: str | None, ttl: int | None) -> None:
    assert ITEM.fullmatch(cache_status(name, hit=True, ttl=ttl, detail=detail))
    assert ITEM.fullmatch(cache_status(name, fwd=token, fwd_status=200, stored=True, ttl=ttl, detail=detail))
    assert ITEM.fullmatch(proxy_status(name, token, detail=detail, received_status=ttl, next_hop=detail))
