"""``POST /api/v1/verify``: all that is stored, compared with its checksums, and what is corrupt removed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncGenerator
from typing import Any, Final

from aiohttp import web

from ..store.full_check import Report
from .endpoint import Endpoint, Schema, json_body
from .problems import Problem
from .proxy import Proxy

CONTENT_TYPE: Final = "application/x-ndjson"
_NUMBER: Final[Schema] = {"type": "integer"}
_LINE: Final[Schema] = {
    "type": "object",
    "properties": {
        "checked": _NUMBER,
        "total": _NUMBER,
        "bytes": _NUMBER,
        "corrupt": {"type": ["string", "integer"], "description": "A URL; in the last line, how many there were."},
        "unsummed": {"type": "integer", "description": "Bodies that had no checksum for some of their bytes."},
        "done": {"const": True},
        "error": {"type": "string", "description": "Why it could not go on. Nothing follows."},
    },
}


def endpoint(proxy: Proxy) -> Endpoint:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.can_read_body:
            await json_body(request, ())
        store = proxy.store
        if store is None or not proxy.is_ready:
            raise Problem(503, "the proxy is starting or stopping")
        if store.full_check.is_running:
            raise Problem(409, "such a check is running")
        return await _told(request, store.full_check.run())

    return Endpoint(
        "POST", "/verify", handle, "Compare all that is stored with its checksums.",
        "What is corrupt is removed, and named in a line of its own; a line with how far it has come about once a "
        "second, and one at the end. While there are requests it takes half of a disk's time at the most. It ends when "
        "the connection does. One at a time.",
        body={"type": "object", "additionalProperties": False}, answer=_LINE, content_type=CONTENT_TYPE, changes=True,
    )  # fmt: skip


async def _told(request: web.Request, reports: AsyncGenerator[Report, None]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
    async with contextlib.aclosing(reports):
        try:
            first = await anext(reports)  # from here on, it is running
            await response.prepare(request)
            await response.write(_line(first))
            async for report in reports:
                await response.write(_line(report))
        except sqlite3.Error as error:
            await response.write(json.dumps({"error": f"the index can't be read: {error}"}).encode() + b"\n")
        except ConnectionError:
            return response  # nobody listens any more
        await response.write_eof()
    return response


def _line(report: Report) -> bytes:
    value: dict[str, Any] = {"checked": report.checked, "total": report.total, "bytes": report.size}
    if report.found:
        value = {"corrupt": report.found}
    elif report.is_last:
        value = {"done": True, **value, "corrupt": report.corrupt, "unsummed": report.unsummed}
    return json.dumps(value).encode() + b"\n"
