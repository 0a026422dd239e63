"""The rest of a response that has started, from the origin: its stored body can't be read any more."""

from __future__ import annotations

import time

from ...semantics.ranges import strong_validator
from ...semantics.spans import Span, Spans
from ...semantics.stored import StoredResponse
from ...store.index import Entry
from ..answers import Exchange
from ..fills.table import FillTable
from .gap_reader import GapReader


def from_origin(
    table: FillTable,
    exchange: Exchange,
    entry: Entry | None,
    response: StoredResponse,
    start: int,
    stop: int,
    length: int,
) -> GapReader | None:
    """The bytes from ``start`` up to ``stop`` of a response that has started, whose body of ``length`` bytes can't be
    read any more. ``None`` if the origin can't be asked for just these (RFC 9110 §13.1.5, RFC 9111 §3.4).

    ``entry``: the one that was read, if it was stored. Readers that lose the same entry share the fetch.
    """
    if response.status != 200 or strong_validator(response.headers) is None or exchange.requirements.is_bound:
        return None
    if entry is None:
        entry = Entry(table.store.index.new_id(), exchange.key, response, length, time.time(), Spans())
    return GapReader(table, exchange, entry, Span(start, stop), whole=True, is_lost=True)
