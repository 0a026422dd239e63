from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target, related_targets

from . import given, h, odd_headers


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        pytest.param(("http", "example.com", 80, "/a?b=c"), "http://example.com/a?b=c", id="default port"),
        pytest.param(("https", "example.com", 443, "/"), "https://example.com/", id="default port of https"),
        pytest.param(("http", "example.com", 443, "/"), "http://example.com:443/", id="another scheme's port"),
        pytest.param(("HTTP", "EXAMPLE.com", 80, "/Ab"), "http://example.com/Ab", id="case: RFC 9110 §4.2.3"),
        pytest.param(("http", "example.com", 80, ""), "http://example.com/", id="empty path: RFC 9110 §4.2.3"),
        pytest.param(("http", "example.com", 80, "?q"), "http://example.com/?q", id="query without a path"),
        pytest.param(("http", "example.com", 80, "/a#b"), "http://example.com/a", id="fragment: RFC 9110 §7.1"),
        pytest.param(("http", "example.com.", 80, "/"), "http://example.com./", id="trailing dot"),
        pytest.param(("http", "::1", 8080, "/"), "http://[::1]:8080/", id="IPv6"),
        pytest.param(("http", "[::1]", 80, "/"), "http://[::1]/", id="IPv6 in brackets"),
        pytest.param(("http", "example.com", 80, "/%7Ea/%2f?X=%2B"), "http://example.com/%7Ea/%2f?X=%2B", id="as sent"),
        pytest.param(("http", "a/b", 80, "/c"), "http://a%2fb/c", id="a slash is no part of a host"),
        pytest.param(("http", "u@a?#", 80, "/"), "http://u%40a%3f%23/", id="delimiters are no part of a host"),
    ],
)
def test_url(parts: tuple[str, str, int, str], url: str) -> None:
    target = Target.of(*parts)
    assert target.url == target.key == str(target) == url
    assert target.authority == url.split("/")[2]


def test_equal_when_the_key_is() -> None:
    assert Target.of("HTTP", "A", 80, "") == Target.of("http", "a", 80, "/")
    assert len({Target.of("http", "a", 80, "/"), Target.of("http", "a", 81, "/")}) == 2


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_different_targets_have_different_keys(host: str, path: str, other_host: str, other_path: str) -> None:
    one, other = Target.of("http", host, 80, path), Target.of("http", other_host, 80, other_path)
    if one != other and not {host, other_host} & {""}:
        assert (one.key == other.key) is (one.authority == other.authority and one.path == other.path)


@pytest.mark.parametrize(
    ("lines", "urls"),
    [
        # RFC 9111 §4.4
        pytest.param([], [], id="none"),
        pytest.param(["Location: /b"], ["http://example.com/b"], id="path"),
        pytest.param(["Location: http://example.com/b?c=d"], ["http://example.com/b?c=d"], id="whole"),
        pytest.param(["Location: http://EXAMPLE.com:80/b#x"], ["http://example.com/b"], id="same origin, other words"),
        pytest.param(["Location: c"], ["http://example.com/a/c"], id="relative"),
        pytest.param(["Location: ../c"], ["http://example.com/c"], id="dots"),
        pytest.param(["Location: ?q"], ["http://example.com/a/b?q"], id="query"),
        pytest.param(["Location: "], [], id="empty: the target itself"),
        pytest.param(
            ["Location: /c", "Content-Location: /d"], ["http://example.com/c", "http://example.com/d"], id="2"
        ),
        pytest.param(["Location: http://other.example/b"], [], id="another host"),
        pytest.param(["Location: //other.example/b"], [], id="another host, without scheme"),
        pytest.param(["Location: https://example.com/b"], [], id="another scheme"),
        pytest.param(["Location: http://example.com:81/b"], [], id="another port"),
        pytest.param(["Location: http://u:p@example.com/b"], ["http://example.com/b"], id="userinfo is no origin"),
        pytest.param(["Location: http://[::1/b"], [], id="malformed"),
        pytest.param(["Location: http://example.com:x/b"], [], id="malformed port"),
        pytest.param(["Location: mailto:a@example.com"], [], id="not http"),
    ],
)
def test_related_targets(lines: list[str], urls: list[str]) -> None:
    target = Target.of("http", "example.com", 80, "/a/b")
    assert [other.key for other in related_targets(target, h(*lines))] == urls


@given(odd_headers, st.text(max_size=20))
def test_only_of_the_same_origin(headers: Headers, location: str) -> None:
    target = Target.of("http", "example.com", 80, "/a")
    for other in related_targets(
        target, headers.add("location", location.encode("utf-8", "replace").decode("latin-1"))
    ):
        assert (other.scheme, other.authority) == ("http", "example.com")
