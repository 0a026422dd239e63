"""Messages for fuzzing: valid ones, and valid ones with mutations.

Hypothesis draws a few dozen bytes, each of which is a choice. That is much faster than a strategy for each part, and
failures still shrink, since the absence of a byte is the first choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

SNIPPETS = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"\0", b"\x01", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff", b" ",
    b"\t",
    b"\r\n ", b"\n\t", b":", b" :", b";", b",", b"0", b"00000000000000000000", b"f", b"-", b"+", b"0x", b"5",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length : 5\r\n", b"Content-Length 5\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Content-Length: 5, 5\r\n", b"content-length:\t005\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: , CHUNKED\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"transfer-encoding : chunked\r\n", b"Transfer-Encoding\r\n",
    b"\rTransfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: Keep-Alive\r\n",
    b"Connection: x, CLOSE\r\n",
    b"Host: b.example\r\n", b"no field\r\n", b": no name\r\n", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1",
    b"0\r\n\r\n", b"1\r\na\r\n", b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\xc2\x85",
    b"%00", b"#",
)  # fmt: skip


class Choices:
    def __init__(self, drawn: bytes) -> None:
        self._left = iter(drawn)

    def number(self) -> int:
        return next(self._left, 0)

    def one(self, of: Sequence[T]) -> T:
        return of[self.number() % len(of)]

    def some(self, of: Sequence[T], at_most: int) -> list[T]:
        return [self.one(of) for _ in range(self.number() % (at_most + 1))]


def fuzzed(make: Callable[[Choices], bytes], size: int = 40) -> st.SearchStrategy[bytes]:
    """What ``make`` makes, with up to three changes; half of it is left as it is."""

    def made(drawn: bytes, changes: bytes) -> bytes:
        return _changed(make(Choices(drawn)), Choices(changes))

    return st.builds(made, st.binary(max_size=size), st.one_of(st.just(b""), st.binary(max_size=13)))


def _changed(data: bytes, choices: Choices) -> bytes:
    for _ in range(choices.number() % 4):
        kind, snippet = choices.number() % 6, choices.one(SNIPPETS)
        number = choices.number() << 8 | choices.number()
        at = number % (len(data) + 1)
        if kind == 0:
            data = data[:at] + data[at + len(snippet) :]
        elif kind == 1:
            data = data[:at] + snippet + data[at + len(snippet) :]
        elif kind == 2:
            data = data[:at] + snippet + data[at:]
        else:  # at the beginning of a line, where most of them mean something
            starts = [0, *(index + 1 for index, byte in enumerate(data) if byte == 0x0A)]
            at = starts[number % len(starts)]
            data = data[:at] + snippet + data[at:]
    return data


cuts = st.binary(max_size=4)


def in_pieces(data: bytes, numbers: bytes) -> list[bytes]:
    """Cut in a few places; or everywhere, where the numbers say so."""
    if numbers and numbers[0] % 7 == 6:
        return [data[at : at + 1] for at in range(len(data))]
    ends = sorted({number * 97 % (len(data) + 1) for number in numbers} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]


# -- valid messages ------------------------------------------------------------------------------------------------

_CONTENT = (b"a", b"bc", b"\r\n", b"0", b"\n", b"0\r\n\r\n", b"x" * 40)
_FIELDS = (
    b"A: b", b"A:", b"a-b:  c d \t", b"X_y: \xe9\xff", b'ETag: "x"', b"Cache-Control: max-age=9, public",
    b"Via: 1.0 x", b"Connection: keep-alive", b"Connection: close", b"Connection: A, x", b"Keep-Alive: timeout=5",
    b"Accept: */*", b"A: b:c", b"!#$%&'*+-.^_`|~9: x", b"TE: trailers", b"Range: bytes=0-1", b"Set-Cookie: a=b",
)  # fmt: skip
_SIZES = (b"%x", b"%X", b"0%x", b"%x ", b"%x;a=b", b'%x ;a="b;c"', b"%x\t;")
_TRAILERS = (b"A: b", b"X-Sum: 1", b"a:", b"A:\tb \xff")


def chunked_body(choices: Choices) -> bytes:
    chunks = [choices.one(_SIZES) % len(piece) + b"\r\n" + piece + b"\r\n" for piece in choices.some(_CONTENT, 4)]
    return b"".join(chunks) + b"\r\n".join([b"0", *choices.some(_TRAILERS, 2), b"", b""])


def response(choices: Choices) -> bytes:
    version, status = choices.one((b"1.1", b"1.1", b"1.1", b"1.0")), choices.one((200, 206, 404, 999, 204, 304))
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * choices.one((0, 0, 0, 1, 2))
    lines, framing, body = choices.some(_FIELDS, 4), choices.number() % 3, b""
    if status not in (204, 304):
        body = chunked_body(choices) if framing == 1 else b"".join(choices.some(_CONTENT, 4))
        if framing == 0:
            lines.append(b"Content-Length: %d" % len(body))
        elif framing == 1:
            lines.append(b"Transfer-Encoding: chunked")
    return early + b"\r\n".join([b"HTTP/%b %d OK" % (version, status), *lines, b"", body])


def responses(choices: Choices) -> bytes:
    """One, and perhaps another one behind it."""
    first = response(choices)
    return first + (response(choices) if choices.number() % 4 == 3 else b"")


TARGETS = (b"http://a.example/x", b"http://a.example/x?y=%20", b"http://A.EXAMPLE:80", b"http://a.example/")
"""All of one origin."""


def request(choices: Choices, methods: Sequence[bytes]) -> bytes:
    method, target, version = choices.one(methods), choices.one(TARGETS), choices.one((b"1.1", b"1.1", b"1.1", b"1.0"))
    lines, body = [b"Host: a.example", *choices.some(_FIELDS, 4)], b""
    if method == b"POST" and choices.number() % 2:
        lines.append(b"Transfer-Encoding: chunked")
        body = chunked_body(choices)
    elif method == b"POST":
        body = b"".join(choices.some(_CONTENT, 4))
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, target, version), *lines, b"", body])


def gets(choices: Choices) -> bytes:
    """One, and perhaps another one behind it."""
    first = request(choices, (b"GET",))
    return first + (request(choices, (b"GET",)) if choices.number() % 4 == 3 else b"")


def forwarded_requests(choices: Choices) -> bytes:
    """The same, of requests that are never answered from a cache, or may not be."""
    methods = (b"POST", b"DELETE", b"HEAD", b"POST", b"GET")
    first = request(choices, methods)
    return first + (request(choices, methods) if choices.number() % 4 == 3 else b"")
