"""``POST /api/v1/warm``: fills for URLs, told as they end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any, Final

from aiohttp import web

from ..caching.warm import CONCURRENCY, CONCURRENCY_MAX, Running, Warmed, Warmer
from ..downstream.warm_requests import BadField, field_lines
from .endpoint import Endpoint, Schema, json_body
from .problems import Problem
from .proxy import Proxy

URLS_MAX: Final = 10_000
HEADERS_MAX: Final = 50
CONTENT_TYPE: Final = "application/x-ndjson"
_BODY: Final[Schema] = {
    "type": "object",
    "required": ["urls"],
    "additionalProperties": False,
    "properties": {
        "urls": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": URLS_MAX},
        "concurrency": {"type": "integer", "minimum": 1, "maximum": CONCURRENCY_MAX, "default": CONCURRENCY},
        "headers": {
            "type": "array", "items": {"type": "string"}, "maxItems": HEADERS_MAX,
            "description": "Fields of all requests, such as 'Accept-Encoding: gzip'.",
        },
    },
}  # fmt: skip
_LINE: Final[Schema] = {
    "type": "object",
    "properties": {
        "url": {"type": "string"},
        "outcome": {"enum": ["hit", "filled", "not_stored", "error"]},
        "status": {"type": ["integer", "null"]},
        "bytes": {"type": "integer"},
        "seconds": {"type": "number"},
        "detail": {"type": "string"},
        "running": {"type": "array", "items": {"type": "object"}},
    },
}


def endpoint(proxy: Proxy) -> Endpoint:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = await json_body(request, _BODY["properties"])
        urls, concurrency, lines = _asked(body)
        cache = proxy.cache
        if cache is None or not proxy.is_ready:
            raise Problem(503, "the proxy is starting or stopping")
        warmer = Warmer(cache, partial(proxy.warm_requests.exchange, lines=lines))
        return await _told(request, warmer.run(urls, concurrency))

    return Endpoint(
        "POST", "/warm", handle, "Fetch what is not stored yet of these URLs.",
        "As one client more, named warm: through the same queue, in its turn. A line a URL as it ends, and about once "
        "a second one with those that run. Bodies are not sent. It ends when the connection does.",
        body=_BODY, answer=_LINE, content_type=CONTENT_TYPE, changes=True,
    )  # fmt: skip


def _asked(body: Mapping[str, Any]) -> tuple[list[str], int, bytes]:
    """URLs, concurrency and field lines. Raises :class:`Problem`."""
    urls = _texts(body.get("urls"), "urls", URLS_MAX)
    if not urls:
        raise Problem(400, "urls: at least one is needed")
    concurrency = body.get("concurrency", CONCURRENCY)
    if type(concurrency) is not int or not 1 <= concurrency <= CONCURRENCY_MAX:
        raise Problem(400, f"concurrency: a whole number from 1 to {CONCURRENCY_MAX}")
    try:
        return urls, concurrency, field_lines(_texts(body.get("headers", []), "headers", HEADERS_MAX))
    except BadField as error:
        raise Problem(400, f"headers: {error}") from None


def _texts(value: Any, name: str, most: int) -> list[str]:
    if not isinstance(value, list) or len(value) > most or not all(isinstance(one, str) for one in value):
        raise Problem(400, f"{name}: a list of texts is needed, {most} at the most")
    return value


async def _told(request: web.Request, outcomes: AsyncGenerator[Warmed | Running, None]) -> web.StreamResponse:
    """Whether somebody still listens shows when the next line is written, a second later at the latest."""
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
    async with contextlib.aclosing(outcomes):
        try:
            await response.prepare(request)
            async for one in outcomes:
                await response.write(json.dumps(_line(one)).encode() + b"\n")
            await response.write_eof()
        except ConnectionError:
            pass  # nobody listens any more: what runs is ended
    return response


def _line(one: Warmed | Running) -> dict[str, Any]:
    if isinstance(one, Running):
        names = ("url", "state", "bytes", "total")
        return {"running": [dict(zip(names, values, strict=True)) for values in one.requests]}
    return {
        "url": one.url, "outcome": one.outcome, "status": one.status, "bytes": one.size, "seconds": one.seconds,
        "detail": one.detail,
    }  # fmt: skip
