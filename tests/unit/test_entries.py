"""Lists of what is stored, as they are written down."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from proxy_cache.admin import entries
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store.entry import Entry
from proxy_cache.store.listing import Listed, Page


def listed(number: int) -> Listed:
    headers = Headers().add("Surrogate-Key", " ".join(map(str, range(1500))))
    entry = Entry(number, f"http://a.example/{number}", StoredResponse(200, headers, 0.0, 0.0, (), 0), 5, 0.0)
    return Listed(number, entry.key, 5, 0.0, 0, 0.0, entry)


def test_a_long_list_leaves_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries may have very many tags: a thousand take seconds."""
    monkeypatch.setattr(entries, "TURN", 0.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def write() -> str:
        other = asyncio.create_task(count())
        page = Page([listed(number) for number in range(20)], (None, 19), 40)
        text = await entries._shown_page(page, time.time(), whole=True)
        other.cancel()
        return text

    page = json.loads(asyncio.run(write()))
    assert [entry["url"][-2:].strip("/") for entry in page["entries"]] == [str(number) for number in range(20)]
    assert (page["total"], isinstance(page["next"], str)) == (40, True)
    assert turns >= 20
