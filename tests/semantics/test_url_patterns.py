"""Which URLs a pattern means, and which tags a response has."""

from __future__ import annotations

import pytest

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.semantics.tags import TAGS_MAX, has_tag, is_tag, tags_of
from proxy_cache.semantics.url_patterns import HostPattern, UrlPattern


@pytest.mark.parametrize(
    ("pattern", "url", "is_meant"),
    [
        ("http://a.example/x", "http://a.example/x", True),
        ("http://a.example/x", "http://a.example/xy", False),
        ("http://a.example/x", "https://a.example/x", False),
        ("a.example/x", "https://a.example/x", True),
        ("a.example/x", "http://a.example/x", True),
        ("a.example/x", "http://b.example/a.example/x", False),
        ("a.example/*", "http://a.example/", True),
        ("a.example/*", "http://a.example/b/c?d=http://e", True),
        ("a.example/*", "http://a.example:81/b", False),
        ("a.example*/b", "http://a.example:81/b", True),
        ("*", "https://anything/at?all", True),
        ("*.whl", "http://a.example/b.whl", True),
        ("*.whl", "http://a.example/b.whl?x", False),
        ("*.example/*a*b*", "http://x.example/ba", False),
        ("*.example/*a*b*", "http://x.example/ab", True),
        ("http://a/b?c", "http://a/b?c", True),
        ("http://a/b?c", "http://a/bXc", False),
        ("http://a/[bc]", "http://a/b", False),
        ("http://a/[bc]", "http://a/[bc]", True),
        ("http://a/aa*aa", "http://a/aaa", False),
        ("http://a/aa*aa", "http://a/aaaa", True),
        ("http://a/**/b", "http://a//b", True),
        ("HTTP://a/b", "http://a/b", False),
    ],
)
def test_stars_stand_for_any_characters(pattern: str, url: str, *, is_meant: bool) -> None:
    assert UrlPattern(pattern).matches(url) is is_meant


@pytest.mark.parametrize(
    ("pattern", "url", "is_meant"),
    [
        ("a.example", "http://a.example/x", True),
        ("A.Example", "https://a.example:8443/x", True),
        ("a.example", "http://b.a.example/x", False),
        ("a.example:81", "http://a.example:81/", True),
        ("a.example:81", "http://a.example/", False),
        ("*.example", "http://a.b.example:1/", True),
        ("*.example", "http://example/", False),
        ("*.example", "http://badexample/", False),
        ("*.example:81", "http://a.example:81/", True),
        ("[::1]", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]/", False),
        ("[::1]", "http://[::1]/", True),
        ("10.0.0.1", "http://10.0.0.1:3000/", True),
        ("a.example:80", "http://a.example/", True),
        ("a.example:443", "http://a.example/", False),
        ("a.example:443", "https://a.example/", True),
        ("[::1]:443", "https://[::1]/", True),
        ("1234", "http://1234/", True),
    ],
)
def test_hosts_are_meant_on_all_ports_or_one(pattern: str, url: str, *, is_meant: bool) -> None:
    assert HostPattern(pattern).matches(url) is is_meant


@pytest.mark.parametrize("text", ["", " ", "a/b", "http://a", "a b", "*", "*a.example", "a.*", "a:b", "::1"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        HostPattern(text)


@pytest.mark.parametrize("text", ["", "  ", "x" * 9000, "a*" * 40])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        UrlPattern(text)


def test_a_pattern_with_many_stars_takes_no_longer_than_its_url() -> None:
    assert not UrlPattern("http://a/" + "a*" * 28 + "b").matches("http://a/" + "a" * 8000)


def test_tags_are_words_or_members() -> None:
    headers = Headers().add("Surrogate-Key", "a  b\tA a").add("cache-tag", "c d, b,,e ").add("Surrogate-Key", "f,g h")
    assert tags_of(headers) == ("a", "b", "A", "h", "e")
    assert tags_of(Headers()) == ()


def test_one_tag_is_found_as_among_all() -> None:
    headers = Headers().add("Surrogate-Key", "a  b\tA a").add("cache-tag", "c d, b,,e ").add("Surrogate-Key", "f,g h")
    assert all(has_tag(headers, tag) for tag in tags_of(headers))
    assert not any(has_tag(headers, tag) for tag in ("B", "c", "d", "f", "g", "C"))
    assert not has_tag(Headers(), "a")


def test_tags_are_bounded() -> None:
    assert len(tags_of(Headers().add("Surrogate-Key", " ".join(map(str, range(5000)))))) == TAGS_MAX
    assert tags_of(Headers().add("Cache-Tag", f"{'x' * 1025},{'y' * 1024}")) == ("y" * 1024,)
    assert not is_tag("ä")


@pytest.mark.parametrize(("age", "passed"), [(0, 0), (0, 100), (500, 100), (0, 7200), (4000, 10)])
def test_what_expires_now_is_stale_from_now_on(age: int, passed: int) -> None:
    headers = Headers().add("Cache-Control", "max-age=3600, immutable").add("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
    response = StoredResponse(200, headers, 1000.0, 1000.0, initial_age=age)
    now = 1000.0 + passed + 0.5
    expired = response.expired(now)
    assert not now < expired.fresh_until
    if now < response.fresh_until:
        assert expired.age(now) == response.lifetime
    else:
        assert expired is response
    assert expired.expired(now + 5) is expired
