"""Nasty shapes: what makes a parser slow that tries more than once at a byte, or looks at all for each of them.

Each is named and takes a size. :attr:`Shape.value` is a field's value (or any other text), :attr:`Shape.lines` is a
block of whole field lines. The guard of the suite runs every parser with each of them; the benchmark sends them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

Lines = list[tuple[bytes, bytes]]


@lru_cache(maxsize=256)
def _made(value: Callable[[int], bytes], size: int) -> bytes:
    """Every parser is given the same."""
    return value(size)


@dataclass(frozen=True)
class Shape:
    name: str
    value: Callable[[int], bytes] | None = None
    """About so many bytes of a value."""
    lines: Callable[[int], Lines] | None = None
    """About so many bytes of field lines, in place of a value: names and values."""
    field: bytes = b"X-Shape"
    """The field that this is meant for."""

    def fields(self, size: int, field: bytes | None = None) -> Lines:
        """As field lines of a message; ``field``: all under this name."""
        if self.value is not None:
            return [(field or self.field, _made(self.value, size))]
        assert self.lines is not None
        return [(field or name, value) for name, value in self.lines(size)]

    def text(self, size: int) -> str:
        """As one value, lines joined."""
        return b", ".join([value for _, value in self.fields(size)]).decode("latin-1")

    def block(self, size: int) -> bytes:
        """As the bytes of field lines."""
        return b"".join([b"%b: %b\r\n" % line for line in self.fields(size)])


def _again(name: str, piece: bytes, before: bytes = b"", after: bytes = b"", field: bytes = b"X-Shape") -> Shape:
    return Shape(name, lambda size: before + piece * (max(size, 1) // len(piece)) + after, field=field)


def _counted(name: str, piece: bytes, before: bytes = b"", field: bytes = b"X-Shape") -> Shape:
    """``piece`` has one %d in it, or two: no two pieces are alike."""
    numbers = piece.count(b"%d")
    length = len(piece) + 3 * numbers
    return Shape(
        name,
        lambda size: before + b"".join([piece % ((at,) * numbers) for at in range(max(size, 1) // length)]),
        field=field,
    )


def _lines(name: str, field: bytes, value: bytes) -> Shape:
    """Lines of one field, or, with a %d in it, of as many fields as there are lines."""

    def lines(size: int) -> Lines:
        count = max(size, 1) // (len(field) + len(value) + 4)
        return [
            (field % at if b"%d" in field else field, value % at if b"%d" in value else value) for at in range(count)
        ]

    return Shape(name, lines=lines)


SHAPES = (
    _again("spaces", b" ", b"a", b"b", b"Accept-Encoding"),
    _again("spaces in a list", b" ", b"a", b"b", b"Prefer"),
    _again("tabs", b"\t", b"a", b"b", b"Accept-Language"),
    _again("spaces after a comma", b" ", b"a,", b"b", b"Accept"),
    _again("spaces before a comma", b" ", b"a", b",b", b"TE"),
    _again("spaces after a semicolon", b" ", b"a;", b"b", b"Accept-Charset"),
    _again("spaces after a tag", b" ", b'"a"', b"x", b"If-None-Match"),
    _again("spaces after a directive", b" ", b"max-age", b"=1", b"Cache-Control"),
    _again("commas", b",", field=b"Cache-Control"),
    _again("commas and spaces", b" , ", field=b"Accept-Encoding"),
    _again("a member", b"a,", field=b"Vary"),
    _counted("members", b"a%d,", field=b"Accept-Encoding"),
    _counted("members with weights", b"a%d;q=0.%d,", field=b"Accept"),
    _counted("names of fields", b"a%d,", field=b"Vary"),
    _counted("options", b"a%d,", b"close,", b"Connection"),
    _again("semicolons", b";", b"a", field=b"Accept"),
    _again("semicolons and spaces", b"; ", b"a", field=b"Accept-Language"),
    _again("weights", b"; q=0.1", b"a", field=b"Accept"),
    _again("weights that are none", b";q=", b"a", b"x", b"Accept-Encoding"),
    _again("quotes", b'"', field=b"Cache-Control"),
    _again("empty strings", b'"",', field=b"If-None-Match"),
    _again("tags", b'"a",', field=b"If-None-Match"),
    _counted("weak tags", b'W/"a%d", ', field=b"If-Match"),
    _again("commas and quotes", b',"', field=b"If-None-Match"),
    _again("an open quote", b"a", b'"', field=b"Cache-Control"),
    _again("commas in an open quote", b"a,", b'private="', field=b"Cache-Control"),
    _again("a long tag", b"a", b'"', b'"', b"ETag"),
    _again("backslashes", b"\\", b'private="', field=b"Cache-Control"),
    _again("escaped quotes", b'\\"', b'private="', field=b"Cache-Control"),
    _again("quoted backslashes", b'"\\"', field=b"Cache-Control"),
    _again("open quotes with backslashes", b'a="\\', field=b"Cache-Control"),
    _again("equals", b"=", b"a", field=b"Cache-Control"),
    _again("names and values", b'a="b", ', field=b"CDN-Cache-Control"),
    _counted("qualified", b'private="a%d",', field=b"Cache-Control"),
    _counted("qualified lists", b'no-cache="a%d, b%d",', field=b"Cache-Control"),
    _again("lifetimes", b"max-age=1,", field=b"Cache-Control"),
    _again("a long number", b"9", b"max-age=", field=b"Cache-Control"),
    _again("digits", b"9", field=b"Content-Length"),
    _again("zeros", b"0", field=b"Age"),
    _again("numbers", b"1,", field=b"Content-Length"),
    _again("hyphens", b"-", field=b"Range"),
    _again("ranges", b"0-0,", b"bytes=", field=b"Range"),
    _counted("different ranges", b"%d-%d,", b"bytes=", b"Range"),
    _again("a far range", b"9", b"bytes=", b"-", b"Range"),
    _again("spaces in a range", b" ", b"bytes", b"0-0/1", b"Content-Range"),
    _again("a date", b"Mon, 01 Jan 2024 00:00:00 GMT, ", field=b"If-Modified-Since"),
    _again("letters", b"a", field=b"Expires"),
    _again("labels", b"a.", field=b"Referer"),
    _again("hyphens and letters", b"a-", field=b"X-Shape"),
    _again("signed headers", b"SignedHeaders=", b"AWS4-HMAC-SHA256 ", field=b"Authorization"),
    _again("signed fields", b"a;", b"SignedHeaders=", field=b"Authorization"),
    _again("components", b'"a', b"sig=(", field=b"Signature-Input"),
    _counted("signed components", b'"a%d" ', b"sig=(", b"Signature-Input"),
    _again("parameters that sign", b"&X-Amz-SignedHeaders=a", b"/a?", field=b"Location"),
    _again("parameters", b"&a=b", b"/a?", field=b"Location"),
    _again("secrets", b"&token=1", b"/a?", field=b"Location"),
    _again("stems", b"x-amz-", b"/a?", b"=1", b"Location"),
    _again("slashes", b"/", field=b"Location"),
    _again("segments", b"a/", b"/", field=b"Location"),
    _again("dots", b"../", b"/", field=b"Content-Location"),
    _again("escapes", b"%41", b"/?", field=b"Location"),
    _again("at signs", b"@", b"http://", field=b"Location"),
    _again("schemes", b"http://", field=b"Location"),
    _again("parentheses", b"(", field=b"CDN-Cache-Control"),
    _again("high bytes", b"\xff", field=b"X-Shape"),
    _again("colons", b":", field=b"X-Shape"),
    _lines("one name", b"a", b""),
    _lines("many names", b"a%d", b""),
    _lines("lines of Connection", b"Connection", b"close"),
    _lines("options in lines", b"Connection", b"a%d"),
    _lines("lines of Cache-Control", b"Cache-Control", b"no-cache"),
    _lines("lines of Accept-Encoding", b"Accept-Encoding", b"gzip"),
    _lines("lines of Vary", b"Vary", b"a%d"),
    _lines("lines of Via", b"Via", b"1.1 a%d"),
    _lines("lines of Transfer-Encoding", b"Transfer-Encoding", b"chunked"),
    _lines("lines of Content-Length", b"Content-Length", b"2"),
    _lines("lines of Set-Cookie", b"Set-Cookie", b"a%d=b"),
    _lines("lines of Location", b"Location", b"/a%d"),
    _lines("lines of Expires", b"Expires", b"0"),
    _lines("lines of ETag", b"ETag", b'"a"'),
)
