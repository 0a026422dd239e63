from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target, redacted, related_targets

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


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com/a?b=c", "http://example.com/a?b=c"),
        ("http://user:pw@example.com/a", "http://example.com/a"),
        ("http://a@b:pw@example.com:8080/", "http://example.com:8080/"),
        ("user:pw@example.com:443", "example.com:443"),
        ("/path/only?token=x", "/path/only?token=***"),
        ("http://example.com/?token=x&a=b", "http://example.com/?token=***&a=b"),
        ("http://example.com/?a=b;sig=x", "http://example.com/?a=b;sig=***"),
        (
            "http://example.com/?X-Amz-Signature=x&X-Amz-Date=y",
            "http://example.com/?X-Amz-Signature=***&X-Amz-Date=***",
        ),
        ("http://example.com/?X-Goog-Credential=x", "http://example.com/?X-Goog-Credential=***"),
        ("http://example.com/?%74oken=x", "http://example.com/?%74oken=***"),
        ("http://example.com/?accessToken=x&apiKey=y", "http://example.com/?accessToken=***&apiKey=***"),
        ("http://example.com/?password=x&pass=y&code=z", "http://example.com/?password=***&pass=***&code=***"),
        ("http://example.com/?jwt=a=b=c", "http://example.com/?jwt=***"),
        ("http://example.com/?session_id=x&oauth_nonce=y", "http://example.com/?session_id=***&oauth_nonce=***"),
        ("http://example.com/?design=1&author=a&country=x", "http://example.com/?design=1&author=a&country=x"),
        ("http://example.com/?token&key=", "http://example.com/?token&key="),
        ("http://example.com/?a#access_token=x", "http://example.com/?a"),
        ("http://example.com/a@b?c", "http://example.com/a@b?c"),
        ("http://example.com/a\r\nGET /b 200", "http://example.com/a\\r\\nGET%20/b%20200"),
        ("http://example.com/\x1b[31m\u2028\x85", "http://example.com/\\x1b[31m\\u2028\\x85"),
        ("http://example.com/\udc80é", "http://example.com/\\udc80é"),
        ("", ""),
    ],
)
def test_redacted(url: str, expected: str) -> None:
    assert redacted(url) == expected


@given(st.text())
def test_redacted_is_one_word(url: str) -> None:
    shown = redacted(url)
    assert shown.isprintable()
    assert " " not in shown


@given(st.text(alphabet="abcXYZ0%", min_size=1), st.text())
def test_no_secret_is_shown(secret: str, rest: str) -> None:
    secret = f"<{secret}>"
    assert secret not in redacted(f"http://u:{secret}@example.com/?a=b&x-token={secret}&{rest.replace(secret, '')}")
