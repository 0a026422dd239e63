"""Checksums of bodies that are written whole, in flushes, or in ranges of any order."""

from __future__ import annotations

import os
import random

import pytest

from proxy_cache.semantics.spans import Span, Spans
from proxy_cache.store import checksums
from proxy_cache.store.checksums import (
    BLOCK,
    CorruptBody,
    RunningSums,
    blocks,
    check,
    is_intact,
    of_body,
    packed,
    runs,
    sealed,
    with_runs,
)

BODY = random.Random(1).randbytes(3 * BLOCK + 12_345)


def reading(body: bytes) -> object:
    return lambda start, stop: memoryview(body)[start:stop]


def check_all(body: bytes, spans: Spans | None, sums: bytes) -> bytes:
    """The missing checksums. Raises :class:`CorruptBody`."""
    todo = blocks(len(body), spans, sums)
    return packed(run for block in todo for run in check(block, reading(body)))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 100, BLOCK - 1, BLOCK, BLOCK + 1, len(BODY)])
def test_a_body_has_a_checksum_for_each_block(size: int) -> None:
    body = BODY[:size]
    sums = of_body([body])
    assert [(run.start, run.stop) for run in runs(sums)] == [
        (start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)
    ]
    assert is_intact(sums, body)
    assert of_body([body[:1], body[1:]]) == sums
    assert check_all(body, None, sums) == b""


def test_an_empty_body_has_none() -> None:
    assert of_body([b""]) == of_body([]) == b""
    assert is_intact(b"", b"")
    assert blocks(0, None, b"") == []


@pytest.mark.parametrize("at", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 7, len(BODY) - 1])
@pytest.mark.parametrize("bit", [0, 7])
def test_any_bit_that_flips_is_found(at: int, bit: int) -> None:
    sums = of_body([BODY])
    bad = bytearray(BODY)
    bad[at] ^= 1 << bit
    assert not is_intact(sums, bytes(bad))
    with pytest.raises(CorruptBody):
        check_all(bytes(bad), None, sums)


def test_a_shorter_body_is_found() -> None:
    sums = of_body([BODY])
    for size in (0, 1, BLOCK, len(BODY) - 1):
        assert not is_intact(sums, BODY[:size])
        block = blocks(len(BODY), None, sums)[size // BLOCK]
        with pytest.raises(CorruptBody):
            check(block, reading(BODY[:size]))  # type: ignore[arg-type]


def test_what_is_written_in_flushes_has_the_same_checksums(tmp_path: object) -> None:
    running, at, chance = RunningSums(), 0, random.Random(2)
    fd = os.memfd_create("body")
    while at < len(BODY):
        chunks = [BODY[at : at + 5000], BODY[at + 5000 : at + chance.randint(5000, BLOCK)]]
        running.write(fd, chunks, at)
        at += sum(map(len, chunks))
    assert running.packed() == of_body([BODY])
    assert os.pread(fd, len(BODY) + 1, 0) == BODY
    os.close(fd)


def test_bytes_that_were_written_past_it_have_none() -> None:
    running = RunningSums()
    running.update([BODY[:1000]], 0)
    running.update([BODY[700_000:800_000]], 700_000)
    running.update([BODY[800_000:1_200_000]], 800_000)
    sums = running.packed()
    assert [run[:2] for run in runs(sums)] == [(0, 1000), (700_000, BLOCK), (BLOCK, 1_200_000)]
    spans = Spans([(0, 1_200_000)])
    new = check_all(BODY, spans, sums)
    assert [run[:2] for run in runs(new)] == [(0, BLOCK)]
    all_of_it = with_runs(sums, new)
    assert [run[:2] for run in runs(all_of_it)] == [(0, BLOCK), (BLOCK, 1_200_000)]
    assert check_all(BODY, spans, all_of_it) == b""


def test_pieces_come_in_any_order_and_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stored byte is checked, whatever the order; a complete block has one checksum."""
    monkeypatch.setattr(checksums, "BLOCK", 4096)
    body, chance = BODY[: 3 * 4096 + 123], random.Random(3)
    sums, spans = b"", Spans()
    while not spans.covers(0, len(body)):
        start = chance.randrange(len(body))
        stop = min(len(body), start + chance.choice((1, 20, 1000, 2 * 4096)))
        running = RunningSums()
        running.update([body[start:stop]], start)
        sums, spans = with_runs(sums, running.packed()), spans.with_span(start, stop)
        assert runs(sums) == sorted(runs(sums))
        if chance.random() < 0.2:
            sums = with_runs(sums, check_all(body, spans, sums))
            assert [run[:2] for run in runs(sums)] == [
                span for block in blocks(len(body), spans, sums) for span in block[0]
            ]
        at = chance.randrange(start, stop)
        bad = bytearray(body)
        bad[at] ^= 16
        with pytest.raises(CorruptBody):
            check_all(bytes(bad), spans, sums)
    assert with_runs(sums, check_all(body, None, sums)) == of_body([body])


def test_checksums_that_make_no_sense_are_told() -> None:
    sums = of_body([BODY])
    with pytest.raises(ValueError):
        runs(sums[:-1])
    with pytest.raises(ValueError):
        blocks(len(BODY), Spans([(0, BLOCK)]), sums)
    assert blocks(10, Spans([(0, 10)]), b"")[0].present == (Span(0, 10),)


def test_a_row_is_sealed_with_all_of_its_values() -> None:
    sums = of_body([b"body"])
    row = (1, "http://x/", 200, b"A:b", "[]", 1.5, 2.5, 0, None, None, 4, None)
    changed = (2, "http://y/", 203, b"A:c", "[1]", 1.25, 2.25, 1, 5, "cdn", 5, "[[0, 2]]")
    seals = [sealed(sums, *row), sealed(of_body([b"bodz"]), *row), sealed(b"", *row)]
    for number, other in enumerate(changed):
        seals.append(sealed(sums, *row[:number], other, *row[number + 1 :]))
    assert seals[0][8:] == sums
    assert len(set(seals)) == len(seals)
    assert sealed(sums, 1, "\udc80", *row[2:]) != sealed(sums, 1, "\udc81", *row[2:])
