"""One stored response, as it is in memory while it is in use."""

from __future__ import annotations

from typing import Any

from ..semantics.redaction import redacted
from ..semantics.spans import Spans
from ..semantics.stored import StoredResponse
from .checksums import count_runs

BLOCK = 4096
SPANS_MAX = 1024
"""Spans of a body that is stored in part, and one more for each megabyte that is there, up to"""
SPANS_LIMIT = 8192
"""so many. A piece that would make another one is not kept: whoever sends or asks for single bytes must not make
others wait while thousands of spans are gone through."""
RUNS_MAX = 1024
"""Checksums of a body, and one more for each quarter of a megabyte that is there."""
SPAN_ROW = 30
"""Bytes that a span takes of the index, and"""
SPAN_MEMORY = 128
"""of memory."""
KEY_MAX = 8192
"""Characters of the longest key that anything is stored under."""
HEAD_MAX = 64 * 1024
"""Bytes of the longest head that is stored: its fields, and what they were selected by."""
ROW = 256
"""Bytes that an entry takes of the index besides its key and its head."""


class Entry:
    """One stored response: its key, its head, and how long its body is (in a segment, or in file ``id``).

    There is at most one object for one id at a time, whoever holds it: identity is equality.
    """

    __slots__ = (
        "__weakref__",
        "head",
        "id",
        "key",
        "length",
        "location",
        "memory",
        "prepared",
        "prepared_range",
        "response",
        "row",
        "size",
        "spans",
        "sums",
        "unwritten",
        "used",
        "weight",
        "written",
    )  # fmt: skip

    def __init__(
        self,
        entry_id: int,
        key: str,
        response: StoredResponse,
        length: int,
        used: float,
        spans: Spans | None = None,
        written: float | None = None,
    ) -> None:
        self.id = entry_id
        self.key = key
        self.response = response
        self.length = length
        self.used = used
        self.spans = spans
        """The parts of the body that are in the file; ``None`` if it is all there."""
        self.head = len(key) + head_size(response)
        """Bytes of its key and its head."""
        self.size = footprint(length if spans is None else spans.length, self.head)
        """Bytes it is counted with: whole blocks for the body, and for its head."""
        self.sums = b""
        """The checksums of what is in the file, as far as they are known (see :mod:`.checksums`)."""
        self.written = used if written is None else written
        """When the last byte of it was brought to the file."""
        self.row = 0
        """Its place in the index's columns; 0 if it is not in the index (not yet, or not any more)."""
        self.location = 0
        """Where its body is in the segments; 0 if it has a file of its own."""
        self.memory: bytes | None = None
        """All of its body, if it is in the memory tier."""
        self.unwritten: bytes | None = None
        """All of its body, while it waits to be written."""
        self.weight = 0
        """Bytes that it is counted with in the index's working set."""
        self.prepared: Any = None
        """What somebody has worked out from ``response`` and wants to find again; dropped when that changes. And the
        same for"""
        self.prepared_range: Any = None
        """parts of it."""

    def measure(self) -> None:
        """Work out its size anew: there is more of its body, or another head."""
        self.head = len(self.key) + head_size(self.response)
        rows = len(self.sums) if self.spans is None else len(self.sums) + len(self.spans) * SPAN_ROW
        self.size = footprint(self.present, self.head + rows)

    @property
    def present(self) -> int:
        """Bytes of its body that are in the file."""
        return self.length if self.spans is None else self.spans.length

    @property
    def spans_max(self) -> int:
        """How many spans it may have now."""
        return min(SPANS_MAX + (self.present >> 20), SPANS_LIMIT)

    @property
    def runs_max(self) -> int:
        """How many checksums it may have now."""
        return RUNS_MAX + (self.present >> 18)

    def accepts_span(self, start: int, stop: int) -> bool:
        """Whether one more piece of its body may be kept: not if there are too many pieces for that. One that closes
        a gap always may, as long as there aren't too many checksums."""
        spans = self.spans
        if spans is None:
            return True
        if len(spans) >= SPANS_MAX and len(spans.with_span(start, stop)) > max(len(spans), self.spans_max):
            return False
        return count_runs(self.sums) < RUNS_MAX or count_runs(self.sums) < self.runs_max

    def has(self, start: int, stop: int) -> bool:
        """Whether these bytes of its body are in the file."""
        return self.spans is None or self.spans.covers(start, stop)

    def __repr__(self) -> str:
        return f"<Entry {self.id:x} {redacted(self.key)} {self.response.status}, {self.length} bytes>"


def head_size(response: StoredResponse) -> int:
    """Bytes that a head takes in the index."""
    size = len(response.headers.packed())
    if response.vary:
        size += sum(len(name) + len(value or "") + 8 for name, value in response.vary)
    return size


def footprint(length: int, head: int = 0) -> int:
    """Bytes on disk of a body of ``length`` bytes, with its share of the index: a row with ``head`` bytes of key and
    head."""
    return (-(-length // BLOCK) - (-(head + ROW) // BLOCK)) * BLOCK
