"""The way of a body from the origin's connection into the store: through memory, or through a pipe (``splice``)."""

from __future__ import annotations

from typing import Final

from ...store.body import Body
from ...store.pipes import SPLICE_MIN, Pipes
from ...upstream.response import OriginResponse
from ...wire.responses import OriginError

LITTLE: Final = 128 * 1024
"""Bytes that are copied rather than spliced: a change of threads costs as much."""
LITTLE_MAX: Final = 8
"""So many small pieces in a row, and the rest of a body is copied."""


async def copy(response: OriginResponse, body: Body, pipes: Pipes) -> OriginError | None:
    """Write the body as it arrives, never more than its announced length. Returns the error if it broke off."""
    try:
        if body.kept and not body.is_range and body.total is not None and response.spliceable >= SPLICE_MIN:
            await _splice(response, body, body.total, pipes)
        while chunk := response.read_now() or await response.read():
            _check(body, len(chunk))
            if not body.put(chunk):
                await body.drain()
    except OriginError as error:
        return error
    if body.total is not None and body.length != body.total:
        return OriginError("http_response_incomplete", f"{body.length - body.start} of {body.total - body.start} bytes")
    return None


async def _splice(response: OriginResponse, body: Body, total: int, pipes: Pipes) -> None:
    """Move a long body from the connection to its file without copying, while it is stored and arrives fast."""
    if held := response.read_held():
        _check(body, len(held))
        body.put(held)
    pipe = pipes.acquire()  # nothing may fail between this and its close
    if pipe is None:
        return
    little = 0
    # Bytes beyond the announced length are left to the usual way, which complains.
    while body.kept and pipes.usable and response.spliceable and body.length < total and little < LITTLE_MAX:
        try:
            count = await response.splice(pipe.writer, min(pipe.size, total - body.length))
            if not count:
                break
            if count < LITTLE and response.spliceable:
                little += 1
                if not body.put(pipe.read(count)):
                    await body.drain()
                continue
        except BaseException:
            pipe.close()
            raise
        little = 0
        await body.splice(pipe, count)
    pipes.release(pipe)


def _check(body: Body, count: int) -> None:
    """Raises :class:`OriginError` if that would be more than was announced."""
    if body.total is not None and body.length + count > body.total:
        raise OriginError("http_protocol_error", f"more than the {body.total - body.start} bytes announced")
