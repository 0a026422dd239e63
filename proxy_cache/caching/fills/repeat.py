"""A body that has broken off at a peer, from the beginning again, from the origin.

Without a strong validator no part of it may be put to what has come (RFC 9111 §3.4). But if what has come is just how
the new response begins, byte for byte, then nothing is put together: all that clients get is the new response's body.
It has to be for the same clients as the first, and has the same coding: that has been said by the first one's head.
"""

from __future__ import annotations

from ...semantics.entity_tags import entity_tag
from ...semantics.stored import StoredResponse
from ...semantics.storing import judge
from ...store.body import Body
from ...upstream.response import OriginResponse
from .fill import Fill
from .head import FillHead


def is_for_the_same(fill: Fill, head: FillHead, response: OriginResponse) -> bool:
    """Whether a response may be stored as the first one may, for the same requests. If it is known to be another
    version, nothing is stored: what has been said of it is the first one's validator."""
    request, first, headers = fill.request, head.response.headers, response.headers
    verdict = judge(request.headers, 200, headers, request.policy, fill.context.guess_for(request, headers))
    new = StoredResponse.of(200, headers, request.headers, response.request_time, response.response_time, verdict)
    if verdict.why_not is not None or new.vary != head.response.vary:
        return False
    if any(first.get(name) != headers.get(name) for name in ("content-encoding", "content-type")):
        return False
    if entity_tag(first) != entity_tag(headers) or first.get("last-modified") != headers.get("last-modified"):
        fill.doomed = True
    return True


async def begins_alike(response: OriginResponse, body: Body) -> bool:
    """Read as much of the response as there is of the body, and compare. What follows goes into the body."""
    if response.status != 200 or response.content_length != body.total:
        return False
    position, since, expected = body.start, body.length, b""
    reader = body.reader(position, since)
    try:
        while position < since:
            chunk = response.read_now() or await response.read()
            if not chunk:
                return False
            while chunk and position < since:
                expected = expected or await reader.read()
                count = min(len(chunk), len(expected))
                if not count or chunk[:count] != expected[:count]:
                    return False
                chunk, expected, position = chunk[count:], expected[count:], position + count
            if chunk and not body.put(chunk):
                await body.drain()
    finally:
        reader.close()
    return True
