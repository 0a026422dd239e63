"""Rules that say something else than they seem to say, and those that look odd and are right."""

from __future__ import annotations

import pytest
from mitmproxy import exceptions

from proxy_cache.mitm import option_values
from proxy_cache.mitm.rule_syntax import parsed
from proxy_cache.settings import is_one_of


@pytest.mark.parametrize(
    "text",
    [
        "~d a|~u /pkg/", "~d a|", "~d |a", "~d ''", "~d 'a|'", "~u /x/&~d a", "~d a&", "~d a&!~u /x/", "~d a|!~u /x/",
        "~u /x/!~d a", "a.example|", "!(~d a|~u b)", "~hq pip|~d a", "~u /a||/b", "~u x*", "~u ^",
        "~d a & (~d b|~u /c/)",
    ],
)  # fmt: skip
def test_an_operator_without_its_space(text: str) -> None:
    """It is part of the expression before it, which then matches everything, or nothing."""
    with pytest.raises(exceptions.OptionsError, match=r"^o: .*(need a space before|matches even an empty text)"):
        parsed("o", text)


@pytest.mark.parametrize("text", ["~d a,b", "~d a;b", "~d a&b", "~d =a", "~d 'a b'", "~d !a", "~d user@a"])
def test_what_no_host_has(text: str) -> None:
    with pytest.raises(exceptions.OptionsError, match="no host has a"):
        parsed("o", text)


@pytest.mark.parametrize(
    "text", ["~d a.example ~d b.example", "~d ^a.example$ & ~d b\\.example", "~u x | (~d a.b & ~d c.d)"]
)
def test_two_hosts_at_once(text: str) -> None:
    with pytest.raises(exceptions.OptionsError, match="no host is both"):
        parsed("o", text)


@pytest.mark.parametrize(
    "text",
    [
        "~u .*", "~d .*", "~all", "~d 'a.example|b.example'", "~d a.example|b.example", "~d a | ~d b", "~d a |~d b",
        "(~d a)|(~d b)", "~d a !~u x", "~d a & !~m POST", "~u 'a=1&b=2'", "~u /a[&]", r"~u /a\|", "~u /x/|/y/",
        "~d 'mirror\\d{1,2}[.]example'", "~d '^(?!a).*example'", "~d example.com ~d a.example.com",
        "~d packages ~d example", "!(~d a.example & ~d b.example)", "~d a ~u b", "~m get", "~m 'GET|HEAD'",
        "~hq 'accept: a,b'",
    ],
)  # fmt: skip
def test_what_is_meant(text: str) -> None:
    assert parsed("o", text) is not None


@pytest.mark.parametrize(
    "text", ["~c 404|~c 410", "~c 404 & !~c 503", "~d a & !(~c 200 & ~c 404)", "~c 200 | (~c 404 & ~d a)"]
)
def test_statuses(text: str) -> None:
    assert parsed("o", text, response=True) is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("[::1]", [("::1", 80), ("::1", 8000)], [("::2", 80), ("1", 80)]),
        ("[0:0::1]:8000", [("::1", 8000), ("0:0::1", 8000)], [("::1", 80)]),
        ("[2001:DB8::1]", [("2001:db8::1", 80)], []),
        ("[::1]:80", [], [("::1:80", 443)]),
        ("b\u00fccher.example", [("xn--bcher-kva.example", 80), ("b\u00fccher.example", 80)], [("bcher.example", 80)]),
        ("*.B\u00fccher.example:8000", [("a.xn--bcher-kva.example", 8000)], [("a.xn--bcher-kva.example", 80)]),
        ("xn--bcher-kva.example", [("b\u00fccher.example", 80), ("xn--bcher-kva.example", 80)], []),
        ("[ab].example", [("a.example", 80)], [("c.example", 80)]),
        ("*.example.com", [("a.example.com", 80)], [("example.com", 80)]),
    ],
)
def test_hosts_that_are_cached(pattern: str, yes: list[tuple[str, int]], no: list[tuple[str, int]]) -> None:
    hosts = (option_values.host_pattern(pattern),)
    assert [is_one_of(hosts, *host) for host in yes + no] == [True] * len(yes) + [False] * len(no)
