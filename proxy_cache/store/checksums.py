"""Checksums of stored bodies.

A body has a checksum for each *run* of bytes that was written to it. No run crosses the end of a block (``BLOCK``
bytes), so checking one is cheap, and a body that arrives in ranges, in any order, can be checked as far as it is
stored. Runs may overlap: bytes that were fetched twice are either the same, or one of the two checks fails.

XXH3 (64 bits, xxhash.com) detects accidents: flipped bits, blocks that were never written, files that were mixed up.
It does not protect from an attacker who can write to the cache folder.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from xxhash import xxh3_64, xxh3_64_digest, xxh3_64_intdigest

from ..semantics.spans import Span, Spans
from .files import TornFile, write_at

BLOCK: Final = 1 << 20
"""Bytes of a block, and of the longest run."""
_RUN: Final = struct.Struct("<QIQ")
_NUMBERS: Final = struct.Struct("<qqddqqq")
SEAL: Final = 8
"""Bytes of a row's own checksum."""


class CorruptBody(TornFile):
    """Stored bytes differ from those that were written."""


class Run(NamedTuple):
    """The checksum of the bytes from ``start`` up to ``stop`` (exclusive)."""

    start: int
    stop: int
    digest: int


def runs(sums: bytes) -> list[Run]:
    """The inverse of :func:`packed`. Raises ``ValueError``."""
    if len(sums) % _RUN.size:
        raise ValueError("not a list of checksums")
    return [Run(start, start + length, digest) for start, length, digest in _RUN.iter_unpack(sums)]


def packed(these: Iterable[Run]) -> bytes:
    """Runs as bytes, twenty for each."""
    return b"".join([_RUN.pack(start, stop - start, digest) for start, stop, digest in these])


def of_body(chunks: Sequence[bytes]) -> bytes:
    """The checksums of a whole body."""
    if len(chunks) == 1 and 0 < len(chunks[0]) <= BLOCK:
        return _RUN.pack(0, len(chunks[0]), xxh3_64_intdigest(chunks[0]))
    running = RunningSums()
    running.update(chunks, 0)
    return running.packed()


def is_intact(sums: bytes, data: bytes) -> bool:
    """Whether a whole body matches its checksums, as far as they are known."""
    if len(sums) == _RUN.size:  # every body up to the size of a block
        start, length, digest = _RUN.unpack(sums)
        if not start and length == len(data):
            return bool(xxh3_64_intdigest(data) == digest)
    view = memoryview(data)
    return all(
        run.stop <= len(data) and xxh3_64_intdigest(view[run.start : run.stop]) == run.digest for run in runs(sums)
    )


