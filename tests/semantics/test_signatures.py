from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.signatures import is_signed_url, signed_fields, without_parameters

from . import given, h, odd_headers

V4 = "AWS4-HMAC-SHA256 Credential=a/20260101/x/s3/aws4_request"


@pytest.mark.parametrize(
    ("lines", "path", "fields"),
    [
        pytest.param([], "/", set(), id="not signed"),
        pytest.param(["Authorization: Basic eA=="], "/", set(), id="Basic"),
        pytest.param(
            [f"Authorization: {V4}, SignedHeaders=host;x-amz-date, Signature=0"], "/", {"host", "x-amz-date"}, id="V4"
        ),
        pytest.param([f"Authorization: {V4},SignedHeaders=Host;Range,Signature=0"], "/", {"host", "range"}, id="range"),
        pytest.param(["Authorization: AWS key:signature"], "/", set(), id="V2 does not sign Range"),
        pytest.param([], "/?X-Amz-SignedHeaders=host&X-Amz-Signature=0", {"host"}, id="presigned"),
        pytest.param([], "/?x-amz-signedheaders=host%3Brange", {"host", "range"}, id="presigned with range"),
        pytest.param([], "/?X-Goog-SignedHeaders=host;range", {"host", "range"}, id="another vendor"),
        pytest.param([], "/?SignedHeaders=range", set(), id="a parameter of another meaning"),
        pytest.param(
            ['Signature-Input: sig1=("@method" "range" "x-a");created=1'], "/", {"range", "x-a"}, id="RFC 9421"
        ),
    ],
)
def test_signed_fields(lines: list[str], path: str, fields: set[str]) -> None:
    assert signed_fields(h(*lines), path) == fields


def test_shared_key() -> None:
    assert "range" in signed_fields(h("Authorization: SharedKey account:signature"), "/")
    assert not signed_fields(h("Authorization: SharedKeyLite account:signature"), "/")


@pytest.mark.parametrize(
    ("url", "patterns", "expected"),
    [
        ("http://a/b?X-Amz-Date=1&c=d&X-Amz-Signature=2", ["X-Amz-*"], "http://a/b?c=d"),
        ("http://a/b?x-amz-date=1", ["X-Amz-*"], "http://a/b"),
        ("http://a/b?c=d&c=e", ["X-Amz-*"], "http://a/b?c=d&c=e"),
        ("http://a/b?c=d&&e", ["c"], "http://a/b?&e"),
        ("http://a/b", ["*"], "http://a/b"),
        ("http://a/b?sig=1&sv=2", ["sig", "sv"], "http://a/b"),
        ("http://a/b?design=1", ["sig"], "http://a/b?design=1"),
        ("http://a/b?c=X-Amz-Date=1", ["X-Amz-*"], "http://a/b?c=X-Amz-Date=1"),
        ("http://a/b?X%2DAmz-Date=1", ["X-Amz-*"], "http://a/b"),
        ("http://a/b?X-Amz-Date=1", [], "http://a/b?X-Amz-Date=1"),
    ],
)
def test_without_parameters(url: str, patterns: list[str], expected: str) -> None:
    assert without_parameters(url, patterns) == expected


@given(odd_headers, st.text())
def test_any_request(request: Headers, path: str) -> None:
    signed_fields(request, path)
    without_parameters(f"http://example.com/{path}", ["X-Amz-*"])


@pytest.mark.parametrize(
    ("query", "signed"),
    [
        ("X-Amz-Signature=0", True),
        ("x-goog-signature=0", True),
        ("a=1&x-oss-signature=0&b", True),
        ("X%2DAmz-Signature=0", True),
        ("q-sign-algorithm=sha1&q-signature=0", True),
        ("se=1&sig=0", True),
        ("si=policy&sig=0", True),
        ("Signature=0&Expires=1", True),
        ("Signature=0&Policy=x&Key-Pair-Id=K", True),
        ("GoogleAccessId=a&Expires=1&Signature=0", True),
        ("md5=0&expires=1", True),
        ("token=0&expires=1", True),
        ("__token__=exp=1~acl=/*~hmac=0", True),
        ("verify=1700000000-AAAAAAAAAAAAAAAA", True),
        ("", False),
        ("X-Amz-Signature", False),
        ("X-Amz-Signature=", False),
        ("X-Amz-SignedHeaders=host", False),
        ("my-signature=0", False),
        ("sig=0", False),
        ("Signature=0", False),
        ("Expires=1", False),
        ("token=0", False),
        ("verify=1", False),
    ],
)
def test_signed_urls(query: str, signed: bool) -> None:
    assert is_signed_url(f"/data?{query}") is signed
    assert not is_signed_url(f"/data/{query}")


@pytest.mark.parametrize(
    ("ignored", "signed"),
    [(["x-amz-*"], False), (["*Signature"], False), (["utm_*"], True), (["X-Amz-Date", "X-Amz-Expires"], True)],
)
def test_a_signature_that_is_no_part_of_the_key(ignored: list[str], signed: bool) -> None:
    assert is_signed_url("/blob?X-Amz-Date=1&X-Amz-Expires=60&X-Amz-Signature=0a&utm_source=x", ignored) is signed
