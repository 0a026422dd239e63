"""One stored response, in memory while it is in use."""

from __future__ import annotations

from typing import Any

from ..semantics.redaction import redacted
from ..semantics.spans import Spans
from ..semantics.stored import StoredResponse
from .checksums import count_runs

BLOCK = 4096
SPANS_MAX = 1024
"""Spans of a partially stored body, plus one for each stored megabyte. A range that would exceed this is not kept:
clients or origins that deal in single bytes must not make others wait for work on thousands of spans."""
SPANS_LIMIT = 8192
"""Spans of a body, however long it is."""
RUNS_MAX = 1024
"""Checksums of a body, plus one for each stored quarter of a megabyte."""
SPAN_ROW = 30
"""Bytes of a span in the index."""
SPAN_MEMORY = 128
"""Bytes of a span in memory."""
KEY_MAX = 8192
"""Characters of a key."""
HEAD_MAX = 64 * 1024
"""Bytes of a head: its fields, and the selecting fields of its request."""
ROW = 256
"""Bytes of an entry in the index besides its key and its head."""


class Entry:
    """Key, head and length of a stored response; its body is in a segment, or in file ``id``.

    There is at most one object for an id at a time, so entries are compared by identity.
    """

    __slots__ = (
        "__weakref__", "head", "id", "key", "length", "location", "memory", "prepared", "prepared_range", "purged",
        "response", "row", "size", "spans", "sums", "unwritten", "used", "weight", "written",
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
        """The stored parts of the body; ``None`` if all of it is stored."""
        self.head = len(key) + head_size(response)
        """Bytes of key and head."""
        self.size = footprint(length if spans is None else spans.length, self.head)
        """Bytes it counts for: whole blocks for the body, and for the head."""
        self.sums = b""
        """Checksums of the stored bytes, as far as they are known (see :mod:`.checksums`)."""
        self.written = used if written is None else written
        """When the last byte of the body was written (unix time)."""
        self.row = 0
        """Its row in the index's columns; 0 if it is not in the index (not yet, or not any more)."""
        self.location = 0
        """The body's location in the segments; 0 if it has a file of its own."""
        self.memory: bytes | None = None
        """The whole body, if it is in the memory tier."""
        self.unwritten: bytes | None = None
        """The whole body, while it waits to be written."""
        self.weight = 0
        """Bytes it counts for in the index's working set."""
        self.purged = 0.0
        """When it was purged (unix time): what was asked before then does not make it fresh again."""
        self.prepared: Any = None
        """Answers computed from ``response`` by others; dropped when it changes."""
        self.prepared_range: Any = None
        """The same for answers with a range."""

    def measure(self) -> None:
        """Compute the size again, after a change of body or head."""
        self.head = len(self.key) + head_size(self.response)
        rows = len(self.sums) if self.spans is None else len(self.sums) + len(self.spans) * SPAN_ROW
        self.size = footprint(self.present, self.head + rows)

    @property
    def present(self) -> int:
        """Stored bytes of the body."""
        return self.length if self.spans is None else self.spans.length

    @property
    def spans_max(self) -> int:
        """Spans it may have now."""
        return min(SPANS_MAX + (self.present >> 20), SPANS_LIMIT)

    @property
    def runs_max(self) -> int:
        """Checksums it may have now."""
        return RUNS_MAX + (self.present >> 18)

    def accepts_span(self, start: int, stop: int) -> bool:
        """Whether another range of the body may be kept. It may not if that makes too many spans (a range that closes a
        gap makes none), or if there are too many checksums."""
        spans = self.spans
        if spans is None:
            return True
        if len(spans) >= SPANS_MAX and len(spans.with_span(start, stop)) > max(len(spans), self.spans_max):
            return False
        return count_runs(self.sums) < RUNS_MAX or count_runs(self.sums) < self.runs_max

    def has(self, start: int, stop: int) -> bool:
        """Whether these bytes of the body are stored."""
        return self.spans is None or self.spans.covers(start, stop)

    def __repr__(self) -> str:
        return f"<Entry {self.id:x} {redacted(self.key)} {self.response.status}, {self.length} bytes>"


def head_size(response: StoredResponse) -> int:
    """Bytes of a head in the index."""
    size = len(response.headers.packed())
    if response.vary:
        size += sum(len(name) + len(value or "") + 8 for name, value in response.vary)
    return size


def footprint(length: int, head: int = 0) -> int:
    """Bytes on disk of a body of ``length`` bytes, and of its row with ``head`` bytes of key and head."""
    return (-(-length // BLOCK) - (-(head + ROW) // BLOCK)) * BLOCK
