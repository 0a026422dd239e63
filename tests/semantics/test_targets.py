"""What a request target names (RFC 3986, RFC 9110 §4, RFC 9112 §3.2)."""

from __future__ import annotations

import pytest

from proxy_cache.semantics import targets
from proxy_cache.semantics.targets import TargetError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://a.example", "http://a.example/"),
        ("HTTP://A.Example/B", "http://a.example/B"),
        ("hTTps://a.example:443/", "https://a.example/"),
        ("http://a.example?b=c", "http://a.example/?b=c"),
        ("http://a.example?b=/c", "http://a.example/?b=/c"),
        ("http://a.example#b", "http://a.example/"),
        ("http://a.example/b?c#d?e", "http://a.example/b?c"),
        ("http://a.example:/", "http://a.example/"),
        ("http://a.example:080/", "http://a.example/"),
        ("http://a.example:00008080/", "http://a.example:8080/"),
        ("http://a.example:65535/", "http://a.example:65535/"),
        ("http://a.example./", "http://a.example./"),
        ("http://a_b.example/", "http://a_b.example/"),
        ("http://-a-.example/", "http://-a-.example/"),
        ("http://XN--Strae-oqa.example/", "http://xn--strae-oqa.example/"),
        ("http://127.0.0.1:81/", "http://127.0.0.1:81/"),
        ("http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("http://[::ffff:127.0.0.1]/", "http://[::ffff:127.0.0.1]/"),
        ("http://a.example//b/../c;d?", "http://a.example//b/../c;d?"),
        ("http://a.example/@b", "http://a.example/@b"),
        ("http://a.example?u@b", "http://a.example/?u@b"),
        (f"http://{'a' * 63}.example/", f"http://{'a' * 63}.example/"),
    ],
)
def test_what_is_valid(text: str, url: str) -> None:
    assert targets.absolute(text).url == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://user:pw@a.example/", "userinfo"),
        ("http://@a.example/", "userinfo"),
        ("http://b.example@a.example:80/", "userinfo"),
        ("http:///a", "no host"),
        ("http://", "no host"),
        ("http://?a", "no host"),
        ("http://:80/", "invalid host"),
        ("http://a.example:0/", "outside 1 to 65535"),
        ("http://a.example:000/", "outside 1 to 65535"),
        ("http://a.example:65536/", "outside 1 to 65535"),
        ("http://a.example:99999999999999999999/", "outside 1 to 65535"),
        ("http://a.example:-1/", "invalid"),
        ("http://a.example:8o/", "invalid"),
        ("http://a.example:80:80/", "invalid"),
        ("http://a..example/", "empty label"),
        ("http://.example/", "empty label"),
        ("http://./", "empty label"),
        (f"http://{'a' * 64}.example/", "too long"),
        (f"http://{'a.' * 140}example/", "too long"),
        (f"http://{'a' * 5000}/", "more than 253"),
        ("http://[::1/", "invalid"),
        ("http://::1/", "invalid"),
        ("http://[::1]a/", "invalid"),
        ("http://[]/", "invalid"),
        ("http://[1.2.3.4]/", "IPv6"),
        ("http://[::1::2]/", "IPv6"),
        ("http://[fe80::1%25eth0]/", "invalid"),
        ("http://[v1.a]/", "invalid"),
        ("http://b\xfccher.example/", "xn--"),
        ("http://a%2eexample/", "invalid"),
        ("http://a\\b.example/", "invalid"),
        ("http://a,b/", "invalid"),
        ("ftp://a.example/", "no http"),
        ("http:/a.example/", "no http"),
        ("http:a", "no http"),
        ("a.example/b", "no http"),
        ("//a.example/b", "no http"),
        (" http://a.example/", "no http"),
        ("", "no http"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(TargetError, match=why):
        targets.absolute(text)


def test_options_of_a_whole_server() -> None:
    """RFC 9112 §3.2.4: without path and query the last proxy asks for "*"."""
    assert targets.absolute("http://a.example", "OPTIONS").path == "*"
    assert targets.absolute("http://a.example/", "OPTIONS").path == "/"
    assert targets.absolute("http://a.example?b", "OPTIONS").path == "/?b"
    assert targets.of_request("OPTIONS", "*", "a.example", "http").path == "*"
    with pytest.raises(TargetError):
        targets.of_request("GET", "*", "a.example", "http")


def test_where_the_target_has_no_host_it_is_in_host() -> None:
    assert targets.of_request("GET", "/b?c#d", "A.example:81", "http").url == "http://a.example:81/b?c"
    assert targets.of_request("GET", "/", "a.example", "https").url == "https://a.example/"
    assert targets.of_request("GET", "http://b.example/", "a.example", "http").url == "http://b.example/"
    for host in ("", "u@a.example", "a.example:0"):
        with pytest.raises(TargetError):
            targets.of_request("GET", "/", host, "http")


@pytest.mark.parametrize(
    ("text", "address"),
    [("A.example:443", ("a.example", 443)), ("[::1]:0443", ("::1", 443)), ("a.example", None), ("a.example:", None),
     ("a.example:0", None), ("u@a.example:443", None), ("http://a.example:443", None), ("a.example:443/", None),
     (":443", None), ("::1:443", None)],
)  # fmt: skip
def test_connect_has_a_host_and_a_port(text: str, address: tuple[str, int] | None) -> None:
    if address is None:
        with pytest.raises(TargetError):
            targets.of_connect(text)
    else:
        assert targets.of_connect(text) == address


@pytest.mark.parametrize("value", ["", "a", "A.b:80", "a:", "[::1]:80", "a%20b", "a!$&'()*+,;=b", "*.a", "[v1.x]"])
def test_a_host_that_is_one(value: str) -> None:
    assert targets.is_host_field(value)


@pytest.mark.parametrize("value", ["a b", "a/b", "u@a", "a:b", "a:80:80", "a?b", "a#b", "[::1", "a\xfc", "a%2", "a, b"])
def test_a_host_that_is_none(value: str) -> None:
    assert not targets.is_host_field(value)
