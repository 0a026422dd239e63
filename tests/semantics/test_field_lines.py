"""Field lines of origins, mended or skipped (RFC 9110 §5.5, RFC 9112 §2.2, §5.1, §5.2)."""

from __future__ import annotations

import pytest

from proxy_cache.semantics.field_lines import UnclearLength, mended


@pytest.mark.parametrize(
    ("lines", "fields", "skipped"),
    [
        ([b"A: b", b"c:d", b"E:"], [(b"A", b"b"), (b"c", b"d"), (b"E", b"")], 0),
        ([b"A : b", b"C\t: d", b"E \t :f"], [(b"A", b"b"), (b"C", b"d"), (b"E", b"f")], 0),
        ([b"A: b", b" c", b"\t d\t", b"E: f"], [(b"A", b"b c d"), (b"E", b"f")], 0),
        ([b"A: b", b" ", b"C: d"], [(b"A", b"b"), (b"C", b"d")], 0),
        ([b"A:", b" b"], [(b"A", b"b")], 0),
        ([b" folded: before", b"\tany", b"A: b"], [(b"A", b"b")], 2),
        (
            [b"A: b\rTransfer-Encoding: chunked", b"C: d\0e"],
            [(b"A", b"b Transfer-Encoding: chunked"), (b"C", b"d e")],
            0,
        ),
        ([b"A: b\r", b"C: \0"], [(b"A", b"b"), (b"C", b"")], 0),
        ([b"HTTP 1/1 302", b"A: b"], [(b"A", b"b")], 1),
        ([b"no colon", b" folded: on", b"A: b"], [(b"A", b"b")], 2),
        ([b": x", b"Secured by x : y", b"X-[odd]: 1", b"A\0: b", b"\x0bA: b", b"\xff: b"], [], 6),
        ([b"A: \xe9\xc3\xa9\x01"], [(b"A", b"\xe9\xc3\xa9\x01")], 0),
        ([], [], 0),
    ],
)
def test_fields(lines: list[bytes], fields: list[tuple[bytes, bytes]], skipped: int) -> None:
    assert mended(lines) == (fields, skipped)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length\0: 5",
        b"content-length 5",
        b" Content-Length: 5",
        b"\rTransfer-Encoding: chunked",
        b"x Transfer-Encoding: a",
    ],
)
def test_a_line_about_the_length_is_not_skipped(line: bytes) -> None:
    """Whoever is next may go by it, and see the end of the message elsewhere."""
    with pytest.raises(UnclearLength):
        mended([line])
    assert mended([b"X: y", b" Content-Length: 5"])[1] == 0, "a folded value is a value"
