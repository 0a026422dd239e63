"""A body that has broken off at a peer, from the beginning again, from the origin.

Without a strong validator no part of it may be put to what has come (RFC 9111 §3.4). But if what has come is just how
the new response begins, byte for byte, then nothing is put together: all that clients get is the new response's body.
"""

from __future__ import annotations

from ...store.body import Body
from ...upstream.response import OriginResponse


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
