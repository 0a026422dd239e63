from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import HOP_BY_HOP, Headers, end_to_end

from . import given, h, odd_headers, raw_fields


def test_lookup() -> None:
    headers = h("ETag: one", "Accept: a", "accept:b", "ACCEPT: c")
    assert headers.get("etag") == "one"
    assert headers.get("accept") == "a, b, c"  # RFC 9110 §5.3
    assert headers.get_all("accept") == ("a", "b", "c")
    assert headers.get("age") is None
    assert headers.get_all("age") == ()
    assert "accept" in headers
    assert "age" not in headers
    assert headers.names == {"etag", "accept"}
    assert len(headers) == 4
    assert list(headers) == list(headers.fields)


def test_received_bytes_are_kept() -> None:
    fields = ((b"X-ODD", b"  \xff\xe4 "), (b"x-odd", b""))
    headers = Headers(fields)
    assert headers.fields == fields
    assert headers.get_all("x-odd") == ("\xff\xe4", "")
    assert headers == Headers(list(fields))
    assert hash(headers) == hash(Headers(fields))
    assert headers != Headers(reversed(fields))
    assert headers != fields


def test_changes_make_new_ones() -> None:
    headers = h("A: 1", "B: 2", "a: 3")
    assert headers.set("a", "9") == Headers([(b"A", b"9"), (b"B", b"2")])
    assert headers.set("c", "9").fields[-1] == (b"c", b"9")
    assert headers.add("b", "4").get("b") == "2, 4"
    assert headers.without("a") == h("B: 2")
    assert headers.without("x", "é", "中") is headers
    assert len(headers) == 3
    assert repr(h("A: 1")) == "Headers('A: 1')"


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0b"])
def test_no_value_ends_its_line(value: str) -> None:
    """RFC 9110 §5.5"""
    for headers in (Headers().add("x", value), h("X: 1").set("x", value)):
        assert not set(headers.fields[0][1]) & set(b"\r\n\0")


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop(name: str) -> None:
    """RFC 9110 §7.6.1, RFC 9111 §3.1"""
    assert end_to_end(h("ETag: 1", f"{name.title()}: x")) == h("ETag: 1")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(["Connection: x-a, X-B", "X-A: 1", "x-b: 2", "X-C: 3"], ["X-C: 3"], id="named fields go"),
        pytest.param(["Connection: x-a", "Connection: ,, x-b", "X-A: 1", "X-B: 2"], [], id="two lines"),
        pytest.param(["Connection: close", "X-A: 1"], ["X-A: 1"], id="option without a field"),
        pytest.param(
            ["Connection: Cache-Control", "Cache-Control: private"],
            ["Cache-Control: private"],
            id="never Cache-Control",
        ),
        pytest.param(["Connection: vary", "Vary: Accept"], ["Vary: Accept"], id="never Vary"),
        pytest.param(["Connection: authorization", "Authorization: x"], ["Authorization: x"], id="never Authorization"),
        pytest.param(["Connection: content-length", "Content-Length: 1"], ["Content-Length: 1"], id="never framing"),
        pytest.param(["Connection: host, via", "Host: a", "Via: b"], ["Host: a", "Via: b"], id="never routing"),
    ],
)
def test_connection(lines: list[str], expected: list[str]) -> None:
    """RFC 9110 §7.6.1"""
    assert end_to_end(h(*lines)) == h(*expected)


@given(raw_fields, st.text(max_size=10))
def test_any_bytes(fields: list[tuple[bytes, bytes]], value: str) -> None:
    headers = Headers(fields)
    assert headers.fields == tuple(fields)
    for name in headers.names:
        assert headers.get(name) == ", ".join(headers.get_all(name))
        assert name not in headers.without(name)
        assert headers.set(name, value).get_all(name) == headers.add("x", value).get_all("x")[-1:]
        for changed in (headers.without(name), headers.add(name, value), headers.set(name, value)):
            anew = Headers(changed.fields)  # has to build its index
            assert {name: changed.get_all(name) for name in changed.names} == {
                name: anew.get_all(name) for name in anew.names
            }
    assert set(end_to_end(headers)) <= set(headers)
    repr(headers)


@given(odd_headers)
def test_nothing_hop_by_hop_is_left(headers: Headers) -> None:
    assert not end_to_end(headers).names & HOP_BY_HOP
