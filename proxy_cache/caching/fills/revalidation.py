"""304 in answer to a conditional request of ours: a stored response is good, under updated fields (RFC 9111 §4.3.4)."""

from __future__ import annotations

from ...semantics.directives import request_cache_control
from ...semantics.stored import StoredResponse
from ...semantics.storing import why_not_shared
from ...semantics.validation import selected_by_304
from ...semantics.vary import matches
from ...store.index import Entry
from ...upstream.response import OriginResponse
from .fill import Fill
from .handing_out import deliver
from .head import FillHead, Recipients


async def take_not_modified(fill: Fill, candidates: tuple[Entry, ...], response: OriginResponse) -> bool:
    """Deliver the stored response that a 304 confirms. Whether there is one that could be used."""
    request, store = fill.request, fill.context.store
    times = response.request_time, response.response_time
    selected = selected_by_304([entry.response for entry in candidates], response.headers)
    if selected is None or not store.holds(candidates[selected]):
        return False
    entry = candidates[selected]
    stored = entry.response.updated_by(response.headers, *times, request.headers, request.policy)
    if stored.must_not_be_kept:
        store.remove(entry)
        return False
    insisted = request_cache_control(request.headers)
    if not await store.verifier.is_good(entry, insisted=insisted.no_cache or insisted.max_age == 0):
        return False
    fill.slot.end("not_modified")
    own = stored.for_the_asker(response.headers)
    why_not = why_not_shared(request.headers, stored.headers, request.policy)
    if why_not is not None or not request.keep:
        # What is stored is good, for whoever has asked. It says nothing to others, and nothing of it is kept.
        fill.registry.forget(fill)
        fill.head = FillHead(stored, "", None, entry, why_not or "bypass", own)
        deliver(fill, fill.head, Recipients(shared=False))
        return True
    if not fill.doomed:
        entry = await _update(fill, candidates, entry, stored, response)
    fill.head = FillHead(stored, "", None, entry, None, own)
    deliver(fill, fill.head, Recipients(shared=True))
    return True


async def _update(
    fill: Fill, candidates: tuple[Entry, ...], entry: Entry, stored: StoredResponse, response: OriginResponse
) -> Entry:
    """The entry to answer from: the confirmed one, or another variant with the same body."""
    request, store = fill.request, fill.context.store
    times = response.request_time, response.response_time
    # "For each stored response identified, the cache MUST update its header fields": a strong tag names all.
    for other in candidates:
        if other.response.etag == stored.etag and stored.etag and not stored.etag.startswith("W/"):
            store.update(other, other.response.updated_by(response.headers, *times, None, request.policy))
    if matches(entry.response.vary, request.headers):
        store.update(entry, stored)
        return entry
    variant = await store.add_variant(entry, stored)
    if variant is not None and fill.doomed:  # meanwhile
        store.remove(variant)
    return variant or entry
