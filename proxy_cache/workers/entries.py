"""``/api/v1/entries`` of all workers: their lists one after the other or, sorted, merged."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from ..admin.endpoint import json_response
from ..admin.problems import Problem
from .asking import Workers

PATH: Final = "/api/v1/entries"
_KEYS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "url": lambda entry: entry["url"],
    "size": lambda entry: -entry["size_bytes"],
    "age": lambda entry: -entry["age_seconds"],
    "hits": lambda entry: -entry["hits"],
}
_DEFAULT_LIMIT: Final = 100


async def listed(workers: Workers, query: Mapping[str, str], headers: dict[str, str]) -> web.Response:
    """One page. A cursor says which worker is next, and where in its list; of a sorted list, how many were told."""
    plain = {name: value for name, value in query.items() if name != "cursor"}
    place, _, cursor = query.get("cursor", "0:").partition(":")
    if not (place.isascii() and place.isdigit() and len(place) < 10):
        raise Problem(400, "cursor is none of this list's")
    if query.get("sort") in _KEYS:
        return await _sorted(workers, plain, headers, int(place))
    index = int(place)
    if index >= len(workers.children):
        raise Problem(400, "cursor is none of this list's")
    page = await _page(workers, index, plain | ({"cursor": cursor} if cursor else {}), headers)
    if page["next"] is not None:
        page["next"] = f"{index}:{page['next']}"
    elif index + 1 < len(workers.children):
        page["next"] = f"{index + 1}:"
    return json_response(page)


async def _sorted(workers: Workers, query: dict[str, str], headers: dict[str, str], told: int) -> web.Response:
    lists = [_Sorted(workers, index, query, headers) for index in range(len(workers.children))]
    await asyncio.gather(*(one.begin() for one in lists))
    total = sum(one.total for one in lists)
    text = query.get("limit", "")
    limit = int(text) if text.isascii() and text.isdigit() else _DEFAULT_LIMIT
    key, heads = _KEYS[query["sort"]], []
    for number, one in enumerate(lists):
        if (entry := await anext(one.entries, None)) is not None:
            heads.append((key(entry), number, entry))
    heapq.heapify(heads)
    page: list[dict[str, Any]] = []
    for place in range(min(told + limit, total)):
        if not heads:
            break
        _, number, entry = heads[0]
        if place >= told:
            page.append(entry)
        if (after := await anext(lists[number].entries, None)) is not None:
            heapq.heapreplace(heads, (key(after), number, after))
        else:
            heapq.heappop(heads)
    ends = told + len(page)
    return json_response({"entries": page, "next": f"{ends}:" if heads and page else None, "total": total})


class _Sorted:
    """One worker's list, page by page."""

    def __init__(self, workers: Workers, index: int, query: dict[str, str], headers: dict[str, str]) -> None:
        self._workers, self._index, self._query, self._headers = workers, index, query, headers
        self._first: dict[str, Any] = {}
        self.entries = self._walk()

    async def begin(self) -> None:
        self._first = await _page(self._workers, self._index, self._query, self._headers)

    @property
    def total(self) -> int:
        return int(self._first.get("total", 0))

    async def _walk(self) -> AsyncIterator[dict[str, Any]]:
        page = self._first
        while True:
            for entry in page["entries"]:
                yield entry
            if page["next"] is None:
                return
            page = await _page(self._workers, self._index, self._query | {"cursor": page["next"]}, self._headers)


async def _page(workers: Workers, index: int, query: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
    """Raises :class:`Problem`: also if the worker doesn't answer, since a list without its entries would be wrong."""
    reply = await workers.ask(index, f"{PATH}?{urlencode(query)}", headers)
    if reply is None:
        raise Problem(503, f"worker {index} does not answer", {"Retry-After": "2"})
    status, text = reply
    value = json.loads(text)
    if status != 200:
        raise Problem(status, value.get("detail") or value.get("title") or "refused")
    assert isinstance(value, dict)
    return value
