"""Objects in the shared store as they are read: the head, and the way to the body."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from ...semantics.spans import Span
from .body import Blocks
from .bucket import Bucket, Changed, Opened
from .layout import LINE_MAX, Damaged, StoredHead, decode

HEAD_READ: Final = 128 * 1024
"""Bytes of an object that are asked for when a head is wanted, or a range: of most objects that is all of the head, and
of small ones everything."""
HEADS_MAX: Final = 1024
"""Heads that are remembered: further ranges of an object then take one request each."""
HEAD_AGE: Final = 60.0
"""Seconds for which one is."""


@dataclass(slots=True)
class StoredObject:
    """One object that was found, and the bytes of its body that came with the head."""

    name: str
    head: StoredHead
    body_at: int
    """Where the body begins."""
    tag: str | None
    held: bytes = b""
    rest: AsyncIterator[bytes] | None = None
    """What comes behind them, to the end of the body; ``None``: it has to be asked for."""


class Objects:
    """Finds objects by key and request, and opens their bodies. The methods raise :class:`~.bucket.StoreFails`,
    :class:`Damaged` and :class:`~.bucket.Changed`; who calls sets the limit of time."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._heads: OrderedDict[str, tuple[float, StoredObject]] = OrderedDict()

    async def find(self, name: str, *, whole: bool) -> StoredObject | None:
        """``whole``: all of the body is wanted, and begins to arrive with the head."""
        if not whole and (known := self._remembered(name)) is not None:
            return known
        opened = await self._bucket.open(name, 0, None if whole else HEAD_READ)
        if opened is None:
            self.forget(name)
            return None
        found = await self._read_head(name, opened)
        if found.head.key != name.partition(".")[0].rpartition("/")[2]:
            raise Damaged("it is the object of another key")
        if not whole:
            found.held += await _all_of(opened.chunks)
            found.rest = None
            self._remember(found)
        return found

    async def _read_head(self, name: str, opened: Opened) -> StoredObject:
        data = bytearray()
        needed = LINE_MAX
        while True:
            parsed = decode(bytes(data)) if data else LINE_MAX
            if not isinstance(parsed, int):
                head, body_at = parsed
                return StoredObject(name, head, body_at, opened.tag, bytes(data[body_at:]), opened.chunks)
            needed = parsed
            while len(data) < needed:
                chunk = await anext(opened.chunks, b"")
                if not chunk:
                    break
                data += chunk
            if len(data) < needed:
                if opened.stop - opened.start == HEAD_READ and needed > HEAD_READ:  # an unusually long head
                    more = await self._bucket.open(name, HEAD_READ, needed, opened.tag)
                    if more is not None:
                        data += await _all_of(more.chunks)
                        continue
                if len(data) < LINE_MAX and needed == LINE_MAX:
                    parsed = decode(bytes(data) + b"\n")
                raise Damaged("it ends within its head")

    def _remembered(self, name: str) -> StoredObject | None:
        since, found = self._heads.get(name, (0.0, None))
        if found is None or time.monotonic() - since > HEAD_AGE:
            return None
        self._heads.move_to_end(name)
        return found

    def _remember(self, found: StoredObject) -> None:
        self._heads[found.name] = (
            time.monotonic(), StoredObject(found.name, found.head, found.body_at, found.tag)
        )  # fmt: skip
        if len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)

    def forget(self, name: str) -> None:
        self._heads.pop(name, None)

    async def blocks(self, found: StoredObject, span: Span) -> Blocks | None:
        """The bytes of ``span``; ``None`` if the object has gone."""
        head = found.head
        first = span.start // head.block * head.block
        stop = min(head.length, -(-span.stop // head.block) * head.block)
        if len(found.held) >= stop or span.start >= span.stop:
            return Blocks(head, span, found.held[first:stop], None)
        if found.rest is not None and not first:
            return Blocks(head, span, found.held, found.rest)
        opened = await self._bucket.open(found.name, found.body_at + first, found.body_at + stop, found.tag)
        if opened is None:
            return None
        if opened.start != found.body_at + first:
            raise Changed("not the span that was asked for")
        return Blocks(head, span, b"", opened.chunks)


async def _all_of(chunks: AsyncIterator[bytes]) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
    return bytes(data)