def with_runs(sums: bytes, new: bytes) -> bytes:
    """``sums`` and ``new`` merged, in order, without runs that lie within another one."""
    if not sums or not new:
        return sums or new
    more = runs(new)
    # Only runs that the new ones may overlap are unpacked. No run lies within another, so ends ascend like starts.
    indices = range(len(sums) // _RUN.size)
    first = bisect_right(indices, more[0].start, key=lambda index: _run_at(sums, index).stop) * _RUN.size
    after = bisect_left(indices, more[-1].stop, key=lambda index: _run_at(sums, index).start) * _RUN.size
    if first >= after:
        return sums[:first] + new + sums[first:]
    left: list[Run] = []
    for run in sorted([*more, *runs(sums[first:after])], key=lambda run: (run.start, -run.stop)):
        if not left or run.stop > left[-1].stop:
            left.append(run)
    return sums[:first] + packed(left) + sums[after:]


def count_runs(sums: bytes) -> int:
    return len(sums) // _RUN.size


def _run_at(sums: bytes, index: int) -> Run:
    start, length, digest = _RUN.unpack_from(sums, index * _RUN.size)
    return Run(start, start + length, digest)


class RunningSums:
    """Computes checksums while a body is written. For one thread at a time."""

    def __init__(self) -> None:
        self._packed = bytearray()
        self._start = self._end = 0
        self._hash = xxh3_64()

    def update(self, chunks: Iterable[bytes], offset: int) -> None:
        """``chunks`` were written at ``offset``."""
        if offset != self._end:
            self._close()
            self._start = self._end = offset
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                part = view[: BLOCK - self._end % BLOCK]
                self._hash.update(part)
                self._end += len(part)
                if not self._end % BLOCK:
                    self._close()
                view = view[len(part) :]

    def write(self, fd: int, chunks: list[bytes], offset: int) -> None:
        """Write ``chunks`` at ``offset``, and update the checksums. Blocks. Raises ``OSError``."""
        write_at(fd, chunks, offset)
        self.update(chunks, offset)

    def packed(self) -> bytes:
        """The checksums of all bytes written."""
        self._close()
        return bytes(self._packed)

    def _close(self) -> None:
        if self._end > self._start:
            self._packed += _RUN.pack(self._start, self._end - self._start, self._hash.intdigest())
            self._hash.reset()
        self._start = self._end


# -- checking ---------------------------------------------------------------------------------------------------------


class BlockToCheck(NamedTuple):
    """The stored spans and known checksums of one block."""

    present: tuple[Span, ...]
    known: tuple[Run, ...]
    """In order, each within one of the spans."""

    @property
    def is_covered(self) -> bool:
        """Whether there is exactly one checksum for each span."""
        return len(self.known) == len(self.present) and all(
            run[:2] == span for run, span in zip(self.known, self.present, strict=True)
        )


def blocks(length: int, spans: Spans | None, sums: bytes) -> list[BlockToCheck]:
    """The blocks of a body with ``spans`` of its ``length`` bytes (``None``: all of them). Raises ``ValueError``.

    Not for the event loop: it takes time in proportion to blocks, spans and checksums.
    """
    present: list[Span] = []
    for start, stop in [Span(0, length)] if spans is None else spans:
        offset = start
        while offset < stop:
            end = min(stop, offset - offset % BLOCK + BLOCK)
            present.append(Span(offset, end))
            offset = end
    known: dict[int, list[Run]] = {}
    index = 0
    for run in sorted(runs(sums)):  # (they should be in order already)
        while index < len(present) and present[index].stop <= run.start:
            index += 1
        if index == len(present) or run.start < present[index].start or run.stop > present[index].stop:
            raise ValueError("a checksum of what isn't there")
        known.setdefault(run.start // BLOCK, []).append(run)
    grouped = groupby(present, lambda span: span.start // BLOCK)
    return [BlockToCheck(tuple(some), tuple(known.get(number, ()))) for number, some in grouped]


def check(block: BlockToCheck, read: Callable[[int, int], memoryview]) -> list[Run]:
    """Check a block. Returns new checksums for spans without one, computed from the stored bytes.

    ``read(start, stop)`` returns these bytes, or fewer at the end of the file. Raises :class:`CorruptBody`,
    ``OSError``.
    """
    new = []
    index = 0
    for start, stop in block.present:
        data = read(start, stop)
        if len(data) != stop - start:
            raise CorruptBody(5, f"the body file ends at byte {start + len(data)}")
        is_known = False
        while index < len(block.known) and block.known[index].start < stop:
            run = block.known[index]
            if xxh3_64_intdigest(data[run.start - start : run.stop - start]) != run.digest:
                raise CorruptBody(5, f"bytes {run.start}-{run.stop - 1} are not what was stored")
            is_known = is_known or run[:2] == (start, stop)
            index += 1
        if not is_known:
            new.append(Run(start, stop, xxh3_64_intdigest(data)))
    return new


# -- rows -------------------------------------------------------------------------------------------------------------


def sealed(
    sums: bytes,
    entry_id: int,
    key: str,
    status: int,
    headers: bytes,
    vary: str,
    request_time: float,
    response_time: float,
    age: int,
    assigned: int | None,
    targeted: str | None,
    length: int,
    spans: str | None,
) -> bytes:
    """The checksums of a body, preceded by that of their row. The other parameters are the row's values."""
    numbers = _NUMBERS.pack(
        entry_id, status, request_time, response_time, age, -1 if assigned is None else assigned, length
    )
    texts = f"{key}\0{vary}\0{targeted}\0{spans}".encode("utf-8", "surrogatepass")
    return xxh3_64_digest(b"%b%b\0%b\0%b" % (numbers, texts, headers, sums)) + sums
