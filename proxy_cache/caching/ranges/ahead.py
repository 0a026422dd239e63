"""Bytes far ahead of a running fill, fetched beside it.

One client downloads all of a big object slowly, another wants its last 10 kB: the directory of a wheel, the footer of a
Parquet file. At the pace of the fill these are a minute away, and pip gives up after 15 s without a byte. So a reader
watches the pace of its fill. If its next bytes are more than about a second away, they are fetched as a span of their
own, under the strong validator of the fill's response (``If-Range``, RFC 9110 §13.1.5).

These bytes are asked for twice, once here and once by the fill: at most ``cache_max_span`` of them for one fill, then
readers wait. Readers of the same span share it. While a whole is being fetched the spans are in a hidden entry, which
goes when the fill ends.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from ...semantics.ranges import strong_validator
from ...semantics.spans import Spans
from ...semantics.stored import StoredResponse
from ...store.index import Entry
from ..fills.fill import Fill
from ..fills.pace import SOON, Ahead, is_beyond
from ..fills.table import FillTable

SOON_IN_PIECE: Final = 4.0
"""The same if the fill is for a range. It is at most ``cache_max_span`` long, and slow in a burst of readers too, which
bytes that are asked for twice would make worse."""


def ahead_of(table: FillTable, fill: Fill, entry: Entry | None = None) -> Ahead | None:
    """The pace of a fill; ``None`` if nothing may be fetched beside it.

    ``entry``: the one whose gap it fills for a client that wants all of it; ``None`` if it fetches a whole that is not
    stored yet.
    """
    head, body = fill.head, fill.body
    if head is None or body is None or body.total is None or not fill.is_running:
        return None
    is_small = entry is not None and head.fills_gap_of is entry and fill.span.length <= table.context.spans.block
    if fill.request.private or (is_small and not fill.request.for_whole):
        return None  # in a single block no byte is far away
    if fill.ahead is None:
        response = head.response
        if response.status != 200 or (response.headers.get("accept-ranges") or "").strip().lower() == "none":
            return None
        hidden = entry is None
        if entry is None:
            if fill.request.range_fetch is not None:
                return None  # asked for a range, the origin has sent it all
            # No URL has a fragment in it (RFC 9110 §7.1), so nobody finds it.
            key = f"{fill.request.key}#"
            entry = Entry(table.store.index.new_id(), key, response, body.total, time.time(), Spans())
            table.covers_too(fill, entry)
        soon = SOON if hidden or fill.request.for_whole else SOON_IN_PIECE
        beside = partial(table.beside, entry, fill)
        fill.ahead = Ahead(table.context, body, entry, beside, is_hidden=hidden, soon=soon)
    return fill.ahead if not fill.ahead.refused else None


def is_ahead(fill: Fill, offset: int) -> bool:
    """Whether a reader at ``offset`` is ahead of the fill, and doesn't just read along."""
    return fill.body is not None and is_beyond(fill.body, offset)


def may_be_combined(fill: Fill) -> bool:
    """Whether a strong validator tells that spans are of the same version (RFC 9111 §3.4)."""
    head = fill.head
    return head is not None and strong_validator(head.response.headers) is not None


def sends_ranges(response: StoredResponse) -> bool:
    """Whether the origin says that it supports ranges (RFC 9110 §14.3)."""
    return (response.headers.get("accept-ranges") or "").strip().lower() == "bytes"
